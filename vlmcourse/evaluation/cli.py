"""`vlmcourse evaluate`: trained runs of a system against controls, on the questions of a split."""

import argparse
import logging
import sys
from collections.abc import Collection
from functools import partial
from pathlib import Path

from tqdm import tqdm

from vlmcourse.errors import UserError
from vlmcourse.evaluation.conditions import CONTROLS
from vlmcourse.evaluation.evaluation import Evaluation, evaluate
from vlmcourse.evaluation.loading import Sources
from vlmcourse.world.language import FAMILIES


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
