"""What the queries of a Q-Former look at, traced back from its inputs to patches of the film."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from vlmcourse.figures.media import show_frame
from vlmcourse.figures.style import INK, PALETTE, as_pixels, fit_png, house, new_figure

FILM_PNG_BYTES, FILM_COLOURS = 44_000, 96


def traced_to_patches(film_attention: np.ndarray, frame_attention: np.ndarray) -> np.ndarray:
    """Follow attention through two Q-Formers: from a query of the film to patches of its frames.

    A query of the film gives weight to the tokens of each frame, and each of those had given weight
    to the patches of its frame: the products, summed over the tokens. It says where the query's
    input came from, not what it did with it (values and layers between are left out).

    Args:
        film_attention: float [Q, T, P], of Q queries over the P tokens of T frames.
        frame_attention: float [T, P, N], of those tokens over the N patches of a square grid.

    Returns:
        float [Q, T, h, w].

    Raises:
        ValueError: shapes that do not fit each other, or patches that form no square.
    """
    film, frame = np.asarray(film_attention, float), np.asarray(frame_attention, float)
    if film.ndim != 3 or frame.ndim != 3 or film.shape[1:] != frame.shape[:2]:
        raise ValueError(f"[Q, T, P] and [T, P, N] are needed, not {film.shape} and {frame.shape}")
    side = round(frame.shape[2] ** 0.5)
    if side * side != frame.shape[2]:
        raise ValueError(f"{frame.shape[2]} patches form no square: leave out the class token")
    traced = np.einsum("qtp,tpn->qtn", film, frame)  # [Q, T, N]
    return traced.reshape(*traced.shape[:2], side, side)


@house
def attention_film(
    frames: np.ndarray,
    film_attention: np.ndarray,
    frame_attention: np.ndarray,
    times_s: Sequence[float],
    names: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """A film, and under it what some queries of the video Q-Former look at: when, and where.

    Heat is attention traced back to the patches (its square root, each query on its own scale); the
    bar under a frame is the share of the query's attention that the whole frame gets.

    Args:
        frames: uint8 [T, H, W, 3].
        film_attention: float [Q, T, P], of the chosen queries, a mean over heads.
        frame_attention: float [T, P, N], of the image Q-Former, without its class token.
        times_s: [T] seconds, above the frames.
        names: of the queries (default: "query 1", ...).
        title: above everything.
    """
    frames = as_pixels(frames)
    heat = traced_to_patches(film_attention, frame_attention)  # [Q, T, h, w]
    if len(heat[0]) != len(frames) or len(times_s) != len(frames):
        raise ValueError(f"{len(frames)} frames, {len(heat[0])} maps, {len(times_s)} times")
    whole = np.asarray(film_attention, float).sum(-1)  # [Q, T]
    shares = whole / np.maximum(whole.sum(1, keepdims=True), 1e-12)
    names = names or [f"query {number}" for number in range(1, len(heat) + 1)]
    count, columns = len(heat), len(frames)
    side = 8.2 / columns
    figure = new_figure(9.1, side * (1 + 1.28 * count) + (0.5 if title else 0.25))
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.008, wspace=0.0, hspace=0.0)
    ratios = [1.0, *[1.0, 0.28] * count]
    axes = figure.subplots(len(ratios), columns, squeeze=False, height_ratios=ratios)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for axis, frame, second in zip(axes[0], frames, times_s):
        show_frame(axis, frame)
        axis.set_title(f"{second:.1f} s", fontsize=8.5, fontweight="normal", loc="center", pad=2)
    for row, name in enumerate(names):
        _heat_row(axes[1 + 2 * row], frames, heat[row])
        _share_row(axes[2 + 2 * row], shares[row], float(shares.max()))
        label = {"rotation": 0, "ha": "right", "va": "center", "fontsize": 9}
        axes[1 + 2 * row, 0].set_ylabel(name.replace(" ", "\n"), **label)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = FILM_COLOURS
    return fit_png(figure, FILM_PNG_BYTES)


def _heat_row(axes, frames: np.ndarray, maps: np.ndarray) -> None:
    """Maps [T, h, w] over the grey frames, the highest value of the film at full heat; heat grows
    with the square root, so that what gets a tenth of the most is seen too."""
    maps = np.sqrt(maps / max(float(maps.max()), 1e-12))
    for axis, frame, one in zip(axes, frames, maps):
        height, width = frame.shape[:2]
        place = (-0.5, width - 0.5, height - 0.5, -0.5)
        axis.imshow(frame.mean(-1), cmap="gray", vmin=0, vmax=300, extent=place)
        look = {"cmap": "inferno", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
        axis.imshow(one, alpha=0.9 * one, extent=place, **look)


def _share_row(axes, shares: np.ndarray, most: float) -> None:
    for axis, share in zip(axes, shares):
        axis.barh(0, share, 0.7, color=PALETTE["orange"])
        axis.barh(0, most, 0.7, color=PALETTE["grey"], alpha=0.15)
        axis.text(0.02 * most, 0, f"{100 * share:.0f} %", va="center", fontsize=7, color=INK)
        axis.set(xlim=(0, most), ylim=(-0.6, 0.6))
