"""Which patches become one token, where clusters have any shape: maps over frames."""

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from vlmcourse.figures.media import show_frame
from vlmcourse.figures.style import INK, as_pixels, fit_png, house, new_figure

MAPS_PNG_BYTES, MAPS_COLOURS = 46_000, 128
SIDE = 2.25
"""Inches, of a map."""
GOLDEN = 0.618034
NUMBERED, LETTER = 20, 0.16
"""Most clusters whose numbers are written on them, and inches that a number needs."""
TINT, DARKEST = 0.7, 0.6


def cluster_colours(count: int) -> np.ndarray:
    """Colours of `count` clusters, float `[count, 3]` in 0..1: neighbours in number differ most."""
    hues = [(0.58 + GOLDEN * number) % 1.0 for number in range(count)]
    tones = [(0.62, 0.95), (0.85, 0.75), (0.42, 1.0)]
    return np.array([colorsys.hsv_to_rgb(h, *tones[i % 3]) for i, h in enumerate(hues)])


def grid_side(ids: np.ndarray) -> int:
    """Side of the square grid of patches that `ids [P]` belong to. Raises ValueError."""
    side = round(len(ids) ** 0.5)
    if ids.ndim != 1 or side * side != len(ids):
        raise ValueError(f"ids {ids.shape} are no square grid of patches")
    return side


@house
def cluster_maps(
    frames: Mapping[str, np.ndarray],
    scales: Mapping[str, Sequence[np.ndarray]],
    title: str | None = None,
) -> Figure:
    """A row a frame: the frame with its patches, then a map for every scale, patches of one token
    in one colour inside one outline. A token's patches need not touch.

    Args:
        frames: name -> uint8 [H, W, 3].
        scales: the same names -> for every scale the cluster of each patch, int [P] in reading
            order of a square grid (`Scale.patches` of parts/event_merging.py).
        title: above everything.

    Raises:
        ValueError: frames without maps, patches that form no square, or nothing to draw.
    """
    if not frames or list(frames) != list(scales):
        raise ValueError(f"frames {list(frames)} and maps of {list(scales)} do not go together")
    most = max(len(each) for each in scales.values())
    heights = [as_pixels(frame[None]).shape[1] / frame.shape[1] for frame in frames.values()]
    figure = new_figure(SIDE * (most + 1), SIDE * sum(heights) + 0.4 + (0.3 if title else 0.0))
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    axes = figure.subplots(len(frames), most + 1, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for row, (name, frame) in zip(axes, frames.items()):
        maps = [np.asarray(ids) for ids in scales[name]]
        show_frame(row[0], frame)
        _fit(row[0], frame)
        side = grid_side(maps[0])
        _grid(row[0], side)
        row[0].set_title(f"{name}: {side * side} patches", fontsize=10, loc="center")
        for axis, ids in zip(row[1:], maps):
            _map(axis, frame, ids)
            axis.set_title(f"{len(np.unique(ids))} tokens", fontsize=10, loc="center")
        for axis in row[1 + len(maps) :]:
            axis.set_visible(False)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = MAPS_COLOURS
    return fit_png(figure, MAPS_PNG_BYTES)


def _fit(axis, frame: np.ndarray) -> None:
    axis.images[-1].set_extent((0, 1, 1, 0))
    axis.set(xlim=(-0.01, 1.01), ylim=(1.01, -0.01), aspect=frame.shape[0] / frame.shape[1])


def _grid(axis, side: int) -> None:
    lines = np.arange(side + 1) / side
    look = {"color": "white", "linewidth": 0.4, "alpha": 0.4}
    axis.vlines(lines, 0, 1, **look)
    axis.hlines(lines, 0, 1, **look)


def _map(axis, frame: np.ndarray, ids: np.ndarray) -> None:
    side, (names, numbers) = grid_side(ids), np.unique(ids, return_inverse=True)
    grid = numbers.reshape(side, side)
    grey = frame.mean(-1, keepdims=True) / 255.0  # [H, W, 1]
    rows = np.arange(frame.shape[0]) * side // frame.shape[0]
    columns = np.arange(frame.shape[1]) * side // frame.shape[1]
    tint = cluster_colours(len(names))[grid][rows][:, columns]  # [H, W, 3]
    shown = 255 * ((1 - TINT) * grey + TINT * tint * (DARKEST + (1 - DARKEST) * grey))
    show_frame(axis, shown.clip(0, 255).astype(np.uint8))
    _fit(axis, frame)
    _borders(axis, grid)
    if len(names) <= NUMBERED:
        shade = [withStroke(linewidth=1.6, foreground="white")]
        for number, name in enumerate(names):
            if (grid == number).sum() * (SIDE / side) ** 2 < LETTER**2:
                continue
            row, column = _middle(grid == number)
            look = {"fontsize": 7.5, "ha": "center", "va": "center", "color": INK}
            at = ((column + 0.5) / side, (row + 0.5) / side)
            axis.text(*at, str(int(name)), path_effects=shade, **look)


def _borders(axis, grid: np.ndarray) -> None:
    """Lines between patches of different clusters."""
    side, look = len(grid), {"color": "white", "linewidth": 1.1}
    for row, column in zip(*np.nonzero(grid[:, 1:] != grid[:, :-1])):
        axis.vlines((column + 1) / side, row / side, (row + 1) / side, **look)
    for row, column in zip(*np.nonzero(grid[1:] != grid[:-1])):
        axis.hlines((row + 1) / side, column / side, (column + 1) / side, **look)


def _middle(here: np.ndarray) -> tuple[int, int]:
    """The patch of a cluster that is nearest to the mean of its places."""
    places = np.argwhere(here)
    return tuple(places[((places - places.mean(0)) ** 2).sum(1).argmin()])
