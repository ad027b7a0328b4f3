"""Which patches of a frame become one token: four in a row, or a window of two by two."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vlmcourse.figures.media import show_frame
from vlmcourse.figures.style import PALETTE, as_pixels, fit_png, house, new_figure

MERGING_PNG_BYTES, MERGING_COLOURS = 24_000, 64


def rows_of_patches(side: int, count: int = 4) -> np.ndarray:
    """`[N, count]` neighbours in reading order of a grid `side` x `side`, `count` to a token.

    Raises:
        ValueError: the patches do not fall into such groups.
    """
    if side * side % count:
        raise ValueError(f"{side * side} patches do not fall into groups of {count}")
    return np.arange(side * side).reshape(-1, count)


def windows_of_patches(side: int, window: int = 2) -> np.ndarray:
    """`[N, window^2]` the patches of each square window of a grid `side` x `side`, row by row.

    Raises:
        ValueError: the grid does not fall into such windows.
    """
    if side % window:
        raise ValueError(f"a side of {side} does not fall into windows of {window}")
    grid = np.arange(side * side).reshape(side // window, window, side // window, window)
    return grid.swapaxes(1, 2).reshape(-1, window * window)


def tokens_that_see(tokens: np.ndarray, patches: Sequence[int]) -> np.ndarray:
    """Bool `[N]`: which of the tokens `[N, K]` hold at least one of these patches."""
    return np.isin(tokens, list(patches)).any(1)


@house
def merged_patches(
    frame: np.ndarray,
    ways: Mapping[str, np.ndarray],
    thing: Sequence[int] = (),
    brighter: float = 1.5,
    title: str | None = None,
) -> Figure:
    """A frame, and for every way to merge what each token is made of.

    Above, the outline of each token on the frame, those that see a thing in orange; below, the mean
    colour of the patches of each token: what it would keep, were it their mean.

    Args:
        frame: uint8 [H, W, 3].
        ways: name -> `[N, K]` patches of each token, numbered in reading order of a square grid
            (`rows_of_patches`, `windows_of_patches`).
        thing: the patches that show the thing in question.
        brighter: mean colours times this, for a world that is mostly dark.
        title: above everything.

    Raises:
        ValueError: patches that form no square, or do not divide the frame.
    """
    frame = as_pixels(frame[None])[0]
    figure = new_figure(1.0 + 2.6 * (len(ways) + 1), 5.2 if title is None else 5.5)
    axes = figure.subplots(2, len(ways) + 1, squeeze=False)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    sides = {name: _side(frame, tokens) for name, tokens in ways.items()}
    first = next(iter(sides.values()))
    _show(axes[0, 0], frame)
    _grid(axes[0, 0], frame, first)
    axes[0, 0].set_title(f"{first * first} patches", loc="center", fontsize=10)
    _show(axes[1, 0], _mean_colours(frame, np.arange(first**2)[:, None], first, brighter))
    axes[1, 0].set_xlabel("mean colour of each", fontsize=9)
    for column, (name, tokens) in enumerate(ways.items(), start=1):
        seeing = tokens_that_see(tokens, thing)
        _show(axes[0, column], frame)
        _outlines(axes[0, column], frame, tokens, sides[name], seeing)
        axes[0, column].set_title(f"{name}: {len(tokens)} tokens", loc="center", fontsize=10)
        _show(axes[1, column], _mean_colours(frame, tokens, sides[name], brighter))
        if len(thing):
            told = f"{int(seeing.sum())} of {len(tokens)} see the thing"
            axes[1, column].set_xlabel(told, fontsize=9)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = MERGING_COLOURS
    return fit_png(figure, MERGING_PNG_BYTES)


def _side(frame: np.ndarray, tokens: np.ndarray) -> int:
    side = round(tokens.size**0.5)
    if side * side != tokens.size:
        raise ValueError(f"{tokens.size} patches form no square")
    if frame.shape[0] % side or frame.shape[1] % side:
        raise ValueError(f"{frame.shape[1]} x {frame.shape[0]} does not fall into {side} x {side}")
    return side


def _show(axis, picture: np.ndarray) -> None:
    show_frame(axis, picture)
    axis.images[-1].set_extent((0, 1, 1, 0))
    axis.set(xlim=(-0.01, 1.01), ylim=(1.01, -0.01), aspect=picture.shape[0] / picture.shape[1])


def _grid(axis, frame: np.ndarray, side: int) -> None:
    lines = np.arange(side + 1) / side
    look = {"color": "white", "linewidth": 0.5, "alpha": 0.5}
    axis.vlines(lines, 0, 1, **look)
    axis.hlines(lines, 0, 1, **look)


def _outlines(axis, frame: np.ndarray, tokens: np.ndarray, side: int, seeing: np.ndarray) -> None:
    """One frame of lines around the patches of each token; orange ones on top."""
    for token, sees in sorted(zip(tokens, seeing), key=lambda pair: pair[1]):
        colour = PALETTE["orange"] if sees else "white"
        rows, columns = np.divmod(token, side)
        place = (columns.min() / side, rows.min() / side)
        wide, tall = (np.ptp(columns) + 1) / side, (np.ptp(rows) + 1) / side
        look = {"linewidth": 2.0 if sees else 0.8, "alpha": 1.0 if sees else 0.55}
        axis.add_patch(Rectangle(place, wide, tall, fill=False, edgecolor=colour, **look))


def _mean_colours(frame: np.ndarray, tokens: np.ndarray, side: int, brighter: float) -> np.ndarray:
    """The grid of patches, each in the mean colour of its token: uint8 `[side, side, 3]`."""
    tall, wide = frame.shape[0] // side, frame.shape[1] // side
    patches = frame.reshape(side, tall, side, wide, 3).mean((1, 3)).reshape(-1, 3)  # [P, 3]
    painted = np.zeros_like(patches)
    for token in tokens:
        painted[token] = patches[token].mean(0)
    return (painted * brighter).clip(0, 255).astype(np.uint8).reshape(side, side, 3)
