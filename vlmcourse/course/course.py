"""A run of the course: everything in its turn, remembered as soon as it ends."""

import contextlib
import json
import time
from dataclasses import asdict
from pathlib import Path

from vlmcourse import records
from vlmcourse.course import page
from vlmcourse.course.items import LAUNCHER, Chapter, Options, Preparation, Workplace
from vlmcourse.course.progress import Progress
from vlmcourse.course.schedule import Job, Left, Schedule, work_off
from vlmcourse.course.state import Done, find_chapters
from vlmcourse.course.steps import STEPS, needed
from vlmcourse.course.task import Task
from vlmcourse.measure import TreePeak
from vlmcourse.processes import stopped_by_signals

Item = Preparation | Chapter


class Course:
    """Knows the folder, the options, and what earlier runs left.

    Args:
        root: folder that holds ``notebooks/``.
        output: folder for everything that is made.
        options: what the reader chose.
        steps: preparations (default: :data:`STEPS`).

    Attributes:
        done: what is remembered, by chapter number and by ``"step NAME"``.
        ran: names of the steps and chapters of the last run.
        minutes: wall time of the last run.
        peak_mib: the most memory that all its processes held together.
    """

    launcher = LAUNCHER

    def __init__(self, root: Path, output: Path, options: Options, steps=None):
        self.output, self.options = output, options
        self.steps = STEPS if steps is None else tuple(steps)
        self.place = Workplace(root, output, options, self.steps, self.launcher)
        self.known = find_chapters(root)
        self.state_path = output / "state.json"
        self.ran: list[str] = []
        self.minutes = self.peak_mib = 0.0
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

    def is_done(self, item: Item) -> bool:
        """Finished before with this key, and its files are still there."""
        before = self.done.get(item.name)
        good = before is not None and before.status == "ok" and before.key == item.key()
        return good and all(path.exists() for path in item.files) and not self.options.again

    def job(self, item: Item) -> Job:
        """With the minutes that its last good run took; none if that is reused."""
        if self.is_done(item):
            return item.job(0.0)
        before = self.done.get(item.name)
        return item.job(before.minutes if before and before.status == "ok" else None)

    def run(
        self, chapters: dict[str, Path], progress: Progress, prepare_only: bool = False
    ) -> bool:
        """Prepare what the chosen chapters need, run them, write the page; True if all went well.

        A failing step keeps those that need it from running; the others still run.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        items: list[Item] = [Preparation(self.place, x) for x in needed(self.steps, chapters)]
        if not prepare_only:
            items += [Chapter(self.place, path) for path in chapters.values()]
        schedule = Schedule([self.job(item) for item in items], self.options.places())
        turn = Turn(self, {item.name: item for item in items}, progress)
        start = time.perf_counter()
        progress.plan(len(items), schedule.minutes_left())
        with TreePeak(include_self=True) as peak, stopped_by_signals():
            try:
                work_off(schedule, turn.begin, turn.end, turn.show)
            finally:
                progress.close()
        self.ran = list(schedule.jobs)
        self.minutes, self.peak_mib = (time.perf_counter() - start) / 60, peak.mib
        page.write_index(self.output, self.known, self.done, self.steps)
        return all(self.done[name].status == "ok" for name in self.ran)


class Turn:
    """Begins the items of one run, or says why not, and remembers how they ended.

    Args:
        course: remembers.
        items: by the names of their jobs.
        progress: is told.
    """

    def __init__(self, course: Course, items: dict[str, Item], progress: Progress):
        self.course, self.items, self.progress = course, items, progress
        self.keys: dict[str, str] = {}
        self.failed: dict[str, list[str]] = {}
        """The failed steps behind every step that is not there: itself, or those it needs."""

    def begin(self, job: Job, left: Left) -> Task | None:
        """As `work_off` takes it."""
        item = self.items[job.name]
        self.progress.begin(job.title, left())
        failed = [step for name in job.after for step in self.failed.get(name, ())]
        if failed:
            self.failed[job.name] = failed = list(dict.fromkeys(failed))
            self.settle(job, item.unable(f"needs the failed step {', '.join(failed)}"))
            return None
        if self.course.is_done(item):
            done = self.course.done[job.name]
            done.reused = True
            self.settle(job, done)
            return None
        self.keys[job.name] = item.key()
        return item.start()

    def end(self, job: Job, task: Task) -> None:
        """As `work_off` takes it."""
        done = self.items[job.name].result(task)
        done.key = self.keys[job.name]
        done.minutes, done.peak_mib = round(task.minutes, 3), round(task.peak_mib, 1)
        if done.status != "ok":
            self.failed[job.name] = [job.name.removeprefix("step ")]
        self.settle(job, done)

    def show(self, spent: dict[str, float], left: Left) -> None:
        """As `work_off` takes it."""
        self.progress.show({self.items[name].title: x for name, x in spent.items()}, left)

    def settle(self, job: Job, done: Done) -> None:
        """Remember how a job ended, show it on the page, tell it."""
        course = self.course
        course.remember(job.name, done)
        if job.chapter:
            page.write_index(course.output, course.known, course.done, course.steps)
        self.progress.end(job.title, done)
