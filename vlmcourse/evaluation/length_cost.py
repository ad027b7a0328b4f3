"""`vlmcourse timings --what lengths`: what a film of so many seconds costs each of the systems.

Every system runs in a process of its own. It watches films from their files, shortest first, and
answers one question about each; nothing comes from a cache. Told are the frames it takes, the
tokens that stand for the film in its language model, the seconds from the file to what it remembers
and from there to an answer, and the memory that all of it takes above the loaded system.
"""

import argparse
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmcourse.devices import work_clock
from vlmcourse.errors import UserError
from vlmcourse.intervals import metric
from vlmcourse.measure import MIB, Cost

if TYPE_CHECKING:
    from vlmcourse.systems.base import VideoLanguageModel

SYSTEMS = (
    *("video_chatgpt", "video_llama", "minigpt4_video", "cogvlm2_video"),
    *("qwen2_vl", "chat_univi", "ma_lmm"),
)
LENGTHS = {8: "data/world", 32: "data/world_32", 128: "data/world_128", 512: "data/world_512"}
"""Seconds of a film -> the folder whose test split holds such films."""
QUESTION = "what happens first ?"
FILMS = 5
MAX_NEW_TOKENS = 8
COSTS = {
    "frames": "frames",
    "tokens": "tokens",
    "watch_s": "s",
    "answer_s": "s",
    "peak_mib": "MiB",
    "peak_gpu_mib": "MiB",
}
"""What is told of a film, and its unit."""


@dataclass(frozen=True)
class Watching:
    """What one system is to watch.

    Attributes:
        system: a key of `systems.CONSTRUCTORS`, with its shipped weights.
        films: seconds -> files; the first of each warms up.
        device, threads: of torch.
        foundations: folder of the frozen parts instead of the shipped ones.
    """

    system: str
    films: Mapping[int, Sequence[Path]]
    device: str = "cpu"
    threads: int = 1
    foundations: Path | None = None


Found = dict[int, dict[str, list[float]]]
"""Seconds of a film -> cost -> one value a film (of peaks: one)."""


def watch(task: Watching) -> tuple[Found, str]:
    """Watch and answer in this process; gives the costs and which weights were asked."""
    import psutil
    import torch

    from vlmcourse.trained import load_trained_system, quiet_libraries

    quiet_libraries()
    torch.set_num_threads(task.threads)
    loaded = load_trained_system(task.system, None, task.device, task.foundations)
    model, clock = loaded.model, work_clock(task.device, task.threads)
    lengths = sorted(task.films)
    one_film(model, task.films[lengths[0]][0], clock)
    before = psutil.Process().memory_info().rss / MIB
    gpu_before = torch.cuda.memory_allocated() / MIB if task.device == "cuda" else 0.0
    found: Found = {}
    for seconds in lengths:
        with Cost() as cost:
            taken = [one_film(model, film, clock) for film in task.films[seconds]]
        costs = {name: [one[name] for one in taken[1:]] for name in taken[0]}
        costs["peak_mib"] = [max(0.0, cost.peak_mib - before)]
        if task.device == "cuda" and cost.peak_gpu_mib is not None:
            costs["peak_gpu_mib"] = [max(0.0, cost.peak_gpu_mib - gpu_before)]
        found[seconds] = costs
    return found, loaded.settings_hash


def one_film(
    model: "VideoLanguageModel", film: Path, clock: Callable[[], float]
) -> dict[str, float]:
    """Costs of one film and one answer, without memory."""
    from vlmcourse.conversation import ask
    from vlmcourse.evaluation.cost import tokens_of
    from vlmcourse.evaluation.rows import marker
    from vlmcourse.systems.processor import Given

    start = clock()
    watched = model.watch(film, Given("pictures", None))
    seen = clock()
    model.answer(watched, [QUESTION], max_new_tokens=MAX_NEW_TOKENS)
    said = clock()
    _, tokens = tokens_of(model.processor, ask(QUESTION, "", marker(watched.clip)), watched.clip)
    frames = watched.clip.num_frames
    return {"frames": frames, "tokens": tokens, "watch_s": seen - start, "answer_s": said - seen}


# ---------------------------------------------------------------- all systems


def films_of(lengths: Mapping[int, str | Path], count: int) -> tuple[dict[int, list[Path]], list]:
    """The first films of each length, one more than `count` to warm up, and their checksums.

    Raises:
        UserError: a split is not there or holds too few; says how to make it.
    """
    from vlmcourse.training.sources import located
    from vlmcourse.world.dataset import load_split

    films, checksums = {}, []
    for seconds, folder in lengths.items():
        path = located(Path(folder) / "test")
        if not (path / "manifest.json").is_file():
            raise UserError(
                f"{path}: no films of {seconds} s; make them: vlmcourse world --split test "
                f"--count 40 --duration {seconds} --root {folder}"
            )
        split = load_split(path)
        if len(split) <= count:
            raise UserError(f"{path}: {len(split)} films, {count + 1} are needed")
        films[seconds] = list(split.clips[: count + 1])
        checksums.append(split.data_checksum)
    return films, checksums


def measure(
    tasks: Sequence[Watching], report: Callable[[str], None] = lambda text: None
) -> tuple[dict[str, dict], dict[str, str]]:
    """Each system in a new process, one after the other.

    Returns:
        metrics `SYSTEM/SECONDS/COST` (of `COSTS`); system -> hash of its weights' settings.
    """
    metrics: dict[str, dict] = {}
    weights: dict[str, str] = {}
    context = multiprocessing.get_context("spawn")
    for task in tasks:
        report(task.system)
        with ProcessPoolExecutor(1, context) as pool:
            found, weights[task.system] = pool.submit(watch, task).result()
        metrics |= length_metrics(task.system, found)
    return metrics, weights


def length_metrics(system: str, found: Found) -> dict[str, dict]:
    """Metrics of one system, by length and cost."""
    return {
        f"{system}/{seconds}/{name}": metric([round(x, 6) for x in values], COSTS[name])
        for seconds, costs in found.items()
        for name, values in costs.items()
    }


def command(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """`vlmcourse timings --what lengths`; with `--quick` films of 8 seconds alone."""
    from tqdm import tqdm

    from vlmcourse.devices import chosen_device
    from vlmcourse.records import Run

    device = chosen_device(args.device)
    lengths = dict(list(LENGTHS.items())[:1]) if args.quick else LENGTHS
    films, checksums = films_of(lengths, 1 if args.quick else FILMS)
    tasks = [Watching(system, films, device, args.threads) for system in SYSTEMS]
    path = args.record or Path("runs/timings/timings-lengths.json")
    settings: dict[str, Any] = {
        "what": "lengths", "device": device, "threads": args.threads, "question": QUESTION,
        "films": {str(k): len(v) - 1 for k, v in films.items()},
        "data": {str(seconds): str(folder) for seconds, folder in lengths.items()},
        "clock": "processor time" if device == "cpu" and args.threads == 1 else "wall time",
        "memory": "highest resident size while watching and answering, above the loaded system "
        "that has watched one film of the shortest length",
    }  # fmt: skip
    with (
        Run(path, ["vlmcourse", "timings", *argv], settings, [], checksums[0]) as run,
        tqdm(total=len(tasks), unit="system") as bar,
    ):
        run.metrics, run.settings["weights"] = measure(
            tasks, lambda text: (bar.set_description(text), bar.update())
        )
        run.note = "Shipped weights, each system in its own process, pictures alone."
    record = run.record()
    tqdm.write(f"{lengths_table(record)}\n\nrecord: {path}")
    return 0


def lengths_table(record: Mapping[str, Any]) -> str:
    """Systems and lengths down, costs across, as Markdown."""
    from vlmcourse.records import metric_text

    metrics = record["metrics"]
    rows = dict.fromkeys(tuple(name.split("/")[:2]) for name in metrics)
    costs = [c for c in COSTS if any(name.endswith(f"/{c}") for name in metrics)]
    lines = [
        f"| system, film | {' | '.join(cost.replace('_', ' ') for cost in costs)} |",
        f"| --- |{' --: |' * len(costs)}",
    ]
    for system, seconds in rows:
        cells = [metric_text(metrics[f"{system}/{seconds}/{cost}"]) for cost in costs]
        lines.append(f"| {system}, {seconds} s | {' | '.join(cells)} |")
    return "\n".join(lines)
