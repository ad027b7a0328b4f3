"""Around Chat-UniVi's clustering: how many clusters, how many neighbours, which noise.

Official: PKU-YuanGroup/Chat-UniVi@ec0b3db:ChatUniVi/model/cluster.py (`CTM`).
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from vlmcourse.parts.clustering import Rule

Noise = Callable[[tuple[int, int]], Tensor]
"""Gives uniform numbers in [0, 1) of a shape `(sets, tokens)`, call by call."""


def cluster_count(rate: float, num_tokens: int) -> int:
    """Clusters that a rate asks for: above 1 their number, else a share of the tokens, rounded up.

    So a rate of 1 keeps every token. Raises ValueError where there are fewer tokens than clusters.
    """
    count = math.ceil(rate if rate > 1 else num_tokens * rate)
    if not 1 <= count <= num_tokens:
        raise ValueError(f"a rate of {rate} asks for {count} clusters of {num_tokens} tokens")
    return count


def scale_sizes(num_patches: int, rates: Sequence[float]) -> tuple[int, ...]:
    """Tokens of each scale of a picture, fine to coarse. Raises as `cluster_count`."""
    sizes = [num_patches]
    for rate in rates:
        sizes.append(cluster_count(rate, sizes[-1]))
    return tuple(sizes[1:])


def num_events(num_frames: int, rate: float) -> int:
    """Events of a video, as `cluster_count`; but never more than frames."""
    return cluster_count(min(rate, num_frames) if rate > 1 else rate, num_frames)


def token_count(
    num_frames: int,
    num_patches: int,
    rates: Sequence[float],
    temporal_rate: float,
    pictures: int = 2,
) -> int:
    """Tokens that a video of so many frames becomes.

    Args:
        pictures: media of at most so many frames are pictures, each with all tokens of a picture.

    Raises:
        ValueError: shares as spatial rates of a video, where it depends on what the frames show.
    """
    each = sum(scale_sizes(num_patches, rates))
    if num_frames <= pictures:
        return num_frames * each
    if any(rate <= 1 for rate in rates):
        raise ValueError(f"with shares as rates {tuple(rates)}, a video's tokens are not known yet")
    return num_events(num_frames, temporal_rate) * each


def neighbours(k: int, clusters: int, rule: Rule = "exact") -> int:
    """Neighbours that make the density: `k` as asked for, or what the official code makes of it.

    Differs: with fewer clusters than `k` the official code takes half their number, 1 to 3. With
    one neighbour, the token itself, all densities are equal and the noise decides.
    """
    return min(3, max(clusters // 2, 1)) if rule == "official" and k > clusters else k


def seeded_noise(seed: int) -> Noise:
    """Noise that a seed decides."""
    generator = torch.Generator().manual_seed(seed)
    return lambda shape: torch.rand(shape, generator=generator)


def recorded_noise(tensors: Iterable[Tensor]) -> Noise:
    """Noise that was written down, in the order of the official code's calls: of a video its frame
    means, its frames at each scale, then its events in order, each at each scale.

    Raises:
        ValueError: when asked for another shape than the next, or for more.
    """
    left = iter(tensors)

    def draw(shape: tuple[int, int]) -> Tensor:
        noise = next(left, None)
        if noise is None or tuple(noise.shape) != shape:
            got = "none is left" if noise is None else f"it is {tuple(noise.shape)}"
            raise ValueError(f"noise of shape {shape} is wanted, but {got}")
        return noise

    return draw
