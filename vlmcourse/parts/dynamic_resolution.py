"""Naive dynamic resolution (Qwen2-VL): a picture keeps its shape and its tokens follow its area.

Sides are rounded to multiples of `factor` = patch 14 x merge 2, so that a picture of `h x w` costs
`h / 28 * w / 28` tokens, and two frames of a video cost as much as one picture.
Paper: arXiv 2409.12191, section 2.1.
"""

import math
from dataclasses import dataclass
from typing import Literal

FACTOR = 28
MIN_PIXELS = 4 * FACTOR**2
MAX_PIXELS = 16384 * FACTOR**2
MAX_RATIO = 200
VIDEO_MIN_PIXELS = 128 * FACTOR**2
VIDEO_MAX_PIXELS = 768 * FACTOR**2
VIDEO_TOTAL_PIXELS = 24576 * FACTOR**2
FRAME_FACTOR = 2

Variant = Literal["course", "qwen_vl_utils", "transformers_4_45"]


def smart_resize(
    height: int,
    width: int,
    *,
    factor: int = FACTOR,
    min_pixels: int = MIN_PIXELS,
    max_pixels: float = MAX_PIXELS,
    max_ratio: float = MAX_RATIO,
    variant: Variant = "course",
) -> tuple[int, int]:
    """Return the size to resize a picture to: near its own, in steps of `factor`, within an area.

    Official: QwenLM/Qwen2-VL@35ba6e1:qwen-vl-utils/src/qwen_vl_utils/vision_process.py
    ("qwen_vl_utils");
    huggingface/transformers@v4.45.2:src/transformers/models/qwen2_vl/image_processing_qwen2_vl.py
    ("transformers_4_45").
    Differs: "course" is "qwen_vl_utils" with both sides at least `factor` also where a long thin
    picture is shrunk; there the official one can return a side of 0. "transformers_4_45" refuses
    sides below `factor`.

    Args:
        height: rows, at least 1.
        width: columns, at least 1.
        factor: step of both sides.
        min_pixels: least area; smaller pictures are enlarged.
        max_pixels: largest area; larger pictures are shrunk.
        max_ratio: largest allowed ratio of the sides.
        variant: whose rule to follow where they disagree.

    Returns:
        (height, width).

    Raises:
        ValueError: the sides differ by more than `max_ratio`, or are too small for the variant.
    """
    if variant == "transformers_4_45" and min(height, width) < factor:
        raise ValueError(f"sides must be at least {factor}, got {height}x{width}")
    if min(height, width) < 1 or max(height, width) / min(height, width) > max_ratio:
        raise ValueError(f"the sides of {height}x{width} differ by more than {max_ratio}")
    rows, columns = (max(factor, round(side / factor) * factor) for side in (height, width))
    if rows * columns > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows, columns = (math.floor(side / shrink / factor) * factor for side in (height, width))
        if variant == "course":
            rows, columns = max(factor, rows), max(factor, columns)
    elif rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows, columns = (math.ceil(side * grow / factor) * factor for side in (height, width))
    return rows, columns


def square_size(
    height: int, width: int, *, factor: int = FACTOR, max_pixels: float = math.inf
) -> tuple[int, int]:
    """Return the square that costs as many tokens as a resized picture, or nearly: the control that
    tells what keeping the shape is worth.

    Args:
        height, width: from `smart_resize`, in steps of `factor`.
        max_pixels: largest area; the square that would pass it is the next smaller one.

    Returns:
        (side, side), at least `factor`.
    """
    side = max(1, round(math.sqrt(height * width) / factor)) * factor
    if side * side > max_pixels:
        side = max(1, math.floor(math.sqrt(max_pixels) / factor)) * factor
    return side, side


def video_max_pixels(
    nframes: int,
    *,
    min_pixels: int = VIDEO_MIN_PIXELS,
    frame_max_pixels: int = VIDEO_MAX_PIXELS,
    total_pixels: int = VIDEO_TOTAL_PIXELS,
    frame_factor: int = FRAME_FACTOR,
) -> float:
    """Return the largest area of one frame when `nframes` frames share a budget.

    Official: QwenLM/Qwen2-VL@35ba6e1:qwen-vl-utils/src/qwen_vl_utils/vision_process.py
    (fetch_video).
    Differs: nothing. Note that the lower bound of 1.05 `min_pixels` wins for long videos, which
    then cost more than the budget (with the default numbers above 365 frames).
    """
    return max(min(frame_max_pixels, total_pixels / nframes * frame_factor), int(min_pixels * 1.05))


def video_tokens(
    nframes: int, height: int, width: int, *, factor: int = FACTOR, frame_factor: int = FRAME_FACTOR
) -> int:
    """Count the tokens that the language model gets for `nframes` frames of a resized video."""
    return nframes // frame_factor * (height // factor) * (width // factor)


@dataclass(frozen=True)
class VideoCost:
    """What a video costs under the official rules.

    Attributes:
        nframes: frames that are looked at.
        height, width: of each, resized.
        tokens: that the language model gets.
        budget: tokens that `total_pixels` allows.
    """

    nframes: int
    height: int
    width: int
    tokens: int
    budget: int

    @property
    def overflow(self) -> int:
        """Tokens above the budget; 0 for a video that keeps it."""
        return max(0, self.tokens - self.budget)


def video_cost(
    nframes: int,
    height: int,
    width: int,
    *,
    factor: int = FACTOR,
    min_pixels: int = VIDEO_MIN_PIXELS,
    frame_max_pixels: int = VIDEO_MAX_PIXELS,
    total_pixels: int = VIDEO_TOTAL_PIXELS,
    frame_factor: int = FRAME_FACTOR,
    variant: Variant = "course",
) -> VideoCost:
    """Return size and tokens of a video of `nframes` frames of `height` x `width`, beside what the
    budget would have been.

    Official: QwenLM/Qwen2-VL@35ba6e1:qwen-vl-utils/src/qwen_vl_utils/vision_process.py
    (fetch_video).
    Differs: nothing. The budget counts pixels of all frames and doubles what each may have, as two
    share their tokens: `total_pixels / factor ** 2` tokens. The paper says at most 16384 a video
    in training; these numbers allow 24576, and 768 frames cost up to 51 thousand, more than the
    32768 positions that the released language models are told to have.

    Raises:
        ValueError: as `smart_resize`.
    """
    bounds = {"min_pixels": min_pixels, "total_pixels": total_pixels, "frame_factor": frame_factor}
    most = video_max_pixels(nframes, frame_max_pixels=frame_max_pixels, **bounds)
    rows, columns = smart_resize(
        height, width, factor=factor, min_pixels=min_pixels, max_pixels=most, variant=variant
    )
    tokens = video_tokens(nframes, rows, columns, factor=factor, frame_factor=frame_factor)
    return VideoCost(nframes, rows, columns, tokens, total_pixels // factor**2)


def budget_frames(
    *,
    min_pixels: int = VIDEO_MIN_PIXELS,
    total_pixels: int = VIDEO_TOTAL_PIXELS,
    frame_factor: int = FRAME_FACTOR,
) -> int:
    """Return the most frames whose share of the budget is not below what every frame gets anyway
    (365 with the default numbers: three minutes at 2 frames a second)."""
    return math.floor(total_pixels * frame_factor / int(min_pixels * 1.05))
