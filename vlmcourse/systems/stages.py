"""What a stage trains, as data; and the functions that freeze, count and collect accordingly."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

TOLD_IF_SET = {"told": "if set"}
"""Metadata of a setting that is younger than finished runs: where it has its default, it is left
out of what decides a stage's weights, so that those runs stay good."""


@dataclass(frozen=True)
class Stage:
    """One stage of a paper's recipe.

    Attributes:
        name: the paper's word.
        trains: patterns of parameter names (`fnmatch`: `*`, `?`); everything else is frozen.
        data: what it is trained on.
        init_from: the stage whose weights it starts from, None for the first. "SYSTEM/RECIPE/STAGE"
            is one of another recipe or system, from its run of the same seed.
        learning_rate, min_learning_rate: highest rate, and the one that the schedule ends at.
        warmup_ratio: share of all steps in which the rate rises in a line; `warmup_steps` takes its
            place where it is not None.
        warmup_start_rate: the rate that the warm-up starts from.
        schedule: after the warm-up: "cosine", "linear" or "constant"; "cosine_from_start" counts
            the cosine from step 0, so the rate falls by a little jump where the warm-up ends;
            "cosine_by_epoch" warms up in the first epoch and keeps one rate in each later one.
        weight_decay, betas: of AdamW.
        batch_size: conversations a step over all devices.
        epochs: passes over the data; or `steps`, whichever is not None.
        iterations_per_epoch: steps that count as one epoch, for mixtures, which have no end; None
            means a pass over the data.
        max_grad_norm: gradient clipping; None for none.
        precision: as Lightning names it.
        max_length: longest row in tokens.
        source: paper section or file the numbers come from.
        rate_factors: patterns of names of parameters that learn at another rate, and by what their
            rates (all of the schedule) are multiplied: `{"vision_encoder.*": 0.1}`. The longest
            pattern that matches a name counts; all others learn at the rate itself.
        init_without: patterns of names that are not handed over from `init_from`: what only one of
            two systems has, or what is to begin anew.
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
    rate_factors: dict[str, float] = field(default_factory=dict, metadata=TOLD_IF_SET)
    init_without: tuple[str, ...] = field(default=(), metadata=TOLD_IF_SET)


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


def rate_factor_of(model: nn.Module, factors: Mapping[str, float]) -> dict[str, float]:
    """By what the learning rate of each trainable parameter is multiplied, by name.

    Args:
        model: after `set_trainable`.
        factors: as `Stage.rate_factors`.

    Raises:
        ValueError: a factor is not above 0, or a pattern matches nothing that trains.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for pattern, factor in factors.items():
        if not factor > 0:
            raise ValueError(
                f"the rate factor of {pattern!r} is {factor}: leave it out of `trains`"
            )
        if not fnmatch.filter(names, pattern):
            tops = sorted({name.split(".")[0] for name in names})
            raise ValueError(
                f"no parameter that trains matches {pattern!r} of rate_factors; their names start "
                f"with {', '.join(tops)}"
            )
    found = dict.fromkeys(names, 1.0)
    for pattern in sorted(factors, key=lambda pattern: (len(pattern), pattern)):
        found |= dict.fromkeys(fnmatch.filter(names, pattern), float(factors[pattern]))
    return found


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
