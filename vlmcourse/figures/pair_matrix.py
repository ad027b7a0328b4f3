"""Every variant against every other: differences in points, and which of them are ones."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from vlmcourse.figures.style import INK, SOFT, fit_png, house, new_figure

MATRIX_PNG_BYTES, MATRIX_COLOURS = 40_000, 128
COLOURS, EMPTY = "RdBu", "#f3f4f6"


@house
def pair_matrix(
    panels: Mapping[str, Mapping[tuple[str, str], Mapping]],
    names: Sequence[str],
    title: str | None = None,
) -> Figure:
    """A panel a setting of the rest: rows less columns, in points of exact answers.

    A pair whose interval excludes zero is coloured and bold, by its size; one whose interval does
    not is grey: nothing is said about it.

    Args:
        panels: label -> (row, column) -> metric of the difference, as a record holds it. Of each
            pair one order is enough.
        names: rows and columns.
        title: above everything.

    Raises:
        ValueError: nothing to draw.
    """
    import matplotlib as mpl

    if not panels or len(names) < 2:
        raise ValueError("pair_matrix needs a panel and two names")
    across = min(len(panels), 2)
    down = -(-len(panels) // across)
    figure = new_figure(9.4 if across > 1 else 5.6, down * (0.75 + 0.34 * len(names)) + 0.45)
    axes = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    every = [one["mean"] for some in panels.values() for one in some.values()]
    reach = 100 * max((abs(mean) for mean in every if mean is not None), default=1.0)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (label, some) in zip(axes.flat, panels.items()):
        for row, column, mean, sure in _cells(some, names):
            part = 0.5 + 0.42 * mean / reach
            colour = mpl.colormaps[COLOURS](part) if sure else EMPTY
            axis.add_patch(
                mpl.patches.Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, lw=0)
            )
            ink = "white" if sure and abs(part - 0.5) > 0.3 else INK if sure else SOFT
            axis.text(
                column, row, f"{mean:+.1f}".replace("-", "−"), ha="center", va="center",
                fontsize=8.5, color=ink, fontweight="bold" if sure else "normal",
            )  # fmt: skip
        axis.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))
        told = [name.replace("_", " ") for name in names]
        axis.set_yticks(range(len(names)), told)
        axis.set_xticks(range(len(names)), told, rotation=35, ha="right", rotation_mode="anchor")
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_title(label, fontsize=10, loc="center")
    figure.supxlabel("row less column, points; grey: the interval holds zero", fontsize=9)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = MATRIX_COLOURS
    return fit_png(figure, MATRIX_PNG_BYTES)


def _cells(some: Mapping[tuple[str, str], Mapping], names: Sequence[str]):
    """(row, column, points, whether the interval excludes zero) of both orders of every pair."""
    place = {name: i for i, name in enumerate(names)}
    for (a, b), metric in some.items():
        if metric["mean"] is None:
            continue
        low, high = metric["low"], metric["high"]
        sure = low is not None and (low > 0 or high < 0)
        mean = 100 * metric["mean"]
        yield place[a], place[b], mean, sure
        yield place[b], place[a], np.negative(mean), sure
