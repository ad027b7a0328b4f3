"""Checks of the ImageBind units: both encoders, the sound path, and the released keys."""

from collections.abc import Iterator

import torch
from torch import Tensor

from vlmcourse.backbones.imagebind import (
    ImageBind,
    ImageBindAudio,
    ImageBindAudioConfig,
    ImageBindConfig,
    ImageBindEncoder,
    ImageBindVision,
    ImageBindVisionConfig,
)
from vlmcourse.checkpoints.files import load_strict
from vlmcourse.checkpoints.imagebind import (
    LEFT_OUT,
    from_official,
    is_left_out,
    official_name,
    our_name,
    to_official,
)
from vlmcourse.media import imagebind_audio as sound
from vlmcourse.reference.rows import Row, Unit, compare_tensors, compare_values

MEL_ATOL = 1e-4


def _filled(encoder: ImageBindEncoder, kind: str, unit: Unit) -> ImageBindEncoder:
    """An encoder with a unit's weights, which come in through the map of released keys."""
    ours = from_official(unit.weights, str(unit.path))
    own = {name.removeprefix(f"{kind}."): tensor for name, tensor in ours.items()}
    load_strict(encoder, own, str(unit.path))
    return encoder.eval()


def _shared_sizes(config: dict) -> dict:
    if config["head_norm_eps"] != config["block_norm_eps"]:
        raise ValueError("the head's norm has an eps of its own")
    return {
        "hidden_size": config["embed_dim"],
        "num_layers": config["num_blocks"],
        "num_heads": config["num_heads"],
        "mlp_ratio": config["mlp_ratio"],
        "out_width": config["out_embed_dim"],
        "bias_kv": config["add_bias_kv"],
        "layer_norm_eps": config["block_norm_eps"],
    }


@torch.no_grad()
def _check_encoder(unit: Unit, encoder: ImageBindEncoder, inputs: Tensor) -> Iterator[Row]:
    """All that an encoder makes of `[B, M, ...]` inputs, clip by clip, and the mean over clips."""
    leading, flat, outputs = inputs.shape[:2], inputs.flatten(0, 1), unit.outputs
    embedding = encoder(flat).unflatten(0, leading)  # [B, M, E]
    for name, mine in (
        ("tokens_in", encoder.tokens_in(flat)),
        ("trunk_tokens", encoder.trunk(flat)),
        ("feature", encoder.feature(flat).unflatten(0, leading)),
        ("head", encoder.projected(flat).unflatten(0, leading)),
        ("embedding", embedding),
        ("forward", embedding.mean(1)),
    ):
        yield compare_tensors(unit, "", name, mine, outputs[name])


def check_audio(unit: Unit) -> Iterator[Row]:
    """The sound encoder."""
    config = unit.meta["config"]
    settings = ImageBindAudioConfig(
        num_mels=config["num_mel_bins"],
        num_steps=config["target_length"],
        patch_size=config["kernel"],
        patch_stride=config["stride"],
        logit_scale=config["logit_scale"],
        patch_norm_eps=config["stem_norm_eps"],
        **_shared_sizes(config),
    )
    encoder = ImageBindAudio(settings)
    yield compare_values(unit, "", "patch_grid", list(encoder.grid), config["patch_grid"])
    yield from _check_encoder(unit, _filled(encoder, "audio", unit), unit.inputs["audio"])


def check_vision(unit: Unit) -> Iterator[Row]:
    """The picture encoder."""
    config = unit.meta["config"]
    if config["pre_transformer_norm_eps"] != config["block_norm_eps"]:
        raise ValueError("the norm before the blocks has an eps of its own")
    settings = ImageBindVisionConfig(
        image_size=config["image_size"],
        patch_size=config["patch"],
        temporal_kernel=config["temporal_kernel"],
        **_shared_sizes(config),
    )
    encoder = _filled(ImageBindVision(settings), "vision", unit)
    yield from _check_encoder(unit, encoder, unit.inputs["images"])


def check_waveform(unit: Unit) -> Iterator[Row]:
    """Samples to mel clips, as released."""
    config, outputs = unit.meta["config"], unit.outputs
    yield from _check_constants(unit, config)
    samples = unit.inputs["waveform_int16"].float() / 32768  # [C, S]
    rate, count, clip_s = (
        config[key] for key in ("sample_rate_in", "clips_per_video", "clip_duration_s")
    )
    at_16k = sound.resample(samples, rate)
    if "resampled_length" in outputs:
        length = torch.tensor([at_16k.shape[1]])
        yield compare_tensors(unit, "", "resampled_length", length, outputs["resampled_length"])
    if "resampled_head" in outputs:
        head = outputs["resampled_head"]
        yield compare_tensors(unit, "", "resampled_head", at_16k[:, : head.shape[1]], head)
    duration_s = at_16k.shape[1] / sound.SAMPLE_RATE
    spans = sound.sound_clip_spans(duration_s, count, clip_s)
    yield compare_tensors(unit, "", "clip_times", spans.float(), outputs["clip_times"])
    ranges = torch.tensor(sound.sample_ranges(sound.exact_spans(duration_s, count, clip_s)))
    yield compare_tensors(unit, "", "clip_sample_range", ranges, outputs["clip_sample_range"])
    mels, steps = config["num_mel_bins"], config["target_length"]
    made = sound.sound_clips(samples, rate, count, clip_s, mels, steps, official=True)
    yield compare_tensors(unit, "", "times_s", made.times_s, outputs["clip_times"][:, 0])
    yield from _check_mels(unit, made.mels)
    borders = "max_abs_difference_if_mean_subtraction_were_not_in_place"
    if borders in config and len(samples) == 1:  # the mean is all that differs with one channel
        default = sound.sound_clips(samples, rate, count, clip_s, mels, steps)
        moved = (made.mels - default.mels).abs().amax((1, 2, 3))
        expected = torch.tensor(config[borders])
        yield compare_tensors(unit, "", "moved by earlier clips", moved, expected, atol=MEL_ATOL)


def _check_constants(unit: Unit, config: dict) -> Iterator[Row]:
    """The numbers that are constants of ours."""
    bank = config["fbank"]
    mine = {
        "sample_rate": sound.SAMPLE_RATE,
        "mean": sound.MEL_MEAN,
        "std": sound.MEL_STD,
        "fft": sound.FFT_SIZE,
        "preemphasis": sound.PRE_EMPHASIS,
        "frame_length_ms": 1000 * sound.WINDOW / sound.SAMPLE_RATE,
        "frame_shift_ms": 1000 * sound.HOP / sound.SAMPLE_RATE,
        "low_freq": sound.LOWEST_HZ,
        "high_freq": sound.HIGHEST_HZ,
        "log_floor": sound.ENERGY_FLOOR,
    }
    expected = {key: (config | bank)[key] for key in mine}
    yield compare_values(unit, "", "constants", mine, expected)


def _check_mels(unit: Unit, mels: Tensor) -> Iterator[Row]:
    """Mel clips `[M, 1, mels, steps]` against whatever the unit holds of them."""
    outputs = unit.outputs
    for name in outputs:
        if name == "clip_mean":
            mine = mels.mean((1, 2, 3))
        elif name == "clip_std":
            mine = mels.flatten(1).std(1)
        elif name.startswith("mel_clip_"):
            mine = mels[int(name.removeprefix("mel_clip_"))]
        elif name.startswith("mel_every_"):
            step = int(name.removeprefix("mel_every_").split("th_")[0])
            mine = mels[..., ::step][..., : outputs[name].shape[-1]]
        else:
            continue
        yield compare_tensors(unit, "", name, mine, outputs[name], atol=MEL_ATOL)


def check_released_keys(unit: Unit) -> Iterator[Row]:
    """Every key of sound and pictures has a place of its own shape; the others are left out."""
    keys: dict[str, list[int]] = unit.meta["module_keys"]
    kept = {key: tuple(shape) for key, shape in keys.items() if not is_left_out(key)}
    own = {name: tuple(tensor.shape) for name, tensor in _meta_model(kept).state_dict().items()}
    there = {key: own.get(our_name(key)) for key in kept}
    yield compare_values(unit, "sound and pictures", "shapes", there, kept)
    back = [official_name(our_name(key)) for key in kept]
    yield compare_values(unit, "sound and pictures", "names there and back", back, list(kept))
    yield compare_values(unit, "ours", "official names", to_official(own).keys(), kept.keys())
    left = {key.split(".")[1] for key in keys if key not in kept}
    yield compare_values(unit, "left out", "encoders", left - set(LEFT_OUT), set())


def _meta_model(keys: dict[str, tuple[int, ...]]) -> ImageBind:
    """The model on the meta device, with sizes read from the shapes of its keys.

    Heads leave no trace in a shape, nor does the grid of sound patches: one row serves.
    """
    stem, positions = "modality_preprocessors.{}.rgbt_stem.proj", "pos_embedding_helper.pos_embed"
    _, _, patch, _ = keys[stem.format("audio") + ".weight"]
    sounds = keys[f"modality_preprocessors.audio.{positions}"][1] - 1
    _, _, frames, side, _ = keys[stem.format("vision") + ".1.weight"]
    places = keys[f"modality_preprocessors.vision.{positions}"][1] - 1
    stride = ImageBindAudioConfig.patch_stride
    audio = ImageBindAudioConfig(
        num_mels=patch,
        num_steps=patch + stride * (sounds - 1),
        patch_size=patch,
        **_sizes_of_trunk(keys, "audio"),
    )
    vision = ImageBindVisionConfig(
        image_size=side * round(places**0.5),
        patch_size=side,
        temporal_kernel=frames,
        **_sizes_of_trunk(keys, "vision"),
    )
    with torch.device("meta"):
        return ImageBind(ImageBindConfig(audio, vision))


def _sizes_of_trunk(keys: dict[str, tuple[int, ...]], kind: str) -> dict:
    blocks = f"modality_trunks.{kind}.blocks."
    out_width, width = keys[f"modality_heads.{kind}.2.weight"]
    return {
        "hidden_size": width,
        "num_layers": 1 + max(int(k.split(".")[3]) for k in keys if k.startswith(blocks)),
        "num_heads": 1,
        "mlp_ratio": keys[f"{blocks}0.mlp.fc1.weight"][0] / width,
        "out_width": out_width,
        "bias_kv": f"{blocks}0.attn.bias_k" in keys,
    }


UNITS = {
    "imagebind/imagebind_audio": check_audio,
    "imagebind/imagebind_vision": check_vision,
    "imagebind/imagebind_waveform": check_waveform,
    "imagebind/imagebind_waveform_stereo": check_waveform,
    "imagebind/released_keys": check_released_keys,
}
