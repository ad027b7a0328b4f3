"""Names of a Q-Former's weights, official and ours, both ways.

One map serves every Q-Former of the official files; they differ in what stands before a key:

    Qformer.        with query_tokens          BLIP-2's, over the patches of a picture
    video_Qformer.  with video_query_tokens    Video-LLaMA's, over frames
    audio_Qformer.  with audio_query_tokens    Video-LLaMA's, over stretches of sound

Official: salesforce/LAVIS@506965b:lavis/models/blip2_models/Qformer.py (`BertLMHeadModel`).
"""

import re
from collections.abc import Mapping

from torch import Tensor

from vlmcourse.checkpoints.files import refuse_unknown

TOP = (
    ("bert.embeddings.LayerNorm.", "norm."),
    ("bert.embeddings.word_embeddings.", "word_embeddings."),
    ("bert.embeddings.position_embeddings.", "position_embeddings."),
)
PROJECTIONS = ("query", "key", "value")
LAYER = (
    *((f"attention.self.{part}.", f"self_attention.{part}.") for part in PROJECTIONS),
    ("attention.output.dense.", "self_attention.output."),
    ("attention.output.LayerNorm.", "self_attention.norm."),
    *((f"crossattention.self.{part}.", f"cross_attention.{part}.") for part in PROJECTIONS),
    ("crossattention.output.dense.", "cross_attention.output."),
    ("crossattention.output.LayerNorm.", "cross_attention.norm."),
    ("intermediate_query.dense.", "feed_forward.up."),
    ("output_query.dense.", "feed_forward.down."),
    ("output_query.LayerNorm.", "feed_forward.norm."),
    ("intermediate.dense.", "text_feed_forward.up."),
    ("output.dense.", "text_feed_forward.down."),
    ("output.LayerNorm.", "text_feed_forward.norm."),
)
"""Official and our beginnings of a name, inside a layer (`bert.encoder.layer.N.`, `layers.N.`)."""

DROPPED = ("bert.embeddings.position_ids", "cls.")
"""Beginnings of official keys that never have a place here: a buffer that counts, the word head."""
TEXT_PARTS = ("word_embeddings.", "position_embeddings.", "text_feed_forward.")
"""Our names' parts that only a Q-Former with a vocabulary has."""


def our_name(official: str) -> str:
    """Our state-dict name of an official key, less what stands before it (`bert. ...`).

    Raises:
        KeyError: a key of no known part, and one of `DROPPED`.
    """
    layer = re.fullmatch(r"bert\.encoder\.layer\.(\d+)\.(.+)", official)
    if layer:
        return f"layers.{layer[1]}.{_swap(layer[2], LAYER, official)}"
    return _swap(official, TOP, official)


def official_name(ours: str) -> str:
    """The official key of a name of ours. Raises KeyError for `queries`, which stand elsewhere."""
    layer = re.fullmatch(r"layers\.(\d+)\.(.+)", ours)
    if layer:
        back = tuple((mine, theirs) for theirs, mine in LAYER)
        return f"bert.encoder.layer.{layer[1]}.{_swap(layer[2], back, ours)}"
    return _swap(ours, tuple((mine, theirs) for theirs, mine in TOP), ours)


def _swap(name: str, pairs: tuple[tuple[str, str], ...], whole: str) -> str:
    """Exchange the beginning of a name; what is left must say which tensor of a module it is."""
    for old, new in pairs:
        if name in (old + "weight", old + "bias"):
            return new + name[len(old) :]
    raise KeyError(whole)


def from_official(
    tensors: Mapping[str, Tensor],
    text: bool,
    prefix: str = "Qformer.",
    queries: str = "query_tokens",
    source: str = "Q-Former",
) -> dict[str, Tensor]:
    """The tensors of one Q-Former under our names; keys of other parts are passed over.

    Args:
        tensors: official tensors, of a whole model or a part of it.
        text: keep the text parts (`TEXT_PARTS`); without a vocabulary there is no place for them.
        prefix, queries: see the head of this file.
        source: named in messages.

    Raises:
        CheckpointError: lists the keys behind the prefix that are neither known nor in `DROPPED`.
    """
    result = {"queries": tensors[queries]} if queries in tensors else {}
    unknown = []
    for key, tensor in tensors.items():
        if not key.startswith(prefix) or key.removeprefix(prefix).startswith(DROPPED):
            continue
        try:
            name = our_name(key.removeprefix(prefix))
        except KeyError:
            unknown.append(key)
            continue
        if text or not any(part in name for part in TEXT_PARTS):
            result[name] = tensor
    refuse_unknown(unknown, source)
    return result


def to_official(
    tensors: Mapping[str, Tensor], prefix: str = "Qformer.", queries: str = "query_tokens"
) -> dict[str, Tensor]:
    """A Q-Former's tensors under their official names. Raises KeyError for an unknown name."""
    return {
        queries if name == "queries" else prefix + official_name(name): tensor
        for name, tensor in tensors.items()
    }
