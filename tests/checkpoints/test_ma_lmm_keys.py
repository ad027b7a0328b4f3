"""Official checkpoints of MA-LMM: names, and a miniature of the downloaded folder."""

import json
import logging
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from vlmcourse.backbones.eva_clip import EvaClipConfig, EvaClipEncoder
from vlmcourse.backbones.language_model import LlamaSizes, build_llama
from vlmcourse.checkpoints import eva_clip, load_released
from vlmcourse.checkpoints import ma_lmm as keys
from vlmcourse.checkpoints.files import CheckpointError
from vlmcourse.errors import UserError
from vlmcourse.systems.ma_lmm import MaLmm, MaLmmConfig
from vlmcourse.systems.processor import Clip

REFERENCE = Path(__file__).parents[1] / "reference" / "minigpt4_video"
ROWS = 150
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "shown", "?", "star")
SIZES = MaLmmConfig(
    num_frames=3,
    max_frames=6,
    visual_memory=2,
    query_memory=2,
    num_queries=3,
    vision_width=12,
    qformer_width=16,
    qformer_layers=2,
    qformer_heads=2,
    qformer_inner=20,
    qformer_vocabulary=len(WORDS) + 1,  # [DEC]
    qformer_positions=12,
    text_length=10,
    image_size=16,
)


def tiny(device="cpu", **options):
    with torch.device(device):
        encoder = EvaClipEncoder(EvaClipConfig(16, 4, 12, 1, 2), normed=False)
        language = build_llama(LlamaSizes(ROWS + 1, 32, 48, 2, 4))
        return MaLmm(MaLmmConfig(**{**asdict(SIZES), **options}), language, encoder, None).eval()


def save(path, tensors, **more):
    torch.save({"model": dict(tensors), **more}, path)


@pytest.fixture
def folder(tmp_path):
    """The downloads in miniature, as the official code wrote them; and the model they are of."""
    torch.manual_seed(1)
    model = tiny()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(keys.TRAINED_PARTS):
                parameter.normal_()
        for table in keys.TABLES:
            rows = model.get_parameter(table)
            rows[-1] = rows[:-1].mean(0)
    base, words = tmp_path / "vicuna-7b", tmp_path / "bert-base-uncased"
    base.mkdir()
    words.mkdir()
    language = dict(model.language_model.state_dict())
    for table in ("model.embed_tokens.weight", "lm_head.weight"):
        language[table] = language[table][:-1].clone()
    inverse = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(4) for n in (0, 1)}
    torch.save(language | inverse, base / "pytorch_model.bin")
    sizes = {"vocab_size": ROWS, "hidden_size": 32, "num_hidden_layers": 2}
    (base / "config.json").write_text(json.dumps(sizes))
    shutil.copy(REFERENCE / "tiny_tokenizer.model", base / "tokenizer.model")
    (words / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    vit = eva_clip.to_official(model.vision_encoder.state_dict())
    vit = {key.removeprefix("visual_encoder."): tensor for key, tensor in vit.items()}
    torch.save(vit | {"norm.weight": torch.ones(12)}, tmp_path / "eva_vit_g.pth")
    file = tmp_path / "checkpoint_best.pth"
    buffers = {f"llm_model.{key}": tensor for key, tensor in inverse.items()}
    buffers["Qformer.bert.embeddings.position_ids"] = torch.arange(12)[None]
    more = {"optimizer": {"state": {}}, "config": {"lr": 1e-4}, "scaler": {}, "epoch": 3}
    save(file, keys.released_part(model)["model"] | buffers, **more)
    return tmp_path, model, file


def load(path, **options):
    return keys.load_released(path, dtype=torch.float32, model=tiny("meta"), **options)


def test_a_downloaded_folder_becomes_a_model_that_answers(folder):
    path, source, _ = folder
    model = load(path)
    assert not any(p.is_meta for p in model.parameters())
    for name, value in source.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, msg=name)
    clip = Clip(torch.arange(3.0), torch.zeros(3, 16, 16, 3, dtype=torch.uint8), 3.0)
    watched = model.remember(model.streams(clip), clip)
    assert watched.pictures.features.shape == (1, 3, 17, 12)
    answers = model.answer(watched, ["What is shown?", "what star"], max_new_tokens=3)
    assert all(isinstance(answer, str) for answer in answers)
    ids = torch.randint(0, ROWS, (1, 6))
    torch.testing.assert_close(model.language_model(ids).logits, source.language_model(ids).logits)


def test_names_go_there_and_back(folder):
    _, source, file = folder
    official = keys.to_official(source.state_dict())
    assert {keys.our_name(key) for key in official} == set(source.state_dict())
    held = torch.load(file)["model"]
    kept = {key for key in held if not keys.is_dropped(key)}
    assert kept == keys.released_part(source)["model"].keys()
    assert {key.partition(".")[0] for key in kept} == {
        "query_tokens", "Qformer", "ln_vision", "llm_proj", "image_pe"
    }  # fmt: skip
    for unknown in ("visual_proj.weight", "Qformer.bert.pooler.weight"):
        with pytest.raises(KeyError):
            keys.our_name(unknown)


def test_nothing_is_dropped_in_silence(folder):
    path, source, file = folder
    official = keys.released_part(source)["model"]
    query = "Qformer.bert.encoder.layer.1.attention.self.query.weight"
    save(file, {key: tensor for key, tensor in official.items() if key != query})
    with pytest.raises(CheckpointError, match=r"missing 1: qformer\.layers\.1\.self_att.*query"):
        load(path)
    save(file, {key: tensor for key, tensor in official.items() if key != "image_pe.weight"})
    with pytest.raises(CheckpointError, match=r"missing 1: frame_positions\.weight"):
        load(path)
    save(file, official | {"image_pe.weight": torch.zeros(9, 12)})
    with pytest.raises(CheckpointError, match=r"frame_positions\.weight \(9, 12\)"):
        load(path)
    save(file, official | {"t5_proj.weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"no known part, 1: t5_proj\.weight"):
        load(path)
    save(file, official | {"llm_model.lm_head.weight": torch.ones(ROWS, 32)})
    with pytest.raises(CheckpointError, match=r"left over 1: language_model\.lm_head\.weight"):
        load(path)
    save(file, official)
    bin_file = path / "vicuna-7b" / "pytorch_model.bin"
    weights = torch.load(bin_file)
    torch.save({k: t for k, t in weights.items() if "layers.1.mlp" not in k}, bin_file)
    with pytest.raises(CheckpointError, match=r"vicuna-7b: missing 3: .*layers\.1\.mlp"):
        load(path)


def test_training_begins_from_instruct_blip_with_positions_of_zero(folder, caplog):
    path, source, file = folder
    file.unlink()
    with pytest.raises(CheckpointError, match="lacks weights"):
        load(path)
    official = keys.released_part(source)["model"]
    start = {key: tensor for key, tensor in official.items() if key != "image_pe.weight"}
    eyes = {"visual_encoder.cls_token": torch.ones(1, 1, 12)}
    save(path / keys.STARTS[0], start | eyes)
    caplog.set_level(logging.INFO)
    model = load(path, trained=False)
    assert model.frame_positions.weight.eq(0).all()
    assert torch.equal(model.qformer.queries, source.qformer.queries)
    assert torch.equal(model.vision_encoder.class_token, source.vision_encoder.class_token)
    assert any("1 tensors of the picture encoder left out" in r.message for r in caplog.records)


def test_what_is_missing_or_twice_is_named(folder):
    path, source, file = folder
    official = keys.released_part(source)["model"]
    save(path / "checkpoint_7.pth", official)
    with pytest.raises(CheckpointError, match=r"several files of weights \(checkpoint_7\.pth"):
        load(path)
    assert load(path, checkpoint="checkpoint_7.pth").projector.weight.equal(source.projector.weight)
    (path / "eva_vit_g.pth").rename(path / "vit.pth")
    shutil.rmtree(path / "bert-base-uncased")
    with pytest.raises(CheckpointError, match=r"lacks eva_vit_g\.pth; bert-base-uncased"):
        load(path, checkpoint=file.name)
    with pytest.raises(UserError, match="no such folder"):
        load_released("ma_lmm", path / "gone")


def test_options_are_those_of_the_settings(folder):
    path, _, _ = folder
    with pytest.raises(UserError, match="unknown option frames"):
        load_released("ma_lmm", path, frames=3)
