"""Pictures of a sweep: accuracy with intervals by setting, and the differences of hypotheses."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vlmcourse.figures.results import as_metric
from vlmcourse.figures.style import INK, PALETTE, SOFT, fit_png, house, new_figure
from vlmcourse.figures.trends import MARKERS, short_number

COLOURS = tuple(colour for name, colour in PALETTE.items() if name != "yellow")
"""One a line; yellow is too light for one."""
DODGE, STEP = 0.16, 0.1
"""How far the outer lines stand from a mark at most, and two neighbours from each other, of the
distance between two marks: intervals at one x would hide each other."""
CHANCE = {"color": INK, "linestyle": "--", "linewidth": 1}
BETWEEN = 20
"""Pixels between a title and a legend."""
FEWEST_POINTS = 8
"""An axis shows at least so many points of accuracy, or chance would look like a difference."""

Value = Mapping | float | None


@house
def accuracy_lines(
    panels: Mapping[str, Mapping[str, Mapping[float, Value]]],
    xlabel: str,
    log: bool = False,
    chance: Mapping[str, Value] | None = None,
    title: str | None = None,
) -> Figure:
    """Lines with intervals over something counted: a panel a group of questions, a line a variant.

    The axis is cut to what was measured, so that small differences can be seen.

    Args:
        panels: group -> variant -> x -> metric of a record, or a share; None where it failed.
        xlabel, title: texts.
        log: x doubles from mark to mark.
        chance: group -> the best blind guess, drawn as a dashed line.

    Raises:
        ValueError: nothing to draw.
    """
    variants = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    every = sorted({x for lines in panels.values() for line in lines.values() for x in line})
    if not every:
        raise ValueError("accuracy_lines needs at least one point")
    beside = len(panels) < 3
    figure = new_figure(min(9.6, (3.4 if beside else 1.4) + 2.7 * len(panels)), 3.5)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    places = np.log2(every) if log and every[0] > 0 else np.array(every, dtype=float)
    gap = float(np.diff(places).min(initial=np.inf)) if len(every) > 1 else 1.0
    reach = min(DODGE, STEP * (len(variants) - 1) / 2)
    steps = np.linspace(-reach, reach, len(variants))
    for axis, (group, lines) in zip(axes, panels.items()):
        for (name, look), step in zip(_looks(variants).items(), steps):
            if name in lines:
                _line(axis, lines[name], dict(zip(every, places + step * gap)), *look)
        if chance and chance.get(group) is not None:
            axis.axhline(as_metric(chance[group])[0], **CHANCE)
        axis.set_title(group.replace("_", " "), fontsize=10, loc="center")
        axis.set_xticks(places, map(short_number, every))
        axis.grid(axis="y")
        axis.margins(x=0.06)
    values = [v for lines in panels.values() for line in lines.values() for v in line.values()]
    axes[0].set(ylabel="exact answers, %", ylim=_limits([*values, *(chance or {}).values()]))
    figure.supxlabel(xlabel, fontsize=10)
    marks = [
        Line2D([], [], color=colour, marker=marker, markersize=5, label=name)
        for name, (colour, marker) in _looks(variants).items()
    ]
    marks += [Line2D([], [], label="best blind guess", **CHANCE)] if chance else []
    taken = _write_title(figure, title)
    if len(marks) > 1 and beside:
        figure.legend(handles=marks, loc="outside right upper")
    elif len(marks) > 1:
        _legend_above(figure, marks, min(len(marks), 5), taken)
    return fit_png(figure)


def _looks(variants: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of every variant; colours come again with another marker."""
    return {
        name: (COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)])
        for i, name in enumerate(variants)
    }


def _line(axis, line: Mapping[float, Value], places: Mapping[float, float], colour, marker) -> None:
    xs = sorted(line)
    at = np.array([places[x] for x in xs])
    numbers = np.array([as_metric(line[x]) for x in xs])  # [points, 3]
    axis.plot(at, numbers[:, 0], color=colour, marker=marker, markersize=4.5, linewidth=1.5)
    known = ~np.isnan(numbers).any(axis=1)
    axis.vlines(at[known], numbers[known, 1], numbers[known, 2], colors=colour, linewidth=1.1)


def _limits(values: Sequence[Value]) -> tuple[float, float]:
    """Ends of an axis of per cent that shows all intervals, and not much more."""
    numbers = np.array([as_metric(value) for value in values])
    low, high = float(np.nanmin(numbers)), float(np.nanmax(numbers))
    room = max(1.5, (FEWEST_POINTS - (high - low)) / 2)
    return max(-2.0, low - room), min(102.0, high + room)


@house
def accuracy_dots(
    panels: Mapping[str, Mapping[str, Value]],
    chance: Mapping[str, Value] | None = None,
    title: str | None = None,
) -> Figure:
    """A dot with its interval for every setting: a panel a group of questions.

    Args:
        panels: group -> setting -> metric of a record, or a share; None where it failed.
        chance: group -> the best blind guess, drawn as a dashed line.
        title: above everything.

    Raises:
        ValueError: nothing to draw.
    """
    names = list(dict.fromkeys(name for some in panels.values() for name in some))
    if not names:
        raise ValueError("accuracy_dots needs at least one setting")
    figure = new_figure(9.2, 1.15 + 0.27 * len(names) + (0.25 if title else 0.0))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    rows = np.arange(len(names))[::-1]
    for axis, (group, some) in zip(axes, panels.items()):
        numbers = np.array([as_metric(some.get(name)) for name in names])
        known = ~np.isnan(numbers).any(axis=1)
        axis.hlines(rows[known], numbers[known, 1], numbers[known, 2], colors=COLOURS[0], lw=1.4)
        axis.plot(numbers[:, 0], rows, "o", color=COLOURS[0], markersize=5)
        guess = (chance or {}).get(group)
        if guess is not None:
            axis.axvline(as_metric(guess)[0], **CHANCE)
        axis.set(xlim=_limits([*some.values(), guess]), ylim=(-0.6, len(names) - 0.4))
        for row in rows[np.isnan(numbers[:, 0])]:
            axis.text(0.5, row, "no run", transform=axis.get_yaxis_transform(), fontsize=8,
                      ha="center", va="center", color=SOFT)  # fmt: skip
        axis.set_title(group.replace("_", " "), fontsize=10, loc="center")
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="both")
    axes[0].set_yticks(rows, names)
    told = "exact answers, %" + (" (dashed: best blind guess)" if chance else "")
    figure.supxlabel(told, fontsize=9)
    _write_title(figure, title)
    return fit_png(figure)


@house
def difference_dots(
    rows: Mapping[str, tuple[Mapping, str]], title: str | None = None, xlabel: str = ""
) -> Figure:
    """A difference with its interval for every hypothesis, coloured by its verdict.

    Args:
        rows: label -> metric of the difference (a share, a mean of None where it is not decided),
            and verdict.
        title, xlabel: texts.

    Raises:
        ValueError: nothing to draw.
    """
    if not rows:
        raise ValueError("difference_dots needs at least one hypothesis")
    verdicts = list(dict.fromkeys(verdict for _, verdict in rows.values()))
    known = {"supported": "blue", "opposite": "red", "not supported": "grey"}
    figure = new_figure(8.2, 1.1 + 0.32 * len(rows) + (0.25 if title else 0.0))
    axis = figure.subplots()
    for place, (metric, verdict) in zip(range(len(rows))[::-1], rows.values()):
        mean, low, high = as_metric(metric)
        colour = PALETTE[known.get(verdict, "grey")]
        axis.plot([low, high], [place, place], color=colour, linewidth=1.6)
        axis.plot(mean, place, "o", color=colour, markersize=5.5)
        if np.isnan(mean):
            axis.text(0, place, " not decided", fontsize=8.5, va="center", color=SOFT)
    axis.axvline(0, color=INK, linewidth=1)
    axis.set_yticks(range(len(rows))[::-1], list(rows))
    axis.set(xlabel=xlabel or "points, interval corrected for all hypotheses",
             ylim=(-0.6, len(rows) - 0.4))  # fmt: skip
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x")
    marks = [
        Line2D([], [], color=PALETTE[known.get(v, "grey")], marker="o", label=v) for v in verdicts
    ]
    _legend_above(figure, marks, len(marks), _write_title(figure, title))
    return fit_png(figure)


def _write_title(figure: Figure, title: str | None) -> float:
    """Write a title above everything; gives the pixels that it takes from a legend beside it."""
    if not title:
        return 0.0
    text = figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return text.get_window_extent().width + BETWEEN


def _legend_above(figure: Figure, marks: Sequence[Line2D], columns: int, taken: float) -> None:
    """A legend above everything, in so few columns that what stands beside it has room."""
    for count in range(columns, 0, -1):
        legend = figure.legend(handles=marks, loc="outside upper right", ncols=count)
        if count == 1 or legend.get_window_extent().width <= figure.bbox.width - taken:
            return
        legend.remove()
