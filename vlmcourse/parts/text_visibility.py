"""Which queries and words of a Q-Former may see each other."""

import torch
from torch import Tensor


def text_visibility(num_queries: int, text_ids: Tensor, text_mask: Tensor | None, kind: str):
    """Who sees whom among queries and text: `[B, 1, Nq + L, Nq + L]` bool, row sees column.

    "causal" (BLIP-2's generation): queries see queries, a word sees them and no later word.
    """
    batch, total = len(text_ids), num_queries + text_ids.shape[1]
    visible = torch.ones(batch, total, total, dtype=torch.bool, device=text_ids.device)
    if kind == "causal":
        visible[:, :num_queries, num_queries:] = False
        visible[:, num_queries:, num_queries:].tril_()
    elif kind != "bidirectional":
        raise ValueError(f"text_attention is 'bidirectional' or 'causal', not {kind!r}")
    if text_mask is not None:
        visible[:, :, num_queries:] &= text_mask.bool()[:, None]
    return visible[:, None]
