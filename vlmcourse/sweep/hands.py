"""Who runs the cells: processes on this machine. (`cluster.py`: jobs through submitit.)"""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""A cell is small: cells beside each other are faster than threads inside one."""
GRACE_S = 10.0
"""Between a polite request to stop and the end."""


class Job(Protocol):
    """A cell under way."""

    def ended(self) -> bool:
        """Whether it is over."""

    def code(self) -> int | None:
        """Exit status; negative: the signal that ended it; None: not known."""

    def minutes(self) -> float:
        """Since it began to run; 0 while it waits for a machine."""

    def ask_to_stop(self) -> None:
        """Request a polite end."""

    def stop(self) -> None:
        """End it now, with all its children, and see it end."""


class Hands(Protocol):
    """Starts cells."""

    places: int
    """Cells at once."""

    def start(self, commands: Sequence[tuple[list[str], Path]]) -> list[Job]:
        """Begin cells: the command of each, and the log that its output goes to."""


class LocalJob:
    """A process in a session of its own: Control-C in the terminal reaches only its parent."""

    def __init__(self, command: Sequence[str], log: Path):
        self._start = time.perf_counter()
        self._process = start_process(command, log)

    def ended(self) -> bool:
        return self._process.poll() is not None

    def code(self) -> int | None:
        return self._process.poll()

    def minutes(self) -> float:
        return (time.perf_counter() - self._start) / 60

    def ask_to_stop(self) -> None:
        if not self.ended():
            self._process.terminate()

    def stop(self) -> None:
        stop_process(self._process)


class LocalHands:
    """So many processes at once.

    Args:
        places: their number.
    """

    def __init__(self, places: int):
        self.places = places

    def start(self, commands: Sequence[tuple[list[str], Path]]) -> list[LocalJob]:
        return [LocalJob(command, log) for command, log in commands]


def start_process(
    command: Sequence[str], log: Path, more: Mapping[str, str] | None = None
) -> subprocess.Popen:
    """Start a command in a session of its own, with one thread; its output goes behind what is in
    the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as out:
        out.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        out.flush()
        return subprocess.Popen(
            command,
            env={**os.environ, **ONE_THREAD, **(more or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def stop_process(process: subprocess.Popen, grace_s: float = GRACE_S) -> None:
    """See a process that was asked to stop end; after a while it is ended, its children too."""
    try:
        process.wait(grace_s)
    except subprocess.TimeoutExpired:
        _kill_session(process)
        process.wait()


def _kill_session(process: subprocess.Popen) -> None:
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def last_line(log: Path) -> str:
    """What a log ends with; "no output" where there is none."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "no output"
    lines = [line.split("\r")[-1].strip() for line in text.splitlines()]
    return next((x for x in reversed(lines) if x and not x.startswith("---")), "no output")
