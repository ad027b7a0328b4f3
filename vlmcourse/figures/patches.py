"""Patches, merge blocks and their positions drawn on real frames."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from vlmcourse.figures.media import show_frame
from vlmcourse.figures.style import PALETTE, as_pixels, fit_png, house, new_figure

PATCHES_PNG_BYTES, PATCHES_COLOURS = 46_000, 64
WIDTH, TALLEST = 9.4, 4.6
"""Inches, of the figure and of a frame."""
SMALLEST_LETTERS = 4.5
"""Points; numbers that would be smaller are left out."""


def patch_order(rows: int, columns: int, merge: int = 2) -> np.ndarray:
    """`[rows, columns]` when each patch of a frame comes, if merge blocks stand together."""
    order = np.empty((rows, columns), dtype=int)
    places = np.arange(rows * columns).reshape(rows // merge, columns // merge, merge, merge)
    order[:] = places.transpose(0, 2, 1, 3).reshape(rows, columns)
    return order


@house
def patch_positions(
    frames: np.ndarray,
    ids: Sequence[Sequence[int]],
    patch: int = 8,
    merge: int = 2,
    temporal: int = 2,
    most: int = 3,
    title: str | None = None,
) -> Figure:
    """What becomes of a picture or a video: first its patches with their order, then its tokens
    with their time, row and column.

    Thin lines are patches; thick ones are merge blocks, a token each.

    Args:
        frames: uint8 [T, H, W, 3], sides multiples of `patch * merge`; T is 1 for a picture.
        ids: [3, M] positions of the medium's tokens in the language model.
        patch: side of a patch in pixels.
        merge: patches along the side of a token.
        temporal: frames that share their patches.
        most: temporal patches that are drawn, the first ones.
        title: above everything.

    Raises:
        ValueError: frames that do not fall into tokens, or not as many ids as tokens.
    """
    frames, ids = as_pixels(frames), np.asarray(ids)
    step, (height, width) = patch * merge, frames.shape[1:3]
    if height % step or width % step:
        raise ValueError(f"{width} x {height} does not fall into {merge} x {merge} patches")
    pairs = -(-len(frames) // temporal)
    rows, columns = height // step, width // step
    if ids.shape != (3, pairs * rows * columns):
        raise ValueError(f"ids {ids.shape} for {pairs} x {rows} x {columns} tokens")
    ids = ids.reshape(3, pairs, rows, columns)
    shown = min(pairs, most)
    side = min(WIDTH / (shown + 1), 3.1, TALLEST * width / height)
    figure = new_figure(side * (shown + 1), side * height / width + (0.75 if title else 0.45))
    axes = figure.subplots(1, shown + 1, squeeze=False)[0]
    points = 72 * (side - 0.15) / width  # of a pixel
    _lay(axes[0], frames[0], patch, merge)
    order = patch_order(height // patch, width // patch, merge)
    texts = [[str(number) for number in line] for line in order]
    _write(axes[0], texts, patch, points)
    axes[0].set_title(f"{order.size} patches, in order", fontsize=10, loc="center")
    for pair, axis in enumerate(axes[1:]):
        _lay(axis, frames[pair * temporal], patch, merge)
        numbers = ids[:, pair].transpose(1, 2, 0)  # [rows, columns, 3]
        texts = [[",".join(map(str, one)) for one in line] for line in numbers]
        _write(axis, texts, step, points)
        last = min(len(frames), (pair + 1) * temporal) - 1
        told = f"frames {pair * temporal} and {last}" if last > pair * temporal else "one picture"
        axis.set_title(f"{rows * columns} tokens: t,h,w", fontsize=10, loc="center")
        axis.set_xlabel(told, fontsize=9)
    axes[0].set_xlabel(f"{merge} x {merge} neighbours, one token", fontsize=9)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = PATCHES_COLOURS
    return fit_png(figure, PATCHES_PNG_BYTES)


def _lay(axis, frame: np.ndarray, patch: int, merge: int) -> None:
    """A darkened frame under a grid of patches and merge blocks."""
    height, width = frame.shape[:2]
    show_frame(axis, (frame * 0.72).astype(np.uint8))
    for step, look in (
        (patch, {"color": "white", "linewidth": 0.4, "alpha": 0.5}),
        (patch * merge, {"color": PALETTE["orange"], "linewidth": 1.3}),
    ):
        axis.vlines(np.arange(0, width + 1, step) - 0.5, -0.5, height - 0.5, **look)
        axis.hlines(np.arange(0, height + 1, step) - 0.5, -0.5, width - 0.5, **look)
    axis.set(xticks=[], yticks=[], xlim=(-1, width), ylim=(height, -1))
    axis.spines[:].set_visible(False)


def _write(axis, texts: Sequence[Sequence[str]], step: int, points: float) -> None:
    """A text in the middle of each square of `step` pixels, as large as fits."""
    longest = max(len(text) for line in texts for text in line)
    size = min(9.0, step * points / (0.66 * longest + 0.3), step * points / 1.6)
    if size < SMALLEST_LETTERS:
        return
    shade = [withStroke(linewidth=1.4, foreground="#111827")]
    look = {"ha": "center", "va": "center", "color": "white", "fontsize": size}
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            at = (column + 0.5) * step - 0.5, (row + 0.5) * step - 0.5
            axis.text(*at, text, path_effects=shade, **look)
