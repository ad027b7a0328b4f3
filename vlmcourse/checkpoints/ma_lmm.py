"""Official MA-LMM weights and ours, both ways.

Official files, as a folder holds them (names as downloaded):

    vicuna-7b/                          Vicuna 7B 1.1 with config.json, tokenizer.model
    bert-base-uncased/                  words of the Q-Former: tokenizer.json or vocab.txt
    eva_vit_g.pth                       EVA-CLIP ViT-g
    instruct_blip_vicuna7b_trimmed.pth  where training begins (any of `STARTS`)
    checkpoint_best.pth                 what was trained on one data set (any of `CHECKPOINTS`), out
                                        of saved_model.tar

A checkpoint holds what was trained under "model", and by the way buffers of the frozen parts:
queries, Q-Former, `ln_vision`, `llm_proj` and the frame positions `image_pe`. The file of the
beginning has the same keys without `image_pe`, which begins as zeros. The banks have no weights.

Official: boheumd/MA-LMM@ffe9fa9:lavis/models/blip2_models/blip2_vicuna_instruct.py,
lavis/runners/runner_base.py (`_save_checkpoint`).
Differs: the official code loads without a check; here every tensor that is missing or has no place
is an error that lists it, except for `is_dropped`. The language model's row of `[PAD]`, which no
file holds, is the mean of the others (officially random).
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmcourse.backbones.instructions import BertInstructions
from vlmcourse.backbones.language_model import rebuild_buffers
from vlmcourse.backbones.tokenizers import SentencePieceTokenizer
from vlmcourse.checkpoints import eva_clip, qformer
from vlmcourse.checkpoints.blip2 import VIT_FILE, vit_tensors
from vlmcourse.checkpoints.files import (
    CheckpointError,
    load_strict,
    read_tensors,
    refuse_misfit,
    refuse_unknown,
)
from vlmcourse.checkpoints.video_chatgpt import grown
from vlmcourse.checkpoints.video_llama import read_sizes
from vlmcourse.systems import with_options
from vlmcourse.systems.ma_lmm import MaLmm, MaLmmConfig, build_paper
from vlmcourse.systems.ma_lmm_processor import MaLmmProcessor

log = logging.getLogger(__name__)

STARTS = ("instruct_blip_vicuna7b_trimmed.pth", "instruct_blip_vicuna13b_trimmed.pth")
CHECKPOINTS = ("checkpoint_best.pth", "checkpoint_*.pth")
WORDS = "bert-base-uncased"

PREFIXES = (
    ("ln_vision.", "vision_norm."),
    ("image_pe.", "frame_positions."),
    ("llm_proj.", "projector."),
    ("llm_model.", "language_model."),
)
"""Official and our beginnings of names, besides those of the encoder and the Q-Former."""

TRAINED_PARTS = ("vision_norm.", "frame_positions.", "qformer.", "projector.")
"""Beginnings of our names of what a checkpoint holds."""

TABLES = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
_BUFFERS = re.compile(r"(.*\.)?(position_ids|rotary_emb\.inv_freq)")


def is_dropped(official: str) -> bool:
    """Whether a key has no place here on purpose: tables that are computed, and the word head of a
    Q-Former."""
    return official.startswith("Qformer.cls.") or _BUFFERS.fullmatch(official) is not None


def our_name(official: str) -> str:
    """Our state-dict name of an official key. Raises KeyError for a key of no known part."""
    if official.startswith(eva_clip.PREFIX):
        return f"vision_encoder.{eva_clip.our_name(official)}"
    if official == "query_tokens":
        return "qformer.queries"
    if official.startswith("Qformer."):
        return f"qformer.{qformer.our_name(official.removeprefix('Qformer.'))}"
    for theirs, ours in PREFIXES:
        if official.startswith(theirs):
            return ours + official.removeprefix(theirs)
    raise KeyError(official)


def official_name(ours: str) -> str:
    """The official key of a name of ours. Raises KeyError for an unknown name."""
    part, _, rest = ours.partition(".")
    if part == "vision_encoder":
        return eva_clip.official_name(rest)
    if part == "qformer":
        return "query_tokens" if rest == "queries" else f"Qformer.{qformer.official_name(rest)}"
    for theirs, our in PREFIXES:
        if ours.startswith(our):
            return theirs + ours.removeprefix(our)
    raise KeyError(ours)


def from_official(tensors: Mapping[str, Tensor], source: str = "official") -> dict[str, Tensor]:
    """Official tensors under our names, less what `is_dropped`.

    Raises:
        CheckpointError: names every key of no known part.
    """
    ours, unknown = {}, []
    for key, tensor in tensors.items():
        if is_dropped(key):
            continue
        try:
            ours[our_name(key)] = tensor
        except KeyError:
            unknown.append(key)
    refuse_unknown(unknown, source)
    return ours


def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their official names."""
    return {official_name(name): tensor for name, tensor in tensors.items()}


def released_part(model: MaLmm) -> dict[str, dict[str, Tensor]]:
    """What a checkpoint holds, from a model of ours: `torch.save` it and the official code loads
    it."""
    kept = {n: t for n, t in model.state_dict().items() if n.startswith(TRAINED_PARTS)}
    return {"model": {key: t.detach().cpu() for key, t in to_official(kept).items()}}


# ---------------------------------------------------------------- the folder


def load_released(
    folder: Path,
    device: str = "cpu",
    dtype: torch.dtype = torch.float16,
    model: MaLmm | None = None,
    trained: bool = True,
    checkpoint: str | None = None,
    **options: Any,
) -> MaLmm:
    """Build the paper's model with its official weights.

    Args:
        folder: see the head of this file.
        device, dtype: of the result.
        model: a model on the meta device to fill; None builds the paper's around the folder's
            language model.
        trained: False takes InstructBLIP's weights, where the paper's training begins.
        checkpoint: name of the file of what was trained, where the folder has several.
        options: settings that differ from the paper's (`MaLmmConfig`): which bank and how many
            frames go with a checkpoint, its data set says (experiments/ma_lmm).

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit; keys are listed.
    """
    language, learnt = find_files(folder, trained, checkpoint)
    if model is None:
        sizes = read_sizes(language)
        sizes = replace(sizes, vocab_size=sizes.vocab_size + 1)  # [PAD]
        model = build_paper("meta", with_options(MaLmmConfig(), options), sizes)
    seen = vit_tensors(read_tensors(folder / VIT_FILE), model.vision_encoder.config, str(folder))
    tensors = {f"vision_encoder.{name}": tensor for name, tensor in seen.items()}
    tensors |= read_language_model(model, language)
    tensors |= read_checkpoint(model, learnt)
    tensors = {n: t.to(device=device, dtype=dtype) for n, t in tensors.items()}
    load_strict(model, tensors, str(folder), assign=True)
    rebuild_buffers(model, device)
    tokenizer = SentencePieceTokenizer(language / "tokenizer.model")
    model.processor = MaLmmProcessor(tokenizer, BertInstructions(folder / WORDS), model.config)
    return model.eval()


def read_language_model(model: MaLmm, folder: Path) -> dict[str, Tensor]:
    """The language model's own weights and a row for `[PAD]`, checked against a model.

    Raises:
        CheckpointError: see `refuse_misfit`.
    """
    tensors = {f"llm_model.{key}": tensor for key, tensor in read_tensors(folder).items()}
    ours, own = from_official(tensors, str(folder)), model.state_dict()
    for table in TABLES:
        if table in ours and len(own[table]) == len(ours[table]) + 1:
            ours[table] = grown(ours[table], len(own[table]))
    own = {name: tensor for name, tensor in own.items() if name.startswith("language_model.")}
    refuse_misfit(own, ours, str(folder))
    return ours


def read_checkpoint(model: MaLmm, path: Path) -> dict[str, Tensor]:
    """What was trained, or InstructBLIP's weights, checked against a model of any device.

    A picture encoder in the file, which never trained, is left to its own file; the log says so.

    Raises:
        CheckpointError: damaged; or tensors that are missing, left over or of another size: all are
            listed.
    """
    ours, own = from_official(read_tensors(path, part="model"), str(path)), model.state_dict()
    eyes = [name for name in ours if name.startswith("vision_encoder.")]
    if eyes:
        log.info("%s: %d tensors of the picture encoder left out", path, len(eyes))
        ours = {name: tensor for name, tensor in ours.items() if name not in eyes}
    positions = "frame_positions.weight"
    if path.name in STARTS and positions not in ours:
        ours[positions] = torch.zeros(own[positions].shape)
    own = {name: tensor for name, tensor in own.items() if name.startswith(TRAINED_PARTS)}
    refuse_misfit(own, ours, str(path))
    return ours


def find_files(
    folder: Path, trained: bool = True, checkpoint: str | None = None
) -> tuple[Path, Path]:
    """The language model of a folder, and the file of what was trained or where training begins.

    Raises:
        CheckpointError: names what is missing, or what is there twice.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    languages = sorted(path.parent for path in folder.glob("*/tokenizer.model"))
    patterns = STARTS
    if trained:
        patterns = CHECKPOINTS if checkpoint is None else (checkpoint,)
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    lacking = [name for name in (VIT_FILE, WORDS) if not (folder / name).exists()]
    if not languages:
        lacking.append("a language model's folder (vicuna-7b/ with tokenizer.model)")
    if not files:
        lacking.append(f"weights ({', '.join(patterns)})")
    if lacking:
        raise CheckpointError(f"{folder}: lacks {'; '.join(lacking)}")
    for what, paths in (("language models", languages), ("files of weights", files)):
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise CheckpointError(f"{folder}: several {what} ({names}); keep one, or name it")
    return languages[0], files[0]
