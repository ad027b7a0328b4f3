"""A process of its own: what is told of it, and that nothing of it outlives its end."""

import signal
import sys
import time

from made_up_course import gone, number_in

from vlmcourse.course.task import Task

SLEEPER = "import time; time.sleep(60)"


def task(tmp_path, code: str, **more) -> Task:
    return Task([sys.executable, "-c", code], tmp_path, tmp_path / "logs" / "it.log", **more)


def ended(started: Task, within_s: float = 60) -> Task:
    until = time.monotonic() + within_s
    while not started.ended():
        assert time.monotonic() < until
        time.sleep(0.02)
    return started


def test_it_says_how_it_ended(tmp_path):
    code = "import sys; print('one'); print('50%\\r100%', file=sys.stderr); sys.exit(3)"
    done = ended(task(tmp_path, code))
    assert done.code == 3
    assert done.last_line() == "100%"
    assert 0 < done.minutes < 1
    assert done.minutes == done.minutes, "the clock stands"
    assert ended(task(tmp_path, "pass")).last_line() == "no output", "a log of its own"


def test_memory_is_that_of_all_its_processes(tmp_path):
    hold = "big = bytearray(120 * 2**20); import time; time.sleep(0.5)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    assert 120 < ended(task(tmp_path, outer)).peak_mib < 400
    assert 100 < ended(task(tmp_path, outer, include_self=False)).peak_mib < 400
    assert ended(task(tmp_path, hold, include_self=False)).peak_mib < 50


def test_threads_are_told_unless_the_reader_has_said(tmp_path, monkeypatch):
    code = "import os; print(os.environ.get('OMP_NUM_THREADS'))"
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert ended(task(tmp_path, code)).last_line() == "None"
    assert ended(task(tmp_path, code, threads=1)).last_line() == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert ended(task(tmp_path, code, threads=1)).last_line() == "3"


def test_a_killed_task_takes_its_children_along(tmp_path):
    inner = f"import os; open('pid', 'w').write(str(os.getpid())); {SLEEPER}"
    session = "start_new_session=True"  # as notebooks' kernels have it
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}], {session})"
    started = task(tmp_path, outer)
    pid = number_in(tmp_path / "pid")
    started.kill()
    assert started.code == -signal.SIGKILL
    assert gone(pid)
