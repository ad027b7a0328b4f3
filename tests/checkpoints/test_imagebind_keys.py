"""The official ImageBind checkpoint: names, counts, and a miniature of the file."""

import json
import math
from pathlib import Path

import pytest
import torch

from vlmcourse.backbones.imagebind import (
    ImageBind,
    ImageBindAudioConfig,
    ImageBindConfig,
    ImageBindVisionConfig,
)
from vlmcourse.checkpoints import imagebind as keys
from vlmcourse.checkpoints.files import CheckpointError

REFERENCE = Path(__file__).parents[1] / "reference" / "imagebind"
TINY = ImageBindConfig(
    ImageBindAudioConfig(hidden_size=8, num_layers=1, num_heads=2, out_width=6),
    ImageBindVisionConfig(28, hidden_size=8, num_layers=1, num_heads=2, out_width=6),
)
BUFFERS = (".mask", *(f"{kind}.1.log_logit_scale" for kind in ("audio", "depth", "thermal", "imu")))


@pytest.fixture(scope="module")
def released():
    return json.loads((REFERENCE / "released_keys.json").read_text())["module_keys"]


@pytest.fixture(scope="module")
def huge():
    with torch.device("meta"):
        return ImageBind()


def empty_model():
    with torch.device("meta"):
        return ImageBind(TINY)


def test_every_released_key_of_sound_and_pictures_has_its_place(released, huge):
    own = huge.state_dict()
    kept = {key: shape for key, shape in released.items() if not keys.is_left_out(key)}
    assert (len(released), len(kept)) == (1311, 569)
    for key, shape in kept.items():
        assert list(own[keys.our_name(key)].shape) == shape
        assert keys.official_name(keys.our_name(key)) == key
    assert {keys.our_name(key) for key in kept} == own.keys()


def test_the_other_encoders_are_left_out_on_purpose(released):
    left = {key.split(".")[1] for key in released if keys.is_left_out(key)}
    assert left == set(keys.LEFT_OUT)
    assert not any(keys.is_left_out(key) for key in released if ".audio." in key)
    assert keys.from_official({key: torch.ones(1) for key in released}).keys() == {
        keys.our_name(key) for key in released if not keys.is_left_out(key)
    }


def test_published_counts(released, huge):
    parameters = {k: math.prod(s) for k, s in released.items() if not k.endswith(BUFFERS)}
    assert sum(parameters.values()) == 1_200_781_057

    def trunk(kind):
        part = f"modality_trunks.{kind}."
        return sum(n for key, n in parameters.items() if key.startswith(part))

    assert [round(trunk(kind) / 1e6, 1) for kind in ("audio", "vision")] == [85.1, 629.7]
    own = {keys.our_name(k): n for k, n in parameters.items() if not keys.is_left_out(k)}
    assert {name: p.numel() for name, p in huge.named_parameters()} == own


@pytest.fixture
def released_file(tmp_path):
    """A small model as the official file would hold it, with scraps of the other encoders."""
    torch.manual_seed(0)
    model = ImageBind(TINY).eval().requires_grad_(False)
    tensors = keys.to_official(model.state_dict())
    tensors["modality_trunks.text.blocks.0.norm_1.bias"] = torch.ones(3)
    tensors["modality_postprocessors.imu.1.log_logit_scale"] = torch.tensor(math.log(5.0))
    torch.save(tensors, tmp_path / keys.RELEASED)
    return tmp_path / keys.RELEASED, model, tensors


def test_a_downloaded_file_becomes_frozen_encoders(released_file):
    path, model, _ = released_file
    for place in (path, path.parent):
        loaded = keys.load_imagebind(place, model=empty_model())
        mels, pixels = torch.randn(2, 1, 128, 204), torch.randn(2, 3, 28, 28)
        assert torch.equal(loaded.embed_sound(mels), model.embed_sound(mels))
        assert torch.equal(loaded.embed_pictures(pixels), model.embed_pictures(pixels))
        assert not loaded.training
        assert not any(p.requires_grad for p in loaded.parameters())
    half = keys.load_imagebind(path, dtype=torch.float16, model=empty_model())
    assert half.audio.head.weight.dtype == torch.float16
    assert half.audio.scale.item() == pytest.approx(20, abs=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality_trunks.touch.blocks.0.norm_1.bias": 3}, r"1 unknown keys: modality_trunks\.to"),
        ({"visual.proj": 3, "logit_scale": 1}, r"2 unknown keys: logit_scale, visual\.proj"),
        ({"modality_heads.audio.2.bias": 6}, r"left over 1: audio\.head\.bias"),
        ({"modality_heads.audio.0.bias": 5}, r"another shape 1: audio\.head_norm\.bias \(5,\)"),
        ({"modality_heads.audio.0.bias": None}, r"missing 1: audio\.head_norm\.bias"),
        ({"modality_trunks.audio.blocks.0.attn.bias_k": None}, r"blocks\.0\.attention\.bias_k"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(released_file, change, message):
    path, _, tensors = released_file
    for key, size in change.items():
        if size is None:
            del tensors[key]
        else:
            tensors[key] = torch.ones(size)
    torch.save(tensors, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        keys.load_imagebind(path, model=empty_model())
    assert keys.RELEASED in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"imagebind_huge\.pth: no such file"):
        keys.load_imagebind(tmp_path, model=empty_model())


def test_names_of_nothing_known():
    with pytest.raises(KeyError):
        keys.our_name("modality_trunks.text.blocks.0.norm_1.bias")
    with pytest.raises(KeyError):
        keys.official_name("text.blocks.0.norm1.bias")
