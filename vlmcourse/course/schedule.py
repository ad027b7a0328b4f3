"""What runs when: so many jobs at once, each after those it needs; and the minutes left."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from vlmcourse.course.task import Task

TICK_S = 0.1
Left = Callable[[], float]
"""Gives the wall minutes until all is over."""


@dataclass(frozen=True)
class Job:
    """A preparation or a chapter as the schedule sees it.

    Args:
        name: unique.
        title: what the reader sees.
        minutes: estimate; 0 for what will be reused.
        after: names of the jobs that must have ended before; they stand before it in the list.
        alone: the machine is its own while it runs.
        chapter: chapters run one at a time, each as soon as it can.
    """

    name: str
    title: str
    minutes: float = 0.0
    after: tuple[str, ...] = ()
    alone: bool = False
    chapter: bool = False


class Schedule:
    """Jobs in their order and the places they run in.

    Args:
        jobs: none stands before one that it comes after.
        places: how many run at once.

    Raises:
        ValueError: a job comes after one that does not stand before it.
    """

    def __init__(self, jobs: Iterable[Job], places: int):
        self.jobs: dict[str, Job] = {}
        self.places = places
        for job in jobs:
            if missing := [name for name in job.after if name not in self.jobs]:
                raise ValueError(f"{job.name} comes after {missing[0]}, which is not before it")
            self.jobs[job.name] = job
        self.chain = dict.fromkeys(self.jobs, 0.0)
        """Minutes of a job and of the longest row of jobs that wait for it one by one."""
        for job in reversed(self.jobs.values()):
            self.chain[job.name] += job.minutes
            for name in job.after:
                self.chain[name] = max(self.chain[name], self.chain[job.name])

    def pick(self, ended: Collection[str], running: Collection[str]) -> Job | None:
        """The job to begin now, or None.

        First come those that need the machine alone (nothing else begins while one of them waits),
        then what takes no time, a chapter, the step that the longest row of others waits for.

        Args:
            ended: names of the jobs that are over, however they ended.
            running: names of the jobs at work.
        """
        at_work = [self.jobs[name] for name in running]
        ready = [
            job
            for job in self.jobs.values()
            if job.name not in ended and job.name not in running and ended >= {*job.after}
        ]
        if len(at_work) >= self.places or any(job.alone for job in at_work):
            return None
        if alone := [job for job in ready if job.alone and job.minutes]:
            return None if at_work else alone[0]
        if any(job.chapter for job in at_work):
            ready = [job for job in ready if not job.chapter]
        return max(ready, key=self._rank, default=None)

    def _rank(self, job: Job) -> tuple[bool, bool, float]:
        return job.minutes == 0, job.chapter, 0.0 if job.chapter else self.chain[job.name]

    def minutes_left(
        self, ended: Collection[str] = frozenset(), spent: Mapping[str, float] | None = None
    ) -> float:
        """Wall minutes until all is over, if every job takes what it is estimated to take.

        Args:
            ended: as `pick` takes it.
            spent: minutes that each running job has taken; one over its estimate is about to end.
        """
        over, clock = set(ended), 0.0
        spent = spent or {}
        left = {name: max(self.jobs[name].minutes - took, 0.0) for name, took in spent.items()}
        while True:
            while job := self.pick(over, left.keys()):
                if job.minutes:
                    left[job.name] = job.minutes
                else:
                    over.add(job.name)
            if not left:
                return clock
            name = min(left, key=left.__getitem__)
            passed = left.pop(name)
            clock += passed
            left = {other: minutes - passed for other, minutes in left.items()}
            over.add(name)


def work_off(
    schedule: Schedule,
    begin: Callable[[Job, Left], Task | None],
    end: Callable[[Job, Task], None],
    show: Callable[[Mapping[str, float], Left], None],
) -> None:
    """Begin every job in its turn and see it end; whatever stops this, no process is left behind.

    Args:
        begin: starts a job; None says that it is over already.
        end: is told of a job whose process has ended.
        show: is told again and again the minutes that the running jobs have taken, by name.
    """
    ended: set[str] = set()
    running: dict[str, Task] = {}

    def spent() -> dict[str, float]:
        return {name: task.minutes for name, task in running.items()}

    def left() -> float:
        return schedule.minutes_left(ended, spent())

    try:
        while len(ended) < len(schedule.jobs):
            while job := schedule.pick(ended, running.keys()):
                task = begin(job, left)
                if task is None:
                    ended.add(job.name)
                else:
                    running[job.name] = task
            show(spent(), left)
            for name in [name for name, task in running.items() if task.ended()]:
                ended.add(name)
                end(schedule.jobs[name], running.pop(name))
            if running:
                time.sleep(TICK_S)
    finally:
        for task in running.values():
            task.kill()
