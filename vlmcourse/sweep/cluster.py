"""Cells as jobs through submitit: on SLURM, or (to try it) in processes of this machine.

A job does what a process on this machine would: it runs the command of one cell. Locks and records
are files, so sweeps and jobs of several starts never run a cell twice; the folder of the sweep has
to be on a disk that all machines share.
"""

import contextlib
import math
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmcourse.errors import UserError
from vlmcourse.processes import leave_with_parent
from vlmcourse.sweep.hands import GRACE_S, start_process, stop_process

KINDS = ("slurm", "local")


@dataclass(frozen=True)
class Resources:
    """What one cell is given.

    Attributes:
        partition: of SLURM.
        minutes: the longest that a job may run; a training that needs longer goes on in another.
        memory_gib: main memory.
        gpus: 0 or more.
        more: other parameters of submitit (`slurm_account`, `slurm_qos`, ...).
    """

    partition: str | None = None
    minutes: int = 240
    memory_gib: float = 6.0
    gpus: int = 0
    more: dict[str, Any] = field(default_factory=dict)


class CellJob:
    """What a job calls. submitit pickles it, and asks it for a continuation when time is over."""

    def __init__(self, command: Sequence[str], log: Path):
        self.command, self.log = list(command), Path(log)

    def __call__(self) -> int:
        """Run the cell; gives its exit status. It ends with the process that started it."""
        leave_with_parent()
        process = start_process(self.command, self.log)
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                stop_process(process)

    def checkpoint(self):
        """The same again: trainings go on from their checkpoints, finished measures stay."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class ClusterJob:
    """A job that was handed in."""

    def __init__(self, job, log: Path, size: int):
        self.job, self._log, self._size = job, log, size
        self._start: float | None = None

    def ended(self) -> bool:
        return self.job.done()

    def code(self) -> int | None:
        """None where the job was ended from outside, or its result cannot be read."""
        process = getattr(self.job, "_process", None)
        if process is not None:
            process.wait()
        with contextlib.suppress(Exception):  # submitit raises what it finds, of any kind
            return self.job.result()
        return None

    def minutes(self) -> float:
        """Since its log grew: before that it waits for a machine."""
        if self._start is None and self._log.exists() and self._log.stat().st_size > self._size:
            self._start = time.perf_counter()
        return 0.0 if self._start is None else (time.perf_counter() - self._start) / 60

    def ask_to_stop(self) -> None:
        if not self.ended():
            self.job.cancel(check=False)

    def stop(self) -> None:
        process = getattr(self.job, "_process", None)
        if process is None:
            return
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class ClusterHands:
    """Hands cells in through submitit; those that begin together as one array.

    Args:
        kind: of `KINDS`.
        folder: for submitit's own files.
        places: cells at once, None for as many as the cluster takes.
        resources: of one cell.

    Raises:
        UserError: submitit is not installed, or finds no SLURM here.
    """

    def __init__(self, kind: str, folder: Path, places: int | None, resources: Resources):
        try:
            import submitit
        except ImportError as error:
            raise UserError("--cluster needs submitit: pip install submitit") from error
        self.places = places or (1 if kind == "local" else 10**6)
        try:
            self._executor = submitit.AutoExecutor(folder=folder, cluster=kind)
        except RuntimeError as error:
            raise UserError(f"--cluster {kind}: {error}") from error
        told: dict[str, Any] = {"timeout_min": resources.minutes, "cpus_per_task": 1}
        told |= {"gpus_per_node": resources.gpus} if resources.gpus else {}
        if kind == "slurm":
            told |= {"name": "vlmcourse-sweep", "mem_gb": math.ceil(resources.memory_gib)}
            told |= {"slurm_partition": resources.partition} if resources.partition else {}
            told |= {"slurm_array_parallelism": places} if places else {}
            told |= resources.more
        try:
            self._executor.update_parameters(**told)
        except (NameError, ValueError, TypeError) as error:
            raise UserError(f"--cluster {kind}: {error}") from error
        _quiet()

    def start(self, commands: Sequence[tuple[list[str], Path]]) -> list[ClusterJob]:
        sizes = [log.stat().st_size if log.exists() else 0 for _, log in commands]
        with self._executor.batch():
            jobs = [self._executor.submit(CellJob(command, log)) for command, log in commands]
        logs = [log for _, log in commands]
        return [ClusterJob(job, log, size) for job, log, size in zip(jobs, logs, sizes)]


def _quiet() -> None:
    """submitit tells nothing on the terminal: the sweep does."""
    import logging

    logging.getLogger("submitit").setLevel(logging.ERROR)
