"""What single tokens are made from: for each of several ways, the patches of a film behind them."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vlmcourse.figures.style import INK, PALETTE, SOFT, as_pixels, fit_png, house, new_figure

SOURCES_PNG_BYTES, SOURCES_COLOURS = 52_000, 128
SIDE = 0.86
"""Inches, of a frame."""
TINTS = tuple(to_rgb(PALETTE[name]) for name in ("orange", "sky", "pink", "yellow"))
DARKEST, FLOOR = 0.45, 26
"""Of a frame's brightness, what is left where no token looks; and what black becomes there."""


@house
def token_sources(
    frames: np.ndarray,
    sources: Mapping[str, Sequence[np.ndarray]],
    notes: Mapping[str, str] | None = None,
    tokens: Sequence[str] = ("a token", "another one"),
    title: str | None = None,
) -> Figure:
    """A row a way, a column a frame: every patch is tinted by how much of a token comes from it.

    Each token has its colour, at its strongest where most of it comes from; a token that comes from
    everywhere tints everything.

    Args:
        frames: uint8 [T, H, W, 3].
        sources: way -> of each token [T, P], shares of the P patches of a square grid.
        notes: way -> a few words under its name.
        tokens: what the colours stand for.
        title: above everything.

    Raises:
        ValueError: nothing to draw, or shares of another shape.
    """
    frames = as_pixels(frames)
    if not sources or not all(sources.values()):
        raise ValueError("token_sources needs at least one token of one way")
    count = len(frames)
    figure = new_figure(1.5 + SIDE * count, SIDE * len(sources) + (0.65 if title else 0.35))
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.02, wspace=0.0, hspace=0.0)
    axes = figure.subplots(len(sources), count, squeeze=False)
    for row, (name, some) in zip(axes, sources.items()):
        tinted = tint(frames, some)
        for axis, frame in zip(row, tinted):
            axis.imshow(frame, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10, labelpad=6)
        if notes and name in notes:
            look = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": 7.5}
            row[0].annotate(
                notes[name], (0, 0.5), (-7, -9), ha="right", va="top", color=SOFT, **look
            )
    most = max(map(len, sources.values()))
    marks = [
        Line2D([], [], marker="s", linestyle="", markersize=8, color=colour, label=told,
               markeredgecolor=INK, markeredgewidth=0.4)
        for colour, told in zip(TINTS, tokens[:most])
    ]  # fmt: skip
    figure.legend(handles=marks, loc="outside upper right", ncols=len(marks))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = SOURCES_COLOURS
    return fit_png(figure, SOURCES_PNG_BYTES)


def tint(frames: np.ndarray, shares: Sequence[np.ndarray]) -> np.ndarray:
    """Frames uint8 [T, H, W, 3], each patch tinted by the tokens it has a part in.

    Raises:
        ValueError: shares that are no [T, P] of a square grid, or more tokens than colours.
    """
    count, height, width = frames.shape[:3]
    if len(shares) > len(TINTS):
        raise ValueError(f"{len(shares)} tokens, but only {len(TINTS)} colours")
    shown = untouched(frames)
    for colour, share in zip(TINTS, shares):
        side = round(share.shape[-1] ** 0.5)
        if share.shape != (count, side * side):
            raise ValueError(f"shares {share.shape} do not belong to {count} frames")
        strength = share / max(share.max(), 1e-12)  # [T, P]
        rows, columns = np.arange(height) * side // height, np.arange(width) * side // width
        strength = strength.reshape(count, side, side)[:, rows][:, :, columns, None]
        coloured = 255 * np.array(colour) * (0.6 + 0.4 * frames.mean(-1, keepdims=True) / 255)
        shown = (1 - 0.85 * strength) * shown + 0.85 * strength * coloured
    return shown.clip(0, 255).astype(np.uint8)


def untouched(frames: np.ndarray) -> np.ndarray:
    """Frames as they are shown where nothing comes from, float [T, H, W, 3]."""
    return FLOOR + DARKEST * frames.astype(float)
