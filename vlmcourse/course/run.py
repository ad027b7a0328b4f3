"""``vlmcourse course``: prepare what the chapters need, run them headlessly, show it on one page.

Everything goes under ``runs/course/``: executed notebooks, their pages, ``index.html``, the log of
each preparation step and ``state.json`` with what was finished, how long it took and how much
memory it held. A second run does again only what changed since.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from vlmcourse import notebooks, records
from vlmcourse.course import page
from vlmcourse.course.progress import Progress
from vlmcourse.course.state import (
    Done,
    card_minutes,
    choose,
    digest,
    files_digest,
    find_chapters,
    title_of,
)
from vlmcourse.course.steps import STEPS, Step, needs
from vlmcourse.errors import UserError
from vlmcourse.measure import TreePeak


@dataclass(frozen=True)
class Options:
    """What the reader chose; None means: as each notebook or command has it."""

    device: str | None = None
    scale: float | None = None
    seed: int | None = None
    again: bool = False
    cell_timeout_s: int = 1800

    def parameters(self) -> dict:
        """The values given, by the name a notebook's ``parameters`` cell uses."""
        given = {"device": self.device, "scale": self.scale, "seed": self.seed}
        return {name: value for name, value in given.items() if value is not None}


# ---------------------------------------------------------------- the run


class Course:
    """One run: knows the folder, the options, and what earlier runs left.

    Args:
        root: folder that holds ``notebooks/``.
        output: folder for everything that is made.
        options: what the reader chose.
        steps: preparations (default: :data:`STEPS`).
    """

    launcher = (sys.executable, "-u", "-m", "vlmcourse.cli")

    def __init__(self, root: Path, output: Path, options: Options, steps=None):
        self.root, self.output, self.options = root, output, options
        self.steps = STEPS if steps is None else tuple(steps)
        self.known = find_chapters(root)
        self.state_path = output / "state.json"
        self.done: dict[str, Done] = {}
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError, TypeError):
            stored = json.loads(self.state_path.read_text(encoding="utf-8"))
            self.done = {name: Done(**value) for name, value in stored.items()}

    def remember(self, name: str, done: Done) -> None:
        """Store a result at once, so that a killed run loses only what was running."""
        self.done[name] = done
        self.output.mkdir(parents=True, exist_ok=True)
        stored = {name: asdict(value) | {"reused": False} for name, value in self.done.items()}
        records.write_json(self.state_path, stored)

    def estimate(self, name: str, otherwise: float, is_done: bool) -> float:
        """Minutes that a step or chapter will take: what its last good run took."""
        if is_done:
            return 0.0
        before = self.done.get(name)
        return before.minutes if before and before.status == "ok" else otherwise

    # ---- preparation

    def step_key(self, step: Step) -> str:
        """Changes when the step's command, the options or its sources change."""
        return digest(self.step_command(step), files_digest(self.root, step.sources))

    def step_command(self, step: Step) -> list[str]:
        options = {"device": self.options.device or "cpu", "scale": self.options.scale or 1.0}
        return [word.format(**options) for word in step.command]

    def step_is_done(self, step: Step) -> bool:
        """Finished before with this key, and its files are still there."""
        before = self.done.get(f"step {step.name}")
        there = all((self.root / path).exists() for path in step.outputs)
        good = before is not None and before.status == "ok" and before.key == self.step_key(step)
        return good and there and not self.options.again

    def run_step(self, step: Step) -> Done:
        """Run a preparation in its own process, its output in a log file."""
        log = self.output / "logs" / f"{step.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [*self.launcher, *self.step_command(step)]
        start = time.perf_counter()
        with log.open("w", encoding="utf-8") as out:
            process = subprocess.Popen(
                command, cwd=self.root, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
            with TreePeak(process.pid, include_self=True) as peak:
                try:
                    code = process.wait()
                finally:
                    process.kill()
        done = Done("ok", (time.perf_counter() - start) / 60, peak.mib, self.step_key(step))
        missing = [path for path in step.outputs if not (self.root / path).exists()]
        if code != 0 or missing:
            tail = notebooks.last_state(log.read_text(encoding="utf-8", errors="replace"))
            last = next((x for x in reversed(tail.splitlines()) if x.strip()), "no output")
            reason = last if code else f"it did not leave {', '.join(missing)}"
            done.status = "failed"
            done.error = f"exit code {code}: {reason} (log: {os.path.relpath(log)})"
        return done

    # ---- chapters

    def chapter_key(self, path: Path) -> str:
        """Changes when the notebook, the package, the options or the preparations change."""
        needed = [self.step_key(s) for s in self.steps if needs(path.name[:2], s)]
        package = files_digest(self.root, ("vlmcourse/**/*.py",))
        text = path.read_text(encoding="utf-8")
        return digest(text, package, needed, self.options.parameters())

    def chapter_is_done(self, path: Path) -> bool:
        before = self.done.get(path.name[:2])
        there = (self.output / path.name).exists()
        good = before is not None and before.status == "ok" and before.key == self.chapter_key(path)
        return good and there and not self.options.again

    def run_chapter(self, path: Path) -> Done:
        """Execute one chapter from a fresh kernel in its own folder, through papermill."""
        import papermill
        from nbclient.exceptions import CellTimeoutError, DeadKernelError

        executed = self.output / path.name
        executed.unlink(missing_ok=True)
        declared = papermill.inspect_notebook(str(path))
        given = {k: v for k, v in self.options.parameters().items() if k in declared}
        done = Done("ok", key=self.chapter_key(path))
        start = time.perf_counter()
        with TreePeak() as peak:
            try:
                papermill.execute_notebook(
                    path,
                    executed,
                    parameters=given,
                    kernel_name=notebooks.KERNELSPEC["name"],
                    cwd=path.parent,
                    progress_bar=False,
                    execution_timeout=self.options.cell_timeout_s,
                    extra_arguments=notebooks.KERNEL_ARGUMENTS,
                )
            except papermill.PapermillExecutionError as error:
                done.error = f"{error.ename}: {error.evalue}"
            except CellTimeoutError:
                done.error = f"CellTimeoutError: more than {self.options.cell_timeout_s} s"
            except DeadKernelError:
                done.error = "DeadKernelError: the kernel died"
            except (RuntimeError, OSError) as error:  # the kernel did not even start
                done.error = f"{type(error).__name__}: {error}"
        done.minutes, done.peak_mib = (time.perf_counter() - start) / 60, peak.mib
        if done.error:
            done.status = "failed"
            done.error = f"{failing_cell(executed)}: {' '.join(done.error.split())[:400]}"
        return done

    # ---- all of it

    def run(
        self, chapters: dict[str, Path], progress: Progress, prepare_only: bool = False
    ) -> bool:
        """Prepare what the chosen chapters need, run them, write the page; True if all went well.

        A failing step keeps the chapters that need it from running; the others still run.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        steps = [s for s in self.steps if not chapters or any(needs(n, s) for n in chapters)]
        chapters = {} if prepare_only else chapters
        read = {number: notebooks.read_notebook(path) for number, path in chapters.items()}
        progress.plan(
            [self.estimate(f"step {s.name}", s.minutes, self.step_is_done(s)) for s in steps]
            + [
                self.estimate(number, card_minutes(read[number]), self.chapter_is_done(path))
                for number, path in chapters.items()
            ]
        )
        failed_steps = []
        for step in steps:
            with progress.item(step.title) as say:
                done = self.finish(
                    f"step {step.name}", self.step_is_done(step), self.run_step, step
                )
                say(done)
            if done.status != "ok":
                failed_steps.append(step)
        all_well = not failed_steps
        for number, path in chapters.items():
            blocked = [s.name for s in failed_steps if needs(number, s)]
            with progress.item(f"{path.stem}") as say:
                if blocked:
                    done = Done("not run", error=f"needs the failed step {', '.join(blocked)}")
                    self.remember(number, done)
                else:
                    done = self.finish(number, self.chapter_is_done(path), self.run_chapter, path)
                done.title = title_of(read[number])
                if not done.reused:
                    done.figures = page.publish(self.output, path, done.title)
                self.remember(number, done)
                page.write_index(self.output, self.known, self.done, self.steps)
                say(done)
            all_well &= done.status == "ok"
        page.write_index(self.output, self.known, self.done, self.steps)
        return all_well

    def finish(self, name: str, is_done: bool, run, argument) -> Done:
        """Reuse what an earlier run finished, or run it now; remember the outcome."""
        if is_done:
            done = self.done[name]
            done.reused = True
        else:
            done = run(argument)
            done.minutes, done.peak_mib = round(done.minutes, 3), round(done.peak_mib, 1)
            self.remember(name, done)
        return done


def failing_cell(executed: Path) -> str:
    """Name the cell where an executed copy stopped, by its number in the chapter itself."""
    if not executed.exists():
        return "before its first cell"
    added = {"papermill-error-cell-tag", "injected-parameters"}
    own = [
        cell
        for cell in notebooks.read_notebook(executed)["cells"]
        if not added & set(cell["metadata"].get("tags", []))
    ]
    begun = []
    for number, cell in enumerate(own, start=1):
        runner = cell["metadata"].get("papermill", {})
        if runner.get("start_time"):
            lines = notebooks.as_text(cell["source"]).strip().splitlines() or [""]
            begun.append(f"cell {number} (`{lines[0][:60]}`)")
        if runner.get("exception"):
            break
    return begun[-1] if begun else "before its first cell"


# ---------------------------------------------------------------- the command


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
    made.add_argument("--again", action="store_true", help="do again what is finished, too")
    made.add_argument("--prepare-only", action="store_true", help="make the files, run no chapter")
    made.add_argument("--list", action="store_true", help="list the chapters and stop")
    made.add_argument("--cell-timeout", type=int, default=1800, help="seconds (default 1800)")
    made.add_argument("--record", type=Path, help="write minutes and memory as a record here")
    return made


def check_options(options: Options) -> None:
    """Refuse a scale or device that cannot be, before minutes are spent.

    Raises:
        UserError: what is wrong.
    """
    if options.scale is not None and options.scale <= 0:
        raise UserError(f"--scale must be above 0, not {options.scale}")
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
    """Do the work and store every step's and chapter's minutes and peak memory as one record."""
    settings = {**course.options.parameters(), "chapters": sorted(chapters)}
    with records.Run(path, "vlmcourse course", settings) as run:
        well = work()
        names = [f"step {step.name}" for step in course.steps] + [
            n for n in chapters if n in course.done
        ]
        results = {name.removeprefix("step "): course.done.get(name, Done()) for name in names}
        for name, done in results.items():
            run.metrics[f"{name}/minutes"] = records.metric([done.minutes], "min")
            run.metrics[f"{name}/peak_mib"] = records.metric([done.peak_mib], "MiB")
            if done.error:
                run.status, run.note = "failed", f"{run.note} {name}: {done.error}".strip()
        run.peak_mib = max((done.peak_mib for done in results.values()), default=0.0)
        total = sum(done.minutes for done in results.values())
        run.metrics["all/minutes"] = records.metric([total], "min")
    return well


def main(argv: list[str] | None = None, root: Path | None = None) -> int:
    """Run the course; 0: all went well, 1: a step or chapter failed, 2: an unknown chapter."""
    args = parser().parse_args(argv)
    here = Path(__file__).resolve().parents[2]
    root = root or (here if (here / "notebooks").is_dir() else Path.cwd())
    options = Options(args.device, args.scale, args.seed, args.again, args.cell_timeout)
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
