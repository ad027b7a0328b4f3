"""The course on made-up chapters: one good, one failing, one whose kernel dies, one too slow."""

import base64
import io
import json
import re
import sys
from pathlib import Path

import pytest

from vlmcourse import records
from vlmcourse.course import main, page
from vlmcourse.course.progress import Progress
from vlmcourse.course.run import Course, Options
from vlmcourse.course.state import card_minutes, choose, title_of
from vlmcourse.course.steps import STEPS, Step, needs
from vlmcourse.errors import UserError
from vlmcourse.notebooks import KERNELSPEC, read_notebook, to_text

# a 1 x 1 PNG, shown as a figure would be
DOT = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
HOLD = "import time\nbig = bytearray(150 * 2**20)\ntime.sleep(0.5)"
FIGURE = (
    "from IPython.display import display\n"
    f"display({{'image/png': '{DOT}', 'text/plain': 'figure'}}, raw=True)"
)


def chapter(folder: Path, name: str, *sources: str, parameters="device = 'cpu'\nscale = 1.0"):
    """Write a chapter: title, card, parameters, and one cell for each source."""

    def cell(kind: str, number: int, source: str, **metadata) -> dict:
        code = {"outputs": [], "execution_count": None} if kind == "code" else {}
        base = {"cell_type": kind, "id": f"c{number}", "metadata": metadata, "source": source}
        return base | code

    title = f"# Chapter {name}\n\nMeasured on the CPU: 0.5 min, 300 MiB. Here $x_1 + 1$ is < 2."
    cells = [cell("markdown", 0, title), cell("code", 1, parameters, tags=["parameters"])]
    cells += [cell("code", n, source) for n, source in enumerate(sources, start=2)]
    book = {
        "cells": cells,
        "metadata": {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (folder / "notebooks").mkdir(exist_ok=True)
    (folder / "notebooks" / f"{name}.ipynb").write_text(to_text(book))


def run(root: Path, wanted: str = "", options: Options | None = None, steps=(), **more):
    stream = io.StringIO()
    course = Course(root, root / "runs" / "course", options or Options(), steps)
    chapters = choose(wanted, course.known)
    well = course.run(chapters, Progress(stream, every_s=0.05), **more)
    return well, course, stream.getvalue()


def step(code: str, name: str = "made", **more) -> Step:
    """A step whose command runs Python code instead of a vlmcourse command."""
    return Step(name, f"the {name} step", ("-c", code), **more)


@pytest.fixture
def python_steps(monkeypatch):
    """Let a step's command be Python's own options."""

    def command(self, wanted):
        device, scale = self.options.device or "cpu", self.options.scale or 1.0
        return [
            word.replace("{device}", device).replace("{scale}", str(scale))
            for word in wanted.command
        ]

    monkeypatch.setattr(Course, "step_command", command)
    monkeypatch.setattr(Course, "launcher", (sys.executable,))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """One run over chapters that end in every way."""
    root = tmp_path_factory.mktemp("mixed")
    chapter(root, "00_good", "print('scale is', scale)", HOLD, FIGURE)
    chapter(root, "01_fails", "x = 1", "raise ValueError('no frames in clip')")
    chapter(root, "02_dies", "import os\nos._exit(7)")
    chapter(root, "03_slow", "import time", "time.sleep(60)")
    chapter(root, "04_plain", "print('still runs')", parameters="seed = 1")
    options = Options(scale=0.25, seed=7, cell_timeout_s=2)
    return root, *run(root, options=options)


def test_a_good_chapter_is_executed_measured_and_shown(mixed):
    _, well, course, text = mixed
    assert not well
    good = course.done["00"]
    assert (good.status, good.error) == ("ok", "")
    assert 0 < good.minutes < 1
    assert 150 < good.peak_mib < 2000
    assert good.figures == ["figures/00_good_1.png"]
    assert (course.output / good.figures[0]).read_bytes().startswith(b"\x89PNG")
    assert "[1/5] 00_good: ok (" in text


def test_parameters_go_only_where_they_are_declared(mixed):
    _, _, course, _ = mixed
    first = json.dumps(read_notebook(course.output / "00_good.ipynb"))
    assert "scale is 0.25" in first
    assert "seed = 7" not in first
    last = json.dumps(read_notebook(course.output / "04_plain.ipynb"))
    assert "seed = 7" in last
    assert "scale = 0.25" not in last


@pytest.mark.parametrize(
    ("number", "error"),
    [
        ("01", "cell 4 (`raise ValueError('no frames in clip')`): ValueError: no frames in clip"),
        ("02", "cell 3 (`import os`): DeadKernelError: the kernel died"),
        ("03", "cell 4 (`time.sleep(60)`): CellTimeoutError: more than 2 s"),
    ],
)
def test_a_failing_chapter_is_named_with_its_cell_and_error(mixed, number, error):
    _, _, course, text = mixed
    assert course.done[number].status == "failed"
    assert course.done[number].error == error
    assert error in text


def test_the_others_still_run(mixed):
    assert mixed[2].done["04"].status == "ok"


def test_the_page_shows_every_chapter_and_stands_alone(mixed):
    _, _, course, _ = mixed
    html = (course.output / "index.html").read_text()
    for number, path in course.known.items():
        assert f'<span class="number">{number}</span>' in html
        assert f"Chapter {path.stem}" in html
    assert "2 of 5 chapters ran" in html
    assert "no frames in clip" in html
    assert '<img src="figures/00_good_1.png"' in html
    for name in re.findall(r'(?:href|src)="([^"]+)"', html):
        assert (course.output / name).exists(), name


@pytest.mark.parametrize("name", ["index.html", "00_good.html", "01_fails.html"])
def test_no_page_fetches_anything(mixed, name):
    html = (mixed[2].output / name).read_text()
    assert not re.search(r"(src|href)=[\"'](https?:)?//|<script|@import|url\(", html)
    assert "prefers-color-scheme: dark" in html


def test_formulas_become_pictures(mixed):
    html = (mixed[2].output / "00_good.html").read_text()
    assert '<img alt="x_1 + 1" class="formula" src="data:image/svg+xml;' in html
    assert "$x_1" not in html
    assert page.draw_formulas("costs `$a$` and $5 or $6") == "costs `$a$` and $5 or $6"
    assert page.draw_formulas(r"$\nosuchthing{x}$") == r"$\nosuchthing{x}$"


def test_a_chapters_page_folds_solutions_and_holds_its_pictures(tmp_path):
    (tmp_path / "dot.png").write_bytes(base64.b64decode(DOT))
    text = "<details><summary>Solution</summary>\n\n```python\nx = 1\n```\n\n</details>"
    cells = [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": text}]
    picture = "![a dot](dot.png) ![gone](gone.png)"
    cells.append({"cell_type": "markdown", "id": "b", "metadata": {}, "source": picture})
    book = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    html = page.chapter_page(book, "T & U", tmp_path)
    assert re.search(r"<details>.*<span class=.mi.>1</span>.*</details>", html, re.DOTALL)
    assert f'src="data:image/png;base64,{DOT}"' in html
    assert 'src="gone.png"' in html
    assert "<title>T &amp; U</title>" in html


# ---- a second run


def test_a_second_run_reuses_what_went_well(tmp_path):
    chapter(tmp_path, "00_one", "open('count.txt', 'a').write('x')")
    chapter(tmp_path, "01_two", "assert not __import__('os').path.exists('count.txt')")
    runs = tmp_path / "notebooks" / "count.txt"
    run(tmp_path)
    well, course, text = run(tmp_path)
    assert runs.read_text() == "x"
    assert "00_one (about 0.5 min left)" in text, "only the failed chapter is planned"
    assert "00_one: reused (" in text
    assert course.done["01"].status == "failed", "a failed chapter runs again"
    run(tmp_path, "00", Options(again=True))
    assert runs.read_text() == "xx"
    run(tmp_path, "00", Options(scale=0.5))
    assert runs.read_text() == "xxx"
    chapter(tmp_path, "00_one", "open('count.txt', 'a').write('y')")
    well, course, _ = run(tmp_path, "00", Options(scale=0.5))
    assert well
    assert runs.read_text() == "xxxy"
    html = (course.output / "index.html").read_text()
    assert "Chapter 01_two" in html, "the page keeps the chapters that did not run this time"


# ---- preparation


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


@pytest.mark.parametrize(
    ("code", "error"),
    [("raise SystemExit('error: disk full')", "error: disk full"), ("pass", "did not leave gone")],
)
def test_a_failing_step_stops_only_the_chapters_that_need_it(tmp_path, python_steps, code, error):
    chapter(tmp_path, "00_needs", "1")
    chapter(tmp_path, "01_free", "1")
    well, course, _ = run(tmp_path, steps=[step(code, outputs=("gone",), chapters=("00",))])
    assert not well
    assert error in course.done["step made"].error
    assert "made.log" in course.done["step made"].error
    assert course.done["00"].status == "not run"
    assert "needs the failed step made" in course.done["00"].error
    assert course.done["01"].status == "ok"


def test_only_needed_steps_run(tmp_path, python_steps):
    chapter(tmp_path, "00_a", "1")
    table = [step("1", "some", chapters=("00",)), step("1", "other", chapters=("01",))]
    _, course, _ = run(tmp_path, "00", steps=table)
    assert "step some" in course.done
    assert "step other" not in course.done


def test_prepare_only_runs_no_chapter(tmp_path, python_steps):
    chapter(tmp_path, "00_a", "1")
    well, course, _ = run(tmp_path, steps=[step("1")], prepare_only=True)
    assert well
    assert "step made" in course.done
    assert "00" not in course.done


def test_the_table_of_steps_names_known_commands():
    from vlmcourse.cli import COMMANDS

    assert len({s.name for s in STEPS}) == len(STEPS)
    for known in STEPS:
        assert known.command[0] in COMMANDS
        assert known.outputs, "a step says what it leaves"
        [word.format(device="cpu", scale=1.0) for word in known.command]
        assert isinstance(needs("00", known), bool)


# ---- choosing, reading, remembering


def test_choosing_chapters(tmp_path):
    for name in ("00_start", "03_foundations", "04_video_chatgpt"):
        chapter(tmp_path, name, "1")
    known = Course(tmp_path, tmp_path / "out", Options(), ()).known
    assert list(known) == ["00", "03", "04"]
    assert list(choose(None, known)) == ["00", "03", "04"]
    assert list(choose("4, 03", known)) == ["03", "04"]
    assert list(choose("04_video_chatgpt.ipynb", known)) == ["04"]
    for wrong in ("05", "04_other", "x"):
        with pytest.raises(UserError, match=f"unknown chapter '{wrong}'; known: 00_start, 03_"):
            choose(wrong, known)


def test_titles_and_cards():
    def book(*texts):
        return {"cells": [{"cell_type": "markdown", "source": text} for text in texts]}

    assert title_of(book("no heading", "## sub\n# The *idea*\ntext")) == "The *idea*"
    assert title_of(book()) == "untitled"
    assert card_minutes(book("# T", "| CPU, two cores | 3.5 min | 900 MiB |")) == 3.5
    assert card_minutes(book("# T", "about 4 min on a CPU, 1 min on a GPU")) == 4
    assert card_minutes(book("# T")) == 2.0


def test_a_broken_state_file_is_forgotten(tmp_path):
    chapter(tmp_path, "00_a", "1")
    out = tmp_path / "runs" / "course"
    out.mkdir(parents=True)
    for text in ("{", '{"00": {"no such field": 1}}'):
        (out / "state.json").write_text(text)
        assert Course(tmp_path, out, Options(), ()).done == {}


# ---- the command


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chapter(tmp_path, "00_a", "1")
    chapter(tmp_path, "01_b", "1/0")
    monkeypatch.setattr("vlmcourse.course.run.STEPS", ())
    assert main(["--list"], root=tmp_path) == 0
    assert capsys.readouterr().out == "00_a: Chapter 00_a\n01_b: Chapter 01_b\n"
    record = tmp_path / "records" / "course.json"
    assert main(["--chapters", "00", "--record", str(record)], root=tmp_path) == 0
    out = capsys.readouterr()
    assert out.out.endswith("all went well: runs/course/index.html\n")
    stored = records.read_record(record)
    assert 0 < stored["metrics"]["00/minutes"]["mean"] < 1
    assert stored["metrics"]["all/minutes"] == stored["metrics"]["00/minutes"]
    assert stored["wall_s"] > 60 * stored["metrics"]["all/minutes"]["mean"] * 0.9
    assert stored["peak_mib"] == stored["metrics"]["00/peak_mib"]["mean"]
    assert stored["settings"] == {"chapters": ["00"]}
    assert main([], root=tmp_path) == 1
    out = capsys.readouterr()
    assert "01_b: failed" in out.err
    assert "ZeroDivisionError" in out.err
    assert "something failed" in out.out
    with pytest.raises(UserError, match="unknown chapter '07'"):
        main(["--chapters", "07"], root=tmp_path)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [(["--scale", "0"], "--scale must be above 0"), (["--device", "gpu0"], "--device gpu0: ")],
)
def test_options_that_cannot_be_are_refused(tmp_path, words, complaint):
    with pytest.raises(UserError, match=complaint):
        main(words, root=tmp_path)


def test_cuda_is_asked_for_before_minutes_are_spent(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="finds no CUDA device"):
        main(["--device", "cuda"], root=tmp_path)


def test_a_kernel_that_does_not_start_is_a_failed_chapter(tmp_path, monkeypatch):
    chapter(tmp_path, "00_a", "1")
    broken = ["--no-such-option-of-the-kernel"]
    monkeypatch.setattr("vlmcourse.notebooks.KERNEL_ARGUMENTS", broken)
    well, course, _ = run(tmp_path)
    assert not well
    assert course.done["00"].error.startswith("before its first cell: RuntimeError")
    assert not course.done["00"].figures
