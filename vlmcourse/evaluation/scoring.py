"""From right answers to shares with intervals, by family, kind and evidence of the questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vlmcourse.evaluation.conditions import (
    BLIND,
    CONDITIONS,
    EYES,
    LACKS,
    RETENTION,
    SYSTEM,
    needed,
)
from vlmcourse.intervals import tidy, wilson
from vlmcourse.records import metric_text
from vlmcourse.world.language import FAMILIES, KINDS, Question

DRAWS = 5000
GAIN = "gain_over_"
HALLUCINATION = {
    "hallucination/false_yes": ("exists", "no"),
    "hallucination/false_no": ("exists", "yes"),
    "sound_hallucination/false_yes": ("heard", "no"),
    "sound_hallucination/false_no": ("heard", "yes"),
}
"""Rates of false answers -> kind of question, and the truth: "yes" said of what is absent (or not
heard), and "no" of what is present. They need not add up with the right answers to one: something
else may be said."""

SHAPES = ("shape", "area", "size")
"""What pictures of mixed sizes are told apart by (shapes.py)."""


class Bootstrap:
    """Draws clips and runs again, the same draws for every number of one evaluation.

    A mean has two sources of chance: which clips were asked about, and which seeds the runs had.
    Both are drawn again, crossed: a clip comes with all its questions (they are not independent),
    and a run with all its answers. Of S runs S - 1 are drawn, with replacement: S draws would give
    a variance too small by (S - 1) / S, a third for three runs (Rao and Wu 1988, the case without
    rescaling). With one run only clips are drawn.

    Args:
        clip_of: `[Q]` clip of each question.
        seed: of the draws.
    """

    def __init__(self, clip_of: np.ndarray, draws: int = DRAWS, seed: int = 0):
        self.clip_of, self.seed = np.asarray(clip_of), seed
        self.num_clips = int(self.clip_of.max()) + 1
        rng = np.random.default_rng([seed, 0])
        even = np.full(self.num_clips, 1 / self.num_clips)
        self.weights = rng.multinomial(self.num_clips, even, size=draws).astype(
            np.float64
        )  # [B, C]

    def means(self, right: np.ndarray, chosen: np.ndarray, stream: int = 1) -> np.ndarray:
        """Means of the chosen questions in every draw that holds some of them, at most `[draws]`.

        Args:
            right: `[S, Q]`, between 0 and 1 (or -1 and 1 for differences).
            chosen: bool `[Q]`.
            stream: another number draws other runs (of the same clips).
        """
        clip = self.clip_of[chosen]
        counts = np.bincount(clip, minlength=self.num_clips)  # [C]
        sums = np.stack([np.bincount(clip, row[chosen], self.num_clips) for row in right])  # [S, C]
        asked = self.weights @ counts  # [B]
        kept = asked > 0
        by_run = (self.weights @ sums.T)[kept] / asked[kept, None]  # [B, S]
        runs = len(right)
        if runs == 1:
            return by_run[:, 0]
        rng = np.random.default_rng([self.seed, stream])
        drawn = rng.integers(runs, size=(len(by_run), runs - 1))
        return np.take_along_axis(by_run, drawn, axis=1).mean(1)

    def metric(self, right: np.ndarray, chosen: np.ndarray, difference: bool = False) -> dict:
        """Mean of the chosen questions over runs and clips with its 95 % interval, for a record.

        `n` counts answers (runs x questions), `values` are the means of several runs. Where all
        answers are right, or all wrong, the draws would claim certainty: Wilson's interval over
        the number of clips stands in.

        Args:
            right, chosen: as in `means`.
            difference: the values are differences, between -1 and 1.
        """
        if not chosen.any():
            return _nothing()
        runs = right[:, chosen].mean(1)
        mean = float(runs.mean())
        clips = len(np.unique(self.clip_of[chosen]))
        if clips < 2:
            low = high = float("nan")
        elif np.ptp(right[:, chosen]) == 0 and difference:
            low, high = _about(mean, clips)
        elif np.ptp(right[:, chosen]) == 0:
            low, high = wilson(mean, clips, 0.95)
        else:
            low, high = np.quantile(self.means(right, chosen), (0.025, 0.975))
        made = _metric(int(right.shape[0] * chosen.sum()), mean, low, high)
        several = len(runs) > 1 and not difference
        return made | ({"values": [tidy(float(value)) for value in runs]} if several else {})

    def difference(self, a: np.ndarray, b: np.ndarray, chosen: np.ndarray, paired: bool) -> dict:
        """Mean of `a` less that of `b` on the same questions, with its 95 % interval.

        The clips are the same on both sides of every draw. The runs are too if they are `paired`
        (the same weights, given something else); else each side draws its own. `n` counts the
        answers of the side that has fewer.

        Args:
            a, b: `[Sa, Q]` and `[Sb, Q]`; paired runs stand in the same order.
            chosen: bool `[Q]`.
        """
        if not chosen.any():
            return _nothing()
        mean = float(a[:, chosen].mean() - b[:, chosen].mean())
        clips = len(np.unique(self.clip_of[chosen]))
        if clips < 2:
            low = high = float("nan")
        else:
            drawn = (
                self.means(a - b, chosen)
                if paired
                else self.means(a, chosen) - self.means(b, chosen, stream=2)
            )
            same = np.ptp(drawn) < 1e-12  # no draw differs, which is no proof of certainty
            low, high = _about(mean, clips) if same else np.quantile(drawn, (0.025, 0.975))
        return _metric(int(min(len(a), len(b)) * chosen.sum()), mean, low, high)


def _nothing() -> dict:
    return {"n": 0, "mean": None, "low": None, "high": None, "unit": "share"}


def _about(mean: float, clips: int) -> tuple[float, float]:
    """An interval around a difference that came out the same every time."""
    reach = wilson(0.0, clips, 0.95)[1]
    return max(mean - reach, -1.0), min(mean + reach, 1.0)


def _metric(n: int, mean: float, low: float, high: float) -> dict:
    return {
        "n": n,
        "mean": tidy(mean),
        "low": tidy(min(float(low), mean)) if np.isfinite(low) else None,
        "high": tidy(max(float(high), mean)) if np.isfinite(high) else None,
        "unit": "share",
    }


def groups(questions: Sequence[Question]) -> dict[str, np.ndarray]:
    """Sets of questions by name -> bool `[Q]`.

    "all"; "evidence/picture", ...; the families by their bare names, also those that are not asked;
    "kind/first", ... for the kinds that are asked.
    """
    evidence, family, kind = (
        np.array([getattr(q, name) for q in questions]) for name in ("evidence", "family", "kind")
    )
    found = {"all": np.ones(len(questions), dtype=bool)}
    found |= {f"evidence/{name}": evidence == name for name in dict.fromkeys(FAMILIES.values())}
    found |= {name: family == name for name in FAMILIES}
    return found | {f"kind/{name}": kind == name for name in KINDS if (kind == name).any()}


def second_groups(questions: Sequence[Question], seconds: np.ndarray) -> dict[str, np.ndarray]:
    """Questions about an event or a sound by its second: "second/when/3" -> bool `[Q]`.

    Args:
        seconds: `[Q]`, as `probes.asked_seconds` gives them.
    """
    kind = np.array([q.kind for q in questions])
    asked = sorted({(k, s) for k, s in zip(kind.tolist(), seconds.tolist()) if s >= 0})
    return {f"second/{k}/{s}": (kind == k) & (seconds == s) for k, s in asked}


def hallucination_groups(questions: Sequence[Question]) -> dict[str, np.ndarray]:
    """The questions behind every rate of `HALLUCINATION` that is asked -> bool `[Q]`."""
    found = {
        name: np.array([(q.kind, q.answer) == asked for q in questions])
        for name, asked in HALLUCINATION.items()
    }
    return {name: chosen for name, chosen in found.items() if chosen.any()}


def score(
    answers: Mapping[str, np.ndarray],
    questions: Sequence[Question],
    clip_of: np.ndarray,
    opposite: Mapping[str, np.ndarray] | None = None,
    seconds: np.ndarray | None = None,
) -> dict[str, dict]:
    """Turn answers into the metrics of a record.

    Args:
        answers: condition -> `[S, Q]`, the `right` of `probes.Answers`.
        opposite: condition -> `[S, Q]`, the `opposite` of the same.
        seconds: `[Q]` of `probes.asked_seconds`.

    Returns:
        `CONDITION/GROUP`, such as "system/order" or "blind/kind/first"; for every control
        `gain_over_CONTROL/GROUP`: the system less the control on the same questions (paired), for
        all groups but kinds; `CONDITION/RATE` for the rates of `HALLUCINATION`;
        `system/second/KIND/SECOND`; and `retention/events/GROUP`, `retention/storyboard/GROUP`: the
        trained language model told the truth in words less the frozen one (paired).
    """
    bootstrap, sets = Bootstrap(clip_of), groups(questions)
    found = {
        f"{condition}/{name}": bootstrap.metric(right, chosen)
        for condition, right in answers.items()
        for name, chosen in sets.items()
    }
    for condition, said in (opposite or {}).items():
        for name, chosen in hallucination_groups(questions).items():
            found[f"{condition}/{name}"] = bootstrap.metric(said, chosen)
    for form, (told, text) in RETENTION.items():
        if told in answers and text in answers:
            kept = answers[told] - answers[text]  # the frozen one answers once for all runs
            found |= {
                f"retention/{form}/{n}": bootstrap.metric(kept, x, True) for n, x in sets.items()
            }
    if SYSTEM not in answers:
        return found
    if seconds is not None:
        for name, chosen in second_groups(questions, seconds).items():
            found[f"{SYSTEM}/{name}"] = bootstrap.metric(answers[SYSTEM], chosen)
    for condition, right in answers.items():
        if condition == SYSTEM:
            continue
        gain = answers[SYSTEM] - right  # runs stand in the same order
        for name, chosen in sets.items():
            if not name.startswith("kind/"):
                found[f"{GAIN}{condition}/{name}"] = bootstrap.metric(gain, chosen, True)
    return found


@dataclass(frozen=True)
class Judgement:
    """What the numbers say about a system, in names of families.

    A family counts if the system's gain over every control that was asked is above 0 with its whole
    interval. The controls are those of `conditions.BLIND` and, for questions that need more than
    one kind of evidence, the conditions that lack one of them.

    Attributes:
        beaten: families whose evidence the system is given.
        partly: families of which it is given part of the evidence: it beats those that get nothing.
        leaks: families of which it is given nothing, so that it cannot know them.
    """

    beaten: list[str] = field(default_factory=list)
    partly: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)


def judgement(metrics: Mapping[str, dict], evidence: frozenset[str] = EYES) -> Judgement:
    """Tell the families that a system answers above its controls.

    Args:
        metrics: of `score`.
        evidence: what the system is given (`conditions.given_evidence`).
    """
    found = Judgement()
    for family, name in FAMILIES.items():
        needs = needed(name)
        lacking = tuple(c for c, lacks in LACKS.items() if lacks & needs and needs <= evidence)
        gains = [metrics.get(f"{GAIN}{control}/{family}") for control in BLIND + lacking]
        lows = [gain["low"] for gain in gains if gain is not None and gain["low"] is not None]
        if lows and min(lows) > 0:
            which = found.partly if needs & evidence else found.leaks
            (found.beaten if needs <= evidence else which).append(family)
    return found


def retained(metrics: Mapping[str, dict]) -> str:
    """A sentence for a note: what the trained language model lost, told the truth in words.

    "" where that was not measured.
    """
    told = []
    for form in RETENTION:
        if (whole := metrics.get(f"retention/{form}/all")) is None or whole["mean"] is None:
            continue
        each = {name: metrics[f"retention/{form}/{name}"] for name in FAMILIES}
        lost = [n for n, value in each.items() if value["high"] is not None and value["high"] < 0]
        told.append(
            f"{form} {100 * whole['mean']:+.1f} points (lost: {', '.join(lost) or 'nothing'})"
        )
    return f" Text retention: {'; '.join(told)}." if told else ""


def probe_table(record: dict, kinds: bool = False) -> str:
    """Families (or kinds) down, conditions across, as Markdown; what is not asked stays out."""
    metrics = record["metrics"]
    conditions = [name for name in CONDITIONS if f"{name}/all" in metrics]
    first = conditions[0]
    evidence = FAMILIES
    names = ["all", *(f"evidence/{e}" for e in dict.fromkeys(FAMILIES.values())), *FAMILIES]
    rates = [name for name in HALLUCINATION if f"{first}/{name}" in metrics]
    rates += [
        f"{part}/{name}"
        for condition, part, name in (n.split("/") for n in metrics if n.count("/") == 2)
        if condition == first and part in SHAPES
    ]
    names += [] if kinds else rates
    if kinds:
        names = [name.split("/", 1)[1] for name in metrics if name.startswith(f"{first}/kind/")]
    lines = [["questions", "evidence", "n", *conditions]]
    for name in names:
        if (count := metrics[f"{first}/{name}"]["n"]) == 0:
            continue
        runs = len(metrics[f"{first}/{name}"].get("values", [0]))
        label = name.removeprefix("kind/")
        if name.startswith("evidence/"):
            label = f"all of {label.removeprefix('evidence/')}"
        cells = [metric_text(metrics[f"{c}/{name}"]).replace(" % (", " (") for c in conditions]
        if name in rates:
            label = label.replace("/", ", ").replace("_", " ")
        lines.append([label, evidence.get(name, ""), str(count // runs), *cells])
    lines.insert(1, ["---", "---", *["--:"] * (len(conditions) + 1)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bar_values(
    record: dict, conditions: Sequence[str], groups: Sequence[str]
) -> tuple[dict[str, dict[str, dict]], dict[str, float]]:
    """What `figures.accuracy_bars` draws of a record.

    Args:
        record: of `vlmcourse evaluate`.
        conditions: a colour each, such as `("system", "shuffled", "blind")`.
        groups: a place on the axis each, such as the families; those that are not asked stay out.

    Returns:
        condition -> group -> metric, and group -> share of the best constant answer (empty where
        the record does not tell).
    """
    metrics = record["metrics"]
    kept = [name for name in groups if metrics[f"{conditions[0]}/{name}"]["n"]]
    table = {c: {name: metrics[f"{c}/{name}"] for name in kept} for c in conditions}
    best = {name: metrics.get(f"best_constant/{name}") for name in kept}
    return table, {name: value["mean"] for name, value in best.items() if value is not None}
