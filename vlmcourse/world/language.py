"""What is asked about a story: questions with their exact answers, chosen so that none is favoured.

Words are terse and without articles (the tokenizer drops "a", "an" and "the"), because a small
language model then learns to read them in minutes. Every function here is exact: it reads the
story, not pixels.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vlmcourse.world.descriptions import (
    CAPTION_REQUESTS,
    NOTHING,
    Moment,
    caption,
    event_list,
    event_words,
    moments,
    place_words,
    scene_words,
    storyboard,
)
from vlmcourse.world.story import (
    COLOURS,
    SHAPES,
    SLIDE,
    SOUNDS,
    Story,
)

__all__ = [
    "BASE_FORM", "CAPTION_REQUESTS", "FAMILIES", "KINDS", "KIND_FAMILY", "NOTHING", "Moment",
    "Question", "all_questions", "balanced_questions", "blind_best", "caption", "event_list",
    "event_words", "has_words", "moments", "place_words", "scene_words", "storyboard",
]  # fmt: skip

BASE_FORM = {
    "jumps": "jump",
    "tilts": "tilt",
    "glows": "glow",
    "empties": "empty",
    "hides": "hide",
    "slides": "slide",
}
SECONDS = 64
"""There is a word for each of the seconds 0 to 63, and for none after them."""
RECALL_FROM_S = 16
"""Questions of long recall are asked of clips at least this long."""

FAMILIES = {
    "appearance": "picture",
    "count": "picture",
    "place": "picture",
    "existence": "picture",
    "action": "picture",
    "detail": "picture",
    "direction": "motion",
    "order": "motion",
    "when": "motion",
    "how_long": "motion",
    "event_count": "motion",
    "sound": "sound",
    "picture_sound": "picture+sound",
    "speech": "speech",
    "recall": "memory",
}
"""Every question family and the evidence it needs (several frames count as motion)."""


@dataclass(frozen=True)
class Question:
    """One question about one story, its exact answer, and the evidence that answers it."""

    text: str
    answer: str
    kind: str
    family: str

    @property
    def evidence(self) -> str:
        """What one must see or hear: picture, motion, sound, picture+sound, speech or memory."""
        return FAMILIES[self.family]


# ---------------------------------------------------------------- questions


def all_questions(story: Story, offset_s: int = 0) -> list[Question]:
    """List every question that can be asked of a story, answers unbalanced.

    Of a picture these are the questions that need nothing but a picture. Of a long film none is
    listed that names a second without a word, or has one for an answer. Of a film of several scenes
    all are true of the film as a whole: a colour asks for a shape only where no other scene shows
    that colour, and the things, which are never seen together, are not counted.
    """
    asked = [
        *_appearance(story),
        *_existence(story),
        *_events(story, offset_s),
        *_order(story),
        *_heard(story, offset_s),
        *_seen_and_heard(story),
        *_said(story),
    ]
    if story.is_picture:
        return [q for q in asked if q.evidence == "picture"]
    if offset_s + story.duration_s <= SECONDS:
        return asked
    return [q for q in asked if has_words(f"{q.text} {q.answer}")]


def has_words(text: str) -> bool:
    """Whether there is a word for every number (that is, second) of a text of the world."""
    return all(int(word) < SECONDS for word in text.split() if word.isdecimal())


def _appearance(story: Story) -> Iterator[Question]:
    slid = {e.thing for e in story.events if e.action == SLIDE}
    shown = Counter(word for t in story.things for word in (t.colour, t.shape))
    for index, t in enumerate(story.things):
        if shown[t.shape] == 1:
            yield Question(f"what colour is {t.shape} ?", t.colour, "colour", "appearance")
        if shown[t.colour] == 1:
            yield Question(f"what shape is {t.colour} thing ?", t.shape, "shape", "appearance")
        yield Question(f"what size is {t.name} ?", t.size, "size", "appearance")
        if index not in slid:
            yield Question(f"where is {t.name} ?", place_words(t.row, t.column), "where", "place")
    if not story.scenes:
        yield Question("how many things are there ?", str(len(story.things)), "count", "count")
    if len(story.marks) == 1:
        yield Question("what number is shown ?", str(story.marks[0].digit), "number", "detail")


def _existence(story: Story) -> Iterator[Question]:
    """Present things, and absent ones that share the colour or the shape of a present one."""
    names = {t.name for t in story.things}
    for t in story.things:
        yield Question(f"is there {t.name} ?", "yes", "exists", "existence")
        absent = [f"{t.colour} {s}" for s in SHAPES] + [f"{c} {t.shape}" for c in COLOURS]
        for name in absent:
            if name not in names:
                yield Question(f"is there {name} ?", "no", "exists", "existence")


def _events(story: Story, offset_s: int) -> Iterator[Question]:
    by_thing = Counter(e.thing for e in story.events)
    by_action = Counter(e.action for e in story.events)
    for e in story.events:
        name, base = story.things[e.thing].name, BASE_FORM[e.action]
        start = str(e.start_s + offset_s)
        if by_thing[e.thing] == 1:
            yield Question(f"what does {name} do ?", e.action, "does", "action")
        if by_action[e.action] == 1:
            yield Question(f"what {e.action} ?", name, "which", "action")
        yield Question(f"when does {name} {base} ?", start, "when", "when")
        if e.action != SLIDE:  # a slide's length is always the same
            text = f"how long does {name} {base} ?"
            yield Question(text, str(e.length_s), "how_long", "how_long")
        if e.direction:
            yield Question(f"which way does {name} slide ?", e.direction, "direction", "direction")
    for second in range(story.duration_s):
        now = story.event_at(second)
        answer = event_words(story, now) if now else NOTHING
        yield Question(f"what happens at {second + offset_s} ?", answer, "at", "when")
    yield Question("how many events are there ?", str(len(story.events)), "events", "event_count")


def _order(story: Story) -> Iterator[Question]:
    if len(story.events) < 2:
        return
    first, last = story.events[0], story.events[-1]
    yield Question("what happens first ?", event_words(story, first), "first", "order")
    yield Question("what happens last ?", event_words(story, last), "last", "order")
    if story.duration_s >= RECALL_FROM_S and first.end_s <= story.duration_s // 4:
        yield Question("what happens first ?", event_words(story, first), "recall", "recall")
    for i, a in enumerate(story.events):
        for j, b in enumerate(story.events):
            if i != j:
                said = f"{story.things[a.thing].name} {BASE_FORM[a.action]}"
                for word, true in (("before", i < j), ("after", i > j)):
                    answer = "yes" if true else "no"
                    yield Question(
                        f"does {said} {word} {event_words(story, b)} ?", answer, word, "order"
                    )


def _heard(story: Story, offset_s: int) -> Iterator[Question]:
    kinds = [s.kind for s in story.sounds]
    for kind in SOUNDS:
        answer = "yes" if kind in kinds else "no"
        yield Question(f"is {kind} heard ?", answer, "heard", "sound")
    for s in story.sounds:
        if kinds.count(s.kind) == 1:
            yield Question(
                f"when is {s.kind} heard ?", str(s.start_s + offset_s), "sound_when", "sound"
            )
    if kinds:
        yield Question("what sound is first ?", kinds[0], "sound_first", "sound")


def _seen_and_heard(story: Story) -> Iterator[Question]:
    """Questions that neither the picture nor the sound answers alone.

    Absent things carry the colour of one present thing and the shape of another.
    """
    kinds = [s.kind for s in story.sounds]
    names = {t.name for t in story.things}
    mixed = [f"{a.colour} {b.shape}" for a in story.things for b in story.things if a is not b]
    absent = [name for name in mixed if name not in names]
    for kind in SOUNDS:
        for seen, names in ((True, [t.name for t in story.things]), (False, absent)):
            answer = {
                (True, True): "both",
                (True, False): "seen",
                (False, True): "heard",
                (False, False): NOTHING,
            }[seen, kind in kinds]
            for name in names:
                text = f"is {name} seen or {kind} heard ?"
                yield Question(text, answer, "seen_heard", "picture_sound")
    for s in story.sounds:
        if kinds.count(s.kind) > 1:
            continue
        now = story.event_at(s.start_s)
        answer = event_words(story, now) if now else NOTHING
        yield Question(f"what happens when {s.kind} heard ?", answer, "during", "picture_sound")
        for e in story.events:
            if s.start_s < e.start_s or s.start_s >= e.end_s:
                answer = "yes" if s.start_s < e.start_s else "no"
                text = f"is {s.kind} heard before {event_words(story, e)} ?"
                yield Question(text, answer, "sound_before", "picture_sound")


def _said(story: Story) -> Iterator[Question]:
    for line in story.lines:
        name = story.things[line.thing].name
        yield Question(f"what is {name} called ?", line.name, "called", "speech")


KIND_FAMILY = {
    **dict.fromkeys(("colour", "shape", "size"), "appearance"),
    "where": "place",
    "count": "count",
    "number": "detail",
    "exists": "existence",
    **dict.fromkeys(("does", "which"), "action"),
    **dict.fromkeys(("when", "at"), "when"),
    "how_long": "how_long",
    "direction": "direction",
    "events": "event_count",
    **dict.fromkeys(("first", "last", "before", "after"), "order"),
    "recall": "recall",
    **dict.fromkeys(("heard", "sound_when", "sound_first"), "sound"),
    **dict.fromkeys(("seen_heard", "during", "sound_before"), "picture_sound"),
    "called": "speech",
}
"""The family of every kind of question, in the order in which a story is asked."""
KINDS = tuple(KIND_FAMILY)


def balanced_questions(
    stories: list[Story],
    seed: int,
    per_story: int | None = None,
    offsets_s: list[int] | None = None,
) -> list[list[Question]]:
    """Choose at most one question of each kind per story so that no answer of a kind is favoured.

    Among the candidates of a kind the answer used least so far is taken, and a kind whose every
    candidate is already ahead of the rarest answer is left out for this story; so guessing without
    looking stays near chance (tests/world/test_language.py shows the best blind guess of each
    kind).

    Args:
        per_story: keep at most this many questions of each story, chosen at random.
        offsets_s: seconds to add to every time of each story (clips cut out of a longer film).
    """
    rng = np.random.default_rng(seed)
    used: dict[str, Counter] = defaultdict(Counter)
    chosen = []
    for story, offset_s in zip(stories, offsets_s or [0] * len(stories), strict=True):
        by_kind = defaultdict(list)
        for question in all_questions(story, offset_s):
            by_kind[question.kind].append(question)
        picked = []
        for kind in KINDS:
            question = _least_used(by_kind.get(kind, []), used[kind], rng)
            if question is not None:
                used[kind][question.answer] += 1
                picked.append(question)
        if per_story is not None and len(picked) > per_story:
            keep = np.sort(rng.permutation(len(picked))[:per_story])
            picked = [picked[i] for i in keep]
        chosen.append(picked)
    return chosen


def _least_used(candidates: list[Question], used: Counter, rng) -> Question | None:
    if not candidates:
        return None
    order = rng.permutation(len(candidates))
    best = min(order, key=lambda i: used[candidates[i].answer])
    ahead = used[candidates[best].answer]
    others = [used[a] for a in used] or [0]
    slack = 2 + 0.05 * sum(others) / max(len(others), 1)
    return candidates[best] if ahead <= min(others) + slack else None


def blind_best(questions: list[Question]) -> dict[str, float]:
    """Return the share of the commonest answer of every kind: the best blind guess."""
    answers = defaultdict(Counter)
    for q in questions:
        answers[q.kind][q.answer] += 1
    return {kind: max(c.values()) / sum(c.values()) for kind, c in answers.items()}
