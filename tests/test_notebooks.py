"""Notebooks: one stable form, a run from a fresh kernel, and a check that can fail."""

import base64
import copy
import json
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from vlmcourse import notebooks
from vlmcourse.notebooks import NotebookError, normalise, problems, read_notebook, to_text

COURSE = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("[0-9]*.ipynb"))


def code(source: str, count: int | None = None, outputs: list | None = None, **metadata) -> dict:
    return {
        "cell_type": "code",
        "id": f"c{zlib.crc32(source.encode())}",
        "metadata": metadata,
        "source": source,
        "execution_count": count,
        "outputs": outputs or [],
    }


def stream(text: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text}


def picture(size: int) -> dict:
    data = {"image/png": base64.b64encode(bytes(size)).decode(), "text/plain": "<Figure>"}
    return {"output_type": "display_data", "data": data, "metadata": {"needs_background": "light"}}


def book(*cells: dict) -> dict:
    first = code("scale = 1.0", 1, tags=["parameters"])
    title = {"cell_type": "markdown", "id": "title", "metadata": {}, "source": "# A title"}
    return {"cells": [title, first, *cells], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


ERROR = {"output_type": "error", "ename": "E", "evalue": "x", "traceback": []}


def found(notebook: dict) -> list[str]:
    return problems(notebook, to_text(notebook))


# ---- the committed course


@pytest.mark.parametrize("path", COURSE, ids=lambda p: p.stem)
def test_committed_chapters_are_fit_to_be_read(path):
    assert problems(read_notebook(path), path.read_text(encoding="utf-8")) == []


# ---- normalise


def test_noise_goes_and_substance_stays():
    noisy = book(code("print(1)", 2, [stream("1\n")], tags=["b", "a"], execution={"iopub": "now"}))
    noisy["metadata"] = {
        "papermill": {"duration": 3.2},
        "widgets": {"state": {}},
        "kernelspec": {"display_name": "mine", "name": "venv-of-mine", "language": "python"},
        "language_info": {"name": "python", "version": "3.11.7"},
    }
    noisy["cells"][1]["metadata"]["papermill"] = {"duration": 0.1, "status": "completed"}
    clean = normalise(noisy)
    text = to_text(clean)
    for noise in ("papermill", "duration", "widgets", "venv-of-mine", "3.11.7", "iopub"):
        assert noise not in text
    assert clean["metadata"]["kernelspec"]["name"] == "python3"
    assert clean["cells"][2]["metadata"] == {"tags": ["a", "b"]}
    assert clean["cells"][2]["outputs"][0]["text"] == ["1\n"]
    assert clean["cells"][2]["execution_count"] == 2


def test_normalising_twice_changes_nothing_and_keeps_the_argument():
    notebook = book(code("1", 2, [stream("a\n"), stream("b\n"), picture(10)]))
    before = copy.deepcopy(notebook)
    once = normalise(notebook)
    assert notebook == before
    assert to_text(normalise(once)) == to_text(once)
    assert [len(c.get("outputs", [])) for c in once["cells"]] == [0, 0, 2]


def test_progress_bars_leave_their_last_state():
    bar = stream("\r 10%|#   |\r 50%|##  |\r100%|####| \x1b[32mdone\x1b[0m\nnext\n", "stderr")
    (out,) = normalise(book(code("bar()", 2, [bar])))["cells"][2]["outputs"]
    assert out["text"] == ["100%|####| done\n", "next\n"]


def test_widgets_go_with_their_random_text():
    widget = {
        "output_type": "display_data",
        "data": {notebooks.WIDGETS[0]: {"model_id": "1f"}, "text/plain": "Widget(id=1f)"},
        "metadata": {},
    }
    assert normalise(book(code("w", 2, [widget])))["cells"][2]["outputs"] == []


def test_ids_are_kept_made_stable_and_unique():
    notebook = book(code("x", 2), code("x", 3), code("y", 4))
    del notebook["cells"][4]["id"]
    first, second = normalise(notebook), normalise(notebook)
    ids = [c["id"] for c in first["cells"]]
    assert ids == [c["id"] for c in second["cells"]]
    assert len(set(ids)) == 5
    assert ids[:3] == [c["id"] for c in notebook["cells"][:3]]


# ---- check


def test_a_clean_notebook_passes():
    assert found(normalise(book(code("1 + 1", 2, [stream("2\n"), picture(1000)])))) == []


@pytest.mark.parametrize(
    ("cells", "complaint"),
    [
        ([code("1", None)], "not executed: cell 3"),
        ([code("1", 7)], "not executed once from top to bottom"),
        ([code("1", 2, [picture(60_001)])], "cell 3: a picture of 60 kB"),
        ([code("1", 2, [stream("x" * 300_000)])], "kB with outputs (at most 300)"),
        ([code("p", 2, [stream("in /home/somebody/course/a.mp4\n")])], "a path of one machine"),
        ([code("1", 2, tags=["parameters"])], "2 cells tagged 'parameters'"),
        ([code("1/0", 2, [ERROR])], "cell 3: ends in E: x"),
        ([code("1/0", 2, [ERROR], tags=["raises-exception"])], "cell 3: ends in E: x"),
    ],
)
def test_each_fault_is_named(cells, complaint):
    (only,) = found(normalise(book(*cells)))
    assert complaint in only


def test_no_parameters_cell():
    notebook = normalise(book())
    notebook["cells"][1]["metadata"] = {}
    assert found(notebook) == ["0 cells tagged 'parameters' (exactly one is needed)"]


def test_an_unnormalised_file_is_named():
    notebook = book(code("1", 2))
    assert "not normalised" in found(notebook)[-1]


# ---- files and the command


@pytest.mark.parametrize("text", ["", "{", "[]", '{"nbformat": 3, "worksheets": []}'])
def test_what_is_no_notebook_is_refused(tmp_path, text):
    path = tmp_path / "bad.ipynb"
    path.write_text(text)
    with pytest.raises(NotebookError, match=r"bad\.ipynb: not a notebook"):
        read_notebook(path)


def test_a_missing_notebook_is_refused(tmp_path):
    with pytest.raises(NotebookError, match="no such notebook"):
        read_notebook(tmp_path / "none.ipynb")


def test_command_normalises_then_checks(tmp_path, capsys):
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(book(code("1", 2))))
    assert notebooks.main(["check", str(path)]) == 1
    assert notebooks.main(["normalise", str(path)]) == 1
    assert notebooks.main(["normalise", str(path)]) == 0
    assert notebooks.main(["check", str(path)]) == 0
    assert capsys.readouterr().out.count("normalised") == 2


def test_execute_fills_outputs_in_place(tmp_path):
    (tmp_path / "near.txt").write_text("beside me")
    path = tmp_path / "a.ipynb"
    stale = code("print(open('near.txt').read(), scale)", 9, [stream("old\n")])
    path.write_text(json.dumps(book(stale)))
    assert notebooks.main(["execute", str(path)]) == 0
    after = read_notebook(path)
    assert after["cells"][2]["outputs"][0]["text"] == ["beside me 1.0\n"]
    assert found(after) == []


def test_execute_names_the_cell_and_leaves_the_file(tmp_path, capsys):
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(book(code("x = 1"), code("raise ValueError('no such clip')"))))
    before = path.read_text()
    assert notebooks.main(["execute", str(path)]) == 1
    assert capsys.readouterr().out == f"{path}: cell 4: ValueError: no such clip\n"
    assert path.read_text() == before


def test_execute_survives_a_dead_kernel(tmp_path, capsys):
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(book(code("import os; os._exit(9)"))))
    assert notebooks.main(["execute", str(path)]) == 1
    assert "cell 3: DeadKernelError" in capsys.readouterr().out


# ---- nbval: what may differ does, what may not does not


def test_nbval_compares_all_but_times_and_addresses(tmp_path):
    cases = [
        ("took 3.21 s\n", "print('took 3.99 s')", True),
        ("at <Thing at 0x7f00aa00bb00>\n", "print('at <Thing at 0x7fffffffff>')", True),
        ("made 2026-11-02 10:11:12\n", "print('made 2026-12-03 09:08:07')", True),
        ("glows at 3 s\n", "print('glows at 4 s')", False),
        ("accuracy 0.52\n", "print('accuracy 0.53')", False),
    ]
    cells = [code(now, n, [stream(old)]) for n, (old, now, _) in enumerate(cases, start=2)]
    path = tmp_path / "a.ipynb"
    path.write_text(to_text(normalise(book(*cells))))
    config = Path(__file__).with_name("nbval_sanitize.cfg")
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-c", "/dev/null"]
    command += ["--nbval", "--nbval-sanitize-with", str(config), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    passed = [f"Cell {n} PASSED" in done.stdout for n in range(1, len(cases) + 1)]
    assert passed == [same for _, _, same in cases], done.stdout
