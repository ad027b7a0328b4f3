"""What became of the hypotheses of a sweep: supported, not supported, opposite, or not decided.

A hypothesis says which of two sides is expected to be above the other in which questions, or that
they are alike. The correction is made over all hypotheses of the sweep file, also over those that
could not be decided: that a run failed must not make the others easier to support.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vlmcourse.evaluation.answer_bits import AnswerFile, AnswersError, same_questions, same_runs
from vlmcourse.evaluation.conditions import SYSTEM
from vlmcourse.intervals import tidy
from vlmcourse.sweep.hypotheses import ORACLE
from vlmcourse.sweep.results import NEEDED, SettingResult
from vlmcourse.sweep.statistics import (
    ALPHA,
    Answered,
    Quantity,
    as_metric,
    difference_of,
    draw,
    draws_needed,
    holm,
    p_difference,
    p_equal,
)

if TYPE_CHECKING:
    from vlmcourse.sweep.hypotheses import Hypothesis
    from vlmcourse.sweep.plan import Plan

SUPPORTED, OPPOSITE = "supported", "opposite"
NOT_SUPPORTED, NOT_DECIDED = "not supported", "not decided"
VERDICTS = (SUPPORTED, OPPOSITE, NOT_SUPPORTED, NOT_DECIDED)

Results = Mapping[tuple[str, str], SettingResult]


@dataclass(frozen=True)
class Outcome:
    """A hypothesis and its verdict.

    Attributes:
        hypothesis: as it was written.
        verdict: of `VERDICTS`.
        metric: the difference, a less b, with its corrected interval, as a record holds it; `n` is
            0 where nothing could be compared.
        p: corrected p-value; None where nothing could be compared.
        p_alone: the same without the correction.
        clips: that were asked about.
        runs: finished runs of a setting, of each side; of a control, once.
        cells, failed, missing: runs that the sweep asks for on both sides, and those that failed or
            of which nothing is there.
        why: what a reader has to know beside the numbers; of what is not decided, the reason.
    """

    hypothesis: "Hypothesis"
    verdict: str
    metric: dict
    p: float | None
    p_alone: float | None
    clips: int
    runs: tuple[int, ...]
    cells: int
    failed: int
    missing: int
    why: str = ""

    @property
    def runs_text(self) -> str:
        """`9 of 10 (1 failed)`."""
        lost = [f"{n} {what}" for n, what in ((self.failed, "failed"), (self.missing, "missing"))]
        told = ", ".join(text for text in lost if not text.startswith("0 "))
        left = self.cells - self.failed - self.missing
        return f"{left} of {self.cells}" + (f" ({told})" if told else "")


def verdict_of(expect: str, low: float | None, high: float | None, margin: float | None) -> str:
    """The verdict that a corrected interval of the difference a less b stands for.

    Args:
        expect: "greater", "less" or "equal".
        low, high: the interval; None where it is not known.
        margin: for "equal": "supported" is an interval inside -margin to margin (two one-sided
            tests), "opposite" one that lies whole outside.
    """
    if low is None or high is None:
        return NOT_DECIDED
    if expect == "equal":
        if -margin < low and high < margin:
            return SUPPORTED
        return OPPOSITE if low > margin or high < -margin else NOT_SUPPORTED
    if expect == "less":
        low, high = -high, -low
    return SUPPORTED if low > 0 else OPPOSITE if high < 0 else NOT_SUPPORTED


def judge(plan: "Plan", results: Results, alpha: float = ALPHA, seed: int = 0) -> list[Outcome]:
    """Decide every hypothesis of a plan.

    Args:
        plan: its hypotheses, and its pairs of settings.
        results: of `read_results`.
        alpha: chance of one false claim or more among all hypotheses.
        seed: of the draws.
    """
    found = [_compared(plan, one, results) for one in plan.hypotheses]
    known = [i for i, (quantity, _) in enumerate(found) if quantity is not None]
    p_values, columns = np.ones(len(found)), {}
    if known:
        drawn = draw([found[i][0] for i in known], draws_needed(len(found), alpha), seed)
        columns = {i: drawn[:, place] for place, i in enumerate(known)}
    for i, values in columns.items():
        one = plan.hypotheses[i]
        alike = one.expect == "equal"
        p_values[i] = p_equal(values, one.margin) if alike else p_difference(values)
    corrected, levels = holm(p_values, alpha)
    outcomes = []
    for i, (one, (quantity, why)) in enumerate(zip(plan.hypotheses, found)):
        counts = _counts(plan, one, results)
        if quantity is None:
            nothing = {"n": 0, "mean": None, "low": None, "high": None, "unit": "share"}
            outcomes.append(Outcome(one, NOT_DECIDED, nothing, None, None, 0, (), *counts, why))
            continue
        value = as_metric(quantity, columns[i], levels[i])
        verdict = verdict_of(one.expect, value["low"], value["high"], one.margin)
        outcomes.append(
            Outcome(
                one, verdict, value, tidy(corrected[i]), tidy(p_values[i]), quantity.clips,
                quantity.runs, *counts, why,
            )
        )  # fmt: skip
    return outcomes


def _settings(plan: "Plan", one: "Hypothesis") -> list[str]:
    """Names of the settings on both sides."""
    sides = [setting.name for pair in plan.pairs(one) for setting in pair if setting is not None]
    return list(dict.fromkeys(sides))


def _results(plan: "Plan", one: "Hypothesis", results: Results) -> list[SettingResult]:
    nothing = [(name, one.measure) for name in _settings(plan, one)]
    return [results.get(key) or SettingResult(*key, missing=plan.seeds) for key in nothing]


def _counts(plan: "Plan", one: "Hypothesis", results: Results) -> tuple[int, int, int]:
    """Runs asked for, failed and missing on both sides."""
    there = _results(plan, one, results)
    return (
        sum(x.asked for x in there),
        sum(len(x.failed) for x in there),
        sum(len(x.missing) for x in there),
    )


def _compared(plan: "Plan", one: "Hypothesis", results: Results) -> tuple[Quantity | None, str]:
    """The difference that a hypothesis is about; or None and the reason."""
    there = _results(plan, one, results)
    if lost := [f"{x.setting}: {x.runs_text}" for x in there if x.missing]:
        return None, f"runs are missing: {_first(lost)}"
    if few := [f"{x.setting}: {x.runs_text}" for x in there if len(x.finished) < NEEDED]:
        return None, f"at least {NEEDED} finished runs of a setting are needed: {_first(few)}"
    try:
        files = {x.setting: x.answers for x in there}
        pairs = [(files[a.name], b and files[b.name]) for a, b in plan.pairs(one)]
        quantity = _difference(one, pairs)
    except AnswersError as error:
        return None, str(error)
    if quantity.clips < 2:
        return None, "one clip tells nothing about clips"
    failed = sum(len(x.failed) for x in there)
    told = [f"{failed} of {sum(x.asked for x in there)} runs failed"] if failed else []
    if one.control is None and len(quantity.runs) == 1:
        told.append("the same runs on both sides")
    return quantity, "; ".join(told)


def _first(texts: Sequence[str], most: int = 3) -> str:
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return "; ".join(texts[:most]) + more


def _difference(
    one: "Hypothesis", pairs: Sequence[tuple[AnswerFile, AnswerFile | None]]
) -> Quantity:
    """The mean over all pairs of side a less side b. Raises AnswersError.

    Runs are paired where both sides are the same ones, asked with something else; runs that were
    trained apart are not, even if they have the same seed.
    """
    if one.control is not None:
        condition = condition_of(one.control)
        sides = [(answered(a, one.group), answered(a, one.group, condition)) for a, _ in pairs]
        return difference_of(*zip(*sides), paired=True)
    if one.questions == "same":
        for pair in pairs:
            same_questions(pair)
    sides = [tuple(answered(side, one.group) for side in pair) for pair in pairs]
    paired = one.questions == "same" and all(same_runs(*pair) for pair in pairs)
    return difference_of(*zip(*sides), paired=paired)


def condition_of(control: str) -> str:
    """The condition that a control of a hypothesis stands for."""
    return "text_storyboard" if control == ORACLE else control


def answered(file: AnswerFile, group: str, condition: str = SYSTEM) -> Answered:
    """The answers of a file to a group of questions. Raises AnswersError."""
    right, chosen = file.values(group, condition)
    return Answered(right, chosen, file.questions.clip_of, file.questions.checksum)


def summary(outcomes: Sequence[Outcome]) -> str:
    """Sentences for a note: the hypotheses by verdict, and which were corrected together."""
    parts = []
    for verdict in VERDICTS:
        names = [one.hypothesis.name for one in outcomes if one.verdict == verdict]
        if names:
            parts.append(f"{verdict.capitalize()}: {', '.join(names)}.")
    if not parts:
        return "No hypotheses were written."
    return " ".join(parts) + f" Corrected over all {len(outcomes)} hypotheses (Holm)."


def verdict_counts(outcomes: Sequence[Outcome]) -> str:
    """How many hypotheses got which verdict: `3 supported, 1 opposite`."""
    counts = Counter(one.verdict for one in outcomes)
    return ", ".join(f"{counts[v]} {v}" for v in VERDICTS if counts[v])
