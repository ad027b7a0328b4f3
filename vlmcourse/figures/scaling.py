"""Accuracy over the size of the training set, with the power law that was fitted to it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from vlmcourse.figures.results import as_metric
from vlmcourse.figures.style import INK, PALETTE, fit_png, house, new_figure
from vlmcourse.figures.trends import MARKERS, short_number

if TYPE_CHECKING:
    from vlmcourse.sweep.scaling import PowerLaw

SCALING_PNG_BYTES, SCALING_COLOURS = 34_000, 96
BEYOND = 4.0
"""A curve goes on to so many times the largest size, dashed: there it is a guess."""


@house
def scaling_curves(
    panels: Mapping[str, Mapping[str, Mapping[float, Mapping]]],
    laws: Mapping[str, Mapping[str, "PowerLaw | None"]],
    xlabel: str = "training films",
    chance: Mapping[str, Mapping | float] | None = None,
    title: str | None = None,
) -> Figure:
    """Points with intervals, and a fitted curve with its 95 % band: a panel a group of questions.

    Args:
        panels: group -> variant -> size -> metric of a record.
        laws: group -> variant -> what was fitted to it (`sweep.scaling.fit_power_law`), or None.
        xlabel, title: texts.
        chance: group -> the best blind guess, drawn as a dashed line.

    Raises:
        ValueError: nothing to draw.
    """
    variants = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    if not variants:
        raise ValueError("scaling_curves needs at least one point")
    colours = [colour for name, colour in PALETTE.items() if name != "yellow"]  # too light a line
    looks = dict(zip(variants, zip(colours * len(variants), MARKERS * len(variants))))
    figure = new_figure(min(9.4, 1.9 + 2.6 * len(panels)), 3.3 + (0.3 if title else 0.0))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (group, lines) in zip(axes, panels.items()):
        for name, line in lines.items():
            colour, marker = looks[name]
            _points(axis, line, colour, marker, name)
            law = laws.get(group, {}).get(name)
            if law is not None:
                _law(axis, law, colour)
        if chance and chance.get(group) is not None:
            axis.axhline(as_metric(chance[group])[0], color=INK, linestyle="--", linewidth=1)
        sizes = sorted({size for line in lines.values() for size in line})
        axis.set(xscale="log")
        axis.set_xticks(_spread_out(sizes), map(short_number, _spread_out(sizes)))
        axis.set_xticks([], minor=True)
        axis.set_title(group.replace("_", " "), fontsize=10, loc="center")
        axis.grid(axis="y")
    axes[0].set_ylabel("exact answers, %")
    axes[0].set_ylim(0, 103)
    figure.supxlabel(xlabel, fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = SCALING_COLOURS
    return fit_png(figure, SCALING_PNG_BYTES)


def _spread_out(sizes: Sequence[float]) -> list[float]:
    """Sizes whose names find room beside each other on a narrow logarithmic axis."""
    kept: list[float] = []
    for size in reversed(sizes):
        if not kept or size <= kept[-1] / 3:
            kept.append(size)
    return kept[::-1]


def _points(axis, line: Mapping[float, Mapping], colour: str, marker: str, name: str) -> None:
    xs = sorted(line)
    numbers = np.array([as_metric(line[x]) for x in xs])  # [sizes, 3]
    axis.plot(xs, numbers[:, 0], color=colour, marker=marker, linestyle="", label=name)
    known = ~np.isnan(numbers).any(axis=1)
    axis.vlines(np.array(xs)[known], numbers[known, 1], numbers[known, 2], colors=colour, lw=1.2)


def _law(axis, law: "PowerLaw", colour: str) -> None:
    """The curve through the sizes it was fitted to, and dashed beyond them, with its band."""
    first, last = law.sizes[0], law.sizes[-1]
    xs = np.geomspace(first, BEYOND * last, 60)
    metrics = [as_metric(law.at(float(x))) for x in xs]
    mean, low, high = np.clip(np.array(metrics), 0, 100).T
    inside = xs <= last
    axis.plot(xs[inside], mean[inside], color=colour, linewidth=1.5)
    axis.plot(xs[~inside], mean[~inside], color=colour, linewidth=1.2, linestyle=":")
    axis.fill_between(xs, low, high, color=colour, alpha=0.14, linewidth=0)
