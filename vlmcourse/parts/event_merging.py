"""Chat-UniVi's tokens of videos: frames that look alike become an event, and the tokens of an
event's frames are merged as if they were one picture's.

Paper: Chat-UniVi, arXiv 2311.08046, section 3.2.
Official: PKU-YuanGroup/Chat-UniVi@ec0b3db:ChatUniVi/model/arch.py (`project`).
Differs: the official code handles one video and one event at a time; here all frames of a batch are
clustered together, and all events of about one size. What its paper does not say holds here too:
an event's second scale merges the second scales of its frames, not its own first, and frames carry
no time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmcourse.parts.cluster_rules import Noise, cluster_count, scale_sizes
from vlmcourse.parts.clustering import Rule, merge_clusters
from vlmcourse.parts.events import EventFrames, Events, Temporal, event_frames, events
from vlmcourse.parts.image_merging import Merging, Scale, cluster_ids, image_scales
from vlmcourse.parts.merging_baselines import place_ids


@dataclass(frozen=True)
class MergedVideos:
    """Tokens of V videos, and where they come from.

    Attributes:
        tokens, mask: `[V, N, D]` and `[V, N]` bool: event by event, fine to coarse.
        events: which frames make an event.
        frames: the scales of all frames that exist, video by video.
        event_ids: of each scale `[S, n]`, S the events of all videos: the token of its event that
            each token of the event's frames went into; -1 behind, and for pictures.
    """

    tokens: Tensor
    mask: Tensor
    events: Events
    frames: tuple[Scale, ...]
    event_ids: tuple[Tensor, ...]


def video_tokens(
    features: Tensor,
    frame_mask: Tensor,
    rates: Sequence[float],
    ks: Sequence[int],
    temporal_rate: float,
    temporal_k: int,
    **how,
) -> tuple[Tensor, Tensor, Events]:
    """Videos and pictures to tokens `[V, N, D]`, their mask `[V, N]` and the events.

    Arguments as `merge_videos`.
    """
    merged = merge_videos(features, frame_mask, rates, ks, temporal_rate, temporal_k, **how)
    return merged.tokens, merged.mask, merged.events


def merge_videos(
    features: Tensor,
    frame_mask: Tensor,
    rates: Sequence[float],
    ks: Sequence[int],
    temporal_rate: float,
    temporal_k: int,
    *,
    merging: Merging = "dpc_knn",
    temporal: Temporal = "events",
    rule: Rule = "exact",
    seed: int = 0,
    noise: Sequence[Noise] | None = None,
    pictures: int = 2,
) -> MergedVideos:
    """Merge every frame alone, then, of each event, its frames' tokens scale by scale.

    Each video comes out as it would alone.

    Args:
        features: `[V, T, P, D]`.
        frame_mask: `[V, T]` bool, True where a frame exists; those are first.
        rates, ks, merging, rule, seed: of the spatial scales, see `image_scales`; an event's scale
            has as many tokens as a picture's, unless its rate is a share.
        temporal_rate, temporal_k: of the events, the same for frames.
        temporal: see `events`.
        noise: one source a video.
        pictures: a medium of at most so many frames is pictures: each frame gives its own tokens.

    Raises:
        ValueError: a video without frames, or more clusters than tokens.
    """
    found = events(
        features.float().mean(2), frame_mask, temporal_rate, temporal_k,
        temporal=temporal, rule=rule, noise=noise, pictures=pictures,
    )  # fmt: skip
    members = event_frames(found, frame_mask, pictures)
    sizes = (features.shape[2], *scale_sizes(features.shape[2], rates))
    of_frames, of_events = _draw(noise, members, sizes)
    how = {"merging": merging, "rule": rule}
    there = features.flatten(0, 1) if bool(frame_mask.all()) else features[frame_mask]  # [F, P, D]
    frames = image_scales(there, rates, ks, seed=seed, noise=of_frames, **how)
    parts, here, all_ids = [], [], []
    for stage, (scale, rate, k) in enumerate(zip(frames, rates, ks)):
        drawn = of_events[stage] if of_events else None
        tokens, mask, ids = _merge_events(
            scale.tokens, members, rate, k, noise=drawn, seed=seed + len(rates) + stage, **how
        )
        parts.append(tokens)
        here.append(mask)
        all_ids.append(ids)
    mask = torch.cat(here, dim=1)  # [S, sum of K]
    flat = torch.cat(parts, dim=1)[mask]  # [all tokens, D], video by video
    counts = flat.new_zeros(len(features), dtype=torch.int64)
    counts = counts.index_add(0, members.videos, mask.sum(1))  # [V]
    where = torch.arange(int(counts.max()), device=flat.device) < counts[:, None]  # [V, N]
    tokens = flat.new_zeros(*where.shape, flat.shape[-1])
    tokens[where] = flat
    return MergedVideos(tokens, where, found, frames, tuple(all_ids))


def _merge_events(
    tokens: Tensor,
    members: EventFrames,
    rate: float,
    k: int,
    *,
    merging: Merging,
    rule: Rule,
    seed: int,
    noise: Sequence[Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One scale of all events, from the tokens `[F, K, D]` of all frames.

    Returns:
        tokens `[S, K', D]`, mask `[S, K']`, and the ids of `MergedVideos`.
    """
    each = tokens.shape[1]
    totals = [each * size for size in members.sizes]
    counts = [
        each if picture or merging == "grid" else cluster_count(rate, total)
        for total, picture in zip(totals, members.pictures)
    ]
    most, longest = max(counts), max(totals)
    order, parts, all_ids = [], [], []
    for group in members.groups(rule):
        frames = members.frames[group]
        frames = frames[:, : max(members.sizes[i] for i in group)]  # [s, n]
        x = tokens[frames.clamp(min=0)].flatten(1, 2)  # [s, n * K, D]
        mask = (frames >= 0).repeat_interleave(each, dim=1)
        whole = len({members.sizes[i] for i in group}) == 1
        if members.pictures[group[0]]:
            merged, ids = x, mask.long() - 2  # no clusters: -1 everywhere
        else:
            drawn = torch.cat([noise[i] for i in group]) if noise else None
            numbers = torch.tensor([counts[i] for i in group], device=tokens.device)
            if merging == "grid":
                ids = place_ids(mask, each)
            else:
                even = counts[group[0]] if len({counts[i] for i in group}) == 1 else numbers
                ids = cluster_ids(x, even, k, None if whole else mask, drawn, merging, rule, seed)
            merged = merge_clusters(x, ids, int(numbers.max()))
        order += group
        pad = torch.nn.functional.pad
        parts.append(pad(merged, (0, 0, 0, most - merged.shape[1])))
        all_ids.append(pad(ids, (0, longest - ids.shape[1]), value=-1))
    back = torch.tensor(order, device=tokens.device).argsort()
    number = torch.tensor(counts, device=tokens.device)
    mask = torch.arange(most, device=tokens.device) < number[:, None]  # [S, K']
    return torch.cat(parts)[back], mask, torch.cat(all_ids)[back]


def _draw(
    noise: Sequence[Noise] | None, members: EventFrames, sizes: Sequence[int]
) -> tuple[list[Tensor] | None, list[list[Tensor]] | None]:
    """Noise of each scale for all frames `[F, N]`, and for each event `[1, n * N]`, drawn from each
    video's source in the order of the official code."""
    if noise is None:
        return None, None
    stages = range(len(sizes) - 1)
    frames: list[list[Tensor]] = [[] for _ in stages]
    of_events: list[list[Tensor]] = [[] for _ in stages]
    for video, source in enumerate(noise):
        own = [i for i, owner in enumerate(members.videos.tolist()) if owner == video]
        length = sum(members.sizes[i] for i in own)
        for stage in stages:
            frames[stage].append(source((length, sizes[stage])))
        for i in own:
            for stage in stages:
                shape = (1, members.sizes[i] * sizes[stage + 1])
                of_events[stage].append(None if members.pictures[i] else source(shape))
    return [torch.cat(parts) for parts in frames], of_events
