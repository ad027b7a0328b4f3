"""DPC-KNN: tokens that look alike become clusters, without a learned part.

A token is a good centre where its neighbourhood is dense and no denser token is near. The tokens
with the highest product of the two become centres, and every token joins the nearest centre.

Paper: Chat-UniVi, arXiv 2311.08046, section 3.1 (density peaks: Rodriguez and Laio, 2014).
Official: PKU-YuanGroup/Chat-UniVi@ec0b3db:ChatUniVi/model/cluster.py.
Differs: the official code adds unseeded noise to every density, at training and at answering; it is
what decides wherever densities tie, so its clusters are not the same twice. By the "exact" rule,
ours, there is none (parts/density_peaks.py).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vlmcourse.parts.density_peaks import RULES, Rule, centre_scores, densities, token_distances

MOST = {"cpu": 2**21, "cuda": 2**26}
"""Numbers of a block of sets that is clustered at a time: on a CPU about what its caches hold."""


@dataclass(frozen=True)
class Clusters:
    """The clusters of B sets of tokens.

    Attributes:
        ids: `[B, N]` int64, the cluster of each token; -1 where the mask says there is none (under
            the official rule such a token has one all the same).
        centres: `[B, K]` int64, the token at each centre, by falling score; -1 beyond a set's own
            number of clusters.
        scores: `[B, N]`, density times distance to the nearest denser token.
    """

    ids: Tensor
    centres: Tensor
    scores: Tensor


@torch.no_grad()
def dpc_knn(
    x: Tensor,
    clusters: int | Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    rule: Rule = "exact",
) -> Clusters:
    """Cluster the tokens of B sets, each on its own.

    Every set gets exactly its number of clusters, none empty, numbered by falling score of their
    centres. A centre always belongs to its own cluster, also where another centre is its equal. A
    token as near to two centres joins the one with the higher score.

    Permuting the tokens of a set permutes `ids` and leaves the clusters, except that the order of
    the tokens settles ties.

    Args:
        x: `[B, N, C]`.
        clusters: K; or of each set its own, `[B]` ("exact" only).
        k: nearest tokens that make the density, the token itself (distance 0) among them; a set
            with fewer tokens takes all of them. Not changed here (see `neighbours`).
        mask: `[B, N]` bool, True where there is a token.
        noise: `[B, N]` in [0, 1), 1e-6 of which is added to the densities.
        rule: see parts/density_peaks.py.

    Raises:
        ValueError: a set has fewer tokens than clusters, or an unknown rule.
    """
    numbers = torch.as_tensor(clusters, device=x.device).expand(len(x))  # [B]
    _refuse(x, numbers, mask, rule)
    most = int(numbers.max())
    whole = rule == "official" and mask is not None  # there a set's distances depend on the others
    room = MOST.get(x.device.type, MOST["cpu"]) // (x.shape[1] * max(x.shape[1:]))
    step = len(x) if whole else max(1, room)
    blocks = zip(*(_split(value, step, len(x)) for value in (x, numbers, mask, noise)))
    parts = [_cluster(*block, most=most, k=k, rule=rule) for block in blocks]
    return Clusters(*(torch.cat(values) for values in zip(*parts)))


def _split(value: Tensor | None, step: int, sets: int) -> tuple[Tensor | None, ...]:
    return (None,) * -(-sets // step) if value is None else value.split(step)


def _refuse(x: Tensor, numbers: Tensor, mask: Tensor | None, rule: str) -> None:
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")
    counts = x.shape[1] if mask is None or rule == "official" else mask.sum(1)
    if bool((numbers > counts).any()) or bool((numbers < 1).any()):
        raise ValueError(f"{numbers.tolist()} clusters of {counts} tokens")


def _cluster(
    x: Tensor,
    numbers: Tensor,
    mask: Tensor | None,
    noise: Tensor | None,
    *,
    most: int,
    k: int,
    rule: Rule,
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, centres and scores of a block of sets; the widest set of all has `most` clusters."""
    distance = token_distances(x, mask, rule)
    density = densities(distance, k, mask, noise, rule)
    scores = centre_scores(distance, density, mask, rule)
    if rule == "official":
        chosen = scores.topk(most).indices
    else:
        chosen = scores.sort(descending=True, stable=True).indices[:, :most]  # [B, K]
    spare = torch.arange(most, device=x.device) >= numbers[:, None]  # [B, K]
    near = distance.gather(1, chosen[:, :, None].expand(-1, -1, x.shape[1]))  # [B, K, N]
    ids = near.masked_fill(spare[:, :, None], torch.inf).argmin(1)
    own = torch.arange(most, device=x.device).expand_as(chosen)
    ids = ids.scatter(1, chosen, torch.where(spare, ids.gather(1, chosen), own))
    if mask is not None and rule == "exact":
        ids = ids.masked_fill(~mask, -1)
    return ids, chosen.masked_fill(spare, -1), scores


def cluster_shares(ids: Tensor, clusters: int, weights: Tensor | None = None) -> Tensor:
    """Share of each token in the mean of its cluster, `[B, N]`; 0 where its id is -1.

    The shares of a cluster add up to a millionth less than 1, as in the official code.
    """
    weights = torch.ones(ids.shape, device=ids.device) if weights is None else weights
    weights = weights * (ids >= 0)
    place = ids.clamp(min=0)
    totals = weights.new_zeros(len(ids), clusters).scatter_add(1, place, weights)
    return weights / (totals + 1e-6).gather(1, place)


def merge_clusters(x: Tensor, ids: Tensor, clusters: int, weights: Tensor | None = None) -> Tensor:
    """Average the tokens of each cluster; gradients reach tokens through the average alone.

    Differs: half-precision tokens are summed in float32; the official code sums them as they are.

    Args:
        x: `[B, N, C]`.
        ids: `[B, N]`, -1 for a token that plays no part.
        clusters: K.
        weights: `[B, N]`; all equal if None.

    Returns:
        `[B, K, C]`; zeros for a cluster without tokens.
    """
    shares = cluster_shares(ids, clusters, weights)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    parts = wide * shares[:, :, None].to(wide.dtype)  # [B, N, C]
    if bool((ids < 0).any()):
        parts = torch.where((ids < 0)[:, :, None], 0, parts)  # whatever stands there, even NaN
    place = ids.clamp(min=0) + clusters * torch.arange(len(x), device=x.device)[:, None]
    place, parts = place.flatten(), parts.flatten(0, 1)
    merged = parts.new_zeros(len(x) * clusters, x.shape[-1])
    if x.is_cuda:  # there only this one sums in the same order every time
        merged = merged.index_put((place,), parts, accumulate=True)
    else:
        merged = merged.index_add(0, place, parts)
    return merged.unflatten(0, (len(x), clusters)).to(x.dtype)  # [B, K, C]
