"""Every value of one axis held against every other: a look over the whole, beside the hypotheses.

Nobody has said beforehand what is expected of these pairs. They are corrected among themselves
(Holm), and they are no verdicts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from vlmcourse.evaluation.answer_bits import AnswersError, same_questions, same_runs
from vlmcourse.intervals import tidy
from vlmcourse.sweep.results import NEEDED, SettingResult
from vlmcourse.sweep.statistics import (
    ALPHA,
    as_metric,
    difference_of,
    draw,
    draws_needed,
    holm,
    p_difference,
)
from vlmcourse.sweep.verdicts import answered

if TYPE_CHECKING:
    from vlmcourse.sweep.plan import Plan, Setting

FEWEST, MOST = 3, 12
"""Values of an axis that are worth a look at all pairs; two are what a hypothesis is for."""


@dataclass(frozen=True)
class Pair:
    """Two settings that differ in one axis.

    Attributes:
        a, b: names of the settings.
        metric: a less b with its corrected interval, as a record holds it; `n` is 0 where nothing
            could be compared.
        p: corrected p-value; None where nothing could be compared.
    """

    a: str
    b: str
    metric: dict
    p: float | None


def axis_of_names(axes: Mapping[str, tuple]) -> str | None:
    """The first axis whose values are names, a few but not too many; None if none is so."""
    for axis, values in axes.items():
        if FEWEST <= len(values) <= MOST and all(isinstance(value, str) for value in values):
            return axis
    return None


def pairs_along(axis: str, plan: "Plan") -> list[tuple["Setting", "Setting"]]:
    """Every two settings that agree in all axes but this one, in reading order."""

    def others(setting: "Setting") -> dict:
        return {name: value for name, value in setting.values.items() if name != axis}

    return [(a, b) for a, b in combinations(plan.settings, 2) if others(a) == others(b)]


def all_pairs(
    plan: "Plan",
    results: Mapping[tuple[str, str], SettingResult],
    axis: str,
    measure: str,
    group: str = "all",
    alpha: float = ALPHA,
    seed: int = 0,
) -> list[Pair]:
    """Compare every two settings that differ in one axis only.

    Runs that are missing leave a pair undecided; it counts in the correction all the same.

    Args:
        plan: its settings.
        results: of `read_results`.
        axis: whose values are held against each other.
        measure, group: which answers.
        alpha: chance of one false difference or more among all pairs.
        seed: of the draws.
    """
    wanted = pairs_along(axis, plan)
    found = {}
    for place, (a, b) in enumerate(wanted):
        sides = [results.get((one.name, measure)) for one in (a, b)]
        if all(one and not one.missing and len(one.finished) >= NEEDED for one in sides):
            try:
                found[place] = _difference(*(one.answers for one in sides), group)
            except AnswersError:
                continue
    drawn = draw(list(found.values()), draws_needed(len(wanted), alpha), seed) if found else None
    columns = {place: drawn[:, column] for column, place in enumerate(found)}
    p_values = [p_difference(columns[i]) if i in columns else 1.0 for i in range(len(wanted))]
    corrected, levels = holm(p_values, alpha)
    pairs = []
    for place, (a, b) in enumerate(wanted):
        if place in found:
            value = as_metric(found[place], columns[place], levels[place])
            pairs.append(Pair(a.name, b.name, value, tidy(corrected[place])))
        else:
            nothing = {"n": 0, "mean": None, "low": None, "high": None, "unit": "share"}
            pairs.append(Pair(a.name, b.name, nothing, None))
    return pairs


def _difference(a, b, group: str):
    same_questions((a, b))
    sides = [[answered(one, group)] for one in (a, b)]
    return difference_of(*sides, paired=same_runs(a, b))
