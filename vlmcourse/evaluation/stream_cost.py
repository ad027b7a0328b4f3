"""`vlmcourse timings --what stream`: what a film that never ends costs, frame by frame.

MA-LMM watches an endless film of the small world through `systems.ma_lmm_stream.Stream`, with one
question in mind from the start, with every kind of memory in a process of its own. Measured are
what is remembered, the resident memory, and the time that a frame takes; where a bank is bounded
none of them may grow once it is full. Weights do not matter for that.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vlmcourse.devices import work_clock
from vlmcourse.errors import UserError
from vlmcourse.intervals import tidy
from vlmcourse.measure import MIB, peak_rss_mib

QUESTION = "what happens first ?"
LONGEST_FILM_S = 600
BLOCK = 50
"""Frames of which one time and one resident size are told; slopes are drawn through these."""
FLAT = {"state_kib": 0.0, "resident_mib": 1.0, "ms": 0.01}
"""How much may be added in 1,000 frames where nothing grows: KiB, MiB, and of the time a share."""
SLOPES = ("state_kib", "resident_mib", "ms")


def banks(capacity: int | None, merging: str = "weighted") -> dict[str, Any]:
    """Settings of MA-LMM with both banks of one capacity."""
    return {"visual_memory": capacity, "query_memory": capacity, "merging": merging}


WAYS: dict[str, dict[str, Any]] = {
    "bank_5": banks(5),
    "bank_10": banks(10),
    "bank_20": banks(20),
    "mean_10": banks(10, "mean"),
    "fifo_10": banks(10, "fifo"),
    "all_frames": banks(None, "none"),
}
"""Kinds of memory; "all_frames" keeps every frame, and grows."""


@dataclass(frozen=True)
class Watch:
    """A film to be watched.

    Attributes:
        options: settings of the system.
        frames: to watch.
        device, threads: of torch.
        foundations: folder of the frozen parts instead of the shipped ones.
    """

    options: Mapping[str, Any]
    frames: int
    device: str = "cpu"
    threads: int = 1
    foundations: Path | None = None


@dataclass(frozen=True)
class Seen:
    """What it took; F frames, F / `BLOCK` blocks.

    Attributes:
        ms: `[F]` of each frame.
        state_bytes: `[F]` what was remembered after each.
        resident_mib: `[F / BLOCK]` resident size of the process after each block.
        peak_mib: frames seen -> largest resident size so far, at `counts`.
        peak_gpu_mib: the same of the accelerator's memory, if there is one.
    """

    ms: np.ndarray
    state_bytes: np.ndarray
    resident_mib: np.ndarray
    peak_mib: dict[int, float]
    peak_gpu_mib: dict[int, float]


# ---------------------------------------------------------------- watching


def counts(frames: int) -> list[int]:
    """1, 2, 5, 10, 20, 50 ... up to `frames`, which is the last one."""
    steps = [m * 10**e for e in range(len(str(frames))) for m in (1, 2, 5)]
    return [*(step for step in steps if step < frames), frames]


def endless_film(seed: int = 0, side: int = 64) -> Iterator[np.ndarray]:
    """One frame a second of a film without end, uint8 `[side, side, 3]`: story after story."""
    from vlmcourse.world.render import iter_frames
    from vlmcourse.world.story import StorySettings, sample_story

    settings = StorySettings.of_length(LONGEST_FILM_S)
    while True:
        for frame in iter_frames(sample_story(seed, settings), 1, side, side):
            yield frame.copy()
        seed += 1


def watch(task: Watch) -> Seen:
    """Watch a film in this process; rendering it is not timed."""
    import torch

    from vlmcourse import systems
    from vlmcourse.systems.ma_lmm_stream import Stream
    from vlmcourse.trained import quiet_libraries

    quiet_libraries()
    torch.set_num_threads(task.threads)
    torch.manual_seed(0)
    model = systems.build("ma_lmm", "world", task.device, task.foundations, **task.options).eval()
    clock = work_clock(task.device, task.threads)
    stream, film = Stream(model, [QUESTION]), endless_film(side=model.config.image_size)
    told, resident = counts(task.frames), []
    ms, state = np.zeros(task.frames), np.zeros(task.frames)  # lists would grow, too
    peak: dict[int, float] = {}
    peak_gpu: dict[int, float] = {}
    for number in range(1, task.frames + 1):
        frame = next(film)
        start = clock()
        stream.see(frame)
        ms[number - 1] = 1000 * (clock() - start)
        state[number - 1] = stream.memory_bytes()
        if number % BLOCK == 0:
            resident.append(_resident_mib())
        if number in told:
            peak[number] = peak_rss_mib()
            if task.device == "cuda":
                peak_gpu[number] = torch.cuda.max_memory_allocated() / MIB
    return Seen(ms, state, np.array(resident), peak, peak_gpu)


def _resident_mib() -> float:
    import psutil

    return psutil.Process().memory_info().rss / MIB


def measure(
    tasks: Mapping[str, Watch], report: Callable[[str], None] = lambda text: None
) -> dict[str, Seen]:
    """Watch with every kind of memory, each in a new process, one after the other."""
    seen = {}
    context = multiprocessing.get_context("spawn")
    for name, task in tasks.items():
        report(f"{name.replace('_', ' ')}, {task.frames} frames")
        with ProcessPoolExecutor(1, context) as pool:
            seen[name] = pool.submit(watch, task).result()
    return seen


def tasks_of(ways: Sequence[str], frames: int, all_frames: int, **more: Any) -> dict[str, Watch]:
    """What is watched by name; where nothing is forgotten, `all_frames` frames at most.

    Raises:
        UserError: an unknown kind of memory, or too few frames for a slope.
    """
    if unknown := [name for name in ways if name not in WAYS]:
        raise UserError(f"unknown memory {unknown[0]!r}; known: {', '.join(WAYS)}")
    if min(frames, all_frames) < 4 * BLOCK:
        raise UserError(f"a slope needs {4 * BLOCK} frames at least")
    return {
        name: Watch(WAYS[name], min(frames, frames if bounded(WAYS[name]) else all_frames), **more)
        for name in ways
    }


def bounded(options: Mapping[str, Any]) -> bool:
    """Whether a memory with these settings stops growing."""
    return options["merging"] != "none" and None not in (
        options["visual_memory"],
        options["query_memory"],
    )


# ---------------------------------------------------------------- what a record tells


def stream_metrics(seen: Mapping[str, Seen], tasks: Mapping[str, Watch]) -> dict:
    """Metrics by kind of memory.

    Returns:
        `WAY/state_kib/COUNT`, `WAY/peak_mib/COUNT` (and `peak_gpu_mib`): after so many frames;
        `WAY/ms/COUNT`: median of the frames since the last count, with quartiles;
        `WAY/slope/state_kib`, `.../resident_mib`, `.../ms`: what 1,000 frames more add once the
        bank is full (Theil-Sen, with its 95 % interval).
    """
    metrics: dict[str, dict] = {}
    for way, one in seen.items():
        before = 0
        for count in counts(len(one.ms)):
            metrics[f"{way}/state_kib/{count}"] = _told(one.state_bytes[count - 1] / 1024, "KiB")
            metrics[f"{way}/peak_mib/{count}"] = _told(one.peak_mib[count], "MiB")
            if count in one.peak_gpu_mib:
                metrics[f"{way}/peak_gpu_mib/{count}"] = _told(one.peak_gpu_mib[count], "MiB")
            low, middle, high = np.quantile(one.ms[before:count], (0.25, 0.5, 0.75))
            metrics[f"{way}/ms/{count}"] = _told(middle, "ms", low, high, count - before)
            before = count
        options = tasks[way].options
        full = max(options["visual_memory"] or 0, options["query_memory"] or 0)
        for name, slope in slopes(one, full).items():
            metrics[f"{way}/slope/{name}"] = slope
    return metrics


def slopes(seen: Seen, capacity: int) -> dict[str, dict]:
    """What 1,000 frames more add to what is remembered, to the resident size and to a frame's time,
    once `capacity` frames, and the first tenth, in which caches of the film fill, are over."""
    from scipy.stats import theilslopes

    blocks = len(seen.ms) // BLOCK
    first = max(1, -(-capacity // BLOCK), -(-blocks // 10))
    ms = np.median(seen.ms[: blocks * BLOCK].reshape(blocks, BLOCK), axis=1)
    state = seen.state_bytes[BLOCK - 1 :: BLOCK][:blocks] / 1024
    frames = BLOCK * (1 + np.arange(blocks))
    found = {}
    for name, values in zip(SLOPES, (state, seen.resident_mib, ms), strict=True):
        slope = theilslopes(values[first:], frames[first:] / 1000, alpha=0.95)
        unit = {"state_kib": "KiB", "resident_mib": "MiB", "ms": "ms"}[name]
        found[name] = _told(
            slope.slope, f"{unit} per 1,000 frames", slope.low_slope, slope.high_slope,
            blocks - first,
        )  # fmt: skip
    return found


def _told(mean: float, unit: str, low: float | None = None, high=None, n: int = 1) -> dict:
    ends = [None if end is None else tidy(float(end)) for end in (low, high)]
    return {"n": n, "mean": tidy(float(mean)), "low": ends[0], "high": ends[1], "unit": unit}


def told(tasks: Mapping[str, Watch]) -> dict[str, Any]:
    """What a record's settings tell of a measurement."""
    return {
        "system": "ma_lmm",
        "weights": "untrained: they decide neither memory nor time",
        "frames": {name: task.frames for name, task in tasks.items()},
        "memory": {name: dict(task.options) for name, task in tasks.items()},
        "film": "one frame a second of the small world, without end; one standing question",
        "slopes": f"Theil-Sen with 95 %, over medians of {BLOCK} frames, once the bank is full and "
        "a tenth of the frames is over",
        "flat": FLAT,
    }


def measured(
    tasks: Mapping[str, Watch], report: Callable[[str], None] = lambda text: None
) -> tuple[dict[str, dict], float]:
    """Watch, and give the metrics of it all and the largest peak in MiB."""
    seen = measure(tasks, report)
    return stream_metrics(seen, tasks), max(max(x.peak_mib.values()) for x in seen.values())


def judged(metrics: Mapping[str, dict], tasks: Mapping[str, Watch]) -> tuple[str, str]:
    """Status and note: "negative" where something grows in a memory that is bounded (`FLAT`)."""
    ways, growing = [name for name, task in tasks.items() if bounded(task.options)], []
    for way in ways:
        last = max(int(n.rpartition("/")[2]) for n in metrics if n.startswith(f"{way}/ms/"))
        allowed = {**FLAT, "ms": FLAT["ms"] * metrics[f"{way}/ms/{last}"]["mean"]}
        growing += [
            f"{name} of {way}"
            for name in SLOPES
            if metrics[f"{way}/slope/{name}"]["low"] > 0
            and metrics[f"{way}/slope/{name}"]["mean"] > allowed[name]
        ]
    if not ways:
        return "ok", "No memory is bounded here."
    if growing:
        return "negative", f"Grows after the bank is full: {', '.join(growing)}."
    return "ok", f"Flat once the bank is full: {', '.join(ways)}.".replace("_", " ")


def stream_table(record: dict) -> str:
    """Kinds of memory down; state, peak and time at the last count, slopes across, as Markdown."""
    from vlmcourse.records import metric_text

    metrics, lines = record["metrics"], []
    head = ["memory", "frames", "remembered", "peak memory", "ms a frame"]
    head += [f"slope, {name.partition('_')[0]}" for name in SLOPES]
    for way in dict.fromkeys(name.split("/")[0] for name in metrics):
        last = max(int(n.rpartition("/")[2]) for n in metrics if n.startswith(f"{way}/ms/"))
        cell = partial(_cell, metrics, metric_text, way)
        lines.append(
            [way.replace("_", " "), f"{last:,}"]
            + [cell(f"{name}/{last}") for name in ("state_kib", "peak_mib", "ms")]
            + [cell(f"slope/{name}") for name in SLOPES]
        )
    rows = [head, ["---", *["--:"] * (len(head) - 1)], *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(metrics: Mapping[str, dict], text: Callable[[dict], str], way: str, name: str) -> str:
    return text(metrics[f"{way}/{name}"])
