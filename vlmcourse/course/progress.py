"""One line about where a long run stands: a bar on a terminal, plain lines elsewhere."""

import contextlib
import shutil
import sys
import threading
import time


class Progress:
    """Tells which item of a planned list runs, how it ended, and the minutes left.

    On a terminal a bar follows the planned minutes; into a file or a pipe go plain lines, one when
    an item begins, one each minute, one when it ends.

    Args:
        stream: where to write (default: standard error).
        every_s: pause between two looks at the clock.
    """

    def __init__(self, stream=None, every_s: float = 1.0):
        self.stream = stream or sys.stderr
        self.every_s = every_s
        self.minutes: list[float] = []
        self.index = 0
        self.bar = None

    def plan(self, minutes: list[float]) -> None:
        """Set the estimated minutes of each item, in the order they will run."""
        self.minutes, self.index = list(minutes), 0
        if self.stream.isatty():
            from tqdm import tqdm

            form = "|{bar:24}| {desc}"
            total = max(sum(minutes), 1e-6)
            columns, rows = shutil.get_terminal_size((100, 24))
            size = {"ncols": max(40, min(columns - 1, 110)), "nrows": rows}
            self.bar = tqdm(total=total, file=self.stream, bar_format=form, leave=False, **size)

    def left(self, spent: float = 0.0) -> float:
        """Minutes left when the running item has taken ``spent`` minutes."""
        now = self.minutes[self.index] if self.index < len(self.minutes) else 0.0
        return max(now - spent, 0.0) + sum(self.minutes[self.index + 1 :])

    def write(self, line: str) -> None:
        """Write a whole line above the bar."""
        if self.bar is not None:
            self.bar.write(line, file=self.stream)
        else:
            self.stream.write(line + "\n")
            self.stream.flush()

    def show(self, name: str, spent: float, last: list[float]) -> None:
        """Move the bar, or write a line when a minute has passed since the last one."""
        left = f"about {self.left(spent):.1f} min left"
        if self.bar is not None:
            planned = self.minutes[self.index] if self.index < len(self.minutes) else 0.0
            self.bar.n = sum(self.minutes[: self.index]) + min(spent, planned)
            self.bar.set_description_str(f"{self.place()} {name}: {spent:.1f} min, {left}")
        elif spent - last[0] >= 1.0:
            last[0] = spent
            self.write(f"{self.place()} {name}: {spent:.1f} min, {left}")

    def place(self) -> str:
        """``[2/7]``: the running item among all."""
        return f"[{self.index + 1}/{len(self.minutes)}]"

    @contextlib.contextmanager
    def item(self, name: str):
        """Show one item while it runs; the block gets a function that takes how it ended.

        That argument has ``status``, ``minutes``, ``peak_mib``, ``reused`` and ``error``.
        """
        start, stop, last = time.monotonic(), threading.Event(), [0.0]
        if self.bar is None:
            self.write(f"{self.place()} {name} (about {self.left():.1f} min left)")

        def watch() -> None:
            while not stop.wait(self.every_s):
                self.show(name, (time.monotonic() - start) / 60, last)

        def say(done) -> None:
            spent = f"{done.minutes:.1f} min, {done.peak_mib:.0f} MiB"
            how = f"reused ({spent})" if done.reused else f"{done.status} ({spent})"
            self.write(f"{self.place()} {name}: {how}{': ' if done.error else ''}{done.error}")

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield say
        finally:
            stop.set()
            watcher.join()
            self.index += 1
            if self.bar is not None and self.index >= len(self.minutes):
                self.bar.close()
                self.bar = None
