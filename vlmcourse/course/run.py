"""``vlmcourse course``: prepare what the chapters need, run them headlessly, show it on one page.

Everything goes under ``runs/course/``: executed notebooks, their pages, ``index.html``, the log of
each preparation and chapter and ``state.json`` with what was finished, how long it took and how
much memory it held. Two preparations, or one and a chapter, run at once where nothing keeps them
apart. A second run does again only what changed since.
"""

import argparse
import os
import sys
from pathlib import Path

from vlmcourse import notebooks, records
from vlmcourse.course.course import Course
from vlmcourse.course.items import Options
from vlmcourse.course.progress import Progress
from vlmcourse.course.state import choose, title_of
from vlmcourse.errors import UserError


def parser() -> argparse.ArgumentParser:
    """The options of ``vlmcourse course``."""
    made = argparse.ArgumentParser(
        prog="vlmcourse course",
        description="Prepare what the chapters need, run them headlessly, show them on one page.",
        epilog='example: vlmcourse course --chapters "03 04" --scale 0.5',
    )
    made.add_argument("--chapters", default="", help='numbers, as in "03 04" (default: all)')
    made.add_argument("--device", help="cpu or cuda (default: as each chapter has it)")
    made.add_argument("--scale", type=float, help="size of everything, 1.0 as published")
    made.add_argument("--seed", type=int, help="for the chapters that take one")
    made.add_argument("--output", type=Path, default=Path("runs/course"))
    made.add_argument("--jobs", type=int, help="steps and chapters that run at once (default: 2 "
        "where there are two cores, 1 on a GPU)")  # fmt: skip
    made.add_argument("--again", action="store_true", help="do again what is finished, too")
    made.add_argument("--prepare-only", action="store_true", help="make the files, run no chapter")
    made.add_argument("--list", action="store_true", help="list the chapters and stop")
    made.add_argument("--cell-timeout", type=int, default=1800, help="seconds (default 1800)")
    made.add_argument("--record", type=Path, help="write minutes and memory as a record here")
    return made


def check_options(options: Options) -> None:
    """Refuse a scale, device or number of jobs that cannot be, before minutes are spent.

    Raises:
        UserError: what is wrong.
    """
    if options.scale is not None and options.scale <= 0:
        raise UserError(f"--scale must be above 0, not {options.scale}")
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs must be at least 1, not {options.jobs}")
    if options.device in (None, "cpu"):
        return
    import torch

    try:
        kind = torch.device(options.device).type
    except RuntimeError as error:
        raise UserError(f"--device {options.device}: {str(error).splitlines()[0]}") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {options.device}: PyTorch finds no CUDA device here")


def recorded(path: Path, course: Course, chapters: dict[str, Path], work) -> bool:
    """Do the work and store what it cost as one record.

    ``all/minutes`` and the peak memory are of this run, all that ran together; those of a step or
    chapter are its own, and where it is reused, those of the run that made it (the note says so).
    """
    places = course.options.places()
    settings = {**course.options.parameters(), "chapters": sorted(chapters), "jobs": places}
    with records.Run(path, "vlmcourse course", settings) as run:
        well = work()
        results = {name.removeprefix("step "): course.done[name] for name in course.ran}
        for name, done in results.items():
            run.metrics[f"{name}/minutes"] = records.metric([done.minutes], "min")
            run.metrics[f"{name}/peak_mib"] = records.metric([done.peak_mib], "MiB")
        run.peak_mib = round(course.peak_mib, 1)
        run.metrics["all/minutes"] = records.metric([round(course.minutes, 3)], "min")
        one_by_one = round(sum(done.minutes for done in results.values()), 3)
        run.metrics["one_by_one/minutes"] = records.metric([one_by_one], "min")
        errors = [f"{name}: {done.error}" for name, done in results.items() if done.error]
        run.status = "failed" if errors else "ok"
        if reused := [name for name, done in results.items() if done.reused]:
            errors.insert(0, f"Reused, not run now: {', '.join(reused)}.")
        run.note = " ".join(errors)
    return well


def main(argv: list[str] | None = None, root: Path | None = None) -> int:
    """Run the course; 0: all went well, 1: a step or chapter failed, 2: an unknown chapter."""
    args = parser().parse_args(argv)
    here = Path(__file__).resolve().parents[2]
    root = root or (here if (here / "notebooks").is_dir() else Path.cwd())
    options = Options(args.device, args.scale, args.seed, args.again, args.cell_timeout, args.jobs)
    check_options(options)
    course = Course(root, (root / args.output).resolve(), options)
    chapters = choose(args.chapters, course.known)
    if args.list:
        listed = (f"{p.stem}: {title_of(notebooks.read_notebook(p))}" for p in chapters.values())
        sys.stdout.write("".join(f"{line}\n" for line in listed))
        return 0

    def work() -> bool:
        return course.run(chapters, Progress(), prepare_only=args.prepare_only)

    well = recorded(args.record, course, chapters, work) if args.record else work()
    index = os.path.relpath(course.output / "index.html")
    sys.stdout.write(f"{'all went well' if well else 'something failed'}: {index}\n")
    return 0 if well else 1
