"""Names of EVA ViT-g's weights, official and ours, both ways.

Inside the official models the encoder is called `visual_encoder`; its own file has no such prefix.
`ln_vision` belongs to BLIP-2 and stands beside it.

Official: salesforce/LAVIS@506965b:lavis/models/eva_vit.py (`create_eva_vit_g`).
"""

import re
from collections.abc import Mapping

from torch import Tensor

from vlmcourse.backbones.eva_clip import EvaClipConfig, resize_positions
from vlmcourse.checkpoints.files import CheckpointError, refuse_unknown

PREFIX = "visual_encoder."
TOP = (
    ("visual_encoder.cls_token", "class_token"),
    ("visual_encoder.pos_embed", "positions"),
    ("visual_encoder.patch_embed.proj.", "patch_embedding."),
    ("ln_vision.", "ln_vision."),
)
BLOCK = (
    ("norm1.", "norm1."),
    ("norm2.", "norm2."),
    ("attn.", "attention."),
    ("mlp.fc1.", "up."),
    ("mlp.fc2.", "down."),
)
"""Official and our beginnings of a name, inside a block."""


def our_name(official: str) -> str:
    """Our state-dict name of an official key. Raises KeyError for a key of no known part."""
    block = re.fullmatch(r"visual_encoder\.blocks\.(\d+)\.(.+)", official)
    if block:
        return f"blocks.{block[1]}.{_swap(block[2], BLOCK, official)}"
    return _swap(official, TOP, official)


def official_name(ours: str) -> str:
    """The official key of a name of ours. Raises KeyError for an unknown name."""
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", ours)
    if block:
        back = tuple((mine, theirs) for theirs, mine in BLOCK)
        return f"{PREFIX}blocks.{block[1]}.{_swap(block[2], back, ours)}"
    return _swap(ours, tuple((mine, theirs) for theirs, mine in TOP), ours)


def _swap(name: str, pairs: tuple[tuple[str, str], ...], whole: str) -> str:
    for old, new in pairs:
        if name == old or (old.endswith(".") and name.startswith(old)):
            return new + name[len(old) :]
    raise KeyError(whole)


def from_official(
    tensors: Mapping[str, Tensor], config: EvaClipConfig, source: str = "EVA ViT-g"
) -> dict[str, Tensor]:
    """Official tensors of the encoder and of `ln_vision` under our names; others are passed over.

    The positions are stretched where `config.image_size` is not the one they were learned at.

    Raises:
        CheckpointError: lists keys of the encoder that are not known; or the positions are those
            of no square.
    """
    ours, unknown = {}, []
    for key, tensor in tensors.items():
        if key.startswith((PREFIX, "ln_vision.")):
            try:
                ours[our_name(key)] = tensor
            except KeyError:
                unknown.append(key)
    refuse_unknown(unknown, source)
    if "positions" in ours:
        patches = (config.image_size // config.patch_size) ** 2
        try:
            ours["positions"] = resize_positions(ours["positions"], 1 + patches)
        except ValueError as error:
            raise CheckpointError(f"{source}: {error}") from error
    return ours


def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their official names."""
    return {official_name(name): tensor for name, tensor in tensors.items()}
