"""What makes a token the centre of a cluster: how dense it is there, and how far a denser one is.

Paper: Chat-UniVi, arXiv 2311.08046, section 3.1 (density peaks: Rodriguez and Laio, 2014).
Official: PKU-YuanGroup/Chat-UniVi@ec0b3db:ChatUniVi/model/cluster.py (`cluster_dpc_knn`).
Differs: two rules here.

- "exact" (ours): no noise; distances from float64 products, below float32's resolution 0; of
  tokens of equal density or score the first comes first; a token that the mask leaves out does not
  exist, so a set gives the same in every batch.
- "official": float32 distances as `torch.cdist` gives them, noise as the caller hands it in, tokens
  that are left out pushed far away, ties as `torch.topk` has them.
"""

from typing import Literal

import torch
from torch import Tensor

Rule = Literal["exact", "official"]
RULES = ("exact", "official")
NOISE = 1e-6
"""What uniform noise is multiplied by before it is added to densities."""
SAME = 1e-13
"""Squared distances below this share of the squared lengths are 0: float32 cannot tell them."""


def token_distances(x: Tensor, mask: Tensor | None = None, rule: Rule = "exact") -> Tensor:
    """Distance of every two tokens of a set, divided by sqrt(C): `[B, N, N]` float32.

    "exact" is 0 between equal tokens and infinite to a token that is not there; "official" puts
    such tokens at the largest distance of the whole batch plus 1.

    Args:
        x: `[B, N, C]`.
        mask: `[B, N]` bool, True where there is a token.
    """
    root = x.shape[-1] ** 0.5
    if rule == "official":
        distance = torch.cdist(x.float(), x.float()) / root
        if mask is None:
            return distance
        here = mask[:, None, :]  # [B, 1, N]
        return distance * here + (distance.max() + 1) * ~here
    x = x.double()
    if mask is not None:
        x = torch.where(mask[:, :, None], x, 0)
    products = torch.bmm(x, x.mT)  # [B, N, N]
    lengths = products.diagonal(dim1=1, dim2=2)  # [B, N]
    both = lengths[:, :, None] + lengths[:, None, :]
    squares = both - 2 * products
    squares = squares.masked_fill_(squares <= SAME * both, 0)
    distance = squares.float().sqrt_().div_(root)
    if mask is not None:
        distance.masked_fill_(~(mask[:, None, :] & mask[:, :, None]), torch.inf)
    return distance


def densities(
    distance: Tensor,
    k: int,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    rule: Rule = "exact",
) -> Tensor:
    """How dense it is around each token: exp(-mean of the k smallest squared distances), `[B, N]`.

    Float32 by the official rule, which is what leaves 9 levels of its noise; else float64. A token
    that is not there has density 0, and -1 by the exact rule.
    """
    nearest = distance.topk(min(k, distance.shape[-1]), largest=False).values  # [B, N, k]
    if rule == "exact":
        real = nearest.isfinite()
        nearest = torch.where(real, nearest, 0).double()
        density = (-nearest.square().sum(-1) / real.sum(-1).clamp(min=1)).exp()
    else:
        density = (-nearest.square().mean(-1)).exp()
    if noise is not None:
        density = density + noise.to(density) * NOISE
    if mask is None:
        return density
    return density * mask if rule == "official" else density.masked_fill(~mask, -1)


def centre_scores(
    distance: Tensor, density: Tensor, mask: Tensor | None = None, rule: Rule = "exact"
) -> Tensor:
    """How good a centre each token would be: density times distance to the nearest denser token, or
    to the furthest of all for the densest; `[B, N]`. By the exact rule, of two equal densities the
    first counts as denser, and a token that is not there scores -1.
    """
    if rule == "official":
        denser = density[:, None, :] > density[:, :, None]  # [B, N, N]
        furthest = distance.flatten(1).amax(1)[:, None, None]
        return torch.where(denser, distance, furthest).amin(-1) * density
    place = density.argsort(descending=True, stable=True).argsort()  # [B, N], 0 is the densest
    denser = place[:, None, :] < place[:, :, None]
    parent = torch.where(denser, distance, torch.inf).amin(-1)  # [B, N]
    reach = distance if mask is None else distance.masked_fill(distance.isinf(), 0)
    furthest = reach.flatten(1).amax(1, keepdim=True)
    scores = torch.where(place == 0, furthest, parent).double() * density
    return scores if mask is None else scores.masked_fill(~mask, -1)
