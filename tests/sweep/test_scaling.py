"""A scaling curve: known parameters lie in the intervals, and what cannot be known is told."""

import numpy as np
import pytest

from vlmcourse.record_form import validate_metric
from vlmcourse.sweep.scaling import fit_power_law, power_law
from vlmcourse.sweep.statistics import Answered, mean_of

SIZES = (250, 500, 1000, 2000, 4000, 8000)
CLIPS = 150


def measured(a, b, c, sizes=SIZES, seed=0):
    """Five runs at each size, asked four questions about the same clips."""
    rng = np.random.default_rng(seed)
    easy = 0.3 * (rng.beta(2, 2, CLIPS).repeat(4) - 0.5)
    clip_of, every = np.arange(CLIPS).repeat(4), np.ones(CLIPS * 4, dtype=bool)
    found = {}
    for n in sizes:
        chance = (power_law(n, a, b, c) + easy + rng.normal(0, 0.01, (5, 1))).clip(0, 1)
        right = (rng.random((5, CLIPS * 4)) < chance) * 1.0
        found[n] = mean_of(Answered(right, every, clip_of))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_true_curve_lies_in_the_intervals(seed):
    fit = fit_power_law(measured(0.8, 6.0, 0.5, seed=seed), draws=100)
    for name, truth in (("a", 0.8), ("b", 6.0), ("c", 0.5)):
        metric = getattr(fit, name)
        validate_metric(name, metric, pytest.fail)
        assert metric["low"] <= truth <= metric["high"], name
    here, beyond = fit.at(2000), fit.at(64_000)
    assert here["low"] <= power_law(2000, 0.8, 6.0, 0.5) <= here["high"]
    assert here["high"] - here["low"] < beyond["high"] - beyond["low"], "beyond, it is a guess"
    assert fit.lost == 0
    assert fit.drawn.shape == (100, 3)


def test_a_level_line_has_no_exponent():
    fit = fit_power_law(measured(0.5, 0.0, 0.5), draws=60)
    assert "no exponent" in fit.note


def test_a_line_that_goes_on_has_no_end():
    """Ten points more with every doubling: nothing says where that ends."""
    points = measured(0.2, 0.0, 0.5)
    points = {n: measured(0.3 + 0.1 * i, 0.0, 0.5, (n,))[n] for i, n in enumerate(points)}
    assert "no end of the curve below 100 %" in fit_power_law(points, draws=60).note


def test_few_sizes_are_refused():
    with pytest.raises(ValueError, match="at least 4 sizes above 0"):
        fit_power_law(measured(0.8, 6.0, 0.5, (250, 500, 1000)))
