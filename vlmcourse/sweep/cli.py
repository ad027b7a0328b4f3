"""`vlmcourse sweep`: run a grid of trainings and measurements, and judge its hypotheses."""

import argparse
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlmcourse.errors import UserError
from vlmcourse.measure import cores
from vlmcourse.processes import stopped_by_signals
from vlmcourse.sweep.cells import Work
from vlmcourse.sweep.cluster import KINDS, ClusterHands, Resources
from vlmcourse.sweep.hands import Hands, LocalHands
from vlmcourse.sweep.overview import (
    chosen_cells,
    counted,
    failures,
    listing,
    notices,
    refuse_missing,
    unfinished,
)
from vlmcourse.sweep.places import Places, Size, State, state_of
from vlmcourse.sweep.plan import read_plan
from vlmcourse.sweep.progress import Progress
from vlmcourse.sweep.run import STOPPED, Sweep

if TYPE_CHECKING:
    from vlmcourse.sweep.results import Cell as ReportCell

EXAMPLES = """\
examples:
  vlmcourse sweep experiments/ablations/connectors.yaml --list
  vlmcourse sweep experiments/ablations/connectors.yaml --jobs 2
  vlmcourse sweep experiments/ablations/connectors.yaml --only connector=pooling --seeds 0 1
  vlmcourse sweep experiments/ablations/connectors.yaml --report   (a look, while it runs)
  vlmcourse sweep experiments/ablations/connectors.yaml --scale 0.02 --clips 8   (a quick try)
  vlmcourse sweep experiments/ablations/connectors.yaml --cluster slurm --partition short --jobs 40

What is finished is never run again: the same command goes on where it was stopped or killed."""


def main(argv: list[str] | None = None) -> int:
    """Run `vlmcourse sweep`; 0: all is done, 1: cells failed or are still to be run, 130:
    stopped."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(argv)
    _check(args)
    plan = read_plan(args.file)
    places = Places(plan, Size(args.scale, args.clips), args.out)
    cells = chosen_cells(plan, args.only, args.seeds)
    if args.list:
        sys.stdout.write(f"{listing(places, cells)}\n")
        return 0
    if not args.report:
        work = Work(places, args.device, time.time() if args.retry_failed else 0.0)
        open_cells = [cell for cell in cells if work.to_do(cell)]
        refuse_missing(open_cells)
        if open_cells and not _run(args, work, cells):
            sys.stderr.write(
                f"stopped; {counted(places, cells)}\nto go on: vlmcourse sweep {' '.join(argv)}\n"
            )
            return STOPPED
    failed = failures(places, cells)
    told = [counted(places, cells), *failed, *notices(places)]
    sys.stdout.write("\n".join(told) + "\n")
    reported = _report(places, ["vlmcourse", "sweep", *argv], look=args.report)
    return 0 if reported and not failed else 1


def _run(args: argparse.Namespace, work: Work, cells: list) -> bool:
    """Run what is open; false if it was stopped."""
    hands = _hands(args, work.places)
    told = Progress(len(cells))
    at_once = "as many as there is room for" if hands.places > len(cells) else str(hands.places)
    told.write(f"{work.plan.name}: {counted(work.places, cells)}; at once: {at_once}")
    try:
        with stopped_by_signals():
            Sweep(work, cells, hands, told).run()
    except KeyboardInterrupt:
        return False
    return True


def _hands(args: argparse.Namespace, places: Places) -> Hands:
    if args.cluster is None:
        return LocalHands(args.jobs or cores())
    more = {}
    for word in args.slurm:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise UserError(f"--slurm takes NAME=VALUE, not {word!r}")
        more[f"slurm_{name.removeprefix('slurm_')}"] = int(value) if value.isdigit() else value
    resources = Resources(args.partition, args.minutes, args.memory_gib, args.gpus, more)
    jobs = args.jobs or (cores() if args.cluster == "local" else None)
    return ClusterHands(args.cluster, places.own / "submitit", jobs, resources)


def _report(places: Places, command: list[str], look: bool) -> bool:
    """Judge a sweep whose cells are all over. Of one that is not, show what there is if a look is
    wanted, and give false."""
    left, total = unfinished(places), len(places.plan.cells)
    if not left:
        write_up(places, command)
        return True
    told = f"no report yet: {left} of {total} cells are still to be run"
    if look and left < total:
        sys.stdout.write(f"{told}; this is a look at the others\n")
        write_look(places, command)
    else:
        more = "" if left == total else f"; to look at the others: {' '.join(_look(places))}"
        sys.stdout.write(f"{told}{more}\n")
    return False


def _look(places: Places) -> list[str]:
    """The command that shows a sweep that is not over."""
    size = places.size
    tried = [f"--scale={size.scale:g}"] if size.scale != 1 else []
    tried += [f"--clips={size.clips}"] if size.clips is not None else []
    tried += [f"--out={places.work}"] if places.work else []
    return ["vlmcourse", "sweep", str(places.plan.path), *tried, "--report"]


def write_up(places: Places, command: list[str]) -> None:
    """Write the record, the table and the figure of a sweep that is over, and show them."""
    _write(places, command, report_cells(places), places.summary, places.figure, places.table)
    shutil.rmtree(places.look, ignore_errors=True)


def write_look(places: Places, command: list[str]) -> None:
    """The same of a sweep that is not over, in a folder of its own under runs/.

    What is missing counts as missing, and so does what was made with other settings: hypotheses
    about it are not decided.
    """
    over = (State.DONE, State.FAILED)
    cells = [
        replace(one, current=state_of(places, cell, measure) in over)
        for one, (cell, measure) in zip(report_cells(places), _asked(places), strict=True)
    ]
    paths = (places.look / f"{places.plan.name}{ending}" for ending in (".json", ".png", ".md"))
    _write(places, command, cells, *paths)


def _asked(places: Places) -> list[tuple]:
    """Every cell with each of its measures."""
    return [(cell, measure) for cell in places.plan.cells for measure in cell.measures]


def report_cells(places: Places) -> list["ReportCell"]:
    """Where the files of all cells and measures are, for `report.write_report`."""
    from vlmcourse.sweep.results import Cell as ReportCell

    return [
        ReportCell(
            cell.setting.name, cell.seed, measure.name,
            places.record(cell, measure), places.answers(cell, measure),
        )
        for cell, measure in _asked(places)
    ]  # fmt: skip


def _write(
    places: Places,
    command: list[str],
    cells: list["ReportCell"],
    summary: Path,
    figure: Path,
    table: Path,
) -> None:
    from vlmcourse.sweep.report import sweep_tables, write_report

    for path in (summary, figure, table):
        path.parent.mkdir(parents=True, exist_ok=True)
    record = write_report(places.plan, cells, summary, command, figure=figure, table=table)
    sys.stdout.write(f"\n{sweep_tables(record)}\n\n{record['note']}\nrecord: {summary}\n")


def _check(args: argparse.Namespace) -> None:
    """Refuse numbers that cannot be. Raises UserError."""
    for name in ("jobs", "clips", "minutes"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, not {value}")
    if args.scale <= 0:
        raise UserError(f"--scale must be above 0, not {args.scale}")
    if args.cluster != "slurm" and (args.partition or args.slurm):
        raise UserError("--partition and --slurm go with --cluster slurm")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlmcourse sweep",
        description="Run every setting of a sweep file with every seed: train it (or take a "
        "finished run), ask it, and keep one record and its answers for each; then compare "
        "settings on the same questions and judge the hypotheses of the file. Features come from "
        "data/cache.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("file", type=Path, help="experiments/ablations/NAME.yaml")
    add("--jobs", type=int, help="cells at once, one thread each (default: one a core; on SLURM "
        "all)")  # fmt: skip
    add("--only", action="append", default=[], metavar="AXIS=VALUE", help="only these cells; may "
        "be said again")  # fmt: skip
    add("--seeds", nargs="+", type=int, help="only these seeds")
    add("--list", action="store_true", help="show what is done and what would be run, and stop")
    add("--report", action="store_true", help="only the table, the figure and the verdicts again; "
        "of a sweep that is not over a look, kept apart under runs/sweeps")  # fmt: skip
    add("--retry-failed", action="store_true", help="try failed cells again")
    add("--scale", type=float, default=1.0, help="multiplies the steps of trainings: a try, kept "
        "apart under runs/sweeps (default: %(default)s)")  # fmt: skip
    add("--clips", type=int, help="ask about so many clips only: a try, too")
    add("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    add("--out", type=Path, help="folder of logs, locks and tries (default: runs/sweeps/NAME)")
    add("--cluster", choices=KINDS, help="hand cells in through submitit; local tries that on this "
        "machine")  # fmt: skip
    add("--partition", help="of SLURM")
    add("--minutes", type=int, default=240, help="of a job on a cluster, at most (default: "
        "%(default)s)")  # fmt: skip
    add("--memory-gib", type=float, default=6.0, help="of a job on SLURM (default: %(default)s)")
    add("--gpus", type=int, default=0, help="of a job on a cluster (default: %(default)s)")
    add("--slurm", action="append", default=[], metavar="NAME=VALUE", help="more for SLURM: "
        "account=..., qos=...; may be said again")  # fmt: skip
    return parser
