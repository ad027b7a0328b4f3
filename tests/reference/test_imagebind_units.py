"""The ImageBind checks on units of other sizes, and on units that are off."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlmcourse.backbones.imagebind import ImageBindAudio, ImageBindAudioConfig
from vlmcourse.checkpoints.imagebind import to_official
from vlmcourse.media.imagebind_audio import (
    exact_spans,
    resample,
    sample_ranges,
    sound_clip_spans,
    sound_clips,
)
from vlmcourse.reference.imagebind_units import UNITS
from vlmcourse.reference.runner import checks, find_units, run_unit

HERE = Path(__file__).parent / "imagebind"


def test_all_units_are_here():
    assert {f"imagebind/{path.stem}" for path in find_units(HERE)} == UNITS.keys()
    assert UNITS.keys() <= checks().keys()


def write_unit(folder, name, meta, tensors):
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"system": "imagebind", "unit": name, **meta}))
    save_file({k: v.contiguous() for k, v in tensors.items()}, path.with_suffix(".safetensors"))
    return path


@pytest.fixture
def sound_unit(tmp_path):
    """A unit of the sound encoder at sizes of its own (the maths is tested in backbones/)."""
    torch.manual_seed(1)
    sizes = ImageBindAudioConfig(
        num_mels=20, num_steps=33, patch_size=6, patch_stride=4, hidden_size=16, num_layers=3,
        num_heads=2, mlp_ratio=3, out_width=7, logit_scale=5.0,
    )  # fmt: skip
    encoder = ImageBindAudio(sizes).eval().requires_grad_(False)
    inputs = torch.randn(1, 4, 1, 20, 33)
    flat = inputs[0]
    embedding = encoder(flat)[None]
    config = {
        "num_mel_bins": 20, "target_length": 33, "kernel": 6, "stride": 4, "patch_grid": [4, 7],
        "embed_dim": 16, "num_blocks": 3, "num_heads": 2, "mlp_ratio": 3, "out_embed_dim": 7,
        "stem_norm_eps": 1e-5, "block_norm_eps": 1e-6, "head_norm_eps": 1e-6, "add_bias_kv": True,
        "logit_scale": 5.0,
    }  # fmt: skip
    named = {f"audio.{name}": tensor for name, tensor in encoder.state_dict().items()}
    tensors = {f"weights/{key}": tensor for key, tensor in to_official(named).items()}
    tensors["inputs/audio"] = inputs
    for name, output in {
        "tokens_in": encoder.tokens_in(flat),
        "trunk_tokens": encoder.trunk(flat),
        "feature": encoder.feature(flat)[None],
        "head": encoder.projected(flat)[None],
        "embedding": embedding,
        "forward": embedding.mean(1),
    }.items():
        tensors[f"outputs/{name}"] = output
    return write_unit(tmp_path, "imagebind_audio", {"config": config}, tensors)


def test_a_sound_encoder_of_another_size(sound_unit):
    rows = run_unit(sound_unit, checks())
    assert len(rows) == 7
    assert all(row.ok for row in rows)


@pytest.mark.parametrize(
    ("key", "failed"),
    [
        ("weights/modality_trunks.audio.blocks.1.attn.bias_v", "trunk_tokens"),
        ("weights/modality_postprocessors.audio.1.log_logit_scale", "embedding"),
        ("weights/modality_preprocessors.audio.rgbt_stem.norm_layer.bias", "tokens_in"),
    ],
)
def test_a_number_that_is_off_is_seen(sound_unit, key, failed):
    twin = sound_unit.with_suffix(".safetensors")
    tensors = load_file(twin)
    tensors[key] = tensors[key] + 0.1
    save_file(tensors, twin)
    assert failed in {row.output for row in run_unit(sound_unit, checks()) if not row.ok}


def test_a_key_of_nothing_known_fails_the_unit(sound_unit):
    twin = sound_unit.with_suffix(".safetensors")
    save_file(load_file(twin) | {"weights/modality_trunks.audio.extra": torch.ones(1)}, twin)
    rows = run_unit(sound_unit, checks())
    assert [row.ok for row in rows if row.output == "unit"] == [False]


def test_a_waveform_of_another_kind(tmp_path):
    """Another rate, band count and clip count; then another constant, which is not ours."""
    meta = json.loads((HERE / "imagebind_waveform_stereo.json").read_text())
    config = meta["config"] | {
        "sample_rate_in": 22050, "clips_per_video": 4, "num_mel_bins": 40, "target_length": 90,
    }  # fmt: skip
    pcm = torch.randint(-9000, 9000, (2, 3 * 22050), dtype=torch.int16)
    samples = pcm.float() / 32768
    made = sound_clips(samples, 22050, 4, mels=40, steps=90, official=True)
    tensors = {
        "inputs/waveform_int16": pcm,
        "outputs/resampled_head": resample(samples, 22050)[:, :500],
        "outputs/resampled_length": torch.tensor([48000]),
        "outputs/clip_times": sound_clip_spans(3.0, 4).float(),
        "outputs/clip_sample_range": torch.tensor(sample_ranges(exact_spans(3.0, 4, 2))),
        "outputs/mel_clip_3": made.mels[3],
        "outputs/mel_every_11th_frame": made.mels[..., ::11],
        "outputs/clip_mean": made.mels.mean((1, 2, 3)),
    }
    name = "imagebind_waveform_stereo"
    rows = run_unit(write_unit(tmp_path, name, {"config": config}, tensors), checks())
    assert len(rows) == 9
    assert all(row.ok for row in rows)
    tensors["outputs/mel_clip_3"] = made.mels[2]
    config["std"] = 9.0
    rows = run_unit(write_unit(tmp_path, name, {"config": config}, tensors), checks())
    assert {row.output for row in rows if not row.ok} == {"constants", "mel_clip_3"}


def test_a_released_key_without_a_place_fails(tmp_path):
    meta = json.loads((HERE / "released_keys.json").read_text())
    keys = meta["module_keys"]
    keys["modality_trunks.audio.blocks.0.norm_3.bias"] = [768]
    keys["modality_heads.vision.0.bias"] = [1281]
    folder = tmp_path / "imagebind"
    folder.mkdir()
    (folder / "released_keys.json").write_text(json.dumps(meta))
    rows = run_unit(folder / "released_keys.json", checks())
    assert {row.output for row in rows if not row.ok} >= {"shapes", "official names"}
