"""Splits of films: how their clips are made, and of which files each one consists."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from vlmcourse.world.conversations import VIDEO, Medium
from vlmcourse.world.files import check_format, write_clip
from vlmcourse.world.fingerprints import fingerprints
from vlmcourse.world.language import Question, balanced_questions
from vlmcourse.world.render import render_frames
from vlmcourse.world.sound import render_sound
from vlmcourse.world.splits import sample_stories
from vlmcourse.world.story import Story, StorySettings, sample_story

FORM = ("fps", "width", "height", "crf", "sound")
CHUNK_S = 64
"""Seconds of film that a worker makes before it reports."""


@dataclass(frozen=True)
class SplitSettings:
    """How the clips of a split are made; `story.held_out` is set by the split itself."""

    medium: ClassVar[Medium] = VIDEO
    counts: ClassVar[dict[str, int]] = {"train": 1500, "val": 200, "test": 320}
    sizes: ClassVar[None] = None

    story: StorySettings = field(default_factory=StorySettings)
    fps: float = 4.0
    width: int = 64
    height: int = 64
    crf: int = 23
    sound: bool = True

    def __post_init__(self):
        check_format(self.fps, self.width, self.height, self.crf)

    @property
    def chunk(self) -> int:
        """Clips that a worker makes before it reports."""
        return max(1, CHUNK_S // max(self.story.durations_s))

    def sample(self, split: str, count: int) -> list[Story]:
        """Sample the first stories of a split."""
        return sample_stories(split, count, self.story)

    def ask(self, stories: list[Story], seed: int) -> list[list[Question]]:
        """Choose questions whose answers are balanced."""
        return balanced_questions(stories, seed)

    def files(self, clip: str, story: Story) -> list[str]:
        """List the files of a clip, relative to the split's folder."""
        return [f"clips/{clip}.mp4", *([f"clips/{clip}.srt"] if story.lines else [])]

    def write(self, story: Story, folder: Path, clip: str) -> None:
        """Write the files of a clip into the split's folder."""
        write_clip(story, folder / "clips", clip, **{name: getattr(self, name) for name in FORM})

    def made_by(self) -> dict[str, str]:
        """Fingerprint the code that draws, sounds and tells."""
        settings = StorySettings(live_sound=self.story.live_sound)
        stories = [sample_story(seed, settings) for seed in range(12)]
        return fingerprints(
            stories,
            VIDEO.captions,
            lambda story: (render_frames(story, fps=1).tobytes(), render_sound(story).tobytes()),
            self.ask,
        )
