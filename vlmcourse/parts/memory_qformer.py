"""A Q-Former that reads a video frame by frame and remembers it in banks of fixed size.

At every frame the same learned queries start anew. They read

    self-attention    what this layer was given at earlier frames (query memory), and now
    cross-attention   the features of earlier frames (visual memory), and of this one

and then both memories take in what is new. The queries of the last frame are the video.

Paper: MA-LMM, arXiv 2404.05726, sections 3.2 and 3.3; instructed as in InstructBLIP, arXiv
2305.06500.
Official: boheumd/MA-LMM@ffe9fa9:lavis/models/blip2_models/blip2_vicuna_instruct.py (`forward`),
blip2.py (`MBBertSelfAttention`).
Differs: the state is handed in and out; officially it sits on the layers, is dropped when a count
of frames is reached, and otherwise leaks into the next video. Each memory can be off by itself.
Videos of a batch may end at different frames. What is stored is cut off the graph as there, but
need not be (`detach`).
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmcourse.parts.memory_state import MemoryState, remember, visible_tokens, with_memory
from vlmcourse.parts.qformer import QFormer, QFormerOutput


def step(
    qformer: QFormer,
    frame: Tensor,
    state: MemoryState | None,
    *,
    text_ids: Tensor | None = None,
    text_mask: Tensor | None = None,
    visual_capacity: int | None,
    query_capacity: int | None,
    rule: str = "weighted",
    active: Tensor | None = None,
    detach: bool | str = True,
    output_attentions: bool = False,
) -> tuple[QFormerOutput, MemoryState]:
    """Read one frame with what is remembered, then remember it too.

    Args:
        qformer: with a vocabulary if there is text.
        frame: `[B, N, C]`, position added.
        state: None before the first frame.
        text_ids, text_mask: `[B, L]`, the instruction; the same at every frame of a video. Or
            `[B * R, L]` for R instructions about each video in turn: what is seen is then kept
            once, and what is said of B in outputs and query memory holds for B * R.
        visual_capacity, query_capacity: entries that each bank keeps; 0 is no bank, None no bound.
        rule: see `memory_bank.append`.
        active: `[B]` bool, which videos have a frame now; None: all. Others keep their memory, and
            their output means nothing.
        detach: cut what is stored off the graph: True, False, or "queries" only.
        output_attentions: maps over memory and what is new, the memory first.

    Returns:
        The output with `hidden_states`, and the state after this frame.
    """
    out = attend(qformer, frame, state, text_ids, text_mask, output_attentions)
    capacities = (visual_capacity, query_capacity)
    return out, remember(state, frame, out, capacities, rule, active, detach)


def attend(
    qformer: QFormer,
    frame: Tensor,
    state: MemoryState | None,
    text_ids: Tensor | None = None,
    text_mask: Tensor | None = None,
    output_attentions: bool = False,
) -> QFormerOutput:
    """The first half of `step`: read a frame and the memory, and leave the memory as it is."""
    nq, batch = qformer.queries.shape[1], len(frame if text_ids is None else text_ids)
    x = qformer.embed(batch, text_ids, qformer.queries)
    visual, queries = (None, ()) if state is None else (state.visual, state.queries)
    queries = queries or (None,) * len(qformer.layers)
    words = None if text_mask is None else F.pad(text_mask.bool(), (nq, 0), value=True)
    features, exists = with_memory(frame, visual), visible_tokens(frame, visual)
    visible = visible_tokens(x, queries[0], words)  # banks of all layers have the same slots
    states, self_maps, cross_maps = [x], [], []
    for layer, bank in zip(qformer.layers, queries, strict=True):
        source = with_memory(x, bank)  # [B, (M + 1) * (Nq + L), D]
        x, own, read = layer(x, nq, visible, features, exists, output_attentions, source)
        states.append(x)
        self_maps.append(own)
        cross_maps += [] if read is None else [read]
    maps = (tuple(cross_maps), tuple(self_maps)) if output_attentions else (None, None)
    return QFormerOutput(x[:, :nq], None if text_ids is None else x[:, nq:], tuple(states), *maps)


def read_frames(
    qformer: QFormer,
    frames: Tensor,
    frame_mask: Tensor | None = None,
    *,
    text_ids: Tensor | None = None,
    text_mask: Tensor | None = None,
    visual_capacity: int | None,
    query_capacity: int | None,
    rule: str = "weighted",
    detach: bool | str = True,
    state: MemoryState | None = None,
) -> tuple[Tensor, MemoryState]:
    """All frames of videos, one after the other; `step` for every frame says the same.

    Args:
        frames: `[B, T, N, C]`, positions added.
        frame_mask: `[B, T]` bool, True where a video has a frame; None: everywhere.
        state: of frames before these; None at the beginning. It is not changed.
        others: as in `step`.

    Returns:
        tokens `[B, Nq, D]` of the queries at each video's last frame, and the state after it.

    Raises:
        ValueError: a video without frames.
    """
    shown = None if frame_mask is None or bool(frame_mask.all()) else frame_mask.bool()
    tokens, capacities = None, (visual_capacity, query_capacity)
    for frame, active, last, matters in _moments(frames, shown):
        # what is stored off the graph has no use for one, unless a video ends here
        with torch.set_grad_enabled(torch.is_grad_enabled() and (matters or not detach)):
            out = attend(qformer, frame, state, text_ids, text_mask)
        state = remember(state, frame, out, capacities, rule, active, detach)
        if matters:
            if tokens is not None:
                ends = last.repeat_interleave(len(out.tokens) // len(last))[:, None, None]
                out.tokens = torch.where(ends, out.tokens, tokens)
            tokens = out.tokens
    return tokens, state


def _moments(frames: Tensor, shown: Tensor | None) -> Iterator[tuple[Tensor, ...]]:
    """Of every frame: features, which videos have it, whose last it is, whether it is one's."""
    count = frames.shape[1]
    if count == 0 or (shown is not None and not bool(shown.any(1).all())):
        raise ValueError("a video without frames cannot be read")
    if shown is None:
        for t in range(count):
            yield frames[:, t], None, None, t == count - 1
        return
    index = torch.arange(count, device=frames.device)
    last = torch.where(shown, index, -1).amax(1)  # [B]
    wanted = set(last.tolist())
    for t in range(max(wanted) + 1):
        yield frames[:, t], shown[:, t], last == t, t in wanted


def read_apart(
    qformer: QFormer,
    frames: Tensor,
    text_ids: Tensor | None = None,
    text_mask: Tensor | None = None,
) -> Tensor:
    """Every frame by itself, without memory: `[B, T, N, C]` to tokens `[B, T * Nq, D]`.

    Official: what the released code does where `memory_bank_length` is 0.
    """
    count = frames.shape[1]
    ids, mask = (
        None if text is None else text.repeat_interleave(count, 0) for text in (text_ids, text_mask)
    )
    tokens = qformer(frames.flatten(0, 1), text_ids=ids, text_mask=mask).tokens  # [B * T, Nq, D]
    return tokens.unflatten(0, (-1, count)).flatten(1, 2)
