"""`vlmcourse timings --what qwen2_vl`: our Qwen2-VL beside transformers' own, as one record.

Both hold the very same random weights and get the same rows. Every repeat asks both, one right
after the other, in turns first: what slows the machine down for a while slows both.
"""

import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlmcourse.evaluation.qwen2_vl_twin import (
    Rows,
    TwinSizes,
    build_ours,
    build_theirs,
    make_rows,
    our_features,
    our_tokens,
    their_features,
    their_tokens,
    twin_sizes,
)
from vlmcourse.intervals import tidy

REPEATS = 15
WARM_UP = 2
"""Calls of each that do not count."""
DRAWS = 5000
NAMES = ("ours", "transformers")
DTYPES = {"cpu": torch.float32, "cuda": torch.bfloat16}

Work = Callable[[], Tensor]


def timed_pairs(
    ours: Work, theirs: Work, repeats: int, device: str, clock: Callable[[], float]
) -> np.ndarray:
    """Seconds `[repeats, 2]` of two pieces of work, in turns first.

    Args:
        device: where the work is done; a GPU is waited for.
        clock: in seconds.
    """
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    works = (ours, theirs)
    for work in works * WARM_UP:
        work()
    seconds = np.zeros((repeats, 2))
    for number in range(repeats):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            wait()
            start = clock()
            works[which]()
            wait()
            seconds[number, which] = clock() - start
    return seconds


def pair_metrics(
    seconds: np.ndarray, seed: int = 0, names: Sequence[str] = NAMES
) -> dict[str, dict]:
    """Medians of both, in milliseconds with their quartiles, and of the ratio of each pair.

    Args:
        seconds: `[repeats, 2]`, ours first.
        names: of both.

    Returns:
        both by name, and `speed_up`: the other's time by ours, above 1 where ours is faster, with
        a 95 % interval of its median (pairs drawn again).
    """
    found = {}
    for name, column in zip(names, 1000 * seconds.T, strict=True):
        low, middle, high = np.quantile(column, (0.25, 0.5, 0.75))
        found[name] = _metric(len(column), middle, low, high, "ms")
    ratios = seconds[:, 1] / seconds[:, 0]
    rng = np.random.default_rng(seed)
    medians = np.median(rng.choice(ratios, (DRAWS, len(ratios))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    found["speed_up"] = _metric(len(ratios), float(np.median(ratios)), low, high, "x")
    return found


def _metric(n: int, middle: float, low: float, high: float, unit: str) -> dict:
    numbers = {"mean": middle, "low": min(low, middle), "high": max(high, middle)}
    return {"n": n, **{name: tidy(float(value)) for name, value in numbers.items()}, "unit": unit}


def workloads(sizes: TwinSizes) -> dict[str, list[list[tuple[int, int, int]]]]:
    """Rows by name, each with its media: pictures of one size, of several, a film, all mixed."""
    first, *more = sizes.pictures
    return {
        "equal_pictures": [[first]] * 4,
        "mixed_pictures": [[first], *[[grid] for grid in more]],
        "film": [[sizes.film]],
        "mixed": [[first], [*more[:2]], [sizes.film], [more[-1], sizes.film]],
        "text": [[], [], [], []],
    }


def measure(
    size: str, device: str, repeats: int, threads: int, report: Callable[[str], None]
) -> tuple[dict[str, dict], dict[str, Any]]:
    """Measure everything.

    Args:
        size: of `qwen2_vl_twin.twin_sizes`.
        report: told what is being measured.

    Returns:
        metrics for a record, and settings that tell what they are.
    """
    sizes, dtype = twin_sizes(size), DTYPES[device]
    report("building")
    theirs = build_theirs(sizes, device, dtype)
    ours = build_ours(sizes, theirs)
    alone = device == "cpu" and threads == 1
    clock = time.process_time if alone else time.perf_counter
    metrics: dict[str, dict] = {}
    for name, media in workloads(sizes).items():
        rows = make_rows(sizes, media, device, dtype)
        for part, works in _works(ours, theirs, rows, sizes.new_tokens).items():
            if part == "tower" and not len(rows.grids):
                continue
            report(f"{name}, {part.replace('_', ' ')}")
            metrics[f"{name}/{part}/agreement"] = _agreement(*works, part)
            seconds = timed_pairs(*works, repeats, device, clock)
            found = pair_metrics(seconds)
            metrics |= {f"{name}/{part}/{one}": value for one, value in found.items()}
    return metrics, {
        "dtype": str(dtype).removeprefix("torch."),
        "transformers": importlib.metadata.version("transformers"),
        "attention": "sdpa",
        "clock": "processor time" if alone else "wall time",
        "new_tokens": sizes.new_tokens,
        "workloads": workloads(sizes),
        "parameters": sum(p.numel() for p in ours.parameters()),
        "numbers": "medians; ms with quartiles, speed_up with a 95 % interval of the median",
        "order": "each repeat asks both, in turns first",
    }


def _works(ours, theirs, rows: Rows, count: int) -> dict[str, tuple[Work, Work]]:
    """What is timed of both: the tower with its merger, the first token of an answer (the whole
    prompt is read), and a whole answer."""
    return {
        "tower": (lambda: our_features(ours, rows), lambda: their_features(theirs, rows)),
        "first_token": (lambda: our_tokens(ours, rows, 1), lambda: their_tokens(theirs, rows, 1)),
        "answer": (
            lambda: our_tokens(ours, rows, count),
            lambda: their_tokens(theirs, rows, count),
        ),
    }


def _agreement(ours: Work, theirs: Work, part: str) -> dict:
    """How far both say the same: the share of equal tokens, or of features within a thousandth of
    the largest (a hundredth in half precision)."""
    a, b = ours(), theirs()
    if part == "tower":
        reach = float(b.abs().max()) * (1e-3 if a.dtype == torch.float32 else 1e-2)
        same = (a.float() - b.float()).abs() <= reach
    else:
        same = a == b
    share = float(same.float().mean())
    return {"n": same.numel(), "mean": tidy(share), "low": None, "high": None, "unit": "share"}


def judged(metrics: Mapping[str, dict], exact: bool = True) -> tuple[str, str]:
    """Status and note: "negative" where transformers is shown to be faster, or says else.

    Args:
        exact: answers have to agree too; in half precision random weights give ties, and towers
            alone count.
    """
    ratios = {n.rpartition("/")[0]: v for n, v in metrics.items() if n.endswith("/speed_up")}
    slower = [name for name, value in ratios.items() if value["high"] < 1]
    faster = [name for name, value in ratios.items() if value["low"] > 1]
    counts = "/agreement" if exact else "/tower/agreement"
    apart = [n for n, v in metrics.items() if n.endswith(counts) and v["mean"] < 0.99]
    note = f"Faster than transformers: {_listed(faster)}. Slower: {_listed(slower)}."
    level = [name for name in ratios if name not in (*slower, *faster)]
    note += f" No difference shown: {_listed(level)}."
    if apart:
        note += f" They do not agree in {_listed([n.rpartition('/')[0] for n in apart])}."
    return ("negative" if slower or apart else "ok"), note


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name.replace("_", " ").replace("/", " ") for name in names) or "nothing"


def twin_table(record: dict, names: Sequence[str] = NAMES) -> str:
    """What was timed down; ours, the other's and the ratio across, as Markdown."""
    from vlmcourse.records import metric_text

    metrics = record["metrics"]
    lines = [["median", *names, "speed-up"], ["---", "--:", "--:", "--:"]]
    for name in metrics:
        if name.endswith("/speed_up"):
            start = name.removesuffix("speed_up")
            cells = [metric_text(metrics[start + one]) for one in (*names, "speed_up")]
            lines.append([start.strip("/").replace("/", ", ").replace("_", " "), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
