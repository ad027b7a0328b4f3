"""Processes that a long command starts: they end when it is gone, and it ends politely."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

LOOK_S = 0.5


def leave_with_parent() -> None:
    """End this process when its parent is gone, even if that was killed without warning."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Take a polite end from outside (`kill`, a closed terminal) as Control-C, so that what has
    been started is ended too."""

    def stop(number, frame):
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                before.setdefault(number, signal.signal(number, stop))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
