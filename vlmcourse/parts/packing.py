"""Many questions about one video in one row: the video's tokens are computed once and shared.

A row is `[shared prefix][question 1][question 2]...[padding]`. Each question may look at the prefix
and at itself, never at another question, and its positions continue those of the prefix, so that
the numbers are those of separate rows (tests/parts/test_packing.py proves it).
"""

import torch
from torch import Tensor

PREFIX = 0
PADDING = -1


def packed_mask(segments: Tensor) -> Tensor:
    """Say which key each query may look at.

    Args:
        segments: `[B, L]` int; 0 = shared prefix, 1, 2, ... = questions in order, -1 = padding.

    Returns:
        `[B, 1, L, L]` bool, True = visible. A padding query sees only itself, so that no row of the
        softmax is empty.
    """
    query, key = segments[:, :, None], segments[:, None, :]
    same_or_prefix = (key == query) | (key == PREFIX)
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    visible = causal & same_or_prefix & (key != PADDING)
    itself = torch.eye(length, dtype=torch.bool, device=segments.device)
    visible = torch.where((query == PADDING), itself, visible)
    return visible[:, None]  # [B, 1, L, L]


def additive_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask as what is added to scores: 0 where visible, else the lowest number there is."""
    lowest = torch.finfo(dtype).min
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, lowest)


def packed_positions(segments: Tensor) -> Tensor:
    """Number the tokens of every question as if it stood alone behind the prefix.

    Args:
        segments: `[B, L]` as in `packed_mask`.

    Returns:
        `[B, L]` int64 positions; padding gets 0.
    """
    length = segments.shape[1]
    index = torch.arange(length, device=segments.device).expand_as(segments)
    prefix_length = (segments == PREFIX).sum(1, keepdim=True)  # [B, 1]
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    start_index = torch.where(starts, index, 0).cummax(1).values  # [B, L] start of own segment
    positions = index - start_index + torch.where(segments > 0, prefix_length, 0)
    return torch.where(segments == PADDING, 0, positions)
