"""Probes: the world's questions, asked of a system under each condition (conditions.py).

An answer counts if greedy decoding gives it exactly. Whether it does is decided without
generating: the greedy answer is the true one if and only if every token of the truth, its end
token too, is the likeliest after the tokens before it. The same test, made with the opposite
answer, tells what a system falsely affirms or denies. All questions of a clip stand in one packed
row; of a system that looks at a video with the question in mind, each in a row of its own.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from vlmcourse.conversation import TokenRow
from vlmcourse.evaluation.asked import (
    Probes,
    Streams,
    as_streams,
    asked_seconds,
    constant_answers,
    load_probes,
    with_opposites,
)
from vlmcourse.evaluation.conditions import (
    CONDITIONS,
    CONSTANT,
    CONTROLS,
    FROZEN,
    OWN_LAYOUT,
    SOUNDS,
    SUBTITLES,
    SYSTEM,
    TRAINED,
    WITHOUT_MEDIA,
)
from vlmcourse.evaluation.rows import question_rows, rows_without_media, video_rows
from vlmcourse.evaluation.subtitles import with_changed_cues
from vlmcourse.systems.base import VideoLanguageModel
from vlmcourse.systems.batch import Media, collate, stack_media
from vlmcourse.systems.processor import Clip
from vlmcourse.world.language import Question

__all__ = [
    "CONDITIONS", "CONTROLS", "Answers", "Asker", "Probes", "ask_all", "asked_seconds",
    "constant_answers", "exact_answers", "generated_answers", "load_probes", "shown", "video_rows",
    "with_opposites",
]  # fmt: skip

ROWS_AT_ONCE = 16
ROWS_APART = 48
PAIRS_AT_ONCE = ROWS_AT_ONCE * 1024**2
"""Rows of a batch (of one question each: `ROWS_APART`), and pairs of its positions, at most: long
films go in smaller batches."""

# ---------------------------------------------------------------- what is shown


def shown(probes: Probes, condition: str, seed: int = 0) -> tuple[list[Clip], list[Streams]]:
    """Clips (layout facts) and streams that a condition shows instead of the asked clips.

    Args:
        condition: one that shows something (conditions.py).
        seed: of the orders of "shuffled" and "shuffled_sound"; no clip keeps its order.
    """
    clips, streams = probes.clips, probes.streams
    half = max(1, len(clips) // 2)
    if condition == SYSTEM:
        return clips, streams
    if condition == "picture_only":
        return [replace(c, given=replace(c.given, sounds=None)) for c in clips], streams
    if condition == "sound_only":
        return [replace(c, given=replace(c.given, pictures=None)) for c in clips], streams
    if condition == "one_frame":
        return clips, [
            _changed(one, False, _standing_still, clip) for one, clip in zip(streams, clips)
        ]
    if condition in ("shuffled", "shuffled_sound"):
        heard = condition == "shuffled_sound"
        return clips, [
            _changed(one, heard, lambda f, i=i: f[wrong_order(len(f), [seed, i])], clip)
            for i, (one, clip) in enumerate(zip(streams, clips))
        ]
    if condition in SUBTITLES:
        return with_changed_cues(clips, condition), streams
    if condition == "other_clip":
        return clips[half:] + clips[:half], streams[half:] + streams[:half]
    if condition == "other_sound":
        others = zip(clips[half:] + clips[:half], streams[half:] + streams[:half])
        pairs = [_with_sound_of(*own, *other) for own, other in zip(zip(clips, streams), others)]
        return [clip for clip, _ in pairs], [found for _, found in pairs]
    raise ValueError(f"condition {condition!r} shows no frames")


def _changed(
    streams: Streams, heard: bool, change: Callable[[Tensor], Tensor], clip: Clip
) -> Streams:
    """Streams of which those that are heard, or those of frames, are changed. Features that count
    tokens, not frames (`Clip.grid`), are changed by pairs of frames."""

    def changed(features: Tensor) -> Tensor:
        if heard or clip.grid is None:
            return change(features)
        return change(features.unflatten(0, (int(clip.grid[0]), -1))).flatten(0, 1)

    return {n: changed(one) if (n == SOUNDS) == heard else one for n, one in streams.items()}


def _standing_still(features: Tensor) -> Tensor:
    middle = len(features) // 2
    return features[middle : middle + 1].expand_as(features)


def _with_sound_of(
    clip: Clip, streams: Streams, other: Clip, theirs: Streams
) -> tuple[Clip, Streams]:
    """A clip with the sound of another one, which may have none."""
    found = {name: one for name, one in streams.items() if name != SOUNDS}
    found |= {SOUNDS: theirs[SOUNDS]} if SOUNDS in theirs else {}
    return replace(clip, sound_times_s=other.sound_times_s), found


def wrong_order(count: int, seed: Sequence[int]) -> Tensor:
    """A random order `[count]` that is not the right one (if there is another)."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    while count > 1 and np.array_equal(order, np.arange(count)):
        order = rng.permutation(count)
    return torch.from_numpy(order)


# ---------------------------------------------------------------- asking


@torch.no_grad()
def exact_answers(
    model: VideoLanguageModel,
    rows: Sequence[TokenRow],
    clips: Sequence[Clip] | None = None,
    streams: Sequence[Tensor | Streams] | None = None,
) -> np.ndarray:
    """Say for every question of packed rows whether greedy decoding gives exactly its answer.

    Args:
        rows: one a clip.
        clips, streams: what fills the places of each row; None for rows without places.

    Returns:
        bool `[Q]`, row by row.
    """
    right = []
    for start, end in batches([len(row) for row in rows]):
        part, pictures, sounds = rows[start:end], None, None
        if streams is not None:
            pairs = zip(streams[start:end], clips[start:end], strict=True)
            media = [model.media(as_streams(one), clip) for one, clip in pairs]
            pictures, sounds = (_stacked(column) for column in zip(*media))
        batch = collate(part, model.processor.tokenizer.pad_id, pictures, sounds)
        result = model(batch.to(model.device))
        most = max(max(row.segments) for row in part)
        good = np.ones((len(part), most + 1), dtype=bool)
        wrong = ~result.correct.cpu().numpy()
        good[result.rows.cpu().numpy()[wrong], result.segments.cpu().numpy()[wrong]] = False
        right += [good[i, 1 : max(row.segments) + 1] for i, row in enumerate(part)]
    return np.concatenate(right)


@torch.no_grad()
def exact_answers_apart(
    model: VideoLanguageModel,
    rows: Sequence[Sequence[TokenRow]],
    asked: Sequence[Sequence[Question]],
    clips: Sequence[Clip],
    streams: Sequence[Tensor | Streams],
) -> np.ndarray:
    """The same for a system that looks at a video with the question in mind.

    Args:
        rows: of each clip, one a question (`question_rows`).
        asked: the questions.
        clips, streams: what fills the places of each clip's rows.

    Returns:
        bool `[Q]`, clip by clip.
    """
    right = []
    flat = [row for some in rows for row in some]
    place = [(clip, n) for clip, some in enumerate(rows) for n in range(len(some))]
    for start, end in batches([len(row) for row in flat], ROWS_APART):
        media = []
        for index, group in groupby(place[start:end], key=lambda one: one[0]):
            watched = model.remember(as_streams(streams[index]), clips[index])
            texts = [asked[index][n].text for _, n in group]
            media.append(model.question_media(watched, texts))
        pictures, sounds = (_together(column) for column in zip(*media))
        batch = collate(flat[start:end], model.processor.tokenizer.pad_id, pictures, sounds)
        result = model(batch.to(model.device))
        good = np.ones(end - start, dtype=bool)
        good[result.rows[~result.correct].cpu().numpy()] = False
        right.append(good)
    return np.concatenate(right)


def _together(media: Sequence[Media | None]) -> Media | None:
    """Media of groups of rows, one a row; or none at all."""
    return None if any(one is None for one in media) else stack_media(media)


def batches(lengths: Sequence[int], most: int = ROWS_AT_ONCE) -> Iterator[tuple[int, int]]:
    """Cut rows of these lengths, in their order, into batches: first and last (not included)."""
    start, longest = 0, 0
    for index, length in enumerate(lengths):
        longest = max(longest, length)
        count = index - start + 1
        if count > 1 and (count > most or count * longest**2 > PAIRS_AT_ONCE):
            yield start, index
            start, longest = index, length
    if lengths:
        yield start, len(lengths)


def _stacked(media: Sequence[Media | None]) -> Media | None:
    """One medium a row, or none in some rows, as the media of a batch."""
    there = [row for row, one in enumerate(media) if one is not None]
    if not there:
        return None
    return stack_media([media[row] for row in there], None if len(there) == len(media) else there)


GREEDY = {"temperature": 0.0, "num_beams": 1, "repetition_penalty": 1.0}


def generated_answers(
    model: VideoLanguageModel,
    probes: Probes,
    max_new_tokens: int = 16,
) -> list[list[str]]:
    """The same by real generation: what greedy decoding says to every question, clip by clip.

    Args:
        max_new_tokens: of every answer.
    """
    said = []
    for asked, clip, streams in zip(probes.asked, probes.clips, probes.streams, strict=True):
        watched = model.remember(streams, clip)
        questions = [question.text for question in asked]
        said.append(
            model.answer(watched, questions, **{**GREEDY, "max_new_tokens": max_new_tokens})
        )
    return said


class Asker:
    """Asks all questions under one condition after the other; rows are laid out once and kept.

    Args:
        probes: the questions.
        permutations: orders that "shuffled" and "shuffled_sound" take the mean of.
    """

    def __init__(self, probes: Probes, permutations: int = 3):
        self.probes, self.permutations = probes, permutations
        self._rows: dict[str, list] = {}

    def ask(
        self,
        model: VideoLanguageModel,
        condition: str,
        streams: Sequence[Streams] | None = None,
    ) -> np.ndarray:
        """Share of tries, float `[Q]`, in which each question was answered exactly.

        Args:
            model: the trained system; for a condition of `FROZEN`, one with the frozen language
                model.
            streams: the features that this model has of the clips, if not those of the probes.
        """
        if condition not in (*TRAINED, *FROZEN):
            raise ValueError(f"condition {condition!r} asks no model")
        if condition in WITHOUT_MEDIA:
            return exact_answers(model, self._laid_out(model, condition)).astype(np.float64)
        probes = self.probes if streams is None else replace(self.probes, streams=list(streams))
        tries = self.permutations if condition.startswith("shuffled") else 1
        rows = self._laid_out(model, condition if condition in OWN_LAYOUT else SYSTEM)
        found = [
            self._answers(model, rows, *shown(probes, condition, seed)) for seed in range(tries)
        ]
        return np.mean(found, axis=0)

    def _answers(
        self,
        model: VideoLanguageModel,
        rows: list,
        clips: Sequence[Clip],
        streams: Sequence[Streams],
    ) -> np.ndarray:
        if model.video_depends_on_question:
            return exact_answers_apart(model, rows, self.probes.asked, clips, streams)
        return exact_answers(model, rows, clips, streams)

    def _laid_out(self, model: VideoLanguageModel, layout: str) -> list:
        if layout not in self._rows:
            self._rows[layout] = self._lay_out(model, layout)
        return self._rows[layout]

    def _lay_out(self, model: VideoLanguageModel, layout: str) -> list:
        if layout in WITHOUT_MEDIA:
            return rows_without_media(model, self.probes, layout)
        lay_out = question_rows if model.video_depends_on_question else video_rows
        return lay_out(model, self.probes, shown(self.probes, layout)[0])


@dataclass(frozen=True)
class Answers:
    """What was answered, by condition, as shares of tries.

    S is the number of runs, or 1 where no trained run plays a part.

    Attributes:
        right: float `[S, Q]`, the exact answer was given.
        opposite: float `[S, Q]`, "yes" was said where "no" is true, or "no" where "yes" is; 0 for
            all questions but those of the kinds in `OPPOSED`.
    """

    right: dict[str, np.ndarray]
    opposite: dict[str, np.ndarray]


def ask_all(
    models: Iterable[VideoLanguageModel],
    probes: Probes,
    conditions: Sequence[str],
    fitted: Sequence[Question] = (),
    permutations: int = 3,
    report: Callable[[str], None] = lambda text: None,
    frozen: VideoLanguageModel | None = None,
    seen_by: Callable[[VideoLanguageModel, Probes], list[Streams]] | None = None,
) -> Answers:
    """Ask every question under every condition.

    Args:
        models: the trained runs of one system.
        conditions: of `CONDITIONS`.
        fitted: questions that `majority` is fitted on.
        report: told the name of each condition that was asked of a run.
        frozen: holds the frozen language model (`runs.frozen_language_model`); None takes the first
            run, which will do if none of them trained its language model.
        seen_by: the features that a run has of the clips, where each has encoders of its own
            (`asked.seen_by`); `probes` then holds those of the first run.
    """
    doubled, own, partners = with_opposites(probes)
    questions, asker = doubled.questions, Asker(doubled, permutations)
    found: dict[str, list[np.ndarray]] = {name: [] for name in conditions}
    for name, source in zip(CONSTANT, (fitted, probes.questions)):
        if name in found:
            found[name].append(constant_answers(source, questions).astype(np.float64))
    for number, model in enumerate(models):
        streams = None if seen_by is None or number == 0 else seen_by(model, probes)
        for name in conditions:
            if name in TRAINED:
                found[name].append(asker.ask(model, name, streams))
            elif name in FROZEN and number == 0:
                found[name].append(asker.ask(frozen or model, name))
            else:
                continue
            report(name)
    answers = Answers({}, {})
    for name, runs in found.items():
        said = np.stack(runs)  # [S, Q + F]
        answers.right[name] = said[:, own]
        answers.opposite[name] = np.zeros((len(said), int(own.sum())))
        answers.opposite[name][:, partners] = said[:, ~own]
    return answers
