"""From the record of a sweep to its figure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmcourse.evaluation.options import value_text
from vlmcourse.sweep.verdicts import verdict_of
from vlmcourse.world.language import FAMILIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = 4
DOUBLES = 1.6
"""Values that grow by at least this factor, on average, stand on an axis of doublings."""


def axis_text(axis: str, value: Any) -> str:
    """A value of an axis in words: `qformer`, `tokens 32`."""
    text = value_text(value).replace("_", " ")
    plain = isinstance(value, str) and not text.replace(".", "").isdigit()
    return text if plain else f"{axis.replace('_', ' ')} {text}"


def setting_text(values: Mapping[str, Any]) -> str:
    """A setting in words, for a table or a legend."""
    return ", ".join(axis_text(axis, value) for axis, value in values.items())


def numeric_axis(axes: Mapping[str, Sequence]) -> str | None:
    """The axis of most numbers, if one has two or more: what stands along the figure."""

    def numbers(values: Sequence) -> bool:
        return all(type(value) in (int, float) for value in values) and len(values) > 1

    found = [name for name, values in axes.items() if numbers(values)]
    return max(found, key=lambda name: len(axes[name])) if found else None


def told_groups(record: dict, measure: str, most: int = PANELS) -> list[str]:
    """Groups worth a panel: "all", and those that most hypotheses are about."""
    settings, metrics = record["settings"], record["metrics"]
    start = _start(record, measure)
    parts = [f"{start}{name}" for name in settings["settings"]]
    counts = Counter(
        one["group"] for one in settings["hypotheses"].values() if one["measure"] == measure
    )
    names = ["all", *(group for group, _ in counts.most_common()), *FAMILIES]
    return [
        group
        for group in dict.fromkeys(names)
        if any(f"{part}/{group}" in metrics for part in parts)
    ][:most]


def _start(record: dict, measure: str) -> str:
    return f"{measure}/" if len(record["settings"]["measures"]) > 1 else ""


def sweep_panels(
    record: dict, measure: str, groups: Sequence[str], x: str | None
) -> tuple[dict[str, dict], dict[str, dict]]:
    """What the figures of a sweep draw of its record.

    Args:
        measure: whose numbers.
        groups: a panel each.
        x: axis along the figure; None for a row a setting.

    Returns:
        group -> variant -> x -> metric (or group -> setting -> metric), None where no run is
        finished; and group -> the best constant answer, where it is the same for all.
    """
    metrics, start = record["metrics"], _start(record, measure)
    panels: dict[str, dict] = {}
    for group in groups:
        for name, values in record["settings"]["settings"].items():
            value = metrics.get(f"{start}{name}/{group}")
            here = panels.setdefault(group, {})
            if x is None:
                here[setting_text(values)] = value
                continue
            others = {axis: v for axis, v in values.items() if axis != x}
            here.setdefault(setting_text(others), {})[values[x]] = value
    best = {group: metrics.get(f"{start}best_constant/{group}") for group in groups}
    return panels, {group: value for group, value in best.items() if value}


def sweep_figure(
    record: dict, measure: str | None = None, groups: Sequence[str] | None = None
) -> "Figure":
    """Accuracy with intervals by setting: lines over an axis of numbers, else a dot a setting.

    Args:
        record: of `report.write_report`.
        measure: the first one, if none is named.
        groups: a panel each; None takes "all" and what the hypotheses are about.

    Raises:
        ValueError: no setting has a finished run.
    """
    from vlmcourse.figures.sweep import accuracy_dots, accuracy_lines

    settings = record["settings"]
    measure = measure or settings["measures"][0]
    groups = groups or told_groups(record, measure)
    x = numeric_axis(settings["axes"])
    panels, chance = sweep_panels(record, measure, groups, x)
    if x is None:
        return accuracy_dots(panels, chance, settings["title"])
    log = _doubles(settings["axes"][x])
    return accuracy_lines(panels, x.replace("_", " "), log, chance, settings["title"])


def _doubles(values: Sequence[float]) -> bool:
    values = np.sort(np.asarray(values, dtype=float))
    if values[0] <= 0:
        return False
    return bool((values[-1] / values[0]) ** (1 / (len(values) - 1)) >= DOUBLES)


def hypothesis_figure(record: dict) -> "Figure":
    """The difference of every hypothesis with its corrected interval, coloured by its verdict.

    Raises:
        ValueError: the sweep has no hypotheses.
    """
    from vlmcourse.figures.sweep import difference_dots

    rows = {}
    for name, one in record["settings"]["hypotheses"].items():
        value = record["metrics"][f"hypothesis/{name}"]
        verdict = verdict_of(one["expect"], value["low"], value["high"], one["margin"])
        rows[name.replace("_", " ")] = (value, verdict)
    return difference_dots(rows, record["settings"]["title"])
