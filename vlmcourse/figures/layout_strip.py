"""The token layout of a system as a strip: what the language model reads, in order, over lines."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle

from vlmcourse.figures.diagrams import KINDS
from vlmcourse.figures.layout_boxes import Box, position_text
from vlmcourse.figures.media import show_frame
from vlmcourse.figures.style import INK, PALETTE, SOFT, as_pixels, fit_png, house, new_figure

STRIP_PNG_BYTES, STRIP_COLOURS = 34_000, 64
WIDTH, TALL, GAP = 9.4, 0.64, 0.05
"""Inches: of the figure, of a box, between two boxes."""
LETTER, LINE = 0.068, 0.13
"""Inches: width and height of small letters."""
LETTERS, LINES = 30, 4
"""Most letters in a line of a box, and most lines in it."""
MEDIA = ("picture", "sound")
SHARED = PALETTE["red"]


@dataclass(frozen=True)
class Shown:
    """A box and what is drawn of it: lines of text, its width, and a frame."""

    box: Box
    lines: tuple[str, ...]
    width: float
    frame: np.ndarray | None = None


@house
def layout_strip(
    boxes: Sequence[Box],
    frames: np.ndarray | None = None,
    most_media: int | None = None,
    title: str | None = None,
) -> Figure:
    """Boxes in the order in which the language model reads them, on as many lines as it takes.

    Under each box stands the number of its tokens, above it their positions, if they are known; a
    red bar marks a position that several tokens share.

    Args:
        boxes: `layout_boxes.boxes_of_pieces` or `boxes_of_row`.
        frames: uint8 [T, H, W, 3], what is seen in each box of kind "picture"; fewer will do.
        most_media: show at most so many frames (the first ones and the last); the boxes between
            become one.
        title: above everything.

    Raises:
        ValueError: nothing to draw, or more frames than boxes for them.
    """
    if not boxes:
        raise ValueError("a strip of no boxes")
    pictures = iter([] if frames is None else list(as_pixels(frames)))
    shown = [_shown(b, next(pictures, None) if b.kind == "picture" else None) for b in boxes]
    if (left := len(list(pictures))) > 0:
        raise ValueError(f"{left} frames have no box")
    shown = _without_middle(shown, most_media)
    lines = _broken(shown, WIDTH - 0.12)
    told = any(box.positions for box in boxes)
    step = TALL + (0.62 if told else 0.42)
    height = step * len(lines) + 0.42 + (0.28 if title else 0.0)
    figure = new_figure(WIDTH, height)
    axis = figure.subplots()
    axis.set_axis_off()
    for row, line in enumerate(lines):
        x = 0.0
        for one in line:
            _draw(axis, one, x, -row * step)
            x += one.width + GAP
    axis.set(xlim=(-0.02, WIDTH - 0.1), ylim=(-step * (len(lines) - 1) - 0.2, TALL + 0.2))
    axis.set_aspect("equal", anchor="NW")
    used = [kind for kind in KINDS if any(box.kind == kind for box in boxes)]
    marks = [Patch(facecolor=KINDS[k][0], edgecolor=SOFT, label=KINDS[k][1]) for k in used]
    if told:
        marks.append(Patch(facecolor=SHARED, label="above: position (shared)"))
    total = sum(box.count for box in boxes)
    figure.legend(
        handles=marks,
        loc="outside lower left",
        ncols=len(marks),
        title=f"{total:,} tokens",
        title_fontsize=9,
        alignment="left",
        columnspacing=1.2,
    )
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = STRIP_COLOURS
    return fit_png(figure, STRIP_PNG_BYTES)


def _shown(box: Box, frame: np.ndarray | None) -> Shown:
    if box.kind in MEDIA:
        wide = TALL if frame is None else TALL * min(frame.shape[1] / frame.shape[0], 1.8)
        name = () if frame is not None else (box.kind,)
        return Shown(box, name, max(wide, LETTER * 0.9 * len(position_text(box.positions))), frame)
    lines = textwrap.wrap(box.text, LETTERS) or [""]
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], f"{lines[LINES - 1][: LETTERS - 2]} …"]
    below = len(position_text(box.positions))
    longest = max(*map(len, lines), below * 0.9, len(str(box.count)), 1)
    return Shown(box, tuple(lines), LETTER * longest + 0.12)


def _without_middle(shown: list[Shown], most: int | None) -> list[Shown]:
    """Leave out what stands between the first and the last frames where there are more than
    `most`."""
    media = [i for i, one in enumerate(shown) if one.box.kind in MEDIA]
    if most is None or len(media) <= most:
        return shown
    first, last = media[most - max(1, most // 3)], media[-max(1, most // 3)]
    hidden = shown[first:last]
    count = sum(one.box.kind in MEDIA for one in hidden)
    positions = tuple(p for one in hidden for p in one.box.positions)
    ends = (positions[0], positions[-1]) if positions else ()
    between = Box("text", f"… {count} more", sum(one.box.count for one in hidden), ends)
    return [*shown[:first], _shown(between, None), *shown[last:]]


def _broken(shown: Sequence[Shown], width: float) -> list[list[Shown]]:
    """Lines of boxes that fit; a text stays with the frame in front of it."""
    groups: list[list[Shown]] = []
    for one in shown:
        alone = one.box.kind in (*MEDIA, "special") or one.width > width / 3
        if groups and not alone and groups[-1][0].box.kind in MEDIA and len(groups[-1]) < 3:
            groups[-1].append(one)
        else:
            groups.append([one])
    lines, x = [[]], 0.0
    for group in groups:
        size = sum(one.width + GAP for one in group)
        if x + size > width and lines[-1]:
            lines.append([])
            x = 0.0
        lines[-1] += group
        x += size
    return lines


def _draw(axis, one: Shown, left: float, bottom: float) -> None:
    box, width = one.box, one.width
    style = "round,pad=0,rounding_size=0.05"
    look = {"facecolor": KINDS[box.kind][0], "edgecolor": SOFT, "linewidth": 0.8}
    axis.add_patch(FancyBboxPatch((left, bottom), width, TALL, boxstyle=style, **look))
    middle = left + width / 2
    if one.frame is not None:
        tall, wide = one.frame.shape[:2]
        size = min(0.94 * TALL / tall, (width - 0.04) / wide)
        show_frame(axis, one.frame)
        extent = (middle - size * wide / 2, middle + size * wide / 2)
        low = bottom + (TALL - size * tall) / 2
        axis.images[-1].set(extent=(*extent, low, low + size * tall), zorder=2)
    else:
        text = "\n".join(one.lines)
        axis.text(middle, bottom + TALL / 2, text, ha="center", va="center", fontsize=8)
    told = f"×{box.count}" if box.kind in MEDIA else str(box.count)
    axis.text(middle, bottom - 0.03, told, ha="center", va="top", fontsize=7.5, color=SOFT)
    if box.positions:
        _draw_positions(axis, box.positions, left, bottom + TALL, width)


def _draw_positions(
    axis, positions: Sequence[int], left: float, bottom: float, width: float
) -> None:
    """A thin bar, red over tokens that share a position with another one of the box, and the
    positions in short above it."""
    shared = [positions.count(p) > 1 for p in positions]
    each = width / len(positions)
    start = 0
    for index in range(1, len(positions) + 1):
        if index == len(positions) or shared[index] != shared[start]:
            place = (left + start * each, bottom + 0.03)
            colour = SHARED if shared[start] else "#d1d5db"
            axis.add_patch(Rectangle(place, (index - start) * each, 0.035, color=colour, lw=0))
            start = index
    text = position_text(positions)
    look = {"ha": "center", "va": "bottom", "fontsize": 7, "color": INK}
    axis.text(left + width / 2, bottom + 0.07, text, **look)
