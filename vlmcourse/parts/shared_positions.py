"""Positions where a whole picture costs three: its begin, one for all of its inside, its end.

    types      text text  boi  in   in   in   eoi  text text
    positions   0    1     2   3    3    3     4    5    6

A long video then stays within the positions a language model was trained on. What is lost: the
rotary embedding cannot tell the tokens of a picture apart, nor pictures side by side without text
between them (they are one run); only causality orders those.

Paper: CogVLM, arXiv 2311.03079, section 2.1 ("position embedding").
Official: Niky-san/cogvlm2_surce@29bac8a:modeling_cogvlm.py (`build_position_ids`).
Differs: the official code knows padding at the ends of a row only; here it may also stand between a
prefix that was read before and a question, and questions may share a row.
"""

import torch
from torch import Tensor

from vlmcourse.parts.packing import PADDING, PREFIX

LANGUAGE, VISION, ABSENT = 0, 1, -1
"""Types of tokens: text, those of pictures with their boi and eoi, padding."""


def shared_positions(
    types: Tensor, attention: Tensor | None = None, segments: Tensor | None = None
) -> Tensor:
    """Number the tokens of rows; the inner tokens of each run of vision tokens share one number.

    The number goes up at every language token, at the first and last token of a run, and at the
    first token between these. The first column is 0. As in the official code a row that is padded
    at the left begins at 1, its padding being 0 (the rotary embedding sees differences only), and
    a picture right behind such padding has no begin; official rows begin with text.

    Args:
        types: `[B, L]` int; 1 for the tokens of pictures, anything else is language.
        attention: `[B, L]`, 0 at padding, which never raises the number; None: no padding.
        segments: `[B, L]` as in `packed_mask`: every question is numbered as if it stood alone
            behind the prefix.

    Returns:
        `[B, L]` int64.
    """
    if segments is None:
        present = torch.ones_like(types) if attention is None else attention
        return _positions(types, present.bool())
    prefix = segments == PREFIX
    result = torch.where(prefix, _positions(types, segments != PADDING), 0)
    for number in segments.unique().tolist():
        if number not in (PREFIX, PADDING):
            own = segments == number
            result = torch.where(own, _positions(types, own | prefix), result)
    return result


def _positions(types: Tensor, present: Tensor) -> Tensor:
    """Positions `[B, L]` of rows whose tokens are `present` `[B, L]` bool."""
    kinds = torch.where(types == VISION, VISION, LANGUAGE).masked_fill(~present, ABSENT)
    before, after = _neighbour(kinds), _neighbour(kinds.flip(1)).flip(1)
    column = torch.arange(kinds.shape[1], device=kinds.device)
    first = (before == LANGUAGE) | (column == 0)
    last = (after == LANGUAGE) | (column == len(column) - 1)
    kinds = torch.where((kinds == VISION) & (first | last), LANGUAGE, kinds)
    rises = (kinds == LANGUAGE) | ((kinds == VISION) & (_neighbour(kinds) == LANGUAGE))
    rises[:, 0] = False
    return rises.long().cumsum(1)


def _neighbour(kinds: Tensor) -> Tensor:
    """Kinds `[B, L]` of the nearest token to the left that is not absent; `ABSENT` if none is."""
    index = torch.arange(kinds.shape[1], device=kinds.device).expand_as(kinds)
    nearest = torch.where(kinds == ABSENT, -1, index).cummax(1).values  # [B, L], own place included
    nearest = torch.cat([torch.full_like(nearest[:, :1], -1), nearest[:, :-1]], dim=1)
    return torch.where(nearest < 0, ABSENT, kinds.gather(1, nearest.clamp(min=0)))
