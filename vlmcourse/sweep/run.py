"""Run the cells of a sweep that are not over, some at once, until all are."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vlmcourse.sweep.cells import BUSY, DONE, FAILED, MOVED, Work, write_failed
from vlmcourse.sweep.hands import Hands, Job, last_line
from vlmcourse.sweep.places import (
    TOLD,
    State,
    cell_state,
    claimed,
    is_claimed,
    record_of,
    state_of,
)
from vlmcourse.sweep.plan import Cell, Measure
from vlmcourse.sweep.progress import Expected, Progress, minutes_left

TICK_S = 0.1
AGAIN_S = 2.0
"""Pause between two looks at cells that another sweep is running."""
STOPPED = 130


@dataclass(frozen=True)
class Due:
    """A record that a cell under way is to leave.

    Attributes:
        measure: of the cell.
        key: that the record will hold.
        before: the stamp of the record that was there when the cell began.
    """

    measure: Measure
    key: str
    before: int | None


def stamp(path: Path) -> int | None:
    """When a file was last written, in nanoseconds; None where there is none."""
    return path.stat().st_mtime_ns if path.is_file() else None


@dataclass
class Sweep:
    """A sweep under way.

    Args:
        work: how cells are run.
        cells: those that are wanted, in their turn.
        hands: who runs them.
        told: where the sweep stands.
    """

    work: Work
    cells: Sequence[Cell]
    hands: Hands
    told: Progress
    waiting: list[Cell] = field(default_factory=list)
    elsewhere: list[Cell] = field(default_factory=list)
    running: dict[str, tuple[Cell, Job, list["Due"]]] = field(default_factory=dict)
    expected: Expected = field(default_factory=Expected)
    counts: dict[str, int] = field(default_factory=dict)
    _looked: float = 0.0

    def run(self) -> None:
        """Run until every wanted cell is done or failed.

        A cell that fails does not stop the others; one that another sweep runs is waited for, and
        taken over when that sweep dies. Whatever ends this, no process of it is left behind.
        """
        self.counts = {"done": 0, "failed": 0}
        for cell in self.cells:
            self._over(cell) if not self.work.to_do(cell) else self.waiting.append(cell)
        try:
            while self.waiting or self.running or self.elsewhere:
                self._begin()
                self._end()
                self._look_again()
                self.told.show(self.standing(), self.left())
                time.sleep(TICK_S)
        finally:
            self._stop()

    def standing(self) -> dict[str, int]:
        """Cells by what they do."""
        begun = sum(job.minutes() > 0 for _, job, _ in self.running.values())
        more = {"running": begun, "queued": len(self.running) - begun}
        return {**self.counts, **more, "in another sweep": len(self.elsewhere)}

    def left(self) -> float | None:
        """Minutes until all is over; None while no cell is done."""

        def known(cell: Cell) -> float | None:
            return self.expected.minutes(cell.setting.name)

        waiting = [known(cell) for cell in (*self.waiting, *self.elsewhere)]
        running = [(known(cell), job.minutes()) for cell, job, _ in self.running.values()]
        if None in waiting or any(whole is None for whole, _ in running):
            return None
        return minutes_left(waiting, running, self.hands.places)

    # ------------------------------------------------------------ steps

    def _begin(self) -> None:
        room = self.hands.places - len(self.running)
        chosen: list[Cell] = []
        while self.waiting and len(chosen) < room:
            cell = self.waiting.pop(0)
            if not self.work.to_do(cell):
                self._over(cell)
            elif is_claimed(self.work.places.lock(cell)):
                self.elsewhere.append(cell)
            else:
                chosen.append(cell)
        if not chosen:
            return
        due = {cell.name: self._due(cell) for cell in chosen}
        commands = [(self.work.command(cell), self.work.places.log(cell)) for cell in chosen]
        for cell, job in zip(chosen, self.hands.start(commands)):
            self.running[cell.name] = (cell, job, due[cell.name])

    def _due(self, cell: Cell) -> list["Due"]:
        keys, places = self.work.keys(cell), self.work.places
        return [Due(m, keys[m.name], stamp(places.record(cell, m))) for m in cell.measures]

    def _end(self) -> None:
        for cell, job, due in list(self.running.values()):
            if not job.ended():
                continue
            code, minutes = job.code(), job.minutes()
            del self.running[cell.name]
            if code == BUSY:
                self.elsewhere.append(cell)
                continue
            missing = [] if code == MOVED else [one for one in due if not self._left(cell, one)]
            if not missing or self._died(cell, missing, code, minutes):
                how = self._over(cell)
                self.told.write(f"{cell.name}: {how} ({minutes:.1f} min)")
                self.told.show(self.standing(), self.left(), now=True)

    def _left(self, cell: Cell, due: "Due") -> bool:
        """Whether there is the record that a process was begun for."""
        places = self.work.places
        if state_of(places, cell, due.measure) is State.DONE:
            return True
        path = places.record(cell, due.measure)
        record = record_of(path) if stamp(path) != due.before else None
        return bool(record) and record["settings"].get(TOLD, {}).get("key") == due.key

    def _died(self, cell: Cell, missing: list["Due"], code: int | None, minutes: float) -> bool:
        """Leave the records that a process which died could not; false where another has the cell
        by now."""
        with claimed(self.work.places.lock(cell)) as mine:
            if not mine:
                self.elsewhere.append(cell)
                return False
            why = f"its process ended {_told(code)}: {last_line(self.work.places.log(cell))}"
            for one in missing:
                write_failed(self.work, cell, one.measure, why, 60 * minutes, one.key)
        return True

    def _look_again(self) -> None:
        """Cells of other sweeps: over, free, or still at work."""
        if not self.elsewhere or time.monotonic() - self._looked < AGAIN_S:
            return
        self._looked, before, self.elsewhere = time.monotonic(), self.elsewhere, []
        for cell in before:
            if is_claimed(self.work.places.lock(cell)):
                self.elsewhere.append(cell)
            elif self.work.to_do(cell):
                self.waiting.append(cell)
            else:
                self.told.write(f"{cell.name}: {self._over(cell)} (by another sweep)")

    def _over(self, cell: Cell) -> str:
        """Count a cell that is over, and learn from its minutes; gives what to say of it."""
        records = [record_of(self.work.places.record(cell, one)) for one in cell.measures]
        notes = [one["note"] for one in records if one and one["status"] == "failed"]
        state = cell_state(self.work.places, cell)
        if state is State.DONE:
            self.counts["done"] += 1
            minutes = [one["metrics"]["cell/minutes"]["mean"] for one in records if one]
            self.expected.note(cell.setting.name, sum(minutes))
            return "done"
        if state is State.FAILED:
            self.counts["failed"] += 1
            return f"failed: {' '.join(notes)}"
        self.counts["changed"] = self.counts.get("changed", 0) + 1
        return "its settings or its data have changed since it began; start the sweep again"

    def _stop(self) -> None:
        for _, job, _ in self.running.values():
            job.ask_to_stop()
        for _, job, _ in self.running.values():
            job.stop()
        self.told.close()


def _told(code: int | None) -> str:
    if code is None:
        return "from outside"
    if code < 0:
        return f"by signal {-code}" + (" (out of memory?)" if code == -9 else "")
    return "without a record" if code in (DONE, FAILED) else f"with exit status {code}"
