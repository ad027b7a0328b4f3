"""Processes that make clips side by side, and that end with the one that started them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from vlmcourse.errors import UserError


def work_off(
    work: Callable[..., dict], chunks: list[list], workers: int | None, folder: Path, *more
) -> Iterator[tuple[int, dict]]:
    """Call `work(chunk, folder, *more)` for every chunk -> (length of the chunk, result).

    They come in the order in which they are finished.

    Args:
        workers: processes; None for one per core, 1 for this one.

    Raises:
        UserError: a worker was killed.
    """
    workers = min(workers or _cores(), len(chunks))
    if workers <= 1:
        for chunk in chunks:
            yield len(chunk), work(chunk, folder, *more)
        return
    # Spawned, never forked: the parent may hold threads and open video readers.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_leave_with_parent)
    try:
        waiting = {pool.submit(work, chunk, folder, *more): len(chunk) for chunk in chunks}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"{folder}: a worker process was ended from outside (out of memory?); "
            "run again with fewer --workers, finished clips are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_with_parent() -> None:
    """End this worker when its parent is gone, even if that was killed without warning.

    Control-C is the parent's business: it stops handing out work.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch():
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
