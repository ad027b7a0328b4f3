"""How an accuracy moves with something counted: frames, tokens, seconds."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from vlmcourse.figures.results import as_metric
from vlmcourse.figures.style import INK, PALETTE, SOFT, fit_png, house, new_figure

MARKERS = "osD^vP"
TRENDS_PNG_BYTES, TRENDS_COLOURS = 26_000, 96


@house
def accuracy_over(
    panels: Mapping[str, Mapping[str, Mapping[float, Mapping | float]]],
    xlabel: str,
    log: bool = False,
    chance: Mapping[str, float | Mapping[float, Mapping | float]] | None = None,
    notes: Mapping[float, str] | None = None,
    trained: tuple[float, float] | None = None,
    ylabel: str = "exact answers, %",
    title: str | None = None,
) -> Figure:
    """Lines with intervals: a panel a group of questions, a line a variant.

    Args:
        panels: group -> variant -> x -> metric of a record, or a share.
        xlabel, ylabel, title: texts.
        log: x doubles from mark to mark.
        chance: group -> share that the best blind guess reaches, drawn as a dashed line; or
            x -> metric or share, where it is not the same everywhere.
        notes: x -> a few letters under its number on the axis (`×32` tokens of a frame, say).
        trained: the least and the largest x of the training, drawn as a grey band (or a line).

    Raises:
        ValueError: nothing to draw.
    """
    if not panels or not all(lines and all(lines.values()) for lines in panels.values()):
        raise ValueError("accuracy_over needs at least one point of one line in each panel")
    variants = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    colours = [colour for name, colour in PALETTE.items() if name != "yellow"]  # too light a line
    looks = dict(zip(variants, zip(colours * len(variants), MARKERS * len(variants))))
    beside = len(panels) < 3  # the legend stands at the right
    width = min(9.4, (3.6 if beside else 1.6) + 2.6 * len(panels))
    figure = new_figure(width, 3.0 + (0.2 if notes else 0.0) + (0.3 if title else 0.0))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    every = sorted({x for lines in panels.values() for line in lines.values() for x in line})
    for axis, (group, lines) in zip(axes, panels.items()):
        for name, line in lines.items():
            _line(axis, line, *looks[name])
        if chance and chance.get(group) is not None:
            _guess(axis, chance[group])
        if trained:
            look = {"color": SOFT, "alpha": 0.18, "linewidth": 9 if np.ptp(trained) == 0 else 0}
            axis.axvspan(*trained, **look)
        axis.set_title(group.replace("_", " "), fontsize=10, loc="center")
        axis.set(ylim=(0, 104), xscale="log" if log else "linear")
        axis.grid(axis="y")
        axis.margins(x=0.08)
        _name_marks(axis, every, log, notes or {}, (width - (2.6 if beside else 0.8)) / len(panels))
    axes[0].set_ylabel(ylabel)
    figure.supxlabel(xlabel, fontsize=10)
    marks = [
        Line2D([], [], color=looks[name][0], marker=looks[name][1], label=name) for name in variants
    ]
    if chance:
        look = {"color": INK, "linestyle": "--", "linewidth": 1}
        marks.append(Line2D([], [], label="best blind guess", **look))
    if trained:
        marks.append(Patch(color=SOFT, alpha=0.18, linewidth=0, label="in training"))
    if len(marks) > 1:
        place = "outside right upper" if beside else "outside upper right"
        figure.legend(handles=marks, loc=place, ncols=1 if beside else min(len(marks), 4))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = TRENDS_COLOURS
    return fit_png(figure, TRENDS_PNG_BYTES)


def _guess(axis, chance: float | Mapping[float, Mapping | float]) -> None:
    look = {"color": INK, "linestyle": "--", "linewidth": 1}
    if isinstance(chance, Mapping):
        xs = sorted(chance)
        axis.plot(xs, [as_metric(chance[x])[0] for x in xs], **look)
    else:
        axis.axhline(100 * chance, **look)


def _name_marks(
    axis, every: Sequence[float], log: bool, notes: Mapping[float, str], inches: float
) -> None:
    """A mark at each x that was measured, if their names find room beside each other."""
    names = [short_number(x) for x in every]
    told = [f"{name}\n{notes[x]}" if x in notes else name for name, x in zip(names, every)]
    places = np.log(every) if log else np.asarray(every, float)
    gap = np.diff(places).min(initial=np.inf) / max(np.ptp(places), 1e-9) * 0.85 * inches
    longest = max(len(line) for text in told for line in text.split("\n"))
    if len(every) == 1 or gap > 0.08 * longest + 0.04:
        axis.set_xticks(every, told)
        axis.set_xticks([], minor=True)
    else:
        axis.xaxis.set_major_formatter(lambda x, _: short_number(x))


def _line(axis, line: Mapping[float, Mapping | float], colour: str, marker: str) -> None:
    xs = sorted(line)
    numbers = np.array([as_metric(line[x]) for x in xs])  # [points, 3]
    axis.plot(xs, numbers[:, 0], color=colour, marker=marker, markersize=5)
    spread = np.abs(numbers[:, 1:] - numbers[:, :1]).T  # [2, points]
    known = ~np.isnan(spread).any(axis=0)
    look = {"fmt": "none", "ecolor": colour, "elinewidth": 1, "capsize": 2.5}
    axis.errorbar(np.array(xs)[known], numbers[known, 0], yerr=spread[:, known], **look)


def short_number(value: float) -> str:
    """A number on an axis: `800`, `12k`, `3.4M`."""
    for size, name in ((1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e6 if name == 'M' else 1e3):.3g}{name}"
    return f"{value:g}"


def by_x(
    records: Mapping[float, dict], groups: Sequence[str], condition: str = "system"
) -> dict[str, dict[float, dict]]:
    """One line of each panel of `accuracy_over`: group -> x -> metric.

    Args:
        records: x -> record of `vlmcourse evaluate`.
        groups: of questions, or names such as `mean_iou`.
        condition: of every record, or a side ("a", "b") of one of `vlmcourse compare`.
    """
    return {
        group: {x: record["metrics"][f"{condition}/{group}"] for x, record in records.items()}
        for group in groups
    }


def by_tokens(
    records: Iterable[dict], groups: Sequence[str], condition: str = "system"
) -> dict[str, dict[float, dict]]:
    """The same with the mean tokens of a clip as x: group -> tokens -> metric.

    Args:
        records: of `vlmcourse evaluate`, each with other settings (`--set`).
    """
    found = {record["metrics"]["tokens/video"]["mean"]: record for record in records}
    return by_x(found, groups, condition)
