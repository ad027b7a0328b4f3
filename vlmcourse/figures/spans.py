"""Temporal grounding: spans that were said beside the true ones, on one clock."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vlmcourse.figures.media import show_frame
from vlmcourse.figures.style import PALETTE, SOFT, as_pixels, fit_png, house, new_figure

SPANS_PNG_BYTES, SPANS_COLOURS = 26_000, 64
TRUTH = "#f6c667"
Span = tuple[float, float]


@house
def spans_on_a_clock(
    events: Sequence[str],
    truth: Sequence[Span],
    said: Mapping[str, Sequence[Span | None]],
    duration_s: float,
    iou: Mapping[str, Sequence[float]] | None = None,
    frames: np.ndarray | None = None,
    title: str | None = None,
) -> Figure:
    """Events down, seconds across: the true span as a band, under it one bar a system.

    Args:
        events: [E] what happens.
        truth: [E] (start_s, end_s).
        said: system -> [E] spans; None (or NaN) where an answer was no number.
        duration_s: length of the clip.
        iou: system -> [E], written at the right.
        frames: uint8 [T, H, W, 3] that stand for T equal stretches of the clip, above everything.
        title: above the frames.

    Raises:
        ValueError: nothing to draw, or lists of different lengths.
    """
    lengths = {len(truth), *map(len, said.values()), *map(len, (iou or {}).values())}
    if not events or not said or lengths != {len(events)}:
        raise ValueError(f"{len(events)} events need as many spans, not {sorted(lengths)}")
    colours = dict(zip(said, (PALETTE[c] for c in ("blue", "red", "green", "pink", "grey"))))
    each = 0.2 + 0.17 * len(said)
    heights = [each * len(events)]
    if frames is not None:
        frames = as_pixels(frames)
        heights.insert(0, 7.4 / len(frames) * frames.shape[1] / frames.shape[2])
    figure = new_figure(9.3, sum(heights) + 0.95 + (0.25 if title else 0.0))
    figure.get_layout_engine().set(h_pad=0.02, hspace=0.0)
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    if frames is not None:
        _film(axes[0], frames, duration_s)
    axis = axes[-1]
    for row, (start_s, end_s) in enumerate(truth):
        axis.barh(row, end_s - start_s, 0.92, left=start_s, color=TRUTH, alpha=0.6, zorder=1)
        for lane, (system, spans) in enumerate(said.items()):
            y = row + 0.8 * ((lane + 0.5) / len(said) - 0.5)
            _one(axis, spans[row], y, 0.62 / len(said), colours[system], duration_s)
            if iou is not None and system in iou:
                look = {"va": "center", "fontsize": 8, "color": colours[system]}
                axis.text(1.012 * duration_s, y, f"{iou[system][row]:.2f}", **look)
    if iou is not None:
        axis.text(1.012 * duration_s, -0.55, "IoU", va="bottom", fontsize=8, color=SOFT)
    axis.set_yticks(range(len(events)), events)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.set(xlim=(0, duration_s), ylim=(len(events) - 0.45, -0.55), xlabel="seconds")
    axis.set_xticks(np.arange(0, duration_s + 1e-9, max(1, round(duration_s / 10))))
    axis.grid(axis="x")
    marks = [Patch(facecolor=TRUTH, alpha=0.6, label="true span")]
    marks += [Patch(facecolor=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=marks, loc="outside upper right", ncols=len(marks))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = SPANS_COLOURS
    return fit_png(figure, SPANS_PNG_BYTES)


def _film(axis, frames: np.ndarray, duration_s: float) -> None:
    slot = duration_s / len(frames)
    for index, frame in enumerate(frames):
        show_frame(axis, frame)
        axis.images[-1].set_extent((slot * (index + 0.02), slot * (index + 0.98), 0, 1))
    axis.set(ylim=(0, 1), yticks=[], aspect="auto")
    axis.tick_params(axis="x", length=0)
    axis.spines[:].set_visible(False)


def _one(axis, span: Span | None, y: float, tall: float, colour: str, duration_s: float) -> None:
    """A bar; a diamond where it has no length, an arrow where it begins behind the clip's end."""
    if span is None or np.isnan(span).any():
        axis.text(0.02, y, "no number", va="center", fontsize=7.5, color=colour, style="italic")
        return
    start_s, end_s = span
    if start_s >= duration_s:
        axis.plot(0.99 * duration_s, y, ">", color=colour, markersize=6, zorder=3)
    elif end_s <= start_s:
        axis.plot(start_s, y, "D", color=colour, markersize=5, zorder=3)
    else:
        axis.barh(y, min(end_s, duration_s) - start_s, tall, left=start_s, color=colour, zorder=2)
