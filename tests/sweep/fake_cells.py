"""Runs a cell as `vlmcourse.sweep.cells` does, with a training and questions that take no time.

What goes wrong, and how long it takes, is told by the JSON in FAKE: `seconds` of a training, those
of `slow` cells, cells that `fail`, cells that `die`; a training adds a line to the file `journal`.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from vlmcourse.intervals import metric
from vlmcourse.records import Run, read_record
from vlmcourse.sweep import cells
from vlmcourse.sweep.places import data_checksum


def train(work, cell):
    told = json.loads(os.environ.get("FAKE", "{}"))
    if journal := told.get("journal"):
        with open(journal, "a", encoding="utf-8") as file:
            file.write(f"{cell.name} {os.getpid()}\n")
    time.sleep(told.get("slow", {}).get(cell.name, told.get("seconds", 0)))
    if cell.name in told.get("fail", ()):
        raise ValueError("the loss is not a number")
    if cell.name in told.get("die", ()):
        os.kill(os.getpid(), signal.SIGKILL)
    return cells.Trained(Path("runs/fake"), "fake", {}, {"questions": "abc"})


def ask(work, cell, measure, trained, command):
    draft, answers = work.places.draft(cell, measure), work.places.answers(cell, measure)
    settings, checksum = {"system": trained.system}, data_checksum(Path(measure.split))
    with Run(draft, command, settings, [cell.seed], checksum) as run:
        run.metrics["system/all"] = metric([0.5], "share")
    answers.parent.mkdir(parents=True, exist_ok=True)
    answers.write_text("{}", encoding="utf-8")
    return read_record(draft)


if __name__ == "__main__":
    cells.train, cells.ask = train, ask
    sys.exit(cells.main())
