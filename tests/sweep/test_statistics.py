"""Statistics of sweeps, held against made-up answers whose truth is known."""

import numpy as np
import pytest
from made_up_sweep import answer, share

from vlmcourse.evaluation.scoring import Bootstrap
from vlmcourse.record_form import validate_metric
from vlmcourse.sweep.statistics import (
    Answered,
    as_metric,
    difference_of,
    draw,
    draws_needed,
    holm,
    interval,
    mean_of,
    p_difference,
    p_equal,
)

CLIPS, EACH = 60, 2
CLIP_OF = np.arange(CLIPS).repeat(EACH)
ALL = np.ones(CLIPS * EACH, dtype=bool)


def asked(right, chosen=ALL, clip_of=CLIP_OF, key=""):
    return Answered(np.asarray(right, dtype=float), chosen, clip_of, key)


def world(rng, levels, runs=5, clip_spread=0.8, run_spread=0.15):
    """Settings of these levels, asked about the same clips."""
    clip = rng.normal(0, clip_spread, CLIPS).repeat(EACH)
    return [asked(answer(rng, level, clip, runs, run_spread)) for level in levels]


# ---------------------------------------------------------------- by simulation


def coverage(times, runs, run_spread, draws=1000, clip_spread=0.8):
    """Shares of 95 % intervals that hold the true mean, and the true difference."""
    rng, hits = np.random.default_rng(1), np.zeros(2)
    true = [share(level, clip_spread, run_spread) for level in (0.3, 0.1)]
    for seed in range(times):
        a, b = world(rng, (0.3, 0.1), runs, clip_spread, run_spread)
        drawn = draw([mean_of(a), difference_of([a], [b])], draws, seed)
        for place, truth in enumerate((true[0], true[0] - true[1])):
            low, high = interval(drawn[:, place])
            hits[place] += low <= truth <= high
    return hits / times


@pytest.mark.parametrize(("runs", "run_spread"), [(5, 0.0), (5, 0.3), (3, 0.3)])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(runs, run_spread):
    """Clips and runs both by chance, few runs, and runs that differ not at all, or a lot."""
    mean, difference = coverage(150, runs, run_spread)
    assert 0.92 <= mean <= 0.99
    assert 0.92 <= difference <= 1.0


def errors(times, make, tests, draws=2000, alpha=0.05):
    """Shares of times with at least one significant test, and of tests that were."""
    rng, any_of, found = np.random.default_rng(2), 0, 0.0
    for seed in range(times):
        drawn = draw(make(rng), draws, seed)
        corrected, _ = holm([p_difference(column) for column in drawn.T])
        any_of += (corrected <= alpha).any()
        found += (corrected <= alpha).mean()
    assert drawn.shape[1] == tests
    return any_of / times, found / times


def settings_against_others(rng, level=0.2, effect=0.0, tests=8):
    both = world(rng, [level + effect, level] * tests, run_spread=0.2)
    return [difference_of([x], [y]) for x, y in zip(both[::2], both[1::2])]


def settings_against_controls(rng, tests=8):
    """Runs against a control in the same runs, which moves each of them by chance."""
    clip = rng.normal(0, 0.8, CLIPS).repeat(EACH)
    found = []
    for _ in range(tests):
        a, b = (asked(answer(rng, 0.2, clip, 5, 0.3)) for _ in range(2))
        found.append(difference_of([a], [b], paired=True))
    return found


def test_among_many_comparisons_of_equals_hardly_one_is_called_different():
    """The chance of one false claim or more among all is at most 5 %."""
    assert errors(120, settings_against_others, 8)[0] <= 0.05
    assert errors(120, settings_against_controls, 8)[0] <= 0.05


def test_drawing_five_runs_again_would_claim_differences_from_controls_that_are_none():
    """Why runs are not drawn again here: their draws never leave what the five runs said."""
    rng, claims, times = np.random.default_rng(2), 0, 60
    for seed in range(times):
        clip = rng.normal(0, 0.3, CLIPS).repeat(EACH)
        p_values, boots = [], Bootstrap(CLIP_OF, 2000, seed)
        for _ in range(8):
            a, b = (answer(rng, 0.2, clip, 5, 0.6) for _ in range(2))
            p_values.append(p_difference(boots.means(a - b, ALL)))
        claims += (holm(p_values)[0] <= 0.05).any()
    assert claims / times > 0.08


def test_a_difference_that_is_there_is_found():
    """0.6 in the probit is about 20 points."""
    found = errors(40, lambda rng: settings_against_others(rng, effect=0.6), 8)
    assert found[1] > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("runs", [3, 5])
@pytest.mark.parametrize("run_spread", [0.0, 0.15, 0.4])
def test_coverage_with_many_draws(runs, run_spread):
    mean, difference = coverage(2000, runs, run_spread, 2000)
    assert 0.93 <= mean <= 0.985
    assert 0.935 <= difference <= 0.995


@pytest.mark.slow
@pytest.mark.parametrize("make", [settings_against_others, settings_against_controls])
def test_family_wise_error_with_many_draws(make):
    assert errors(1500, make, 8, 4000)[0] <= 0.05


# ---------------------------------------------------------------- what is drawn


def one_draw(quantity, draws=4000):
    return draw([quantity], draws)[:, 0]


def test_without_chance_from_runs_it_is_the_bootstrap_of_clips():
    rng = np.random.default_rng(0)
    right = answer(rng, 0.2, rng.normal(0, 1, CLIPS).repeat(EACH), 1, 0.0)
    mine = interval(one_draw(mean_of(asked(right)), 20_000))
    theirs = Bootstrap(CLIP_OF, 20_000).metric(right, ALL)
    assert mine == pytest.approx((theirs["low"], theirs["high"]), abs=0.006)


def test_without_chance_from_clips_it_is_students_t_of_the_runs():
    from scipy import stats

    runs = np.array([0.5, 0.55, 0.61, 0.52, 0.49])
    one = mean_of(asked(np.repeat(runs[:, None], CLIPS * EACH, axis=1)))
    drawn = one_draw(one, 40_000)
    spread = stats.t.interval(0.95, 4, runs.mean(), stats.sem(runs))
    reach = interval(drawn)
    assert reach[0] <= spread[0] + 0.002
    assert reach[1] >= spread[1] - 0.002
    assert reach == pytest.approx(spread, abs=0.02), "a little wider: no clip differed"


def test_welch_puts_the_runs_of_two_sides_together():
    from scipy import stats

    rng = np.random.default_rng(4)
    clips = rng.permutation(np.tile([0.2, 0.8], CLIPS // 2)).repeat(EACH)  # cancels in the mean
    x, y = rng.normal(0, 0.03, 5), rng.normal(0.02, 0.06, 4)
    a, b = (asked(clips + runs[:, None]) for runs in (x, y))
    drawn = one_draw(difference_of([a], [b]), 200_000)
    wanted = stats.ttest_ind(x, y, equal_var=False).confidence_interval(0.95)
    assert interval(drawn) == pytest.approx((wanted.low, wanted.high), abs=0.035)


def test_pairs_know_a_difference_better_than_two_sides_apart():
    rng = np.random.default_rng(0)
    a, b = world(rng, (0.4, 0.1), run_spread=0.6)
    b = asked(np.minimum(a.right, b.right))  # what a control takes away from the same runs
    together = np.ptp(interval(one_draw(difference_of([a], [b], paired=True))))
    apart = np.ptp(interval(one_draw(difference_of([a], [b]))))
    assert together < 0.7 * apart


def test_the_same_clips_are_drawn_for_both_sides_only_where_both_were_asked_the_same():
    rng = np.random.default_rng(0)
    a, b = world(rng, (0.4, 0.1), run_spread=0.0, clip_spread=2.0)
    same = np.ptp(interval(one_draw(difference_of([a], [b]))))
    other = asked(b.right, key="other films")
    apart = difference_of([a], [other])
    assert len(apart.terms) == 2
    assert apart.mean == pytest.approx(difference_of([a], [b]).mean)
    assert np.ptp(interval(one_draw(apart))) > 1.3 * same


def test_the_mean_over_settings_is_compared_seed_by_seed():
    """Runs of one seed may be alike in all settings: four settings are not four witnesses."""
    rng = np.random.default_rng(0)
    runs = rng.normal(0, 0.05, 5)[:, None]
    a = [asked(np.full((5, CLIPS * EACH), 0.6) + runs) for _ in range(4)]
    b = [asked(np.full((5, CLIPS * EACH), 0.5)) for _ in range(4)]
    four, one = difference_of(a, b), difference_of(a[:1], b[:1])
    np.testing.assert_allclose(four.spreads, one.spreads)
    assert four.mean == pytest.approx(one.mean)
    assert four.n == 4 * one.n


def test_settings_with_unlike_numbers_of_runs_are_all_used():
    rng = np.random.default_rng(0)
    a, b = world(rng, (0.4, 0.1))
    short = asked(a.right[:3])
    both = difference_of([a, short], [b, b])
    assert len(both.spreads) == 3
    assert both.mean == pytest.approx((a.right.mean() + short.right.mean()) / 2 - b.right.mean())
    assert np.isfinite(one_draw(both)).all()


def test_one_run_tells_of_clips_alone():
    one = mean_of(asked(np.tile([0.0, 1.0], (1, CLIPS))))
    assert one.spreads == ()
    assert one.terms[0].kept == 1.0


def test_questions_of_one_clip_count_as_one_witness():
    rng = np.random.default_rng(0)
    alone = (rng.random((1, CLIPS)) < 0.5) * 1.0
    clip_of = np.arange(CLIPS)
    once = mean_of(asked(alone, ALL[:CLIPS], clip_of))
    copies = mean_of(asked(alone.repeat(8, 1), np.ones(8 * CLIPS, bool), clip_of.repeat(8)))
    widths = [np.ptp(interval(one_draw(one))) for one in (once, copies)]
    assert widths[1] == pytest.approx(widths[0], rel=1e-6)


def test_certainty_is_not_claimed_where_no_clip_differs():
    wrong = mean_of(asked(np.zeros((5, CLIPS * EACH))))
    made = as_metric(wrong, one_draw(wrong))
    assert (made["mean"], made["low"]) == (0.0, 0.0)
    assert made["high"] == pytest.approx(3 / CLIPS, rel=0.2), "the rule of three"
    level = difference_of([asked(np.ones((5, CLIPS * EACH)))], [asked(np.ones((5, CLIPS * EACH)))])
    drawn = one_draw(level)
    assert p_difference(drawn) > 0.5
    low, high = interval(drawn)
    assert low < 0 < high


def test_a_rare_group_is_drawn_too():
    """Of two clips in sixty, one draw in seven holds none."""
    rare = CLIP_OF < 2
    right = np.zeros((2, CLIPS * EACH))
    right[:, :2] = 1
    drawn = one_draw(mean_of(asked(right, rare)))
    assert np.isfinite(drawn).all()
    assert drawn.mean() == pytest.approx(0.5, abs=0.03)


def test_the_same_seed_draws_the_same():
    a, b = world(np.random.default_rng(0), (0.4, 0.1))
    one = difference_of([a], [b])
    np.testing.assert_array_equal(draw([one], 500, 3), draw([one], 500, 3))
    assert (draw([one], 500, 3) != draw([one], 500, 4)).any()


# ---------------------------------------------------------------- p-values and intervals


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 7, 0.3])
def test_the_interval_excludes_zero_exactly_if_the_p_value_says_so(alpha):
    rng = np.random.default_rng(0)
    for shift in np.linspace(0, 4, 80):
        drawn = rng.standard_normal(1999) + shift
        low, high = interval(drawn, alpha)
        assert (low > 0 or high < 0) == (p_difference(drawn) <= alpha)
        inside = low > -1 and high < 1
        outside = low > 1 or high < -1
        assert (inside or outside) == (p_equal(drawn, 1.0) <= alpha)


def test_no_p_value_is_zero_and_few_draws_give_no_interval():
    assert p_difference(np.full(999, 0.4)) == pytest.approx(0.002)
    assert p_difference(np.zeros(999)) == 1.0
    assert p_equal(np.zeros(999), 0.1) == pytest.approx(0.002)
    assert interval(np.zeros(10), 0.05) == (-np.inf, np.inf)
    assert draws_needed(3) == draws_needed(50)
    assert draws_needed(1000) * 0.05 / 1000 / 2 >= 10


def test_equal_is_claimed_only_inside_the_margin():
    rng = np.random.default_rng(0)
    narrow = rng.normal(0, 0.01, 4000)
    assert p_equal(narrow, 0.05) < 0.01
    assert p_equal(narrow + 0.05, 0.05) > 0.5, "on the margin"
    assert p_equal(narrow + 0.2, 0.05) < 0.01, "larger than the margin is a claim too"
    assert p_equal(rng.normal(0, 0.1, 4000), 0.05) > 0.5, "not knowing is not equality"


def test_holm_as_worked_out_by_hand():
    """Four tests: 4 x 0.01, 3 x 0.03, 2 x 0.04 (not below the one before), 0.005 x 4 first."""
    corrected, levels = holm([0.01, 0.04, 0.03, 0.005])
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert levels == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2, 0.05 / 4])
    corrected, levels = holm([0.001, 0.002, 0.04])
    assert corrected == pytest.approx([0.003, 0.004, 0.04])
    assert levels == pytest.approx([0.05 / 3, 0.05 / 2, 0.05])
    assert holm([0.9, 0.2])[0] == pytest.approx([0.9, 0.4])
    assert holm([])[0].size == 0


def test_corrected_intervals_agree_with_corrected_p_values():
    rng = np.random.default_rng(5)
    drawn = rng.standard_normal((4000, 12)) + rng.normal(0, 2.5, 12)
    corrected, levels = holm([p_difference(column) for column in drawn.T])
    excluded = [low > 0 or high < 0 for low, high in map(interval, drawn.T, levels)]
    assert sum(excluded) in range(1, 12)
    assert excluded == list(corrected <= 0.05)


def test_metrics_fit_a_record():
    a, b = world(np.random.default_rng(0), (0.4, 0.1))
    one, other = mean_of(a), difference_of([a], [b])
    made = as_metric(one, one_draw(one))
    validate_metric("x", made, pytest.fail)
    assert made["n"] == 5 * CLIPS * EACH
    assert len(made["values"]) == 5
    made = as_metric(other, one_draw(other), 0.01)
    validate_metric("x", made, pytest.fail)
    assert "values" not in made
    lonely = mean_of(asked(a.right[:, :2], ALL[:2], CLIP_OF[:2]))
    assert as_metric(lonely, one_draw(lonely))["low"] is None, "one clip tells nothing of clips"
