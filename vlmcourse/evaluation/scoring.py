"""From right answers to shares with intervals, by family, kind and evidence of the questions."""

from collections.abc import Mapping, Sequence

import numpy as np

from vlmcourse.evaluation.probes import CONDITIONS, SYSTEM
from vlmcourse.intervals import tidy, wilson
from vlmcourse.records import metric_text
from vlmcourse.world.language import FAMILIES, KINDS, Question

DRAWS = 5000
GAIN = "gain_over_"
BLIND = ("majority", "best_constant", "blind", "no_video", "other_clip")
"""Conditions that do not see the clip they are asked about."""
UNSEEN_AND_UNHEARD = ("sound", "speech")
"""Evidence that a system which only sees pictures does not have."""


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

    def means(self, right: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Means of the chosen questions in every draw that holds some of them, at most `[draws]`.

        Args:
            right: `[S, Q]`, between 0 and 1 (or -1 and 1 for differences).
            chosen: bool `[Q]`.
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
        rng = np.random.default_rng([self.seed, 1])
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
            return {"n": 0, "mean": None, "low": None, "high": None, "unit": "share"}
        runs = right[:, chosen].mean(1)
        mean = float(runs.mean())
        clips = len(np.unique(self.clip_of[chosen]))
        if clips < 2:
            low = high = float("nan")
        elif np.ptp(right[:, chosen]) == 0 and difference:
            reach = wilson(0.0, clips, 0.95)[1]
            low, high = max(mean - reach, -1.0), min(mean + reach, 1.0)
        elif np.ptp(right[:, chosen]) == 0:
            low, high = wilson(mean, clips, 0.95)
        else:
            low, high = np.quantile(self.means(right, chosen), (0.025, 0.975))
        made = {
            "n": int(right.shape[0] * chosen.sum()),
            "mean": tidy(mean),
            "low": tidy(min(float(low), mean)) if np.isfinite(low) else None,
            "high": tidy(max(float(high), mean)) if np.isfinite(high) else None,
            "unit": "share",
        }
        several = len(runs) > 1 and not difference
        return made | ({"values": [tidy(float(value)) for value in runs]} if several else {})


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


def score(
    answers: Mapping[str, np.ndarray], questions: Sequence[Question], clip_of: np.ndarray
) -> dict[str, dict]:
    """Turn answers into the metrics of a record.

    Args:
        answers: condition -> `[S, Q]`, as `probes.ask_all` gives them.

    Returns:
        `CONDITION/GROUP`, such as "system/order" or "blind/kind/first", and for every control
        `gain_over_CONTROL/GROUP`: the system less the control on the same questions (paired), for
        all groups but kinds.
    """
    bootstrap, sets = Bootstrap(clip_of), groups(questions)
    found = {
        f"{condition}/{name}": bootstrap.metric(right, chosen)
        for condition, right in answers.items()
        for name, chosen in sets.items()
    }
    if SYSTEM not in answers:
        return found
    for condition, right in answers.items():
        if condition == SYSTEM:
            continue
        gain = answers[SYSTEM] - right  # runs stand in the same order
        for name, chosen in sets.items():
            if not name.startswith("kind/"):
                found[f"{GAIN}{condition}/{name}"] = bootstrap.metric(gain, chosen, True)
    return found


def judgement(metrics: Mapping[str, dict]) -> tuple[list[str], list[str]]:
    """What the numbers say about the system: families it beats its blind controls in, and leaks.

    Returns:
        families in which the system's gain over every condition of `BLIND` that was asked is above
        0 with its whole interval; and families that need sound or speech of which the same is true,
        though a system that only sees cannot know them.
    """
    beaten, leaks = [], []
    for family, evidence in FAMILIES.items():
        gains = [
            metrics[f"{GAIN}{name}/{family}"]
            for name in BLIND
            if f"{GAIN}{name}/{family}" in metrics
        ]
        lows = [gain["low"] for gain in gains if gain["low"] is not None]
        if lows and min(lows) > 0:
            (leaks if evidence in UNSEEN_AND_UNHEARD else beaten).append(family)
    return beaten, leaks


def probe_table(record: dict, kinds: bool = False) -> str:
    """Families (or kinds) down, conditions across, as Markdown; what is not asked stays out."""
    metrics = record["metrics"]
    conditions = [name for name in CONDITIONS if f"{name}/all" in metrics]
    first = conditions[0]
    evidence = FAMILIES
    names = ["all", *(f"evidence/{e}" for e in dict.fromkeys(FAMILIES.values())), *FAMILIES]
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
