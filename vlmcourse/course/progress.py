"""One line about where a long run stands: a bar on a terminal, plain lines elsewhere."""

import shutil
import sys
import time
from collections.abc import Mapping


class Progress:
    """Tells which jobs of a planned list run, how each ended, and the minutes left.

    On a terminal a bar follows the planned minutes; into a file or a pipe go plain lines, one when
    a job begins, one each minute about all that run, one when a job ends.

    Args:
        stream: where to write (default: standard error).
        every_s: pause between two moves of the bar.
        minute_s: pause between two lines.
    """

    def __init__(self, stream=None, every_s: float = 1.0, minute_s: float = 60.0):
        self.stream = stream or sys.stderr
        self.every_s, self.minute_s = every_s, minute_s
        self.count, self.begun = 0, {}
        self.bar = None
        self._moved = self._told = time.monotonic()

    def plan(self, count: int, minutes: float) -> None:
        """Set the number of jobs and the wall minutes they are to take together."""
        self.count, self.begun = count, {}
        if self.stream.isatty():
            from tqdm import tqdm

            form = "|{bar:16}| {desc}"
            columns, rows = shutil.get_terminal_size((100, 24))
            size = {"ncols": max(40, min(columns - 1, 110)), "nrows": rows}
            total = max(minutes, 1e-6)
            self.bar = tqdm(total=total, file=self.stream, bar_format=form, leave=False, **size)

    def write(self, line: str) -> None:
        """Write a whole line above the bar."""
        if self.bar is not None:
            self.bar.write(line, file=self.stream)
        else:
            self.stream.write(line + "\n")
            self.stream.flush()

    def place(self, name: str) -> str:
        """``[2/7] NAME``: the job's number in the order in which jobs began, among all."""
        return f"[{self.begun[name]}/{self.count}] {name}"

    def begin(self, name: str, left: float) -> None:
        """Say that a job begins, and the wall minutes left in all."""
        self.begun[name] = len(self.begun) + 1
        if self.bar is None:
            self.write(f"{self.place(name)} (about {left:.1f} min left)")

    def show(self, spent: Mapping[str, float], left) -> None:
        """Move the bar, or write a line when a minute has passed since the last one.

        Args:
            spent: minutes that each running job has taken.
            left: function that gives the wall minutes left in all.
        """
        now = time.monotonic()
        jobs = ", ".join(f"{self.place(name)}: {took:.1f} min" for name, took in spent.items())
        if self.bar is not None and now - self._moved >= self.every_s:
            self._moved, minutes = now, left()
            self.bar.n = max(self.bar.n, self.bar.total - minutes)  # it never runs backwards
            self.bar.set_description_str(f"about {minutes:.1f} min left; {jobs}")
        elif self.bar is None and now - self._told >= self.minute_s:
            self._told = now
            self.write(f"{jobs}; about {left():.1f} min left")

    def end(self, name: str, done) -> None:
        """Say how a job ended: its ``status``, ``minutes``, ``peak_mib``, ``reused``, ``error``."""
        spent = f"{done.minutes:.1f} min, {done.peak_mib:.0f} MiB"
        how = f"reused ({spent})" if done.reused else f"{done.status} ({spent})"
        self.write(f"{self.place(name)}: {how}{': ' if done.error else ''}{done.error}")

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
