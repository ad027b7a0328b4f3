"""Where a sweep keeps what it makes, what state each cell is in, and one lock a cell."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from vlmcourse.records import RecordError, read_record
from vlmcourse.sweep.keys import ROOT, located
from vlmcourse.sweep.plan import Cell, Measure, Plan, Train

EXPERIMENTS = Path("experiments")
TOLD = "sweep"
"""Where the settings of a record hold what the sweep says of its cell."""


@dataclass(frozen=True)
class Size:
    """What a quick try changes; a sweep as it is written has neither.

    Attributes:
        scale: multiplies the steps of every training.
        clips: asks about the first so many clips.
    """

    scale: float = 1.0
    clips: int | None = None

    @property
    def name(self) -> str:
        """What a try's folder is called behind the sweep: "" if it is none."""
        parts = [f"scale_{self.scale:g}"] if self.scale != 1 else []
        parts += [f"clips_{self.clips}"] if self.clips is not None else []
        return "-".join(parts)


@dataclass(frozen=True)
class Places:
    """Paths of one sweep.

    Attributes:
        plan: whose.
        size: a try writes all it makes into its own folder under `work`.
        work: folder of logs, locks and tries; None means `runs/sweeps/NAME`.
    """

    plan: Plan
    size: Size = Size()
    work: Path | None = None

    @property
    def own(self) -> Path:
        """Logs and locks; and of a try everything."""
        base = self.work or ROOT / "runs" / "sweeps" / self.plan.name
        return base / self.size.name if self.size.name else base

    @property
    def kept(self) -> Path:
        """The folder that holds `records/` and `answers/`: beside the sweep file, or a try's."""
        return self.own if self.size.name else self.plan.path.parent

    @property
    def trainings(self) -> Path | None:
        """Where a try trains; None: in the ordinary folders of runs."""
        return self.own / "runs" if self.size.name else None

    @property
    def summary(self) -> Path:
        """The record of the whole sweep."""
        return self.kept / "records" / f"{self.plan.name}.json"

    @property
    def table(self) -> Path:
        return self.own / f"{self.plan.name}.md"

    @property
    def figure(self) -> Path:
        return self.kept / "figures" / f"{self.plan.name}.png"

    @property
    def look(self) -> Path:
        """Folder of a look at a sweep that is not over; it never lies beside the sweep file."""
        return self.own / "not_finished"

    def stem(self, cell: Cell, measure: Measure) -> str:
        """SETTING-seedN, with the measure behind it if there are several."""
        several = len(self.plan.measures) > 1
        return f"{cell.name}-{measure.name}" if several else cell.name

    def record(self, cell: Cell, measure: Measure) -> Path:
        return self.kept / "records" / self.plan.name / f"{self.stem(cell, measure)}.json"

    def answers(self, cell: Cell, measure: Measure) -> Path:
        return self.kept / "answers" / self.plan.name / f"{self.stem(cell, measure)}.json"

    def draft(self, cell: Cell, measure: Measure) -> Path:
        """The record before the sweep has added what it knows."""
        return self.own / "drafts" / f"{self.stem(cell, measure)}.json"

    def log(self, cell: Cell) -> Path:
        return self.own / "logs" / f"{cell.name}.log"

    def lock(self, cell: Cell) -> Path:
        return self.own / "locks" / f"{cell.name}.lock"


# ---------------------------------------------------------------- states


class State(StrEnum):
    """What is known of a cell, or of one of its measures, from its record."""

    DONE = "done"
    FAILED = "failed"
    CHANGED = "other settings"  # a record of what the plan said before
    OPEN = "to run"


def key_of(cell: Cell, measure: Measure, size: Size) -> str:
    """A hash of all that the plan and the stage files decide about one measure of a cell.

    What the record tells of itself (data, weights) is compared beside it, in `state_of`.
    """
    told: dict[str, Any] = {
        "seed": cell.seed,
        "train": cell.train and {**asdict(cell.train), "files": stage_settings(cell.train)},
        "run": cell.run,
        "measure": {**asdict(measure), "clips": size.clips or measure.clips},
        "scale": size.scale,
    }
    text = json.dumps(told, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stage_settings(train: Train) -> dict[str, Any]:
    """What the stage files of a training say, by name; their comments do not matter."""
    folder = located(EXPERIMENTS / train.system)
    found = {}
    for path in sorted(folder.glob(f"{train.recipe}_*.yaml")):
        found[path.name] = _read(path, path.stat().st_mtime_ns)
    return found


@lru_cache(maxsize=256)
def _read(path: Path, changed_ns: int) -> Any:
    """What a YAML or JSON file says, read once as long as it is not changed; None if it is
    damaged."""
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return None


def record_of(path: Path) -> dict | None:
    """A record that is there and whole, else None."""
    try:
        return read_record(path)
    except RecordError:
        return None


def state_of(places: Places, cell: Cell, measure: Measure) -> State:
    """Whether one measure of a cell is over, by its record on disk.

    A finished one is whole, was made with the settings of the plan and of the stage files as they
    are now, from the data and the weights that lie on the disk now (where they lie there), and its
    answers lie beside it.
    """
    path = places.record(cell, measure)
    record = record_of(path)
    if record is None:
        return State.CHANGED if path.exists() else State.OPEN
    told = record["settings"].get(TOLD, {})
    if told.get("key") != key_of(cell, measure, places.size):
        return State.CHANGED
    if record["status"] == "failed":
        return State.FAILED
    checksum = data_checksum(located(measure.split))
    if checksum is not None and record["data_checksum"] != checksum:
        return State.CHANGED
    if cell.run is not None and (weights := finished_weights(located(cell.run))):
        asked = record["settings"].get("weights", [])
        if not set(asked) <= weights:
            return State.CHANGED
    return State.DONE if places.answers(cell, measure).is_file() else State.CHANGED


def cell_state(places: Places, cell: Cell) -> State:
    """The worst state of its measures."""
    states = {state_of(places, cell, measure) for measure in cell.measures}
    order = (State.OPEN, State.CHANGED, State.FAILED, State.DONE)
    return next(state for state in order if state in states)


def data_checksum(split: Path) -> str | None:
    """The checksum in a split's manifest; None where there is no such split."""
    return _json(split / "manifest.json").get("data_checksum")


def finished_weights(run: Path) -> set[str]:
    """The settings hashes of the finished stages in a run's folder, or of the stage itself."""
    stages = [run / "stage.json", *run.glob("*/stage.json")]
    return {told["settings_hash"] for told in map(_json, stages) if "settings_hash" in told}


def _json(path: Path) -> Mapping[str, Any]:
    read = _read(path, path.stat().st_mtime_ns) if path.is_file() else None
    return read if isinstance(read, dict) else {}


# ---------------------------------------------------------------- locks


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold a cell's lock, or give False where another process holds it.

    The system takes the lock from a process that dies, however it dies, so none is ever stale.
    Systems without such locks (Windows) have none.
    """
    try:
        import fcntl
    except ImportError:
        yield True
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield True


def is_claimed(path: Path) -> bool:
    """Whether some process works on a cell now."""
    if not path.exists():
        return False
    with claimed(path) as free:
        return not free
