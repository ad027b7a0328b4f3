"""Where a sweep stands: cells done, running, failed, and the minutes left."""

import heapq
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

OVERTIME = 0.1


def minutes_left(
    waiting: Sequence[float], running: Iterable[tuple[float, float]], places: int
) -> float:
    """Wall minutes until all is over, if each cell takes what it is expected to take.

    Args:
        waiting: minutes of each cell that has not begun, in its turn.
        running: expected and spent minutes of each that has; one over its time is taken to need
            a tenth more than it has spent.
        places: cells at once.
    """
    free = [max(whole - spent, OVERTIME * spent) for whole, spent in running]
    free += [0.0] * (min(places, len(waiting) + len(free)) - len(free))
    heapq.heapify(free)
    for minutes in waiting:
        heapq.heappush(free, heapq.heappop(free) + minutes)
    return max(free, default=0.0)


class Expected:
    """Minutes of cells that are still to come, from those that are over: the mean of the same
    setting with other seeds, else of all."""

    def __init__(self):
        self._by_setting: dict[str, list[float]] = defaultdict(list)

    def note(self, setting: str, minutes: float) -> None:
        """A cell is over."""
        self._by_setting[setting].append(minutes)

    def minutes(self, setting: str) -> float | None:
        """None while nothing is known."""
        known = self._by_setting.get(setting)
        known = known or [one for some in self._by_setting.values() for one in some]
        return sum(known) / len(known) if known else None


class Progress:
    """Tells it: a bar on a terminal; else lines, when a cell ends and every minute.

    Args:
        total: cells of the sweep.
        stream: where to write (default: standard error).
        every_s: pause between two lines, or moves of the bar.
    """

    def __init__(self, total: int, stream=None, every_s: float | None = None):
        self.total, self.stream = total, stream or sys.stderr
        terminal = self.stream.isatty()
        self._every_s = every_s if every_s is not None else (0.5 if terminal else 60.0)
        self._told, self._bar = time.monotonic(), None
        if terminal:
            from tqdm import tqdm

            form = "|{bar:16}| {desc}"
            self._bar = tqdm(total=total, file=self.stream, bar_format=form, leave=False)

    def write(self, line: str) -> None:
        """Write a whole line above the bar."""
        if self._bar is not None:
            self._bar.write(line, file=self.stream)
        else:
            self.stream.write(f"{line}\n")
            self.stream.flush()

    def show(self, counts: Mapping[str, int], left: float | None, now: bool = False) -> None:
        """Say where the sweep stands, if it is time or `now`.

        Args:
            counts: "done", "failed", "running", ... -> cells.
            left: minutes; None: not known yet.
        """
        if not now and time.monotonic() - self._told < self._every_s:
            return
        self._told = time.monotonic()
        text = stands(counts, self.total, left)
        if self._bar is None:
            self.write(text)
        else:
            self._bar.n = counts.get("done", 0) + counts.get("failed", 0)
            self._bar.set_description_str(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def stands(counts: Mapping[str, int], total: int, left: float | None) -> str:
    """`12 done, 2 running, 1 failed of 170 cells; about 35 min left`."""
    parts = [f"{counts.get('done', 0)} done"]
    parts += [f"{number} {name}" for name, number in counts.items() if name != "done" and number]
    text = f"{', '.join(parts)} of {total} cells"
    if counts.get("done", 0) + counts.get("failed", 0) >= total:
        return text
    told = "minutes left not known yet" if left is None else f"about {left:.1f} min left"
    return f"{text}; {told}"
