"""Seven ways from the features of a film to N tokens, with one signature.

`forward(frames [B, T, P, D], times_s [B, T]) -> tokens [B, N, C], mask [B, N]`, C being `width`.
All frames exist and T is the config's, so all N tokens are real ones. Each way is a part of
`vlmcourse/parts` and the numbers that make it spend N tokens (connectors_config.py).
"""

import torch
from torch import Tensor, nn

from vlmcourse.parts.clustering import merge_clusters
from vlmcourse.parts.event_merging import merge_videos
from vlmcourse.parts.gated_adapter import convolve_grid, grid_convolution
from vlmcourse.parts.memory_qformer import read_frames
from vlmcourse.parts.merging_baselines import grid_ids
from vlmcourse.parts.pooling import spatio_temporal_pooling
from vlmcourse.parts.qformer import QFormer
from vlmcourse.parts.token_merge import merge_neighbours, merged_width
from vlmcourse.systems.connectors_config import (
    BANK,
    EVENT_K,
    KS,
    ConnectorsConfig,
    Spending,
    qformer_config,
    spending,
)

Tokens = tuple[Tensor, Tensor]


class Projection(nn.Module):
    """Some patches of every frame as they are: of each cell of an even grid the patch nearest to
    its middle (of several the first). What the other patches hold reaches the tokens only as far as
    the encoder's own attention has mixed it in."""

    def __init__(self, spent: Spending, patches: int, width: int):
        super().__init__()
        self.width = width
        chosen = middle_patches(patches, spent["patches_of_each"])
        self.register_buffer("chosen", chosen, persistent=False)

    def forward(self, frames: Tensor, times_s: Tensor) -> Tokens:
        return all_real(frames[:, :, self.chosen].flatten(1, 2))


def middle_patches(patches: int, cells: int) -> Tensor:
    """The patch nearest to the middle of each cell of a grid over a square frame: `[cells]`."""
    cell = grid_ids(patches, cells)  # [P]
    side = round(patches**0.5)
    place = torch.arange(patches)
    place = torch.stack([place // side, place % side], dim=1).double()  # [P, 2]
    middles = [place[cell == number].mean(0) for number in range(cells)]
    away = [
        (place - middle).square().sum(1).masked_fill(cell != number, torch.inf)
        for number, middle in enumerate(middles)
    ]
    return torch.stack(away).argmin(1)


class Pooling(nn.Module):
    """Video-ChatGPT's means over frames and over time; of neighbouring moments and places again
    means, where there are fewer tokens than those."""

    def __init__(self, spent: Spending, patches: int, width: int):
        super().__init__()
        self.width, self.temporal, self.spatial = width, spent["temporal"], spent["spatial"]
        self.register_buffer("cells", grid_ids(patches, self.spatial), persistent=False)

    def forward(self, frames: Tensor, times_s: Tensor) -> Tokens:
        count = frames.shape[1]
        pooled, _ = spatio_temporal_pooling(frames, num_temporal=0)  # [B, T + P, D]
        moments, places = pooled[:, :count], pooled[:, count:]
        moments = moments.unflatten(1, (self.temporal, -1)).mean(2)  # [B, temporal, D]
        cells = self.cells.expand(len(frames), -1)
        return all_real(torch.cat([moments, merge_clusters(places, cells, self.spatial)], dim=1))


class Merging(nn.Module):
    """MiniGPT4-video's joining of four neighbours in reading order, round by round. Between two
    rounds a linear layer brings them back to D channels; behind the last one the projector does."""

    def __init__(self, spent: Spending, patches: int, width: int):
        super().__init__()
        self.width = merged_width(width, 4)
        self.between = nn.ModuleList(
            nn.Linear(self.width, width) for _ in range(spent["rounds"] - 1)
        )

    def forward(self, frames: Tensor, times_s: Tensor) -> Tokens:
        tokens = merge_neighbours(frames, 4)  # [B, T, P / 4, 4 D]
        for layer in self.between:
            tokens = merge_neighbours(layer(tokens), 4)
        return all_real(tokens.flatten(1, 2))


class Convolving(nn.Module):
    """CogVLM2's 2 x 2 convolution, once or several times; the gated adapter stands behind it as its
    projector. Marks of begin and end, which CogVLM2 has, would be two tokens more a frame."""

    def __init__(self, spent: Spending, patches: int, width: int):
        super().__init__()
        self.width = width
        self.rounds = nn.ModuleList(grid_convolution(width) for _ in range(spent["rounds"]))

    def forward(self, frames: Tensor, times_s: Tensor) -> Tokens:
        tokens = frames.flatten(0, 1)  # [B * T, P, D]
        for convolution in self.rounds:
            tokens = convolve_grid(tokens, convolution)
        return all_real(tokens.unflatten(0, frames.shape[:2]).flatten(1, 2))


class Queries(nn.Module):
    """A Q-Former whose N queries look at all features of the film at once."""

    def __init__(self, spent: Spending, patches: int, width: int):
        super().__init__()
        self.qformer = QFormer(qformer_config(spent["queries"]))
        self.width = self.qformer.config.hidden_size

    def forward(self, frames: Tensor, times_s: Tensor) -> Tokens:
        return all_real(self.qformer(frames.flatten(1, 2)).tokens)


class Bank(Queries):
    """MA-LMM's Q-Former with its two memory banks: the same weights as `Queries`, frame by frame,
    and the queries' state at the last frame. It reads no question."""

    def forward(self, frames: Tensor, times_s: Tensor) -> Tokens:
        capacity = {"visual_capacity": BANK, "query_capacity": BANK}
        return all_real(read_frames(self.qformer, frames, detach="queries", **capacity)[0])


class Clustering(nn.Module):
    """Chat-UniVi's events and clusters; nothing in it trains."""

    def __init__(self, spent: Spending, patches: int, width: int):
        super().__init__()
        self.width, self.events, self.scales = width, spent["events"], spent["tokens_of_each"]

    def forward(self, frames: Tensor, times_s: Tensor) -> Tokens:
        ks = KS[: len(self.scales)]
        there = torch.ones(frames.shape[:2], dtype=torch.bool, device=frames.device)
        rate = self.events if self.events > 1 else 1 / frames.shape[1]
        merged = merge_videos(frames, there, self.scales, ks, rate, EVENT_K, pictures=0)
        return merged.tokens, merged.mask


MODULES = {
    "projection": Projection,
    "pooling": Pooling,
    "merge4": Merging,
    "qformer": Queries,
    "clustering": Clustering,
    "memory_bank": Bank,
    "gated_adapter": Convolving,
}


def build_way(config: ConnectorsConfig, patches: int, width: int) -> nn.Module:
    """The way that settings ask for.

    Args:
        patches, width: P and D of the features.

    Raises:
        UserError: it cannot make so many tokens of so many features.
    """
    spent = spending(config.connector, config.tokens, config.num_frames, patches)
    return MODULES[config.connector](spent, patches, width)


def all_real(tokens: Tensor) -> Tokens:
    """Tokens `[B, N, C]` and a mask that leaves none of them out."""
    return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
