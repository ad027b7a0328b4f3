"""What a sweep measured along an axis of numbers, and the power law that fits it.

plan = read_plan(path)
results = read_results(report_cells(Places(plan)))
curves_along(plan, results, "clips", ["all", "order"])
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmcourse.errors import UserError
from vlmcourse.sweep.picture import setting_text
from vlmcourse.sweep.results import SettingResult
from vlmcourse.sweep.scaling import DRAWS_OF_FITS, PowerLaw, fit_power_law
from vlmcourse.sweep.statistics import DRAWS_OF_MEANS, Quantity, as_metric, draw, mean_of
from vlmcourse.sweep.verdicts import answered

if TYPE_CHECKING:
    from vlmcourse.sweep.plan import Plan


@dataclass(frozen=True)
class Curve:
    """One group of questions along the axis, all else being equal.

    Attributes:
        points: value of the axis -> mean of the finished runs with its interval, as a record holds
            it.
        law: what was fitted to them; None where nothing could be.
        why: why nothing could be fitted, or "".
    """

    points: Mapping[float, dict]
    law: PowerLaw | None
    why: str = ""


def curves_along(
    plan: "Plan",
    results: Mapping[tuple[str, str], SettingResult],
    axis: str,
    groups: Sequence[str],
    measure: str | None = None,
    draws: int = DRAWS_OF_FITS,
) -> dict[str, dict[str, Curve]]:
    """Curves of every group and of every combination of the other axes.

    Args:
        plan, results: of one sweep.
        axis: whose values are numbers.
        groups: of questions: "all", families, ...
        measure: name; None means the first.
        draws: of clips and runs, for the intervals of the fits.

    Returns:
        group -> the other axes' values as text (the axis' name, if there is no other) -> curve.

    Raises:
        UserError: no such axis, or its values are no numbers.
    """
    values = plan.axes.get(axis, ())
    if not values or not all(type(value) in (int, float) for value in values):
        raise UserError(f"{plan.path}: {axis} is no axis of numbers")
    measure = measure or plan.measures[0].name
    settings: dict[str, dict[float, SettingResult]] = {}
    for one in plan.settings:
        others = {name: value for name, value in one.values.items() if name != axis}
        result = results.get((one.name, measure))
        if result is not None and result.finished:
            line = settings.setdefault(setting_text(others) if others else axis, {})
            line[one.values[axis]] = result
    return {
        group: {name: _curve(line, group, draws) for name, line in settings.items()}
        for group in groups
    }


def _curve(line: Mapping[float, SettingResult], group: str, draws: int) -> Curve:
    asked: dict[float, Quantity] = {
        value: mean_of(answered(one.answers, group)) for value, one in sorted(line.items())
    }
    drawn = draw(list(asked.values()), DRAWS_OF_MEANS)
    points = {
        value: as_metric(quantity, drawn[:, place])
        for place, (value, quantity) in enumerate(asked.items())
    }
    try:
        return Curve(points, fit_power_law(asked, draws))
    except ValueError as error:
        return Curve(points, None, str(error))
