"""Muon for the matrices of the layers, AdamW for the rest, one falling rate for both."""

from collections.abc import Sequence

import lightning as L
import torch
from torch import Tensor, nn


def two_optimisers(
    module: nn.Module,
    muon_rate: float,
    adam_rate: float,
    weight_decay: float,
    inside: str = ".layers.",
) -> list[torch.optim.Optimizer]:
    """Share out the parameters of a module: matrices whose name has `inside` go to Muon."""
    matrices, rest = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            chosen = matrices if parameter.ndim == 2 and inside in name else rest
            chosen.append(parameter)
    return [
        torch.optim.Muon(matrices, lr=muon_rate, weight_decay=weight_decay),
        torch.optim.AdamW(rest, lr=adam_rate, betas=(0.9, 0.95), weight_decay=weight_decay),
    ]


def rate_factor(step: int, total: int, warmup_steps: int, falls_from: float) -> float:
    """Warm-up, a constant rate, then a linear fall to a tenth from this share of the steps on."""
    falling = max(0.0, step / total - falls_from) / (1 - falls_from)
    return min((step + 1) / warmup_steps, 1 - 0.9 * falling)


def step_both(
    module: L.LightningModule, loss: Tensor, rates: Sequence[float], factor: float
) -> None:
    """Step both optimisers of a module that optimises by hand; gradients are clipped at 1."""
    optimisers = module.optimizers()
    for optimiser, rate in zip(optimisers, rates, strict=True):
        optimiser.zero_grad()
        for group in optimiser.param_groups:
            group["lr"] = rate * factor
    module.manual_backward(loss)
    nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimisers[0].step()
    optimisers[1].optimizer.step()  # unwrapped: the trainer counts one step, not two
