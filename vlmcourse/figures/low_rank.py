"""A side path beside a linear layer: two thin matrices, and how little room their product takes."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vlmcourse.figures.style import PALETTE, SOFT, fit_png, house, new_figure

LOW_RANK_PNG_BYTES = 12_000
SIDE, GAP, THINNEST = 1.9, 0.42, 0.1
"""Inches: the longest side of a matrix, between two of them, a very thin one."""
FROZEN, TRAINS = "#e5e7eb", "#f6c667"


@house
def side_path(
    weight: np.ndarray, down: np.ndarray, up: np.ndarray, scale: float, title: str | None = None
) -> Figure:
    """The frozen W and the thin B and A beside it, drawn to one scale, and the singular values of W
    and of `scale * B A`.

    Args:
        weight: float [out, in].
        down: A, float [rank, in].
        up: B, float [out, rank].
        scale: alpha / rank.
        title: above everything.

    Raises:
        ValueError: shapes that do not go together.
    """
    rank = down.shape[0]
    if weight.shape != (up.shape[0], down.shape[1]) or up.shape[1] != rank:
        shapes = ", ".join(str(x.shape) for x in (weight, up, down))
        raise ValueError(f"W, B and A of {shapes} do not go together")
    inch = SIDE / max(weight.shape)
    sizes = [[max(n * inch, THINNEST) for n in x.shape] for x in (weight, up, down)]
    wide = sum(size[1] for size in sizes) + 3.2 * GAP
    figure = new_figure(wide + 3.2, SIDE + (0.8 if title is None else 1.1))
    boxes, values = figure.subplots(1, 2, width_ratios=[wide, 3.0])
    times = "" if scale == 1 else f"{scale:g} · "
    named = (
        (weight, "W", FROZEN, "frozen", ""),
        (up, "B", TRAINS, "trains", f"+ {times}"),
        (down, "A", TRAINS, "trains", "·"),
    )
    left = 0.0
    for (matrix, name, colour, state, sign), (tall, across) in zip(named, sizes):
        left += GAP if sign else 0.0
        boxes.text(left - GAP / 2, SIDE - 0.12, sign, ha="center", va="center", fontsize=12)
        look = {"facecolor": colour, "edgecolor": SOFT, "linewidth": 0.9}
        boxes.add_patch(Rectangle((left, SIDE - tall), across, tall, **look))
        middle = left + across / 2
        boxes.text(middle, SIDE + 0.06, name, ha="center", va="bottom", fontweight="bold")
        told = f"{matrix.shape[0]} x {matrix.shape[1]}\n{state}"
        boxes.text(middle, SIDE - tall - 0.06, told, ha="center", va="top", fontsize=8.5)
        left += across
    boxes.set(xlim=(-0.05, wide), ylim=(-0.4, SIDE + 0.3), aspect="equal", anchor="W")
    boxes.set_axis_off()
    _draw_values(values, weight, scale * up @ down, rank)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return fit_png(figure, LOW_RANK_PNG_BYTES)


def _draw_values(axis, weight: np.ndarray, change: np.ndarray, rank: int) -> None:
    """Singular values in falling order; those of the change end at its rank."""
    for matrix, name, colour, most in (
        (weight, "of W", "grey", None),
        (change, "of the side path", "orange", rank),
    ):
        values = np.linalg.svd(matrix, compute_uv=False)[:most]
        axis.plot(np.arange(1, len(values) + 1), values, color=PALETTE[colour], label=name)
    axis.set(xlabel="number", ylabel="singular value", ylim=(0, None))
    axis.legend(loc="upper right")
