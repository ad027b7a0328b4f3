"""What is said and asked about a story: descriptions, captions, and questions with their answers.

Words are terse and without articles (the tokenizer drops "a", "an" and "the"), because a small
language model then learns to read them in minutes. Every function here is exact: it reads the
story, not pixels.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vlmcourse.world.story import (
    COLOURS,
    COLUMNS,
    ROWS,
    SHAPES,
    SLIDE,
    SOUNDS,
    Event,
    Story,
)

BASE_FORM = {
    "jumps": "jump",
    "tilts": "tilt",
    "glows": "glow",
    "empties": "empty",
    "hides": "hide",
    "slides": "slide",
}
NOTHING = "nothing"
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


# ---------------------------------------------------------------- descriptions


def place_words(row: float, column: float) -> str:
    """Name a place; between two places the nearer one (a slide's start at its middle)."""
    return f"{ROWS[round(row)]} {COLUMNS[round(column)]}"


def event_words(story: Story, event: Event) -> str:
    """Say who does what, for example `red circle glows`."""
    return f"{story.things[event.thing].name} {event.action}"


def scene_words(story: Story) -> list[str]:
    """Describe every thing (and the mark) as it stands at the start, one clause each."""
    clauses = [f"{t.size} {t.name} {place_words(t.row, t.column)}" for t in story.things]
    if story.mark:
        m = story.mark
        clauses.append(f"number {m.digit} {place_words(m.row, m.column)}")
    return clauses


def event_list(story: Story, offset_s: int = 0) -> str:
    """Describe the whole clip as a scene and a list of events, sounds and spoken lines with times.

    Args:
        offset_s: added to every time, for clips that are cut out of a longer film.
    """
    parts = ["scene : " + " , ".join(scene_words(story)) + " ."]
    for e in story.events:
        way = f" {e.direction}" if e.direction else ""
        parts.append(f"at {e.start_s + offset_s} {event_words(story, e)}{way} for {e.length_s} .")
    parts += [f"sound {s.kind} at {s.start_s + offset_s} ." for s in story.sounds]
    parts += [f"said : {story.line_text(line)} ." for line in story.lines]
    return " ".join(parts)


@dataclass(frozen=True)
class Moment:
    """One second as a list of clauses: `seen` for things and mark, `heard`, and `said`."""

    second: int
    seen: tuple[str, ...]
    heard: tuple[str, ...]
    said: tuple[str, ...]


def moments(story: Story) -> list[Moment]:
    """Describe the clip second by second, as one frame a second would show it.

    A clause names size, colour, shape, place and, during an event, the visible state. A slide
    shows as `slides` at its start place; the direction is told by the later seconds alone.
    """
    result = []
    for second in range(story.duration_s):
        now = story.event_at(second)
        seen = []
        for index, t in enumerate(story.things):
            sliding = now is not None and now.thing == index and now.action == SLIDE
            row, column = story.place_at(index, now.start_s if sliding else second + 0.5)
            state = f" {now.action}" if now is not None and now.thing == index else ""
            seen.append(f"{t.size} {t.name} {place_words(row, column)}{state}")
        if story.mark:
            m = story.mark
            seen.append(f"number {m.digit} {place_words(m.row, m.column)}")
        result.append(
            Moment(
                second,
                tuple(seen),
                tuple(f"sound {s.kind}" for s in story.sounds if s.start_s == second),
                tuple(story.line_text(x) for x in story.lines if x.start_s == second),
            )
        )
    return result


def storyboard(story: Story, offset_s: int = 0) -> str:
    """Describe the clip frame by frame: `0 : small red circle top left , ... . 1 : ...`."""
    parts = []
    for m in moments(story):
        parts.append(f"{m.second + offset_s} : " + " , ".join(m.seen) + " .")
        parts += [f"{text} ." for text in m.heard]
        parts += [f"said : {text} ." for text in m.said]
    return " ".join(parts)


CAPTION_REQUESTS = {
    "short": "what is shown ?",
    "detailed": "describe in detail ?",
    "timed": "describe with times ?",
    "heard": "what is heard ?",
}


def caption(story: Story, style: str = "short", offset_s: int = 0) -> str:
    """Caption a clip in one of the styles of `CAPTION_REQUESTS`; `offset_s` as in `event_list`."""
    if style == "short":
        return " , ".join(t.name for t in story.things)
    if style == "detailed":
        return " . ".join(
            [" , ".join(scene_words(story)), *(event_words(story, e) for e in story.events)]
        )
    if style == "timed":
        return " . ".join(
            f"at {e.start_s + offset_s} {event_words(story, e)} for {e.length_s}"
            for e in story.events
        )
    if style == "heard":
        heard = [f"{s.kind} at {s.start_s + offset_s}" for s in story.sounds]
        return " , ".join(heard) or NOTHING
    raise ValueError(f"unknown caption style {style!r}; known: {', '.join(CAPTION_REQUESTS)}")


# ---------------------------------------------------------------- questions


def all_questions(story: Story, offset_s: int = 0) -> list[Question]:
    """List every question that can be asked of a story, answers unbalanced.

    Of a picture these are the questions that need nothing but a picture.
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
    return [q for q in asked if q.evidence == "picture"] if story.is_picture else asked


def _appearance(story: Story) -> Iterator[Question]:
    slid = {e.thing for e in story.events if e.action == SLIDE}
    for index, t in enumerate(story.things):
        yield Question(f"what colour is {t.shape} ?", t.colour, "colour", "appearance")
        yield Question(f"what shape is {t.colour} thing ?", t.shape, "shape", "appearance")
        yield Question(f"what size is {t.name} ?", t.size, "size", "appearance")
        if index not in slid:
            yield Question(f"where is {t.name} ?", place_words(t.row, t.column), "where", "place")
    yield Question("how many things are there ?", str(len(story.things)), "count", "count")
    if story.mark:
        yield Question("what number is shown ?", str(story.mark.digit), "number", "detail")


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
    absent = [f"{a.colour} {b.shape}" for a in story.things for b in story.things if a is not b]
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
