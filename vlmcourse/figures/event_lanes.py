"""Events on a time line: which frames belong together by several rules, and by chance."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vlmcourse.figures.cluster_maps import cluster_colours
from vlmcourse.figures.media import show_frame
from vlmcourse.figures.style import INK, SOFT, as_pixels, fit_png, house, new_figure

EVENTS_PNG_BYTES, EVENTS_COLOURS = 34_000, 96
LANE = 0.3
"""Inches, of a rule's line."""


def in_order(ids: Sequence[int]) -> np.ndarray:
    """Events numbered by their first frames, so that equal partitions are equal rows."""
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(int(one), len(numbers)) for one in ids])


def scene_starts(scenes: Sequence[int]) -> list[int]:
    """Frames at which another scene begins, without the first."""
    scenes = np.asarray(scenes)
    return [int(frame) for frame in np.flatnonzero(np.diff(scenes)) + 1]


@house
def event_lanes(
    frames: np.ndarray,
    lanes: Mapping[str, Sequence[int]],
    borders: Sequence[int] = (),
    times_s: Sequence[float] | None = None,
    title: str | None = None,
) -> Figure:
    """A film as a strip, and below it a line for every rule: one colour an event.

    Args:
        frames: uint8 [T, H, W, 3].
        lanes: name -> [T] the event of each frame, by any numbers (the true scenes, say).
        borders: frames with which a true scene begins, drawn as lines through everything
            (`scene_starts`).
        times_s: [T] seconds of the frames; else they are numbered.
        title: above everything.

    Raises:
        ValueError: no lane, or one of another length than the film.
    """
    frames = as_pixels(frames)
    if not lanes:
        raise ValueError("event_lanes needs at least one lane")
    for name, ids in lanes.items():
        if len(ids) != len(frames):
            raise ValueError(f"{len(frames)} frames, but {len(ids)} events of {name!r}")
    margin = 0.45 + 0.075 * max(map(len, lanes))
    cell = (9.4 - margin) / len(frames)  # inches
    tall = cell * frames.shape[1] / frames.shape[2] / LANE
    height = LANE * (len(lanes) + tall) + 0.6 + (0.3 if title else 0.0)
    figure = new_figure(9.4, height)
    axis = figure.subplots()
    for index, frame in enumerate(frames):
        show_frame(axis, frame)
        axis.images[-1].set_extent((index - 0.48, index + 0.48, -0.65, -0.65 - tall))
    for line, ids in enumerate(lanes.values()):
        _cells(axis, line, in_order(ids), cell)
    for frame in borders:
        axis.axvline(frame - 0.5, color=INK, linewidth=1.6, linestyle=(0, (4, 1.5)))
    axis.set(aspect="auto", xlim=(-0.6, len(frames) - 0.4), ylim=(len(lanes) - 0.4, -0.75 - tall))
    axis.set_yticks(range(len(lanes)), list(lanes))
    _times(axis, len(frames), times_s, cell)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    axis.set_title(title or "")
    figure.colours = EVENTS_COLOURS
    return fit_png(figure, EVENTS_PNG_BYTES)


@house
def partition_lanes(
    ids: np.ndarray,
    borders: Sequence[int] = (),
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Events of one film, a line a try (a seed of the noise): one colour an event.

    At the right, how many tries gave the same; equal tries stand together, the commonest first.

    Args:
        ids: int [S, T].
        borders: frames with which a true scene begins.
        names: [S] of the tries (default: their numbers).
        title: above everything; how many partitions differ is added.

    Raises:
        ValueError: no try, or another number of names.
    """
    rows = np.array([in_order(one) for one in np.asarray(ids)])
    if rows.ndim != 2 or not rows.size or (names is not None and len(names) != len(rows)):
        raise ValueError(f"partitions are [S, T] with S names, not {np.shape(ids)}")
    names = [str(number) for number in range(len(rows))] if names is None else names
    kinds, which, counts = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    which = which.reshape(-1)
    first = {kind: np.flatnonzero(which == kind)[0] for kind in range(len(kinds))}
    order = sorted(range(len(rows)), key=lambda i: (-counts[which[i]], first[which[i]], i))
    figure = new_figure(6.4, 0.155 * len(rows) + 0.95)
    axis, cell = figure.subplots(), 5.2 / rows.shape[1]
    for line, index in enumerate(order):
        _cells(axis, line, rows[index], cell, numbers=False)
    for frame in borders:
        axis.axvline(frame - 0.5, color=INK, linewidth=1.6, linestyle=(0, (4, 1.5)))
    line = 0
    for kind in dict.fromkeys(which[index] for index in order):
        if line:
            axis.axhline(line - 0.5, color="white", linewidth=2.2)
        if counts[kind] > 1:
            middle = line + (counts[kind] - 1) / 2
            look = {"va": "center", "fontsize": 8, "color": SOFT}
            axis.text(rows.shape[1] - 0.3, middle, f"{counts[kind]} alike", **look)
        line += counts[kind]
    axis.set(xlim=(-0.6, rows.shape[1] - 0.4), ylim=(len(rows) - 0.4, -0.6))
    axis.set_yticks(range(len(rows)), [names[index] for index in order])
    axis.tick_params(length=0, labelsize=7, axis="y")
    _times(axis, rows.shape[1], None, cell)
    axis.spines[:].set_visible(False)
    told = f"{len(kinds)} different partitions in {len(rows)} tries"
    axis.set_title(f"{title}: {told}" if title else told)
    axis.set_ylabel("seed of the noise")
    figure.colours = EVENTS_COLOURS
    return fit_png(figure, EVENTS_PNG_BYTES)


def _cells(axis, line: int, ids: np.ndarray, cell: float, numbers: bool = True) -> None:
    """A field a frame in the colour of its event; fields of one event touch."""
    colours = cluster_colours(int(ids.max()) + 1)
    starts = [0, *scene_starts(ids), len(ids)]
    for first, end in pairwise(starts):
        corner, event = (first - 0.48, line - 0.4), ids[first]
        field = Rectangle(corner, end - first - 0.04, 0.8, linewidth=0, facecolor=colours[event])
        axis.add_patch(field)
        if numbers and cell * (end - first) > 0.14:
            look = {"ha": "center", "va": "center", "fontsize": 8, "color": INK}
            axis.text((first + end - 1) / 2, line, str(int(event) + 1), **look)


def _times(axis, count: int, times_s: Sequence[float] | None, cell: float) -> None:
    every = max(1, round(0.32 / cell))
    shown = range(0, count, every)
    told = [str(i) if times_s is None else f"{times_s[i]:g}" for i in shown]
    axis.set_xticks(list(shown), told)
    axis.set_xlabel("frame" if times_s is None else "seconds", labelpad=1)
