"""What is asked: questions about clips, with the features of each clip.

Features of frozen encoders come from the cache. Those of an encoder that was trained belong to one
run alone: they are computed for it, kept in memory while it is asked, and never written.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from vlmcourse.errors import UserError
from vlmcourse.evaluation.conditions import given_streams
from vlmcourse.systems.base import VideoLanguageModel
from vlmcourse.systems.processor import Clip, Given
from vlmcourse.world.dataset import WorldSplit
from vlmcourse.world.language import Question
from vlmcourse.world.story import SOUNDS, Story

OPPOSITE = {"yes": "no", "no": "yes"}
OPPOSED = ("exists", "heard")
"""Kinds of questions whose opposite answer is tried too."""

Streams = Mapping[str, Tensor]


@dataclass(frozen=True)
class Probes:
    """Questions about clips, and what the frozen encoders made of each clip.

    Attributes:
        ids: name of each of the C clips.
        stories: what happens in each.
        asked: the questions of each, at least one.
        clips: the layout facts of each, without frames; `given` says what the system is given.
        streams: features by name of the stream, each `[T, P, D]`; those of the pictures alone may
            stand without a name.
        files: where each clip was read from, if it was.
    """

    ids: list[str]
    stories: list[Story]
    asked: list[list[Question]]
    clips: list[Clip]
    streams: list[Streams]
    files: Sequence[Path] = ()

    def __post_init__(self):
        object.__setattr__(self, "streams", [as_streams(one) for one in self.streams])

    @property
    def questions(self) -> list[Question]:
        """All Q questions, clip by clip."""
        return [question for asked in self.asked for question in asked]

    @property
    def clip_of(self) -> np.ndarray:
        """`[Q]` index of the clip of each question."""
        return np.repeat(np.arange(len(self.asked)), [len(asked) for asked in self.asked])

    @property
    def given(self) -> Given:
        """What the system is given of every clip."""
        return self.clips[0].given


def as_streams(features: Tensor | Streams) -> Streams:
    """Features by name of the stream; a tensor alone is that of the pictures."""
    return {"pictures": features} if isinstance(features, Tensor) else features


def load_probes(
    split: WorldSplit,
    model: VideoLanguageModel,
    system: str,
    cache: str | Path = "data/cache",
    limit: int | None = None,
    progress: bool = True,
    given: Given | None = None,
    cached: bool = True,
) -> Probes:
    """Bring the features of a split's clips into being (or find them in the cache) and load them.

    Args:
        split: its clips that are asked nothing are left out.
        model, system: whose encoders look and listen, and its name for the cache.
        limit: the first so many clips only.
        given: what the system is given; None means all that it takes.
        cached: the encoders are frozen ones, so that their features may lie in the cache.

    Raises:
        UserError: a clip cannot be read, nothing is asked, or a stream is given that there is not.
    """
    from vlmcourse.training.feature_cache import cache_features

    chosen = [i for i, asked in enumerate(split.questions) if asked][:limit]
    if not chosen:
        raise UserError(f"{split.folder}: no clip of this split is asked anything")
    videos = [split.clips[i] for i in chosen]
    given = given or model.processor.given
    if cached:
        features = cache_features(model, system, videos, cache, model.device, progress=progress)
        known = dict.fromkeys(name for video in videos for name in features.streams(video))
        _refuse_unknown(given, system, list(known))
        loaded = [features.load(video, given_streams(given)) for video in videos]
    else:
        loaded = list(watched_clips(model, videos, given, progress))
        known = dict.fromkeys(name for _, streams in loaded for name in streams)
        _refuse_unknown(given, system, list(known))
    return Probes(
        [split.ids[i] for i in chosen],
        [split.stories[i] for i in chosen],
        [split.questions[i] for i in chosen],
        [replace(clip, given=given) for clip, _ in loaded],
        [streams for _, streams in loaded],
        videos,
    )


def _refuse_unknown(given: Given, system: str, known: Sequence[str]) -> None:
    for name in given_streams(given):
        if name not in known:
            raise UserError(f"{system} has no stream {name!r} here; it has {', '.join(known)}")


def watched_clips(
    model: VideoLanguageModel, files: Sequence[Path], given: Given, progress: bool = False
) -> Iterator[tuple[Clip, Streams]]:
    """Read files and let a model's own encoders look and listen now.

    Yields:
        the layout facts of a clip (without frames and sound), and its features in the model's own
        precision, on the CPU.

    Raises:
        MediaError: a file that cannot be read.
    """
    wanted = given_streams(given)
    for file in tqdm(files, desc="features", unit="clip", mininterval=1, disable=not progress):
        clip = model.processor.read(file)
        streams = {name: one.cpu() for name, one in model.streams(clip, wanted).items()}
        yield replace(clip, frames=None, sound=None), streams


def seen_by(model: VideoLanguageModel, probes: Probes) -> list[Streams]:
    """The features of the same clips by another run, whose encoders were trained apart."""
    return [streams for _, streams in watched_clips(model, probes.files, probes.given)]


def with_opposites(probes: Probes) -> tuple[Probes, np.ndarray, np.ndarray]:
    """Ask every yes/no question of the kinds in `OPPOSED` twice: with its answer and the opposite.

    Returns:
        probes with Q + F questions; bool `[Q + F]`, False for the F opposites; and `[F]` the index
        in the Q questions of what each of them is the opposite of.
    """
    asked, own, partners, before = [], [], [], 0
    for questions in probes.asked:
        turned = [i for i, q in enumerate(questions) if q.kind in OPPOSED and q.answer in OPPOSITE]
        opposites = [replace(questions[i], answer=OPPOSITE[questions[i].answer]) for i in turned]
        asked.append([*questions, *opposites])
        own += [True] * len(questions) + [False] * len(opposites)
        partners += [before + i for i in turned]
        before += len(questions)
    return replace(probes, asked=asked), np.array(own), np.array(partners, dtype=int)


def sound_seconds(probes: Probes) -> np.ndarray:
    """`[Q]` the second of the one sound that a question is about; -1 where there is no such sound.

    "when is bell heard ?" and "is bell heard ?" are about a sound, if it is heard once.
    """
    seconds = []
    for asked, story in zip(probes.asked, probes.stories, strict=True):
        for question in asked:
            named = set(question.text.split()) & set(SOUNDS)
            starts = [s.start_s for s in story.sounds if s.kind in named]
            about = question.kind in ("sound_when", "heard") and len(starts) == 1
            seconds.append(starts[0] if about else -1)
    return np.array(seconds)


def asked_seconds(probes: Probes, hears: bool) -> np.ndarray:
    """`[Q]` the second that a question is about, -1 where it is about none: that of an event
    ("when does red circle glow ?") and, for a system that hears, `sound_seconds`."""
    whole = [q.kind == "when" and q.answer.isdecimal() for q in probes.questions]
    events = [int(q.answer) if one else -1 for one, q in zip(whole, probes.questions)]
    return np.maximum(events, sound_seconds(probes)) if hears else np.array(events)


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
