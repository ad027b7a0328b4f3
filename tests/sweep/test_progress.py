"""Minutes left, from cells that are over."""

import io

import pytest

from vlmcourse.sweep.progress import Expected, Progress, minutes_left, stands


def test_minutes_left_fill_the_places_in_turn():
    assert minutes_left([], [], 2) == 0
    assert minutes_left([3, 3, 3], [], 1) == 9
    assert minutes_left([3, 3, 3], [], 2) == 6
    assert minutes_left([3, 3, 3], [], 10**6) == 3
    assert minutes_left([4], [(10, 2), (5, 4)], 2) == 8, "the free place takes the waiting cell"
    assert minutes_left([1], [(2, 20)], 1) == pytest.approx(3), "a slow cell needs more than none"


def test_a_cell_is_expected_to_take_what_its_setting_took():
    expected = Expected()
    assert expected.minutes("slow") is None
    expected.note("slow", 10)
    assert expected.minutes("quick") == 10
    expected.note("quick", 2)
    assert (expected.minutes("slow"), expected.minutes("quick")) == (10, 2)
    assert expected.minutes("other") == 6


def test_lines_tell_counts_and_minutes():
    counts = {"done": 12, "failed": 1, "running": 2, "queued": 0}
    assert stands(counts, 20, 35.04) == "12 done, 1 failed, 2 running of 20 cells; " + (
        "about 35.0 min left"
    )
    assert stands({"done": 0, "failed": 0}, 3, None).endswith("minutes left not known yet")
    assert stands({"done": 2, "failed": 1}, 3, 0.0) == "2 done, 1 failed of 3 cells"


def test_a_file_gets_a_line_when_it_is_time():
    stream = io.StringIO()
    told = Progress(3, stream, every_s=60)
    told.show({"done": 1}, 2.0)
    assert stream.getvalue() == ""
    told.show({"done": 1}, 2.0, now=True)
    assert stream.getvalue() == "1 done of 3 cells; about 2.0 min left\n"
