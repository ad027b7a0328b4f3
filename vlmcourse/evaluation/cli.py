"""`vlmcourse evaluate`: trained runs of a system against controls, on the questions of a split."""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from vlmcourse.errors import UserError
from vlmcourse.evaluation.conditions import (
    CONTROLS,
    SOUNDS,
    chosen_conditions,
    given_evidence,
    given_streams,
    read_given,
)
from vlmcourse.records import Run


@dataclass(frozen=True)
class Evaluation:
    """What is asked of whom.

    Attributes:
        system: a key of `systems.CONSTRUCTORS`.
        runs: folders of its trained runs; None stands for the shipped weights.
        split: folder of a split of the world.
        train: folder of the split that `majority` is fitted on; None means `train` beside `split`.
        given: streams that the system is given (`conditions.read_given`); None means all it takes.
        controls: of `conditions.CONTROLS`; None means all that take something away from it.
        permutations: orders that "shuffled" and "shuffled_sound" take the mean of.
        clips: use the first so many clips only.
        cache: folder of frozen features.
        foundations: folder of the frozen parts instead of the shipped ones.
        device: "cpu", "cuda" or "auto".
    """

    system: str
    runs: tuple[Path | None, ...]
    split: Path = Path("data/world/test")
    train: Path | None = None
    given: tuple[str, ...] | None = None
    controls: tuple[str, ...] | None = None
    permutations: int = 3
    clips: int | None = None
    cache: Path = Path("data/cache")
    foundations: Path | None = None
    device: str = "auto"


def evaluate(what: Evaluation, record: Path, command: Sequence[str], progress: bool = True) -> dict:
    """Ask, score, write the record and return it.

    Raises:
        UserError: runs, splits or foundations that cannot be used; no record is written then.
    """
    from vlmcourse.devices import chosen_device
    from vlmcourse.evaluation import probes, scoring
    from vlmcourse.evaluation.runs import frozen_parts, load_runs
    from vlmcourse.training.sources import located
    from vlmcourse.world.dataset import load_split

    device, folder = chosen_device(what.device), located(what.split)
    split, fitted = load_split(folder), []
    runs = load_runs(what.system, what.runs, device, what.foundations)
    given = runs[0].model.processor.given if what.given is None else read_given(what.given)
    conditions = chosen_conditions(what.controls, given)
    if "majority" in conditions:
        fitted = _questions(located(what.train or folder.parent / "train"))
    asked = probes.load_probes(
        split, runs[0].model, what.system, located(what.cache), what.clips, progress, given
    )
    settings = {
        "system": what.system,
        "options": runs[0].options,
        "runs": [str(run.folder) for run in runs],
        "weights": [run.settings_hash for run in runs],
        "frozen": frozen_parts(runs[0].model),
        "given": given_streams(given),
        "split": str(what.split),
        "clips": len(asked.ids),
        "conditions": conditions,
        "permutations": what.permutations,
        "asked": dict(Counter(question.kind for question in asked.questions)),
        "intervals": "95 %, clips and runs drawn again, crossed (evaluation/scoring.py)",
    }
    seeds = [run.seed for run in runs if run.seed is not None]
    passes = sum(len(runs) * (x in probes.TRAINED) + (x in probes.FROZEN) for x in conditions)
    with (
        Run(record, list(command), settings, seeds, split.data_checksum) as run,
        tqdm(total=passes, unit="pass", disable=not progress) as bar,
    ):
        answers = probes.ask_all(
            [one.model for one in runs],
            asked,
            conditions,
            fitted,
            what.permutations,
            lambda name: (bar.set_description(f"asked {name}"), bar.update()),
        )
        seconds = probes.sound_seconds(asked) if SOUNDS in given_streams(given) else None
        run.metrics = scoring.score(
            answers.right, asked.questions, asked.clip_of, answers.opposite, seconds
        )
        run.status, run.note = _judged(
            run.metrics, given_evidence(given), len(runs), len(asked.ids)
        )
    return run.record()


def _questions(folder: Path) -> list:
    from vlmcourse.world.dataset import load_split

    return [question for asked in load_split(folder).questions for question in asked]


def _judged(metrics: dict, evidence: frozenset[str], runs: int, clips: int) -> tuple[str, str]:
    """Status and note of a record: what the system can do that a blind guess cannot, and leaks."""
    from vlmcourse.evaluation.runs import only_a_look
    from vlmcourse.evaluation.scoring import judgement

    found = judgement(metrics, evidence)
    note = f"Above every blind control: {', '.join(found.beaten) or 'no family'}."
    if found.partly:
        note += f" With part of the evidence, above blind controls: {', '.join(found.partly)}."
    if found.leaks:
        note += f" LEAK: above chance without the evidence in {', '.join(found.leaks)}."
    note += only_a_look(runs, clips)
    return ("ok" if found.beaten and not found.leaks else "negative"), note


def main(argv: list[str] | None = None) -> int:
    """Run `vlmcourse evaluate`: writes a record and prints its table as Markdown."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(argv)
    import torch

    from vlmcourse.evaluation.scoring import probe_table
    from vlmcourse.trained import quiet_libraries

    quiet_libraries()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if args.permutations < 1 or (args.clips is not None and args.clips < 1):
        raise UserError("--permutations and --clips must be at least 1")
    torch.set_num_threads(args.threads)
    path = args.record or Path("runs/evaluation") / f"{args.system}-probes.json"
    what = Evaluation(
        args.system, tuple(args.runs or [None]), args.split, args.train,
        None if args.given is None else tuple(args.given),
        None if args.controls is None else tuple(args.controls),
        args.permutations, args.clips, args.cache, args.foundations, args.device,
    )  # fmt: skip
    record = evaluate(what, path, ["vlmcourse", "evaluate", *argv])
    tqdm.write(probe_table(record))
    if args.kinds:
        tqdm.write("\n" + probe_table(record, kinds=True))
    tqdm.write(f"\n{record['note']}\nrecord: {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlmcourse evaluate",
        description="Ask trained runs of a system, and controls that lack something, all questions "
        "of a split; write one record and print its table. An answer counts if it is exact.",
        epilog="example: vlmcourse evaluate --system video_chatgpt --runs "
        "runs/video_chatgpt/world-seed0 runs/video_chatgpt/world-seed1 "
        "runs/video_chatgpt/world-seed2 "
        "--record experiments/video_chatgpt/records/video_chatgpt-probes.json",
    )
    add = parser.add_argument
    add("--system", required=True, help="for example video_chatgpt")
    add(
        "--runs",
        nargs="+",
        type=Path,
        help="folders of runs, one a seed (default: shipped weights)",
    )
    add("--split", type=Path, default=Evaluation.split, help="default: %(default)s")
    add(
        "--train",
        type=Path,
        help="split that majority answers come from (default: train beside it)",
    )
    add(
        "--given",
        nargs="+",
        metavar="STREAM",
        help="what the system is given: pictures, sounds, sound_pictures, or pictures and one of "
        "the others (default: all it takes)",
    )
    add(
        "--controls",
        nargs="*",
        choices=tuple(CONTROLS),
        help="default: all that take something away from what is given",
    )
    add("--permutations", type=int, default=3, help="orders of what is shuffled (default: 3)")
    add("--clips", type=int, help="use the first so many clips only")
    add("--cache", type=Path, default=Evaluation.cache, help="frozen features (%(default)s)")
    add("--foundations", type=Path, help="folder of the frozen parts (default: the shipped ones)")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--threads", type=int, default=1, help="torch threads (default: 1, as runs are small)")
    add("--record", type=Path, help="default: runs/evaluation/SYSTEM-probes.json")
    add("--kinds", action="store_true", help="print the table of kinds of questions too")
    return parser
