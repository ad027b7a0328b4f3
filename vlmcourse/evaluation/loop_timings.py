"""`vlmcourse timings --what memory_bank` (or `event_merging`): ours beside loops, as a record.

Both get the very same numbers and must give the same. Every repeat asks both, one right after the
other, in turns first: what slows the machine down for a while slows both.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from vlmcourse.errors import UserError
from vlmcourse.evaluation.twin_timings import pair_metrics, timed_pairs
from vlmcourse.intervals import tidy

MODULES = {
    "memory_bank": "vlmcourse.evaluation.plain_memory",
    "event_merging": "vlmcourse.evaluation.plain_merging",
}
"""Where `works(size, device, seed)` and `AIM` of each are."""
NAMES = ("ours", "loops")
REPEATS = 5
ATOL = 1e-4


@dataclass(frozen=True)
class Work:
    """The same made in two ways; each gives a tuple of tensors."""

    ours: Callable[[], tuple[Tensor, ...]]
    loops: Callable[[], tuple[Tensor, ...]]


def measure(
    what: str,
    size: str,
    device: str,
    repeats: int,
    threads: int,
    report: Callable[[str], None],
) -> tuple[dict[str, dict], dict[str, Any]]:
    """Measure everything of one kind.

    Args:
        what: a key of `MODULES`.
        size: of the module, "tiny" or "paper".
        report: told what is being measured.

    Returns:
        metrics for a record, and settings that tell what they are.

    Raises:
        UserError: an unknown size.
    """
    module = import_module(MODULES[what])
    if size not in module.SIZES:
        raise UserError(f"--size of {what} is one of {', '.join(module.SIZES)}, not {size!r}")
    report("building")
    works: dict[str, Work] = module.works(size, device)
    clock = time.process_time if device == "cpu" and threads == 1 else time.perf_counter
    metrics: dict[str, dict] = {}
    for name, work in works.items():
        report(name.replace("_", " "))
        metrics[f"{name}/agreement"] = _agreement(work)
        seconds = timed_pairs(work.ours, work.loops, repeats, device, clock)
        found = pair_metrics(seconds, names=NAMES)
        metrics |= {f"{name}/{one}": value for one, value in found.items()}
    return metrics, {
        "sizes": repr(module.SIZES[size]),
        "aim": dict(module.AIM),
        "dtype": "float32",
        "clock": "processor time" if clock is time.process_time else "wall time",
        "numbers": "medians; ms with quartiles, speed_up with a 95 % interval of the median",
        "order": "each repeat asks both, in turns first",
    }


def _agreement(work: Work) -> dict:
    """The share of numbers that are the same in both ways, up to rounding."""
    pairs = list(zip(work.ours(), work.loops(), strict=True))
    same = torch.cat([((a - b).abs() <= ATOL + 1e-4 * b.abs()).flatten() for a, b in pairs])
    share = tidy(float(same.float().mean()))
    return {"n": same.numel(), "mean": share, "low": None, "high": None, "unit": "share"}


def judged(metrics: Mapping[str, dict], aim: Mapping[str, float]) -> tuple[str, str]:
    """Status and note: "negative" where an aim is not shown to be reached, or numbers differ."""
    ratios = {n.removesuffix("/speed_up"): m for n, m in metrics.items() if n.endswith("/speed_up")}
    told = [
        f"{name.replace('_', ' ')} {ratios[name]['mean']:.3g}x, aim {least:g}x"
        for name, least in aim.items()
    ]
    missed = [name for name, least in aim.items() if ratios[name]["low"] < least]
    apart = [n for n, m in metrics.items() if n.endswith("/agreement") and m["mean"] < 0.999]
    note = f"{'; '.join(told)}."
    if missed:
        note += f" Not reached: {', '.join(missed).replace('_', ' ')}."
    if apart:
        listed = ", ".join(name.removesuffix("/agreement") for name in apart)
        note += f" They do not agree in {listed.replace('_', ' ')}."
    return ("negative" if missed or apart else "ok"), note
