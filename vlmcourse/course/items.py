"""What a run works on, a preparation or a chapter: its key, its process, its result."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from vlmcourse import notebooks
from vlmcourse.course import page
from vlmcourse.course.chapter import failing_cell
from vlmcourse.course.schedule import Job
from vlmcourse.course.state import Done, card_minutes, digest, files_digest, title_of
from vlmcourse.course.steps import Step, needs
from vlmcourse.course.task import Task
from vlmcourse.measure import cores

LAUNCHER = (sys.executable, "-u", "-m", "vlmcourse.course.child")


@dataclass(frozen=True)
class Options:
    """What the reader chose; None means: as each notebook or command has it."""

    device: str | None = None
    scale: float | None = None
    seed: int | None = None
    again: bool = False
    cell_timeout_s: int = 1800
    jobs: int | None = None

    def parameters(self) -> dict:
        """The values given, by the name a notebook's ``parameters`` cell uses."""
        given = {"device": self.device, "scale": self.scale, "seed": self.seed}
        return {name: value for name, value in given.items() if value is not None}

    def places(self) -> int:
        """How many steps and chapters run at once: two where there are two cores, one on a GPU."""
        return self.jobs or (min(2, cores()) if self.device in (None, "cpu") else 1)

    def threads(self) -> int | None:
        """What each of them gets of the cores; None leaves that to it, if it is the only one."""
        return max(1, cores() // self.places()) if self.places() > 1 else None


@dataclass(frozen=True)
class Workplace:
    """Where a run works and how: the folder with ``notebooks/``, the one for all that is made, the
    options, all preparations, and what starts a ``vlmcourse`` command."""

    root: Path
    output: Path
    options: Options
    steps: tuple[Step, ...]
    launcher: tuple[str, ...] = LAUNCHER

    def start(self, command: list[str], log: str, threads: int | None, chapter=False) -> Task:
        """Start a process that tells what it does in ``logs/LOG.log``."""
        path = self.output / "logs" / f"{log}.log"
        return Task(command, self.root, path, threads, include_self=not chapter)

    def step_command(self, step: Step) -> list[str]:
        """The words of a step's command."""
        scale = step.share * (self.options.scale or 1.0)
        options = {"device": self.options.device or "cpu", "scale": scale}
        return [word.format(**options) for word in step.command]

    def step_key(self, step: Step) -> str:
        """Changes when the command, the options, the sources or the steps before it change."""
        before = [self.step_key(other) for other in self.steps if other.name in step.after]
        return digest(self.step_command(step), files_digest(self.root, step.sources), before)


class Preparation:
    """A step of a run."""

    def __init__(self, place: Workplace, step: Step):
        self.place, self.step = place, step
        self.name, self.title = f"step {step.name}", step.title
        self.files = [place.root / path for path in step.outputs]

    def key(self) -> str:
        """Changes when what decides the outcome changes."""
        return self.place.step_key(self.step)

    def job(self, minutes: float | None) -> Job:
        """As the schedule sees it; `minutes` are measured ones, if there are any."""
        minutes = self.step.minutes if minutes is None else minutes
        after = tuple(f"step {name}" for name in self.step.after)
        return Job(self.name, self.title, minutes, after, self.step.alone)

    def start(self) -> Task:
        """Run the command; a step that has the machine alone may use all of it."""
        place = self.place
        threads = None if self.step.alone else place.options.threads()
        command = [*place.launcher, *place.step_command(self.step)]
        return place.start(command, self.step.name, threads)

    def result(self, task: Task) -> Done:
        """How it ended."""
        missing = [path for path, file in zip(self.step.outputs, self.files) if not file.exists()]
        if task.code == 0 and not missing:
            return Done("ok")
        reason = task.last_line() if task.code else f"it did not leave {', '.join(missing)}"
        return Done(
            "failed", error=f"exit code {task.code}: {reason} (log: {os.path.relpath(task.log)})"
        )

    def unable(self, error: str) -> Done:
        """What is remembered when it cannot run."""
        return Done("not run", error=error)


class Chapter:
    """A chapter of a run."""

    def __init__(self, place: Workplace, path: Path):
        self.place, self.path = place, path
        self.name, self.title = path.name[:2], path.stem
        self.notebook = notebooks.read_notebook(path)
        self.files = [place.output / path.name]
        self.steps = [step for step in place.steps if needs(self.name, step)]
        self._result = place.output / "logs" / f"{path.stem}.json"

    def key(self) -> str:
        """Changes when the notebook, the package, the options or the preparations change."""
        package = files_digest(self.place.root, ("vlmcourse/**/*.py",))
        text = self.path.read_text(encoding="utf-8")
        prepared = [self.place.step_key(step) for step in self.steps]
        return digest(text, package, prepared, self.place.options.parameters())

    def job(self, minutes: float | None) -> Job:
        """As the schedule sees it; `minutes` are measured ones, if there are any."""
        minutes = card_minutes(self.notebook) if minutes is None else minutes
        after = tuple(f"step {step.name}" for step in self.steps)
        return Job(self.name, self.title, minutes, after, chapter=True)

    def start(self) -> Task:
        """Execute and publish it in a process of its own (:mod:`vlmcourse.course.child`)."""
        self._result.unlink(missing_ok=True)
        told = {
            "source": str(self.path),
            "output": str(self.place.output),
            "result": str(self._result),
            "parameters": self.place.options.parameters(),
            "cell_timeout_s": self.place.options.cell_timeout_s,
            "kernel_arguments": notebooks.KERNEL_ARGUMENTS,
        }
        command = [*LAUNCHER, "--chapter", json.dumps(told)]
        return self.place.start(command, self.path.stem, self.place.options.threads(), chapter=True)

    def result(self, task: Task) -> Done:
        """How it ended; also when its process was ended from outside and says nothing."""
        try:
            told = json.loads(self._result.read_text(encoding="utf-8"))
            error, figures = told["error"], told["figures"]
        except FileNotFoundError:
            log = f"{task.last_line()} (log: {os.path.relpath(task.log)})"
            error = f"{failing_cell(self.files[0])}: exit code {task.code}: {log}"
            figures = self._publish()
        status = "failed" if error else "ok"
        return Done(status, error=error, title=title_of(self.notebook), figures=figures)

    def unable(self, error: str) -> Done:
        """What is remembered when it cannot run; its page shows the last run."""
        title = title_of(self.notebook)
        return Done("not run", error=error, title=title, figures=self._publish())

    def _publish(self) -> list[str]:
        return page.publish(self.place.output, self.path, title_of(self.notebook))
