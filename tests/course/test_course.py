"""The course on made-up chapters: one good, one failing, one whose kernel dies, one too slow."""

import base64
import json
import re
import sys

import pytest
from made_up_course import DOT, FIGURE, HOLD, chapter, run

from vlmcourse.course import main, page
from vlmcourse.course.course import Course
from vlmcourse.course.items import Options
from vlmcourse.course.state import card_minutes, choose, title_of
from vlmcourse.errors import UserError
from vlmcourse.notebooks import read_notebook


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """One run over chapters that end in every way."""
    root = tmp_path_factory.mktemp("mixed")
    chapter(root, "00_good", "print('scale is', scale)", HOLD, FIGURE)
    chapter(root, "01_fails", "x = 1", "raise ValueError('no frames in clip')")
    chapter(root, "02_dies", "import os\nos._exit(7)")
    chapter(root, "03_slow", "import time", "time.sleep(60)")
    chapter(root, "04_plain", "print('still runs')", parameters="seed = 1")
    options = Options(scale=0.25, seed=7, cell_timeout_s=8)
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
        ("03", "cell 4 (`time.sleep(60)`): CellTimeoutError: more than 8 s"),
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


def test_the_command(tmp_path, capsys, monkeypatch, copied_chapters):
    monkeypatch.chdir(tmp_path)
    chapter(tmp_path, "00_a", "1")
    chapter(tmp_path, "01_b", "1/0")
    monkeypatch.setattr("vlmcourse.course.course.STEPS", ())
    assert main(["--list"], root=tmp_path) == 0
    assert capsys.readouterr().out == "00_a: Chapter 00_a\n01_b: Chapter 01_b\n"
    assert main(["--chapters", "00"], root=tmp_path) == 0
    out = capsys.readouterr()
    assert out.out.endswith("all went well: runs/course/index.html\n")
    assert main([], root=tmp_path) == 1
    out = capsys.readouterr()
    assert "01_b: failed" in out.err
    assert "cell 3: no" in out.err
    assert "something failed" in out.out
    with pytest.raises(UserError, match="unknown chapter '07'"):
        main(["--chapters", "07"], root=tmp_path)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--scale", "0"], "--scale must be above 0"),
        (["--device", "gpu0"], "--device gpu0: "),
        (["--jobs", "0"], "--jobs must be at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path, words, complaint):
    with pytest.raises(UserError, match=complaint):
        main(words, root=tmp_path)


def test_cuda_is_asked_for_before_minutes_are_spent(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="finds no CUDA device"):
        main(["--device", "cuda"], root=tmp_path)


def test_a_chapter_whose_process_is_ended_from_outside_is_a_failed_chapter(tmp_path, monkeypatch):
    chapter(tmp_path, "00_a", "1")
    killed = (sys.executable, "-c", "import os; print('half way'); os.kill(os.getpid(), 9)")
    monkeypatch.setattr("vlmcourse.course.items.LAUNCHER", killed)
    well, course, _ = run(tmp_path)
    assert not well
    assert course.done["00"].error.startswith("before its first cell: exit code -9: ")
    assert "00_a.log" in course.done["00"].error
    assert (course.output / "logs" / "00_a.log").exists()


def test_a_kernel_that_does_not_start_is_a_failed_chapter(tmp_path, monkeypatch):
    chapter(tmp_path, "00_a", "1")
    broken = ["--no-such-option-of-the-kernel"]
    monkeypatch.setattr("vlmcourse.notebooks.KERNEL_ARGUMENTS", broken)
    well, course, _ = run(tmp_path)
    assert not well
    assert course.done["00"].error.startswith("before its first cell: RuntimeError")
    assert not course.done["00"].figures
