"""The positions of a row on three axes, token by token."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from vlmcourse.figures.diagrams import KINDS
from vlmcourse.figures.media import show_frame
from vlmcourse.figures.style import INK, PALETTE, SOFT, as_pixels, fit_png, house, new_figure

POSITIONS_PNG_BYTES, POSITIONS_COLOURS = 44_000, 96
AXES = {"time": PALETTE["red"], "row": PALETTE["blue"], "column": PALETTE["green"]}
"""The three numbers of a token, and the colour of each."""
WIDTH, STRIP, LANE = 9.4, 0.66, 0.95
"""Inches: of the figure, of the strip of tokens, of the lane of one axis."""
ROOM = WIDTH - 0.75
"""Inches that all tokens share."""
LETTER = 0.073
TEXT_TOKEN = 0.11
"""Inches: width of a small letter, and least width of a token that is no picture's."""


@house
def position_axes(
    runs: Sequence[tuple[str, str, int]],
    positions: Sequence[Sequence[int]],
    frames: Sequence[np.ndarray | None] = (),
    sequential: bool = True,
    title: str | None = None,
) -> Figure:
    """A row of tokens as boxes, and under them a lane for each of the three numbers of a token.

    Text has three equal numbers (dots); inside a picture or film each goes its own way. Under each
    box stand the least and the largest, axis by axis. Boxes of text are drawn wider than their
    tokens ask for where their words need it.

    Args:
        runs: (kind, label, count) one behind the other: kind is one of `diagrams.KINDS`.
        positions: [3, L] time, row and column of every token (`parts.mrope.mrope_positions`).
        frames: uint8 [H, W, 3] for the runs of kind "picture" in order, shown beside their labels.
        sequential: draw the numbers of tokens that are counted one by one, too.
        title: above everything.

    Raises:
        ValueError: not as many positions as tokens, or more frames than runs for them.
    """
    positions = np.asarray(positions)
    counts = [count for _, _, count in runs]
    if not runs or positions.shape != (3, sum(counts)):
        raise ValueError(f"positions {positions.shape} for {sum(counts)} tokens; wanted [3, L]")
    pictures = sum(kind == "picture" for kind, _, _ in runs)
    if len(frames) > pictures:
        raise ValueError(f"{len(frames)} frames for {pictures} runs of pictures")
    wide = _widths(runs)
    left = np.cumsum([0.0, *wide])
    figure = new_figure(WIDTH, STRIP + 3 * LANE + 1.0 + (0.3 if title else 0.0))
    figure.get_layout_engine().set(hspace=0.02, h_pad=0.02)
    strip, *lanes = figure.subplots(4, 1, height_ratios=(STRIP, LANE, LANE, LANE), sharex=True)
    waiting = iter(frames)
    for (kind, label, count), start, width in zip(runs, left, wide):
        frame = next(waiting, None) if kind == "picture" else None
        _box(strip, kind, f"{label}\n×{count}" if kind == "picture" else label, start, width, frame)
    starts = np.cumsum([0, *counts])
    centres = np.concatenate(
        [x + w * (np.arange(n) + 0.5) / n for x, w, n in zip(left, wide, counts)]
    )
    top = positions.max() * (1.5 if sequential and len(centres) > 1.5 * positions.max() else 1.08)
    for (name, colour), lane, line in zip(AXES.items(), lanes, positions):
        for index, (kind, _, count) in enumerate(runs):
            part = slice(starts[index], starts[index] + count)
            media = kind == "picture"
            look = {"drawstyle": "steps-mid"} if media else {"marker": "o", "markersize": 2.2}
            lane.plot(centres[part], line[part], color=colour if media else INK, lw=1.4, **look)
        if sequential:
            lane.plot(centres, np.arange(len(centres)), color=SOFT, linestyle=":", linewidth=1.1)
        lane.vlines(left, 0, 1, transform=lane.get_xaxis_transform(), color="#d1d5db", lw=0.7)
        lane.set(ylim=(-0.06 * top, top), xticks=[])
        lane.set_ylabel(name, color=colour)
        lane.grid(axis="y")
    strip.set(xlim=(0, left[-1]), ylim=(0, 1), yticks=[], xticks=[])
    strip.spines[:].set_visible(False)
    _ranges(lanes[-1], runs, starts, positions, left)
    _legend(figure, runs, sequential)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = POSITIONS_COLOURS
    return fit_png(figure, POSITIONS_PNG_BYTES)


def _widths(runs: Sequence[tuple[str, str, int]]) -> np.ndarray:
    """Inches of every run: what its words need, and for pictures what is left, by their tokens."""
    longest = [max(map(len, label.split("\n"))) for _, label, _ in runs]
    words = [max(TEXT_TOKEN * n, LETTER * size + 0.1) for (_, _, n), size in zip(runs, longest)]
    media = np.array([kind == "picture" for kind, _, _ in runs])
    if not media.any():
        return np.array(words) * ROOM / sum(words)
    words = np.array(words)
    text = words[~media].sum()
    words[~media] *= min(1.0, 0.55 * ROOM / max(text, 1e-9))
    tokens = np.array([count for _, _, count in runs])[media] ** 0.5
    words[media] = (ROOM - words[~media].sum()) * tokens / tokens.sum()
    return words


def _box(axis, kind: str, label: str, start: float, width: float, frame) -> None:
    """A run of tokens: a box with its label, a frame in front of it if there is one."""
    look = {"facecolor": KINDS[kind][0], "edgecolor": SOFT, "linewidth": 0.8}
    axis.add_patch(Rectangle((start + 0.015, 0.03), width - 0.03, 0.94, **look))
    middle = start + width / 2
    if frame is not None:
        frame = as_pixels(np.asarray(frame)[None])[0]
        tall, wide = frame.shape[:2]
        across = LETTER * max(map(len, label.split("\n"))) + 0.12
        size = min(0.86, max(0.3, width - across) / STRIP * tall / wide)  # of the strip's height
        half = size * STRIP * wide / tall / 2
        at, middle = start + half + 0.06, (start + 2 * half + 0.06 + start + width) / 2
        show_frame(axis, frame)
        extent = (at - half, at + half, 0.5 - size / 2, 0.5 + size / 2)
        axis.images[-1].set(extent=extent, zorder=3)
        axis.set_aspect("auto")
    axis.text(middle, 0.49, label, ha="center", va="center", fontsize=8)


def _ranges(axis, runs, starts, positions: np.ndarray, left: np.ndarray) -> None:
    """Under each run the least and the largest of its numbers; nothing where there is no room."""
    for (_, _, count), first, here, there in zip(runs, starts, left, left[1:]):
        inside = positions[:, first : first + count]
        spans = [f"{a}–{b}" if b > a else str(a) for a, b in zip(inside.min(1), inside.max(1))]
        same = bool((inside == inside[0]).all())
        lines = [(spans[0], INK)] if same else list(zip(spans, AXES.values()))
        if LETTER * 0.8 * max(len(text) for text, _ in lines) > there - here + 0.1:
            continue
        for number, (text, colour) in enumerate(lines):
            axis.annotate(
                text,
                ((here + there) / 2, 0),
                xycoords=("data", "axes fraction"),
                xytext=(0, -4 - 10.5 * number),
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize=7.5,
                color=colour,
            )


def _legend(figure: Figure, runs, sequential: bool) -> None:
    used = [kind for kind in KINDS if any(run[0] == kind for run in runs)]
    marks = [Patch(facecolor=KINDS[k][0], edgecolor=SOFT, label=KINDS[k][1]) for k in used]
    marks += [Line2D([], [], color=INK, marker="o", markersize=3, label="the same on all axes")]
    if sequential:
        marks.append(Line2D([], [], color=SOFT, linestyle=":", label="counted one by one (1-D)"))
    figure.legend(handles=marks, loc="outside lower left", ncols=len(marks), columnspacing=1.1)
