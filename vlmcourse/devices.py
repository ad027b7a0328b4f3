"""Where a model runs, and how long it takes there."""

import time
from collections.abc import Callable

from vlmcourse.errors import UserError


def chosen_device(device: str) -> str:
    """Return "cpu" or "cuda" for a wish that may be "auto".

    Raises:
        UserError: unknown, or not to be had.
    """
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"unknown device {device!r}; known: auto, cpu, cuda")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("no GPU that torch can use: say --device cpu")
    return device


def work_clock(device: str, threads: int) -> Callable[[], float]:
    """A clock in seconds for work on a device: processor time of this process where one thread
    works on the CPU; else wall time, on CUDA after all that the device has been given."""
    if device == "cpu":
        return time.process_time if threads == 1 else time.perf_counter
    import torch

    def waited() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return waited
