"""A command in a process of its own: its log, minutes and memory, and its certain end."""

import contextlib
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from vlmcourse import notebooks
from vlmcourse.measure import TreePeak


class Task:
    """Starts a command and watches it.

    Args:
        command: program and arguments.
        folder: where it runs.
        log: file for its output.
        threads: of its arithmetic, unless `OMP_NUM_THREADS` says; None leaves that to it.
        include_self: its memory is its own and its children's (else its children's alone).

    Attributes:
        code: its exit status, None while it runs.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        log: Path,
        threads: int | None = None,
        include_self: bool = True,
    ):
        told = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log, self.code = log, None
        self._start = time.perf_counter()
        self._took_s: float | None = None
        with log.open("w", encoding="utf-8") as out:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**told, **os.environ},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        self._peak = TreePeak(self._process.pid, include_self).__enter__()

    @property
    def minutes(self) -> float:
        """Since it began, or that it took."""
        now = time.perf_counter() - self._start
        return (now if self._took_s is None else self._took_s) / 60

    @property
    def peak_mib(self) -> float:
        """The most memory that its processes held together."""
        return self._peak.mib

    def ended(self) -> bool:
        """Whether it has ended by itself."""
        if self._process.poll() is None:
            return False
        self._close()
        return True

    def kill(self) -> None:
        """End it and all its children, now."""
        import psutil

        tree = []
        with contextlib.suppress(psutil.Error):
            tree = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        for child in tree:
            with contextlib.suppress(psutil.Error):
                child.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        self._took_s = time.perf_counter() - self._start
        self.code = self._process.returncode
        self._peak.__exit__()

    def last_line(self) -> str:
        """What a terminal would have shown last."""
        text = notebooks.last_state(self.log.read_text(encoding="utf-8", errors="replace"))
        return next((x for x in reversed(text.splitlines()) if x.strip()), "no output")
