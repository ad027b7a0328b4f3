"""Sweep files: what they are read to, and what is refused, by file, key and reason."""

from pathlib import Path

import pytest

from vlmcourse.sweep.plan import PlanError, read_plan

ABLATIONS = Path(__file__).parents[2] / "experiments" / "ablations"


def test_every_combination_is_a_cell_with_its_own_values(sweep_file):
    plan = read_plan(
        sweep_file(
            axes={"frames": [2, 4], "rate": [0.001, None]},
            without=[{"combination": {"frames": 4, "rate": [None]}, "why": "too slow"}],
            train={
                "system": "video_chatgpt",
                "options": {"num_frames": "{frames}"},
                "set": {"model.stage.learning_rate": "{rate}"},
                "init_from": "runs/{frames}-seed{seed}",
            },
        )
    )
    names = ["frames_2-rate_0.001", "frames_2-rate_null", "frames_4-rate_0.001"]
    assert [setting.name for setting in plan.settings] == names
    assert [cell.name for cell in plan.cells][:4] == [
        *(f"{name}-seed0" for name in names),
        f"{names[0]}-seed1",
    ]
    cell = plan.cells[-1]
    assert cell.train.overrides == {
        "model.options.num_frames": 4,
        "model.stage.learning_rate": 0.001,
    }
    assert cell.train.init_from == "runs/4-seed1"
    assert (plan.name, plan.written, plan.seeds) == ("little", "2026-11-23", (0, 1))


def test_an_axis_may_name_several_things_at_once(sweep_file):
    plan = read_plan(
        sweep_file(
            axes={"case": {"short": {"frames": 2, "steps": 30}, "long": {"frames": 8, "steps": 9}}},
            train={
                "system": "video_chatgpt",
                "options": {"num_frames": "{case.frames}"},
                "set": {"model.stage.steps": "{case.steps}"},
            },
            hypotheses=None,
        )
    )
    assert plan.axes == {"case": ("short", "long")}
    assert plan.cells[1].train.overrides == {"model.options.num_frames": 8, "model.stage.steps": 9}


def test_a_number_may_come_from_a_table(sweep_file, tmp_path):
    table = tmp_path / "compute.json"
    table.write_text('{"steps": {"2": 30, "4": 15}}')
    train = {
        "system": "video_chatgpt",
        "set": {"model.stage.steps": {"file": str(table), "key": "steps.{frames}"}},
    }
    plan = read_plan(sweep_file(train=train))
    assert [cell.train.set["model.stage.steps"] for cell in plan.cells] == [30, 15, 30, 15]
    table.write_text('{"steps": {"2": 30}}')
    with pytest.raises(PlanError, match=r"compute.json: no steps.4 \(setting frames_4\)"):
        read_plan(sweep_file(train=train))


def test_measures_are_filled_in_and_finished_runs_can_be_asked(sweep_file):
    plan = read_plan(
        sweep_file(
            train=None,
            runs="runs/video_chatgpt/world-seed{seed}",
            measure=[
                {"name": "short", "set": {"num_frames": "{frames}"}},
                {"name": "long", "data": "data/world_{frames}", "families": ["order"]},
            ],
            hypotheses=None,
        )
    )
    cell = plan.cells[1]
    assert cell.run == "runs/video_chatgpt/world-seed0"
    assert cell.measures[0].set == {"num_frames": 4}
    assert cell.measures[0].split == "data/world/test"
    assert cell.measures[1].split == "data/world_4/test"
    assert cell.measures[1].families == ("order",)


def test_in_a_list_a_list_stands_for_its_items(sweep_file):
    axes = {
        "frames": {2: {"few": ["blind"], "rates": [1, 2]}, 4: {"few": [], "rates": [3]}},
    }
    measure = [{"name": "m", "controls": ["majority", "{frames.few}"], "set": {"n": "{frames}"}}]
    plan = read_plan(sweep_file(axes=axes, measure=measure, hypotheses=None))
    controls = [cell.measures[0].controls for cell in plan.cells[:2]]
    assert controls == [("majority", "blind"), ("majority",)]
    measure[0]["set"] = {"rates": "{frames.rates}", "nested": [["{frames.rates}"], 7]}
    plan = read_plan(sweep_file(axes=axes, measure=measure, hypotheses=None))
    told = [dict(cell.measures[0].set) for cell in plan.cells[:2]]
    assert told == [
        {"rates": [1, 2], "nested": [[1, 2], 7]},
        {"rates": [3], "nested": [[3], 7]},
    ]
    measure[0]["controls"] = ["blind", "{frames.few}"]
    with pytest.raises(PlanError, match="a word stands there twice"):
        read_plan(sweep_file(axes=axes, measure=measure, hypotheses=None))


def claim(**changes) -> list[dict]:
    plain = {
        "name": "h", "claim": "c", "source": "s", "a": {"frames": 4}, "b": {"frames": 2},
        "group": "order", "expect": "greater",
    }  # fmt: skip
    return [{key: v for key, v in (plain | changes).items() if v is not None}]


def test_a_hypothesis_is_about_pairs_that_agree_in_all_else(sweep_file):
    axes = {"frames": [2, 4], "rate": [1, 2, 3]}
    train = {"system": "s", "options": {"f": "{frames}", "r": "{rate}"}}
    gap = [{"combination": {"frames": 2, "rate": 3}, "why": "no"}]
    changes = {"axes": axes, "train": train, "without": gap}
    plan = read_plan(sweep_file(**changes, hypotheses=claim()))
    told = [(a.values["rate"], b.values["rate"]) for a, b in plan.pairs(plan.hypotheses[0])]
    assert told == [(1, 1), (2, 2)], "rate 3 has no partner"
    plan = read_plan(sweep_file(**changes, hypotheses=claim(where={"rate": 2})))
    (pair,) = plan.pairs(plan.hypotheses[0])
    assert [one.name for one in pair] == ["frames_4-rate_2", "frames_2-rate_2"]
    plan = read_plan(sweep_file(**changes, hypotheses=claim(b=None, control="blind")))
    assert [b for _, b in plan.pairs(plan.hypotheses[0])] == [None] * 3
    assert plan.hypotheses[0].measure == "probes"


def test_the_hash_of_hypotheses_changes_with_any_of_them_and_with_nothing_else(sweep_file):
    first = read_plan(sweep_file(hypotheses=claim())).hypotheses_hash
    assert read_plan(sweep_file(hypotheses=claim(), title="Other")).hypotheses_hash == first
    assert read_plan(sweep_file(hypotheses=claim(claim="other"))).hypotheses_hash != first
    equal = claim(expect="equal", margin=0.05)
    changed = read_plan(sweep_file(hypotheses=equal)).hypotheses_hash
    assert read_plan(sweep_file(hypotheses=claim(expect="equal"))).hypotheses_hash == changed


WRONG = {
    "a key": ({"axis": {}}, "axis: unknown key; did you mean axes?"),
    "no day": ({"written": "soon"}, "written: the day the hypotheses were written is needed"),
    "an axis": ({"axes": {"frames": 2}}, "axes.frames: a list of values is needed, not 2"),
    "a value twice": ({"axes": {"frames": [2, 2]}}, "axes.frames: a value stands there twice"),
    "an idle axis": (
        {"axes": {"frames": [2, 4], "tokens": [1, 2]}},
        "axes.tokens: nothing mentions {tokens}: it would change nothing",
    ),
    "no setting": (
        {"without": [{"combination": {"frames": [2, 4]}, "why": "w"}]},
        "without: leaves no setting",
    ),
    "no reason": (
        {"without": [{"combination": {"frames": 2}}]},
        "without[0].why: is missing",
    ),
    "a seed": ({"seeds": [0, "one"]}, "seeds: a list of whole numbers"),
    "a placeholder": (
        {"train": {"system": "s", "options": {"n": "{frames}", "m": "{tokens}"}}},
        "train: {tokens} has no value; known: frames, seed (setting frames_2)",
    ),
    "no quotes": (
        {"train": {"system": {"frames": None}, "set": {"model.x": "{frames}"}}},
        "train.system: text is needed, not {'frames': None} (write \"{frames}\" with quotes)",
    ),
    "a setting": (
        {"train": {"system": "s", "set": {"stage.steps": "{frames}"}}},
        "train.set.stage.steps: a setting begins with model., data. or trainer.",
    ),
    "both": ({"runs": "runs/{frames}-{seed}"}, "train: say either train or runs"),
    "one run for all": (
        {"train": None, "runs": "runs/{frames}"},
        "runs: without {seed} one run would count as several witnesses",
    ),
    "the same": (
        {"train": {"system": "s"}, "measure": [{"clips": 3, "data": "d{frames}", "split": "x"}]},
        "measure[0].split: say either data or split",
    ),
    "questions of seeds": (
        {"measure": [{"data": "d{seed}"}]},
        "measure: the questions may not depend on the seed",
    ),
    "a control": (
        {"measure": [{"controls": ["deaf"]}]},
        "measure[0].controls: unknown 'deaf'; known: one_sense",
    ),
    "an unknown axis": (
        {"hypotheses": claim(a={"tokens": 2}, b={"tokens": 4})},
        "hypotheses[h].a.tokens: no such axis; known: frames",
    ),
    "an unknown value": (
        {"hypotheses": claim(b={"frames": 3})},
        "hypotheses[h].b.frames: 3 is none of 2, 4",
    ),
    "two measures": (
        {"measure": [{"name": "x"}, {"name": "y"}], "hypotheses": claim()},
        "hypotheses[h].measure: None is none of x, y",
    ),
    "no difference": ({"hypotheses": claim(b={"frames": 4})}, "hypotheses[h].b: is the same as a"),
    "no side": ({"hypotheses": claim(b=None)}, "hypotheses[h].b: say either b or control"),
    "not asked": (
        {"hypotheses": claim(b=None, control="shuffled")},
        "hypotheses[h].control: shuffled is not among the controls of measure probes of "
        "frames_4: blind",
    ),
    "a group": (
        {"hypotheses": claim(group="ordr")},
        "hypotheses[h].group: unknown 'ordr'",
    ),
    "a margin": (
        {"hypotheses": claim(margin=0.1)},
        "hypotheses[h].margin: goes with expect: equal, not greater",
    ),
    "twice": ({"hypotheses": claim() * 2}, "hypotheses: two are called h"),
}


@pytest.mark.parametrize(("changes", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_used_is_refused(sweep_file, changes, said):
    path = sweep_file(**changes)
    with pytest.raises(PlanError) as error:
        read_plan(path)
    assert str(error.value).startswith(f"{path}: {said}")


def test_settings_that_are_one_and_the_same_are_refused(sweep_file):
    path = sweep_file(
        axes={"case": {"x": {"n": 2}, "y": {"n": 2}}},
        train={"system": "s", "options": {"n": "{case.n}"}},
        hypotheses=None,
    )
    with pytest.raises(PlanError, match="case_x-seed0 and case_y-seed0 are one and the same"):
        read_plan(path)


def test_a_key_that_stands_twice_is_not_lost_without_a_word(sweep_file):
    path = sweep_file()
    path.write_text(path.read_text() + "seeds: [7]\n")
    with pytest.raises(PlanError, match="'seeds' stands there twice"):
        read_plan(path)


def test_a_missing_or_broken_file_is_one_line(tmp_path):
    with pytest.raises(PlanError, match="No such file"):
        read_plan(tmp_path / "none.yaml")
    path = tmp_path / "broken.yaml"
    path.write_text("axes: [")
    with pytest.raises(PlanError, match=r"broken\.yaml: not YAML"):
        read_plan(path)


@pytest.mark.parametrize("path", sorted(ABLATIONS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_committed_sweeps_can_be_read_and_name_their_sources(path):
    plan = read_plan(path)
    assert len(plan.seeds) >= 3
    assert plan.hypotheses
    for one in plan.hypotheses:
        assert "arXiv" in one.source, one.name
        assert one.claim.endswith("."), one.name
