"""Quick stand-ins for what the course runs: Python as a step, a copy as an executed chapter."""

import sys

import pytest

from vlmcourse.course import items
from vlmcourse.course.course import Course
from vlmcourse.course.items import Workplace

COPY = """
import json, os, shutil, sys
told = json.loads(sys.argv[2])
with open(os.path.join(told["output"], "executed.txt"), "a") as file:
    file.write(os.path.basename(told["source"])[:2] + " ")
shutil.copy(told["source"], told["output"])
error = "cell 3: no" if "1/0" in open(told["source"]).read() else ""
with open(told["result"], "w") as file:
    json.dump({"error": error, "figures": []}, file)
"""


@pytest.fixture
def python_steps(monkeypatch):
    """Let a step's command be Python's own options."""

    def command(self, wanted):
        device, scale = self.options.device or "cpu", self.options.scale or 1.0
        return [
            word.replace("{device}", device).replace("{scale}", str(scale))
            for word in wanted.command
        ]

    monkeypatch.setattr(Workplace, "step_command", command)
    monkeypatch.setattr(Course, "launcher", (sys.executable,))


@pytest.fixture
def copied_chapters(monkeypatch):
    """Copy a chapter instead of executing it, and add its number to `executed.txt`; one with 1/0
    in it fails."""
    monkeypatch.setattr(items, "LAUNCHER", (sys.executable, "-c", COPY))
