"""Processes end with the one that started them, and a polite end is taken as Control-C."""

import signal
import subprocess
import sys

import pytest
from made_up_course import gone, number_in

from vlmcourse.processes import stopped_by_signals

SLEEPER = "import time; time.sleep(60)"


def test_a_child_leaves_when_its_parent_is_killed(tmp_path):
    code = (
        "import os; from vlmcourse.processes import leave_with_parent; leave_with_parent()\n"
        f"open('pid', 'w').write(str(os.getpid())); {SLEEPER}"
    )
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    parent = subprocess.Popen([sys.executable, "-c", outer], cwd=tmp_path)
    pid = number_in(tmp_path / "pid")
    parent.kill()
    parent.wait()
    assert gone(pid)


def test_a_polite_end_is_taken_as_control_c():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stopped_by_signals():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_nohup_stays_nohup(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_by_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
