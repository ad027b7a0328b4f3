"""Chat-UniVi's tokens of pictures: patches that look alike become one token, at three scales.

Paper: Chat-UniVi, arXiv 2311.08046, section 3.1.
Official: PKU-YuanGroup/Chat-UniVi@ec0b3db:ChatUniVi/model/arch.py (`project`).
Differs: as there, and unsaid in the paper: a scale is the mean of means of the scale before,
whatever number of patches these stand for, and its tokens come in the order of their centres'
scores, not of places. Nothing is learnt; gradients flow through the averages alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vlmcourse.parts.cluster_rules import neighbours, scale_sizes
from vlmcourse.parts.clustering import Rule, dpc_knn, merge_clusters
from vlmcourse.parts.merging_baselines import grid_ids, random_ids

Merging = Literal["dpc_knn", "grid", "random"]
MERGINGS = ("dpc_knn", "grid", "random")


@dataclass(frozen=True)
class Scale:
    """One scale of merged pictures.

    Attributes:
        tokens: `[B, K, D]`.
        ids: `[B, N]`, the token that each token of the scale before went into ("grid": each patch).
        patches: `[B, P]`, the same for the patches of the picture.
    """

    tokens: Tensor
    ids: Tensor
    patches: Tensor


def image_tokens(features: Tensor, rates: Sequence[float], ks: Sequence[int], **how) -> Tensor:
    """Patches `[B, P, D]` to the tokens of all scales, fine to coarse: `[B, sum of K, D]`.

    Arguments as `image_scales`.
    """
    return torch.cat([scale.tokens for scale in image_scales(features, rates, ks, **how)], dim=1)


def image_scales(
    features: Tensor,
    rates: Sequence[float],
    ks: Sequence[int],
    *,
    merging: Merging = "dpc_knn",
    rule: Rule = "exact",
    seed: int = 0,
    noise: Sequence[Tensor | None] | None = None,
) -> tuple[Scale, ...]:
    """Merge patches into the first scale's tokens, these into the second's, and so on.

    Differs: "grid" takes every scale from the patches.

    Args:
        features: `[B, P, D]`.
        rates: of each scale, as `cluster_count` reads them.
        ks: neighbours of each scale.
        merging: "dpc_knn"; or a control with as many tokens (parts/merging_baselines.py), "grid" or
            "random", by `seed`.
        rule: of the clustering, see parts/density_peaks.py.
        noise: of each scale, `[B, N]`, N the tokens before it.
    """
    sizes = scale_sizes(features.shape[1], rates)
    tokens, scales = features, []
    for stage, (count, k) in enumerate(zip(sizes, ks, strict=True)):
        if merging == "grid":
            tokens = features
            ids = grid_ids(features.shape[1], count, features.device).expand(len(features), -1)
        else:
            drawn = noise[stage] if noise else None
            ids = cluster_ids(tokens, count, k, None, drawn, merging, rule, seed + stage)
        tokens = merge_clusters(tokens, ids, count)
        nested = scales and merging != "grid"
        scales.append(Scale(tokens, ids, ids.gather(1, scales[-1].patches) if nested else ids))
    return tuple(scales)


def cluster_ids(
    x: Tensor,
    clusters: int | Tensor,
    k: int,
    mask: Tensor | None,
    noise: Tensor | None,
    merging: Merging,
    rule: Rule,
    seed: int,
) -> Tensor:
    """The cluster of each token of `x` `[B, N, D]`: `[B, N]`; -1 where `mask` has no token."""
    if merging not in MERGINGS:
        raise ValueError(f"unknown merging {merging!r}; known: {', '.join(MERGINGS)}")
    if merging == "random":
        there = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        return random_ids(there, clusters, seed)
    if rule == "official":
        k = neighbours(k, clusters, rule)
    return dpc_knn(x, clusters, k, mask=mask, noise=noise, rule=rule).ids
