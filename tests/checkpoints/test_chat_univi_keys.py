"""Official checkpoints of Chat-UniVi: names, and miniatures of the downloaded folders."""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from vlmcourse.backbones.clip import ClipConfig, ClipEncoder
from vlmcourse.backbones.language_model import LlamaSizes, build_llama
from vlmcourse.checkpoints import chat_univi as keys
from vlmcourse.checkpoints import load_released
from vlmcourse.checkpoints.files import CheckpointError
from vlmcourse.systems.chat_univi import build_paper
from vlmcourse.systems.processor import Clip

REFERENCE = Path(__file__).parents[1] / "reference"
CLIP = ClipConfig(64, 48, 3, 1, image_size=16, patch_size=4)
LLAMA = LlamaSizes(150, 16, 24, 2, 4)
RATES = {"spatial_rates": (8, 4, 2)}


def test_every_released_key_maps_both_ways():
    told = json.loads((REFERENCE / "chat_univi" / "released_keys.json").read_text())
    official = told["checkpoints"]["Chat-UniVi/Chat-UniVi (7B, 224 px)"]["non_llm_keys"]
    own = build_paper("meta").state_dict()
    for key, shape in official.items():
        assert list(own[keys.our_name(key)].shape) == shape
        assert keys.official_name(keys.our_name(key)) == key
    left = own.keys() - {keys.our_name(key) for key in official}
    assert all(name.startswith("language_model.") for name in left)
    again = keys.from_official(keys.to_official(own))
    assert again.keys() == own.keys()
    assert keys.our_name("vision_model.pre_layrnorm.bias").startswith("vision_encoder.model.pre_")


def test_unknown_keys_are_named():
    with pytest.raises(CheckpointError, match=r"no known part, 2: ctm0\.w, score_head\.b"):
        keys.from_official({"score_head.b": torch.ones(1), "ctm0.w": torch.ones(1)})
    with pytest.raises(KeyError):
        keys.official_name("qformer.queries")


def parts():
    """A language model, a tower as the shards have it, and a projector, under official keys."""
    torch.manual_seed(0)
    llama = build_llama(LLAMA).state_dict()
    llama["model.layers.1.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    tower = {f"vision_model.{k}": v for k, v in ClipEncoder(CLIP).model.state_dict().items()}
    names = ("model.mm_projector.weight", "model.mm_projector.bias")
    projector = dict(zip(names, (torch.randn(16, 64), torch.randn(16))))
    return llama, tower, projector


def write_folder(folder, tensors):
    names = sorted(tensors)
    halves = {"pytorch_model-1.bin": names[::2], "pytorch_model-2.bin": names[1::2]}
    for name, half in halves.items():
        torch.save({key: tensors[key] for key in half}, folder / name)
    places = {key: name for name, half in halves.items() for key in half}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    config = {
        "vocab_size": 150, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "rms_norm_eps": 1e-6, "mm_hidden_size": 64,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = (REFERENCE / "video_chatgpt" / "tiny_tokenizer.model").read_bytes()
    (folder / "tokenizer.model").write_bytes(vocabulary)
    return folder


def write_clip(folder, tower):
    folder.mkdir()
    more = {
        "vision_model.embeddings.position_ids": torch.arange(17)[None],
        "text_model.final_layer_norm.weight": torch.ones(3),
        "logit_scale": torch.ones(()),
    }
    torch.save(tower | more, folder / "pytorch_model.bin")


def test_a_downloaded_folder_becomes_a_model_that_answers(tmp_path):
    llama, tower, projector = parts()
    inside = {f"model.vision_tower.vision_tower.{key}": value for key, value in tower.items()}
    folder = write_folder(tmp_path, llama | inside | projector)
    model = load_released("chat_univi", folder, **RATES)
    assert model.config.image_size == 16
    assert model.processor.num_patches == 16
    assert torch.equal(model.projector.bias, projector["model.mm_projector.bias"])
    state = keys.to_official(model.state_dict())
    for key, value in (inside | projector).items():
        assert torch.equal(state[key], value)
    clip = Clip(torch.arange(5.0), torch.randint(0, 256, (5, 16, 16, 3), dtype=torch.uint8))
    features = model.streams(clip)["pictures"]
    assert features.shape == (5, 16, 64)
    watched = model.remember(features, clip)
    said = [model.answer(watched, ["who?"], max_new_tokens=3, temperature=0.0) for _ in range(2)]
    assert said[0] == said[1]
    part = keys.stage_1_part(model)
    assert part.keys() == projector.keys()


def test_a_tower_beside_the_shards_is_found(tmp_path):
    llama, tower, projector = parts()
    folder = write_folder(tmp_path, llama | projector)
    with pytest.raises(CheckpointError, match=r"one clip-vit-large-patch14\*/ is needed"):
        keys.load_released(folder, dtype=torch.float32, **RATES)
    write_clip(folder / "clip-vit-large-patch14-336", tower)
    model = keys.load_released(folder, dtype=torch.float32, **RATES)
    name = "vision_model.encoder.layers.2.mlp.fc1.bias"
    assert torch.equal(model.state_dict()[keys.our_name(name)], tower[name])
    write_clip(folder / "clip-vit-large-patch14", tower)
    with pytest.raises(CheckpointError, match="there: clip-vit-large-patch14, clip-vit-large"):
        keys.load_released(folder, dtype=torch.float32, **RATES)


def test_stage_1_alone_and_the_beginning_of_training(tmp_path):
    llama, tower, projector = parts()
    folder = write_folder(tmp_path, llama)
    write_clip(folder / "clip-vit-large-patch14", tower)
    with pytest.raises(CheckpointError, match=r"missing 2: projector\.bias, projector\.weight"):
        keys.load_released(folder, dtype=torch.float32, **RATES)
    begun = keys.load_released(folder, dtype=torch.float32, trained=False, **RATES)
    assert begun.projector.weight.abs().max() > 0
    torch.save(projector, folder / keys.STAGE_1_FILE)
    for model in (keys.load_released(folder, dtype=torch.float32, trained=t, **RATES)
                  for t in (True, False)):  # fmt: skip
        assert_close(model.projector.weight, projector["model.mm_projector.weight"])
    keys.load_projector(begun, folder / keys.STAGE_1_FILE)
    assert_close(begun.projector.bias, projector["model.mm_projector.bias"])
    torch.save({"model.mm_projector.bias": torch.ones(16)}, tmp_path / "half.bin")
    with pytest.raises(CheckpointError, match=r"half\.bin: missing 1: projector\.weight"):
        keys.load_projector(begun, tmp_path / "half.bin")


def test_what_is_missing_or_does_not_fit_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"lacks config\.json, tokenizer\.model"):
        load_released("chat_univi", tmp_path)
    llama, tower, projector = parts()
    folder = write_folder(tmp_path, llama | projector)
    short = {key: value for key, value in tower.items() if "position_embedding" not in key}
    write_clip(folder / "clip-vit-large-patch14", short)
    with pytest.raises(CheckpointError, match=r"a vision tower without .*position_embedding"):
        keys.load_released(folder, **RATES)
    projector["model.mm_projector.bias"] = torch.ones(3)
    write_folder(folder, llama | projector)
    torch.save(tower, folder / "clip-vit-large-patch14" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"another shape 1: projector\.bias \(3,\)"):
        keys.load_released(folder, **RATES)
