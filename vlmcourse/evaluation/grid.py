"""`vlmcourse evaluate --grid`: every combination of a few options at test, as one record.

What a budget of tokens is spent on best (more frames, or more pixels of each) is a question about
trained runs as they are: only what they read of a file changes. Cells that are finished are kept
beside the record until it is whole, so a stopped grid goes on where it was.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from vlmcourse.errors import UserError
from vlmcourse.evaluation.conditions import SYSTEM
from vlmcourse.evaluation.options import Grid, cell_name, value_text
from vlmcourse.evaluation.scoring import Bootstrap, groups
from vlmcourse.records import Run, metric_text
from vlmcourse.world.files import whole_file
from vlmcourse.world.language import FAMILIES

if TYPE_CHECKING:
    from vlmcourse.evaluation.asked import Probes
    from vlmcourse.evaluation.evaluation import Evaluation
    from vlmcourse.evaluation.loading import Loaded

CELLS = ".cells"
"""What the folder of finished cells is called behind the name of the record."""
AS_TRAINED = "as_trained"
TOKENS = ("tokens/places", "tokens/video")


@dataclass(frozen=True)
class Cell:
    """One combination that was asked.

    Attributes:
        right: float `[S, Q]`, the exact answer was given.
        costs: metrics of `cost.cost_metrics` that a combination decides.
        seconds: that asking took, loading and looking included.
        commit: of the code that asked.
    """

    right: np.ndarray
    costs: dict[str, dict]
    seconds: float
    commit: str

    def save(self, path: Path) -> None:
        about = json.dumps({**vars(self), "right": None})
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part, open(part, "wb") as file:
            np.savez(file, right=self.right, about=about)

    @staticmethod
    def read(path: Path) -> "Cell | None":
        """A cell that was kept; None if it was not, or is damaged."""
        try:
            with np.load(path, allow_pickle=False) as file:
                return Cell(**{**json.loads(str(file["about"])), "right": file["right"]})
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            return None


def evaluate_grid(
    what: "Evaluation", grid: Grid, record: Path, command: Sequence[str], progress: bool = True
) -> dict:
    """Ask every combination, score, write the record and return it.

    Args:
        what: its controls are not asked; its options hold in every cell.
        grid: of options that none of `what.options` is.

    Raises:
        UserError: as `cli.evaluate`; options that no cell of the grid can have.
    """
    from vlmcourse.evaluation.asked import constant_answers
    from vlmcourse.evaluation.evaluation import INTERVALS
    from vlmcourse.evaluation.loading import load
    from vlmcourse.evaluation.options import refuse_other_weights
    from vlmcourse.training.sources import located

    split = what.sources.load_split()
    first = what.runs[0] and located(what.runs[0])
    changes = [{**what.options, **cell} for cell in grid.cells]
    refuse_other_weights(what.system, first, changes, what.sources.foundations)

    def loaded(cell: Mapping[str, Any], progress: bool = False) -> "Loaded":
        options = {**what.options, **cell}
        return load(what.system, what.runs, split, what.sources, what.given, options, progress)

    one = loaded(grid.cells[0], progress)
    probes, told = one.probes, one.settings
    settings = {
        **{name: value for name, value in told.items() if name != "options"},
        "options": {n: v for n, v in told["options"].items() if n not in grid.axes},
        **what.told,
        "grid": {name: list(values) for name, values in grid.axes.items()},
        "split": str(what.sources.split),
        "clips": len(probes.ids),
        "intervals": INTERVALS,
    }
    seeds = [run.seed for run in one.runs if run.seed is not None]
    with Run(record, list(command), settings, seeds, split.data_checksum) as run:
        kept = _Kept(record, {**settings, "data": split.data_checksum}, _commit(run))
        cells = _asked(grid, loaded, one, kept, progress)
        best = constant_answers(probes.questions, probes.questions).astype(np.float64)[None]
        run.metrics = grid_metrics(cells, best, probes, _as_trained(what, grid, one))
        run.metrics |= {n: v for n, v in one.cost().items() if n.startswith("parameters/")}
        run.status, run.note = _judged(run.metrics, list(cells), len(one.runs), len(probes.ids))
        run.note += kept.note
    kept.forget()
    return run.record()


class _Kept:
    """Finished cells on disk, beside the record that they are for."""

    def __init__(self, record: Path, settings: Mapping[str, Any], commit: str):
        plain = {name: value for name, value in settings.items() if name != "grid"}
        text = json.dumps(plain, sort_keys=True, default=str)
        self.folder, self.commit = record.with_name(f"{record.stem}{CELLS}"), commit
        self._key = hashlib.sha256(text.encode()).hexdigest()[:12]
        self._found: list[Cell] = []

    def find(self, cell: Mapping[str, Any]) -> Cell | None:
        found = Cell.read(self._path(cell))
        self._found += [found] if found else []
        return found

    def keep(self, cell: Mapping[str, Any], made: Cell) -> None:
        made.save(self._path(cell))

    def _path(self, cell: Mapping[str, Any]) -> Path:
        return self.folder / f"{self._key}-{_hash(cell_name(cell))}.npz"

    @property
    def note(self) -> str:
        """A sentence for the record's note, where cells of an earlier start were used."""
        if not self._found:
            return ""
        commits = sorted({one.commit[:7] for one in self._found} - {self.commit[:7]})
        at = f", at commit {', '.join(commits)}" if commits else ""
        return f" Cells kept from an earlier start: {len(self._found)}{at}."

    def forget(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _commit(run: Run) -> str:
    from vlmcourse.measure import commit

    return commit(run.root)[0]


def _asked(grid: Grid, loaded, one: "Loaded", kept: _Kept, progress: bool) -> dict[str, Cell]:
    """Every cell by its name, from disk or asked now."""
    from vlmcourse.evaluation.probes import ask_all

    found, count = {}, len(one.runs)
    with tqdm(total=count * len(grid.cells), unit="pass", disable=not progress) as bar:
        for number, options in enumerate(grid.cells):
            name = cell_name(options)
            bar.set_description(name)
            before, start = kept.find(options), time.perf_counter()
            if before is not None:
                found[name] = before
                bar.total -= count  # what was kept tells nothing about the minutes left
                bar.refresh()
                continue
            side = one if number == 0 else loaded(options)
            answers = ask_all(
                side.models,
                side.probes,
                [SYSTEM],
                report=lambda _: bar.update(),
                seen_by=side.seen_by,
            )
            costs = {n: v for n, v in side.cost().items() if n in TOKENS}
            seconds = round(time.perf_counter() - start, 1)
            found[name] = Cell(answers.right[SYSTEM], costs, seconds, kept.commit)
            kept.keep(options, found[name])
    return found


def _as_trained(what: "Evaluation", grid: Grid, one: "Loaded") -> str | None:
    """The name of the cell that asks as was trained, if there is one."""
    from vlmcourse.systems import build
    from vlmcourse.training.weights import read_stage

    about = read_stage(one.runs[0].folder)
    trained = about.settings.get("model", {}).get("options") or {}
    config = build(what.system, "world", "cpu", what.sources.foundations, **trained).config
    for cell in grid.cells:
        asked = {**what.options, **cell}
        if all(getattr(config, name, None) == value for name, value in asked.items()):
            return cell_name(cell)
    return None


def grid_metrics(
    cells: Mapping[str, Cell], best: np.ndarray, probes: "Probes", trained: str | None = None
) -> dict[str, dict]:
    """Turn the answers of all cells into the metrics of a record.

    Args:
        cells: name -> what was answered; the same questions and runs in each.
        best: `[1, Q]`, whether the best constant answer is right.
        probes: the questions.
        trained: the cell that asks as was trained.

    Returns:
        `best_constant/GROUP`; and of every cell `CELL/GROUP` ("all" and the families that are
        asked), `CELL/gain_over_as_trained/GROUP` (paired by clip and run), `CELL/tokens/video`,
        `CELL/tokens/places` (means of the clips) and `CELL/seconds`.
    """
    bootstrap, sets = Bootstrap(probes.clip_of), groups(probes.questions)
    sets = {n: x for n, x in sets.items() if n in ("all", *FAMILIES) and x.any()}
    found = {f"best_constant/{n}": bootstrap.metric(best, x) for n, x in sets.items()}
    for name, cell in cells.items():
        found |= {f"{name}/{n}": bootstrap.metric(cell.right, x) for n, x in sets.items()}
        if trained is not None and name != trained:
            gain = cell.right - cells[trained].right
            found |= {
                f"{name}/gain_over_{AS_TRAINED}/{n}": bootstrap.metric(gain, x, True)
                for n, x in sets.items()
            }
        found |= {f"{name}/{n}": value for n, value in cell.costs.items()}
        told = {"n": 1, "mean": cell.seconds, "low": None, "high": None, "unit": "s"}
        found[f"{name}/seconds"] = told
    return found


def _judged(metrics: Mapping[str, dict], cells: Sequence[str], runs: int, clips: int):
    """Status and note: the best cell, and the cheapest that is not shown to be worse."""
    from vlmcourse.evaluation.runs import only_a_look

    best = max(cells, key=lambda name: metrics[f"{name}/all"]["mean"])
    floor = metrics[f"{best}/all"]["low"]
    level = [n for n in cells if floor is None or (metrics[f"{n}/all"]["high"] or 0) >= floor]
    cheap = min(level, key=lambda name: metrics[f"{name}/tokens/video"]["mean"])
    told = [
        f"{name} ({metric_text(metrics[f'{name}/all'])}, "
        f"{metrics[f'{name}/tokens/video']['mean']:.0f} tokens a clip)"
        for name in (best, cheap)
    ]
    note = f"Best of all questions: {told[0]}."
    if cheap != best:
        note += f" Cheapest whose interval meets its: {told[1]}."
    above = (floor or 0) > metrics["best_constant/all"]["mean"]
    return ("ok" if above else "negative"), note + only_a_look(runs, clips)


# ---------------------------------------------------------------- reading a record


def grid_of(record: dict) -> Grid:
    """The axes of a record of `evaluate_grid`."""
    return Grid({name: tuple(values) for name, values in record["settings"]["grid"].items()})


def grid_cells(record: dict, name: str = "all") -> dict[str, dict]:
    """A metric of every cell of a record: cell -> metric.

    Args:
        name: "all", a family, "tokens/video", ...
    """
    cells = [cell_name(cell) for cell in grid_of(record).cells]
    return {cell: record["metrics"][f"{cell}/{name}"] for cell in cells}


def heat_values(record: dict, groups: Sequence[str]) -> dict[str, Any]:
    """What `figures.heat.heat_map` draws of a record of two axes, as its keyword arguments.

    Args:
        groups: a panel each: "all", families; those that are not asked stay out.

    Raises:
        UserError: the record has more axes, or one.
    """
    axes = grid_of(record).axes
    if len(axes) != 2:
        raise UserError(f"{record['id']}: a map has two axes, not {', '.join(axes)}")
    (row_label, rows), (column_label, columns) = axes.items()
    known = [g for g in groups if f"best_constant/{g}" in record["metrics"]]

    def table(name: str) -> list[list[dict]]:
        flat = list(grid_cells(record, name).values())
        return [flat[start : start + len(columns)] for start in range(0, len(flat), len(columns))]

    return {
        "panels": {group: table(group) for group in known},
        "rows": [value_text(value) for value in rows],
        "columns": [value_text(value) for value in columns],
        "row_label": row_label.replace("_", " "),
        "column_label": column_label.replace("_", " "),
        "tokens": [[cell["mean"] for cell in line] for line in table("tokens/video")],
        "chance": {g: record["metrics"][f"best_constant/{g}"]["mean"] for g in known},
    }


def grid_table(record: dict) -> str:
    """Cells down; tokens, all questions and the families across, as Markdown."""
    grid, metrics = grid_of(record), record["metrics"]
    cells = [(cell, cell_name(cell)) for cell in grid.cells]
    start = f"{cells[0][1]}/"
    families = [name for name in FAMILIES if f"{start}{name}" in metrics]
    heads = [*grid.axes, "tokens a clip", "all", *families]
    lines = [heads, ["--:"] * len(heads)]
    for cell, name in cells:
        tokens = metrics[f"{name}/tokens/video"]["mean"]
        texts = [metric_text(metrics[f"{name}/{group}"]) for group in ("all", *families)]
        shares = [text.replace(" % (", " (") for text in texts]
        lines.append([*map(value_text, cell.values()), f"{tokens:.0f}", *shares])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
