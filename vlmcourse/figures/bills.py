"""What systems cost: tokens of a film, and time and memory in the small world."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from vlmcourse.figures.style import INK, PALETTE, SOFT, fit_png, house, new_figure

BILLS_PNG_BYTES, BILLS_COLOURS = 34_000, 32
PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.85}
"""Behind texts that a line may cross."""


@house
def token_bill(
    films: Mapping[str, Mapping[str, tuple[float, float]]],
    limits: Mapping[str, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Tokens that films cost: a bar each, on a scale that doubles, with frames x tokens a frame.

    Args:
        films: length ("one minute") -> system -> (frames looked at, tokens).
        limits: name -> tokens, drawn as dashed lines: the context of a language model.
        title: above everything.

    Raises:
        ValueError: nothing to draw, or a system that is missing in one of the films.
    """
    if not films or not all(films.values()):
        raise ValueError("token_bill needs at least one film and one system")
    names = list(next(iter(films.values())))
    if any(list(costs) != names for costs in films.values()):
        raise ValueError("token_bill needs the same systems, in one order, for every film")
    figure = new_figure(9.4, 0.36 * len(names) + 1.1 + (0.25 if title else 0.0))
    axes = figure.subplots(1, len(films), sharey=True, squeeze=False)[0]
    places = np.arange(len(names))[::-1]
    top = max(tokens for costs in films.values() for _, tokens in costs.values())
    for axis, (length, costs), colour in zip(axes, films.items(), PALETTE.values()):
        axis.barh(places, [tokens for _, tokens in costs.values()], 0.62, color=colour, left=1)
        for place, (frames, tokens) in zip(places, costs.values()):
            each = tokens / frames
            told = f" {tokens:,.0f}"
            axis.text(tokens * 1.08, place + 0.13, told, va="center", fontsize=8.5, bbox=PAPER)
            small = f"  {frames:,.0f} frames x {each:.3g}"
            look = {"va": "center", "fontsize": 6.8, "color": SOFT, "bbox": PAPER}
            axis.text(tokens * 1.08, place - 0.2, small, **look)
        for name, tokens in (limits or {}).items():
            axis.axvline(tokens, color=INK, linestyle="--", linewidth=1, zorder=0.5)
            axis.annotate(name, (tokens, 0), xycoords=("data", "axes fraction"), fontsize=7.5,
                          xytext=(3, 3), textcoords="offset points", ha="left", va="bottom",
                          rotation=90)  # fmt: skip
        axis.set_xscale("log", base=10)
        axis.xaxis.set_major_formatter(_plain)
        axis.set(xlim=(8, top * 30), ylim=(-0.6, len(names) - 0.4))
        axis.set_title(length, fontsize=10, loc="center")
        axis.grid(axis="x")
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(places, names)
    figure.supxlabel(
        "tokens handed to the language model (every step is ten times as many)", fontsize=9
    )
    return _fitted(figure, title)


@house
def cost_bars(
    panels: Mapping[str, Mapping[str, Mapping | float]], title: str | None = None
) -> Figure:
    """A panel a kind of cost, a bar a system; each panel has a scale of its own.

    Args:
        panels: heading -> system -> metric of a record, or a number.
        title: above everything.

    Raises:
        ValueError: nothing to draw.
    """
    if not panels or not all(panels.values()):
        raise ValueError("cost_bars needs at least one panel and one system")
    names = list(next(iter(panels.values())))
    figure = new_figure(2.0 + 1.9 * len(panels), 0.3 * len(names) + 0.8 + (0.25 if title else 0))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    places = np.arange(len(names))[::-1]
    for axis, (head, costs), colour in zip(axes, panels.items(), PALETTE.values()):
        numbers = np.array([_three(costs[name]) for name in names])  # [S, 3]
        axis.barh(places, numbers[:, 0], 0.66, color=colour)
        known = ~np.isnan(numbers[:, 1])
        axis.hlines(places[known], numbers[known, 1], numbers[known, 2], colors=INK, lw=1.1)
        most = np.nanmax(numbers)
        for place, (value, _, high) in zip(places, numbers):
            at = value if np.isnan(high) else high
            told = f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
            axis.text(at + 0.02 * most, place, told, va="center", fontsize=8)
        axis.set(xlim=(0, 1.3 * most))
        axis.set_title(head, fontsize=9, loc="center")
        axis.grid(axis="x")
        axis.tick_params(axis="y", length=0)
        axis.locator_params(axis="x", nbins=3)
    axes[0].set_yticks(places, names)
    return _fitted(figure, title)


@house
def value_for_money(
    points: Mapping[str, tuple[float, Mapping]],
    xlabel: str,
    ylabel: str = "exact answers, %",
    beside: Sequence[str] = (),
    log: bool = True,
    title: str | None = None,
) -> Figure:
    """Answers over a cost, a point a system with its interval and its name.

    Args:
        points: system -> (cost, metric of the share).
        xlabel, ylabel, title: texts.
        beside: systems whose names stand on the left of their points.
        log: the cost doubles from mark to mark.

    Raises:
        ValueError: nothing to draw.
    """
    if not points:
        raise ValueError("value_for_money needs at least one system")
    figure = new_figure(7.4, 3.4 + (0.25 if title else 0.0))
    axis = figure.subplots()
    for (name, (cost, share)), colour in zip(points.items(), list(PALETTE.values()) * 3):
        value, low, high = (100 * x for x in _three(share))
        colour = PALETTE["grey"] if colour == PALETTE["yellow"] else colour
        axis.plot([cost, cost], [low, high], color=colour, linewidth=1.6)
        axis.plot(cost, value, "o", color=colour, markersize=7)
        side = -1 if name in beside else 1
        axis.annotate(name, (cost, value), xytext=(9 * side, 0), textcoords="offset points",
                      ha="left" if side > 0 else "right", va="center", fontsize=9)  # fmt: skip
    if log:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(_plain)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.margins(x=0.16, y=0.1)
    axis.grid(axis="both")
    return _fitted(figure, title)


def _plain(value: float, _) -> str:
    return f"{value:,.0f}"


def _three(value: Mapping | float) -> tuple[float, float, float]:
    if not isinstance(value, Mapping):
        return float(value), np.nan, np.nan
    low, high = value.get("low"), value.get("high")
    return value["mean"], np.nan if low is None else low, np.nan if high is None else high


def _fitted(figure, title: str | None) -> Figure:
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = BILLS_COLOURS
    return fit_png(figure, BILLS_PNG_BYTES)
