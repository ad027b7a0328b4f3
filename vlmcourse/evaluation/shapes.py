"""Accuracy by what the pictures and films that are asked about are like: shape and size, scenes.

A split may hold pictures of many sizes. What a system makes of a wide picture, or of a large one,
is then told apart: by shape (square, wide, tall), by area and, where there are few, by size. In the
same way films of one scene are told apart from films of several.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from vlmcourse.evaluation.conditions import SYSTEM
from vlmcourse.evaluation.scoring import Bootstrap
from vlmcourse.intervals import metric
from vlmcourse.world.dataset import WorldSplit
from vlmcourse.world.language import FAMILIES, Question
from vlmcourse.world.story import Story

SQUARE = 1.2
"""Sides that differ by less than this factor still make a square."""
CLASSES = 12
"""Most areas, or sizes, that are told one by one."""
BINS = 4
"""Classes of equally many clips that more areas are put into."""
BEST = "best_constant"

Size = tuple[int, int]


def clip_sizes(split: WorldSplit, ids: Sequence[str]) -> list[Size]:
    """Width and height in pixels of some clips of a split; none where all of it has one size."""
    known = dict(zip(split.ids, split.sizes or ()))
    return [known[clip] for clip in ids if known]


def shape_of(size: Size) -> str:
    """ "square", "wide" or "tall"."""
    width, height = size
    if max(width, height) < SQUARE * min(width, height):
        return "square"
    return "wide" if width > height else "tall"


def shape_groups(sizes: Sequence[Size], clip_of: np.ndarray) -> dict[str, np.ndarray]:
    """Sets of questions by the shape and size of their clip -> bool `[Q]`; none for equal clips.

    Args:
        sizes: width and height of each of the C clips.
        clip_of: `[Q]` clip of each question.

    Returns:
        "shape/wide" (as `shape_of` says), "area/4096" in pixels (or "area/1024-4096", from quarter
        to quarter of the clips, where there are many areas), and "size/128x48" where there are few.
    """
    if len(set(sizes)) < 2:
        return {}
    clip_of = np.asarray(clip_of)
    named = {f"shape/{name}": name for name in ("square", "wide", "tall")}
    shapes = np.array([shape_of(size) for size in sizes])
    found = {key: (shapes == name)[clip_of] for key, name in named.items()}
    areas = np.array([width * height for width, height in sizes])
    for name, chosen in _area_classes(areas).items():
        found[f"area/{name}"] = chosen[clip_of]
    if len(set(sizes)) <= CLASSES:
        for size in sorted(set(sizes), key=lambda one: (one[0] * one[1], one)):
            here = np.array([one == size for one in sizes])
            found[f"size/{size[0]}x{size[1]}"] = here[clip_of]
    return {name: chosen for name, chosen in found.items() if chosen.any()}


def _area_classes(areas: np.ndarray) -> dict[str, np.ndarray]:
    """Classes of clips by area -> bool `[C]`."""
    known = np.unique(areas)
    if len(known) <= CLASSES:
        return {str(area): areas == area for area in known}
    edges = np.unique(np.quantile(areas, np.linspace(0, 1, BINS + 1)[1:], method="lower"))
    classes, before = {}, -1
    for edge in edges:
        chosen = (areas > before) & (areas <= edge)
        classes[f"{areas[chosen].min()}-{areas[chosen].max()}"] = chosen
        before = edge
    return classes


def scene_groups(stories: Sequence[Story], clip_of: np.ndarray) -> dict[str, np.ndarray]:
    """Sets of questions by the number of scenes of their film, "scenes/4" -> bool `[Q]`; none where
    all films have equally many.

    Args:
        stories: of each of the C clips.
        clip_of: `[Q]` clip of each question.
    """
    counts = np.array([max(1, len(story.scenes)) for story in stories])
    known = np.unique(counts)
    if len(known) < 2:
        return {}
    return {f"scenes/{count}": (counts == count)[np.asarray(clip_of)] for count in known}


def group_costs(tokens: Sequence[int], groups: Mapping[str, np.ndarray]) -> dict[str, dict]:
    """Mean tokens of the clips of every class, `tokens/GROUP`.

    Args:
        tokens: of each of the C clips (`cost.clip_tokens`).
        groups: sets of clips, bool `[C]` (of `shape_groups` or `scene_groups`).
    """
    tokens = np.asarray(tokens)
    return {f"tokens/{name}": metric(tokens[chosen], "tokens") for name, chosen in groups.items()}


def group_metrics(
    answers: Mapping[str, np.ndarray],
    questions: Sequence[Question],
    clip_of: np.ndarray,
    groups: Mapping[str, np.ndarray],
) -> dict[str, dict]:
    """Turn answers into metrics by what the clips are like.

    Args:
        answers: condition -> `[S, Q]`, as in `scoring.score`.
        groups: of `shape_groups` or `scene_groups`.

    Returns:
        `CONDITION/GROUP`, such as "system/shape/wide"; and, for the system and the best constant
        answer, `CONDITION/GROUP/FAMILY` for the families that are asked.
    """
    if not groups:
        return {}
    bootstrap = Bootstrap(clip_of)
    family = np.array([question.family for question in questions])
    found = {}
    for condition, right in answers.items():
        for name, chosen in groups.items():
            found[f"{condition}/{name}"] = bootstrap.metric(right, chosen)
            for one in FAMILIES if condition in (SYSTEM, BEST) else ():
                if (both := chosen & (family == one)).any():
                    found[f"{condition}/{name}/{one}"] = bootstrap.metric(right, both)
    return found
