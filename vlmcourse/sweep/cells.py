"""One cell of a sweep in a process of its own: train what is not trained, ask what is not asked.

python -m vlmcourse.sweep.cells experiments/ablations/NAME.yaml SETTING-seed0
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmcourse.errors import UserError
from vlmcourse.intervals import metric
from vlmcourse.measure import Cost
from vlmcourse.processes import leave_with_parent, stopped_by_signals
from vlmcourse.record_form import settings_hash, without_machine
from vlmcourse.records import Run, read_record, write_record
from vlmcourse.sweep.places import (
    ROOT,
    TOLD,
    Places,
    Size,
    State,
    claimed,
    data_checksum,
    key_of,
    located,
    record_of,
    state_of,
)
from vlmcourse.sweep.plan import Cell, Measure, Plan, read_plan

log = logging.getLogger(__name__)

DONE, FAILED, BUSY, MOVED = 0, 1, 75, 76
"""How the process of a cell ends. BUSY: another process works on the cell; MOVED: the files say
something else of it than when the sweep began it."""
LONGEST_NOTE = 400
PROGRAM = (sys.executable, "-m", "vlmcourse.sweep.cells")
"""What runs one cell in a process of its own."""


@dataclass(frozen=True)
class Work:
    """How cells are run.

    Attributes:
        places: of which sweep, and where things go.
        device: "auto", "cpu" or "cuda".
        retry_before: cells that failed before this moment (seconds of the epoch) are tried again.
    """

    places: Places
    device: str = "auto"
    retry_before: float = 0.0

    @property
    def plan(self) -> Plan:
        return self.places.plan

    def to_do(self, cell: Cell) -> list[Measure]:
        """The measures of a cell that are not over."""
        return [measure for measure in cell.measures if self.is_open(cell, measure)]

    def is_open(self, cell: Cell, measure: Measure) -> bool:
        """Whether a measure is to be run, now or again."""
        state = state_of(self.places, cell, measure)
        if state is not State.FAILED:
            return state is not State.DONE
        return self.places.record(cell, measure).stat().st_mtime < self.retry_before

    def keys(self, cell: Cell) -> dict[str, str]:
        """Of each measure of a cell, the key that its record will hold (`places.key_of`)."""
        return {one.name: key_of(cell, one, self.places.size) for one in cell.measures}

    def command(self, cell: Cell) -> list[str]:
        """`PROGRAM` and its words."""
        size, keys = self.places.size, self.keys(cell).values()
        words = [*PROGRAM, str(self.plan.path), cell.name, f"--scale={size.scale}"]
        words += [f"--keys={','.join(keys)}"]
        words += [f"--device={self.device}", f"--retry-before={self.retry_before}"]
        words += [f"--clips={size.clips}"] if size.clips is not None else []
        return words + ([f"--out={self.places.work}"] if self.places.work else [])


# ---------------------------------------------------------------- what a cell does


@dataclass(frozen=True)
class Trained:
    """A finished training, or a finished run that was named.

    Attributes:
        folder: what `vlmcourse evaluate --runs` takes.
        system: whose weights these are.
        metrics: what the training cost, where it belongs to the cell.
        stages: name -> hash of the settings of each stage that was trained.
    """

    folder: Path
    system: str
    metrics: dict[str, dict]
    stages: dict[str, str]


def train(work: Work, cell: Cell) -> Trained:
    """Train as `vlmcourse train` does: finished stages are reused, killed ones go on."""
    if cell.train is None:
        from vlmcourse.evaluation.runs import system_of

        folder = Path(cell.run)
        return Trained(folder, system_of(folder), {}, {})
    from vlmcourse.training.runner import run_stages, variant
    from vlmcourse.training.settings import as_options
    from vlmcourse.training.weights import read_stage

    what, out = cell.train, None
    if work.places.trainings is not None:
        changed = variant(as_options(what.overrides), what.init_from)
        name = "-".join(filter(None, (what.recipe, changed)))
        out = work.places.trainings / what.system / f"{name}-seed{cell.seed}"
    stages = run_stages(
        what.system, what.recipe, cell.seed, out, what.stages, what.overrides, work.device,
        work.places.size.scale, init_from=what.init_from,
    )  # fmt: skip
    hashes = {one.name: read_stage(one.folder).settings_hash for one in stages}
    return Trained(stages[-1].folder, what.system, training_metrics(stages), hashes)


def training_metrics(stages: Sequence) -> dict[str, dict]:
    """What all stages of a training cost together, reused ones included."""
    found = dict.fromkeys(("minutes", "steps", "gflop"), 0.0)
    records = [record_of(stage.record) for stage in stages]
    for stage in stages:
        told = {name: value["mean"] for name, value in stage.metrics.items()}
        found["minutes"] += told["train_seconds"] / 60
        found["steps"] += told["steps"]
        found["gflop"] += told["steps"] * told.get("gflop_per_step", float("nan"))
    last = stages[-1].metrics
    made = {
        "train/minutes": metric([round(found["minutes"], 3)], "min"),
        "train/steps": metric([found["steps"]]),
        **{f"train/{n}": last[n] for n in ("parameters_trained", "loss") if n in last},
    }
    if found["gflop"] == found["gflop"]:
        made["train/gflop"] = metric([round(found["gflop"], 1)], "GFLOP")
    if all(records):
        cpu = sum(one["cpu_s"] for one in records) / 60
        made["train/cpu_minutes"] = metric([round(cpu, 3)], "min")
        made["train/peak_mib"] = metric([max(one["peak_mib"] for one in records)], "MiB")
    return made


def ask(work: Work, cell: Cell, measure: Measure, trained: Trained, command: list[str]) -> dict:
    """Ask as `vlmcourse evaluate` does; returns the record, a draft for the sweep."""
    from vlmcourse.evaluation.evaluation import Evaluation, evaluate
    from vlmcourse.evaluation.loading import Sources

    clips = work.places.size.clips or measure.clips
    sources = Sources(
        Path(measure.split), clips, device=work.device, families=measure.families or ()
    )
    what = Evaluation(
        trained.system, (trained.folder,), sources, measure.train and Path(measure.train),
        measure.given, measure.controls, measure.permutations, dict(measure.set),
    )  # fmt: skip
    draft, answers = work.places.draft(cell, measure), work.places.answers(cell, measure)
    for path in (draft, answers):
        path.parent.mkdir(parents=True, exist_ok=True)
    evaluate(what, draft, command, progress=False, answers=answers)
    return read_record(draft)


def run_cell(work: Work, cell: Cell, keys: Sequence[str] | None = None) -> int:
    """Run what is open of a cell and leave a record of each measure.

    Whatever goes wrong stands in a record of status "failed". A stop leaves no record.

    Args:
        keys: those that the cell is expected to have.

    Returns:
        `DONE`, `FAILED`, `BUSY` or `MOVED`.
    """
    with claimed(work.places.lock(cell)) as mine:
        if not mine:
            return BUSY
        if keys is not None and list(keys) != list(work.keys(cell).values()):
            return MOVED
        to_do = work.to_do(cell)
        if to_do:
            _run(work, cell, to_do, work.keys(cell))
        states = {state_of(work.places, cell, measure) for measure in cell.measures}
    return DONE if states == {State.DONE} else FAILED


def _run(work: Work, cell: Cell, to_do: Sequence[Measure], keys: Mapping[str, str]) -> None:
    start = time.perf_counter()
    try:
        trained = train(work, cell)
    except (Exception, SystemExit) as error:
        _fail(work, cell, to_do, error, start, keys)
        return
    for measure in to_do:
        try:
            record = ask(work, cell, measure, trained, sweep_command(work, cell))
            told = told_settings(work, cell, measure, keys[measure.name])
            keep(work, cell, measure, trained, record, told, time.perf_counter() - start)
        except (Exception, SystemExit) as error:
            _fail(work, cell, [measure], error, start, keys)
        start = time.perf_counter()


def _fail(work: Work, cell: Cell, measures, error: BaseException, start: float, keys) -> None:
    log.error("%s failed", cell.name, exc_info=error)
    spent, why = time.perf_counter() - start, f"{type(error).__name__}: {error}"
    for measure in measures:
        write_failed(work, cell, measure, why, spent, keys[measure.name])


# ---------------------------------------------------------------- records


def told_settings(work: Work, cell: Cell, measure: Measure, key: str) -> dict[str, Any]:
    """What every record of the sweep says of its cell."""
    size = work.places.size
    told = {
        "name": work.plan.name,
        "key": key,
        "setting": dict(cell.setting.values),
        "seed": cell.seed,
        "measure": measure.name,
        "written": work.plan.written,
        "hypotheses": work.plan.hypotheses_hash,
    }
    tried = {"scale": size.scale, "clips": size.clips} if size.name else {}
    return {**told, **tried}


def sweep_command(work: Work, cell: Cell) -> list[str]:
    """What a reader repeats one cell with."""
    only = [f"--only={axis}={value}" for axis, value in cell.setting.values.items()]
    size = work.places.size
    tried = [f"--scale={size.scale:g}"] if size.scale != 1 else []
    tried += [f"--clips={size.clips}"] if size.clips is not None else []
    return ["vlmcourse", "sweep", str(work.plan.path), *only, f"--seeds={cell.seed}", *tried]


def keep(
    work: Work,
    cell: Cell,
    measure: Measure,
    trained: Trained,
    record: dict,
    told: dict[str, Any],
    spent_s: float,
) -> None:
    """Add to a draft what the sweep knows, and put it where the sweep's records are."""
    told = {TOLD: told}
    told |= {"trained": trained.stages} if trained.stages else {}
    settings = {**record["settings"], **_as_read(told)}
    minutes = {"cell/minutes": metric([round(spent_s / 60, 4)], "min")}
    record = {
        **record,
        "seeds": [cell.seed],
        "settings": settings,
        "settings_hash": settings_hash(settings),
        "metrics": {**record["metrics"], **trained.metrics, **minutes},
    }
    write_record(work.places.record(cell, measure), record)
    work.places.draft(cell, measure).unlink(missing_ok=True)


def _as_read(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they are read again from JSON, without paths of this machine."""
    text = json.dumps(settings, ensure_ascii=False, default=str)
    return json.loads(without_machine(text, ROOT))


def write_failed(
    work: Work, cell: Cell, measure: Measure, why: str, spent_s: float, key: str
) -> None:
    """Leave a record of status "failed", with the error and the log in its note."""
    settings = {TOLD: told_settings(work, cell, measure, key)}
    checksum = data_checksum(located(measure.split))
    path = work.places.record(cell, measure)
    run = Run(path, sweep_command(work, cell), _as_read(settings), [cell.seed], checksum)
    run.cost = Cost()
    run.cost.wall_s, run.cost.cpu_s = round(spent_s, 3), 0.0
    run.cost.peak_mib, run.cost.peak_gpu_mib = 0.0, None
    why = " ".join(why.split())
    why = why if len(why) <= LONGEST_NOTE else f"{why[:LONGEST_NOTE]}..."
    run.status, run.note = "failed", f"{why} (log: {work.places.log(cell)})"
    write_record(path, run.record())


# ---------------------------------------------------------------- the process


def main(argv: list[str] | None = None) -> int:
    """Run one cell; ends with the process that started it."""
    parser = argparse.ArgumentParser(prog="python -m vlmcourse.sweep.cells", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("cell")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--clips", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--retry-before", type=float, default=0.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--keys", help="that the cell is expected to have, with commas")
    args = parser.parse_args(argv)
    leave_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    plan = read_plan(args.file)
    cells = {cell.name: cell for cell in plan.cells}
    if args.cell not in cells:
        log.error("%s: no cell %s", args.file, args.cell)
        return MOVED
    places = Places(plan, Size(args.scale, args.clips), args.out)
    work = Work(places, args.device, args.retry_before)
    with stopped_by_signals():
        return run_cell(work, cells[args.cell], args.keys and args.keys.split(","))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as mistake:
        sys.stderr.write(f"error: {mistake}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
