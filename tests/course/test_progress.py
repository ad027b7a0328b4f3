"""Progress: on a terminal a bar, elsewhere lines; both tell all that runs and the minutes left."""

import io
import re

from vlmcourse.course.progress import Progress
from vlmcourse.course.state import Done


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_when_a_job_begins_and_ends_and_each_minute():
    stream = io.StringIO()
    progress = Progress(stream, minute_s=0)
    progress.plan(3, 6.0)
    progress.begin("first", 6.0)
    progress.begin("second", 5.5)
    progress.show({"first": 1.0, "second": 0.25}, lambda: 4.75)
    progress.end("second", Done("ok", minutes=1.25, peak_mib=100.4))
    progress.begin("third", 3.0)
    progress.end("third", Done("ok", minutes=2.0, reused=True))
    progress.end("first", Done("failed", minutes=2.0, error="broke"))
    assert stream.getvalue().splitlines() == [
        "[1/3] first (about 6.0 min left)",
        "[2/3] second (about 5.5 min left)",
        "[1/3] first: 1.0 min, [2/3] second: 0.2 min; about 4.8 min left",
        "[2/3] second: ok (1.2 min, 100 MiB)",
        "[3/3] third (about 3.0 min left)",
        "[3/3] third: reused (2.0 min, 0 MiB)",
        "[1/3] first: failed (2.0 min, 0 MiB): broke",
    ]


def test_no_line_before_its_minute():
    stream = io.StringIO()
    progress = Progress(stream)
    progress.plan(1, 6.0)
    progress.begin("first", 6.0)
    progress.show({"first": 0.5}, lambda: 5.5)
    assert stream.getvalue().count("\n") == 1


def test_a_terminal_gets_a_bar_that_never_runs_backwards(monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    stream = Terminal()
    progress = Progress(stream, every_s=0)
    progress.plan(2, 10.0)
    progress.begin("first", 10.0)
    progress.begin("second", 10.0)
    for left in (10.0, 4.0, 6.0):
        progress.show({"first": 0.5, "second": 1.0}, lambda left=left: left)
    assert progress.bar.n == 6.0
    both = r"about 6\.0 min left; \[1/2\] first: 0\.5 min, \[2/2\] second: 1\.0 min"
    assert re.search(rf"\|.+\| {both}", stream.getvalue())
    progress.end("first", Done("ok"))
    assert "[1/2] first: ok" in stream.getvalue()
    progress.close()
    assert progress.bar is None
