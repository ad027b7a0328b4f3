"""Chat-UniVi's merging once more, as plain loops: the yardstick of its numbers and of its speed.

Slow on purpose and with nothing clever in it: every frame, every event and every token has its
turn. `vlmcourse timings --what event_merging` runs it beside the real one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmcourse.evaluation.loop_timings import Work
from vlmcourse.parts.cluster_rules import cluster_count, num_events
from vlmcourse.parts.event_merging import merge_videos

AIM = {"film": 5.0}
"""How many times faster than the loops each should be."""


@dataclass(frozen=True)
class MergingSizes:
    """Of what is timed.

    Attributes:
        frames: of the film that is merged alone.
        lengths: frames of the films that are merged as one batch.
        patches, width: of a frame.
        rates, ks, temporal_rate, temporal_k: see parts/event_merging.py.
    """

    frames: int
    lengths: tuple[int, ...]
    patches: int
    width: int
    rates: tuple[int, ...]
    ks: tuple[int, ...] = (5, 3, 3)
    temporal_rate: float = 1 / 16
    temporal_k: int = 5


SIZES = {
    "tiny": MergingSizes(8, (8, 5, 1, 8, 7, 8, 3, 8), 64, 96, (16, 8, 4), temporal_rate=0.5),
    "paper": MergingSizes(64, (64, 40, 1, 17), 256, 1024, (64, 32, 16)),
}
"""As in the small world, and as published."""


def loop_clusters(x: Tensor, clusters: int, k: int) -> list[int]:
    """The cluster of each token of `x` `[N, C]` by the exact rule of parts/clustering.py."""
    count, width = x.shape
    distances = [(x - token).square().sum(-1).sqrt() / width**0.5 for token in x]
    density = []
    for row in distances:
        nearest = row.sort().values[:k]
        density.append(float(torch.exp(-nearest.double().square().mean())))
    furthest = max(float(row.max()) for row in distances)
    scores = []
    for i in range(count):
        reach = [
            row
            for j, row in enumerate(distances[i].tolist())
            if density[j] > density[i] or (density[j] == density[i] and j < i)
        ]
        scores.append(density[i] * min(reach, default=furthest))
    centres = sorted(range(count), key=lambda i: (-scores[i], i))[:clusters]
    ids = []
    for i in range(count):
        near = [float(distances[i][centre]) for centre in centres]
        ids.append(centres.index(i) if i in centres else near.index(min(near)))
    return ids


def loop_means(x: Tensor, ids: Sequence[int], clusters: int) -> Tensor:
    """The mean of each cluster's tokens, `[K, C]`, less a millionth as in parts/clustering.py."""
    means = []
    for cluster in range(clusters):
        members = [token for token, own in zip(x, ids) if own == cluster]
        means.append(torch.stack(members).sum(0) / (len(members) + 1e-6))
    return torch.stack(means)


def loop_video(frames: Tensor, sizes: MergingSizes) -> Tensor:
    """The tokens of one film or of pictures, `[T, P, D]` to `[N, D]`: frame by frame, then event by
    event."""
    merged = [_scales(frame, sizes) for frame in frames]
    if len(frames) <= 2:
        return torch.cat([tokens for scales in merged for tokens in scales])
    count = num_events(len(frames), sizes.temporal_rate)
    found = loop_clusters(torch.stack([f.mean(0) for f in frames]), count, sizes.temporal_k)
    result = []
    for event in dict.fromkeys(found):  # in the order of their first frames
        own = [scales for scales, other in zip(merged, found) if other == event]
        for stage, (rate, k) in enumerate(zip(sizes.rates, sizes.ks)):
            tokens = torch.cat([scales[stage] for scales in own])
            clusters = cluster_count(rate, len(tokens))
            result.append(loop_means(tokens, loop_clusters(tokens, clusters, k), clusters))
    return torch.cat(result)


def _scales(tokens: Tensor, sizes: MergingSizes) -> list[Tensor]:
    scales = []
    for rate, k in zip(sizes.rates, sizes.ks):
        clusters = cluster_count(rate, len(tokens))
        tokens = loop_means(tokens, loop_clusters(tokens, clusters, k), clusters)
        scales.append(tokens)
    return scales


def made_up_films(
    lengths: Sequence[int], sizes: MergingSizes, device: str, seed: int = 0
) -> Tensor:
    """Features `[V, T, P, D]` of films with four scenes and noise."""
    generator = torch.Generator().manual_seed(seed)
    longest, shape = max(lengths), (sizes.patches, sizes.width)
    films = []
    for _ in lengths:
        scenes = torch.randn(4, *shape, generator=generator)
        which = torch.arange(longest) * 4 // longest
        films.append(scenes[which] + torch.randn(longest, *shape, generator=generator) / 2)
    return torch.stack(films).to(device)


def works(size: str, device: str, seed: int = 0) -> dict[str, Work]:
    """What is timed: one film against the loops; films and pictures as one batch against one after
    the other.

    Args:
        size: of `SIZES`.
        device: "cpu" or "cuda".
    """
    told = SIZES[size]
    rates = (told.rates, told.ks, told.temporal_rate, told.temporal_k)
    film = made_up_films([told.frames], told, device, seed)
    whole = torch.ones(1, told.frames, dtype=torch.bool, device=device)
    films = made_up_films(told.lengths, told, device, seed + 1)
    lengths = torch.tensor(told.lengths, device=device)
    mask = torch.arange(films.shape[1], device=device) < lengths[:, None]

    def batch() -> tuple[Tensor, ...]:
        merged = merge_videos(films, mask, *rates)
        return (merged.tokens[merged.mask],)

    def one_by_one() -> tuple[Tensor, ...]:
        found = []
        for video, length in zip(films, told.lengths):
            there = torch.ones(1, length, dtype=torch.bool, device=device)
            found.append(merge_videos(video[None, :length], there, *rates).tokens[0])
        return (torch.cat(found),)

    return {
        "film": Work(
            lambda: (merge_videos(film, whole, *rates).tokens[0],),
            lambda: (loop_video(film[0], told),),
        ),
        "batch_one_by_one": Work(batch, one_by_one),
    }
