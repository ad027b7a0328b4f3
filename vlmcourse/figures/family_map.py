"""Variants against families of questions: a map with numbers, each column on its own scale."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vlmcourse.figures.results import as_metric
from vlmcourse.figures.style import INK, SOFT, fit_png, house, new_figure

MAP_PNG_BYTES, MAP_COLOURS = 40_000, 128
COLOURS, BARE = "Blues", "#f3f4f6"
FEWEST_POINTS = 8
"""A column is not stretched over fewer points than this: small differences stay pale."""


@house
def family_map(
    table: Mapping[str, Mapping[str, Mapping | float | None]],
    families: Sequence[str] | None = None,
    chance: Mapping[str, Mapping | float] | None = None,
    title: str | None = None,
) -> Figure:
    """A row a variant, a column a family: exact answers in per cent.

    The darker, the more of the way from the best blind guess to the best variant of the column. A
    thick frame marks the best, thin ones what reaches into its interval. A variant that does not
    leave the guess stays bare.

    Args:
        table: variant -> family -> metric of a record, or a share; None for what failed.
        families: columns from left to right (default: as first met).
        chance: family -> the best blind guess, the last row.
        title: above everything.

    Raises:
        ValueError: nothing to draw.
    """
    names = list(families or dict.fromkeys(f for shares in table.values() for f in shares))
    if not names or not table:
        raise ValueError("family_map needs at least one variant and one family")
    numbers = np.array(
        [[as_metric(shares.get(name)) for name in names] for shares in table.values()]
    )  # [variants, families, 3]
    guesses = np.array([as_metric((chance or {}).get(name))[0] for name in names])
    labels = [*table, *(["best blind guess"] if chance else [])]
    figure = new_figure(
        min(9.6, 1.9 + 0.68 * len(names)), 0.85 + 0.36 * len(labels) + (0.3 if title else 0.0)
    )
    axis = figure.subplots()
    for column, guess in enumerate(guesses):
        _column(axis, column, numbers[:, column], guess)
        if chance and not np.isnan(guess):
            look = {"ha": "center", "va": "center", "fontsize": 9, "color": SOFT}
            axis.text(column, len(table), f"{guess:.0f}", **look)
    axis.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(labels) - 0.5, -0.5))
    axis.set_yticks(range(len(labels)), labels)
    told = [name.replace("_", " ") for name in names]
    axis.set_xticks(range(len(names)), told, rotation=30, ha="left", rotation_mode="anchor")
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = MAP_COLOURS
    return fit_png(figure, MAP_PNG_BYTES)


def _column(axis, column: int, numbers: np.ndarray, guess: float) -> None:
    import matplotlib as mpl

    means = numbers[:, 0]
    if np.isnan(means).all():
        best, floor, low, reach = None, np.nan, 0.0, 1.0
    else:
        best = int(np.nanargmax(means))
        floor = numbers[best, 1]
        low = np.nanmin(means) if np.isnan(guess) else guess
        reach = max(means[best] - low, FEWEST_POINTS)
    for row, (mean, under, over) in enumerate(numbers):
        if np.isnan(mean):
            axis.text(column, row, "—", ha="center", va="center", fontsize=9)
            continue
        above = np.isnan(guess) or (under if not np.isnan(under) else mean) > guess
        part = float(np.clip((mean - low) / reach, 0, 1)) if above else 0.0
        colour = mpl.colormaps[COLOURS](0.1 + 0.75 * part) if above else BARE
        axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, lw=0))
        ink = "white" if part > 0.62 else INK if above else SOFT
        axis.text(column, row, f"{mean:.0f}", ha="center", va="center", fontsize=9, color=ink)
        if above and (row == best or over >= floor):
            look = {"linewidth": 2.0 if row == best else 0.9, "edgecolor": INK}
            axis.add_patch(Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, **look))
