"""Which stories belong to which split: disjoint in seeds and in scenes, by construction."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import astuple, replace

from vlmcourse.errors import UserError
from vlmcourse.world.story import Story, StorySettings, sample_story

SPLITS = ("train", "val", "test")
HELD_OUT = {"train": "exclude", "val": "exclude", "test": "require"}
"""Every test story holds a combination of colour, shape and action that training never saw."""
SEEDS = 10_000_000
"""Each split of films, of pictures and of texts draws from its own range of so many seeds."""
RANGES = ("film", "picture", "text")


def scene_split(story: Story) -> str:
    """Return the one split that may show this scene (the things with their places), by its hash."""
    scene = json.dumps(sorted(astuple(thing) for thing in story.things))
    return SPLITS[int(hashlib.sha256(scene.encode()).hexdigest(), 16) % len(SPLITS)]


def held_out_rule(split: str) -> str:
    """Return what a split does with held-out combinations: "exclude" or "require".

    Raises:
        UserError: an unknown split.
    """
    if split not in HELD_OUT:
        raise UserError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    return HELD_OUT[split]


def sample_stories(split: str, count: int, settings: StorySettings | None = None) -> list[Story]:
    """Sample the first `count` stories of a split; a larger count only adds stories at the end.

    No two splits share a seed or a scene, whatever the counts. The split sets `settings.held_out`.

    Raises:
        UserError: an unknown split, or a count that is no positive number.
    """
    settings = replace(settings or StorySettings(), held_out=held_out_rule(split))
    return first_stories(split, count, lambda seed: sample_story(seed, settings))


def first_stories(
    split: str, count: int, sample: Callable[[int], Story | None], told_as: str = "film"
) -> list[Story]:
    """Sample the first `count` stories whose scene the split may show.

    Args:
        sample: gives the story of a seed, or None if this seed has none to give.
        told_as: one of `RANGES`; no seed is in two of them.

    Raises:
        UserError: as `sample_stories`.
    """
    held_out_rule(split)
    if count < 1:
        raise UserError(f"count must be at least 1, not {count}")
    first = (RANGES.index(told_as) * len(SPLITS) + SPLITS.index(split)) * SEEDS
    stories = []
    for seed in range(first, first + SEEDS):
        story = sample(seed)
        if story is not None and scene_split(story) == split:
            stories.append(story)
            if len(stories) == count:
                return stories
    raise UserError(f"count {count} is more than the {len(stories)} stories that {split} holds")
