"""Splits of pictures: one moment of a story each, drawn at the size that is asked for, or at one of
several sizes.

A moment shows things at their places and, about two times in three, one of them in a visible state
(`FRAME_ACTIONS`). No moment lies within a slide: half-way between two places, "where" would have
two answers. Told as a story the moment lasts `PICTURE_S`, with the event that is seen and without
sounds or lines, so that only questions are asked that one picture answers.

As in films, training and validation never show a held-out combination of colour, shape and action;
in the test split every action that is seen is one.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from vlmcourse.errors import UserError
from vlmcourse.world.balance import balanced_over_groups
from vlmcourse.world.conversations import PICTURE, Medium
from vlmcourse.world.files import whole_file
from vlmcourse.world.fingerprints import fingerprints
from vlmcourse.world.language import Question, balanced_questions
from vlmcourse.world.render import render_frame
from vlmcourse.world.splits import first_stories, held_out_rule
from vlmcourse.world.story import (
    FRAME_ACTIONS,
    PICTURE_S,
    Event,
    Story,
    StorySettings,
    is_held_out,
    sample_story,
)

SMALLEST = 16
"""Least width and height in pixels."""
Size = tuple[int, int]
"""Width and height in pixels."""
MANY_SIZES: tuple[Size, ...] = (
    *((32, 32), (48, 48), (64, 64), (80, 80), (96, 96), (128, 128)),
    *((96, 64), (64, 96), (128, 48), (48, 128), (192, 64), (64, 192)),
)
"""Squares, panoramas and portraits up to 1:3. A mark's digit grows with the shorter side: a grey
patch at 32 pixels, half readable at 48, readable from 64 on."""


@dataclass(frozen=True)
class PictureSettings:
    """How the pictures of a split are made; `story.held_out` is set by the split itself.

    All are `width` x `height` large, unless there are `sizes`: then each has one of them, drawn by
    its seed. `acting` is the chance that something happens in a picture.
    """

    medium: ClassVar[Medium] = PICTURE
    counts: ClassVar[dict[str, int]] = {"train": 3000, "val": 300, "test": 600}
    chunk: ClassVar[int] = 64

    story: StorySettings = field(default_factory=StorySettings)
    width: int = 96
    height: int = 96
    acting: float = 2 / 3
    sizes: tuple[Size, ...] | None = None

    def __post_init__(self):
        if self.sizes is not None and not self.sizes:
            raise UserError("sizes must not be an empty list")
        for width, height in self.sizes or [(self.width, self.height)]:
            if min(width, height) < SMALLEST:
                size = f"{width}x{height}"
                raise UserError(f"a picture's sides must be at least {SMALLEST} pixels, not {size}")
        if not 0.0 <= self.acting <= 1.0:
            raise UserError(f"acting must be 0 to 1, not {self.acting}")

    def sample(self, split: str, count: int) -> list[Story]:
        """Sample the first moments of a split."""
        settings = replace(self.story, held_out=held_out_rule(split))
        return first_stories(
            split, count, lambda seed: sample_moment(seed, settings, self.acting), "picture"
        )

    def size_of(self, story: Story) -> Size:
        """Return the size at which a moment is drawn, which depends on its seed alone."""
        if self.sizes is None:
            return self.width, self.height
        return self.sizes[np.random.default_rng([story.seed, 5]).integers(len(self.sizes))]

    def ask(self, stories: list[Story], seed: int) -> list[list[Question]]:
        """Choose questions whose answers are balanced, among the pictures of a size too."""
        if self.sizes is None:
            return balanced_questions(stories, seed)
        return balanced_over_groups(stories, [self.size_of(story) for story in stories], seed)

    def files(self, clip: str, story: Story) -> list[str]:
        """List the files of a picture, relative to the split's folder."""
        return [f"clips/{clip}{PICTURE.suffix}"]

    def write(self, story: Story, folder: Path, clip: str) -> None:
        """Write a picture into the split's folder."""
        path = folder / "clips" / f"{clip}{PICTURE.suffix}"
        write_picture(path, story, *self.size_of(story))

    def made_by(self) -> dict[str, str]:
        """Fingerprint the code that draws and tells."""
        shown = PictureSettings(sizes=self.sizes)
        return fingerprints(
            shown.sample("train", 12),
            PICTURE.captions,
            lambda story: [_draw(story, *shown.size_of(story)).tobytes()],
            shown.ask,
        )


def sample_moment(
    seed: int, settings: StorySettings | None = None, acting: float = 2 / 3
) -> Story | None:
    """Sample a story and one of its seconds -> the moment, or None if it has none of this kind.

    Args:
        settings: of the story; with `held_out="require"` what happens is a held-out combination.
        acting: chance that something happens.
    """
    settings = settings or StorySettings()
    story = sample_story(seed, settings)
    rng = np.random.default_rng([seed, 4])
    wanted = rng.random() < acting
    seconds = [
        second
        for second in range(story.duration_s)
        if _suits(story, story.event_at(second), wanted, settings.held_out == "require")
    ]
    return moment(story, int(rng.choice(seconds))) if seconds else None


def _suits(story: Story, now: Event | None, acting: bool, unseen: bool) -> bool:
    if now is None:
        return not acting
    if not acting or now.action not in FRAME_ACTIONS:
        return False
    thing = story.things[now.thing]
    return not unseen or is_held_out(thing.colour, thing.shape, now.action)


def moment(story: Story, second: int) -> Story:
    """Return what a film shows during one second, in which nothing slides, as a picture's story."""
    now = story.event_at(second)
    if now is not None and now.action not in FRAME_ACTIONS:
        raise ValueError(f"a moment within a slide (second {second}) is no picture")
    places = [story.place_at(index, second) for index in range(len(story.things))]
    return Story(
        seed=story.seed,
        duration_s=PICTURE_S,
        things=tuple(
            replace(thing, row=int(row), column=int(column))
            for thing, (row, column) in zip(story.things, places, strict=True)
        ),
        events=(Event(0, PICTURE_S, now.thing, now.action),) if now else (),
        mark=story.mark,
    )


def write_picture(path: str | Path, story: Story, width: int = 96, height: int = 96) -> None:
    """Draw a moment and write it as PNG; the same moment and size give the same bytes."""
    with whole_file(Path(path)) as part:
        Image.fromarray(_draw(story, width, height)).save(part, "png")


def _draw(story: Story, width: int, height: int) -> np.ndarray:
    """Draw a moment -> uint8 [height, width, 3]."""
    return render_frame(story, PICTURE_S / 2, width, height)
