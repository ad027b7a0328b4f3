"""Official ImageBind weights (`imagebind_huge.pth`) and ours, both ways.

The file holds six encoders. Those of sound and pictures are taken; those of text, depth, heat and
motion are left out on purpose. A key that belongs to neither is an error.

Official: DAMO-NLP-SG/Video-LLaMA@64888c0:video_llama/models/ImageBind/models/imagebind_model.py
(`imagebind_huge`).
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vlmcourse.backbones.imagebind import ImageBind
from vlmcourse.checkpoints.files import CheckpointError, load_strict, read_tensors

RELEASED = "imagebind_huge.pth"
LEFT_OUT = ("text", "depth", "thermal", "imu")
"""Encoders of the released file that this course does not build."""
_LEFT_OUT = re.compile(
    rf"modality_(preprocessors|trunks|heads|postprocessors)\.({'|'.join(LEFT_OUT)})\."
)

_OWN = (
    ("modality_preprocessors.audio.rgbt_stem.proj.", "audio.patches."),
    ("modality_preprocessors.audio.rgbt_stem.norm_layer.", "audio.patch_norm."),
    ("modality_postprocessors.audio.1.log_logit_scale", "audio.log_logit_scale"),
    ("modality_preprocessors.vision.rgbt_stem.proj.1.", "vision.patches."),
    ("modality_trunks.vision.pre_transformer_layer.0.", "vision.pre_norm."),
)
_BOTH = (
    ("modality_preprocessors.{}.cls_token", "{}.class_token"),
    ("modality_preprocessors.{}.pos_embedding_helper.pos_embed", "{}.positions"),
    ("modality_trunks.{}.blocks.", "{}.blocks."),
    ("modality_heads.{}.0.", "{}.head_norm."),
    ("modality_heads.{}.2.", "{}.head."),
)
PREFIXES = _OWN + tuple(
    (official.format(kind), ours.format(kind))
    for kind in ("audio", "vision")
    for official, ours in _BOTH
)
"""Official and our beginnings of a name."""

INSIDE_BLOCKS = (
    (".attn.", ".attention."),
    (".norm_1.", ".norm1."),
    (".norm_2.", ".norm2."),
    (".mlp.fc1.", ".mlp_in."),
    (".mlp.fc2.", ".mlp_out."),
)


def is_left_out(official: str) -> bool:
    """Whether a key belongs to an encoder that is left out on purpose."""
    return _LEFT_OUT.match(official) is not None


def our_name(official: str) -> str:
    """Our state-dict name of an official key of the sound or picture encoder.

    Raises:
        KeyError: a key of another encoder, or of nothing known.
    """
    for theirs, ours in PREFIXES:
        if official.startswith(theirs):
            return _swapped(ours + official[len(theirs) :], INSIDE_BLOCKS)
    raise KeyError(official)


def official_name(ours: str) -> str:
    """The official key of a name of ours. Raises KeyError for a name of nothing known."""
    for theirs, our in PREFIXES:
        if ours.startswith(our):
            back = tuple((new, old) for old, new in INSIDE_BLOCKS)
            return theirs + _swapped(ours[len(our) :], back)
    raise KeyError(ours)


def _swapped(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name


def from_official(tensors: Mapping[str, Tensor], source: str = RELEASED) -> dict[str, Tensor]:
    """Official tensors under our names, without the encoders that are left out.

    Args:
        tensors: official keys; `audio_encoder.` of a Video-LLaMA model is to be taken off before.
        source: named in the message.

    Raises:
        CheckpointError: names every key that belongs to no encoder of the released file.
    """
    result, unknown = {}, []
    for key, tensor in tensors.items():
        if is_left_out(key):
            continue
        try:
            result[our_name(key)] = tensor
        except KeyError:
            unknown.append(key)
    if unknown:
        raise CheckpointError(
            f"{source}: {len(unknown)} unknown keys: {', '.join(sorted(unknown))}"
        )
    return result


def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their official names."""
    return {official_name(name): tensor for name, tensor in tensors.items()}


def load_imagebind(
    path: str | Path,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    model: ImageBind | None = None,
) -> ImageBind:
    """Build the sound and picture encoders with the official weights, frozen.

    Args:
        path: `imagebind_huge.pth`, or the folder that holds it.
        device, dtype: of the result.
        model: a model on the meta device to fill; None builds imagebind_huge.

    Raises:
        CheckpointError: the file is missing or damaged, or keys do not fit; they are listed.
    """
    path = Path(path)
    path = path / RELEASED if path.is_dir() else path
    ours = from_official(read_tensors(path), str(path))
    if model is None:
        with torch.device("meta"):
            model = ImageBind()
    ours = {name: tensor.to(device=device, dtype=dtype) for name, tensor in ours.items()}
    load_strict(model, ours, str(path), assign=True)
    return model.eval().requires_grad_(False)
