"""Which stories belong to which split: disjoint in seeds and in scenes, by construction."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, replace

import numpy as np

from vlmcourse.errors import UserError
from vlmcourse.world.scenes import distinct, join
from vlmcourse.world.story import SHORTEST_S, Story, StorySettings, sample_story

SPLITS = ("train", "val", "test")
HELD_OUT = {"train": "exclude", "val": "exclude", "test": "require"}
"""Every test story holds a combination of colour, shape and action that training never saw."""
SEEDS = 10_000_000
"""Each split of each of `RANGES` draws from its own range of so many seeds."""
RANGES = ("film", "picture", "text", "scenes")


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
    stories = []
    for seed in seeds_of(split, told_as):
        story = sample(seed)
        if story is not None and scene_split(story) == split:
            stories.append(story)
            if len(stories) == count:
                return stories
    raise UserError(f"count {count} is more than the {len(stories)} stories that {split} holds")


def seeds_of(split: str, told_as: str) -> range:
    """Every seed that a split may draw from for one of `RANGES`."""
    first = (RANGES.index(told_as) * len(SPLITS) + SPLITS.index(split)) * SEEDS
    return range(first, first + SEEDS)


def sample_films(
    split: str,
    count: int,
    scenes: Sequence[int],
    duration_s: int,
    settings: Callable[[int], StorySettings],
) -> list[Story]:
    """Sample films of several scenes; a larger count only adds films at the end.

    Every scene may be shown by the split, and holds what the split requires. No two scenes of a
    film show one thing. All ways to cut a film into scenes of whole seconds, `SHORTEST_S` at least,
    are equally likely.

    Args:
        scenes: numbers of scenes, which the films have in turn.
        duration_s: of a film.
        settings: give those of a story of so many seconds.

    Raises:
        UserError: an unknown split, or a count that is no positive number.
    """
    rule = held_out_rule(split)
    if count < 1:
        raise UserError(f"count must be at least 1, not {count}")
    seeds, films = iter(seeds_of(split, "scenes")), []
    for index in range(count):
        rng, parts = np.random.default_rng([SPLITS.index(split), index, 6]), []
        for length_s in _lengths(rng, scenes[index % len(scenes)], duration_s):
            told = replace(settings(length_s), held_out=rule)
            stories = (sample_story(seed, told) for seed in seeds)
            parts.append(
                next(s for s in stories if scene_split(s) == split and distinct([*parts, s]))
            )
        films.append(join(parts))
    return films


def _lengths(rng: np.random.Generator, number: int, duration_s: int) -> list[int]:
    """Seconds of each of so many scenes, `SHORTEST_S` at least, all of them together a film."""
    spare = duration_s - number * SHORTEST_S
    bars = np.sort(rng.choice(spare + number - 1, number - 1, replace=False))
    gaps = np.diff([-1, *bars, spare + number - 1]) - 1
    return [SHORTEST_S + int(gap) for gap in gaps]
