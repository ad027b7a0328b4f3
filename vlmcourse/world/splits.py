"""Which stories belong to which split: disjoint in seeds and in scenes, by construction."""

import hashlib
import json
from dataclasses import astuple, replace

from vlmcourse.errors import UserError
from vlmcourse.world.story import Story, StorySettings, sample_story

SPLITS = ("train", "val", "test")
HELD_OUT = {"train": "exclude", "val": "exclude", "test": "require"}
"""Every test story holds a combination of colour, shape and action that training never saw."""
SEEDS = 10_000_000
"""Each split draws from its own range of so many seeds."""


def scene_split(story: Story) -> str:
    """Return the one split that may show this scene (the things with their places), by its hash."""
    scene = json.dumps(sorted(astuple(thing) for thing in story.things))
    return SPLITS[int(hashlib.sha256(scene.encode()).hexdigest(), 16) % len(SPLITS)]


def sample_stories(split: str, count: int, settings: StorySettings | None = None) -> list[Story]:
    """Sample the first `count` stories of a split; a larger count only adds stories at the end.

    No two splits share a seed or a scene, whatever the counts. The split sets `settings.held_out`.

    Raises:
        UserError: an unknown split, or a count that is no positive number.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    if count < 1:
        raise UserError(f"count must be at least 1, not {count}")
    settings = replace(settings or StorySettings(), held_out=HELD_OUT[split])
    first = SPLITS.index(split) * SEEDS
    stories = []
    for seed in range(first, first + SEEDS):
        story = sample_story(seed, settings)
        if scene_split(story) == split:
            stories.append(story)
            if len(stories) == count:
                return stories
    raise UserError(f"count {count} is more than the {len(stories)} stories that {split} holds")
