"""Progress: the minutes left follow the plan, on a terminal as a bar, elsewhere as lines."""

import io
import re
import time

from vlmcourse.course.progress import Progress
from vlmcourse.course.state import Done


def test_minutes_left_come_from_the_plan():
    stream = io.StringIO()
    progress = Progress(stream)
    progress.plan([2.0, 3.0, 1.0])
    assert progress.left() == 6.0
    with progress.item("first") as say:
        assert progress.left(0.5) == 5.5
        assert progress.left(9.0) == 4.0
        say(Done("ok", minutes=1.0))
    with progress.item("second") as say:
        say(Done("failed", error="broke"))
    assert progress.left() == 1.0
    assert "[1/3] first (about 6.0 min left)" in stream.getvalue()
    assert "[2/3] second: failed (0.0 min, 0 MiB): broke" in stream.getvalue()


def test_a_terminal_gets_a_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    progress = Progress(stream, every_s=0.02)
    progress.plan([1.0, 1.0])
    for name in ("first", "second"):
        with progress.item(name) as say:
            time.sleep(0.3)
            say(Done("ok"))
    assert re.search(r"\|.+\| \[2/2\] second: .*about 1\.0 min left", stream.getvalue())
