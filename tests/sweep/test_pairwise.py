"""All pairs of an axis: found where they differ, corrected together, undecided where runs lack."""

import pytest
from made_up_sweep import MadeUpCells, MadeUpPlan, made_up_questions

from vlmcourse.sweep.pairwise import all_pairs, axis_of_names, pairs_along
from vlmcourse.sweep.plan import Setting
from vlmcourse.sweep.report import write_report
from vlmcourse.sweep.results import read_results

LEVELS = {"good": 0.9, "same": 0.9, "worse": 0.1}
AXES = {"tokens": (8, 32), "connector": tuple(LEVELS)}
SETTINGS = [
    Setting(f"{name}-{tokens}", {"tokens": tokens, "connector": name})
    for tokens in AXES["tokens"]
    for name in LEVELS
    if (name, tokens) != ("same", 32)
]
PLAN = MadeUpPlan("made_up", AXES, SETTINGS, (), seeds=(0, 1, 2, 3))


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Both budgets; of the larger one, a run of the worst is missing."""
    made = MadeUpCells(tmp_path_factory.mktemp("cells"), made_up_questions(60), run_spread=0.03)
    return [
        made.finish(one.name, seed, LEVELS[one.values["connector"]])
        if (one.name, seed) != ("worse-32", 3)
        else made.cell(one.name, seed)
        for one in SETTINGS
        for seed in PLAN.seeds
    ]


@pytest.fixture(scope="module")
def pairs(cells):
    found = all_pairs(PLAN, read_results(cells), "connector", "probes")
    return {(one.a, one.b): one for one in found}


def test_pairs_agree_in_every_other_axis(pairs):
    names = [(a.name, b.name) for a, b in pairs_along("connector", PLAN)]
    assert names == [*pairs]
    assert names == [
        ("good-8", "same-8"), ("good-8", "worse-8"), ("same-8", "worse-8"), ("good-32", "worse-32"),
    ]  # fmt: skip


def test_what_differs_is_found_and_nothing_else(pairs):
    alike, apart = pairs["good-8", "same-8"], pairs["good-8", "worse-8"]
    assert alike.metric["low"] < 0 < alike.metric["high"]
    assert alike.p > 0.05 >= apart.p
    assert apart.metric["low"] > 0
    assert apart.metric["mean"] == pytest.approx(0.23, abs=0.08)


def test_missing_runs_leave_a_pair_open_and_count_all_the_same(pairs):
    open_one = pairs["good-32", "worse-32"]
    assert open_one.p is None
    assert open_one.metric["mean"] is None
    smallest = min(one.p for one in pairs.values() if one.p is not None)
    assert smallest >= 4 * 2 / 40_001, "corrected for four, not for the three that are known"


def test_the_record_of_a_sweep_holds_them(cells, pairs, tmp_path):
    record = write_report(PLAN, cells, tmp_path / "made_up.json", ["vlmcourse"])
    names = {name for name in record["metrics"] if name.startswith("pair/")}
    assert names == {f"pair/{a}/{b}" for a, b in pairs}
    assert record["metrics"]["pair/good-8/worse-8"] == pairs["good-8", "worse-8"].metric
    assert record["settings"]["pairs"]["axis"] == "connector"


def test_the_axis_is_one_of_several_names():
    assert axis_of_names(AXES) == "connector"
    assert axis_of_names({"system": ("a", "b"), "frames": (1, 2, 4)}) is None
