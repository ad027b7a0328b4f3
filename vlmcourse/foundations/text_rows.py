"""Text of the world as training rows: one description, then many packed questions about it.

Every position is a small bag of word ids whose embeddings are added up: one word for ordinary text,
several for a *fused* position, which imitates a projected visual token that says all about one
thing.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlmcourse.foundations.tokenizer import SPECIAL
from vlmcourse.parts.packing import PADDING, PREFIX
from vlmcourse.world.language import (
    CAPTION_REQUESTS,
    Moment,
    Question,
    all_questions,
    balanced_questions,
    caption,
    event_list,
    moments,
    storyboard,
)
from vlmcourse.world.story import COLUMNS, ROWS, Story, StorySettings, sample_story
from vlmcourse.world.words import vocabulary

FORMS = ("events", "storyboard", "fused", "fused_timed")
"""Event list; frame by frame in words; fused with a time word before each second; fused with the
time word inside every position as well."""

BAG = 8
IGNORED = -100
WORD_ID = {word: i for i, word in enumerate([*SPECIAL, *vocabulary()])}
PAD_ID, BOS_ID, EOS_ID = WORD_ID["<pad>"], WORD_ID["<s>"], WORD_ID["</s>"]


@dataclass
class TextBatch:
    """Rows of one form.

    bags `[B, L, BAG]` word ids (pad = `<pad>`), labels `[B, L]` (-100 ignored; already shifted: the
    label at a position is the next token), weights `[B, L]`, segments `[B, L]` (see parts/packing),
    fused `[B, L]` bool; kinds: the kind of each question of each row, in order.
    """

    bags: Tensor
    labels: Tensor
    weights: Tensor
    segments: Tensor
    fused: Tensor
    kinds: list[list[str]]


@dataclass
class _Row:
    bags: list[list[int]]
    labels: list[int]
    weights: list[float]
    segments: list[int]
    fused: list[bool]
    kinds: list[str]


def ids(text: str) -> list[int]:
    """Turn space-separated words of the world into ids; an unknown word is an error here.

    The question mark is dropped, as the tokenizer does: so the words asked about stand next to the
    answer, within reach of the heads that look back.
    """
    return [WORD_ID[word] for word in text.split() if word != "?"]


def description(story: Story, form: str, offset_s: int, rng) -> tuple[list[list[int]], list[bool]]:
    """Return the positions of a description as bags, and which of them are fused."""
    if form == "events":
        plain = ids(event_list(story, offset_s))
    elif form == "storyboard":
        plain = ids(storyboard(story, offset_s))
    else:
        return _fused(story, form, offset_s, rng)
    return [[i] for i in plain], [False] * len(plain)


def _fused(story: Story, form: str, offset_s: int, rng) -> tuple[list[list[int]], list[bool]]:
    """One position per place in raster order; an empty place is an empty bag, or is left out.

    Sounds stand at their second, or (if every position is timed) sometimes in front of everything.
    """
    keep_empty = rng.choice([0.0, 0.3, 1.0])
    sounds_first = form == "fused_timed" and rng.random() < 0.3
    bags, fused = [], []

    def plain(text: str):
        bags.extend([i] for i in ids(text))
        fused.extend([False] * (len(bags) - len(fused)))

    def slot(words: list[int]):
        bags.append(words)
        fused.append(True)

    def heard(moment: Moment):
        timed = form == "fused_timed"
        for words in moment.heard:
            slot(ids(words) + ([WORD_ID[str(moment.second + offset_s)]] if timed else []))

    if sounds_first:
        for moment in moments(story):
            heard(moment)
    for moment in moments(story):
        second = WORD_ID[str(moment.second + offset_s)]
        inside = [second] if form == "fused_timed" else []
        if form == "fused" or rng.random() < 0.3:
            plain(f"{moment.second + offset_s} :")
        clauses = {_cell(words): words for words in moment.seen}
        for cell in range(9):
            if cell in clauses:
                slot(ids(clauses[cell]) + inside)
            elif rng.random() < keep_empty:
                slot(list(inside))
        if not sounds_first:
            heard(moment)
        for words in moment.said:
            plain(f"said : {words} .")
    return bags, fused


def _cell(clause: str) -> int:
    words = clause.split()
    row = next(i for i, w in enumerate(words) if w in ROWS)
    return 3 * ROWS.index(words[row]) + COLUMNS.index(words[row + 1])


def make_row(
    story: Story, questions: list[Question], form: str, offset_s: int, rng, text_weight: float
) -> _Row:
    """Put `<s> description` and the packed questions of one story into one row."""
    bags, fused = description(story, form, offset_s, rng)
    bags, fused = [[BOS_ID], *bags], [False, *fused]
    labels = [b[0] if len(b) == 1 and not f else IGNORED for b, f in zip(bags, fused)][1:]
    labels.append(IGNORED)
    weights = [text_weight] * len(bags)
    segments = [PREFIX] * len(bags)
    for number, q in enumerate(questions, start=1):
        asked, answer = ids(f"USER: {q.text} ASSISTANT:"), [*ids(q.answer), EOS_ID]
        tokens = asked + answer
        bags.extend([t] for t in tokens)
        fused.extend([False] * len(tokens))
        labels.extend([IGNORED] * (len(asked) - 1) + answer + [IGNORED])
        weights.extend([1.0] * (len(tokens) - 2) + [0.2, 0.0])
        segments.extend([number] * len(tokens))
    return _Row(bags, labels, weights, segments, fused, [q.kind for q in questions])


def collate(rows: list[_Row]) -> TextBatch:
    """Pad rows at the right to one length."""
    length = max(len(r.labels) for r in rows)
    size = (len(rows), length)
    bags = np.full((*size, BAG), PAD_ID, dtype=np.int64)
    labels = np.full(size, IGNORED, dtype=np.int64)
    weights = np.zeros(size, dtype=np.float32)
    segments = np.full(size, PADDING, dtype=np.int64)
    fused = np.zeros(size, dtype=bool)
    for i, row in enumerate(rows):
        n = len(row.labels)
        for j, bag in enumerate(row.bags):
            bags[i, j, : len(bag)] = bag
        labels[i, :n], weights[i, :n] = row.labels, row.weights
        segments[i, :n], fused[i, :n] = row.segments, row.fused
    return TextBatch(
        *(torch.from_numpy(a) for a in (bags, labels, weights, segments, fused)),
        kinds=[r.kinds for r in rows],
    )


def focused_questions(
    story: Story, kinds: tuple[str, ...], count: int, offset_s: int, rng
) -> list[Question]:
    """Draw questions of a few kinds, every answer of a kind equally likely."""
    by_answer: dict[str, dict[str, list[Question]]] = {}
    for question in all_questions(story, offset_s):
        if question.kind in kinds:
            by_answer.setdefault(question.kind, {}).setdefault(question.answer, []).append(question)
    drawn = {}
    for _ in range(count if by_answer else 0):
        answers = by_answer[str(rng.choice(list(by_answer)))]
        candidates = answers[str(rng.choice(list(answers)))]
        question = candidates[rng.integers(len(candidates))]
        drawn[question.text] = question
    return list(drawn.values())


def make_batch(
    seed: int,
    form: str,
    rows: int = 12,
    questions_per_row: int = 12,
    text_weight: float = 0.1,
    captions: float = 0.1,
    long_share: float = 0.2,
    offset_share: float = 0.3,
    held_out: str = "exclude",
    focus: tuple[str, ...] = (),
) -> TextBatch:
    """Make the batch of one step from its seed alone, so that a resumed run sees the same batches.

    Args:
        form: one of `FORMS`.
        captions: chance that a row also asks for a caption.
        long_share: share of 16-second stories (the rest last 8 seconds).
        offset_share: share of rows whose clock starts later than 0, so that every number is learnt
            as a time.
        focus: kinds of which two thirds of the questions are.
    """
    rng = np.random.default_rng(seed)
    stories, offsets = [], []
    long_s = 16 if rng.random() < long_share else 8
    most = 2 if long_s == 16 and form == "storyboard" else 4
    for _ in range(rows):
        settings = StorySettings(
            duration_s=long_s,
            things=(2, most),
            sounds=(0, int(rng.choice([2, 4]))),
            held_out=held_out,
        )
        stories.append(sample_story(int(rng.integers(2**62)), settings))
        late = rng.random() < offset_share
        offsets.append(int(rng.integers(64 - long_s)) if late else 0)
    mixed = questions_per_row // 3 if focus else questions_per_row
    asked = balanced_questions(stories, int(rng.integers(2**31)), mixed, offsets)
    made = []
    for story, questions, offset_s in zip(stories, asked, offsets, strict=True):
        if focus:
            more = focused_questions(story, focus, questions_per_row - mixed, offset_s, rng)
            questions = questions + [q for q in more if q not in questions]
        if rng.random() < captions:
            style = str(rng.choice(["short", "detailed", "heard"]))
            questions = [
                *questions,
                Question(
                    CAPTION_REQUESTS[style], caption(story, style, offset_s), "caption", "caption"
                ),
            ]
        made.append(make_row(story, questions, form, offset_s, rng, text_weight))
    return collate(made)
