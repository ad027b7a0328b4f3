"""M-RoPE: three numbers tell where a token is, its time, its row and its column.

    text      (0,0,0) (1,1,1)
    picture   2 x 2   (2,2,2) (2,2,3) (2,3,2) (2,3,3)
    text      (4,4,4) ...            one more than the largest of the three so far

A head's channels are shared out: the fastest pairs turn by time, the next by the row, the slowest
by the column. Text has three equal numbers and is turned exactly as without M-RoPE, so a language
model keeps what it knows. A minute of video takes 60 steps of time (at 2 frames a second), not its
thousands of tokens: positions grow slowly, which is why films longer than those of the training
can be read.

Paper: Qwen2-VL, arXiv 2409.12191, section 2.1.
Official: huggingface/transformers@v4.45.2:src/transformers/models/qwen2_vl/modeling_qwen2_vl.py
(`get_rope_index`, `apply_multimodal_rotary_pos_emb`).
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from vlmcourse.parts.packing import PADDING, PREFIX

Rule = Literal["published", "restart"]
TEXT = 0


def mrope_positions(
    kinds: Tensor,
    grids: Tensor,
    attention: Tensor | None = None,
    segments: Tensor | None = None,
    *,
    merge: int = 2,
    rule: Rule = "published",
) -> Tensor:
    """Number the tokens of rows on three axes.

    Media may stand anywhere and in any order, side by side too, and padding left, right or between
    a prefix that was read before and a question.

    Differs: `rule="restart"` is transformers 5.23, where text behind a medium restarts at its begin
    + the longer side, whatever its frames: behind a video of more temporal patches than that, text
    stands at moments of the video. Padding gets 0; the releases fill in 1 (4.45) or 0 (5.23).

    Args:
        kinds: `[B, L]` int; 0 for text, anything else for the tokens of media.
        grids: `[V, 3]` int64, temporal patches, rows and columns of patches before merging, of
            all media of the batch in reading order. For a video in one row of several questions
            (`segments`) it stands there once.
        attention: `[B, L]`, 0 at padding; None: no padding.
        segments: `[B, L]` as in `packed_mask`: every question is numbered as if it stood alone
            behind the prefix.
        merge: patches along a side of a token.
        rule: which number comes behind a medium.

    Returns:
        `[3, B, L]` int64 (time, row, column). The number behind a row's last token is its largest
        + 1 (`next_position`).

    Raises:
        ValueError: an unknown rule, or grids that do not count the batch's tokens of media.
    """
    if rule not in get_args(Rule):
        raise ValueError(f"the rule is one of {get_args(Rule)}, not {rule!r}")
    present = torch.ones_like(kinds, dtype=torch.bool) if attention is None else attention.bool()
    if segments is not None:
        present = present & (segments != PADDING)
    media = (kinds != TEXT) & present
    inside, steps = _media_tokens(grids.to(kinds.device), merge, rule)
    if int(media.sum()) != len(steps):
        raise ValueError(
            f"the rows have {int(media.sum())} places for media, but grids "
            f"{grids.tolist()[:4]} count {len(steps)} tokens"
        )
    steps_of = present.long()  # what the number behind a token has gained by it
    steps_of[media] = steps
    offsets = torch.zeros(3, *kinds.shape, dtype=torch.int64, device=kinds.device)
    offsets[:, media] = inside
    return torch.where(present, _sum_before(steps_of, segments) + offsets, 0)


def next_position(positions: Tensor, attention: Tensor | None = None) -> Tensor:
    """The number `[B]` that stands behind rows of positions `[3, B, L]`: the largest of all + 1.

    The next token takes it on all three axes, in a cached step too. transformers' `generate` goes
    on from the last column instead; behind text (published rule) that is the same.
    """
    if attention is not None:
        positions = torch.where(attention.bool(), positions, -1)
    return positions.amax((0, 2)) + 1


def _media_tokens(grids: Tensor, merge: int, rule: Rule) -> tuple[Tensor, Tensor]:
    """Time, row and column `[3, N]` of all tokens of media `[V, 3]` in their own medium, and what
    each gains `[N]`: nothing, but a medium's last token all that its medium gains."""
    times, heights, widths = grids[:, 0], grids[:, 1] // merge, grids[:, 2] // merge
    sizes = times * heights * widths  # [V]
    medium = torch.repeat_interleave(sizes)  # [N]
    ends = sizes.cumsum(0)
    index = torch.arange(len(medium), device=grids.device) - (ends - sizes)[medium]
    height, width = heights[medium], widths[medium]
    inside = torch.stack([index // (height * width), index // width % height, index % width])
    longest = torch.maximum(heights, widths)
    steps = torch.zeros_like(index)
    steps[ends - 1] = torch.maximum(times, longest) if rule == "published" else longest
    return inside, steps


def _sum_before(steps: Tensor, segments: Tensor | None) -> Tensor:
    """Sum of the steps `[B, L]` of all tokens that a token follows: of its row, or of the prefix
    and its own question."""
    before = steps.cumsum(1) - steps
    if segments is None:
        return before
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    index = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    start = torch.where(starts, index, 0).cummax(1).values  # [B, L], of the own segment
    prefix = (steps * (segments == PREFIX)).sum(1, keepdim=True)
    return before - before.gather(1, start) + torch.where(segments == PREFIX, 0, prefix)


class MRope(nn.Module):
    """Takes the place of a language model's `rotary_emb` and takes positions of three axes.

    Args:
        plain: the rotary embedding of a transformers Llama or Qwen2.
        section: how many pairs of channels turn by time, by row and by column; together d / 2.
    """

    def __init__(self, plain: nn.Module, section: Sequence[int]):
        super().__init__()
        self.plain = plain
        self.section = tuple(section)

    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Tables `[B, L, d]` in the type of `x`, for positions `[3, B, L]` or plain `[B, L]`."""
        if position_ids.ndim == 2:
            return self.plain(x, position_ids)
        frequencies = self.plain.inv_freq.to(x.device, torch.float32).split(self.section)
        angles = torch.cat(
            [axis[..., None].float() * own for axis, own in zip(position_ids, frequencies)], -1
        )  # [B, L, d / 2]
        angles = torch.cat([angles, angles], -1)
        scale = self.plain.attention_scaling
        return (angles.cos() * scale).to(x.dtype), (angles.sin() * scale).to(x.dtype)


def use_mrope(language_model: nn.Module, section: Sequence[int]) -> nn.Module:
    """Let a transformers Llama or Qwen2 causal LM take `position_ids` `[3, B, L]`.

    They go through `forward`, through the decoder and through `generate` (which cuts and continues
    them on the last axis) as plain ones do, beside an attention mask, which must not be left out:
    without one transformers looks for packed rows in the positions. Attention is "sdpa" or "eager".

    Args:
        section: pairs of channels for time, row and column: (16, 24, 24) in the published models.

    Returns:
        the same model.

    Raises:
        ValueError: the sections are not three or not all of a head, the model has M-RoPE already,
            or its rotary embedding is of another kind than the default.
    """
    decoder = language_model.get_decoder()
    plain = decoder.rotary_emb
    if isinstance(plain, MRope):
        raise ValueError("this language model has M-RoPE already")
    if getattr(plain, "rope_type", None) != "default":
        raise ValueError(f"M-RoPE takes the place of a default rotary embedding, not {plain}")
    pairs = plain.inv_freq.shape[0]
    if len(section) != 3 or sum(section) != pairs:
        raise ValueError(f"sections {tuple(section)} do not share out {pairs} pairs of channels")
    decoder.rotary_emb = MRope(plain, section)
    return language_model
