"""Official Video-ChatGPT weights and ours, both ways.

Official files, as a folder holds them (names as downloaded):

    LLaVA-Lightning-7B-v1-1/     base: Llama keys, the image projector, 32003 rows, tokenizer.model
    video_chatgpt-7B.bin         what was trained: the projector and the whole embedding table
    clip-vit-large-patch14/      openai/clip-vit-large-patch14; only its vision part is used

Official: mbzuai-oryx/Video-ChatGPT@659e04b:video_chatgpt/eval/model_utils.py (`initialize_model`).
Differs: the released file has no output layer, so there the three new rows of `lm_head` are random
at every start; here they are the mean row that training started from.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmcourse.backbones.language_model import mean_row, rebuild_buffers
from vlmcourse.backbones.tokenizers import SentencePieceTokenizer
from vlmcourse.checkpoints.files import CheckpointError, load_strict, read_tensors
from vlmcourse.systems import with_options
from vlmcourse.systems.video_chatgpt import (
    VIDEO_TOKENS,
    VideoChatGPT,
    VideoChatGPTConfig,
    VideoChatGPTProcessor,
    build_paper,
)

BASE, RELEASED, CLIP = "LLaVA-Lightning-7B-v1-1", "video_chatgpt-7B.bin", "clip-vit-large-patch14"
IMAGE_TOKENS = ("<im_patch>", "<im_start>", "<im_end>")
"""LLaVA's own tokens, rows 32000 to 32002; unused here, but they take their places."""

PREFIXES = (
    ("model.mm_projector.", "projector."),
    ("vision_model.", "vision_encoder.model."),
    ("model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)
"""Official and our beginnings of a name; the first that fits counts."""

TABLE = "model.embed_tokens.weight"
ROWS = "token_rows.weight"
IGNORABLE = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
"""Parts of a whole CLIP file that this system has no use for."""
BUFFERS = ("rotary_emb.inv_freq", "embeddings.position_ids")
"""Endings of buffers that old files store and that are computed here."""


def our_name(official: str) -> str:
    """Our state-dict name of an official key. Raises KeyError for a key of no known part."""
    for theirs, ours in PREFIXES:
        if official.startswith(theirs):
            return ours + official[len(theirs) :]
    raise KeyError(official)


def official_name(ours: str) -> str:
    """The official key of a name of ours. Raises KeyError for `token_rows`, which has none."""
    for theirs, our in PREFIXES:
        if ours.startswith(our):
            return theirs + ours[len(our) :]
    raise KeyError(ours)


def from_official(tensors: Mapping[str, Tensor], token_ids: Sequence[int]) -> dict[str, Tensor]:
    """Official tensors under our names; two rows of the table also as `token_rows`.

    Args:
        tensors: any part of the official keys.
        token_ids: ids of `<vid_patch>`, `<vid_start>`, `<vid_end>`.
    """
    result = {our_name(key): tensor for key, tensor in tensors.items()}
    if TABLE in tensors:
        result[ROWS] = tensors[TABLE][list(token_ids[1:])]
    return result


def to_official(tensors: Mapping[str, Tensor], token_ids: Sequence[int]) -> dict[str, Tensor]:
    """Our tensors under their official names; `token_rows` is written into the embedding table.

    Raises:
        KeyError: `token_rows` without the table it belongs to, or an unknown name.
    """
    result = {official_name(name): t for name, t in tensors.items() if name != ROWS}
    if ROWS in tensors:
        index = torch.tensor(list(token_ids[1:]), device=result[TABLE].device)
        result[TABLE] = result[TABLE].index_copy(0, index, tensors[ROWS].to(result[TABLE]))
    return result


def released_part(model: VideoChatGPT) -> dict[str, Tensor]:
    """What the released file holds, from a model of ours: the projector and the whole table.

    `torch.save` it to a `.bin` file and the official code loads it.
    """
    official = to_official(model.state_dict(), model.config.token_ids)
    kept = (TABLE, "model.mm_projector.weight", "model.mm_projector.bias")
    return {key: official[key].detach().cpu() for key in kept}


def without_buffers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors less the named buffers and parts that are not for us (`BUFFERS`, `IGNORABLE`)."""
    return {
        key: tensor
        for key, tensor in tensors.items()
        if not key.endswith(BUFFERS) and not key.startswith(IGNORABLE)
    }


def grown(table: Tensor, rows: int) -> Tensor:
    """A table `[V, E]` brought to `rows` rows: each new one is the mean of the old ones."""
    missing = rows - table.shape[0]
    mean = mean_row(table.float()).to(table.dtype)
    return torch.cat([table, mean.expand(missing, -1)]) if missing > 0 else table


def load_released(
    folder: Path,
    device: str = "cpu",
    dtype: torch.dtype = torch.float16,
    model: VideoChatGPT | None = None,
    **options: Any,
) -> VideoChatGPT:
    """Build the paper's model with its official weights.

    Args:
        folder: see the head of this file.
        device, dtype: of the result.
        model: a model on the meta device to fill; None builds the paper's.
        options: settings that differ from the paper's (`VideoChatGPTConfig`).

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit; keys are listed.
    """
    missing = [name for name in (BASE, RELEASED, CLIP) if not (folder / name).exists()]
    if missing:
        raise CheckpointError(f"{folder}: lacks {', '.join(missing)}")
    if model is None:
        model = build_paper("meta", with_options(VideoChatGPTConfig(), options))
    rows = model.config.base_vocabulary + len(VIDEO_TOKENS)
    tensors = without_buffers(read_tensors(folder / BASE))
    released = read_tensors(folder / RELEASED)
    for table in (TABLE, "lm_head.weight"):
        if table in tensors:
            tensors[table] = grown(tensors[table], rows)
    tensors.update(released)
    tensors.update(without_buffers(read_tensors(folder / CLIP)))
    try:
        ours = from_official(tensors, model.config.token_ids)
    except KeyError as error:
        raise CheckpointError(f"{folder}: a key of no known part: {error}") from error
    ours = {name: tensor.to(device=device, dtype=dtype) for name, tensor in ours.items()}
    load_strict(model, ours, str(folder), assign=True)
    rebuild_buffers(model, device)
    tokenizer = SentencePieceTokenizer(folder / BASE / "tokenizer.model")
    tokenizer.add_tokens(IMAGE_TOKENS)
    model.processor = VideoChatGPTProcessor(
        tokenizer, model.config, model.vision_encoder.num_patches
    )
    return model.eval()
