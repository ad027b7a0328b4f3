"""Curves along an axis: every size has its mean, what is finished is fitted, all else is told."""

import pytest
from made_up_sweep import MadeUpCells, MadeUpPlan, made_up_questions

from vlmcourse.errors import UserError
from vlmcourse.record_form import validate_metric
from vlmcourse.sweep.curves import curves_along
from vlmcourse.sweep.plan import Setting
from vlmcourse.sweep.results import read_results

CLIPS = (250, 500, 1000, 2000)
SETTINGS = [
    Setting(f"trains_{trains}-clips_{clips}", {"trains": trains, "clips": clips})
    for trains in ("connector", "all")
    for clips in CLIPS
    if (trains, clips) != ("connector", 500)
]
PLAN = MadeUpPlan("made_up", {"trains": ("connector", "all"), "clips": CLIPS}, SETTINGS, ())


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Everything trained grows with the films, the connector alone does not; one run failed."""
    made = MadeUpCells(tmp_path_factory.mktemp("sweep"), made_up_questions(30))
    cells = []
    for setting in SETTINGS:
        grows = setting.values["trains"] == "all"
        level = CLIPS.index(setting.values["clips"]) * 0.4 - 0.6 if grows else -0.3
        for seed in (0, 1, 2):
            if (setting.name, seed) == ("trains_all-clips_500", 1):
                cells.append(made.fail(setting.name, seed))
            else:
                cells.append(made.finish(setting.name, seed, level))
    return read_results(cells)


def test_every_size_has_the_mean_of_its_finished_runs(results):
    curves = curves_along(PLAN, results, "clips", ["all", "order"], draws=20)
    assert set(curves) == {"all", "order"}
    assert set(curves["all"]) == {"connector", "all"}
    grown = curves["all"]["all"]
    assert tuple(grown.points) == CLIPS
    means = [metric["mean"] for metric in grown.points.values()]
    assert means == sorted(means)
    for size, metric in grown.points.items():
        validate_metric(str(size), metric, pytest.fail)
        runs = 2 if size == 500 else 3
        result = results[f"trains_all-clips_{size}", "probes"]
        assert len(result.finished) == runs
        assert metric["n"] == runs * len(result.answers.questions.kind)
    assert grown.law.sizes == CLIPS
    assert not grown.why


def test_too_few_sizes_are_no_curve(results):
    level = curves_along(PLAN, results, "clips", ["all"], draws=20)["all"]["connector"]
    assert tuple(level.points) == (250, 1000, 2000)
    assert level.law is None
    assert "at least 4 sizes" in level.why


def test_names_are_no_axis_of_numbers(results):
    for axis in ("trains", "steps"):
        with pytest.raises(UserError, match=f"{axis} is no axis of numbers"):
            curves_along(PLAN, results, axis, ["all"])
