"""Chat-UniVi's events: which frames of a video belong together.

Paper: Chat-UniVi, arXiv 2311.08046, section 3.2.
Official: PKU-YuanGroup/Chat-UniVi@ec0b3db:ChatUniVi/model/arch.py (`project`).
Differs: the paper speaks of segments. The code clusters frame means, so an event is what looks
alike, wherever it is in time; and as the code shrinks the number of neighbours to 1 or 2 for up to
4 events, noise settles them in every video of 17 to 64 frames (`partitions` shows it).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vlmcourse.parts.cluster_rules import Noise, neighbours, num_events, seeded_noise
from vlmcourse.parts.clustering import Rule, dpc_knn

Temporal = Literal["events", "contiguous"]
TEMPORALS = ("events", "contiguous")


@dataclass(frozen=True)
class Events:
    """Which frames of V videos make an event.

    Attributes:
        ids: `[V, T]`, the event of each frame, numbered by their first frames; -1 without a frame.
        counts: `[V]`, events of each video.
        clusters: `[V, E]`, the number that each event had as a cluster (by score); -1 behind.
    """

    ids: Tensor
    counts: Tensor
    clusters: Tensor


def events(
    frame_vectors: Tensor,
    mask: Tensor | None,
    rate: float,
    k: int,
    *,
    temporal: Temporal = "events",
    rule: Rule = "exact",
    noise: Sequence[Noise] | None = None,
    pictures: int = 2,
) -> Events:
    """Find the events of V videos.

    Args:
        frame_vectors: `[V, T, D]`, the mean over each frame's patches.
        mask: `[V, T]` bool, True where a frame exists; those are first. None: all do.
        rate: events, or events a frame, as `num_events` reads it.
        k: frames that make the density; what lasts for fewer is nowhere dense, and seldom an event.
        temporal: "events", by what they show; or "contiguous", as many equal parts of time.
        rule, noise: of the clustering; noise is one source a video, asked for `(1, T)`.
        pictures: a video of at most so many frames has none; every frame counts as its own.

    Raises:
        ValueError: a video without frames, or unknown words.
    """
    if temporal not in TEMPORALS:
        raise ValueError(f"unknown events {temporal!r}; known: {', '.join(TEMPORALS)}")
    if mask is None:
        mask = torch.ones(frame_vectors.shape[:2], dtype=torch.bool, device=frame_vectors.device)
    lengths = mask.sum(1).tolist()
    if not all(lengths):
        raise ValueError("a video without frames has no events")
    numbers = [n if n <= pictures else num_events(n, rate) for n in lengths]
    counts = torch.tensor(numbers, device=mask.device)
    time = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)  # [V, T]
    if temporal == "contiguous":
        found = time * counts[:, None] // mask.sum(1, keepdim=True)
    elif rule == "exact":
        found = dpc_knn(frame_vectors, counts, k, mask=mask).ids
    else:
        found = time.clone()
        sources = noise or [None] * len(mask)
        for row, (length, number) in enumerate(zip(lengths, numbers)):
            if length > pictures:
                drawn = sources[row] and sources[row]((1, length)).to(frame_vectors.device)
                part, near = frame_vectors[row : row + 1, :length], neighbours(k, number, rule)
                found[row, :length] = dpc_knn(part, number, near, noise=drawn, rule=rule).ids[0]
    return _in_order(found.masked_fill(~mask, -1), counts)


def _in_order(found: Tensor, counts: Tensor) -> Events:
    """Number clusters `[V, T]` by their first frames."""
    videos, length = found.shape
    most = int(counts.max())
    time = torch.arange(length, device=found.device).expand_as(found)
    place = found.masked_fill(found < 0, most)  # frames that are not there make a cluster behind
    first = torch.full((videos, most + 1), length, device=found.device)
    first = first.scatter_reduce(1, place, time, "amin")[:, :most]  # [V, E]
    clusters = first.argsort(dim=1, stable=True)
    ids = clusters.argsort(dim=1).gather(1, found.clamp(min=0))
    behind = torch.arange(most, device=found.device) >= counts[:, None]
    return Events(ids.masked_fill(found < 0, -1), counts, clusters.masked_fill(behind, -1))


def partitions(
    frame_vectors: Tensor, seeds: Sequence[int], rate: float = 1 / 16, k: int = 5
) -> Tensor:
    """Events of one video by the official rule under the noise of each seed.

    Args:
        frame_vectors: `[T, D]`.

    Returns:
        `[number of seeds, T]` int64, events numbered by their first frames, so that equal rows are
        equal partitions: `.unique(dim=0)` counts them.
    """
    wide = frame_vectors.expand(len(seeds), -1, -1)
    noise = [seeded_noise(seed) for seed in seeds]
    return events(wide, None, rate, k, rule="official", noise=noise).ids


@dataclass(frozen=True)
class EventFrames:
    """The S events of all videos, one behind another, and their frames.

    Attributes:
        videos: `[S]`, the video of each.
        frames: `[S, n]`, its frames, counted over all frames that exist; -1 behind.
        sizes: frames of each.
        pictures: whether it is a picture that stands alone.
    """

    videos: Tensor
    frames: Tensor
    sizes: list[int]
    pictures: list[bool]

    def groups(self, rule: Rule) -> list[list[int]]:
        """Events that are merged together: those of one size by the official rule, where padding
        would change distances; else those whose sizes differ by less than a fifth."""
        found: dict[tuple[bool, int], list[int]] = {}
        for number, (size, picture) in enumerate(zip(self.sizes, self.pictures)):
            key = size if rule == "official" else int(4 * math.log2(size))
            found.setdefault((picture, key), []).append(number)
        return list(found.values())


def event_frames(found: Events, mask: Tensor, pictures: int = 2) -> EventFrames:
    """Collect the frames of each event.

    Args:
        mask: `[V, T]`, as in `events`.
    """
    before = found.counts.cumsum(0) - found.counts  # [V] events of the videos in front
    owner = (found.ids + before[:, None])[mask]  # [F] event of each frame, of all videos
    total = int(found.counts.sum())
    sizes = torch.bincount(owner, minlength=total)  # [S]
    order = owner.argsort(stable=True)  # frames event by event, in order of time
    starts = sizes.cumsum(0) - sizes
    place = torch.arange(len(order), device=order.device) - starts[owner[order]]
    frames = order.new_full((total, int(sizes.max())), -1)
    frames[owner[order], place] = order
    videos = torch.arange(len(mask), device=mask.device).repeat_interleave(found.counts)
    short = (mask.sum(1) <= pictures)[videos]
    return EventFrames(videos, frames, sizes.tolist(), short.tolist())
