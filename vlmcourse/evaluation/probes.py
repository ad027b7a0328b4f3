"""Probes: the world's questions, asked of a system and of controls that lack what it has.

A system that answers above its controls uses what they lack:

- `majority`, `best_constant`: one constant answer a kind of question, fitted on the training
  questions or on the asked ones themselves (no constant can do better);
- `blind`: the frozen language model without any video; `no_video`: the trained system without the
  tokens of the video; `other_clip`: the trained system shown another clip;
- `one_frame`: the trained system shown a film in which the middle frame stands still;
- `shuffled`: the trained system shown all frames in a wrong order;
- `text_events`, `text_storyboard`: the frozen language model told the truth in words, as a list of
  events or second by second: what a perfect connector could reach.

An answer counts if greedy decoding gives it exactly. Whether it does is decided without
generating: the greedy answer is the true one if and only if every token of the truth, its end
token too, is the likeliest after the tokens before it. All questions of a clip stand in one packed
row.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlmcourse.conversation import (
    IGNORED,
    Expand,
    Places,
    Text,
    TokenRow,
    ask,
    lay_out,
    pack,
    tokenise,
)
from vlmcourse.errors import UserError
from vlmcourse.parts.packing import PREFIX
from vlmcourse.systems.base import VideoLanguageModel
from vlmcourse.systems.batch import collate, stack_media, video_features
from vlmcourse.systems.processor import Clip
from vlmcourse.world.dataset import WorldSplit
from vlmcourse.world.language import Question, event_list, storyboard
from vlmcourse.world.story import Story

SYSTEM = "system"
CONTROLS = {
    "majority": ("majority", "best_constant"),
    "blind": ("blind", "no_video"),
    "other_clip": ("other_clip",),
    "one_frame": ("one_frame",),
    "shuffled": ("shuffled",),
    "oracle_text": ("text_events", "text_storyboard"),
}
"""What `--controls` takes, and the conditions that each stands for."""
CONSTANT = ("majority", "best_constant")
FROZEN = ("blind", "text_events", "text_storyboard")
"""Conditions that ask the frozen language model, the same for all trained runs."""
TRAINED = (SYSTEM, "no_video", "other_clip", "one_frame", "shuffled")
CONDITIONS = (SYSTEM, *(name for names in CONTROLS.values() for name in names))
ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class Probes:
    """Questions about clips, and what the frozen encoder saw in each clip.

    Attributes:
        ids: name of each of the C clips.
        stories: what happens in each.
        asked: the questions of each, at least one.
        clips: the layout facts of each, without frames.
        features: `[T, P, D]` of each.
    """

    ids: list[str]
    stories: list[Story]
    asked: list[list[Question]]
    clips: list[Clip]
    features: list[Tensor]

    @property
    def questions(self) -> list[Question]:
        """All Q questions, clip by clip."""
        return [question for asked in self.asked for question in asked]

    @property
    def clip_of(self) -> np.ndarray:
        """`[Q]` index of the clip of each question."""
        return np.repeat(np.arange(len(self.asked)), [len(asked) for asked in self.asked])


def load_probes(
    split: WorldSplit,
    model: VideoLanguageModel,
    system: str,
    cache: str | Path = "data/cache",
    limit: int | None = None,
    progress: bool = True,
) -> Probes:
    """Bring the features of a split's clips into being (or find them in the cache) and load them.

    Args:
        split: its clips that are asked nothing are left out.
        model, system: whose frozen encoder looks, and its name for the cache.
        limit: the first so many clips only.

    Raises:
        UserError: a clip cannot be read, or nothing is asked.
    """
    from vlmcourse.training.feature_cache import cache_features

    chosen = [i for i, asked in enumerate(split.questions) if asked][:limit]
    if not chosen:
        raise UserError(f"{split.folder}: no clip of this split is asked anything")
    videos = [split.clips[i] for i in chosen]
    features = cache_features(model, system, videos, cache, model.device, progress=progress)
    loaded = [features.load(video) for video in videos]
    return Probes(
        [split.ids[i] for i in chosen],
        [split.stories[i] for i in chosen],
        [split.questions[i] for i in chosen],
        [clip for clip, _ in loaded],
        [seen for _, seen in loaded],
    )


# ---------------------------------------------------------------- constant answers


def constant_answers(fitted: Sequence[Question], asked: Sequence[Question]) -> np.ndarray:
    """Give the commonest answer of every kind among `fitted`; say where it is right, bool `[Q]`.

    Among equally common answers the first in the alphabet is taken; a kind that `fitted` lacks is
    always wrong.
    """
    counts: dict[str, Counter] = defaultdict(Counter)
    for question in fitted:
        counts[question.kind][question.answer] += 1
    best = {kind: min(c, key=lambda a: (-c[a], a)) for kind, c in counts.items()}
    return np.array([best.get(q.kind) == q.answer for q in asked])


# ---------------------------------------------------------------- rows


def video_rows(model: VideoLanguageModel, probes: Probes, clips: Sequence[Clip]) -> list[TokenRow]:
    """One packed row a clip, laid out for `clips`: those that are shown, not always the asked."""
    processor = model.processor

    def row(question: Question, clip: Clip) -> TokenRow:
        conversation = ask(question.text, question.answer)
        return processor.row(conversation, clip, processor.answer_template)

    return [
        pack([row(question, clip) for question in asked])
        for asked, clip in zip(probes.asked, clips, strict=True)
    ]


def rows_without_places(model: VideoLanguageModel, probes: Probes) -> list[TokenRow]:
    """As `video_rows`, but only the marks around a video are left of it, if there are any."""

    def expand_for(clip: Clip) -> Expand:
        expand = model.processor.expand
        return lambda kind: [p for p in expand(kind, clip) if not isinstance(p, Places)]

    return text_rows(model, probes, [expand_for(clip) for clip in probes.clips])


def blind_rows(model: VideoLanguageModel, probes: Probes) -> list[TokenRow]:
    """Rows with questions and nothing else."""
    return text_rows(model, probes, [lambda kind: ()] * len(probes.asked))


def told_rows(
    model: VideoLanguageModel, probes: Probes, tell: Callable[[Story], str]
) -> list[TokenRow]:
    """Rows in which the true text of a clip stands in the place of the video."""

    def expand_for(story: Story) -> Expand:
        return lambda kind: (Text(tell(story) + " "),)

    return text_rows(model, probes, [expand_for(story) for story in probes.stories])


def text_rows(
    model: VideoLanguageModel, probes: Probes, expands: Sequence[Expand]
) -> list[TokenRow]:
    """One packed row a clip without places for media; `expands` says what stands there instead."""
    processor, rows = model.processor, []
    for asked, expand in zip(probes.asked, expands, strict=True):
        one_by_one = []
        for question in asked:
            conversation = ask(question.text, question.answer)
            pieces = lay_out(conversation, processor.answer_template, expand)
            one_by_one.append(tokenise(pieces, processor.tokenizer))
        rows.append(pack_text(one_by_one))
    return rows


def pack_text(rows: Sequence[TokenRow]) -> TokenRow:
    """As `conversation.pack`, for rows without media: what all begin with stands there once."""
    trained = [next(i for i, x in enumerate(row.labels) if x != IGNORED) for row in rows]
    shared = min(trained) - 1  # the token before the first trained one is each row's own
    while any(row.ids[:shared] != rows[0].ids[:shared] for row in rows):
        shared -= 1
    ids, labels, kinds = (list(x[:shared]) for x in (rows[0].ids, rows[0].labels, rows[0].kinds))
    segments = [PREFIX] * shared
    for number, row in enumerate(rows, start=1):
        ids += row.ids[shared:]
        labels += row.labels[shared:]
        kinds += row.kinds[shared:]
        segments += [number] * (len(row) - shared)
    return TokenRow(ids, labels, kinds, segments)


# ---------------------------------------------------------------- what is shown


def shown(probes: Probes, condition: str, seed: int = 0) -> tuple[list[Clip], list[Tensor]]:
    """Clips (layout facts) and features that a condition shows instead of the asked clips.

    Args:
        condition: "system" (the clips themselves), "one_frame", "shuffled" or "other_clip".
        seed: of the order of "shuffled" frames; no clip keeps its order.
    """
    clips, features = probes.clips, probes.features
    if condition == SYSTEM:
        return clips, features
    if condition == "one_frame":
        return clips, [f[len(f) // 2 : len(f) // 2 + 1].expand_as(f) for f in features]
    if condition == "shuffled":
        return clips, [f[wrong_order(len(f), [seed, i])] for i, f in enumerate(features)]
    if condition == "other_clip":
        half = max(1, len(clips) // 2)
        return clips[half:] + clips[:half], features[half:] + features[:half]
    raise ValueError(f"condition {condition!r} shows no frames")


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
    features: Sequence[Tensor] | None = None,
) -> np.ndarray:
    """Say for every question of packed rows whether greedy decoding gives exactly its answer.

    Args:
        rows: one a clip.
        clips, features: what fills the places of each row; None for rows without places.

    Returns:
        bool `[Q]`, row by row.
    """
    right = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part, media = rows[start : start + ROWS_AT_ONCE], None
        if features is not None:
            end = start + len(part)
            pairs = zip(features[start:end], clips[start:end], strict=True)
            media = stack_media([video_features(f, clip.times_s) for f, clip in pairs])
        batch = collate(part, model.processor.tokenizer.pad_id, media).to(model.device)
        result = model(batch)
        most = max(max(row.segments) for row in part)
        good = np.ones((len(part), most + 1), dtype=bool)
        wrong = ~result.correct.cpu().numpy()
        good[result.rows.cpu().numpy()[wrong], result.segments.cpu().numpy()[wrong]] = False
        right += [good[i, 1 : max(row.segments) + 1] for i, row in enumerate(part)]
    return np.concatenate(right)


def generated_answers(
    model: VideoLanguageModel, probes: Probes, max_new_tokens: int = 16
) -> list[list[str]]:
    """The same by real generation: what greedy decoding says to every question, clip by clip."""
    said = []
    for asked, clip, seen in zip(probes.asked, probes.clips, probes.features, strict=True):
        watched = model.remember(seen, clip)
        questions = [question.text for question in asked]
        said.append(model.answer(watched, questions, max_new_tokens=max_new_tokens))
    return said


class Asker:
    """Asks all questions under one condition after the other; rows are laid out once and kept.

    Args:
        probes: the questions.
        permutations: orders of the frames that "shuffled" takes the mean of.
    """

    def __init__(self, probes: Probes, permutations: int = 3):
        self.probes, self.permutations = probes, permutations
        self._rows: dict[str, list[TokenRow]] = {}

    def ask(self, model: VideoLanguageModel, condition: str) -> np.ndarray:
        """Share of tries, float `[Q]`, in which each question was answered exactly."""
        if condition not in (*TRAINED, *FROZEN):
            raise ValueError(f"condition {condition!r} asks no model")
        if condition in ("no_video", *FROZEN):
            return exact_answers(model, self._laid_out(model, condition)).astype(np.float64)
        tries = self.permutations if condition == "shuffled" else 1
        layout = "other_clip" if condition == "other_clip" else SYSTEM
        rows = self._laid_out(model, layout)
        found = [
            exact_answers(model, rows, *shown(self.probes, condition, seed))
            for seed in range(tries)
        ]
        return np.mean(found, axis=0)

    def _laid_out(self, model: VideoLanguageModel, layout: str) -> list[TokenRow]:
        if layout not in self._rows:
            self._rows[layout] = self._lay_out(model, layout)
        return self._rows[layout]

    def _lay_out(self, model: VideoLanguageModel, layout: str) -> list[TokenRow]:
        if layout == "no_video":
            return rows_without_places(model, self.probes)
        if layout == "blind":
            return blind_rows(model, self.probes)
        if layout in FROZEN:
            tell = event_list if layout == "text_events" else storyboard
            return told_rows(model, self.probes, tell)
        return video_rows(model, self.probes, shown(self.probes, layout)[0])


def ask_all(
    models: Iterable[VideoLanguageModel],
    probes: Probes,
    conditions: Sequence[str],
    fitted: Sequence[Question] = (),
    permutations: int = 3,
    report: Callable[[str], None] = lambda text: None,
) -> dict[str, np.ndarray]:
    """Ask every question under every condition.

    Args:
        models: the trained runs of one system.
        conditions: of `CONDITIONS`.
        fitted: questions that `majority` is fitted on.
        report: told the name of each condition that was asked of a run.

    Returns:
        condition -> float `[S, Q]`, the share of tries with the exact answer; S is the number of
        runs, or 1 where no trained run plays a part.
    """
    questions, asker = probes.questions, Asker(probes, permutations)
    found: dict[str, list[np.ndarray]] = {name: [] for name in conditions}
    for name, source in zip(CONSTANT, (fitted, questions)):
        if name in found:
            found[name].append(constant_answers(source, questions).astype(np.float64))
    for number, model in enumerate(models):
        for name in conditions:
            if name in TRAINED or (name in FROZEN and number == 0):
                found[name].append(asker.ask(model, name))
                report(name)
    return {name: np.stack(rows) for name, rows in found.items()}
