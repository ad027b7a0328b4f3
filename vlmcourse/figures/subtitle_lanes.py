"""Subtitles on the clock of a film, and the frames that carry them to the language model."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from vlmcourse.figures.diagrams import KINDS
from vlmcourse.figures.media import show_frame
from vlmcourse.figures.style import INK, SOFT, as_pixels, fit_png, house, new_figure

LANES_PNG_BYTES, LANES_COLOURS = 26_000, 64
Span = tuple[float, float, str]


@house
def subtitle_lanes(
    cues: Sequence[Span],
    frames: np.ndarray,
    times_s: Sequence[float],
    carried: Sequence[Sequence[int]],
    duration_s: float,
    title: str | None = None,
) -> Figure:
    """What is said above, the sampled frames below, and arrows from each text to its frame.

    Args:
        cues: (start_s, end_s, text).
        frames: uint8 [T, H, W, 3].
        times_s: [T] seconds of the frames, rising.
        carried: [T] numbers of the cues that stand behind each frame; a cue may be with none.
        duration_s: length of the film.
        title: above everything.

    Raises:
        ValueError: as many times and lists as frames are needed, and cues that there are.
    """
    frames = as_pixels(frames)
    if not len(frames) == len(times_s) == len(carried):
        raise ValueError(f"{len(frames)} frames, {len(times_s)} times, {len(carried)} lists")
    if wrong := {n for numbers in carried for n in numbers} - set(range(len(cues))):
        raise ValueError(f"no cue {min(wrong)}: there are {len(cues)}")
    gap = min(np.diff(times_s), default=duration_s)
    side = min(gap * 0.92, duration_s / 7)  # seconds across that a frame takes
    inch = 9.0 / (duration_s + side)
    tall = side * inch * frames.shape[1] / frames.shape[2]
    lanes = _lanes(cues)
    above = 0.4 * (max(lanes, default=0) + 1)
    figure = new_figure(9.3, above + tall + 1.15 + (0.3 if title else 0.0))
    axis = figure.subplots()
    bottoms = [tall + 0.5 + 0.4 * lane for lane in lanes]
    with_frame = {n for numbers in carried for n in numbers}
    for number, ((start_s, end_s, text), bottom) in enumerate(zip(cues, bottoms)):
        _draw_cue(axis, (start_s, end_s, text), bottom, inch, number in with_frame)
    for frame, second, numbers in zip(frames, times_s, carried):
        show_frame(axis, frame)
        axis.images[-1].set_extent((second - side / 2, second + side / 2, 0, tall))
        for number in numbers:
            start_s, end_s, _ = cues[number]
            begin = (start_s + 0.3 * (end_s - start_s), bottoms[number])
            arrow = FancyArrowPatch(
                begin, (second, tall + 0.02), arrowstyle="-|>", mutation_scale=10, color=INK
            )
            arrow.set(linewidth=1.1, zorder=1)
            axis.add_patch(arrow)
        axis.plot([second, second], [-0.06, 0], color=SOFT, linewidth=1)
    axis.set(xlim=(-side / 2, duration_s + side / 2), ylim=(-0.06, tall + 0.55 + above))
    axis.set(aspect="auto", yticks=[], xlabel="seconds")
    axis.set_xticks(np.arange(0, duration_s + 1e-9, max(1, round(duration_s / 10))))
    axis.spines["left"].set_visible(False)
    axis.set_title(title or "")
    figure.colours = LANES_COLOURS
    return fit_png(figure, LANES_PNG_BYTES)


def _lanes(cues: Sequence[Span]) -> list[int]:
    """A lane for each cue, so that those that overlap stand over each other."""
    ends: list[float] = []
    found = []
    for start_s, end_s, _ in cues:
        lane = next((n for n, end in enumerate(ends) if end <= start_s), len(ends))
        ends[lane : lane + 1] = [end_s]
        found.append(lane)
    return found


def _draw_cue(axis, cue: Span, bottom: float, inch: float, with_frame: bool) -> None:
    """A box over the time in which the text is shown; hollow if no frame carries it."""
    start_s, end_s, text = cue
    look = {"facecolor": KINDS["said"][0] if with_frame else "white", "edgecolor": SOFT}
    style = f"round,pad=0,rounding_size={0.05 / inch}"
    box = FancyBboxPatch(
        (start_s, bottom), end_s - start_s, 0.34, boxstyle=style, mutation_aspect=inch, **look
    )
    box.set_linewidth(0.8)
    axis.add_patch(box)
    letters = max(8, int((end_s - start_s) * inch / 0.062))
    lines = textwrap.wrap(text, letters)
    shown = "\n".join(lines if len(lines) <= 2 else [lines[0], f"{lines[1][: letters - 2]} …"])
    middle = ((start_s + end_s) / 2, bottom + 0.17)
    axis.text(*middle, shown, ha="center", va="center", fontsize=7.5, linespacing=1.0)
