"""Pictures of the foundations: what a patch, a row and a sum of words look like."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from vlmcourse.figures.media import show_frame
from vlmcourse.figures.style import INK, PALETTE, SOFT, as_pixels, fit_png, house, new_figure

SMALL_PNG_BYTES = 34_000
FEW_COLOURS = 64
MAP_PNG_BYTES, MAP_COLOURS = 42_000, 96
ROW_COLOURS = ("#c7d2e3", "#8ec1e8", "#f6c667", "#7fd1b9", "#e3afca", "#d6d97a")
"""The shared prefix, then the questions in order."""


def _bare(axis) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


@house
def three_parts(
    frame: np.ndarray, patches: int, widths: tuple[int, int], question: str, answer: str
) -> Figure:
    """A frozen encoder, a connector that trains, a frozen language model, and what runs between.

    Args:
        frame: uint8 [H, W, 3].
        patches: patches along one side of the frame.
        widths: of a patch token and of a word.
        question, answer: what goes into the language model, and what comes out.
    """
    frame = as_pixels(frame[None])[0]
    figure = new_figure(9.4, 2.4)
    axis = figure.subplots()
    axis.set(xlim=(0, 9.4), ylim=(0.05, 2.35), aspect="equal")
    _bare(axis)
    left, bottom, side = 0.1, 0.55, 1.7
    axis.imshow(
        frame, extent=(left, left + side, bottom, bottom + side), interpolation="nearest", zorder=1
    )
    for line in np.linspace(0, side, patches + 1):
        look = {"color": "white", "alpha": 0.35, "linewidth": 0.7}
        axis.plot([left + line] * 2, [bottom, bottom + side], **look)
        axis.plot([left, left + side], [bottom + line] * 2, **look)
    middle = bottom + side / 2
    _box(axis, 2.2, middle, 1.15, 0.95, "picture\nencoder", "frozen", PALETTE["sky"])
    _tokens(axis, 3.75, middle, PALETTE["sky"], f"{patches**2} patch tokens,\n{widths[0]} wide")
    _box(axis, 4.65, middle, 1.1, 0.95, "connector", "trains", PALETTE["orange"])
    _tokens(axis, 6.15, middle, PALETTE["orange"], f"video tokens,\n{widths[1]} wide: like words")
    _box(axis, 7.1, middle, 1.2, 1.35, "language\nmodel", "frozen", PALETTE["sky"])
    for start, end in ((1.83, 2.17), (3.38, 3.68), (4.28, 4.62), (5.78, 6.08), (6.68, 7.07)):
        _arrow(axis, (start, middle), (end, middle))
    _arrow(axis, (7.7, 0.42), (7.7, middle - 0.72))
    _arrow(axis, (8.33, middle), (8.6, middle))
    axis.text(7.7, 0.36, question, ha="center", va="top", fontsize=9.5, style="italic")
    axis.text(8.64, middle, answer.replace(" ", "\n"), va="center", fontsize=9.5, style="italic")
    axis.text(left + side / 2, bottom - 0.1, "one frame", ha="center", va="top", fontsize=8.5)
    figure.colours = FEW_COLOURS
    return fit_png(figure, SMALL_PNG_BYTES)


def _box(axis, left, middle, width, height, name, state, colour) -> None:
    style = "round,pad=0,rounding_size=0.1"
    place = (left, middle - height / 2)
    axis.add_patch(
        FancyBboxPatch(place, width, height, boxstyle=style, fc="white", ec=colour, lw=2.2)
    )
    centre = left + width / 2
    axis.text(centre, middle + 0.12, name, ha="center", va="center", fontsize=10, weight="bold")
    lower = middle - height / 2 + 0.08
    axis.text(centre, lower, state, ha="center", va="bottom", fontsize=8.5, color=SOFT)


def _tokens(axis, left, middle, colour, label) -> None:
    for column in range(3):
        for row in range(6):
            place = (left + 0.16 * column, middle - 0.5 + 0.17 * row)
            shade = 0.35 + 0.6 * ((3 * row + 5 * column) % 7) / 6
            axis.add_patch(Rectangle(place, 0.13, 0.14, fc=colour, alpha=shade, lw=0))
    axis.text(left + 0.22, middle - 0.62, label, ha="center", va="top", fontsize=8.5, color=SOFT)


def _arrow(axis, start, end) -> None:
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=SOFT))


@house
def word_maps(
    frames: np.ndarray,
    maps: Mapping[str, np.ndarray],
    times_s: Sequence[float],
    title: str | None = None,
) -> Figure:
    """Where each text finds itself: the frames, then a row of maps per text laid over them.

    Args:
        frames: uint8 [T, H, W, 3].
        maps: text -> float [T, h, w]; what is below 0 stays dark, each row has its own scale.
        times_s: [T] seconds, above the frames.
        title: above everything.
    """
    frames = as_pixels(frames)
    rows, columns = len(maps) + 1, len(frames)
    side = 7.4 / columns
    figure = new_figure(8.3, rows * side + 0.5)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.0, hspace=0.0)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        _bare(axis)
    for axis, frame, second in zip(axes[0], frames, times_s):
        show_frame(axis, frame)
        axis.set_title(f"{second:.1f} s", fontsize=8.5, fontweight="normal", loc="center", pad=2)
    for line, (text, values) in zip(axes[1:], maps.items()):
        values = np.clip(np.asarray(values, np.float64), 0, None)
        values = values / max(values.max(), 1e-9)
        for axis, frame, one in zip(line, frames, values):
            high, wide = frame.shape[:2]
            place = (-0.5, wide - 0.5, high - 0.5, -0.5)
            axis.imshow(frame.mean(-1), cmap="gray", vmin=0, vmax=340, extent=place)
            look = {"cmap": "inferno", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
            axis.imshow(one, alpha=0.2 + 0.65 * one, extent=place, **look)
        line[0].set_ylabel(text.replace(" ", "\n"), rotation=0, ha="right", va="center")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = MAP_COLOURS
    return fit_png(figure, MAP_PNG_BYTES)


@house
def row_mask(
    visible: np.ndarray, segments: Sequence[int], words: Sequence[str], title: str | None = None
) -> Figure:
    """Who may look at whom in one packed row; colours tell the prefix and the questions apart.

    Args:
        visible: bool [L, L], queries down, keys across.
        segments: [L] 0 for the shared prefix, 1, 2, ... for the questions.
        words: [L] the text of each position.
        title: above the picture.
    """
    visible, segments = np.asarray(visible, bool), np.asarray(segments)
    length = len(segments)
    colours = ["white", *(ROW_COLOURS[i % len(ROW_COLOURS)] for i in range(segments.max() + 1))]
    shown = np.where(visible, segments[None, :] + 1, 0)  # a field has the colour of its key
    figure = new_figure(0.122 * length + 1.1, 0.122 * length + 1.1)
    axis = figure.subplots()
    axis.imshow(shown, cmap=ListedColormap(colours), vmin=0, vmax=len(colours) - 1)
    for edge in np.flatnonzero(np.diff(segments)) + 0.5:
        axis.axhline(edge, color=SOFT, linewidth=0.6)
        axis.axvline(edge, color=SOFT, linewidth=0.6)
    axis.set_xticks(range(length), words, rotation=90, fontsize=6.5)
    axis.set_yticks(range(length), words, fontsize=6.5)
    axis.tick_params(length=0, pad=1)
    for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
        for label, segment in zip(labels, segments):
            label.set_color(INK if segment == 0 else PALETTE["blue"])
    axis.set_xlabel("looked at", fontsize=9)
    axis.set_ylabel("looking", fontsize=9)
    axis.spines[:].set_visible(True)
    axis.set_title(title or "")
    figure.colours = FEW_COLOURS // 4
    return fit_png(figure, SMALL_PNG_BYTES)


@house
def attention_heads(
    rows: Mapping[str, np.ndarray], words: Sequence[str], title: str | None = None
) -> Figure:
    """Attention of each head over one text, one row of pictures per model.

    Args:
        rows: name -> float [H, L, L], queries down, keys across.
        words: [L] the text.
        title: above everything.
    """
    heads = len(next(iter(rows.values())))
    figure = new_figure(8.6, 1.85 * len(rows) + 0.75)
    axes = figure.subplots(len(rows), heads, squeeze=False, sharex=True, sharey=True)
    for row, (line, (name, attention)) in enumerate(zip(axes, rows.items())):
        for head, (axis, weights) in enumerate(zip(line, np.asarray(attention))):
            image = axis.imshow(weights, cmap="Blues", vmin=0, vmax=1)
            axis.tick_params(length=0)
            axis.spines[:].set_visible(False)
            if row == 0:
                axis.set_title(f"head {head + 1}", fontsize=9.5, loc="center")
        line[0].set_yticks(range(len(words)), words, fontsize=7)
        line[0].set_ylabel(name, fontsize=9.5)
    for axis in axes[-1]:
        axis.set_xticks(range(len(words)), words, fontsize=7, rotation=90)
    figure.colorbar(image, ax=axes, shrink=0.6, aspect=22, pad=0.01, label="attention")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = FEW_COLOURS // 2
    return fit_png(figure, SMALL_PNG_BYTES)


@house
def sum_of_words(vectors: Mapping[str, np.ndarray], total: str, title: str | None = None) -> Figure:
    """Embeddings as stripes of colour, and under them the one vector that is their sum.

    Args:
        vectors: word -> float [E].
        total: name of the sum.
        title: above the stripes.
    """
    stripes = {**vectors, total: np.sum(list(vectors.values()), axis=0)}
    figure = new_figure(9.3, 0.3 * len(stripes) + 0.65)
    figure.get_layout_engine().set(h_pad=0.015, hspace=0.0)
    ratios = [1.0] * len(vectors) + [1.35]
    axes = figure.subplots(len(stripes), 1, height_ratios=ratios)
    limit = 0.8 * np.abs(stripes[total]).max()
    for axis, (word, vector) in zip(axes, stripes.items()):
        image = axis.imshow(vector[None], aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit)
        _bare(axis)
        weight = "bold" if word == total else "normal"
        axis.set_ylabel(word, rotation=0, ha="right", va="center", fontsize=9.5, weight=weight)
    figure.colorbar(image, ax=list(axes), pad=0.01, aspect=14)
    figure.suptitle(title or "", x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = FEW_COLOURS
    return fit_png(figure, SMALL_PNG_BYTES)


@house
def named_places(
    frames: np.ndarray,
    found: Sequence[Sequence[Sequence[str]]],
    truth: Sequence[Sequence[Sequence[str]]],
    side: int = 3,
    title: str | None = None,
) -> Figure:
    """Frames, and under each the words that were read off its places.

    Dark words are right, red ones wrong, and a grey word in brackets is there and was not found.

    Args:
        frames: uint8 [T, H, W, 3].
        found: [T][side * side] lists of words, row by row.
        truth: the true words, of the same form.
        side: places along one side.
        title: above the frames.
    """
    frames = as_pixels(frames)
    wide = min(9.3 / len(frames), 2.4)
    figure = new_figure(wide * len(frames), 2 * wide + (0.35 if title else 0.05))
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.0, hspace=0.0)
    axes = figure.subplots(2, len(frames), squeeze=False)
    for column, frame in enumerate(frames):
        above, below = axes[:, column]
        _bare(above)
        show_frame(above, frame)
        _bare(below)
        below.set(xlim=(0, side), ylim=(side, 0), aspect="equal", facecolor="#e2e6ec")
        for line in range(1, side):
            below.axhline(line, color="white", linewidth=2)
            below.axvline(line, color="white", linewidth=2)
        for index, (words, true) in enumerate(zip(found[column], truth[column])):
            _words_of_place(below, index % side + 0.5, index // side + 0.5, words, true)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = FEW_COLOURS
    return fit_png(figure, SMALL_PNG_BYTES)


def _words_of_place(axis, x: float, y: float, words: Sequence[str], true: Sequence[str]) -> None:
    lines = [(word, INK if word in true else PALETTE["red"]) for word in words]
    lines += [(f"({word})", SOFT) for word in true if word not in words]
    for index, (text, colour) in enumerate(lines):
        at = y + 0.135 * (index - (len(lines) - 1) / 2)
        axis.text(x, at, text, ha="center", va="center", fontsize=7.2, color=colour)
