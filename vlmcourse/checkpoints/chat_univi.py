"""Official Chat-UniVi weights and ours, both ways.

Official files, one folder, everything in it (names as downloaded; 7B, 13B and version 1.5 alike):

    config.json, tokenizer.model
    pytorch_model.bin.index.json, pytorch_model-00001-of-00002.bin, ...
    clip-vit-large-patch14/ or clip-vit-large-patch14-336/   (only where the shards lack the tower)
    mm_projector.bin   (only where the shards lack the projector: stage 1, with Vicuna's shards)

Merging has no weights, so one linear layer is all that is not CLIP or a Llama. Tensors are the same
on both sides; only names differ.

Official: PKU-YuanGroup/Chat-UniVi@ec0b3db:ChatUniVi/model/builder.py (`load_pretrained_model`).
Differs: a tower in the shards is read from there; the official code takes CLIP's own, of which it
is a copy.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmcourse.backbones.clip import ClipConfig
from vlmcourse.backbones.language_model import rebuild_buffers
from vlmcourse.backbones.tokenizers import SentencePieceTokenizer
from vlmcourse.checkpoints.files import (
    CheckpointError,
    load_strict,
    read_tensors,
    refuse_misfit,
    refuse_unknown,
)
from vlmcourse.checkpoints.names import renamed
from vlmcourse.checkpoints.video_chatgpt import without_buffers
from vlmcourse.checkpoints.video_llama import read_sizes
from vlmcourse.systems import with_options
from vlmcourse.systems.chat_univi import LANGUAGE, ChatUniVi, build_paper
from vlmcourse.systems.chat_univi_config import PAPER_CONFIG
from vlmcourse.systems.chat_univi_processor import ChatUniViProcessor

TOP = (
    ("model.mm_projector.", "projector."),
    ("model.vision_tower.vision_tower.vision_model.", "vision_encoder.model."),
    ("vision_model.", "vision_encoder.model."),
    ("model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)
"""Official and our beginnings of a name; the first that fits counts. CLIP's own files have the
second name of its tower."""

STAGE_1_FILE = "mm_projector.bin"
CLIP_FOLDERS = "clip-vit-large-patch14*"
POSITIONS = "vision_encoder.model.embeddings.position_embedding.weight"
PATCHES = "vision_encoder.model.embeddings.patch_embedding.weight"


def our_name(official: str) -> str:
    """Our state-dict name of an official key. Raises KeyError for a key of no known part."""
    return renamed(official, 0, TOP, ())


def official_name(ours: str) -> str:
    """The official key of a name of ours, as the published shards have it. Raises KeyError."""
    return renamed(ours, 1, TOP, ())


def from_official(tensors: Mapping[str, Tensor], source: str = "official") -> dict[str, Tensor]:
    """Official tensors under our names, less the buffers that are computed here.

    Raises:
        CheckpointError: names every key of no known part.
    """
    result, unknown = {}, []
    for key, tensor in without_buffers(tensors).items():
        try:
            result[our_name(key)] = tensor
        except KeyError:
            unknown.append(key)
    refuse_unknown(unknown, source)
    return result


def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their official names."""
    return {official_name(name): tensor for name, tensor in tensors.items()}


def stage_1_part(model: ChatUniVi) -> dict[str, Tensor]:
    """What the file of stage 1 holds, from a model of ours: the projector.

    `torch.save` it as `mm_projector.bin` and the official stage 2 starts from it.
    """
    state = {f"projector.{name}": t for name, t in model.projector.state_dict().items()}
    return {key: tensor.detach().cpu() for key, tensor in to_official(state).items()}


def load_projector(model: ChatUniVi, path: Path) -> None:
    """Fill the projector from the file of stage 1.

    Raises:
        CheckpointError: damaged, another part is in it, or of another size.
    """
    ours = from_official(read_tensors(path), str(path))
    own = {f"projector.{name}": tensor for name, tensor in model.projector.state_dict().items()}
    refuse_misfit(own, ours, str(path))
    model.load_state_dict(ours, strict=False)


# ---------------------------------------------------------------- the folder


def tower_sizes(tensors: Mapping[str, Tensor]) -> ClipConfig:
    """Sizes of a tower from our names and their shapes: ViT-L/14 with 224 or 336 px, or the like.

    Raises:
        CheckpointError: a tower that lacks its tables.
    """
    lacking = [name for name in (POSITIONS, PATCHES) if name not in tensors]
    if lacking:
        raise CheckpointError(f"a vision tower without {', '.join(lacking)}")
    head = "vision_encoder.model.encoder.layers."
    layers = {name.removeprefix(head).split(".")[0] for name in tensors if name.startswith(head)}
    places, width = tensors[POSITIONS].shape
    patch = tensors[PATCHES].shape[-1]
    return ClipConfig(
        hidden_size=width,
        intermediate_size=tensors[f"{head}0.mlp.fc1.weight"].shape[0],
        num_layers=len(layers),
        num_heads=max(width // 64, 1),
        image_size=patch * round((places - 1) ** 0.5),
        patch_size=patch,
    )


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All of a folder's tensors under our names; the projector may be missing, nothing else.

    Raises:
        CheckpointError: a file is missing or damaged, or there are several towers to choose from.
    """
    lacking = [name for name in ("config.json", "tokenizer.model") if not (folder / name).is_file()]
    if lacking:
        raise CheckpointError(f"{folder}: lacks {', '.join(lacking)}")
    ours = from_official(read_tensors(folder), str(folder))
    if not any(name.startswith("vision_encoder.") for name in ours):
        towers = sorted(path for path in folder.glob(CLIP_FOLDERS) if path.is_dir())
        if len(towers) != 1:
            told = ", ".join(path.name for path in towers) or "none"
            raise CheckpointError(
                f"{folder}: the shards hold no vision tower, so one {CLIP_FOLDERS}/ is needed "
                f"(there: {told})"
            )
        ours |= from_official(read_tensors(towers[0]), str(towers[0]))
    if (folder / STAGE_1_FILE).is_file() and "projector.weight" not in ours:
        path = folder / STAGE_1_FILE
        ours |= from_official(read_tensors(path), str(path))
    return ours


def load_released(
    folder: Path,
    device: str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    trained: bool = True,
    **options: Any,
) -> ChatUniVi:
    """Build a model at the sizes of a folder, with its weights.

    Args:
        folder: see the head of this file.
        device, dtype: of the result.
        trained: False takes a random projector where the folder has none, as stage 1 begins.
        options: settings that differ from the released ones (`ChatUniViConfig`).

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit; keys are listed.
    """
    ours = read_folder(folder)
    llama, vision = read_sizes(folder), tower_sizes(ours)
    known = [size for size, sizes in LANGUAGE.items() if sizes.hidden_size == llama.hidden_size]
    released = replace(PAPER_CONFIG, image_size=vision.image_size)
    released = replace(released, size=known[0]) if known else released
    model = build_paper("meta", with_options(released, options), vision, llama)
    if not trained and "projector.weight" not in ours:
        begun = torch.nn.Linear(vision.hidden_size, llama.hidden_size).state_dict()
        ours |= {f"projector.{name}": tensor for name, tensor in begun.items()}
    ready = {name: tensor.to(device=device, dtype=dtype) for name, tensor in ours.items()}
    load_strict(model, ready, str(folder), assign=True)
    rebuild_buffers(model, device)
    tokenizer = SentencePieceTokenizer(folder / "tokenizer.model")
    patches = model.vision_encoder.num_patches
    model.processor = ChatUniViProcessor(tokenizer, model.config, patches)
    return model.eval()
