"""Made-up chapters and steps, and a run over them, for the tests of the course."""

import io
import time
from pathlib import Path

import psutil

from vlmcourse.course.course import Course
from vlmcourse.course.items import Options
from vlmcourse.course.progress import Progress
from vlmcourse.course.state import choose
from vlmcourse.course.steps import Step
from vlmcourse.notebooks import KERNELSPEC, to_text

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


def gone(pid: int, within_s: float = 20) -> bool:
    """Whether a process ends (a zombie has)."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def number_in(path, within_s: float = 60) -> int:
    until = time.monotonic() + within_s
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return int(path.read_text())
