"""Official checkpoints of Video-LLaMA: names, and a miniature of the downloaded folder."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from vlmcourse.backbones.eva_clip import EvaClipConfig, EvaClipEncoder
from vlmcourse.backbones.imagebind import (
    ImageBind,
    ImageBindAudioConfig,
    ImageBindConfig,
    ImageBindVisionConfig,
)
from vlmcourse.backbones.language_model import LlamaSizes, build_llama
from vlmcourse.checkpoints import eva_clip, imagebind, load_released, qformer
from vlmcourse.checkpoints import video_llama as keys
from vlmcourse.checkpoints.files import CheckpointError
from vlmcourse.errors import UserError
from vlmcourse.parts.qformer import QFormer, QFormerConfig
from vlmcourse.systems.processor import Clip
from vlmcourse.systems.video_llama import VideoLlama, VideoLlamaConfig, build_paper

REFERENCE = Path(__file__).parents[1] / "reference" / "video_llama"
SETTINGS = VideoLlamaConfig(
    num_frames=4, num_image_queries=3, num_video_queries=4, num_audio_queries=2, image_width=16,
    sound_width=12, qformer_width=16, qformer_heads=2, qformer_inner=24, image_size=16,
)  # fmt: skip
ROWS = 160


@pytest.fixture(scope="module")
def released():
    return json.loads((REFERENCE / "released_keys.json").read_text())


@pytest.mark.parametrize("branch", ["vision", "audio"])
@pytest.mark.parametrize(("width", "layers"), [(4096, 32), (5120, 40)], ids=["7b", "13b"])
def test_every_key_of_every_branch_file_has_its_place(released, branch, width, layers):
    """Pretrained and fine-tuned files hold the same keys; 13B is as wide as its LLM."""
    model = build_paper("meta", llama=LlamaSizes(hidden_size=width, num_layers=1))
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    official = {
        key: tuple(width if size == 4096 else size for size in shape)
        for key, shape in released[f"{branch}_branch_keys"].items()
    }
    buffers = [f"llama_model.model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(layers)]
    assert all(keys.is_dropped(key) for key in buffers)
    tensors = {key: torch.empty(shape, device="meta") for key, shape in official.items()}
    ours = keys.from_official(tensors | dict.fromkeys(buffers, torch.ones(64)))
    assert {name: tuple(t.shape) for name, t in ours.items()} == {n: own[n] for n in ours}
    parts = {"vision": keys.VISION_PARTS, "audio": keys.AUDIO_PARTS}[branch]
    whole = {name for name in own if name.startswith(parts)}
    assert ours.keys() - whole <= {"imagebind.audio.log_logit_scale"}
    assert whole <= ours.keys()
    back = keys.to_official({name: ours[name] for name in whole})
    assert back.keys() <= official.keys()


def test_unknown_keys_are_named_all_at_once():
    tensors = {"video_Qformer.bert.pooler.weight": torch.ones(1), "clip.proj": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"2: clip\.proj, video_Qformer\.bert\.pooler"):
        keys.from_official(tensors, "a.pth")


# ---------------------------------------------------------------- a folder


def hearing(**more):
    sound = ImageBindAudioConfig(36, 46, 16, 10, 24, 1, 3, out_width=12)
    return ImageBind(
        ImageBindConfig(sound, ImageBindVisionConfig(16, 8, 2, 16, 1, 2, out_width=12))
    )


def tiny(device="cpu", config=SETTINGS):
    with torch.device(device):
        llama = build_llama(LlamaSizes(ROWS, 32, 48, 2, 4))
        encoder = EvaClipEncoder(EvaClipConfig(16, 8, 12, 1, 2))
        image_qformer = QFormer(QFormerConfig(16, 2, 2, 24, 12, 2, 3))
        return VideoLlama(config, llama, encoder, None, image_qformer, hearing()).eval()


def save(path, tensors, **more):
    torch.save({"model": dict(tensors), **more}, path)


@pytest.fixture
def folder(tmp_path):
    """The downloads in miniature, as the official code wrote them."""
    torch.manual_seed(1)
    model = tiny()
    base = tmp_path / "vicuna-7b"
    base.mkdir()
    llama = model.language_model.state_dict()
    llama["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    torch.save(llama, base / "pytorch_model.bin")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    (base / "config.json").write_text(
        json.dumps(sizes | {"vocab_size": ROWS, "model_type": "llama"})
    )
    unit = load_file(REFERENCE / "video_llama_conversation.safetensors")
    (base / "tokenizer.model").write_bytes(unit["inputs/tokenizer_model"].numpy().tobytes())
    vit = eva_clip.to_official(model.vision_encoder.state_dict())
    norm = {key: vit.pop(key) for key in list(vit) if key.startswith("ln_vision.")}
    vit = {key.removeprefix("visual_encoder."): tensor for key, tensor in vit.items()}
    torch.save(vit | {"norm.weight": torch.ones(12)}, tmp_path / "eva_vit_g.pth")
    blip2 = norm | qformer.to_official(model.image_qformer.state_dict())
    save(tmp_path / "blip2_pretrained_flant5xxl.pth", blip2 | {"t5_proj.weight": torch.ones(2)})
    heard = imagebind.to_official(model.imagebind.state_dict())
    torch.save(
        heard | {"modality_heads.text.proj.weight": torch.ones(1)}, tmp_path / "imagebind_huge.pth"
    )
    positions = {"video_Qformer.bert.embeddings.position_ids": torch.arange(5)[None]}
    more = {"optimizer": {"state": {}}, "config": {"lr": 1e-4}, "scaler": {}, "epoch": 3}
    vision = keys.released_part(model, "vision")["model"]
    save(tmp_path / "finetune-vicuna7b-v2.pth", vision | positions, **more)
    scale = {"audio_encoder.modality_postprocessors.audio.1.log_logit_scale": torch.tensor(2.9957)}
    audio = keys.released_part(model, "audio")["model"] | scale | positions
    save(tmp_path / "finetune_vicuna7b_audiobranch.pth", audio, **more)
    return tmp_path, model


def test_a_downloaded_folder_becomes_a_model_that_sees_and_hears(folder):
    path, source = folder
    model = keys.load_released(path, dtype=torch.float32, model=tiny("meta"))
    assert not any(p.is_meta for p in model.parameters())
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert model.processor.layout.role == "Assistant:"
    clip = Clip(torch.arange(3.0), torch.zeros(3, 20, 30, 3, dtype=torch.uint8), 3.0,
                torch.randn(8, 1, 36, 46), torch.zeros(8), given=model.processor.given)  # fmt: skip
    watched = model.remember(model.streams(clip), clip)
    assert watched.sounds.features.shape == (1, 8, 1, 12)
    assert isinstance(model.answer(watched, ["Where?"], max_new_tokens=3)[0], str)
    assert_close(model.imagebind.audio.scale, torch.tensor(20.0))


def test_without_an_audio_branch_the_system_does_not_listen(folder, caplog):
    path, _ = folder
    for name in ("imagebind_huge.pth", "finetune_vicuna7b_audiobranch.pth"):
        (path / name).unlink()
    quiet = VideoLlamaConfig(**{**vars(SETTINGS), "listens": False})
    model = keys.load_released(path, dtype=torch.float32, model=tiny("meta", quiet))
    assert "does not listen" in caplog.text
    assert model.imagebind is None
    assert model.processor.given.sounds is None
    assert not any(p.is_meta for p in model.parameters())


def test_training_can_begin_without_files_of_the_branches(folder):
    path, source = folder
    for name in ("finetune-vicuna7b-v2.pth", "finetune_vicuna7b_audiobranch.pth"):
        (path / name).unlink()
    with pytest.raises(CheckpointError, match=r"lacks a vision branch \(pretrain_vicuna7b-v2\.pth"):
        keys.load_released(path, model=tiny("meta"))
    first = {"llama_proj.weight": torch.ones(32, 16), "llama_proj.bias": torch.zeros(32)}
    save(path / "pretrained_minigpt4_7b.pth", first | {"other.weight": torch.ones(1)})
    model = keys.load_released(path, dtype=torch.float32, model=tiny("meta"), trained=False)
    assert torch.equal(model.llama_proj.weight, first["llama_proj.weight"])
    assert model.imagebind is not None
    own, other = model.video_qformer.queries, source.video_qformer.queries
    assert own.std().item() == pytest.approx(0.02, rel=0.5)
    assert not torch.equal(own, other)


def test_what_is_missing_or_twice_is_named(folder):
    path, _ = folder
    extra = path / "pretrain_vicuna7b-v2.pth"
    extra.write_bytes(b"")
    with pytest.raises(CheckpointError, match="several for the vision part"):
        keys.load_released(path)
    extra.unlink()
    for name in ("imagebind_huge.pth", "eva_vit_g.pth"):
        (path / name).unlink()
    with pytest.raises(CheckpointError, match=r"lacks eva_vit_g\.pth; imagebind_huge\.pth"):
        keys.load_released(path)
    with pytest.raises(UserError, match="no such folder"):
        load_released("video_llama", path / "gone")


def test_a_file_of_another_size_or_model_is_refused(folder):
    path, model = folder
    vision = keys.released_part(model, "vision")["model"]
    file = path / "finetune-vicuna7b-v2.pth"
    save(file, vision | {"llama_proj.bias": torch.ones(7)})
    with pytest.raises(CheckpointError, match=r"another shape 1: bias \(7,\) \(wanted \(32,\)\)"):
        keys.load_released(path, model=tiny("meta"))
    save(file, vision | {"query_tokens": torch.ones(1, 3, 16)})
    with pytest.raises(CheckpointError, match=r"file of a branch.*image_qformer\.queries"):
        keys.load_released(path, model=tiny("meta"))
    save(file, {key: t for key, t in vision.items() if "frame_position" not in key})
    with pytest.raises(CheckpointError, match=r"frame_position.*missing 1: weight"):
        keys.load_released(path, model=tiny("meta"))
    torch.save(vision, file)
    with pytest.raises(CheckpointError, match="has no part 'model'"):
        keys.load_released(path, model=tiny("meta"))


def test_sizes_and_form_come_from_the_language_model(tmp_path):
    folder = tmp_path / "llama-2-13b-chat-hf"
    folder.mkdir()
    told = {"hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40,
            "intermediate_size": 13824, "vocab_size": 32000, "rms_norm_eps": 1e-5}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(told))
    sizes = keys.read_sizes(folder)
    assert (sizes.hidden_size, sizes.num_layers, sizes.rms_norm_eps) == (5120, 40, 1e-5)
    assert keys.layout_of(folder) == "llama2"
    assert keys.layout_of(Path("vicuna-13b")) == "vicuna"
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not the config of a LLaMA"):
        keys.read_sizes(folder)
