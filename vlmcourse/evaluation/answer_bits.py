"""Which questions were answered exactly, kept in a small file beside a record.

A record holds means. Whether one setting is above another is decided on the answers themselves,
question by question, and again when a sweep is finished, on a machine that need not have the films:
so every answer is kept as a bit. Questions are put in the order of their kinds before they are
packed, as answers to questions of one kind resemble each other.
"""

import base64
import hashlib
import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vlmcourse.errors import UserError
from vlmcourse.evaluation.conditions import SYSTEM
from vlmcourse.evaluation.scoring import groups, hallucination_groups, second_groups
from vlmcourse.records import write_json
from vlmcourse.world.language import KINDS, Question

FORM = 1
KEPT = (
    *("system", "options", "set", "given", "split", "clips", "families", "permutations"),
    *("weights", "frozen"),
)
"""Settings of the record that stand in the file of answers too."""


PACKED = {"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16, "lc": 0, "lp": 0, "pb": 0}
"""How bytes are squeezed: LZMA without a header, for bits that have no places in a byte."""


class AnswersError(UserError):
    """A file of answers that cannot be read, or does not go together with another one."""


@dataclass(frozen=True)
class QuestionSet:
    """The questions as far as statistics needs them.

    Attributes:
        checksum: of the names of the clips and of kind, text and answer of every question.
        clip_of: `[Q]` index of the clip of each question.
        kind: `[Q]` names.
        family_of: family of every kind.
        extra: further sets of questions, bool `[Q]`: by shape, size and scenes of their clips
            ("shape/wide", "scenes/4"); and those behind the rates of false answers
            ("hallucination/false_yes", ...).
        seconds: `[Q]` second that each question is about, -1 where it is about none.
    """

    checksum: str
    clip_of: np.ndarray
    kind: np.ndarray
    family_of: Mapping[str, str]
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)
    seconds: np.ndarray | None = None

    @property
    def num_clips(self) -> int:
        return int(self.clip_of[-1]) + 1

    @cached_property
    def sets(self) -> dict[str, np.ndarray]:
        """Sets of questions by name -> bool `[Q]`: of `scoring.groups`, and the extra ones."""
        told = [Question("", "", kind, self.family_of[kind]) for kind in self.kind.tolist()]
        found = {**groups(told), **self.extra}
        return found if self.seconds is None else found | second_groups(told, self.seconds)


@dataclass(frozen=True)
class AnswerFile:
    """What runs of a system answered, under each condition.

    Attributes:
        questions: what was asked.
        right: condition -> float `[S, Q]`, share of tries with exactly the right answer.
        opposite: condition -> float `[S, Q]`, the same for the opposite of a yes or no.
        seeds: of the S runs.
        data_checksum: of the split.
        settings: those of the record that `KEPT` names.
        path: where it was read from.
    """

    questions: QuestionSet
    right: dict[str, np.ndarray]
    opposite: dict[str, np.ndarray]
    seeds: tuple[int, ...] = ()
    data_checksum: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def values(self, group: str, condition: str = SYSTEM) -> tuple[np.ndarray, np.ndarray]:
        """Answers and chosen questions: `[S, Q]` between 0 and 1, bool `[Q]`.

        For a rate of false answers ("hallucination/false_yes") these are the opposite answers.

        Raises:
            AnswersError: a condition that was not asked, no such group, or an empty one.
        """
        chosen = self.questions.sets.get(group)
        if chosen is None or not chosen.any():
            asked = [name for name, some in self.questions.sets.items() if some.any()]
            raise AnswersError(
                f"{self.path}: no questions of group {group!r}; asked: {', '.join(asked)}"
            )
        table = self.opposite if "hallucination/" in group else self.right
        if condition not in table:
            raise AnswersError(
                f"{self.path}: condition {condition!r} was not asked; asked: {', '.join(table)}"
            )
        return table[condition], chosen


# ---------------------------------------------------------------- questions


def question_checksum(ids: Sequence[str], asked: Sequence[Sequence[Question]]) -> str:
    """A short hash of which questions are asked of which clips."""
    told = [[n, [(q.kind, q.text, q.answer) for q in some]] for n, some in zip(ids, asked)]
    return hashlib.sha256(json.dumps(told, ensure_ascii=False).encode()).hexdigest()[:16]


def question_set(
    ids: Sequence[str],
    asked: Sequence[Sequence[Question]],
    extra: Mapping[str, np.ndarray] | None = None,
    seconds: np.ndarray | None = None,
) -> QuestionSet:
    """The questions of clips.

    Args:
        ids: name of each clip.
        asked: the questions of each.
        extra: sets of questions by what the clips are like (shapes.py), bool `[Q]`.
        seconds: of `asked.asked_seconds`, `[Q]`.
    """
    questions = [question for some in asked for question in some]
    return QuestionSet(
        question_checksum(ids, asked),
        np.repeat(np.arange(len(asked)), [len(some) for some in asked]),
        np.array([question.kind for question in questions]),
        {question.kind: question.family for question in questions},
        {**(extra or {}), **hallucination_groups(questions)},
        seconds,
    )


# ---------------------------------------------------------------- files


def save_answers(path: str | Path, answers: AnswerFile, tries: int = 1) -> Path:
    """Write answers, whole or not at all.

    Args:
        path: of the JSON file.
        answers: shares of tries; whole numbers of tries.
        tries: orders that the conditions "shuffled..." take the mean of; all others try once.

    Raises:
        AnswersError: shares that are no whole numbers of tries.
    """
    asked, order = answers.questions, np.argsort(answers.questions.kind, kind="stable")
    turned = _turned(asked)[order]

    def packed(table: Mapping[str, np.ndarray], kept: np.ndarray | slice) -> dict[str, dict]:
        found = {}
        for name, said in table.items():
            times = tries if name.startswith("shuffled") else 1
            counts = np.rint(said * times)
            if np.abs(counts - said * times).max(initial=0) > 1e-6:
                raise AnswersError(f"{path}: {name!r}: shares that are no counts of {times} tries")
            rows = [_pack(row[order][kept], times) for row in counts.astype(np.uint8)]
            found[name] = {"tries": times, "runs": rows}
        return found

    kinds = sorted(set(asked.kind.tolist()), key=[*KINDS, *asked.family_of].index)
    number = np.array([kinds.index(kind) for kind in asked.kind.tolist()])
    content = {
        "form": FORM,
        "seeds": list(answers.seeds),
        "data_checksum": answers.data_checksum,
        "settings": {n: v for n, v in answers.settings.items() if n in KEPT},
        "questions": {
            "checksum": asked.checksum,
            "count": len(asked.kind),
            "of_each_clip": _deflate(_bytes(np.bincount(asked.clip_of))),
            "families": {kind: asked.family_of[kind] for kind in kinds},
            "kind_of_each": _deflate(_steps(number).tobytes()),
            "second_of_each": None if asked.seconds is None else _deflate(_bytes(asked.seconds)),
            "extra": {name: _pack(some[order], 1) for name, some in asked.extra.items()},
        },
        "right": packed(answers.right, slice(None)),
        "opposite": packed(answers.opposite, turned) if turned.any() else {},
    }
    write_json(path, content)
    return Path(path)


def load_answers(path: str | Path) -> AnswerFile:
    """Read what `save_answers` wrote.

    Raises:
        AnswersError: missing, damaged, or of another form.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AnswersError(f"{path}: no such file of answers") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AnswersError(f"{path}: cannot be read as answers ({error})") from error
    if not isinstance(content, dict) or content.get("form") != FORM:
        raise AnswersError(f"{path}: no file of answers of form {FORM}")
    try:
        return _read(content, path)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, lzma.LZMAError) as error:
        raise AnswersError(f"{path}: damaged answers ({type(error).__name__}: {error})") from error


def _read(content: dict, path: Path) -> AnswerFile:
    told = content["questions"]
    count, kinds = told["count"], list(told["families"])
    of_each_clip = np.frombuffer(_inflate(told["of_each_clip"]), "<i2")
    steps = np.frombuffer(_inflate(told["kind_of_each"]), np.uint8)
    kind = np.array(kinds)[np.cumsum(steps, dtype=np.uint8)]
    if of_each_clip.sum() != count or len(kind) != count:
        raise ValueError(f"{count} questions, but {len(kind)} kinds of {of_each_clip.sum()}")
    order = np.argsort(kind, kind="stable")

    def spread(text: str, tries: int, kept: np.ndarray) -> np.ndarray:
        found = np.zeros(count)
        found[order[kept]] = _unpack(text, int(kept.sum()), tries) / tries
        return found

    def unpacked(table: Mapping[str, dict], kept: np.ndarray) -> dict[str, np.ndarray]:
        return {
            name: np.stack([spread(text, one["tries"], kept) for text in one["runs"]])
            for name, one in table.items()
        }

    every = np.ones(count, dtype=bool)
    extra = {name: spread(text, 1, every) > 0 for name, text in told["extra"].items()}
    clip_of = np.repeat(np.arange(len(of_each_clip)), of_each_clip)
    seconds = told["second_of_each"]
    if seconds is not None:
        seconds = np.frombuffer(_inflate(seconds), "<i2").astype(int)
    asked = QuestionSet(told["checksum"], clip_of, kind, told["families"], extra, seconds)
    return AnswerFile(
        asked,
        unpacked(content["right"], every),
        unpacked(content["opposite"], _turned(asked)[order]),
        tuple(content["seeds"]),
        content["data_checksum"],
        content["settings"],
        path,
    )


def _turned(asked: QuestionSet) -> np.ndarray:
    """Questions of which the opposite answer was tried and is told, bool `[Q]`."""
    some = [chosen for name, chosen in asked.extra.items() if "hallucination/" in name]
    return np.any(some, axis=0) if some else np.zeros(len(asked.kind), dtype=bool)


def _steps(numbers: np.ndarray) -> np.ndarray:
    """From each number to the next, modulo 256: a clip's questions come kind after kind."""
    return np.diff(numbers, prepend=0).astype(np.uint8)


def _bytes(numbers: np.ndarray) -> bytes:
    return numbers.astype("<i2").tobytes()


def _planes(tries: int) -> int:
    return int(tries).bit_length()


def _pack(counts: np.ndarray, tries: int) -> str:
    """Counts `[Q]` of 0 to `tries`, a plane of bits after the other, as text."""
    counts = counts.astype(np.uint8)
    planes = [np.packbits(counts >> place & 1).tobytes() for place in range(_planes(tries))]
    return _deflate(b"".join(planes))


def _unpack(text: str, count: int, tries: int) -> np.ndarray:
    planes = np.frombuffer(_inflate(text), np.uint8).reshape(_planes(tries), (count + 7) // 8)
    bits = np.unpackbits(planes, axis=1, count=count)  # [planes, Q]
    counts = (bits << np.arange(len(bits), dtype=np.uint8)[:, None]).sum(0)
    if counts.max(initial=0) > tries:
        raise ValueError(f"{counts.max()} of {tries} tries")
    return counts


def _deflate(content: bytes) -> str:
    packed = lzma.compress(content, lzma.FORMAT_RAW, filters=[PACKED])
    return base64.b64encode(packed).decode()


def _inflate(text: str) -> bytes:
    packed = base64.b64decode(text, validate=True)
    return lzma.decompress(packed, lzma.FORMAT_RAW, filters=[PACKED])


# ---------------------------------------------------------------- together


def same_questions(files: Sequence[AnswerFile]) -> QuestionSet:
    """The questions that all files were asked.

    Raises:
        AnswersError: they were not asked the same; names two files and how they differ.
    """
    first = files[0].questions
    for one in files[1:]:
        if one.questions.checksum != first.checksum:
            counts = [f"{len(x.kind)} of {x.num_clips} clips" for x in (first, one.questions)]
            raise AnswersError(
                f"{one.path}: other questions ({counts[1]}) than {files[0].path} ({counts[0]}); "
                "only answers to the same questions can be paired"
            )
    return first


def stacked(files: Sequence[AnswerFile]) -> AnswerFile:
    """The answers of files with a run (or several) each, as those of one file with all runs.

    Conditions that not all were asked stay out. Those that no trained run plays a part in, such as
    "blind", then stand there once a run, so that they can be paired with it.

    Raises:
        AnswersError: other questions, or a seed twice.
    """
    asked = same_questions(files)
    seeds = tuple(seed for one in files for seed in one.seeds)
    if len(set(seeds)) < len(seeds):
        raise AnswersError(f"{files[-1].path}: a seed stands there twice: {seeds}")

    runs = [max(map(len, one.right.values())) for one in files]

    def together(tables: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        shared = [name for name in tables[0] if all(name in table for table in tables)]
        each = {name: [table[name] for table in tables] for name in shared}
        return {
            name: np.concatenate([np.broadcast_to(x, (n, x.shape[1])) for x, n in zip(some, runs)])
            for name, some in each.items()
        }

    weights = [name for one in files for name in one.settings.get("weights", ())]
    return AnswerFile(
        asked,
        together([one.right for one in files]),
        together([one.opposite for one in files]),
        seeds,
        files[0].data_checksum,
        {**files[0].settings, **({"weights": weights} if weights else {})},
        files[0].path,
    )


def same_runs(a: AnswerFile, b: AnswerFile) -> bool:
    """Whether both are the answers of the same trained runs, in the same order."""
    weights = a.settings.get("weights")
    return bool(weights) and weights == b.settings.get("weights")
