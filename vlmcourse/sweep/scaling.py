"""A scaling curve: accuracy as a power law of the size of the training set, with its uncertainty.

accuracy(n) = a - b n^-c: a is what more data would end at, c how quickly. Few sizes do not fix
three numbers well; the intervals say how badly, and `PowerLaw.note` where they say nothing at all.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlmcourse.intervals import tidy
from vlmcourse.sweep.statistics import ALPHA, Quantity, draw

DRAWS_OF_FITS = 400
FEWEST_SIZES = 4
EXPONENTS = (0.01, 4.0)
"""Least and largest c: below, the curve is a logarithm; above, a step after the first size."""
EDGE = 0.02


@dataclass(frozen=True)
class PowerLaw:
    """A fitted curve.

    Attributes:
        a, b, c: metrics with their 95 % intervals, as a record holds them.
        sizes: what it was fitted to.
        drawn: `[draws, 3]` a, b, c of every draw.
        lost: draws to which no curve could be fitted; they are in no interval.
        note: what the sizes do not tell, or "".
    """

    a: dict
    b: dict
    c: dict
    sizes: tuple[float, ...]
    drawn: np.ndarray
    lost: int = 0
    note: str = ""

    def at(self, size: float) -> dict:
        """Accuracy at a size, with its interval; beyond the largest it is a guess by the curve."""
        best = np.array([[self.a["mean"], self.b["mean"], self.c["mean"]]])
        return _metric(power_law(size, *best.T)[0], power_law(size, *self.drawn.T), "share")


def power_law(n, a, b, c):
    """a - b n^-c."""
    return a - b * np.power(np.asarray(n, dtype=np.float64), -c)


def fit_power_law(
    points: Mapping[float, Quantity], draws: int = DRAWS_OF_FITS, seed: int = 0
) -> PowerLaw:
    """Fit a power law to the accuracy of several sizes, and to every draw of it.

    Args:
        points: size -> mean of its runs (`statistics.mean_of`); the same questions are drawn
            together.
        draws: of clips and runs.
        seed: of the draws.

    Raises:
        ValueError: fewer than `FEWEST_SIZES` sizes, or one that is not above 0.
    """
    sizes = sorted(points)
    if len(sizes) < FEWEST_SIZES or sizes[0] <= 0:
        raise ValueError(f"a power law needs at least {FEWEST_SIZES} sizes above 0, not {sizes}")
    quantities = [points[size] for size in sizes]
    drawn = draw(quantities, draws, seed)
    scatter = np.maximum(drawn.std(0), 1e-6)
    means = np.array([one.mean for one in quantities])
    best = _fit(sizes, means, scatter)
    if best is None:
        raise ValueError(f"no power law fits {dict(zip(sizes, means.round(3)))}")
    fits = [_fit(sizes, row, scatter, best) for row in drawn]
    kept = np.array([one for one in fits if one is not None])
    drawn = np.stack([_plain(one, sizes[0]) for one in kept])
    metrics = [
        _metric(value, column, unit)
        for value, column, unit in zip(_plain(best, sizes[0]), drawn.T, ("share", "", ""))
    ]
    return PowerLaw(*metrics, tuple(sizes), drawn, len(fits) - len(kept), _note(kept))


def _fit(
    sizes: Sequence[float], means: np.ndarray, scatter: np.ndarray, start: np.ndarray | None = None
) -> np.ndarray | None:
    """a, the gap to it at the smallest size, and c; None where no curve is found."""
    from scipy.optimize import OptimizeWarning, curve_fit

    n = np.asarray(sizes) / sizes[0]
    low, high = (0.0, 0.0, EXPONENTS[0]), (1.0, 1.0, EXPONENTS[1])
    if start is None:
        start = np.array([means.max() + 0.01, np.ptp(means) + 0.01, 0.5])
    start = np.clip(start, np.array(low) + 1e-3, np.array(high) - 1e-3)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)
            found, _ = curve_fit(
                power_law, n, means, start, scatter, bounds=(low, high), jac=_slopes
            )
    except RuntimeError:  # no curve within the allowed number of steps
        return None
    return found


def _slopes(n: np.ndarray, a: float, b: float, c: float) -> np.ndarray:
    """Derivatives of the power law, `[N, 3]`."""
    shrunk = np.power(n, -c)
    return np.stack([np.ones_like(shrunk), -shrunk, b * shrunk * np.log(n)], axis=1)


def _plain(fitted: np.ndarray, smallest: float) -> np.ndarray:
    """a, b, c of a fit that counted sizes in multiples of the smallest."""
    a, gap, c = fitted
    return np.array([a, gap * smallest**c, c])


def _metric(value: float, drawn: np.ndarray, unit: str) -> dict:
    low, high = np.quantile(drawn, (ALPHA / 2, 1 - ALPHA / 2))
    made = {"n": len(drawn), "mean": tidy(value), "low": tidy(min(low, value))}
    return made | {"high": tidy(max(high, value)), "unit": unit}


def _note(fits: np.ndarray) -> str:
    """What the draws do not fix."""
    limit, _, c = fits.T
    told = []
    if (share := float((limit > 1 - EDGE).mean())) > ALPHA:
        told.append(f"no end of the curve below 100 % in {100 * share:.0f} % of the draws")
    edges = (c < EXPONENTS[0] + EDGE) | (c > EXPONENTS[1] - EDGE)
    if (share := float(edges.mean())) > ALPHA:
        told.append(f"no exponent in {100 * share:.0f} % of the draws")
    return "; ".join(told)
