"""Means with their spread: the interval that fits where the measurements come from."""

import math
from collections.abc import Sequence

import numpy as np


def confidence_interval(
    values: Sequence[float],
    level: float = 0.95,
    kind: str = "clips",
    groups: Sequence | None = None,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval for the mean of repeated measurements, by the rule that fits where they come from.

    ``kind="clips"``: many answers, one or more per clip. Clips (``groups``) are drawn again with
    replacement, 5,000 times: questions about one clip are not independent, clips are. Where every
    answer is the same and in 0..1 the bootstrap would claim certainty, so Wilson's interval over
    the number of clips stands in.
    ``kind="seeds"``: a few repeated runs; Student's t over the runs.

    Args:
        values: the measurements, [n].
        level: share of such intervals that hold the true mean.
        kind: "clips" or "seeds".
        groups: the clip of each value, [n] (default: each value is a clip of its own).
        seed: of the bootstrap; the same values give the same interval.

    Returns:
        (low, high); NaN, NaN when fewer than two clips or runs tell nothing about the spread.
    """
    values = np.asarray(values, dtype=np.float64)
    if kind == "seeds":
        if len(values) < 2:
            return math.nan, math.nan
        from scipy import stats

        half = stats.t.ppf((1 + level) / 2, len(values) - 1) * stats.sem(values)
        return float(values.mean() - half), float(values.mean() + half)
    if kind != "clips":
        raise ValueError(f"kind is 'clips' or 'seeds', not {kind!r}")
    _, clip = np.unique(range(len(values)) if groups is None else groups, return_inverse=True)
    sums, counts = np.bincount(clip, weights=values), np.bincount(clip)  # [clips]
    if len(counts) < 2:
        return math.nan, math.nan
    if np.ptp(values) == 0:
        return wilson(float(values[0]), len(counts), level)
    from scipy import stats

    draws = stats.bootstrap(
        (sums, counts.astype(np.float64)),
        lambda s, c, axis: s.sum(axis=axis) / c.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=5000,
        batch=500,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(draws.confidence_interval.low), float(draws.confidence_interval.high)


def wilson(share: float, n: int, level: float) -> tuple[float, float]:
    """Interval of a share that came out the same every time; a point where it is no share."""
    from scipy import stats

    if share not in (0.0, 1.0):
        return share, share
    interval = stats.binomtest(round(share * n), n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def metric(
    values: Sequence[float],
    unit: str = "",
    kind: str = "clips",
    groups: Sequence | None = None,
    keep: bool = False,
) -> dict:
    """Summarise measurements as a record holds them.

    Args:
        values: [n] measurements; for ``unit="share"`` between 0 and 1.
        unit: "share" (shown in per cent), "s", "clips/s", "MiB", ... or "".
        kind, groups: see :func:`confidence_interval`.
        keep: store the values too (few seeds; not thousands of answers).
    """
    values = [float(value) for value in values]
    if not values:
        return {"n": 0, "mean": None, "low": None, "high": None, "unit": unit}
    low, high = confidence_interval(values, kind=kind, groups=groups)
    made = {
        "n": len(values),
        "mean": tidy(float(np.mean(values))),
        "low": tidy(low),
        "high": tidy(high),
        "unit": unit,
    }
    return made | {"values": [tidy(value) for value in values]} if keep else made


def tidy(value: float) -> float | None:
    """Six significant digits; None for what JSON cannot hold."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
