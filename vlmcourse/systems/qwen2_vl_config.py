"""Qwen2-VL's settings: one class for the published sizes and for the world's."""

from dataclasses import dataclass, replace

from vlmcourse.errors import UserError
from vlmcourse.parts.dynamic_resolution import (
    MAX_PIXELS,
    MIN_PIXELS,
    VIDEO_MAX_PIXELS,
    VIDEO_MIN_PIXELS,
    VIDEO_TOTAL_PIXELS,
)

RELEASED_SETTINGS = {"temperature": 0.0, "max_new_tokens": 128}
"""How the released models answer. Their files ask for sampling among the one likeliest token
(top_k 1), which is taking it; the official examples allow 128 tokens."""

CHOICES = {
    "resize": ("dynamic", "square"),
    "positions": ("mrope", "sequential", "time_embedding"),
    "words": ("qwen", "world"),
    "size": ("2B", "7B", "72B"),
}


@dataclass(frozen=True)
class Qwen2VLConfig:
    """Settings of the system; the defaults are the published ones.

    Areas are in pixels after resizing; `factor ** 2` of them are one token of a picture, or of two
    frames of a video.

    Attributes:
        size: of the published models, "2B", "7B" or "72B"; the world has its own.
        min_pixels, max_pixels: least and largest area of a picture.
        video_min_pixels, video_max_pixels: the same for a frame.
        video_total_pixels: largest area of all frames of a video together, halved, as two share
            their tokens; long videos exceed it (parts/dynamic_resolution.py).
        fps: frames taken a second.
        min_frames, max_frames: bounds of their number.
        resize: "dynamic": a picture keeps its shape; "square": it becomes the square of nearly the
            same number of tokens (the control).
        positions: "mrope": time, row and column; "sequential": one after the other, as text;
            "time_embedding": the same, and every pair of frames has a learnt vector added to its
            tokens.
        time_rows: vectors of "time_embedding"; all that comes later shares the last one.
        patch_size: side of a patch of the vision tower.
        merge: side of the square of patches that become one token.
        temporal: frames that share a patch.
        add_vision_id: number pictures and videos in the text.
        system_text: the system's turn that stands in front of every conversation; "" for none.
        words: what the language model was taught: "qwen" (ChatML) or the small "world".
    """

    size: str = "7B"
    min_pixels: int = MIN_PIXELS
    max_pixels: int = MAX_PIXELS
    video_min_pixels: int = VIDEO_MIN_PIXELS
    video_max_pixels: int = VIDEO_MAX_PIXELS
    video_total_pixels: int = VIDEO_TOTAL_PIXELS
    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768
    resize: str = "dynamic"
    positions: str = "mrope"
    time_rows: int = 384
    patch_size: int = 14
    merge: int = 2
    temporal: int = 2
    add_vision_id: bool = False
    system_text: str = "You are a helpful assistant."
    words: str = "qwen"

    def __post_init__(self):
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                told = ", ".join(known)
                raise UserError(f"{name} is {getattr(self, name)!r}, not one of {told}")
        for name in ("min_pixels", "video_min_pixels", "video_total_pixels", "fps", "min_frames"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0")
        for low, high in (("min_pixels", "max_pixels"), ("min_frames", "max_frames")):
            if getattr(self, high) < getattr(self, low):
                raise UserError(f"{high} is below {low}")

    @property
    def factor(self) -> int:
        """Side in pixels of the square that becomes one token."""
        return self.patch_size * self.merge


PAPER_CONFIG = Qwen2VLConfig()
WORLD_FACTOR = 16
WORLD_CONFIG = replace(
    PAPER_CONFIG,
    patch_size=WORLD_FACTOR // PAPER_CONFIG.merge,
    min_pixels=4 * WORLD_FACTOR**2,
    max_pixels=64 * WORLD_FACTOR**2,
    video_min_pixels=4 * WORLD_FACTOR**2,
    video_max_pixels=16 * WORLD_FACTOR**2,
    video_total_pixels=2048 * WORLD_FACTOR**2,
    time_rows=64,
    system_text="",
    words="world",
)
"""A picture of 32 x 32 pixels costs 4 tokens, one of 96 x 96 costs 36; a film of 64 x 64 pixels
costs 16 for every second."""
