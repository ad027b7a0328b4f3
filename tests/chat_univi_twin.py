"""Chat-UniVi's merging written a second time, from the descriptions of the reference units: one
set, one picture, one event at a time, noise handed in call by call."""

import math

import torch
from torch import Tensor


def original_clusters(x: Tensor, count: int, k: int, noise: Tensor, mask=None) -> dict[str, Tensor]:
    """All quantities of one clustering of `[B, N, C]`."""
    distance = torch.cdist(x, x) / math.sqrt(x.shape[-1])
    if mask is not None:
        far = float(distance.max()) + 1
        for row, column in (mask == 0).nonzero().tolist():
            distance[row, :, column] = far
    ordered = distance.sort(dim=-1).values[:, :, :k]
    density = torch.exp(-(ordered**2).mean(-1)) + noise * 1e-6
    if mask is not None:
        density = density * (mask > 0)
    score = torch.zeros_like(density)
    centre = torch.zeros(len(x), count, dtype=torch.int64)
    ids = torch.zeros(x.shape[:2], dtype=torch.int64)
    for b in range(len(x)):
        for i in range(x.shape[1]):
            denser = distance[b, i][density[b] > density[b, i]]
            reach = denser.min() if len(denser) else distance[b].max()
            score[b, i] = reach * density[b, i]
        centre[b] = score[b].topk(count).indices
        ids[b] = distance[b, centre[b]].argmin(0)
        ids[b, centre[b]] = torch.arange(count)
    return {
        "distance": distance, "density": density, "score": score, "centre_token": centre,
        "cluster_id": ids, "idx_token": ids,
    }  # fmt: skip


def original_merge(x: Tensor, ids: Tensor, count: int, weights=None) -> tuple[Tensor, Tensor]:
    """Merged tokens `[B, K, C]` and the share of each token `[B, N, 1]`."""
    weights = torch.ones(*ids.shape, 1) if weights is None else weights
    shares = torch.zeros_like(weights)
    merged = torch.zeros(len(x), count, x.shape[-1])
    for b in range(len(x)):
        for c in range(count):
            own = ids[b] == c
            shares[b, own] = weights[b, own] / (weights[b, own].sum() + 1e-6)
            merged[b, c] = (x[b, own] * shares[b, own]).sum(0)
    return merged, shares


def original_stage(x: Tensor, rate: float, k: int, draw) -> tuple[Tensor, Tensor]:
    """One stage: tokens and clusters."""
    count = max(math.ceil(rate if rate > 1 else x.shape[1] * rate), 1)
    near = min(3, max(count // 2, 1)) if k > count else k
    ids = original_clusters(x, count, near, draw(x.shape[:2]))["cluster_id"]
    return original_merge(x, ids, count)[0], ids


def original_picture(x: Tensor, rates, ks, draw) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The scales of pictures `[B, P, D]`, and what a unit holds of them."""
    told, scales, patches = {}, [], None
    for stage, (rate, k) in enumerate(zip(rates, ks)):
        x, ids = original_stage(x, rate, k, draw)
        patches = ids if patches is None else ids.gather(1, patches)
        told |= {f"stage{stage}/cluster_id": ids, f"stage{stage}/tokens": x}
        told[f"stage{stage}/idx_token"] = patches
        scales.append(x)
    return scales, told


def original_video(x: Tensor, rates, ks, rate, k, draw) -> tuple[Tensor, dict[str, Tensor]]:
    """Tokens `[N, D]` of a film `[T, P, D]`, and what a unit holds of them."""
    if len(x) <= 2:
        scales, told = original_picture(x, rates, ks, draw)
        return torch.cat(scales, 1).flatten(0, 1), told
    _, ids = original_stage(x.mean(1)[None], rate, k, draw)
    scales, pictures = original_picture(x, rates, ks, draw)
    told = {f"frame_{name}": value for name, value in pictures.items() if "idx" not in name}
    order = list(dict.fromkeys(ids[0].tolist()))
    told |= {"frame_event": ids[0], "event_order": torch.tensor(order)}
    result = []
    for number, event in enumerate(order):
        for stage, (scale, r, near) in enumerate(zip(scales, rates, ks)):
            own = scale[ids[0] == event].flatten(0, 1)[None]
            tokens, clusters = original_stage(own, r, near, draw)
            told[f"event{number}/stage{stage}/cluster_id"] = clusters
            result.append(tokens[0])
    return torch.cat(result), told


class Recorder:
    """Draws noise and keeps it."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)
        self.drawn: list[Tensor] = []

    def __call__(self, shape) -> Tensor:
        self.drawn.append(torch.rand(tuple(shape), generator=self.generator))
        return self.drawn[-1]
