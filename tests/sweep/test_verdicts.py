"""Verdicts: what was there is found, what is missing is never decided, all hypotheses count."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_sweep import MadeUpCells, MadeUpPlan, hypothesis, made_up_questions

from vlmcourse.record_form import validate_metric
from vlmcourse.sweep.plan import Setting
from vlmcourse.sweep.results import read_results
from vlmcourse.sweep.verdicts import judge, summary, verdict_of

GOOD, WORSE, SAME = {"connector": "good"}, {"connector": "worse"}, {"connector": "same"}
LEVELS = {"good": 0.9, "same": 0.9, "worse": 0.2}
SETTINGS = [Setting(f"connector_{name}", {"connector": name}) for name in LEVELS]


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Three settings with five runs each, all finished."""
    made = MadeUpCells(tmp_path_factory.mktemp("cells"), made_up_questions(60), run_spread=0.05)
    return [
        made.finish(setting.name, seed, LEVELS[setting.values["connector"]])
        for setting in SETTINGS
        for seed in range(5)
    ]


def decide(cells, *hypotheses, **changes):
    plan = MadeUpPlan("made_up", {"connector": list(LEVELS)}, SETTINGS, hypotheses, **changes)
    return judge(plan, read_results(cells))


def without(cells, *names):
    """The same cells, of which these have no files."""
    gone = Path("nowhere.json")
    return [replace(one, record=gone) if one.name in names else one for one in cells]


def test_the_verdict_says_on_which_side_of_zero_the_interval_lies(cells):
    found = decide(
        cells,
        hypothesis("above", GOOD, WORSE),
        hypothesis("below", WORSE, GOOD, expect="less"),
        hypothesis("turned", WORSE, GOOD),
        hypothesis("alike", GOOD, SAME),
    )
    assert [one.verdict for one in found] == [
        "supported", "supported", "opposite", "not supported",
    ]  # fmt: skip
    for one in found:
        validate_metric(one.hypothesis.name, one.metric, pytest.fail)
        low, high = one.metric["low"], one.metric["high"]
        assert (low > 0 or high < 0) == (one.p <= 0.05)
        assert one.p >= one.p_alone > 0
        assert (one.clips, one.runs, one.cells) == (60, (5, 5), 10)
        assert one.runs_text == "10 of 10"
    assert found[0].metric["mean"] == pytest.approx(0.21, abs=0.06)
    assert found[0].metric["mean"] == pytest.approx(-found[2].metric["mean"])


@pytest.mark.parametrize(
    ("expect", "low", "high", "verdict"),
    [
        ("greater", 0.01, 0.2, "supported"),
        ("greater", -0.01, 0.2, "not supported"),
        ("greater", -0.2, -0.01, "opposite"),
        ("greater", 0.0, 0.2, "not supported"),
        ("less", -0.2, -0.01, "supported"),
        ("less", 0.01, 0.2, "opposite"),
        ("equal", -0.04, 0.04, "supported"),
        ("equal", 0.01, 0.04, "supported"),
        ("equal", -0.06, 0.04, "not supported"),
        ("equal", 0.06, 0.2, "opposite"),
        ("equal", -0.2, -0.06, "opposite"),
        ("greater", None, None, "not decided"),
    ],
)
def test_every_verdict(expect, low, high, verdict):
    assert verdict_of(expect, low, high, 0.05) == verdict


def test_equality_needs_an_interval_inside_the_margin(cells):
    wide, narrow, no = decide(
        cells,
        hypothesis("wide", GOOD, SAME, expect="equal", margin=0.15),
        hypothesis("narrow", GOOD, SAME, expect="equal", margin=0.005),
        hypothesis("no", GOOD, WORSE, expect="equal", margin=0.02),
    )
    assert (wide.verdict, narrow.verdict) == ("supported", "not supported")
    assert no.verdict == "opposite"
    assert wide.p <= 0.05 < narrow.p


def test_a_control_is_the_other_side_in_the_same_runs(cells):
    seen, shuffled, oracle = decide(
        cells,
        hypothesis("seen", GOOD, control="blind"),
        hypothesis("shuffled", GOOD, control="shuffled", group="order"),
        hypothesis("oracle", GOOD, control="oracle_text", expect="less"),
    )
    assert (seen.verdict, shuffled.verdict) == ("supported", "supported")
    assert (seen.cells, seen.runs) == (5, (5,))
    assert shuffled.clips == 60
    assert oracle.verdict == "not decided"
    assert "condition 'text_storyboard' was not asked" in oracle.why


def test_rates_of_false_answers_can_be_claimed(cells):
    (one,) = decide(
        cells, hypothesis("yes", WORSE, GOOD, group="hallucination/false_yes", expect="greater")
    )
    assert one.metric["mean"] > 0
    assert one.clips == 30, "every other clip is asked about what is absent"


def test_missing_cells_are_not_decided(cells):
    whole, lacking = (
        decide(some, hypothesis("above", GOOD, WORSE), hypothesis("other", SAME, WORSE))
        for some in (cells, without(cells, "connector_good-seed3"))
    )
    assert (lacking[0].verdict, lacking[0].missing) == ("not decided", 1)
    assert lacking[0].metric["mean"] is None
    assert lacking[0].p is None
    assert "connector_good: 4 of 5 runs (1 missing)" in lacking[0].why
    assert lacking[1].verdict == "supported"
    assert lacking[1].p >= whole[1].p_alone * 2 - 1e-9, "what is not decided is corrected for, too"


def test_a_setting_of_which_no_cell_is_listed_is_missing(cells):
    (one,) = decide(cells[5:], hypothesis("above", GOOD, WORSE))
    assert (one.verdict, one.missing, one.cells) == ("not decided", 5, 10)


def test_failed_runs_are_counted_and_told(tmp_path):
    made = MadeUpCells(tmp_path, made_up_questions(60), run_spread=0.05)
    cells = [made.finish("connector_good", seed, 0.9) for seed in range(4)]
    cells += [made.finish("connector_worse", seed, 0.2) for seed in range(5)]
    cells.append(made.fail("connector_good", 4))
    (one,) = decide(cells, hypothesis("above", GOOD, WORSE))
    assert (one.verdict, one.cells, one.failed, one.runs) == ("supported", 10, 1, (4, 5))
    assert one.why == "1 of 10 runs failed"
    assert one.runs_text == "9 of 10 (1 failed)"


def test_one_run_decides_nothing(tmp_path):
    made = MadeUpCells(tmp_path)
    cells = [made.finish(name, 0, level) for name, level in
             (("connector_good", 2.0), ("connector_worse", -2.0))]  # fmt: skip
    (one,) = decide(cells, hypothesis("above", GOOD, WORSE), seeds=(0,))
    assert one.verdict == "not decided"
    assert "at least 2 finished runs of a setting are needed" in one.why


def test_a_finished_record_without_answers_is_missing(cells):
    broken = [replace(one, answers=Path("nowhere.json")) for one in cells[:1]] + cells[1:]
    (one,) = decide(broken, hypothesis("above", GOOD, WORSE))
    assert (one.verdict, one.missing) == ("not decided", 1)


def test_other_questions_are_not_paired_unless_it_is_said(tmp_path):
    one = MadeUpCells(tmp_path, made_up_questions(60), run_spread=0.05)
    two = MadeUpCells(tmp_path, made_up_questions(50), run_spread=0.05)
    cells = [one.finish("connector_good", seed, 1.5) for seed in range(5)]
    cells += [two.finish("connector_worse", seed, -0.5) for seed in range(5)]
    strict, apart = decide(
        cells,
        hypothesis("same", GOOD, WORSE),
        hypothesis("other", GOOD, WORSE, questions="other"),
    )
    assert strict.verdict == "not decided"
    assert "only answers to the same questions can be paired" in strict.why
    assert (apart.verdict, apart.clips) == ("supported", 110)


def test_the_same_runs_asked_with_something_else_are_paired(tmp_path):
    """What moves a run moves it on both sides, so the difference is known better."""
    found = []
    for name, weights in (("apart", "{setting}-{seed}"), ("same", "run-{seed}")):
        made = MadeUpCells(tmp_path / name, made_up_questions(60), run_spread=0.4, weights=weights)
        for setting, level in (("connector_good", 0.9), ("connector_worse", 0.4)):
            made.rng = np.random.default_rng(7)  # the same runs are as good with both
            cells = [made.finish(setting, seed, level) for seed in range(5)]
            found += [cells]
    apart, same = (
        decide(found[i] + found[i + 1], hypothesis("above", GOOD, WORSE))[0] for i in (0, 2)
    )
    assert (len(apart.runs), len(same.runs)) == (2, 1)
    assert same.why == "the same runs on both sides"
    assert apart.metric["mean"] == same.metric["mean"]
    widths = [one.metric["high"] - one.metric["low"] for one in (same, apart)]
    assert widths[0] < 0.6 * widths[1]


def test_free_axes_are_matched_and_their_mean_is_compared(tmp_path):
    made, cells, settings = MadeUpCells(tmp_path, run_spread=0.05), [], []
    for tokens in (8, 32):
        for name in ("good", "worse"):
            values = {"connector": name, "tokens": tokens}
            settings.append(Setting(f"{name}-{tokens}", values))
            level = LEVELS[name] + (0.5 if tokens == 32 else 0)
            cells += [made.finish(settings[-1].name, seed, level) for seed in range(3)]
    claims = (
        hypothesis("all", GOOD, WORSE),
        hypothesis("few", GOOD, WORSE, where={"tokens": 8}),
        hypothesis("many", GOOD, WORSE, where={"tokens": 32}),
    )
    axes = {"connector": ["good", "worse"], "tokens": [8, 32]}
    plan = MadeUpPlan("made_up", axes, settings, claims, seeds=(0, 1, 2))
    both, few, many = judge(plan, read_results(cells))
    assert both.metric["mean"] == pytest.approx((few.metric["mean"] + many.metric["mean"]) / 2)
    assert (both.cells, few.cells) == (12, 6)


def test_more_hypotheses_make_each_harder(cells):
    one = hypothesis("near", GOOD, SAME, group="order")
    alone = decide(cells, one)[0]
    many = decide(cells, one, *(hypothesis(f"more{i}", GOOD, SAME) for i in range(7)))[0]
    assert np.diff([alone.metric["low"], alone.metric["high"]]) < np.diff(
        [many.metric["low"], many.metric["high"]]
    )
    assert many.p >= alone.p
    assert many.p_alone == pytest.approx(alone.p_alone, rel=0.2)


def test_a_summary_names_every_hypothesis(cells):
    found = decide(
        cells, hypothesis("above", GOOD, WORSE), hypothesis("alike", GOOD, SAME),
        hypothesis("oracle", GOOD, control="oracle_text"),
    )  # fmt: skip
    assert summary(found) == (
        "Supported: above. Not supported: alike. Not decided: oracle. "
        "Corrected over all 3 hypotheses (Holm)."
    )
    assert summary([]) == "No hypotheses were written."
