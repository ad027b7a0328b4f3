"""Pictures of spatio-temporal pooling: what it does to a clip, and what it can no longer tell."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from vlmcourse.figures.diagrams import KINDS
from vlmcourse.figures.media import show_frame
from vlmcourse.figures.style import INK, PALETTE, SOFT, as_pixels, fit_png, house, new_figure

SMALL_PNG_BYTES = 40_000


@house
def pooling_diagram(
    frames: np.ndarray, grid: int = 8, brighter: float = 2.2, contrast: float = 4.0
) -> Figure:
    """Frames, their two means, and the sequence that the language model reads.

    The means are drawn as if a patch's feature were its colour: a temporal token is a frame's mean
    colour, the spatial tokens are the mean frame, patch by patch.

    Args:
        frames: uint8 [T, H, W, 3], H and W multiples of `grid`.
        grid: patches along a side.
        brighter: mean colours times this, for a world that is mostly dark.
        contrast: what tells one temporal token from the others, times this.

    Raises:
        ValueError: sides that are no multiples of `grid`.
    """
    frames = as_pixels(frames)
    count, height, width = frames.shape[:3]
    if height % grid or width % grid:
        raise ValueError(f"{width} x {height} does not fall into {grid} x {grid} patches")
    blocks = frames.reshape(count, grid, height // grid, grid, width // grid, 3)
    patches = blocks.mean(axis=(2, 4))  # [T, grid, grid, 3]
    temporal = patches.mean(axis=(1, 2)) * brighter  # [T, 3]
    middle = temporal.mean(axis=0)
    temporal = (middle + contrast * (temporal - middle)).clip(0, 255) / 255
    spatial = (patches.mean(axis=0) * brighter).clip(0, 255).astype(np.uint8)  # [grid, grid, 3]
    figure = new_figure(9.4, 3.65)
    figure.set_layout_engine("none")
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, 9.4), ylim=(0, 3.65))
    axis.set_axis_off()
    side = 6.6 / count
    for index, frame in enumerate(frames):
        left = 0.12 + index * side
        _picture(axis, frame, left, 2.47, 0.92 * side, grid)
        middle = left + 0.46 * side
        _arrow(axis, (middle, 2.45), (middle, 2.02))
        axis.add_patch(_box(middle - 0.16, 1.68, 0.32, 0.32, tuple(temporal[index])))
    _arrow(axis, (6.78, 2.85), (7.62, 2.85))
    axis.text(7.2, 2.95, "mean over\nthe frames", ha="center", va="bottom", fontsize=8.5)
    _picture(axis, spatial, 7.7, 2.1, 1.5, grid)
    axis.text(0.12, 3.5, f"{count} frames of {grid * grid} patches", fontsize=9.5, weight="bold")
    axis.text(7.7, 1.9, f"{grid * grid} spatial tokens: where,\nnot when", va="top", fontsize=9)
    axis.text(0.12, 1.43, f"{count} temporal tokens: when, not where", fontsize=9)
    axis.text(6.72, 2.2, "mean over\nthe patches", fontsize=8.5, va="center")
    _sequence(axis, count, grid * grid)
    return fit_png(figure, SMALL_PNG_BYTES)


def _sequence(axis, temporal: int, spatial: int) -> None:
    """The lower part: one linear layer, the tokens in order, the language model under them."""
    boxes = [
        ("special", "<s> <vid_start>", 1.35),
        ("picture", f"{temporal} temporal", 1.25),
        ("picture", f"{spatial} spatial", 2.1),
        ("special", "<vid_end>", 0.95),
        ("text", "USER: question  ASSISTANT:", 2.2),
        ("answer", "answer </s>", 1.05),
    ]
    left, lefts = 0.12, []
    for kind, label, size in boxes:
        axis.add_patch(_box(left, 0.46, size, 0.3, KINDS[kind][0]))
        axis.text(left + size / 2, 0.61, label, ha="center", va="center", fontsize=8.5)
        lefts.append((left, size))
        left += size + 0.05
    ends = [start + size / 2 for start, size in lefts[1:3]]
    box = _box(ends[0] - 0.5, 0.95, ends[1] - ends[0] + 1.0, 0.26, "white")
    box.set_edgecolor(PALETTE["blue"])
    axis.add_patch(box)
    axis.text(
        sum(ends) / 2, 1.08, "one linear layer for all", ha="center", va="center", fontsize=8.5
    )
    for end in ends:
        _arrow(axis, (end, 0.94), (end, 0.77))
    _arrow(axis, (ends[0], 1.36), (ends[0], 1.22))
    _arrow(axis, (8.2, 1.52), (ends[1] + 0.52, 1.08), bend=-0.12)
    total = lefts[-1][0] + lefts[-1][1] - 0.12
    axis.add_patch(_box(0.12, 0.08, total, 0.28, "#f3f4f6"))
    axis.text(
        0.12 + total / 2, 0.22, "language model, frozen", ha="center", va="center", fontsize=9
    )


def _box(left: float, bottom: float, width: float, height: float, face) -> FancyBboxPatch:
    style = "round,pad=0,rounding_size=0.05"
    return FancyBboxPatch(
        (left, bottom), width, height, boxstyle=style, facecolor=face, edgecolor=SOFT, linewidth=0.8
    )


def _arrow(axis, start: tuple[float, float], end: tuple[float, float], bend: float = 0.0) -> None:
    axis.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=9,
            connectionstyle=f"arc3,rad={bend}",
            color=SOFT,
            linewidth=0.9,
            zorder=0,
        )
    )


def _picture(axis, picture: np.ndarray, left: float, bottom: float, side: float, grid: int) -> None:
    """A picture with the borders of its patches."""
    place = (left, left + side, bottom, bottom + side)
    axis.imshow(picture, extent=place, interpolation="nearest", aspect="auto", zorder=1)
    lines = np.arange(grid + 1) * side / grid
    look = {"color": "white", "linewidth": 0.25, "alpha": 0.45, "zorder": 2}
    axis.vlines(left + lines, bottom, bottom + side, **look)
    axis.hlines(bottom + lines, left, left + side, **look)


@house
def twin_films(
    films: Mapping[str, np.ndarray],
    patch_distance: np.ndarray,
    temporal_distance: Sequence[float],
    spatial_distance: np.ndarray,
    usual: Mapping[str, float],
    times_s: Sequence[float],
) -> Figure:
    """Two films, and how far apart their features are: by patch and second, and after each mean.

    Args:
        films: two names -> uint8 [T, H, W, 3].
        patch_distance: float [T, h, w], before any mean.
        temporal_distance: [T] between temporal tokens.
        spatial_distance: float [h, w] between spatial tokens, on the colour scale of the patches.
        usual: "temporal" -> distance of unrelated films, drawn as a line.
        times_s: [T] seconds.
    """
    maps, spatial = np.asarray(patch_distance, float), np.asarray(spatial_distance, float)
    count = len(maps)
    columns = count + 1
    figure = new_figure(9.4, 4.3)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.015, wspace=0.0, hspace=0.0)
    axes = figure.subplots(4, columns, height_ratios=[1, 1, 1, 1.05], squeeze=False)
    high = max(float(maps.max()), 1e-9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for row, (name, frames) in enumerate(films.items()):
        for axis, frame in zip(axes[row], as_pixels(frames)):
            show_frame(axis, frame)
        axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        axes[row, count].set_axis_off()
    look = {"cmap": "magma", "vmin": 0, "vmax": high, "interpolation": "nearest"}
    for axis, one in zip(axes[2], maps):
        image = axis.imshow(one, **look)
    axes[2, count].imshow(spatial, **look)
    axes[1, count].text(0.5, 0.04, "spatial\ntokens", fontsize=9, ha="center", va="bottom")
    axes[2, 0].set_ylabel("patches\ndiffer by", rotation=0, ha="right", va="center", fontsize=9)
    figure.colorbar(image, ax=list(axes[2]), shrink=0.95, aspect=9, pad=0.01)
    for axis in axes[3]:
        axis.remove()
    wide = figure.add_subplot(axes[0, 0].get_gridspec()[3, :count])
    wide.bar(np.arange(count), temporal_distance, 0.55, color=PALETTE["orange"])
    level = usual["temporal"]
    wide.axhline(level, color=INK, linestyle="--", linewidth=1)
    wide.text(count - 0.5, level, "two unrelated films ", ha="right", va="bottom", fontsize=8.5)
    wide.set_ylabel("temporal\ntokens\ndiffer by", rotation=0, ha="right", va="center", fontsize=9)
    wide.set(xlim=(-0.5, count - 0.5), ylim=(0, 1.35 * level))
    wide.set_xticks(range(count), [f"{second:.1f} s" for second in times_s])
    wide.tick_params(length=0)
    return fit_png(figure, SMALL_PNG_BYTES)
