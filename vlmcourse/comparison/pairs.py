"""Every system beside every other on the same questions, as paired differences.

Records of single systems hold means; a difference of two of them is told as if other questions had
been asked (evidence.py). Here the answers themselves are read (`vlmcourse evaluate --answers`), so
that every draw takes the same clips for both sides, and the chance of the trained runs is added
as Student's t has it (sweep/statistics.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from vlmcourse.comparison.evidence import opposite
from vlmcourse.comparison.facts import FactError, System
from vlmcourse.evaluation.answer_bits import AnswerFile, load_answers, same_questions, stacked
from vlmcourse.evaluation.conditions import SYSTEM
from vlmcourse.sweep.statistics import (
    ALPHA,
    as_metric,
    difference_of,
    draw,
    draws_needed,
    holm,
    mean_of,
    p_difference,
)
from vlmcourse.sweep.verdicts import answered
from vlmcourse.world.language import FAMILIES

ANSWERS = "answers"
EYES = "picture_only"
"""Condition of a system that also hears, which is told beside it under a name of its own."""
EYES_NAME = "{name}, eyes alone"
RATES = ("hallucination/false_yes", "hallucination/false_no")
"""Groups of which less is better: wrong answers to yes and no."""
SUMS = ("all", "evidence/picture")


@dataclass(frozen=True)
class Contender:
    """One that is held against the others.

    Attributes:
        key, name: for metrics, and for people.
        system: key of the system.
        answers: of its runs.
        condition: that counts.
    """

    key: str
    name: str
    system: str
    answers: AnswerFile
    condition: str = SYSTEM


def read_contenders(folder: Path, systems: Sequence[System]) -> list[Contender]:
    """The answers of all systems, `folder/SYSTEM.json` or a file a run, `folder/SYSTEM-*.json`.

    Raises:
        FactError: a system without answers.
        AnswersError: files that were not asked the same.
    """
    found = []
    for system in systems:
        paths = [path for path in (folder / f"{system.key}.json",) if path.exists()]
        paths = paths or sorted(folder.glob(f"{system.key}-*.json"))
        if not paths:
            raise FactError(f"{folder}: no answers of {system.name}; {folder.parent}/README.md")
        answers = stacked([load_answers(path) for path in paths])
        found.append(Contender(system.key, system.name, system.key, answers))
        if EYES in answers.right:
            name = EYES_NAME.format(name=system.name)
            found.append(Contender(f"{system.key}_eyes", name, system.key, answers, EYES))
    same_questions([one.answers for one in found])
    return found


def asked_groups(contenders: Sequence[Contender]) -> list[str]:
    """Groups of questions that were asked: all, families, and rates of wrong answers."""
    sets = contenders[0].answers.questions.sets
    return [name for name in (*SUMS, *FAMILIES, *RATES) if name in sets and sets[name].any()]


def measure(
    contenders: Sequence[Contender],
    report: Callable[[str], None] = lambda text: None,
    draws: int | None = None,
    alpha: float = ALPHA,
) -> tuple[dict[str, dict], str]:
    """Means and paired differences.

    Args:
        contenders: two at least.
        report: told what is being measured.
        draws: of the bootstrap; None takes enough to correct for all comparisons.
        alpha: chance of one false difference or more among the pairs of a group of questions.

    Returns:
        metrics `mean/A/GROUP` and `difference/A/B/GROUP` (A less B) with 95 % intervals, and
        `corrected/A/B/GROUP`, the same difference with an interval that excludes zero exactly if
        the two can be told apart when all pairs of the group are corrected for (Holm); and a
        sentence on how many can be.
    """
    groups = asked_groups(contenders)
    pairs = list(combinations(contenders, 2))
    draws = draws or draws_needed(len(pairs) * len(groups))
    means: dict[str, dict] = {}
    plain: dict[str, dict] = {}
    wider: dict[str, dict] = {}
    every: list[float] = []
    for group in groups:
        report(group)
        told = {one.key: answered(one.answers, group, one.condition) for one in contenders}
        own = [mean_of(one) for one in told.values()]
        less = [
            difference_of([told[a.key]], [told[b.key]], paired=a.answers is b.answers)
            for a, b in pairs
        ]
        drawn = draw([*own, *less], draws)
        for key, quantity, column in zip(told, own, drawn.T):
            means[f"mean/{key}/{group}"] = as_metric(quantity, column)
        columns = drawn.T[len(own) :]
        p_values = [p_difference(column) for column in columns]
        every += p_values
        for (a, b), quantity, column, level in zip(pairs, less, columns, holm(p_values, alpha)[1]):
            name = f"{a.key}/{b.key}/{group}"
            plain[f"difference/{name}"] = as_metric(quantity, column)
            wider[f"corrected/{name}"] = as_metric(quantity, column, level)
    inside = sum(_excludes_zero(one) for one in wider.values())
    at_all = int((holm(every, alpha)[0] <= alpha).sum())
    note = (
        f"Of {len(every)} differences {inside} are told from zero when corrected for the pairs of "
        f"their group of questions (Holm), {at_all} when corrected for all of them."
    )
    return {**means, **plain, **wider}, note


def _excludes_zero(metric: Mapping) -> bool:
    return metric["low"] is not None and (metric["low"] > 0 or metric["high"] < 0)


def settings_of(contenders: Sequence[Contender]) -> dict:
    """What a record tells of the contenders."""
    first = contenders[0].answers
    return {
        "split": first.settings.get("split"),
        "clips": first.questions.num_clips,
        "questions": first.questions.checksum,
        "contenders": {
            one.key: {
                "name": one.name, "system": one.system, "condition": one.condition,
                "runs": [f"seed {seed}" for seed in one.answers.seeds],
                "weights": list(one.answers.settings.get("weights", ())),
            }
            for one in contenders
        },
        "intervals": "95 %, the same clips drawn for both, runs by Student's t "
        "(sweep/statistics.py)",
    }  # fmt: skip


# ---------------------------------------------------------------- reading a record


@dataclass(frozen=True)
class Paired:
    """What a record of pairs says, both ways round.

    Attributes:
        names: key -> name of every contender, in the order of the table.
        systems: key -> key of its system.
        metrics: of the record.
    """

    names: Mapping[str, str]
    systems: Mapping[str, str]
    metrics: Mapping[str, dict]

    @classmethod
    def of(cls, record: Mapping) -> "Paired":
        told = record["settings"]["contenders"]
        return cls(
            {key: one["name"] for key, one in told.items()},
            {key: one["system"] for key, one in told.items()},
            record["metrics"],
        )

    @property
    def groups(self) -> list[str]:
        """Groups of questions, in the order of the record."""
        start = f"mean/{next(iter(self.names))}/"
        return [name.removeprefix(start) for name in self.metrics if name.startswith(start)]

    def mean(self, key: str, group: str) -> dict:
        """A contender's own metric."""
        return self.metrics[f"mean/{key}/{group}"]

    def difference(self, a: str, b: str, group: str, kind: str = "difference") -> dict:
        """`a` less `b`.

        Args:
            kind: "difference" with its 95 % interval, or "corrected".

        Raises:
            FactError: not in the record.
        """
        if found := self.metrics.get(f"{kind}/{a}/{b}/{group}"):
            return found
        if turned := self.metrics.get(f"{kind}/{b}/{a}/{group}"):
            return opposite(turned)
        raise FactError(f"no difference of {a!r} and {b!r} of {group!r} was measured")

    def told_apart(self, a: str, b: str, group: str) -> bool:
        """Whether the two differ, corrected for the number of pairs of this group."""
        return _excludes_zero(self.difference(a, b, group, "corrected"))

    def pairs(self, group: str, kind: str = "difference") -> dict[tuple[str, str], dict]:
        """Names of both -> difference, one order of every pair."""
        return {
            (self.names[a], self.names[b]): self.difference(a, b, group, kind)
            for a, b in combinations(self.names, 2)
        }
