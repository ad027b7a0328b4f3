"""How a story looks: frames drawn with Pillow, at any size and any frame rate.

Lengths are written in units: one unit is a 64th of the frame's shorter side, so that a thing looks
the same at every size. The 3 x 3 grid spans the whole frame, whatever its shape.
"""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from vlmcourse.world.scenes import cut
from vlmcourse.world.story import FRAME_ACTIONS, Story

RADIUS = {"small": 5.2, "big": 8.2}
JITTER = {"small": 2.0, "big": 1.0}
"""Largest distance of a thing from its place's centre, per axis, in units."""
PITCH = 21.0 / 64.0
"""Distance of neighbouring places as a share of the frame's width or height."""
STILL = "still"
STATES = (STILL, *FRAME_ACTIONS)

RGB = {
    "red": (222, 42, 42),
    "green": (40, 184, 62),
    "blue": (54, 86, 242),
    "yellow": (236, 216, 50),
    "purple": (178, 60, 212),
    "white": (232, 232, 232),
}
PIN, SHADOW, HALO = (205, 205, 205), (150, 150, 150), (206, 192, 128)
WALL, WALL_TOP, DIGIT = (128, 106, 88), (168, 142, 120), (214, 220, 220)
NOISE = 3.0
"""Standard deviation of the background's noise in grey levels."""

# The digits 0 to 9, five columns by seven rows; each row is a number whose bits are the pixels.
DIGITS = (
    (14, 17, 19, 21, 25, 17, 14),
    (4, 12, 4, 4, 4, 4, 14),
    (14, 17, 1, 2, 4, 8, 31),
    (31, 2, 4, 2, 1, 17, 14),
    (2, 6, 10, 18, 31, 2, 2),
    (31, 16, 30, 1, 1, 17, 14),
    (6, 8, 16, 30, 17, 17, 14),
    (31, 1, 2, 4, 8, 8, 8),
    (14, 17, 17, 14, 17, 17, 14),
    (14, 17, 17, 15, 1, 2, 12),
)

Layer = tuple[Image.Image, tuple[int, int, int] | None]


def num_frames(story: Story, fps: float) -> int:
    """Return the number of frames of a clip, at least one."""
    return max(1, round(story.duration_s * fps))


def frame_time_s(index: int, fps: float) -> float:
    """Return the moment that a frame shows: the middle of its time on screen."""
    return (index + 0.5) / fps


def render_frame(story: Story, time_s: float, width: int = 64, height: int = 64) -> np.ndarray:
    """Draw one moment of a story -> uint8 [height, width, 3]."""
    start_s, scene = [(s, one) for s, one in cut(story) if s <= max(time_s, 0)][-1]
    return _Painter(scene, width, height).frame(time_s - start_s)


def iter_frames(
    story: Story, fps: float = 4, width: int = 64, height: int = 64
) -> Iterator[np.ndarray]:
    """Yield the frames of a clip in order, each uint8 [height, width, 3], not to be written to.

    Frames that show the same are one and the same array.
    """
    scenes = [(start_s, _Painter(one, width, height)) for start_s, one in cut(story)]
    for index in range(num_frames(story, fps)):
        time_s = frame_time_s(index, fps)
        while len(scenes) > 1 and scenes[1][0] <= time_s:
            del scenes[0]
        start_s, painter = scenes[0]
        yield painter.frame(time_s - start_s)


def render_frames(story: Story, fps: float = 4, width: int = 64, height: int = 64) -> np.ndarray:
    """Draw a whole clip -> uint8 [T, height, width, 3]; frame i shows time (i + 0.5) / fps.

    An event therefore fills exactly the frames of its seconds.
    """
    frames = np.empty((num_frames(story, fps), height, width, 3), dtype=np.uint8)
    for index, frame in enumerate(iter_frames(story, fps, width, height)):
        frames[index] = frame
    return frames


class _Painter:
    """Draws the frames of one scene at one size; keeps the last picture of each state."""

    def __init__(self, story: Story, width: int, height: int):
        self.story, self.width, self.height = story, width, height
        self.unit = min(width, height) / 64.0
        rng = np.random.default_rng([story.seed, 1])
        self.offsets = [
            rng.uniform(-1.0, 1.0, size=2) * JITTER[t.size] * self.unit for t in story.things
        ]
        self.empty = self._background(rng)
        self.last_key, self.last_frame = None, None

    def frame(self, time_s: float) -> np.ndarray:
        """Return uint8 [height, width, 3]; the array is shared by equal moments."""
        now = self.story.event_at(math.floor(time_s))
        things = []
        for index in range(len(self.story.things)):
            acts = now is not None and now.thing == index and now.action in FRAME_ACTIONS
            things.append((self._centre(index, time_s), now.action if acts else STILL))
        key = tuple(things)
        if key != self.last_key:
            picture = self.empty.copy()
            for thing, ((x, y), state) in zip(self.story.things, things):
                body = RGB[thing.colour]
                for mask, colour in sprite(thing.shape, thing.size, state, self.unit):
                    corner = (x - mask.width // 2, y - mask.height // 2)
                    picture.paste(colour or body, corner, mask)
            self.last_key, self.last_frame = key, np.asarray(picture)
        return self.last_frame

    def _place(self, row: float, column: float) -> tuple[float, float]:
        """Return `(x, y)` of a place's centre in pixels."""
        x = (0.5 + (column - 1.0) * PITCH) * self.width
        y = (0.5 + (row - 1.0) * PITCH) * self.height
        return x, y

    def _centre(self, index: int, time_s: float) -> tuple[int, int]:
        x, y = self._place(*self.story.place_at(index, time_s))
        dx, dy = self.offsets[index]
        return round(x + dx), round(y + dy)

    def _background(self, rng: np.random.Generator) -> Image.Image:
        """Draw what never changes in a clip: dark noise and the mark."""
        tone = rng.uniform(16.0, 26.0, size=3)
        noise = rng.normal(0.0, NOISE, size=(self.height, self.width, 3))
        picture = Image.fromarray((tone + noise).clip(0, 255).astype(np.uint8))
        mark = self.story.mark
        if mark is not None:
            mask = digit_mask(mark.digit, self.unit)
            x, y = self._place(mark.row, mark.column)
            picture.paste(DIGIT, (round(x - mask.width / 2), round(y - mask.height / 2)), mask)
        return picture


@lru_cache(maxsize=64)
def digit_mask(digit: int, unit: float) -> Image.Image:
    """Draw a digit, 5 x 7 units large, as a mask; at 64 pixels each bit is one pixel."""
    bits = np.array([[row >> (4 - c) & 1 for c in range(5)] for row in DIGITS[digit]], np.uint8)
    size = (max(1, round(5 * unit)), max(1, round(7 * unit)))
    return Image.fromarray(bits * 255).resize(size, Image.Resampling.BOX)


@lru_cache(maxsize=512)
def sprite(shape: str, size: str, state: str, unit: float) -> tuple[Layer, ...]:
    """Draw a thing in a state as layers, bottom first: masks with colours (None: the thing's own).

    Every mask has the same side and the thing's place in its middle.
    """
    scale = 4 if unit <= 4 else 2
    side = 2 * math.ceil(15.5 * unit)
    pen = _Pen(side * scale, unit * scale)
    layers = _DRAW[state](pen, shape, RADIUS[size])
    return tuple(
        (mask.resize((side, side), Image.Resampling.BOX), colour) for mask, colour in layers
    )


class _Pen:
    """Draws masks around the middle of a square; lengths in units, y grows downwards."""

    def __init__(self, side: int, unit: float):
        self.side, self.unit, self.middle = side, unit, side / 2.0

    def blank(self) -> Image.Image:
        return Image.new("L", (self.side, self.side))

    def box(self, x0: float, y0: float, x1: float, y1: float) -> list[float]:
        """Return Pillow's box, whose last row and column are drawn too, at least a pixel large."""
        low = [self.middle + v * self.unit for v in (x0, y0)]
        high = [self.middle + v * self.unit - 1 for v in (x1, y1)]
        return [*low, *map(max, low, high)]

    def rectangle(self, x0: float, y0: float, x1: float, y1: float) -> Image.Image:
        mask = self.blank()
        ImageDraw.Draw(mask).rectangle(self.box(x0, y0, x1, y1), fill=255)
        return mask

    def ellipse(self, x: float, y: float, rx: float, ry: float, mask=None, fill=255):
        mask = mask or self.blank()
        if rx > 0 and ry > 0:
            ImageDraw.Draw(mask).ellipse(self.box(x - rx, y - ry, x + rx, y + ry), fill=fill)
        return mask

    def body(self, shape: str, radius: float, y: float = 0.0, line: float = 0.0) -> Image.Image:
        """Draw a shape around `(0, y)`, filled, or as an outline that is `line` units wide."""
        if shape == "circle":
            mask = self.ellipse(0, y, radius, radius)
            return self.ellipse(0, y, radius - line, radius - line, mask, 0) if line else mask
        if shape == "moon":
            mask = self._moon(radius, y)
            return ImageChops.subtract(mask, self._moon(radius, y, line)) if line else mask
        mask = self.blank()
        points = [
            (self.middle + a * radius * self.unit, self.middle + (y + b * radius) * self.unit)
            for a, b in _POINTS[shape]
        ]
        ImageDraw.Draw(mask).polygon(points, fill=255)
        if not line:
            return mask
        rim = self.blank()
        path = [*points, *points[:2]]
        width = max(2, round(2 * line * self.unit))
        ImageDraw.Draw(rim).line(path, fill=255, width=width, joint="curve")
        return ImageChops.darker(mask, rim)

    def _moon(self, radius: float, y: float, inset: float = 0.0) -> Image.Image:
        """Draw a disc with a bite at its right; `inset` peels the rim off."""
        mask = self.ellipse(0, y, radius - inset, radius - inset)
        bite = 0.80 * radius + inset
        return self.ellipse(0.62 * radius, y - 0.12 * radius, bite, bite, mask, 0)

    def pin(self, radius: float, y: float = 0.0) -> Image.Image:
        """Draw the small pin that stands on top of every thing."""
        top = y - radius
        return self.rectangle(-0.9, top - 2.6, 0.9, top + 0.8)


def _star() -> list[tuple[float, float]]:
    turns = [math.pi * (i / 5 - 0.5) for i in range(10)]
    reach = [1.12 if i % 2 == 0 else 0.5 for i in range(10)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(reach, turns)]


def _cross(arm: float = 0.36, reach: float = 1.05) -> list[tuple[float, float]]:
    corner = [(-arm, -reach), (arm, -reach), (arm, -arm)]
    right = [(-b, a) for a, b in corner]
    return [*corner, *right, *((-a, -b) for a, b in corner), *((-a, -b) for a, b in right)]


_POINTS = {
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "triangle": [(0.0, -1.0), (1.05, 0.9), (-1.05, 0.9)],
    "star": _star(),
    "cross": _cross(),
}
"""Corners of the polygons for radius 1, y downwards."""


def _still(pen: _Pen, shape: str, radius: float) -> list[Layer]:
    return [(pen.pin(radius), PIN), (pen.body(shape, radius), None)]


def _jumps(pen: _Pen, shape: str, radius: float) -> list[Layer]:
    """Raised and a little smaller, with a shadow below and a gap between."""
    smaller, up = 0.82 * radius, -0.34 * radius
    shadow = pen.ellipse(0, 1.12 * radius, 1.05 * radius, 0.24 * radius)
    return [(shadow, SHADOW), (pen.pin(smaller, up), PIN), (pen.body(shape, smaller, up), None)]


def _tilts(pen: _Pen, shape: str, radius: float) -> list[Layer]:
    """Turned clockwise by 45 degrees; the pin shows it on a circle too."""
    turn = {"angle": -45, "resample": Image.Resampling.BILINEAR}
    return [(mask.rotate(**turn), colour) for mask, colour in _still(pen, shape, radius)]


def _glows(pen: _Pen, shape: str, radius: float) -> list[Layer]:
    body = pen.body(shape, radius)
    blurred = body.filter(ImageFilter.GaussianBlur(2.3 * pen.unit))
    return [(blurred.point(lambda v: min(255, 4 * v)), HALO), *_still(pen, shape, radius)]


def _empties(pen: _Pen, shape: str, radius: float) -> list[Layer]:
    return [(pen.pin(radius), PIN), (pen.body(shape, radius, line=1.3), None)]


def _hides(pen: _Pen, shape: str, radius: float) -> list[Layer]:
    """A wall stands before the lower third."""
    left, right, top = -1.25 * radius, 1.25 * radius, 0.3 * radius
    wall = pen.rectangle(left, top, right, top + 0.95 * radius)
    edge = pen.rectangle(left, top, right, top + 0.16 * radius)
    return [*_still(pen, shape, radius), (wall, WALL), (edge, WALL_TOP)]


_DRAW = {
    STILL: _still,
    "jumps": _jumps,
    "tilts": _tilts,
    "glows": _glows,
    "empties": _empties,
    "hides": _hides,
}
