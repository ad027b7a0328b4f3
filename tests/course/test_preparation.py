"""Preparations and chapters together: what is reused, what waits, what overlaps, what is left."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from made_up_course import chapter, gone, number_in, run, step

from vlmcourse import records
from vlmcourse.course import main
from vlmcourse.course.course import Course
from vlmcourse.course.items import Options
from vlmcourse.course.steps import STEPS, needed, needs

WAIT = """
import pathlib, sys, time
def wait(name, seconds):
    until = time.monotonic() + seconds
    while not pathlib.Path(name).exists():
        if time.monotonic() > until:
            sys.exit(f'error: no {name}')
        time.sleep(0.02)
"""


# ---- a second run


def test_a_second_run_reuses_what_went_well(tmp_path, copied_chapters):
    chapter(tmp_path, "00_one", "1")
    chapter(tmp_path, "01_two", "1/0")
    executed = tmp_path / "runs" / "course" / "executed.txt"
    run(tmp_path)
    well, course, text = run(tmp_path)
    assert not well
    assert executed.read_text() == "00 01 01 ", "a failed chapter runs again"
    assert "00_one (about 0.5 min left)" in text, "only the failed chapter is planned"
    assert "00_one: reused (" in text
    run(tmp_path, "00", Options(again=True))
    run(tmp_path, "00", Options(again=True, jobs=1))
    assert executed.read_text() == "00 01 01 00 00 "
    run(tmp_path, "00", Options(scale=0.5))
    assert executed.read_text() == "00 01 01 00 00 00 "
    chapter(tmp_path, "00_one", "2")
    well, course, _ = run(tmp_path, "00", Options(scale=0.5))
    assert well
    assert executed.read_text() == "00 01 01 00 00 00 00 "
    html = (course.output / "index.html").read_text()
    assert "01_two" in html, "the page keeps the chapters that did not run this time"


def test_steps_run_once_and_again_when_a_source_changes(tmp_path, python_steps):
    source = tmp_path / "recipe.yaml"
    source.write_text("steps: 1")
    code = "print(open('made.txt', 'a').write('{device} {scale};'))"
    table = (step(code, outputs=("made.txt",), sources=("*.yaml",)),)
    made = tmp_path / "made.txt"
    for expected in ("cpu 1.0;", "cpu 1.0;"):
        well, course, text = run(tmp_path, steps=table)
        assert well
        assert made.read_text() == expected
    assert "reused" in text
    assert course.done["step made"].peak_mib > 1
    source.write_text("steps: 2")
    run(tmp_path, steps=table)
    run(tmp_path, steps=table, options=Options(scale=0.5))
    assert made.read_text() == "cpu 1.0;cpu 1.0;cpu 0.5;"
    made.unlink()
    run(tmp_path, steps=table, options=Options(scale=0.5))
    assert made.read_text() == "cpu 0.5;", "a missing output makes the step run again"


def test_a_step_runs_again_when_one_before_it_has_changed(tmp_path, python_steps):
    def table(first: str):
        write = "open('{}.txt', 'a').write('x')"
        return (
            step(write.format("a") + first, "a"),
            step(write.format("b"), "b", after=("a",)),
            step(write.format("c"), "c", after=("b",)),
            step(write.format("free"), "free"),
        )

    for first in ("", "", "; print(1)"):
        assert run(tmp_path, steps=table(first))[0]
    counts = {path.stem: len(path.read_text()) for path in tmp_path.glob("*.txt")}
    assert counts == {"a": 2, "b": 2, "c": 2, "free": 1}


# ---- what waits, and what does not


def test_steps_without_relation_run_at_once_and_their_memory_is_added(tmp_path, python_steps):
    def meeting(own: str, other: str) -> str:
        hold = f"big = bytearray(120 * 2**20); open('{own}', 'w'); wait('{other}', 60)"
        return f"{WAIT}{hold}; time.sleep(0.5)"

    table = (step(meeting("a", "b"), "a"), step(meeting("b", "a"), "b"))
    well, course, text = run(tmp_path, steps=table, options=Options(jobs=2))
    assert well, "each waits for the other"
    assert all(120 < course.done[f"step {name}"].peak_mib < 200 for name in "ab")
    assert course.peak_mib > 240
    spent = sum(course.done[f"step {name}"].minutes for name in "ab")
    assert course.minutes < spent
    assert "[1/2] the a step (about 1.0 min left)" in text
    assert "[2/2] the b step (about 1.0 min left)" in text


def test_one_job_at_a_time_if_asked_for(tmp_path, python_steps):
    alone = f"{WAIT}assert not pathlib.Path('busy').exists(); open('busy', 'w'); time.sleep(0.3)"
    table = [step(f"{alone}; pathlib.Path('busy').unlink()", name) for name in "abc"]
    assert run(tmp_path, steps=table, options=Options(jobs=1))[0]
    free = (step(f"{WAIT}open('busy', 'w'); wait('gone', 1)", "d"), *table)
    assert not run(tmp_path, steps=free, options=Options(jobs=2))[0], "else this tests nothing"


def test_a_step_waits_for_those_it_comes_after(tmp_path, python_steps):
    made = "time.sleep(0.3); open('{}', 'w')"
    table = (
        step(WAIT + made.format("a"), "a"),
        step(f"import os; assert os.path.exists('a'); {WAIT}{made.format('b')}", "b", after=("a",)),
        step("import os; assert os.path.exists('b')", "c", after=("b",)),
    )
    assert run(tmp_path, steps=table, options=Options(jobs=2))[0]


def test_chapters_run_beside_steps_they_do_not_need(tmp_path, python_steps, copied_chapters):
    chapter(tmp_path, "00_a", "1")
    chapter(tmp_path, "01_b", "1")
    slow = f"{WAIT}wait('runs/course/00_a.ipynb', 60); open('trained', 'w')"
    table = [step(slow, "slow", chapters=("01",), minutes=9)]
    well, course, text = run(tmp_path, steps=table, options=Options(jobs=2))
    assert well, "chapter 00 did not wait for the step"
    assert text.index("the slow step: ok") < text.index("01_b (about")
    assert course.ran == ["step slow", "00", "01"]


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    ("code", "error"),
    [("raise SystemExit('error: disk full')", "error: disk full"), ("pass", "did not leave gone")],
)
def test_a_failing_step_stops_only_what_needs_it(
    tmp_path, python_steps, copied_chapters, code, error, jobs
):
    chapter(tmp_path, "00_needs", "1")
    chapter(tmp_path, "01_free", "1")
    chapter(tmp_path, "02_deep", "1")
    table = (
        step(code, "made", outputs=("gone",), chapters=("00",)),
        step("open('wrong', 'w')", "behind", after=("made",), chapters=("02",)),
        step("open('right', 'w')", "other", chapters=("01",)),
    )
    well, course, _ = run(tmp_path, steps=table, options=Options(jobs=jobs))
    assert not well
    assert error in course.done["step made"].error
    assert "made.log" in course.done["step made"].error
    for blocked in ("step behind", "00", "02"):
        assert course.done[blocked].status == "not run"
        assert course.done[blocked].error == "needs the failed step made"
    assert not (tmp_path / "wrong").exists()
    assert (tmp_path / "right").exists()
    assert course.done["01"].status == "ok"


def test_only_needed_steps_run(tmp_path, python_steps, copied_chapters):
    chapter(tmp_path, "00_a", "1")
    table = [
        step("1", "deep", chapters=("02",)),
        step("1", "some", chapters=("00",), after=("deep",)),
        step("1", "other", chapters=("01",)),
    ]
    _, course, _ = run(tmp_path, "00", steps=table)
    assert course.ran == ["step deep", "step some", "00"]
    assert [x.name for x in needed(table, ())] == ["deep", "some", "other"]


def test_prepare_only_runs_no_chapter(tmp_path, python_steps):
    chapter(tmp_path, "00_a", "1")
    well, course, _ = run(tmp_path, steps=[step("1")], prepare_only=True)
    assert well
    assert "step made" in course.done
    assert "00" not in course.done


def test_cores_are_shared_out_but_to_what_runs_alone(tmp_path, python_steps, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("vlmcourse.course.items.cores", lambda: 2)
    code = "import os; open('{}', 'w').write(os.environ.get('OMP_NUM_THREADS', 'all'))"
    table = [step(code.format("a"), "a"), step(code.format("b"), "b", alone=True)]
    assert Options().places() == 2
    assert Options(device="cuda").places() == 1
    assert Options(device="cuda", jobs=2).places() == 2
    run(tmp_path, steps=table)
    assert [(tmp_path / name).read_text() for name in "ab"] == ["1", "all"]
    run(tmp_path, steps=table, options=Options(jobs=1, again=True))
    assert (tmp_path / "a").read_text() == "all"


# ---- what is left behind


def test_a_killed_run_loses_only_what_was_running(tmp_path):
    code = """
        import sys
        from pathlib import Path
        from made_up_course import run, step
        from vlmcourse.course.course import Course
        from vlmcourse.course.items import Options, Workplace
        Course.launcher = (sys.executable,)
        Workplace.step_command = lambda self, wanted: list(wanted.command)
        pid = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(90)"
        table = [step("1", "quick"), step(pid, "slow", after=("quick",)), step("1", "beside")]
        run(Path("."), steps=table, options=Options(jobs=2))
    """
    tests = str(Path(__file__).parents[1])
    course = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": tests},
        stderr=subprocess.DEVNULL,
    )
    pid = number_in(tmp_path / "pid")
    course.send_signal(signal.SIGTERM)
    assert course.wait(60) != 0
    assert gone(pid)
    left = Course(tmp_path, tmp_path / "runs" / "course", Options(), ()).done
    assert left["step quick"].status == "ok"
    assert "step slow" not in left


def test_a_record_tells_wall_time_and_the_memory_of_all(
    tmp_path, capsys, monkeypatch, python_steps, copied_chapters
):
    monkeypatch.chdir(tmp_path)
    chapter(tmp_path, "00_a", "1")
    hold = "import time; big = bytearray(100 * 2**20); time.sleep(1)"
    table = (step(hold, "one"), step(hold, "two"), step("1", "not", chapters=("01",)))
    monkeypatch.setattr("vlmcourse.course.course.STEPS", table)
    path = tmp_path / "records" / "course.json"
    words = ["--jobs", "2", "--record", str(path)]
    assert main(words, root=tmp_path) == 0
    stored = records.read_record(path)
    assert stored["settings"] == {"chapters": ["00"], "jobs": 2}
    told = {name: value["mean"] for name, value in stored["metrics"].items()}
    assert {name.partition("/")[0] for name in told} == {"one", "two", "00", "all", "one_by_one"}
    parts = [told[f"{name}/minutes"] for name in ("one", "two", "00")]
    assert told["one_by_one/minutes"] == pytest.approx(sum(parts), abs=2e-3)
    assert 1 / 60 < told["all/minutes"] < told["one_by_one/minutes"]
    assert stored["wall_s"] > 60 * told["all/minutes"] * 0.9
    assert told["one/peak_mib"] > 100
    assert stored["peak_mib"] > told["one/peak_mib"] + told["two/peak_mib"]
    assert (stored["status"], stored["note"]) == ("ok", "")
    assert main(words, root=tmp_path) == 0
    assert records.read_record(path)["note"] == "Reused, not run now: one, two, 00."


# ---- the table


def test_the_table_of_steps_names_known_commands():
    from vlmcourse.cli import COMMANDS

    assert len({s.name for s in STEPS}) == len(STEPS)
    for known in STEPS:
        assert known.command[0] in COMMANDS
        assert known.outputs, "a step says what it leaves"
        [word.format(device="cpu", scale=1.0) for word in known.command]
        assert isinstance(needs("00", known), bool)


def test_every_step_is_behind_what_it_reads():
    def stage_of(path: Path) -> str:
        return yaml.safe_load(path.read_text())["model"]["stage"]["name"]

    before: dict[str, set[str]] = {}
    for known in STEPS:
        assert {*known.after} <= before.keys()
        before[known.name] = {*known.after}.union(*(before[name] for name in known.after))
    trained = {word.split("/")[1]: s.name for s in STEPS for word in s.outputs if "runs/" in word}
    worlds = {s.name: s.outputs[0].rsplit("/", 2)[0] for s in STEPS if s.command[0] == "world"}
    for known in STEPS:
        kind = known.command[0]
        assert known.alone == (kind == "world" and "--texts" not in known.command)
        if kind == "evaluate":
            system = known.command[known.command.index("--system") + 1]
            assert trained[system] in known.after
        if kind == "train":
            patterns = [pattern for pattern in known.sources if pattern.endswith("yaml")]
            files = [path for x in patterns for path in Path(__file__).parents[2].glob(x)]
            text = "".join(path.read_text() for path in files)
            read = {name for name, folder in worlds.items() if f"json: {folder}/" in text}
            assert read
            assert read | {"foundations"} <= before[known.name]
            assert known.outputs[0].split("/")[-2] in map(stage_of, files)


@pytest.mark.parametrize("known", [s for s in STEPS if s.command[0] != "foundations"])
def test_commands_have_the_options_that_steps_say(known):
    """Parsed by the command itself; nothing is run."""
    from vlmcourse.evaluation.cli import _parser as evaluate
    from vlmcourse.training.cli import _parser as train
    from vlmcourse.world.command import _parser as world

    parsers = {"evaluate": evaluate, "train": train, "world": world}
    kind, *words = (word.format(device="cpu", scale=1.0) for word in known.command)
    parsers[kind]().parse_args(words)
