"""Connector tokens take the places that the layout kept for them."""

import torch
from torch import Tensor


class SpliceError(ValueError):
    """The places in a row and the tokens of its connector do not agree in number."""


def splice(
    embeddings: Tensor, places: Tensor, tokens: Tensor, mask: Tensor, rows: Tensor | None
) -> Tensor:
    """Put connector tokens into their places, in reading order.

    Args:
        embeddings: `[B, L, E]`.
        places: `[B, L]` bool.
        tokens, mask: `[V, N, E]` and `[V, N]` from a connector.
        rows: `[V]` row of each medium, ascending; None means one medium a row.

    Raises:
        SpliceError: a row has another number of places than its media have tokens.
    """
    wanted = places.sum(1)  # [B]
    count = mask.sum(1)  # [V]
    if rows is None:
        if len(count) != len(wanted):
            raise SpliceError(
                f"{len(count)} media for {len(wanted)} rows: say which row each is in"
            )
        given = count
    else:
        given = torch.zeros_like(wanted).index_add(0, rows, count)
    if not torch.equal(given, wanted):
        row = int((given != wanted).nonzero()[0])
        raise SpliceError(
            f"row {row} has {int(wanted[row])} places for media, but its media have "
            f"{int(given[row])} tokens"
        )
    result = embeddings.clone()
    result[places] = tokens[mask].to(embeddings.dtype)  # both in reading order: [sum of counts, E]
    return result
