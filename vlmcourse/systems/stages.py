"""What a stage trains, as data; and the functions that freeze, count and collect accordingly."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn


@dataclass(frozen=True)
class Stage:
    """One stage of a paper's recipe.

    Attributes:
        name: the paper's word.
        trains: patterns of parameter names (`fnmatch`: `*`, `?`); everything else is frozen.
        data: what it is trained on.
        init_from: the stage whose weights it starts from, None for the first.
        learning_rate, min_learning_rate: highest rate, and the one that the schedule ends at.
        warmup_ratio: share of all steps in which the rate rises in a line; `warmup_steps` takes its
            place where it is not None.
        warmup_start_rate: the rate that the warm-up starts from.
        schedule: after the warm-up: "cosine", "linear" or "constant"; "cosine_from_start" counts
            the cosine from step 0, so the rate falls by a little jump where the warm-up ends.
        weight_decay, betas: of AdamW.
        batch_size: conversations a step over all devices.
        epochs: passes over the data; or `steps`, whichever is not None.
        iterations_per_epoch: steps that count as one epoch, for mixtures, which have no end; None
            means a pass over the data.
        max_grad_norm: gradient clipping; None for none.
        precision: as Lightning names it.
        max_length: longest row in tokens.
        source: paper section or file the numbers come from.
    """

    name: str
    trains: tuple[str, ...]
    data: str
    init_from: str | None = None
    learning_rate: float = 1e-3
    min_learning_rate: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_ratio: float = 0.03
    warmup_steps: int | None = None
    warmup_start_rate: float = 0.0
    schedule: str = "cosine"
    batch_size: int = 32
    epochs: float | None = None
    iterations_per_epoch: int | None = None
    steps: int | None = None
    max_grad_norm: float | None = 1.0
    precision: str = "32-true"
    max_length: int | None = None
    source: str = ""
    extras: dict[str, float] = field(default_factory=dict)


def set_trainable(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Freeze all parameters but those whose name matches a pattern.

    A few rows of an embedding table train through `parts/token_rows.py`: name that parameter.

    Returns:
        Names of the trainable parameters, in the model's order.

    Raises:
        ValueError: a pattern matches nothing; the message lists the first part of every name.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            tops = sorted({name.split(".")[0] for name in names})
            raise ValueError(
                f"no parameter matches {pattern!r}; names start with {', '.join(tops)}"
            )
    chosen = []
    for name, parameter in model.named_parameters():
        trains = any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        parameter.requires_grad_(trains)
        if trains:
            chosen.append(name)
    return chosen


def parameter_table(model: nn.Module, depth: int = 1) -> str:
    """A table of what is frozen and what trains, with counts, one line per part.

    Args:
        model: after `set_trainable`.
        depth: how many components of a name make a part.
    """
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        part = ".".join(name.split(".")[:depth])
        frozen_trained = counts.setdefault(part, [0, 0])
        frozen_trained[int(parameter.requires_grad)] += parameter.numel()
    width = max([len(part) for part in counts] + [5])
    lines = [f"{'part':{width}} {'frozen':>15} {'trains':>15}"]
    lines += [f"{part:{width}} {f:15,} {t:15,}" for part, (f, t) in counts.items()]
    frozen, trains = (sum(c[i] for c in counts.values()) for i in (0, 1))
    return "\n".join([*lines, f"{'total':{width}} {frozen:15,} {trains:15,}"])
