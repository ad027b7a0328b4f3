"""One picture at several sizes with the patches and tokens that become of it."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from vlmcourse.figures.media import show_frame
from vlmcourse.figures.style import PALETTE, as_pixels, fit_png, house, new_figure

RESOLUTION_PNG_BYTES, RESOLUTION_COLOURS = 30_000, 64


@house
def token_grids(
    pictures: Mapping[str, np.ndarray],
    patch: int = 8,
    merge: int = 2,
    marks: int = 0,
    title: str | None = None,
) -> Figure:
    """The same picture at several sizes, drawn equally large: thin lines are patches, thick ones
    tokens.

    Args:
        pictures: name -> uint8 [H, W, 3], H and W multiples of `patch * merge`.
        patch: side of a patch in pixels.
        merge: patches along the side of a token.
        marks: tokens that are added to each picture (a begin and an end mark, say).
        title: above everything.

    Raises:
        ValueError: no picture, or one that does not fall into tokens.
    """
    if not pictures:
        raise ValueError("token_grids needs at least one picture")
    figure = new_figure(min(9.4, 2.75 * len(pictures)), 3.05 + (0.3 if title else 0.0))
    axes = figure.subplots(1, len(pictures), squeeze=False)[0]
    for axis, (name, picture) in zip(axes, pictures.items()):
        picture = as_pixels(picture[None])[0]
        height, width = picture.shape[:2]
        if height % (patch * merge) or width % (patch * merge):
            raise ValueError(f"{width} x {height} does not fall into {merge} x {merge} patches")
        show_frame(axis, picture)
        for step, look in (
            (patch, {"color": "white", "linewidth": 0.4, "alpha": 0.45}),
            (patch * merge, {"color": PALETTE["orange"], "linewidth": 1.3, "alpha": 0.95}),
        ):
            axis.vlines(np.arange(0, width + 1, step) - 0.5, -0.5, height - 0.5, **look)
            axis.hlines(np.arange(0, height + 1, step) - 0.5, -0.5, width - 0.5, **look)
        axis.set(xticks=[], yticks=[], xlim=(-1, width), ylim=(height, -1))
        axis.spines[:].set_visible(False)
        patches = height * width // patch**2
        tokens = patches // merge**2
        added = f" + {marks}" if marks else ""
        axis.set_title(name, loc="center", fontsize=10)
        axis.set_xlabel(f"{patches} patches, {tokens}{added} tokens", fontsize=9)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = RESOLUTION_COLOURS
    return fit_png(figure, RESOLUTION_PNG_BYTES)
