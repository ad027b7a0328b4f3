"""`vlmcourse timings`: how fast this machine makes, reads, learns and answers, as one record.

Everything is measured on clips made for it in a temporary folder, so nothing that lies in a cache
makes it look faster. Each measurement is done once before it counts.
"""

import argparse
import csv
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from vlmcourse.errors import UserError
from vlmcourse.evaluation import connector_compute, length_cost
from vlmcourse.intervals import metric
from vlmcourse.measure import cores
from vlmcourse.records import Run, metric_text

if TYPE_CHECKING:
    from vlmcourse.systems.base import VideoLanguageModel
    from vlmcourse.world.dataset import WorldSplit

LOOPS = ("memory_bank", "event_merging")
WARM_STEPS = 3
"""First steps of a training that do not count."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        clips: made, decoded and encoded in one repeat.
        repeats: of making, decoding and encoding.
        steps: of training.
        asked_clips, questions: clips that are asked, and questions that each is asked.
    """

    clips: int = 64
    repeats: int = 5
    steps: int = 24
    asked_clips: int = 24
    questions: int = 8


# ---------------------------------------------------------------- clips


def rendering(root: Path, clips: int, workers: int, repeats: int) -> list[float]:
    """Clips per second as `vlmcourse world` makes them (picture, sound, subtitles, questions).

    The last repeat stays in `root/train`.
    """
    from vlmcourse.world.dataset import make_split

    def make() -> None:
        make_split(root, "train", clips, workers=workers, force=True, progress=False)

    return [clips / seconds for seconds in _timed(make, repeats)]


def decoding(videos: Sequence[Path], backend: str, repeats: int) -> list[float]:
    """Frames per second that `read_frames` gives, opening the file included."""
    from vlmcourse.media.video import read_frames

    count = 0

    def read() -> None:
        nonlocal count
        count = sum(len(read_frames(video, backend=backend).indices) for video in videos)

    seconds = _timed(read, repeats)
    return [count / one for one in seconds]


def caching(
    model: "VideoLanguageModel", system: str, videos: Sequence[Path], repeats: int
) -> list[float]:
    """Clips per second from files to frozen features on disk."""
    from vlmcourse.training.feature_cache import cache_features

    def cache() -> None:
        with tempfile.TemporaryDirectory() as folder:
            cache_features(model, system, videos, folder, model.device, progress=False)

    return [len(videos) / seconds for seconds in _timed(cache, repeats)]


def _timed(work: Callable[[], None], repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls, after one that does not count."""
    work()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds


# ---------------------------------------------------------------- training


def training(
    config: Path, split: "WorldSplit", folder: Path, steps: int, device: str, **overrides: object
) -> tuple[list[float], list[float]]:
    """Steps and questions per second of a stage, features cached, step by step.

    Args:
        config: the stage's file; its data are replaced by those of the split.
        folder: for weights and features.
        overrides: more settings by dotted key, with `__` for a dot.
    """
    from vlmcourse.training.runner import run_stage

    settings: dict[str, object] = {
        "data.train": [{"json": str(split.folder / "conversations.json")}],
        "data.val": "null",
        "data.cache": str(folder / "cache"),
        "model.stage.steps": steps + WARM_STEPS,
        "model.stage.init_from": "null",
    }
    settings |= {key.replace("__", "."): value for key, value in overrides.items()}
    done = run_stage(config, folder / "run", settings, device, progress=False)
    with open(done.folder / "metrics.csv", encoding="utf-8") as file:
        rows = [(float(row["seconds"]), int(row["conversations"])) for row in csv.DictReader(file)]
    taken = [
        (now - before, asked)
        for (before, _), (now, asked) in zip(rows[WARM_STEPS - 1 :], rows[WARM_STEPS:])
    ]
    return [1 / seconds for seconds, _ in taken], [asked / seconds for seconds, asked in taken]


# ---------------------------------------------------------------- answers


@dataclass(frozen=True)
class Answering:
    """Seconds that all questions about each clip took in three ways, and whether they agree.

    Attributes:
        recomputed: the file is read and encoded again for every question.
        cached: read and encoded once; the questions follow one by one.
        together: read and encoded once; the questions go through the model at once, which reads the
            video's tokens once.
        questions: asked of each clip.
        same: share of questions of each clip that got the same answer in all three ways.
    """

    recomputed: list[float]
    cached: list[float]
    together: list[float]
    questions: list[int]
    same: list[float]


def answering(
    model: "VideoLanguageModel", videos: Sequence[Path], questions: Sequence[Sequence[str]]
) -> Answering:
    """Ask the same questions of each clip in three ways; the order of the ways changes by clip."""

    def ask(watched, asked: Sequence[str]) -> list[str]:
        return model.answer(watched, asked, max_new_tokens=16)

    def recomputed(video: Path, asked: Sequence[str]) -> list[str]:
        return [ask(model.watch(video), [question])[0] for question in asked]

    def cached(video: Path, asked: Sequence[str]) -> list[str]:
        watched = model.watch(video)
        return [ask(watched, [question])[0] for question in asked]

    def together(video: Path, asked: Sequence[str]) -> list[str]:
        return ask(model.watch(video), asked)

    ways = [recomputed, cached, together]
    for way in ways:
        way(videos[0], questions[0])
    seconds: list[list[float]] = [[], [], []]
    same = []
    for turn, (video, asked) in enumerate(zip(videos, questions, strict=True)):
        said: dict[int, list[str]] = {}
        for place in range(3):
            index = (turn + place) % 3
            start = time.perf_counter()
            said[index] = ways[index](video, asked)
            seconds[index].append(time.perf_counter() - start)
        agree = [len(set(answers)) == 1 for answers in zip(*said.values(), strict=True)]
        same.append(sum(agree) / len(agree))
    return Answering(*seconds, [len(asked) for asked in questions], same)


def answering_metrics(found: Answering) -> dict[str, dict]:
    """Answers per second of the three ways, and paired ratios of their times, clip by clip."""
    made = {}
    for name in ("recomputed", "cached", "together"):
        seconds = getattr(found, name)
        rates = [count / one for count, one in zip(found.questions, seconds, strict=True)]
        made[f"answers_per_s/{name}"] = metric(rates, "1/s")
    for name in ("cached", "together"):
        pairs = zip(found.recomputed, getattr(found, name), strict=True)
        made[f"speed_up/{name}"] = metric([slow / fast for slow, fast in pairs], "x")
    return made | {"answers_agree": metric(found.same, "share")}


# ---------------------------------------------------------------- all of it


def measure(
    model: "VideoLanguageModel",
    system: str,
    config: Path,
    sizes: Sizes,
    device: str,
    report: Callable[[str], None],
    **overrides: object,
) -> tuple[dict[str, dict], str]:
    """Measure everything.

    Args:
        model: the system that encodes and answers.
        config: file of the instruction stage.
        report: told what is being measured.
        overrides: see `training`.

    Returns:
        metrics for a record, and the checksum of the clips they were measured on.
    """
    made: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for workers in sorted({cores(), 1}, reverse=True):
            report(f"rendering, {workers} workers")
            rates = rendering(root, sizes.clips, workers, sizes.repeats)
            label = "1_worker" if workers == 1 else "all_cores"
            made[f"clips_rendered_per_s/{label}"] = _repeated(rates)
        if cores() == 1:
            made["clips_rendered_per_s/all_cores"] = made["clips_rendered_per_s/1_worker"]
        split = _load(root / "train")
        for backend in ("decord", "pyav"):
            report(f"decoding, {backend}")
            rates = decoding(split.clips, backend, sizes.repeats)
            made[f"frames_decoded_per_s/{backend}"] = _repeated(rates)
        report("caching features")
        made["clips_cached_per_s"] = _repeated(caching(model, system, split.clips, sizes.repeats))
        report("training")
        steps, samples = training(config, split, root, sizes.steps, device, **overrides)
        made["training_steps_per_s"] = metric(steps, "1/s")
        made["training_questions_per_s"] = metric(samples, "1/s")
        report("answering")
        count = min(sizes.asked_clips, len(split))
        asked = [[q.text for q in x[: sizes.questions]] for x in split.questions[:count]]
        made |= answering_metrics(answering(model, split.clips[:count], asked))
        return made, split.data_checksum


def _repeated(rates: Sequence[float]) -> dict:
    return metric(rates, "1/s", kind="seeds", keep=True)


def _load(folder: Path) -> "WorldSplit":
    from vlmcourse.world.dataset import load_split

    return load_split(folder)


def main(argv: list[str] | None = None) -> int:
    """Run `vlmcourse timings`: writes a record and prints it as a Markdown table."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(argv)
    import torch

    from vlmcourse.devices import chosen_device
    from vlmcourse.trained import load_trained_system, quiet_libraries
    from vlmcourse.training.settings import stage_files

    quiet_libraries()
    torch.set_num_threads(args.threads)
    others = {"world": None, "stream": _stream, "lengths": length_cost.command}
    others["connectors"] = connector_compute.command
    if other := others.get(args.what, _beside_others):
        return other(args, argv)
    sizes = Sizes(8, 2, 3, 3, 3) if args.quick else Sizes()
    device = chosen_device(args.device)
    found = load_trained_system(args.system, args.weights, device)
    config = stage_files(args.system, "world")[-1]
    path = args.record or Path("runs/timings/timings.json")
    settings = {"system": args.system, "device": device, "quick": args.quick, **asdict(sizes)}
    settings |= {"weights": found.settings_hash, "stage": str(config)}
    with Run(path, ["vlmcourse", "timings", *argv], settings) as run, _progress() as report:
        busy = _load_average()
        run.metrics, run.data_checksum = measure(
            found.model, args.system, config, sizes, device, report
        )
        run.note = f"Load average of the machine before it began: {busy}."
    tqdm.write(timings_table(run.record()))
    tqdm.write(f"\nrecord: {path}")
    return 0


def _beside_others(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """`--what qwen2_vl`: beside transformers (twin_timings.py); one of `LOOPS`: beside loops."""
    from vlmcourse.devices import chosen_device
    from vlmcourse.evaluation import loop_timings as loops
    from vlmcourse.evaluation import twin_timings as twins

    device, plain = chosen_device(args.device), args.what in LOOPS
    other, parts = (loops, 5) if plain else (twins, 15)
    measured = partial(loops.measure, args.what) if plain else twins.measure
    repeats = args.repeats or (2 if args.quick else other.REPEATS)
    if repeats < 2:
        raise UserError("--repeats must be at least 2")
    path = args.record or Path(f"runs/timings/timings-{args.what}-{args.size}.json")
    settings = {"what": args.what, "size": args.size, "device": device, "repeats": repeats}
    with Run(path, ["vlmcourse", "timings", *argv], settings) as run, _progress(parts) as report:
        busy = _load_average()
        run.metrics, told = measured(args.size, device, repeats, args.threads, report)
        run.settings |= told
        asked = told["aim"] if plain else told["dtype"] == "float32"
        run.status, run.note = other.judged(run.metrics, asked)
        run.note += f" Load average of the machine before it began: {busy}."
    record = run.record()
    tqdm.write(f"{twins.twin_table(record, other.NAMES)}\n\n{record['note']}\nrecord: {path}")
    return 0


def _stream(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """`--what stream`: memory and time a frame of a film without end (stream_cost.py)."""
    from vlmcourse.devices import chosen_device
    from vlmcourse.evaluation import stream_cost

    frames, grown = (400, 200) if args.quick else (args.frames, args.all_frames)
    how = {"device": chosen_device(args.device), "threads": args.threads}
    tasks = stream_cost.tasks_of(args.memory or list(stream_cost.WAYS), frames, grown, **how)
    path = args.record or Path("runs/timings/timings-stream.json")
    settings = {"what": "stream", **how, **stream_cost.told(tasks)}
    with Run(path, ["vlmcourse", "timings", *argv], settings) as run, _progress(len(tasks)) as say:
        busy = _load_average()
        run.metrics, run.peak_mib = stream_cost.measured(tasks, say)
        run.status, run.note = stream_cost.judged(run.metrics, tasks)
        run.note += f" Load average of the machine before it began: {busy}."
    record = run.record()
    tqdm.write(f"{stream_cost.stream_table(record)}\n\n{record['note']}\nrecord: {path}")
    return 0


def timings_table(record: dict) -> str:
    """What was measured down, value with its interval and n across, as Markdown."""
    lines = ["| measured | value | n |", "| --- | --: | --: |"]
    for name, value in record["metrics"].items():
        lines.append(f"| {name.replace('_', ' ')} | {metric_text(value)} | {value['n']} |")
    return "\n".join(lines)


@contextmanager
def _progress(parts: int = 7) -> Iterator[Callable[[str], None]]:
    with tqdm(total=parts, unit="part") as bar:
        yield lambda text: (bar.set_description(text), bar.update())


def _load_average() -> str:
    try:
        return f"{os.getloadavg()[0]:.1f} on {cores()} cores"
    except (AttributeError, OSError):
        return "unknown"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlmcourse timings",
        description="Measure this machine: clips made, frames decoded, features cached, questions "
        "learnt, answers given with and without cached features. With --what stream: memory and "
        "time a frame of MA-LMM in a film without end; qwen2_vl: our vision tower and generation "
        "beside transformers' own; memory_bank, event_merging: beside plain loops; lengths: films "
        "of 8 to 512 s. Nothing else should run. connectors: count the study's arithmetic instead.",
        epilog="example: vlmcourse timings --record experiments/timings/records/timings.json",
    )
    add = parser.add_argument
    what = ("world", "stream", "lengths", "qwen2_vl", "connectors", *LOOPS)
    add("--what", choices=what, default="world", help="default: %(default)s")
    add("--size", default="tiny", help="qwen2_vl: tiny, small, 2B; beside loops: tiny, paper")
    add("--repeats", type=int, help="of each part; default: 15 of qwen2_vl, 5 beside loops")
    add("--memory", nargs="+", help="of stream: bank_5 and others (default: every kind)")
    add("--frames", type=int, default=10_000, help="of stream (default: %(default)s)")
    add("--all-frames", type=int, default=1000, help="of stream, where nothing is forgotten and "
        "memory grows (default: %(default)s)")  # fmt: skip
    add("--system", default="video_chatgpt", help="default: %(default)s")
    add("--weights", type=Path, help="a run instead of the shipped weights")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--threads", type=int, default=1, help="torch threads (default: 1)")
    add("--quick", action="store_true", help="a few seconds, for a look")
    add("--record", type=Path, help="default: runs/timings/timings.json")
    return parser
