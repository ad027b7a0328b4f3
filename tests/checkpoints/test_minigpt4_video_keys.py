"""Official checkpoints of MiniGPT4-video: names, and a miniature of the downloaded folder."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

from vlmcourse.backbones.eva_clip import EvaClipConfig, EvaClipEncoder
from vlmcourse.backbones.language_model import LlamaSizes, build_llama, build_mistral
from vlmcourse.checkpoints import eva_clip, load_released
from vlmcourse.checkpoints import minigpt4_video as keys
from vlmcourse.checkpoints.files import CheckpointError
from vlmcourse.errors import UserError
from vlmcourse.systems.minigpt4_video import MiniGPT4Video
from vlmcourse.systems.minigpt4_video_config import MiniGPT4VideoConfig
from vlmcourse.systems.processor import Clip

REFERENCE = Path(__file__).parents[1] / "reference" / "minigpt4_video"
SETTINGS = {"num_frames": 4, "image_size": 16, "lora_rank": 2, "lora_alpha": 3}
ROWS = 150


def tiny(device="cpu", layout="llama2"):
    sizes = LlamaSizes(ROWS, 32, 48, 2, 4, num_key_value_heads=2 if layout == "mistral" else 4)
    with torch.device(device):
        build = build_mistral if layout == "mistral" else build_llama
        encoder = EvaClipEncoder(EvaClipConfig(16, 4, 12, 1, 2))
        config = MiniGPT4VideoConfig(layout=layout, **SETTINGS)
        return MiniGPT4Video(config, build(sizes), encoder, None).eval()


def save(path, tensors, **more):
    torch.save({"model": dict(tensors), **more}, path)


def plain_language_model(model):
    """The language model as transformers saves it, without LoRA."""
    weights = model.language_model.state_dict()
    return {n.replace("base_layer.", ""): t for n, t in weights.items() if ".lora_" not in n}


@pytest.fixture(params=["llama2", "mistral"])
def folder(tmp_path, request):
    """The downloads in miniature, as the official code wrote them."""
    torch.manual_seed(1)
    layout, kind = request.param, {"llama2": "llama", "mistral": "mistral"}[request.param]
    model = tiny(layout=layout)
    with torch.no_grad():
        for name in keys.trained_names(model):
            model.get_parameter(name).normal_()
    base = tmp_path / "language"
    base.mkdir()
    inverse = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(4) for n in (0, 1)}
    torch.save(plain_language_model(model) | inverse, base / "pytorch_model.bin")
    told = {"model_type": kind, "sliding_window": None, "vocab_size": ROWS}
    (base / "config.json").write_text(json.dumps(told))
    shutil.copy(REFERENCE / "tiny_tokenizer.model", base / "tokenizer.model")
    vit = eva_clip.to_official(model.vision_encoder.state_dict())
    vit = {k.removeprefix("visual_encoder."): t for k, t in vit.items() if "ln_vision" not in k}
    torch.save(vit | {"norm.weight": torch.ones(12)}, tmp_path / "eva_vit_g.pth")
    more = {"optimizer": {"state": {}}, "config": {"lr": 1e-4}, "scaler": {}, "epoch": 3}
    file = tmp_path / f"video_{kind}_checkpoint_last.pth"
    save(file, keys.released_part(model)["model"], **more)
    return tmp_path, model, file, layout


def load(folder, **options):
    path, _, _, layout = folder
    return keys.load_released(path, dtype=torch.float32, model=tiny("meta", layout), **options)


def test_a_downloaded_folder_becomes_a_model_that_answers(folder):
    _, source, _, layout = folder
    model = load(folder)
    assert not any(p.is_meta for p in model.parameters())
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    processor = model.processor
    assert processor.tokenizer.pad_id == processor.tokenizer.token_id("$$")
    clip = Clip(torch.arange(3.0), torch.zeros(3, 20, 30, 3, dtype=torch.uint8), 3.0)
    watched = model.remember(model.streams(clip), clip)
    assert watched.pictures.features.shape == (1, 3, 16, 12)
    assert isinstance(model.answer(watched, ["where?"], max_new_tokens=3)[0], str)
    ids = torch.randint(0, ROWS, (1, 6))
    expected = source.language_model(ids).logits  # the tables of positions are rebuilt
    assert torch.equal(model.language_model(ids).logits, expected)
    assert type(model.language_model).__name__ == {
        "llama2": "LlamaForCausalLM", "mistral": "MistralForCausalLM"
    }[layout]  # fmt: skip


def test_names_of_a_newer_peft_are_read_too_and_buffers_are_named(folder, caplog):
    caplog.set_level(logging.INFO)
    _, source, file, _ = folder
    official = keys.released_part(source)["model"]
    first = next(iter(official))
    assert first == "llama_model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    newer = {
        k.replace("_A.", "_A.default.").replace("_B.", "_B.default."): official[k] for k in official
    }
    assert newer.keys() != official.keys()
    buffer = "llama_model.base_model.model.model.layers.0.self_attn.rotary_emb.inv_freq"
    scale = "llama_model.base_model.model.model.layers.0.mlp.up_proj.SCB"
    save(file, newer | {buffer: torch.ones(4), scale: torch.ones(2)})
    model = load(folder)
    for name in keys.trained_names(source):
        assert torch.equal(model.state_dict()[name], source.state_dict()[name])
    told = [r.message for r in caplog.records if str(file) in r.message]
    assert len(told) == 1
    assert buffer in told[0]
    assert scale in told[0]
    save(file, newer | {first: official[first]})
    with pytest.raises(CheckpointError, match=r"two tensors each for .*q_proj\.lora_A\.default"):
        load(folder)


def test_nothing_is_dropped_in_silence(folder):
    _, source, file, _ = folder
    official = keys.released_part(source)["model"]
    q, v = (
        f"llama_model.base_model.model.model.layers.1.self_attn.{n}_proj.lora_B.weight"
        for n in "qv"
    )
    save(file, {k: t for k, t in official.items() if k != q})
    with pytest.raises(CheckpointError, match=r"missing 1: .*layers\.1.*q_proj\.lora_B"):
        load(folder)
    save(file, {k: t for k, t in official.items() if "lora" not in k})
    with pytest.raises(CheckpointError, match="missing 8: "):
        load(folder)
    save(file, official | {"llama_model.base_model.model.lm_head.0.weight": torch.ones(ROWS, 32)})
    with pytest.raises(CheckpointError, match=r"left over 1: language_model\.lm_head\.weight"):
        load(folder)
    save(file, official | {"Qformer.bert.x": torch.ones(1), "query_tokens": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"no known part, 2: Qformer\.bert\.x, query_tokens"):
        load(folder)
    save(file, official | {v: torch.ones(9, 2)})
    with pytest.raises(CheckpointError, match=r"another shape 1: .*v_proj\.lora_B.* \(9, 2\)"):
        load(folder)
    torch.save(official, file)
    with pytest.raises(CheckpointError, match="has no part 'model'"):
        load(folder)
    path = file.parent / "language" / "pytorch_model.bin"
    weights = torch.load(path)
    torch.save({k: t for k, t in weights.items() if "layers.1.mlp" not in k}, path)
    save(file, official)
    with pytest.raises(CheckpointError, match=r"language: missing 3: .*layers\.1\.mlp"):
        load(folder)


def test_the_norm_behind_the_encoder_stays_as_it_is_made(folder):
    path, source, _, _ = folder
    with torch.no_grad():
        source.vision_encoder.ln_vision.weight.fill_(7.0)
    norm = load(folder).vision_encoder.ln_vision
    assert norm.weight.eq(1).all()
    assert norm.bias.eq(0).all()
    vit = torch.load(path / "eva_vit_g.pth")
    torch.save({k: t for k, t in vit.items() if k != "cls_token"}, path / "eva_vit_g.pth")
    with pytest.raises(CheckpointError, match=r"eva_vit_g\.pth: missing 1: class_token"):
        load(folder)


def test_training_can_begin_without_a_checkpoint(folder):
    _, _, file, _ = folder
    file.unlink()
    with pytest.raises(CheckpointError, match="lacks a checkpoint"):
        load(folder)
    torch.manual_seed(3)
    model = load(folder, trained=False)
    assert not any(p.is_meta for p in model.parameters())
    sides = {n: p for n, p in model.named_parameters() if ".lora_" in n}
    assert len(sides) == 8
    assert all((p.abs().sum() > 0) == (".lora_A." in n) for n, p in sides.items())
    assert model.llama_proj.weight.abs().sum() > 0


def test_what_is_missing_or_twice_or_of_another_kind_is_named(folder):
    path, source, file, layout = folder
    official = keys.released_part(source)["model"]
    best = file.with_name(file.name.replace("last", "best"))
    save(best, official)
    with pytest.raises(CheckpointError, match="several checkpoints"):
        load(folder)
    assert load(folder, checkpoint=best.name).llama_proj.weight.equal(source.llama_proj.weight)
    other = {"llama2": "mistral", "mistral": "llama2"}[layout]
    with pytest.raises(CheckpointError, match=f"layout={other}, but this is {layout}"):
        load(folder, checkpoint=best.name, layout=other)
    config = path / "language" / "config.json"
    config.write_text('{"model_type": "mistral", "sliding_window": 4096}')
    with pytest.raises(CheckpointError, match="sliding window"):
        load(folder, checkpoint=best.name)
    config.write_text('{"model_type": "gpt2"}')
    with pytest.raises(CheckpointError, match="'gpt2' is none of llama, mistral"):
        load(folder, checkpoint=best.name)
    (path / "eva_vit_g.pth").unlink()
    with pytest.raises(CheckpointError, match=r"lacks eva_vit_g\.pth"):
        load(folder, checkpoint=best.name)
    with pytest.raises(UserError, match="no such folder"):
        load_released("minigpt4_video", path / "gone")
    with pytest.raises(UserError, match="unknown option frames"):
        load_released("minigpt4_video", restored(path, config, layout), frames=3,
                      checkpoint=best.name)  # fmt: skip


def restored(path, config, layout):
    """The folder, whole enough to get as far as the options."""
    kind = {"llama2": "llama", "mistral": "mistral"}[layout]
    config.write_text(json.dumps({"model_type": kind}))
    (path / "eva_vit_g.pth").touch()
    return path
