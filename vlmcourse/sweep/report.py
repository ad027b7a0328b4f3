"""The end of a sweep: one record of all its cells, its tables as Markdown, one figure.

The record holds the means of every setting with their intervals, what the settings cost, and every
hypothesis with its verdict. Its settings describe its own tables (`tables`), which README and
notebooks show between `<!-- table:NAME.settings -->` markers; texts that are no metrics stand under
`told`. What failed is listed, with its error, and counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmcourse.errors import UserError
from vlmcourse.evaluation.answer_bits import AnswerFile
from vlmcourse.evaluation.conditions import CONSTANT, FROZEN, SYSTEM
from vlmcourse.intervals import metric
from vlmcourse.records import Run, markdown_table
from vlmcourse.sweep.pairwise import all_pairs, axis_of_names
from vlmcourse.sweep.picture import axis_text, setting_text, sweep_figure
from vlmcourse.sweep.results import Cell, SettingResult, read_results
from vlmcourse.sweep.statistics import (
    ALPHA,
    DRAWS_OF_MEANS,
    Quantity,
    as_metric,
    draw,
    mean_of,
)
from vlmcourse.sweep.verdicts import Outcome, answered, judge, summary, verdict_counts
from vlmcourse.world.language import FAMILIES

if TYPE_CHECKING:
    from vlmcourse.sweep.plan import Plan

__all__ = ["Cell", "sweep_tables", "write_report"]

COSTS = ("tokens/", "parameters/", "train/", "cell/", "compute/")
"""Beginnings of the names of metrics of a cell that tell what it cost."""
SAME_FOR_ALL = CONSTANT + FROZEN
"""Conditions in which no trained run plays a part."""
APART = ("kind/", "second/", "size/", "area/", "evidence/")
"""Groups that the record leaves to the files of answers, if no hypothesis is about them."""
AT_ONCE = 400
METHOD = (
    "95 %: clips drawn again, runs by Student's t (sweep/statistics.py); of hypotheses corrected "
    "by Holm over all of them"
)
DIFFERENCE, FAILED, PAIR = "hypothesis", "failed", "pair"


def write_report(
    plan: "Plan",
    cells: Iterable[Cell],
    record: Path,
    command: Sequence[str],
    figure: Path | None = None,
    table: Path | None = None,
) -> dict:
    """Judge a sweep from the files of its cells; write its record and return it.

    Args:
        plan: the sweep.
        cells: all that it asks for, finished or not.
        record: path of the record; its stem is the name of the sweep.
        command: what was called.
        figure: path of a PNG, if one is wanted and anything is finished.
        table: path of a Markdown file with the tables.

    Raises:
        UserError: there is no setting, or runs of one setting were not asked the same.
    """
    results = read_results(cells)
    if not results:
        raise UserError(f"{plan.path}: nothing to report, the sweep has no cells")
    done = [file for one in results.values() for file in one.finished.values()]
    checksums = sorted({file.data_checksum or "" for file in done})
    name = record.stem
    with Run(
        record, list(command), _settings(plan), plan.seeds, checksums[0] if done else None
    ) as run:
        if missing := missing_runs(results):
            run.settings["title"] += f" (not finished: {missing} runs are missing)"
        outcomes = judge(plan, results)
        run.metrics = setting_metrics(plan, results) | _hypothesis_metrics(outcomes)
        if axis := axis_of_names(plan.axes):
            run.metrics |= pair_metrics(plan, results, axis)
            run.settings["pairs"] = {"axis": axis, "group": "all", "corrected": "Holm, all pairs"}
        run.settings |= {"data": checksums} if len(checksums) > 1 else {}
        run.settings |= {
            "told": _told(plan, results, outcomes),
            "tables": _tables(name, plan, results, outcomes, run.metrics),
        }
        run.status, run.note = ("ok" if done else "failed"), _note(plan, results, outcomes)
    made = run.record()
    if figure is not None and done:
        from vlmcourse.figures.style import png_bytes

        figure.parent.mkdir(parents=True, exist_ok=True)
        figure.write_bytes(png_bytes(sweep_figure(made)))
    if table is not None:
        table.parent.mkdir(parents=True, exist_ok=True)
        text = (
            f"# {made['settings']['title']}\n\n{plan.question}\n\n{made['note']}\n\n"
            f"{sweep_tables(made)}\n"
        )
        table.write_text(text, encoding="utf-8")
    return made


def _settings(plan: "Plan") -> dict[str, Any]:
    """What a record tells of the plan."""
    return {
        "title": plan.title,
        "question": plan.question,
        "written": plan.written,
        "axes": {name: list(values) for name, values in plan.axes.items()},
        "settings": {one.name: dict(one.values) for one in plan.settings},
        "measures": [one.name for one in plan.measures],
        "hypotheses": {one.name: asdict(one) for one in plan.hypotheses},
        "hypotheses_hash": plan.hypotheses_hash,
        "alpha": ALPHA,
        "intervals": METHOD,
    }


# ---------------------------------------------------------------- metrics


def setting_metrics(
    plan: "Plan", results: Mapping[tuple[str, str], SettingResult]
) -> dict[str, dict]:
    """Means with intervals of every setting, and what it cost.

    Returns:
        `SETTING/GROUP` ("all", families, shapes, scenes, rates of false answers), for a
        control `SETTING/CONDITION/GROUP` ("all" and the groups of the hypotheses), where no trained
        run plays a part `CONDITION/GROUP` once for all; `SETTING/runs`, and means over runs of what
        it cost (`SETTING/tokens/video`, `SETTING/train/minutes`). With several measures MEASURE/
        stands before each. `minutes`: of all cells together.
    """
    found: dict[str, dict] = {}
    for measure in dict.fromkeys(name for _, name in results):
        start = f"{measure}/" if len(plan.measures) > 1 else ""
        here = [one for (_, name), one in results.items() if name == measure]
        wanted = {one.group for one in plan.hypotheses if one.measure == measure}
        files = {one.setting: one.answers for one in here if one.finished}
        for name, value in _means(files, wanted).items():
            found[f"{start}{name}"] = value
        for one in here:
            done, asked = len(one.finished), one.asked
            runs = {"n": asked, "mean": done, "low": None, "high": None, "unit": f"of {asked}"}
            found[f"{start}{one.setting}/runs"] = runs
            for name, value in _costs(list(one.records.values())).items():
                found[f"{start}{one.setting}/{name}"] = value
    return found | spent_minutes(results.values())


def spent_minutes(results: Iterable[SettingResult]) -> dict[str, dict]:
    """What all finished cells took together, where they tell it: by the clock, other work on the
    machine included, and of the processor, every training once and stages that were reused too."""
    cells = [(r.setting, seed, one) for r in results for seed, one in r.records.items()]
    clock = [one["metrics"].get("cell/minutes", {}).get("mean") for *_, one in cells]
    clock = [minutes for minutes in clock if minutes is not None]
    trained = {
        (setting, seed): one["metrics"].get("train/cpu_minutes", {}).get("mean")
        for setting, seed, one in cells
        if "train/minutes" in one["metrics"]
    }
    found = {}
    if clock:
        found["minutes"] = _sum_of(clock)
    if None not in trained.values():
        asked = [(one.get("cpu_s") or 0.0) / 60 for *_, one in cells]
        found["cpu_minutes"] = _sum_of([*asked, *trained.values()], len(asked))
    return found


def _sum_of(minutes: Sequence[float], count: int | None = None) -> dict:
    n = len(minutes) if count is None else count
    return {"n": n, "mean": round(sum(minutes), 2), "low": None, "high": None, "unit": "min"}


def _means(files: Mapping[str, AnswerFile], wanted: set[str]) -> dict[str, dict]:
    """Means of all settings under one measure, by the part of the name behind the measure."""
    shared = {name: _shared(files.values(), name) for name in SAME_FOR_ALL}
    every = [(f"{name}/", file, name) for name, file in shared.items() if file is not None]
    for setting, file in files.items():
        for name in file.right:
            if shared.get(name) is None:
                every.append((f"{setting}/" + (f"{name}/" if name != SYSTEM else ""), file, name))
    asked: dict[str, Quantity] = {}
    for start, file, condition in every:
        for group in _groups(file, condition, wanted):
            asked[f"{start}{group}"] = mean_of(answered(file, group, condition))
    names, found = list(asked), {}
    for first in range(0, len(names), AT_ONCE):
        some = names[first : first + AT_ONCE]
        drawn = draw([asked[name] for name in some], DRAWS_OF_MEANS)
        found |= {n: as_metric(asked[n], drawn[:, place]) for place, n in enumerate(some)}
    return found


def _groups(file: AnswerFile, condition: str, wanted: set[str]) -> list[str]:
    """Groups that a record tells of: of controls only "all" and those of the hypotheses."""
    brief, rates = condition not in (SYSTEM, *SAME_FOR_ALL), condition in file.opposite
    return [
        name
        for name, chosen in file.questions.sets.items()
        if chosen.any()
        and (rates or "hallucination/" not in name)
        and (name in {"all", *wanted} or not (brief or name.startswith(APART)))
    ]


def _shared(files: Iterable[AnswerFile], condition: str) -> AnswerFile | None:
    """The answers under a condition as one run, if all settings have the same; else None."""
    files = list(files)
    if not files or not all(condition in file.right for file in files):
        return None
    first = files[0]
    rows = [row for file in files for row in file.right[condition]]
    alike = all(x.questions.checksum == first.questions.checksum for x in files)
    if not alike or not all(np.array_equal(row, rows[0]) for row in rows):
        return None
    tables = {
        name: {condition: table[condition][:1]}
        for name, table in (("right", first.right), ("opposite", first.opposite))
        if condition in table
    }
    return AnswerFile(first.questions, tables["right"], tables.get("opposite", {}), path=first.path)


def _costs(records: Sequence[dict]) -> dict[str, dict]:
    """Means over the runs of what they cost."""
    names = dict.fromkeys(n for record in records for n in record["metrics"] if n.startswith(COSTS))
    found = {}
    for name in names:
        values = [r["metrics"][name] for r in records if name in r["metrics"]]
        known = [value["mean"] for value in values if value["mean"] is not None]
        found[name] = metric(known, values[0]["unit"], kind="seeds")
        if known and max(known) == min(known):  # counted, not measured
            found[name] |= {"low": None, "high": None}
    return found


def _hypothesis_metrics(outcomes: Sequence[Outcome]) -> dict[str, dict]:
    """`hypothesis/NAME`: the difference, its interval corrected; `hypothesis/NAME/p`: corrected."""
    found = {}
    for one in outcomes:
        name = f"{DIFFERENCE}/{one.hypothesis.name}"
        found[name] = one.metric
        told = {"n": int(one.p is not None), "mean": one.p, "low": None, "high": None, "unit": ""}
        found[f"{name}/p"] = told
    return found


def pair_metrics(
    plan: "Plan", results: Mapping[tuple[str, str], SettingResult], axis: str
) -> dict[str, dict]:
    """`pair/A/B`, both of them names of settings: the difference in all questions, its interval
    corrected for all pairs; with several measures MEASURE/ stands before each."""
    found = {}
    for measure in dict.fromkeys(name for _, name in results):
        start = f"{measure}/" if len(plan.measures) > 1 else ""
        for one in all_pairs(plan, results, axis, measure):
            found[f"{start}{PAIR}/{one.a}/{one.b}"] = one.metric
    return found


# ---------------------------------------------------------------- words and tables


def _told(
    plan: "Plan", results: Mapping[tuple[str, str], SettingResult], outcomes: Sequence[Outcome]
) -> dict[str, str]:
    """Texts of the tables: the whole sweep in a few words, then verdicts, reasons and errors, by
    names as metrics have them."""
    done, asked = (sum(x) for x in zip(*((len(r.finished), r.asked) for r in results.values())))
    found = {
        "question": plan.question,
        "runs": f"{done} of {asked}, {len(plan.seeds)} seeds",
        "verdicts": verdict_counts(outcomes),
    }
    for one in outcomes:
        name, what = f"{DIFFERENCE}/{one.hypothesis.name}", one.hypothesis
        told = {
            "verdict": one.verdict, "why": one.why, "runs": one.runs_text, "source": what.source,
            "sides": sides_text(what), "clips": str(one.clips), "expected": what.expect,
        }  # fmt: skip
        found |= {f"{name}/{key}": text for key, text in told.items() if text}
    for one in results.values():
        for seed, error in one.failed.items():
            found[f"{FAILED}/{one.setting}-seed{seed}/{one.measure}"] = error
    return found


def sides_text(one) -> str:
    """The two sides of a hypothesis in words: `qformer - pooling, tokens 8 (order)`."""

    def side(values: Mapping[str, Any]) -> str:
        return ", ".join(axis_text(axis, value) for axis, value in values.items())

    b = one.control.replace("_", " ") if one.control else side(one.b)
    where = f", {side(one.where)}" if one.where else ""
    return f"{side(one.a) or 'every setting'} − {b}{where} ({one.group.replace('_', ' ')})"


def _tables(
    name: str,
    plan: "Plan",
    results: Mapping[tuple[str, str], SettingResult],
    outcomes: Sequence[Outcome],
    metrics: Mapping[str, dict],
) -> dict[str, dict]:
    """Descriptions of the tables, as experiments/tables.yaml has them."""
    found = {}
    for measure in dict.fromkeys(measure for _, measure in results):
        start = f"{measure}/" if len(plan.measures) > 1 else ""
        rows = {setting_text(one.values): f"{name}#{start}{one.name}" for one in plan.settings}
        for condition in SAME_FOR_ALL:
            if f"{start}{condition}/all" in metrics:
                rows[condition.replace("_", " ")] = f"{name}#{start}{condition}"
        parts = [f"{start}{one.name}" for one in plan.settings]
        known = [g for g in ("all", *FAMILIES) if any(f"{p}/{g}" in metrics for p in parts)]
        columns = {"runs": "runs", **{group.replace("_", " "): group for group in known}}
        for label, cost in (("tokens", "tokens/video"), ("training", "train/minutes")):
            if any(f"{part}/{cost}" in metrics for part in parts):
                columns[label] = cost
        key = measure if len(plan.measures) > 1 else "settings"
        found[key] = {"corner": "exact answers", "rows": rows, "columns": columns}
    if outcomes:
        found["hypotheses"] = {
            "corner": f"hypothesis (written {plan.written})",
            "rows": {
                f"{one.hypothesis.name}: {one.hypothesis.claim}".replace("|", "\\|"): (
                    f"{name}#{DIFFERENCE}/{one.hypothesis.name}"
                )
                for one in outcomes
            },
            "columns": {
                "difference": "sides", "expected": "expected", "points, corrected 95 %": "",
                "p, corrected": "p", "clips": "clips", "runs": "runs", "verdict": "verdict",
                "remark": "why",
            },
        }  # fmt: skip
    failed = [(x.setting, s, x.measure) for x in results.values() for s in x.failed]
    if failed:
        rows = {f"{s}, seed {n}": f"{name}#{FAILED}/{s}-seed{n}" for s, n, _ in failed}
        columns = {m: m for m in dict.fromkeys(m for *_, m in failed)}
        found["failed"] = {"corner": "failed run", "rows": rows, "columns": columns}
    return found


def _note(
    plan: "Plan", results: Mapping[tuple[str, str], SettingResult], outcomes: Sequence[Outcome]
) -> str:
    asked = sum(one.asked for one in results.values())
    failed = sum(len(one.failed) for one in results.values())
    missing = missing_runs(results)
    note = f"Not finished: {missing} of {asked} runs are missing. " if missing else ""
    note += summary(outcomes)
    note += f" Runs that failed: {failed} of {asked}." if failed else ""
    changed = sum(
        hashed not in (None, plan.hypotheses_hash)
        for one in results.values()
        for hashed in one.written_with.values()
    )
    if changed:
        note += f" THE HYPOTHESES WERE CHANGED after {changed} of these runs had been made."
    return note


def missing_runs(results: Mapping[tuple[str, str], SettingResult]) -> int:
    """Runs that the sweep asks for and of which nothing is there."""
    return sum(len(one.missing) for one in results.values())


def sweep_tables(record: dict) -> str:
    """All tables of the record of a sweep, as Markdown."""
    records = {record["id"]: record}
    return "\n\n".join(
        markdown_table(records, **described) for described in record["settings"]["tables"].values()
    )
