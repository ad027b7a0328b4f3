"""What token merging is compared with at equal tokens: a fixed grid, and chance."""

import torch
from torch import Tensor


def grid_ids(num_tokens: int, cells: int, device: torch.device | None = None) -> Tensor:
    """Cell of each patch of a square picture: `[N]`, row by row.

    The grid is as nearly square as `cells` allows, wider than high: 16 are 4 x 4, 32 are 4 x 8.
    Where its sides do not divide the picture's, cells differ by a row or column.

    Raises:
        ValueError: no square number of patches, or the grid has a side longer than the picture's.
    """
    side = round(num_tokens**0.5)
    high = next(h for h in range(max(int(cells**0.5), 1), 0, -1) if cells % h == 0)
    wide = cells // high
    if side * side != num_tokens or wide > side:
        raise ValueError(f"{num_tokens} patches do not fall into a grid of {high} x {wide} cells")
    place = torch.arange(side, device=device)
    rows, columns = place * high // side, place * wide // side
    return (rows[:, None] * wide + columns).flatten()  # [N]


def place_ids(mask: Tensor, places: int) -> Tensor:
    """Each token to the token of its place: `[B, N]` for frames of `places` tokens each, one behind
    the other; -1 where `mask` `[B, N]` is False."""
    place = torch.arange(mask.shape[1], device=mask.device) % places
    return torch.where(mask, place, -1)


def random_ids(mask: Tensor, clusters: int | Tensor, seed: int) -> Tensor:
    """Clusters by chance, none empty: `[B, N]`, -1 where `mask` `[B, N]` is False.

    The seed decides them and not what the tokens are, so sets of one size get one and the same
    clusters, in whichever batch they stand.

    Args:
        clusters: K, or `[B]`.
    """
    generator = torch.Generator().manual_seed(seed)
    count = mask.shape[1]
    if not isinstance(clusters, Tensor):
        clusters = torch.full((len(mask),), clusters)
    drawn = torch.rand(count, 2, generator=generator, dtype=torch.float64).to(mask.device)
    clusters = clusters.to(mask.device)[:, None]  # [B, 1]
    heights = torch.where(mask, drawn[:, 0], -1)  # [B, N]
    place = heights.argsort(descending=True, stable=True).argsort()  # [B, N]
    anywhere = (drawn[:, 1] * clusters).long()
    return torch.where(mask, torch.where(place < clusters, place, anywhere), -1)
