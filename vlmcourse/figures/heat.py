"""A measured value over two settings: a map with numbers."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vlmcourse.figures.results import as_metric
from vlmcourse.figures.style import INK, fit_png, house, new_figure
from vlmcourse.figures.trends import short_number

HEAT_PNG_BYTES, HEAT_COLOURS = 40_000, 128
COLOURS = "Blues"


@house
def heat_map(
    panels: Mapping[str, Sequence[Sequence[Mapping | float | None]]],
    rows: Sequence[str],
    columns: Sequence[str],
    row_label: str = "",
    column_label: str = "",
    tokens: Sequence[Sequence[float]] | None = None,
    chance: Mapping[str, float] | None = None,
    title: str | None = None,
) -> Figure:
    """One panel a group of questions: a cell a combination of two settings, with its number.

    The darker, the better, from the worst to the best of each panel. A frame marks the best cell of
    a panel and all that its interval does not tell from it.

    Args:
        panels: group -> [R, C] metrics of a record, or shares; None for what was not measured.
        rows, columns: R and C values of the settings.
        row_label, column_label: their names.
        tokens: [R, C] tokens that each combination costs, small under its number.
        chance: group -> share of the best blind guess, for the panel's heading.
        title: above everything.

    Raises:
        ValueError: nothing to draw, or panels of another size.
    """
    if not panels:
        raise ValueError("heat_map needs at least one panel")
    for group, cells in panels.items():
        if len(cells) != len(rows) or any(len(line) != len(columns) for line in cells):
            raise ValueError(f"{group}: {len(rows)} x {len(columns)} cells are needed")
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    wide = min(0.62 * len(columns) + 0.5, 8.4 / across)
    tall = (0.5 if tokens is not None else 0.36) * len(rows) + 0.42
    figure = new_figure(max(across * wide + 0.8, 4.2), down * tall + 0.55 + (0.3 if title else 0.0))
    axes = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (group, cells) in zip(axes.flat, panels.items()):
        numbers = np.array([[as_metric(one) for one in line] for line in cells])  # [R, C, 3]
        _panel(axis, numbers, tokens)
        guess = (chance or {}).get(group)
        told = "" if guess is None else f" (guess {100 * guess:.0f})"
        axis.set_title(f"{group.replace('_', ' ')}{told}", fontsize=10, loc="center")
        axis.set_xticks(range(len(columns)), columns)
        axis.set_yticks(range(len(rows)), rows)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    figure.supxlabel(column_label, fontsize=10)
    figure.supylabel(row_label, fontsize=10)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = HEAT_COLOURS
    return fit_png(figure, HEAT_PNG_BYTES)


def _panel(axis, numbers: np.ndarray, tokens) -> None:
    means = numbers[..., 0]
    low, high = np.nanmin(means), np.nanmax(means)
    spread = max(high - low, 1e-9)
    axis.imshow(
        means, cmap=COLOURS, aspect="auto", vmin=low - 0.15 * spread, vmax=high + 0.2 * spread
    )
    best = np.unravel_index(np.nanargmax(means), means.shape)
    floor = numbers[best][1]
    for (row, column), mean in np.ndenumerate(means):
        if np.isnan(mean):
            axis.text(column, row, "—", ha="center", va="center", fontsize=9)
            continue
        colour = "white" if mean > low + 0.62 * spread else INK
        lift = 0.14 if tokens is not None else 0.0
        axis.text(
            column, row - lift, f"{mean:.0f}", ha="center", va="center", fontsize=9, color=colour
        )
        if tokens is not None:
            told = f"{short_number(round(float(tokens[row][column])))} t"
            at = (column, row + 0.27)
            axis.text(*at, told, ha="center", va="center", fontsize=6.5, color=colour, alpha=0.9)
        level = numbers[row, column, 2] >= floor
        if (row, column) == best or level:
            look = {"linewidth": 2.0 if (row, column) == best else 0.9, "edgecolor": INK}
            axis.add_patch(Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, fill=False, **look))
