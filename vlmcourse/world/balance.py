"""Questions whose answers are even in every group of stories (pictures of one size), and in all."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from vlmcourse.world import language
from vlmcourse.world.language import Question
from vlmcourse.world.story import Story

SLACK, IN_GROUP, IN_ALL = 2, 0.2, 0.05
"""So many times, and so many of the mean besides, an answer may lead the rarest one."""


def balanced_over_groups(
    stories: Sequence[Story], groups: Sequence[Hashable], seed: int
) -> list[list[Question]]:
    """Choose at most one question of each kind per story so that neither the question alone nor
    the question with the group of its story favours an answer.

    As `language.balanced_questions`, but the counts are kept twice. Among the candidates of a kind
    the answer is taken that its group used least, then the one that all used least; a kind whose
    every candidate leads in its group or in all is left out for this story.

    Args:
        groups: of each story, such as the size at which it is drawn.
    """
    rng = np.random.default_rng(seed)
    used: dict[tuple, Counter] = defaultdict(Counter)
    chosen = []
    for story, group in zip(stories, groups, strict=True):
        by_kind = defaultdict(list)
        for question in language.all_questions(story):
            by_kind[question.kind].append(question)
        picked = []
        for kind in language.KINDS:
            counts = [(used[group, kind], IN_GROUP), (used[None, kind], IN_ALL)]
            question = _least_used(by_kind.get(kind, []), counts, rng)
            if question is not None:
                for count, _ in counts:
                    count[question.answer] += 1
                picked.append(question)
        chosen.append(picked)
    return chosen


def _least_used(
    candidates: list[Question], counts: list[tuple[Counter, float]], rng: np.random.Generator
) -> Question | None:
    """Return a candidate with the answer that was used least; None if all of them lead."""
    free = [q for q in candidates if not any(_leads(q.answer, *count) for count in counts)]
    if not free:
        return None
    order = rng.permutation(len(free))
    return free[min(order, key=lambda i: [count[free[i].answer] for count, _ in counts])]


def _leads(answer: str, count: Counter, share: float) -> bool:
    known = list(count.values()) or [0]
    return count[answer] > min(known) + SLACK + share * sum(known) / len(known)
