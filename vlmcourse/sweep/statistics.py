"""What may be said of means and differences of a sweep: intervals, p-values, correction for many.

Two sources of chance stand behind every number: which clips were asked about, and which seeds the
runs had. `scoring.Bootstrap` draws both again. Of five runs it can only ever draw these five: no
draw lies beyond the best and the worst of them. At the levels that a correction for many
comparisons asks for, far in the tails, that is not enough: five runs, held against a control in the
same runs, all point the same way by chance once in sixteen comparisons. Here the clips are drawn
again, as there, and to every draw of the clips the chance of the runs is added as Student's t has
it: their standard error times a number drawn from t with S - 1 degrees of freedom (of a difference
of two sides, as Welch has it). What clips and runs do together (a clip that is hard for one run
only, and a lucky guess) moves both the mean of a run and that of a clip; it is taken out of the
draws of the clips (`Term.kept`), or it would count twice. tests/sweep/test_statistics.py measures
by simulation what comes of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlmcourse.intervals import tidy

ALPHA = 0.05
DRAWS = 40_000
DRAWS_OF_MEANS = 10_000
IN_THE_TAIL = 10
"""Draws that shall lie beyond each end of the widest interval."""
CHUNK = 1000
TINY = 1e-9


@dataclass(frozen=True)
class Answered:
    """What the runs of one setting answered to a group of questions.

    Attributes:
        right: `[S, Q]`, between 0 and 1.
        chosen: bool `[Q]`, the group; at least one of them.
        clip_of: `[Q]` clip of each question.
        key: of the set of all Q questions; what has the same key was asked the same.
    """

    right: np.ndarray
    chosen: np.ndarray
    clip_of: np.ndarray
    key: str = ""

    @property
    def runs(self) -> np.ndarray:
        """`[S]`, mean of each run."""
        return self.right[:, self.chosen].mean(1)

    @property
    def n(self) -> int:
        """Answers."""
        return int(len(self.right) * self.chosen.sum())


@dataclass(frozen=True)
class Term:
    """The part of a mean, or of a difference, that comes from one set of questions.

    Attributes:
        key: of the set.
        mean: the estimate.
        sums, counts: `[C]` values of the chosen questions of each clip, summed (means over the
            runs), and how many they are; 0 for clips that are asked none of them.
        kept: share of the chance of the clips that is theirs alone. The rest is what clips and runs
            do together; the differences between the runs tell it already.
    """

    key: str
    mean: float
    sums: np.ndarray
    counts: np.ndarray
    kept: float = 1.0


@dataclass(frozen=True)
class Quantity:
    """A mean of answers, or a difference of two such means, before anything is drawn.

    Attributes:
        terms: they add up; one for each set of questions.
        spreads: standard error and degrees of freedom of every independent group of runs; of one
            run nothing is known, and nothing is told.
        n: answers behind it; of a difference, of the side that has fewer.
        runs: of each side; of paired runs, once.
        values: mean of each run; of a difference, nothing.
        signed: it is a difference, between -1 and 1; else between 0 and 1.
    """

    terms: tuple[Term, ...]
    spreads: tuple[tuple[float, int], ...]
    n: int
    runs: tuple[int, ...]
    values: tuple[float, ...] = ()
    signed: bool = False

    @property
    def mean(self) -> float:
        return float(sum(term.mean for term in self.terms))

    @property
    def clips(self) -> int:
        """Clips that are asked about."""
        return sum(int((term.counts > 0).sum()) for term in self.terms)


def mean_of(one: Answered) -> Quantity:
    """The mean of a group of questions over clips and runs."""
    runs, tables = one.runs, {one.key: [one.right]}
    return Quantity(
        _terms(tables, [one]), _spread(runs), one.n, (len(runs),), tuple(map(float, runs))
    )


def difference_of(a: Sequence[Answered], b: Sequence[Answered], paired: bool = False) -> Quantity:
    """The mean of `a` less that of `b`.

    Each side may hold several settings, of which the mean is taken. Where both were asked the same
    questions, every draw takes the same clips for both. Runs of one side that stand at the same
    place of their settings have the same seed (or are the same run, asked something else): they are
    not taken for independent.

    Args:
        a, b: one a setting.
        paired: both sides are the same runs, in the same order (under another condition).
    """
    tables: dict[str, list[np.ndarray]] = {}
    if paired:
        less = [replace(x, right=x.right - y.right) for x, y in zip(a, b, strict=True)]
        spreads = _spread_of([one.runs for one in less])
        _add(tables, less, 1.0)
    else:
        spreads = tuple(x for side in (a, b) for x in _spread_of([one.runs for one in side]))
        _add(tables, a, 1.0)
        _add(tables, b, -1.0)
    return Quantity(
        _terms(tables, (*a, *b)),
        spreads,
        min(sum(one.n for one in side) for side in (a, b)),
        tuple(max(len(one.right) for one in side) for side in ((a,) if paired else (a, b))),
        signed=True,
    )


def _add(tables: dict[str, list[np.ndarray]], side: Sequence[Answered], sign: float) -> None:
    """Put the share of each setting in the mean of its side into the tables of its questions: one
    table `[S, Q]` for runs that are not independent, else one a setting."""
    together = len({len(one.right) for one in side}) == 1
    made: dict[str, list[np.ndarray]] = {}
    for one in side:
        made.setdefault(one.key, []).append(sign / len(side) * one.right)
    for key, some in made.items():
        tables.setdefault(key, []).extend([np.sum(some, axis=0)] if together else some)


def _terms(
    tables: Mapping[str, Sequence[np.ndarray]], asked: Sequence[Answered]
) -> tuple[Term, ...]:
    """Tables of independent runs, which add up, as terms."""
    found, of = [], {one.key: one for one in asked}
    for key, some in tables.items():
        one = of[key]
        clip, clips = one.clip_of[one.chosen], int(one.clip_of.max()) + 1
        counts = np.bincount(clip, minlength=clips).astype(np.float64)
        by_clip = [
            np.stack([np.bincount(clip, row[one.chosen], clips) for row in table]) for table in some
        ]  # each [S, C]
        sums = np.sum([rows.mean(0) for rows in by_clip], axis=0)
        mean = float(sums.sum() / counts.sum())
        drawn = ((sums - mean * counts) ** 2).sum() / max(clips - 1, 1) / clips
        noise = sum(_noise(rows, counts) for rows in by_clip)
        kept = float(np.sqrt(max(0.0, 1 - noise / drawn))) if drawn > 0 else 1.0
        found.append(Term(key, mean, sums, counts, kept))
    return tuple(found)


def _noise(rows: np.ndarray, counts: np.ndarray) -> float:
    """Variance of a mean by what clips and runs do together, in the unit of a clip's sum.

    Args:
        rows: `[S, C]` sums of each run over each clip.
        counts: `[C]` questions behind them.
    """
    runs, clips = rows.shape
    if runs < 2 or clips < 2:
        return 0.0
    left = rows - rows.sum(1, keepdims=True) / counts.sum() * counts
    left = left - left.mean(0)
    return float((left**2).sum() / ((runs - 1) * (clips - 1)) / (runs * clips))


def _spread_of(settings: Sequence[np.ndarray]) -> tuple[tuple[float, int], ...]:
    """What is known of the chance of the runs behind the mean of several settings `[S]`."""
    if len({len(one) for one in settings}) == 1:
        return _spread(np.mean(settings, axis=0))
    return tuple((se / len(settings), df) for one in settings for se, df in _spread(one))


def _spread(runs: np.ndarray) -> tuple[tuple[float, int], ...]:
    if len(runs) < 2:
        return ()
    return ((float(np.std(runs, ddof=1) / np.sqrt(len(runs))), len(runs) - 1),)


# ---------------------------------------------------------------- draws


def draws_needed(comparisons: int, alpha: float = ALPHA) -> int:
    """Draws that leave `IN_THE_TAIL` beyond each end of the widest corrected interval."""
    return max(DRAWS, int(np.ceil(2 * IN_THE_TAIL * max(comparisons, 1) / alpha)))


def draw(quantities: Sequence[Quantity], draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Draw quantities again; in every draw, the same clips of each set of questions for all.

    Returns:
        `[draws, K]`. They may lie outside the bounds of a share.
    """
    found = np.empty((draws, len(quantities)))
    found[:] = [one.mean for one in quantities]
    keys = dict.fromkeys(term.key for one in quantities for term in one.terms)
    for number, key in enumerate(keys):
        known = [(k, t) for k, one in enumerate(quantities) for t in one.terms if t.key == key]
        columns, terms = zip(*known)
        drawn = _clip_draws(terms, draws, np.random.default_rng([seed, number]))
        found[:, columns] += drawn
    found = np.round(found, 12)  # a draw without a difference is 0 to the last digit
    rng = np.random.default_rng([seed, len(keys), 1])
    for column, one in enumerate(quantities):
        values = found[:, column]
        if np.ptp(values) < TINY and _level(
            one
        ):  # every clip says the same, which is no proof of certainty
            reach = rng.beta(1, max(one.clips, 1), size=draws)
            values += rng.choice((-1.0, 1.0), size=draws) * reach
        if one.spreads:
            error, freedom = _together(one.spreads)
            values += error * rng.standard_t(freedom, size=draws)
    return found


def _together(spreads: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Standard error and degrees of freedom of a sum (Welch 1947, Satterthwaite 1946)."""
    variances, freedoms = np.array([se**2 for se, _ in spreads]), np.array([f for _, f in spreads])
    whole = variances.sum()
    if whole == 0:
        return 0.0, float(freedoms.min())
    return float(np.sqrt(whole)), float(whole**2 / (variances**2 / freedoms).sum())


def _level(quantity: Quantity) -> bool:
    """Whether all clips say the same."""
    return all(np.allclose(t.sums, t.mean * t.counts, atol=TINY) for t in quantity.terms)


def _clip_draws(terms: Sequence[Term], draws: int, rng: np.random.Generator) -> np.ndarray:
    """How far the means of clips drawn with replacement lie from those of all, `[draws, K]`."""
    sums = np.stack([term.sums for term in terms], axis=1)  # [C, K]
    counts, place = np.unique(
        np.stack([term.counts for term in terms], axis=1), axis=1, return_inverse=True
    )
    clips, found = len(sums), np.empty((draws, len(terms)))
    for start in range(0, draws, CHUNK):
        size = min(CHUNK, draws - start)
        which = rng.integers(clips, size=(size, clips)) + clips * np.arange(size)[:, None]
        weights = np.bincount(which.ravel(), minlength=clips * size).reshape(size, clips)
        asked = (weights @ counts)[:, place.ravel()]
        with np.errstate(invalid="ignore", divide="ignore"):
            found[start : start + size] = np.where(asked > 0, weights @ sums / asked, np.nan)
    for column in np.flatnonzero(np.isnan(found).any(0)):  # draws that hold no clip of a rare group
        values = found[:, column]
        lost = np.isnan(values)
        values[lost] = rng.choice(values[~lost], size=int(lost.sum()))
    return (found - [term.mean for term in terms]) * [term.kept for term in terms]


def interval(drawn: np.ndarray, alpha: float = ALPHA) -> tuple[float, float]:
    """The interval of level 1 - alpha of draws `[draws]`; infinite if they are too few for it."""
    k = int(np.floor(alpha / 2 * (len(drawn) + 1) + TINY))
    if k < 1:
        return -np.inf, np.inf
    ordered = np.partition(drawn, (k - 1, len(drawn) - k))
    return float(ordered[k - 1]), float(ordered[len(drawn) - k])


def _share(found: np.ndarray) -> float:
    """Of draws that speak against a claim, one more than were found: never 0."""
    return (int(found.sum()) + 1) / (len(found) + 1)


def p_difference(drawn: np.ndarray) -> float:
    """Two-sided p-value of "there is no difference". At most alpha exactly if `interval(drawn,
    alpha)` excludes 0."""
    return min(1.0, 2 * min(_share(drawn <= 0), _share(drawn >= 0)))


def p_equal(drawn: np.ndarray, margin: float) -> float:
    """p-value of a claim about a margin: that the difference is smaller (two one-sided tests,
    TOST), or that it is larger. At most alpha exactly if `interval(drawn, alpha)` lies whole inside
    -margin to margin, or whole outside. (TOST alone would allow an interval of 1 - 2 alpha.)"""
    inside = max(_share(drawn <= -margin), _share(drawn >= margin))
    outside = min(_share(drawn <= margin), _share(drawn >= -margin))
    return min(1.0, 2 * min(inside, outside))


# ---------------------------------------------------------------- many comparisons


def holm(p_values: Sequence[float], alpha: float = ALPHA) -> tuple[np.ndarray, np.ndarray]:
    """Correct p-values for their number by Holm's step-down procedure (Holm 1979).

    The chance of one false claim or more among all of them is at most alpha, however they depend on
    each other.

    Returns:
        corrected p-values `[m]`, and the level `[m]` at which each was tested: its interval of
        level 1 - that excludes 0 exactly if the corrected p-value is at most alpha.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    left = np.arange(len(p), 0, -1)  # m, m - 1, ..., 1
    corrected = np.maximum.accumulate(np.minimum(1, p[order] * left))
    failed = np.flatnonzero(p[order] * left > alpha + TINY)
    last = failed[0] if len(failed) else len(p)
    levels = alpha / np.maximum(left, left[min(last, len(p) - 1)] if len(p) else 1)
    found = np.empty((2, len(p)))
    found[:, order] = corrected, levels
    return found[0], found[1]


# ---------------------------------------------------------------- for a record


def as_metric(quantity: Quantity, drawn: np.ndarray, alpha: float = ALPHA) -> dict:
    """A quantity with its interval, as a record holds it.

    Args:
        drawn: its draws, `[draws]`.
        alpha: 1 less the level of the interval.
    """
    least, mean = (-1.0 if quantity.signed else 0.0), quantity.mean
    low, high = (float(np.clip(end, least, 1.0)) for end in interval(drawn, alpha))
    known = quantity.clips > 1
    made = {
        "n": quantity.n,
        "mean": tidy(mean),
        "low": tidy(min(low, mean)) if known else None,
        "high": tidy(max(high, mean)) if known else None,
        "unit": "share",
    }
    several = len(quantity.values) > 1 and not quantity.signed
    return made | ({"values": [tidy(value) for value in quantity.values]} if several else {})
