"""Claims with the numbers that should show them: effects, intervals, verdicts."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vlmcourse.figures.style import INK, PALETTE, SOFT, fit_png, house, new_figure

FOREST_PNG_BYTES, FOREST_COLOURS = 58_000, 16
VERDICTS = {"supported": "blue", "undecided": "grey", "contradicted": "red"}
MARKERS = {"greater": ">", "less": "<", "equal": "D"}
"""Which way the interval was expected to lie, told by the mark of the effect."""
WIDTH, LINES = 62, 2


@dataclass(frozen=True)
class Effect:
    """One number of a claim, in points.

    Attributes:
        value, low, high: the effect and its 95 % interval.
        expect: "greater", "less" or "equal".
        than: what it is held against.
        margin: reach of "equal".
        verdict: of this number alone.
    """

    value: float
    low: float
    high: float
    expect: str = "greater"
    than: float = 0.0
    margin: float = 0.0
    verdict: str = "supported"


@dataclass(frozen=True)
class ForestRow:
    """One claim: its heading (a system), its text, its verdict and its numbers."""

    head: str
    text: str
    verdict: str
    effects: tuple[Effect, ...]


def rows_of(judged, names, who: str | None = None, systems: Sequence[str] = ()) -> list[ForestRow]:
    """Judged claims as rows; numbers that are no shares stay out, and claims without any other.

    Args:
        judged: of `comparison.load().judged`.
        names: key of a system -> its name.
        who: "paper" or "here"; None takes both.
        systems: keys of those that are shown; all without any.
    """
    rows = []
    for one in judged:
        here = one.claim.by == "measured here"
        if (who and here != (who == "here")) or (systems and one.claim.system not in systems):
            continue
        effects = tuple(
            Effect(
                100 * m.value, 100 * m.low, 100 * m.high, m.evidence.expect, 100 * m.evidence.than,
                100 * m.evidence.margin, m.verdict,
            )
            for m in one.measured
            if m.unit == "share" and m.low is not None
        )  # fmt: skip
        if effects:
            mark = {"strength": "+", "weakness": "−"}[one.claim.side]
            text = f"{mark} {one.claim.text}" + ("" if one.holds else " †")
            rows.append(ForestRow(names[one.claim.system], text, one.verdict, effects))
    return rows


@house
def forest(rows: Sequence[ForestRow], title: str | None = None, xlabel: str = "points") -> Figure:
    """One row a claim, one mark a number with its interval, coloured by the number's verdict.

    A mark points to where the number was expected (a diamond: as near zero as the grey bar says).
    The colour of the text is the verdict of the whole claim.

    Args:
        rows: in the order in which they are shown; those with one heading stand together.
        title, xlabel: texts.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("forest needs at least one claim")
    texts = [_wrapped(row.text) for row in rows]
    heights = [max(0.19 * len(row.effects), 0.155 * (t.count("\n") + 1)) + 0.11
               for row, t in zip(rows, texts)]  # fmt: skip
    heads = [i for i, row in enumerate(rows) if i == 0 or rows[i - 1].head != row.head]
    tall = sum(heights) + 0.26 * len(heads)
    figure = new_figure(9.6, tall + 0.75 + (0.25 if title else 0.0))
    axis = figure.subplots()
    edges = np.array([(e.low, e.high) for row in rows for e in row.effects])
    left, right = min(edges.min(), -2.0), max(edges.max(), 2.0)
    room = 0.03 * (right - left)
    axis.set(xlim=(left - room, right + room), ylim=(tall, 0))
    axis.axvline(0, color=INK, linewidth=1)
    y, ticks = 0.0, []
    for number, (row, text, height) in enumerate(zip(rows, texts, heights)):
        if number in heads:
            y += 0.26
            axis.axhline(y - 0.24, color="#d1d5db", linewidth=0.8)
            axis.annotate(row.head, (0, y - 0.06), xycoords=("axes fraction", "data"),
                          xytext=(-6, 0), textcoords="offset points", ha="right", va="center",
                          fontsize=9, fontweight="bold", annotation_clip=False)  # fmt: skip
        ticks.append((y + height / 2, text, PALETTE[VERDICTS[row.verdict]]))
        places = y + height * (np.arange(len(row.effects)) + 0.5) / len(row.effects)
        for effect, place in zip(row.effects, places):
            _effect(axis, effect, place)
        y += height
    axis.set_yticks([place for place, _, _ in ticks], [text for _, text, _ in ticks], fontsize=8)
    for label, (_, _, colour) in zip(axis.get_yticklabels(), ticks):
        label.set_color(colour if colour != PALETTE["grey"] else SOFT)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x")
    axis.set_xlabel(xlabel)
    marks = [
        Line2D([], [], color=PALETTE[colour], marker="o", markersize=5, label=verdict)
        for verdict, colour in VERDICTS.items()
    ]
    figure.legend(handles=marks, loc="outside upper right", ncols=3)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = FOREST_COLOURS
    return fit_png(figure, FOREST_PNG_BYTES)


def _effect(axis, effect: Effect, place: float) -> None:
    colour = PALETTE[VERDICTS[effect.verdict]]
    if effect.expect == "equal":
        reach = [effect.than - effect.margin, effect.than + effect.margin]
        axis.plot(reach, [place, place], color="#d1d5db", linewidth=6, solid_capstyle="butt")
    elif effect.than:
        axis.plot(effect.than, place, "|", color=INK, markersize=9)
    axis.plot([effect.low, effect.high], [place, place], color=colour, linewidth=1.5)
    axis.plot(effect.value, place, MARKERS[effect.expect], color=colour, markersize=5)


def _wrapped(text: str) -> str:
    lines = textwrap.wrap(text, WIDTH)
    kept = lines[:LINES]
    if len(lines) > LINES:
        kept[-1] = textwrap.shorten(" ".join(lines[LINES - 1 :]), WIDTH, placeholder=" ...")
    return "\n".join(kept)
