"""Two branches and one language model: how Video-LLaMA sees and hears, as one picture."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from vlmcourse.figures.diagrams import KINDS
from vlmcourse.figures.media import show_frame
from vlmcourse.figures.style import INK, PALETTE, SOFT, as_pixels, fit_png, house, new_figure

BRANCHES_PNG_BYTES, BRANCHES_COLOURS = 24_000, 64
FROZEN, TRAINS = PALETTE["sky"], PALETTE["orange"]
LANES = {"sound": 3.0, "picture": 1.45}
"""Height of the middle of each branch; sound comes first in the sequence, too."""
BOXES = {
    "picture": ((1.62, "picture\nencoder", FROZEN), (3.02, "image\nQ-Former", FROZEN)),
    "sound": ((1.62, "log-mel,\n{clips} clips", SOFT), (3.02, "sound\nencoder", FROZEN)),
}


@house
def two_branches(
    frames: np.ndarray, samples: np.ndarray, counts: dict[str, int], asked: tuple[str, str]
) -> Figure:
    """Frames and sound on the left, the language model on the right, and what lies between.

    Args:
        frames: uint8 [T, H, W, 3].
        samples: float [S], the sound.
        counts: "frame_tokens" of a frame, "clips" of sound, "picture" and "sound" tokens.
        asked: a question and its answer.
    """
    frames = as_pixels(frames)
    figure = new_figure(9.6, 3.55)
    figure.set_layout_engine("none")
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, 9.6), ylim=(0.05, 3.6), aspect="equal")
    axis.set_axis_off()
    _film(axis, frames, LANES["picture"])
    _wave(axis, np.asarray(samples, np.float32).reshape(-1), LANES["sound"])
    between = {
        "picture": f"{len(frames)} frames of\n{counts['frame_tokens']} tokens\n+ position",
        "sound": f"{counts['clips']} vectors\n+ position",
    }
    for kind, height in LANES.items():
        for left, name, colour in BOXES[kind]:
            _box(axis, left, height, 1.05, name.format(clips=counts["clips"]), colour)
        _vectors(axis, 4.42, height, len(frames) if kind == "picture" else counts["clips"], kind)
        told = {"ha": "center", "fontsize": 8, "color": SOFT, "linespacing": 1.2}
        axis.text(4.75, height - 0.42, between[kind], va="top", **told)
        name = "video\nQ-Former" if kind == "picture" else "audio\nQ-Former"
        _box(axis, 5.42, height, 1.05, name, TRAINS)
        _box(axis, 6.82, height, 0.6, "linear", TRAINS)
        for start, end in ((1.3, 1.59), (2.7, 2.99), (4.1, 4.39), (5.1, 5.39), (6.5, 6.79)):
            _arrow(axis, (start, height), (end, height))
    _sequence(axis, counts, asked)
    marks = ((FROZEN, "frozen"), (TRAINS, "trains"))
    for number, (colour, label) in enumerate(marks):
        _legend(axis, 1.62 + 1.0 * number, 0.25, colour, label)
    figure.colours = BRANCHES_COLOURS
    return fit_png(figure, BRANCHES_PNG_BYTES)


def _film(axis, frames: np.ndarray, height: float) -> None:
    """Some of the frames, one behind the other."""
    for index in range(min(4, len(frames)) - 1, -1, -1):
        frame = frames[index * len(frames) // 4]
        left, bottom = 0.12 + 0.1 * index, height - 0.55 + 0.1 * index
        show_frame(axis, frame)
        axis.images[-1].set(extent=(left, left + 0.85, bottom, bottom + 0.85), zorder=2 - index / 9)
        edge = {"facecolor": "none", "edgecolor": "white", "zorder": 2.05 - index / 9}
        axis.add_patch(Rectangle((left, bottom), 0.85, 0.85, linewidth=1.2, **edge))
    axis.set(xlim=(0, 9.6), ylim=(0.05, 3.6))


def _wave(axis, samples: np.ndarray, height: float) -> None:
    pieces = np.array_split(samples, min(160, len(samples)))
    most = max(float(np.abs(samples).max()), 1e-6)
    low, high = (np.array([f(piece) for piece in pieces]) / most for f in (np.min, np.max))
    x = np.linspace(0.12, 1.25, len(pieces))
    axis.fill_between(
        x, height + 0.38 * low, height + 0.38 * high, color=PALETTE["green"], linewidth=0.4
    )


def _vectors(axis, left: float, height: float, count: int, kind: str) -> None:
    """One upright bar for each frame or clip."""
    step = 0.66 / count
    for index in range(count):
        place = (left + step * index, height - 0.36)
        shade = 0.45 + 0.55 * (index + 1) / count
        axis.add_patch(Rectangle(place, 0.72 * step, 0.72, fc=KINDS[kind][0], alpha=shade, lw=0))


def _sequence(axis, counts: dict[str, int], asked: tuple[str, str]) -> None:
    """The column of tokens, sound first, and the language model that reads it."""
    left, width = 7.75, 0.62
    runs = (("sound", 0.6), ("picture", 1.3), ("text", 0.45))
    top = 3.3
    for kind, size in runs:
        bottom = top - size
        style = "round,pad=0,rounding_size=0.05"
        look = {"facecolor": KINDS[kind][0], "edgecolor": SOFT, "linewidth": 0.8}
        axis.add_patch(FancyBboxPatch((left, bottom), width, size, boxstyle=style, **look))
        told = f"{counts[kind]}" if kind in counts else "?"
        axis.text(left + width / 2, bottom + size / 2, told, ha="center", va="center", fontsize=9.5)
        if kind in LANES:
            start = LANES[kind]
            _arrow(axis, (7.45, start), (left - 0.03, bottom + size / 2))
        top = bottom - 0.06
    _box(axis, 8.55, 2.07, 0.95, "language\nmodel", FROZEN, tall=2.46)
    _arrow(axis, (8.4, 2.0), (8.54, 2.0))
    question, answer = asked
    axis.text(8.0, 0.76, question, ha="center", va="top", fontsize=8.5, style="italic")
    _arrow(axis, (9.02, 0.83), (9.02, 0.6))
    axis.text(9.02, 0.57, answer, ha="center", va="top", fontsize=8.5, style="italic", color=INK)


def _box(axis, left, middle, width, name, colour, tall: float = 0.8) -> None:
    style = "round,pad=0,rounding_size=0.08"
    place = (left, middle - tall / 2)
    look = {"facecolor": "white", "edgecolor": colour, "linewidth": 2.0}
    axis.add_patch(FancyBboxPatch(place, width, tall, boxstyle=style, **look))
    axis.text(left + width / 2, middle, name, ha="center", va="center", fontsize=9)


def _legend(axis, left: float, bottom: float, colour: str, label: str) -> None:
    look = {"facecolor": "white", "edgecolor": colour, "linewidth": 2.0}
    axis.add_patch(Rectangle((left, bottom), 0.22, 0.16, **look))
    axis.text(left + 0.3, bottom + 0.08, label, va="center", fontsize=8.5, color=SOFT)


def _arrow(axis, start: tuple[float, float], end: tuple[float, float]) -> None:
    axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=9, color=SOFT))
