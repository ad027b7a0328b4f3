"""`vlmcourse evaluate`: trained runs of a system against controls, on the questions of a split."""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vlmcourse.errors import UserError
from vlmcourse.evaluation.conditions import CONTROLS, FROZEN, SOUNDS, chosen_conditions
from vlmcourse.evaluation.loading import Sources, load
from vlmcourse.records import Run
from vlmcourse.world.language import FAMILIES

INTERVALS = "95 %, clips and runs drawn again, crossed (evaluation/scoring.py)"


@dataclass(frozen=True)
class Evaluation:
    """What is asked of whom.

    Attributes:
        system: a key of `systems.CONSTRUCTORS`.
        runs: folders of its trained runs; None stands for the shipped weights.
        sources: the split that is asked about, and where the rest comes from.
        train: folder of the split that constant answers are fitted on; None means `train` beside
            the split.
        given: streams that the system is given (`conditions.read_given`); None means all it takes.
        controls: of `conditions.CONTROLS`; None means all that take something away from it.
        permutations: orders that "shuffled" and "shuffled_sound" take the mean of.
        options: settings of the system that are changed for the questions; their weights stay.
    """

    system: str
    runs: tuple[Path | None, ...]
    sources: Sources = field(default_factory=Sources)
    train: Path | None = None
    given: tuple[str, ...] | None = None
    controls: tuple[str, ...] | None = None
    permutations: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def told(self) -> dict[str, Any]:
        """What a record tells of changed options and of chosen families, if there are any."""
        told: dict[str, Any] = {"set": dict(self.options)} if self.options else {}
        families = self.sources.families
        return {**told, "families": list(families)} if families else told

    @property
    def fitted_on(self) -> Path:
        """The split that constant answers are fitted on."""
        from vlmcourse.training.sources import located

        return located(self.train or located(self.sources.split).parent / "train")


def evaluate(
    what: Evaluation,
    record: Path,
    command: Sequence[str],
    progress: bool = True,
    answers: Path | None = None,
) -> dict:
    """Ask, score, write the record and return it.

    Args:
        answers: file for what was answered to every question, too (answer_bits.py).

    Raises:
        UserError: runs, splits or foundations that cannot be used; no record is written then.
    """
    from vlmcourse.evaluation import probes, scoring
    from vlmcourse.evaluation.answer_bits import AnswerFile, question_set, save_answers
    from vlmcourse.evaluation.cost import clip_tokens
    from vlmcourse.evaluation.runs import frozen_language_model
    from vlmcourse.evaluation.shapes import (
        clip_sizes,
        group_costs,
        group_metrics,
        scene_groups,
        shape_groups,
    )

    split = what.sources.load_split()
    side = load(what.system, what.runs, split, what.sources, what.given, what.options, progress)
    asked, subject = side.probes, side.asked
    sizes = clip_sizes(split, asked.ids)

    def grouped(clip_of: Sequence[int]) -> dict:
        return shape_groups(sizes, clip_of) | scene_groups(asked.stories, clip_of)

    conditions = chosen_conditions(what.controls, subject)
    fitted = _questions(what.fitted_on) if "majority" in conditions else []
    frozen = None
    if set(FROZEN) & set(conditions):
        frozen = frozen_language_model(side.models[0], what.sources.foundations)
    settings = {
        **side.settings,
        **what.told,
        "split": str(what.sources.split),
        "clips": len(asked.ids),
        "conditions": conditions,
        "permutations": what.permutations,
        "asked": dict(Counter(question.kind for question in asked.questions)),
        "intervals": INTERVALS,
    }
    seeds = [run.seed for run in side.runs if run.seed is not None]
    passes = sum(len(side.runs) * (x in probes.TRAINED) + (x in FROZEN) for x in conditions)
    with (
        Run(record, list(command), settings, seeds, split.data_checksum) as run,
        tqdm(total=passes, unit="pass", disable=not progress) as bar,
    ):
        said = probes.ask_all(
            side.models,
            asked,
            conditions,
            fitted,
            what.permutations,
            lambda name: (bar.set_description(f"asked {name}"), bar.update()),
            frozen,
            side.seen_by,
        )
        seconds = probes.asked_seconds(asked, SOUNDS in subject.streams)
        run.metrics = side.cost() | scoring.score(
            said.right, asked.questions, asked.clip_of, said.opposite, seconds
        )
        groups = grouped(asked.clip_of)
        if answers is not None:
            told = run.record()["settings"]
            kept = AnswerFile(
                question_set(asked.ids, asked.asked, groups, seconds), said.right, said.opposite,
                tuple(seeds), split.data_checksum, told,
            )  # fmt: skip
            save_answers(answers, kept, what.permutations)
        if groups:
            tokens = [count for _, count in clip_tokens(side.models[0], asked)]
            run.metrics |= group_costs(tokens, grouped(range(len(asked.ids))))
            run.metrics |= group_metrics(said.right, asked.questions, asked.clip_of, groups)
        run.status, run.note = _judged(
            run.metrics, subject.evidence, len(side.runs), len(asked.ids)
        )
    return run.record()


def _questions(folder: Path) -> list:
    from vlmcourse.world.dataset import load_split

    return [question for asked in load_split(folder).questions for question in asked]


def _judged(metrics: dict, evidence: frozenset[str], runs: int, clips: int) -> tuple[str, str]:
    """Status and note of a record: what the system can do that a blind guess cannot, and leaks."""
    from vlmcourse.evaluation.runs import only_a_look
    from vlmcourse.evaluation.scoring import judgement, retained

    found = judgement(metrics, evidence)
    note = f"Above every blind control: {', '.join(found.beaten) or 'no family'}."
    if found.partly:
        note += f" With part of the evidence, above blind controls: {', '.join(found.partly)}."
    if found.leaks:
        note += f" LEAK: above chance without the evidence in {', '.join(found.leaks)}."
    note += retained(metrics) + only_a_look(runs, clips)
    return ("ok" if found.beaten and not found.leaks else "negative"), note


def main(argv: list[str] | None = None) -> int:
    """Run `vlmcourse evaluate`: writes a record and prints its table as Markdown."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(argv)
    import torch

    from vlmcourse.evaluation.grid import evaluate_grid, grid_table
    from vlmcourse.evaluation.grounding_command import ground, grounding_table
    from vlmcourse.evaluation.options import read_grid, read_options
    from vlmcourse.evaluation.scene_events import events_table, find_events
    from vlmcourse.evaluation.scoring import probe_table
    from vlmcourse.trained import quiet_libraries

    quiet_libraries()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if args.permutations < 1 or (args.clips is not None and args.clips < 1):
        raise UserError("--permutations and --clips must be at least 1")
    options, grid = read_options(args.set), read_grid(args.grid)
    _refuse_beside_grid(args, options, grid.axes)
    torch.set_num_threads(args.threads)
    kinds = {"grid": args.grid, "grounding": args.grounding, "events": args.events}
    kind = next((name for name, asked_for in kinds.items() if asked_for), "probes")
    path = args.record or Path("runs/evaluation") / f"{args.system}-{kind}.json"
    sources = Sources(
        args.split or args.data / "test", args.clips, args.cache, args.foundations, args.device,
        tuple(args.families or ()),
    )  # fmt: skip
    what = Evaluation(
        args.system, tuple(args.runs or [None]), sources, args.train,
        None if args.given is None else tuple(args.given),
        None if args.controls is None else tuple(args.controls),
        args.permutations, options,
    )  # fmt: skip
    measure, table = {
        "probes": (partial(evaluate, answers=args.answers), probe_table),
        "grounding": (ground, grounding_table),
        "grid": (partial(evaluate_grid, grid=grid), grid_table),
        "events": (find_events, events_table),
    }[kind]
    record = measure(what, record=path, command=["vlmcourse", "evaluate", *argv])
    tqdm.write(table(record))
    if args.kinds and kind == "probes":
        tqdm.write("\n" + probe_table(record, kinds=True))
    tqdm.write(f"\n{record['note']}\nrecord: {path}")
    return 0


def _refuse_beside_grid(args: argparse.Namespace, options: Collection, axes: Collection) -> None:
    """Refuse what a grid, or events, do not go together with."""
    if args.answers and (args.grid or args.grounding or args.events):
        raise UserError("--answers keeps what was answered to questions: no grid, spans or events")
    if args.events and (args.grid or args.grounding or args.controls or args.given):
        raise UserError("--events compares events with scenes: no grid, controls, spans or streams")
    if args.grid and (args.grounding or args.controls):
        raise UserError("--grid asks the questions without controls, and no spans")
    if twice := sorted(set(options) & set(axes)):
        raise UserError(f"{twice[0]} stands in --set and in --grid")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlmcourse evaluate",
        description="Ask trained runs of a system, and controls that lack something, all questions "
        "of a split; write one record and print its table. An answer counts if it is exact. With "
        "--grounding: ask when every event begins and how long it lasts, and measure how well "
        "these spans meet the true ones. With --grid: ask every combination of some settings. With "
        "--events (Chat-UniVi, films of several scenes): ask nothing, and measure how well the "
        "events of a film follow its scenes.",
        epilog="example: vlmcourse evaluate --system video_chatgpt --runs "
        "runs/video_chatgpt/world-seed0 runs/video_chatgpt/world-seed1 "
        "runs/video_chatgpt/world-seed2 "
        "--record experiments/video_chatgpt/records/video_chatgpt-probes.json. What a budget of "
        "tokens is spent on best: --system qwen2_vl --grid fps=0.5,1,2 --grid "
        "video_max_pixels=1024,2304,4096",
    )
    add = parser.add_argument
    add("--system", required=True, help="for example video_chatgpt")
    add(
        "--runs",
        nargs="+",
        type=Path,
        help="folders of runs, one a seed (default: shipped weights)",
    )
    add(
        "--data",
        type=Path,
        default=Sources.split.parent,
        help="folder of splits, of which `test` is asked about (default: %(default)s); others are "
        "data/world_pictures, data/world_lengths, ...",
    )
    add("--split", type=Path, help="folder of another split to ask about")
    add(
        "--train",
        type=Path,
        help="split that constant answers come from (default: train beside the split)",
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
        help="default: all that take something away from what is given (with --grounding: blind)",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="ask with another setting of the system than it was trained with (num_frames=4, "
        "max_pixels=4096, ...), if its weights fit; may be said again",
    )
    add(
        "--grid",
        action="append",
        default=[],
        metavar="NAME=V,V,...",
        help="ask every combination of these settings, for one record; may be said again. What is "
        "finished is kept beside the record until it is whole",
    )
    add("--grounding", action="store_true", help="measure temporal grounding instead")
    add("--events", action="store_true", help="compare events with true scenes instead")
    add("--permutations", type=int, default=3, help="orders of what is shuffled (default: 3)")
    add("--clips", type=int, help="use the first so many clips only")
    add("--families", nargs="+", choices=tuple(FAMILIES), help="ask only these (default: all)")
    add("--cache", type=Path, default=Sources.cache, help="frozen features (%(default)s)")
    add("--foundations", type=Path, help="folder of the frozen parts (default: the shipped ones)")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--threads", type=int, default=1, help="torch threads (default: 1, as runs are small)")
    add("--record", type=Path, help="default: runs/evaluation/SYSTEM-probes.json, ...")
    add(
        "--answers",
        type=Path,
        metavar="FILE",
        help="keep in this JSON file, too, which questions were answered exactly, for statistics "
        "without the data (a bit an answer)",
    )
    add("--kinds", action="store_true", help="print the table of kinds of questions too")
    return parser
