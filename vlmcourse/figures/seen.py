"""What each system answers of each kind of question, beside its controls: a map with intervals."""

from collections.abc import Collection, Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vlmcourse.figures.results import as_metric
from vlmcourse.figures.style import INK, SOFT, fit_png, house, new_figure

SEEN_PNG_BYTES, SEEN_COLOURS = 46_000, 128
COLOURS = "Blues"
DARK = 62.0
"""From which share on numbers are written in white."""
LONGEST = 10
"""Letters of a heading that fit beside each other."""


@house
def seen_map(
    table: Mapping[str, Mapping[str, Mapping | float | None]],
    controls: Mapping[str, Mapping[str, Mapping | float | None]] | None = None,
    marked: Collection[tuple[str, str]] = (),
    title: str | None = None,
) -> Figure:
    """Groups of questions down, systems across: shares in per cent with their intervals.

    All cells have one scale of colours, 0 to 100. Controls stand apart on the right.

    Args:
        table: system -> group -> metric of a record, a share, or None for what was not measured.
        controls: the same of controls.
        marked: (system, group) that get a frame.
        title: above the map.

    Raises:
        ValueError: no system or no group.
    """
    groups = list(dict.fromkeys(group for shares in table.values() for group in shares))
    if not groups:
        raise ValueError("seen_map needs at least one system and one group")
    controls = controls or {}
    wide = [len(table), len(controls)] if controls else [len(table)]
    figure = new_figure(1.3 + 0.98 * sum(wide), 0.41 * len(groups) + 0.85 + (0.25 if title else 0))
    axes = figure.subplots(1, len(wide), sharey=True, squeeze=False, width_ratios=wide)[0]
    for axis, shown in zip(axes, (table, controls)):
        numbers = np.array(
            [[as_metric(shares.get(group)) for shares in shown.values()] for group in groups]
        )  # [G, S, 3]
        axis.imshow(numbers[..., 0], cmap=COLOURS, vmin=-8, vmax=112, aspect="auto")
        for row, column in np.ndindex(*numbers.shape[:2]):
            _number(axis, column, row, *numbers[row, column])
        for column, name in enumerate(shown):
            for row, group in enumerate(groups):
                if (name, group) in marked:
                    axis.add_patch(_frame(column, row))
        axis.set_xticks(range(len(shown)), map(_heading, shown), fontsize=8.5)
        _plain(axis)
    axes[0].set_yticks(range(len(groups)), [group.replace("_", " ") for group in groups])
    return _fitted(figure, title)


def _number(axis, column: int, row: int, mean: float, low: float, high: float) -> None:
    if np.isnan(mean):
        axis.text(column, row, "—", ha="center", va="center", fontsize=9, color=SOFT)
        return
    colour = "white" if mean > DARK else INK
    lift = 0.0 if np.isnan(low) else 0.15
    axis.text(
        column, row - lift, f"{mean:.0f}", ha="center", va="center", fontsize=10, color=colour
    )
    if lift:
        told = f"{low:.0f}–{high:.0f}"
        axis.text(column, row + 0.26, told, ha="center", va="center", fontsize=6.8, color=colour)


def _heading(name: str) -> str:
    """A name in lines: at commas and spaces, and behind the hyphen of a long one."""
    words = name.replace(", ", ",\n").replace(" ", "\n").split("\n")
    return "\n".join(word.replace("-", "-\n", 1) if len(word) > LONGEST else word for word in words)


def _frame(column: int, row: int) -> Rectangle:
    return Rectangle(
        (column - 0.46, row - 0.46), 0.92, 0.92, fill=False, linewidth=1.6, edgecolor=INK
    )


def _plain(axis) -> None:
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _fitted(figure, title: str | None) -> Figure:
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = SEEN_COLOURS
    return fit_png(figure, SEEN_PNG_BYTES)
