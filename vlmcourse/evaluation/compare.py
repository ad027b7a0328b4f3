"""`vlmcourse compare`: two systems, or two variants of one, on the same questions, as differences.

A difference of two shares that were measured on the same clips is known better than either share:
what makes a clip hard makes it hard for both. So both sides are asked here together, and every draw
of the bootstrap takes the same clips for both (scoring.Bootstrap.difference).
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from vlmcourse.errors import UserError
from vlmcourse.evaluation.conditions import SOUNDS, SYSTEM
from vlmcourse.evaluation.loading import Loaded, Sources, load
from vlmcourse.evaluation.options import read_options
from vlmcourse.evaluation.runs import differing_parts, only_a_look, system_of
from vlmcourse.evaluation.scoring import (
    HALLUCINATION,
    SHAPES,
    Bootstrap,
    groups,
    hallucination_groups,
    second_groups,
)
from vlmcourse.records import Run, metric_text
from vlmcourse.world.language import FAMILIES, KINDS, Question

if TYPE_CHECKING:
    from vlmcourse.evaluation.asked import Probes
    from vlmcourse.world.dataset import WorldSplit

SIDES = ("a", "b")
DIFFERENCE = "difference"
SPAN_MEASURES = (
    *("mean_iou", "recall_0.3", "recall_0.5", "recall_0.7"),
    *("parsed", "when_right", "how_long_right"),
)
"""What is told of spans (`grounding.span_measures`)."""


@dataclass(frozen=True)
class Side:
    """One of the two that are compared.

    Attributes:
        runs: folders of trained runs, one a seed.
        given: streams that it is given (`conditions.read_given`); None means all it takes.
        system: a key of `systems.CONSTRUCTORS`; None means what the first run says.
        name: for the table and the note.
        options: `NAME=VALUE` settings of the system that differ from those of its training.
    """

    runs: tuple[Path, ...]
    given: tuple[str, ...] | None = None
    system: str | None = None
    name: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """What is asked of both.

    Attributes:
        a, b: the idea, and what it is held against.
        about: groups of questions (families, "all", "kind/first", ...) that decide the status.
        sources: the split that is asked about, and where the rest comes from.
        grounding: ask for the spans of events instead (grounding.py); `about` then names its
            metrics.
    """

    a: Side
    b: Side
    about: tuple[str, ...] = ("all",)
    sources: Sources = field(default_factory=Sources)
    grounding: bool = False


def compare(what: Comparison, record: Path, command: Sequence[str], progress: bool = True) -> dict:
    """Ask both, score, write the record and return it.

    Raises:
        UserError: runs, splits, streams or groups that cannot be used; no record is written then.
    """
    from vlmcourse.evaluation.grounding_command import span_split

    split = what.sources.load_split()
    asked = span_split(split) if what.grounding else split
    both = [
        _loaded(side, side.name or label, asked, what.sources, progress)
        for side, label in zip((what.a, what.b), SIDES)
    ]
    probes, told = both[0].probes, [one.settings for one in both]
    sets = _every(probes, SPAN_MEASURES) if what.grounding else question_sets(split, probes)
    _refuse_unasked(what.about, sets)
    paired = told[0]["weights"] == told[1]["weights"]
    settings = dict(zip(SIDES, told)) | {
        "about": list(what.about),
        "split": str(what.sources.split),
        "clips": len(probes.ids),
        "pairs": "clips and runs" if paired else "clips",
        "intervals": "95 %, clips and runs drawn again, crossed (evaluation/scoring.py)",
    }
    settings |= {"grounding": True} if what.grounding else {}
    seeds = {run.seed for one in both for run in one.runs if run.seed is not None}
    with (
        Run(record, list(command), settings, sorted(seeds), split.data_checksum) as run,
        tqdm(total=sum(len(x.runs) for x in both), unit="run", disable=not progress) as bar,
    ):
        run.metrics = (_span_differences if what.grounding else _asked)(both, sets, paired, bar)
        groups_told = list(sets) if what.grounding else list(FAMILIES)
        names = [one["name"] for one in told]
        run.status, run.note = _judged(run.metrics, what.about, names, groups_told)
        for label, one in zip(SIDES, both):
            run.metrics |= {f"{label}/{name}": value for name, value in one.cost().items()}
        run.note += _what_differs(both) + only_a_look(
            min(len(one.runs) for one in both), len(probes.ids)
        )
    return run.record()


def _asked(
    both: Sequence[Loaded], sets: Mapping[str, np.ndarray], paired: bool, bar: tqdm
) -> dict[str, dict]:
    """Exact answers of both sides, as metrics."""
    from vlmcourse.evaluation.asked import asked_seconds
    from vlmcourse.evaluation.probes import ask_all

    probes = both[0].probes
    found = [
        ask_all(x.models, x.probes, [SYSTEM], report=lambda _: bar.update(), seen_by=x.seen_by)
        for x in both
    ]
    return differences(
        [one.right[SYSTEM] for one in found],
        [one.opposite[SYSTEM] for one in found],
        probes.questions,
        probes.clip_of,
        paired,
        asked_seconds(probes, any(SOUNDS in one.asked.streams for one in both)),
        sets,
    )


def question_sets(split: "WorldSplit", probes: "Probes") -> dict[str, np.ndarray]:
    """Sets of questions by name -> bool `[Q]`: those of `scoring.groups`, and by shape and size of
    the clips where they differ (shapes.py)."""
    from vlmcourse.evaluation.shapes import clip_sizes, shape_groups

    return groups(probes.questions) | shape_groups(clip_sizes(split, probes.ids), probes.clip_of)


def _every(probes: "Probes", names: Sequence[str]) -> dict[str, np.ndarray]:
    """All events, for every name: bool `[E]`."""
    return {name: np.ones(len(probes.questions) // 2, dtype=bool) for name in names}


def _span_differences(
    both: Sequence[Loaded], sets: Mapping[str, np.ndarray], paired: bool, bar: tqdm
) -> dict[str, dict]:
    """Spans of both sides, as metrics: `a/NAME`, `b/NAME`, `difference/NAME`."""
    from vlmcourse.evaluation.grounding import span_measures, true_spans
    from vlmcourse.evaluation.grounding_command import predicted_spans

    probes = both[0].probes
    truth, bootstrap = true_spans(probes.stories), Bootstrap(probes.clip_of[::2])
    sides = [span_measures(predicted_spans(x, [SYSTEM], None, bar)[SYSTEM], truth) for x in both]
    found = {}
    for name, every in sets.items():
        pair = [values[name] for values in sides]
        found |= {f"{side}/{name}": bootstrap.metric(v, every) for side, v in zip(SIDES, pair)}
        found[f"{DIFFERENCE}/{name}"] = bootstrap.difference(*pair, every, paired)
    return found


def _what_differs(both: Sequence[Loaded]) -> str:
    """Sentences for a note: frozen parts that are not the same, parts that one side trained."""
    trained, note = both[0].trained | both[1].trained, ""
    if apart := differing_parts(*(one.models[0] for one in both), trained):
        note += f" They differ in what is frozen: {', '.join(apart)}."
    if alone := sorted(both[0].trained ^ both[1].trained):
        note += f" Trained by one of them only: {', '.join(alone).replace('_', ' ')}."
    return note


def _loaded(side: Side, name: str, split: "WorldSplit", sources: Sources, progress: bool) -> Loaded:
    system, options = side.system or system_of(side.runs[0]), read_options(side.options)
    found = load(system, side.runs, split, sources, side.given, options, progress)
    return replace(found, settings={"name": name, **found.settings})


def _refuse_unasked(about: Sequence[str], known: Mapping[str, np.ndarray]) -> None:
    there = [name for name, chosen in known.items() if chosen.any()]
    for name in about:
        if name not in there:
            raise UserError(f"--about {name}: no such questions here; there are {', '.join(there)}")


def differences(
    right: Sequence[np.ndarray],
    opposite: Sequence[np.ndarray],
    questions: Sequence[Question],
    clip_of: np.ndarray,
    paired: bool,
    seconds: np.ndarray | None = None,
    sets: Mapping[str, np.ndarray] | None = None,
) -> dict[str, dict]:
    """Turn the answers of both sides into the metrics of a record.

    Args:
        right, opposite: `[Sa, Q]` and `[Sb, Q]`, as in `probes.Answers`, of the same questions.
        clip_of: `[Q]` clip of each question.
        paired: both sides are the same runs, in the same order.
        seconds: `[Q]` of `asked.asked_seconds`.
        sets: of `question_sets`; None means `scoring.groups`.

    Returns:
        `a/GROUP`, `b/GROUP` and `difference/GROUP` (a less b), GROUP as in `scoring.score`; for the
        rates of `scoring.HALLUCINATION` too, where a difference below 0 speaks for a.
    """
    bootstrap, found = Bootstrap(clip_of), {}
    sets = groups(questions) if sets is None else dict(sets)
    if seconds is not None:
        sets |= second_groups(questions, seconds)
    for pair, chosen in ((right, sets), (opposite, hallucination_groups(questions))):
        for side, values in zip(SIDES, pair):
            found |= {f"{side}/{n}": bootstrap.metric(values, x) for n, x in chosen.items()}
        found |= {
            f"{DIFFERENCE}/{n}": bootstrap.difference(*pair, x, paired) for n, x in chosen.items()
        }
    return found


def _judged(
    metrics: Mapping[str, dict], about: Sequence[str], names: Sequence[str], told: Sequence[str]
) -> tuple[str, str]:
    """Status and note: "ok" if the first is above the second in all that they are compared in."""
    above, below, level = [], [], []
    for group in dict.fromkeys((*about, *told)):
        value = metrics[f"{DIFFERENCE}/{group}"]
        if value["n"] and value["low"] is not None:
            (above if value["low"] > 0 else below if value["high"] < 0 else level).append(group)
    listed = [", ".join(one) or "nothing" for one in (above, below, level)]
    note = f"{names[0]} above {names[1]}: {listed[0]}; below: {listed[1]}; "
    note += f"no difference shown: {listed[2]}."
    return ("ok" if set(about) <= set(above) else "negative"), note


def comparison_table(record: dict, kinds: bool = False) -> str:
    """Families (or kinds) and rates of false answers down; both sides and the difference across."""
    metrics = record["metrics"]
    start = tuple(f"{DIFFERENCE}/{name}/" for name in SHAPES)
    shapes = [n.removeprefix(f"{DIFFERENCE}/") for n in metrics if n.startswith(start)]
    names = ["all", *FAMILIES, *HALLUCINATION, *shapes]
    names = [f"kind/{kind}" for kind in KINDS] if kinds else names
    if record["settings"].get("grounding"):
        names = list(SPAN_MEASURES)
    heads = [*(record["settings"][side]["name"] for side in SIDES), "difference"]
    lines = [["questions", *heads], ["---", *["--:"] * len(heads)]]
    for name in names:
        cells = [metrics.get(f"{column}/{name}") for column in (*SIDES, DIFFERENCE)]
        if cells[0] is None or not cells[0]["n"]:
            continue
        label = name.removeprefix("kind/").replace("/", ", ").replace("_", " ")
        lines.append([label, *(metric_text(cell) for cell in cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(argv: list[str] | None = None) -> int:
    """Run `vlmcourse compare`: writes a record and prints its table as Markdown."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(argv)
    import torch

    from vlmcourse.trained import quiet_libraries

    quiet_libraries()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    if args.clips is not None and args.clips < 1:
        raise UserError("--clips must be at least 1")
    torch.set_num_threads(args.threads)
    a, b = (
        Side(
            tuple(getattr(args, side)),
            None if (given := getattr(args, f"{side}_given")) is None else tuple(given),
            getattr(args, f"{side}_system"),
            getattr(args, f"{side}_name"),
            tuple(getattr(args, f"{side}_options")),
        )
        for side in SIDES
    )
    sources = Sources(
        args.split or args.data / "test", args.clips, args.cache, args.foundations, args.device
    )
    about = tuple(args.about or [SPAN_MEASURES[0] if args.grounding else "all"])
    what = Comparison(a, b, about, sources, args.grounding)
    path = args.record or Path("runs/evaluation/compare.json")
    record = compare(what, path, ["vlmcourse", "compare", *argv])
    tqdm.write(comparison_table(record))
    if args.kinds and not args.grounding:
        tqdm.write("\n" + comparison_table(record, kinds=True))
    tqdm.write(f"\n{record['note']}\nrecord: {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlmcourse compare",
        description="Ask the trained runs of two systems, or of two variants of one, the same "
        "questions; write one record of the differences and print its table.",
        epilog="example: vlmcourse compare --a runs/video_llama/world-seed0 "
        "runs/video_llama/world-seed1 --b runs/video_chatgpt/world-seed0 "
        "runs/video_chatgpt/world-seed1 --about order --record runs/evaluation/order.json",
    )
    add = parser.add_argument
    for side, which in zip(SIDES, ("the idea", "what it is held against")):
        text = f"runs of {which}, one a seed"
        add(f"--{side}", nargs="+", type=Path, required=True, metavar="RUN", help=text)
        add(f"--{side}-given", nargs="+", metavar="STREAM", help="as --given of vlmcourse evaluate")
        add(f"--{side}-system", help="default: what its first run says")
        add(f"--{side}-name", default=side, help="for the table and the note")
        add(
            f"--{side}-options",
            nargs="+",
            default=(),
            metavar="NAME=VALUE",
            help="settings of the system that differ from those of its training",
        )
    add(
        "--about",
        nargs="+",
        metavar="FAMILY",
        help="questions in which A has to be above B, or the record is negative (default: all; "
        "with --grounding: mean_iou)",
    )
    add("--grounding", action="store_true", help="compare the spans that both give to events")
    add(
        "--data",
        type=Path,
        default=Sources.split.parent,
        help="folder of splits, of which `test` is asked about (default: %(default)s)",
    )
    add("--split", type=Path, help="folder of another split to ask about")
    add("--clips", type=int, help="use the first so many clips only")
    add("--cache", type=Path, default=Sources.cache, help="frozen features (%(default)s)")
    add("--foundations", type=Path, help="folder of the frozen parts (default: the shipped ones)")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--threads", type=int, default=1, help="torch threads (default: 1, as runs are small)")
    add("--record", type=Path, help="default: runs/evaluation/compare.json")
    add("--kinds", action="store_true", help="print the table of kinds of questions too")
    return parser
