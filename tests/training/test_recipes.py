"""From stage to stage: what is handed over; recipes, options and variants."""

import re

import pytest
import torch

from vlmcourse.errors import UserError
from vlmcourse.trained import load_trained_system
from vlmcourse.training import runner
from vlmcourse.training.runner import run_stage, run_stages, variant
from vlmcourse.training.weights import WeightsError, load_weights, read_stage

QUIET = {"progress": False, "device": "cpu"}


def test_the_next_stage_starts_where_the_last_ended(stage_file, tmp_path, catch):
    first = run_stage(stage_file(), tmp_path / "out", **QUIET)
    config = stage_file("tuning", trains=["token_rows.weight"], init_from="alignment", steps=2)
    second = run_stage(config, tmp_path / "out", callbacks=[catch], **QUIET)
    from safetensors.torch import load_file

    kept, before = load_file(second.weights), load_file(first.weights)
    assert torch.equal(catch.before["projector.weight"], before["projector.weight"])
    assert set(kept) == {"projector.weight", "projector.bias", "token_rows.weight"}
    assert torch.equal(kept["projector.weight"], before["projector.weight"])


def test_a_stage_without_its_forerunner_is_refused(stage_file, tmp_path):
    config = stage_file("tuning", init_from="alignment")
    with pytest.raises(WeightsError, match=r"alignment: no finished stage here"):
        run_stage(config, tmp_path / "out", **QUIET)


def test_hand_over_refuses_missing_unexpected_and_misshapen(stage_file, tmp_path, tiny):
    from safetensors.torch import load_file, save_file

    done = run_stage(stage_file(steps=1), tmp_path / "out", **QUIET)
    tensors = load_file(done.weights)
    for change, complaint in (
        ({"projector.bias": None}, "the file lacks: projector.bias"),
        ({"projector.extra": torch.zeros(2)}, "the model lacks: projector.extra"),
        ({"projector.bias": torch.zeros(3)}, "another shape: projector.bias"),
    ):
        wrong = {k: v for k, v in (tensors | change).items() if v is not None}
        save_file(wrong, done.weights)
        model = tiny()
        before = model.projector.weight.clone()
        with pytest.raises(WeightsError, match=complaint):
            load_weights(model, done.folder)
        assert torch.equal(model.projector.weight, before)
    save_file(tensors, done.weights)
    model = tiny()
    assert load_weights(model, done.weights).name == "alignment"
    assert torch.equal(model.projector.weight, tensors["projector.weight"])


def test_a_pattern_that_matches_nothing_is_refused(stage_file, tmp_path):
    with pytest.raises(UserError, match=r"no parameter matches 'qformer"):
        run_stage(stage_file(trains=["qformer.*"]), tmp_path / "out", **QUIET)


def test_run_stages_runs_a_system_in_order(stage_file, tmp_path, monkeypatch):
    folder = tmp_path / "experiments" / "tiny"
    folder.mkdir(parents=True)
    for name, before in (("tuning", "alignment"), ("alignment", None)):
        stage_file(name, init_from=before, steps=1).rename(folder / f"world_{name}.yaml")
    monkeypatch.chdir(tmp_path)
    done = run_stages("tiny", out=tmp_path / "out", **QUIET)
    assert [r.name for r in done] == ["alignment", "tuning"]
    with pytest.raises(UserError, match="unknown stage 'tunin' of tiny; known: alignment, tuning"):
        run_stages("tiny", out=tmp_path / "out", stages="tunin", **QUIET)


@pytest.fixture
def recipe(stage_file, tmp_path, monkeypatch):
    """Write stages as the files of a recipe: `recipe("world", {"alignment": None})`."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "experiments" / "tiny"
    folder.mkdir(parents=True)

    def write(name, stages):
        for stage, before in stages.items():
            file = stage_file(stage, init_from=before, steps=1)
            file.rename(folder / f"{name}_{stage}.yaml")

    return write


def test_options_build_another_system_and_are_kept(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "ROOT", tmp_path)
    recipe("world", {"alignment": None, "tuning": "alignment"})
    overrides = {"model.options.spatial_grid": 4}
    done = run_stages("tiny", seed=2, overrides=overrides, **QUIET)[-1]
    assert done.folder.parent == tmp_path / "runs" / "tiny" / "world-spatial_grid_4-seed2"
    assert done.record.stem == "train-tiny-world-spatial_grid_4-tuning-seed2"
    loaded = load_trained_system("tiny", done.folder.parent)
    assert loaded.options == {"spatial_grid": 4}
    assert loaded.model.config.spatial_grid == 4
    plain = run_stages("tiny", seed=2, stages="alignment", **QUIET)[0]
    assert plain.folder == tmp_path / "runs" / "tiny" / "world-seed2" / "alignment"
    assert load_trained_system("tiny", plain.folder).model.config.spatial_grid == 2


def test_features_outlive_options_that_change_only_the_layout(recipe, tmp_path):
    recipe("world", {"alignment": None})
    for grid in (2, 4):
        overrides = {"model.options.spatial_grid": grid}
        run_stages("tiny", out=tmp_path / str(grid), overrides=overrides, **QUIET)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_recipe_may_start_from_a_stage_of_another(recipe, tmp_path):
    recipe("world", {"alignment": None})
    recipe("heard", {"hearing": "alignment", "talking": "hearing"})
    first = run_stages("tiny", out=tmp_path / "first", **QUIET)[0]
    with pytest.raises(UserError, match=r"hearing starts from alignment, .* say --init-from"):
        run_stages("tiny", "heard", out=tmp_path / "out", **QUIET)
    done = run_stages("tiny", "heard", out=tmp_path / "out", init_from=first.folder, **QUIET)
    assert [result.name for result in done] == ["hearing", "talking"]
    about = [read_stage(result.folder).settings["init_from"] for result in done]
    assert about == [read_stage(x.folder).settings_hash for x in (first, done[0])]


def test_variants_have_names_of_their_own(tmp_path):
    assert variant([]) == ""
    assert variant(["--model.options.n=8", "--data.accumulate=2"]) == "data.accumulate_2-n_8"
    odd = {variant([f"--data.cache={path}"]) for path in ("a/b", "a_b", "a/c", "x" * 50)}
    assert len(odd) == 4
    assert all(re.fullmatch(r"[\w.-]+", name) for name in odd)
    assert variant([], tmp_path / "a") != variant([], tmp_path / "b")
