"""What pictures and films cost in tokens, by the official rules of Qwen2-VL."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from vlmcourse.figures.style import INK, PALETTE, SOFT, fit_png, house, new_figure
from vlmcourse.media.sampling import qwen2_vl_num_frames
from vlmcourse.parts.dynamic_resolution import (
    FACTOR,
    FRAME_FACTOR,
    MAX_PIXELS,
    VIDEO_MIN_PIXELS,
    VIDEO_TOTAL_PIXELS,
    smart_resize,
    video_max_pixels,
    video_tokens,
)

COST_PNG_BYTES, COST_COLOURS = 34_000, 64
BUDGET = VIDEO_TOTAL_PIXELS // FACTOR**2
"""Tokens that all frames of a video are meant to share."""
CONTEXT = 32768
"""Positions of the published language models."""

Size = tuple[int, int]


def last_frames_within() -> int:
    """The largest number of frames whose smallest allowed size still keeps to the budget."""
    return int(VIDEO_TOTAL_PIXELS * FRAME_FACTOR / int(VIDEO_MIN_PIXELS * 1.05))


def picture_costs(
    sides: Sequence[int], max_pixels: int = MAX_PIXELS, ratio: float = 1.0
) -> dict[int, int]:
    """Tokens of a picture by its height in pixels.

    Args:
        sides: heights.
        max_pixels: largest area that it may keep.
        ratio: width to height.
    """
    costs = {}
    for side in sides:
        rows, columns = smart_resize(side, round(side * ratio), max_pixels=max_pixels)
        costs[side] = rows * columns // FACTOR**2
    return costs


def film_costs(
    seconds: Sequence[float], size: Size, video_fps: float = 30.0, fps: float = 2.0
) -> dict[float, int]:
    """Tokens of a film by its length.

    Args:
        seconds: lengths, at least two seconds each.
        size: width and height of the recording.
        video_fps: its frames a second.
        fps: frames that are taken a second.
    """
    costs = {}
    for length in seconds:
        frames = qwen2_vl_num_frames(round(length * video_fps), video_fps, fps=fps)
        most = video_max_pixels(frames)
        rows, columns = smart_resize(size[1], size[0], min_pixels=VIDEO_MIN_PIXELS, max_pixels=most)
        costs[length] = video_tokens(frames, rows, columns)
    return costs


@house
def token_costs(
    pictures: Mapping[str, Mapping[float, int]],
    films: Mapping[str, Mapping[float, int]],
    fps: float = 2.0,
    title: str | None = None,
) -> Figure:
    """Left, tokens of a picture by its side; right, tokens of a film by its length, with the budget
    of a film and where it is exceeded.

    Args:
        pictures: label -> side in pixels -> tokens (`picture_costs`).
        films: label -> seconds -> tokens (`film_costs`).
        fps: frames that are taken a second, which tells at what length the budget breaks.
        title: above both.

    Raises:
        ValueError: nothing to draw on a side.
    """
    if not pictures or not films:
        raise ValueError("token_costs needs at least one picture and one film")
    figure = new_figure(9.4, 3.5 + (0.3 if title else 0.0))
    left, right = figure.subplots(1, 2)
    _curves(left, pictures)
    left.set(xlabel="side of a square picture, pixels", ylabel="tokens")
    left.set_title("a picture", fontsize=10, loc="center")
    _curves(right, films)
    breaks = (last_frames_within() + 1) / fps
    longest = max(max(line) for line in films.values())
    highest = max(max(line.values()) for line in films.values())
    for level, name in ((BUDGET, "budget of a film"), (CONTEXT, "context")):
        right.axhline(level, color=INK, linestyle="--", linewidth=1)
        look = {"xytext": (2, 3), "textcoords": "offset points", "fontsize": 8}
        right.annotate(f"{name}: {level:,}", (0, level), **look)
    if longest > breaks:
        right.axvspan(breaks, longest, color=PALETTE["red"], alpha=0.1, linewidth=0)
        look = {"fontsize": 8, "color": PALETTE["red"], "va": "top", "ha": "left"}
        told = f"above {last_frames_within()} frames\nthe least size of\na frame wins"
        right.annotate(told, (breaks + 0.015 * longest, 0.03 * highest), **{**look, "va": "bottom"})
    right.set(xlabel=f"length of a film, seconds ({fps:g} frames a second)", xlim=(0, longest))
    right.set(ylim=(0, 1.08 * max(highest, CONTEXT)))
    right.set_title("a film", fontsize=10, loc="center")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.colours = COST_COLOURS
    return fit_png(figure, COST_PNG_BYTES)


def _curves(axis, lines: Mapping[str, Mapping[float, int]]) -> None:
    colours = list(PALETTE.values()) * len(lines)
    for number, (name, line) in enumerate(lines.items()):  # wide below, as lines often meet
        look = {"color": colours[number], "linewidth": max(1.4, 3.4 - number), "label": name}
        xs = np.array(sorted(line))
        axis.plot(xs, [line[x] for x in xs], **look)
    axis.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
    axis.grid(axis="y", color="#d1d5db")
    axis.legend(loc="upper left" if len(lines) < 3 else "best", labelcolor=SOFT)
