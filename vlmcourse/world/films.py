"""Splits of films: how their clips are made, and of which files each one consists."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from vlmcourse.errors import UserError
from vlmcourse.world.balance import balanced_over_groups
from vlmcourse.world.conversations import VIDEO, Medium
from vlmcourse.world.files import check_format, write_clip
from vlmcourse.world.fingerprints import fingerprints
from vlmcourse.world.language import Question, balanced_questions
from vlmcourse.world.render import render_frames
from vlmcourse.world.sound import render_sound
from vlmcourse.world.splits import sample_films, sample_stories
from vlmcourse.world.story import SHORTEST_S, Story, StorySettings, sample_story

FORM = ("fps", "width", "height", "crf", "sound")
CHUNK_S = 64
"""Seconds of film that a worker makes before it reports."""


@dataclass(frozen=True)
class SplitSettings:
    """How the clips of a split are made; `story.held_out` is set by the split itself.

    With `scenes`, a list of numbers, the clips have so many scenes in turn, of any lengths, with
    hard cuts between them; `story` then tells the length of a film, and how a film of one scene is
    sampled. Less happens in a short scene (`StorySettings.of_length`).
    """

    medium: ClassVar[Medium] = VIDEO
    counts: ClassVar[dict[str, int]] = {"train": 1500, "val": 200, "test": 320}
    sizes: ClassVar[None] = None

    story: StorySettings = field(default_factory=StorySettings)
    fps: float = 4.0
    width: int = 64
    height: int = 64
    crf: int = 23
    sound: bool = True
    scenes: tuple[int, ...] | None = None

    def __post_init__(self):
        check_format(self.fps, self.width, self.height, self.crf)
        if self.scenes is not None:
            self._check_scenes(self.scenes)

    def _check_scenes(self, scenes: tuple[int, ...]) -> None:
        if len(self.story.durations_s) > 1:
            raise UserError("films of several scenes all have one length")
        length_s = self.story.durations_s[0]
        for number in scenes or (0,):
            if not 1 <= number <= length_s // SHORTEST_S:
                raise UserError(
                    f"{length_s} seconds cannot be cut into {number} scenes of {SHORTEST_S} "
                    "seconds and more"
                )

    @property
    def chunk(self) -> int:
        """Clips that a worker makes before it reports."""
        return max(1, CHUNK_S // max(self.story.durations_s))

    def sample(self, split: str, count: int) -> list[Story]:
        """Sample the first stories of a split."""
        if self.scenes is None:
            return sample_stories(split, count, self.story)
        return sample_films(split, count, self.scenes, self.story.durations_s[0], self._of_scene)

    def _of_scene(self, length_s: int) -> StorySettings:
        """Return how a scene of so many seconds is sampled."""
        story = self.story
        if length_s == story.durations_s[0]:
            return story
        found = StorySettings.of_length(length_s, story.live_sound)
        return replace(found, things=story.things, mark_probability=story.mark_probability)

    def ask(self, stories: list[Story], seed: int) -> list[list[Question]]:
        """Choose questions whose answers are balanced, in films of every number of scenes too."""
        if self.scenes is None:
            return balanced_questions(stories, seed)
        return balanced_over_groups(stories, [len(story.scenes) for story in stories], seed)

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
        stories += self.sample("val", 2 * len(self.scenes)) if self.scenes else []
        return fingerprints(
            stories,
            VIDEO.captions,
            lambda story: (render_frames(story, fps=1).tobytes(), render_sound(story).tobytes()),
            self.ask,
        )
