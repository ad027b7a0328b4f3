"""What a sweep is asked for and where it stands, as text; and what would make it end badly."""

from collections.abc import Sequence
from pathlib import Path

from vlmcourse.errors import UserError
from vlmcourse.evaluation.options import value_text
from vlmcourse.sweep.places import (
    EXPERIMENTS,
    TOLD,
    Places,
    State,
    cell_state,
    data_checksum,
    finished_weights,
    is_claimed,
    located,
    record_of,
)
from vlmcourse.sweep.plan import Cell, Plan

SHOWN = 5
"""Most things that a complaint names."""


def chosen_cells(plan: Plan, only: Sequence[str], seeds: Sequence[int] | None) -> list[Cell]:
    """The cells with these values of axes and these seeds.

    Args:
        only: `AXIS=VALUE`; several values of one axis are alternatives.
        seeds: None means all.

    Raises:
        UserError: no such axis, value or seed, or no cell has them all.
    """
    wanted: dict[str, set[str]] = {}
    for word in only:
        axis, equals, text = word.partition("=")
        if not equals or axis not in plan.axes:
            raise UserError(f"--only {word}: AXIS=VALUE of {', '.join(plan.axes)}")
        known = [value_text(value) for value in plan.axes[axis]]
        if text not in known:
            raise UserError(f"--only {word}: the values are {', '.join(known)}")
        wanted.setdefault(axis, set()).add(text)
    if unknown := set(seeds or ()) - set(plan.seeds):
        raise UserError(
            f"--seeds: {min(unknown)} is none of {', '.join(map(str, plan.seeds))} in {plan.path}"
        )
    found = [
        cell
        for cell in plan.cells
        if (not seeds or cell.seed in seeds)
        and all(value_text(cell.setting.values[axis]) in some for axis, some in wanted.items())
    ]
    if not found:
        raise UserError(f"no cell of {plan.path} has {' '.join(only)}")
    return found


def refuse_missing(cells: Sequence[Cell]) -> None:
    """Refuse cells whose data, stage files or runs are not there: each would fail by itself, hours
    from now.

    Raises:
        UserError: what is missing.
    """
    from vlmcourse.systems import CONSTRUCTORS

    missing: dict[str, None] = {}
    for cell in cells:
        for measure in cell.measures:
            if data_checksum(located(measure.split)) is None:
                missing[f"{measure.split} (no such split; `vlmcourse world` makes some)"] = None
        if cell.run is not None and not finished_weights(located(cell.run)):
            missing[f"{cell.run} (no finished run)"] = None
        if cell.train is not None:
            what = cell.train
            if what.system not in CONSTRUCTORS:
                missing[f"system {what.system} (known: {', '.join(CONSTRUCTORS)})"] = None
            pattern = f"{what.recipe}_*.yaml"
            if not list(located(EXPERIMENTS / what.system).glob(pattern)):
                missing[f"{EXPERIMENTS / what.system / pattern} (no stage file)"] = None
    if missing:
        told = "; ".join([*missing][:SHOWN])
        more = f"; and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise UserError(f"the sweep cannot run without {told}{more}")


def listing(places: Places, cells: Sequence[Cell]) -> str:
    """Every cell and its state, a setting a line; then what failed, what is left out, and why."""
    plan = places.plan
    by_setting: dict[str, dict[str, list[str]]] = {}
    for cell in cells:
        state = "running" if is_claimed(places.lock(cell)) else cell_state(places, cell).value
        by_state = by_setting.setdefault(cell.setting.name, {})
        by_state.setdefault(state, []).append(str(cell.seed))
    width = max(map(len, by_setting))
    lines = [f"{plan.title}", f"{plan.question}", ""]
    for name, states in by_setting.items():
        told = "; ".join(f"{state}: seed {', '.join(seeds)}" for state, seeds in states.items())
        lines.append(f"{name:{width}}  {told}")
    lines += ["", counted(places, cells)]
    lines += [f"without {_told(one.combination)}: {one.why}" for one in plan.without]
    lines += failures(places, cells)
    lines += [f"{path}: belongs to no cell of this plan" for path in strangers(places)]
    lines += notices(places)
    return "\n".join(lines)


def _told(combination) -> str:
    return ", ".join(f"{axis} {left}" for axis, left in combination.items())


def counted(places: Places, cells: Sequence[Cell]) -> str:
    """`170 cells (34 settings x 5 seeds): 12 done, 1 failed, 157 to run`."""
    states = [cell_state(places, cell) for cell in cells]
    told = [f"{states.count(one)} {one.value}" for one in State if one in states]
    settings = {cell.setting.name for cell in cells}
    seeds = {cell.seed for cell in cells}
    return f"{len(cells)} cells ({len(settings)} settings, {len(seeds)} seeds): {', '.join(told)}"


def failures(places: Places, cells: Sequence[Cell]) -> list[str]:
    """A line for each failed record, with its error."""
    found = []
    for cell in cells:
        for measure in cell.measures:
            record = record_of(places.record(cell, measure))
            if record and record["status"] == "failed":
                found.append(f"{places.stem(cell, measure)} failed: {record['note']}")
    return found


def strangers(places: Places) -> list[Path]:
    """Records in the sweep's folder that no cell of the plan has made."""
    plan = places.plan
    known = {places.record(cell, measure) for cell in plan.cells for measure in cell.measures}
    folder = places.summary.parent / plan.name
    return [path for path in sorted(folder.glob("*.json")) if path not in known]


def notices(places: Places) -> list[str]:
    """A line where hypotheses were changed after cells had been run."""
    plan, older = places.plan, 0
    for cell in plan.cells:
        records = [record_of(places.record(cell, measure)) for measure in cell.measures]
        told = {one["settings"].get(TOLD, {}).get("hypotheses") for one in records if one}
        older += bool(told - {plan.hypotheses_hash})
    if not older:
        return []
    return [
        f"NOTE: the hypotheses have changed since {older} of {len(plan.cells)} cells were run; "
        "they were not all written before the results"
    ]


def unfinished(places: Places) -> int:
    """How many cells of the whole plan are neither done nor failed."""
    over = (State.DONE, State.FAILED)
    return sum(cell_state(places, cell) not in over for cell in places.plan.cells)
