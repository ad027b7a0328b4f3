"""The memory bank as a film: after every frame, which frames does each entry stand for?"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vlmcourse.figures.media import show_frame
from vlmcourse.figures.style import INK, PALETTE, SOFT, as_pixels, fit_png, house, new_figure

BANK_PNG_BYTES, BANK_COLOURS = 40_000, 96
LANE = 0.155
"""Inches, of one step."""
AROUND = 1
"""Patches that are shown on each side of a position."""
ENTRIES = [PALETTE[name] for name in ("sky", "orange", "green", "pink", "yellow", "blue")]
Span = tuple[int, int]


def entry_spans(held: np.ndarray) -> list[Span]:
    """First and last frame of every entry that holds some, from bool `[M, T]`."""
    there = [np.flatnonzero(one) for one in held]
    return [(int(one[0]), int(one[-1])) for one in there if len(one)]


def merged_borders(before: Sequence[Span], after: Sequence[Span], new: int) -> list[int]:
    """Frames that began an entry (or are `new`) and do so no more, though they are still held.

    Args:
        before, after: entries of a bank before and after frame `new` came.
    """
    starts = {first for first, _ in before} | {new}
    still = {first for first, _ in after}
    held = {frame for first, last in after for frame in range(first, last + 1)}
    return sorted((starts - still) & held)


@house
def bank_film(
    frames: np.ndarray,
    history: np.ndarray,
    positions: Mapping[str, int | None],
    times_s: Sequence[float] | None = None,
    title: str | None = None,
) -> Figure:
    """One panel a token position: time runs down, each line is the bank after one more frame, each
    bar an entry over the frames that it stands for. A dot marks where two entries have just become
    one. Above, what the position and its neighbours show.

    Args:
        frames: uint8 [T, H, W, 3].
        history: bool [T, M, N, T] of `parts.merge_history.merge_history`.
        positions: name -> number of the patch in reading order of a square grid; around it the
            frames are cut out. None takes the first and shows whole frames.
        times_s: [T] seconds of the frames; else they are numbered.
        title: above everything.

    Raises:
        ValueError: another number of frames in the history, or no position.
    """
    frames, history = as_pixels(frames), np.asarray(history, dtype=bool)
    count = len(frames)
    if history.ndim != 4 or history.shape[0] != count or history.shape[3] != count:
        raise ValueError(f"a history of {count} frames is [T, M, N, T], not {history.shape}")
    if not positions:
        raise ValueError("bank_film needs at least one token position")
    wide = 9.4 / len(positions) - 0.45
    cell = wide / count  # inches of a frame
    tall = cell * frames.shape[1] / frames.shape[2]
    height = LANE * count + tall + 0.85 + (0.3 if title else 0.0)
    figure = new_figure(9.4, height)
    axes = figure.subplots(1, len(positions), sharey=True, squeeze=False)[0]
    for axis, (name, place) in zip(axes, positions.items()):
        _strip(axis, frames, place, history.shape[2], tall / LANE)
        _lines(axis, history[:, :, place or 0])
        axis.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.9 - tall / LANE))
        axis.set_title(name, fontsize=10, loc="center")
        axis.set_xlabel("seconds" if times_s is not None else "frame")
        _ticks(axis.xaxis, count, times_s, max(1, round(0.3 / cell)))
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    _ticks(axes[0].yaxis, count, times_s, max(1, round(0.17 / LANE)) * (2 if count > 20 else 1))
    axes[0].set_ylabel("the bank after ...")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = BANK_COLOURS
    return fit_png(figure, BANK_PNG_BYTES)


def _strip(axis, frames: np.ndarray, place: int | None, patches: int, tall: float) -> None:
    """The frames above the lines, each over its own column; of a position its neighbourhood."""
    across, down, box = (0.0, 1.0), (0.0, 1.0), None
    if place is not None:
        across, down, box = _around(place, round(patches**0.5))
    height, width = frames.shape[1:3]
    rows = slice(round(down[0] * height), round(down[1] * height))
    columns = slice(round(across[0] * width), round(across[1] * width))
    for index, frame in enumerate(frames):
        show_frame(axis, frame[rows, columns])
        left, top = index - 0.47, -0.75 - tall
        axis.images[-1].set_extent((left, left + 0.94, -0.75, top))
        if box is not None:
            corner = (left + 0.94 * box[0], top + tall * box[1])
            mark = Rectangle(corner, 0.94 * box[2], tall * box[2], fill=False, linewidth=1.0)
            mark.set_edgecolor(PALETTE["orange"])
            axis.add_patch(mark)
    axis.set_aspect("auto")


def _around(place: int, side: int) -> tuple[tuple[float, float], tuple[float, float], tuple]:
    """What is cut out of a frame, as shares of its width and height, and where in that the patch
    lies: left, top and side."""
    shown = min(2 * AROUND + 1, side)
    row, column = divmod(place, side)
    top, left = (min(max(at - AROUND, 0), side - shown) for at in (row, column))
    box = ((column - left) / shown, (row - top) / shown, 1 / shown)
    return (left / side, (left + shown) / side), (top / side, (top + shown) / side), box


def _lines(axis, held: np.ndarray) -> None:
    """All steps of one position, `[T, M, T]`."""
    before: list[Span] = []
    for step, one in enumerate(held):
        spans = entry_spans(one)
        for number, (first, last) in enumerate(spans):
            corner = (first - 0.44, step - 0.36)
            bar = Rectangle(corner, last - first + 0.88, 0.72, linewidth=0)
            bar.set_facecolor(ENTRIES[number % len(ENTRIES)])
            axis.add_patch(bar)
            if step == len(held) - 1 and last > first:
                look = {"ha": "center", "va": "center", "fontsize": 7.5, "color": INK}
                axis.text((first + last) / 2, step, str(int(one.sum(1)[number])), **look)
        borders = np.array(merged_borders(before, spans, step)) - 0.5
        axis.plot(borders, [step] * len(borders), "o", color=INK, markersize=2.6)
        before = spans


def _ticks(axis, count: int, times_s: Sequence[float] | None, every: int) -> None:
    names = range(count) if times_s is None else [f"{second:g}" for second in times_s]
    axis.set_ticks(list(range(0, count, every)), [str(name) for name in names][::every])
    axis.set_tick_params(labelsize=8, labelcolor=SOFT)
