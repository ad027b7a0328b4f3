"""From one system to another, and from one resolution to the next."""

import logging

import pytest
import torch
from safetensors.torch import load_file

from vlmcourse import systems
from vlmcourse.errors import UserError
from vlmcourse.trained import load_trained_system
from vlmcourse.training import runner
from vlmcourse.training.runner import run_stage, run_stages
from vlmcourse.training.weights import WeightsError, load_weights, read_stage

QUIET = {"progress": False, "device": "cpu"}
BOTH = ["projector.*", "language_model.*"]


@pytest.fixture
def expert(monkeypatch, build_tiny):
    """The tiny system with one more layer beside each MLP, under the name "expert"."""

    def build(preset="world", device="cpu", folder=None, **options):
        model = build_tiny(**options)
        for layer in model.language_model.model.layers:
            layer.mlp.vision_expert = torch.nn.Linear(32, 32)
        return model

    monkeypatch.setitem(systems.CONSTRUCTORS, "expert", build)
    return build


@pytest.fixture
def image_stage(stage_file, tmp_path, expert):
    """A finished stage of the system with experts."""
    settings = {"model.system": "expert"}
    return run_stage(stage_file("image", trains=BOTH, steps=1), tmp_path / "i", settings, **QUIET)


def test_names_that_only_one_has_are_an_error_unless_they_are_left_out(
    image_stage, stage_file, tmp_path, tiny
):
    start = {"model.init_from": image_stage.folder}
    config = stage_file("video", trains=BOTH, steps=1)
    with pytest.raises(WeightsError, match=r"the model lacks: .*vision_expert.*init_without"):
        run_stage(config, tmp_path / "out", start, **QUIET)
    config = stage_file("video", trains=BOTH, steps=1, init_without=["*.vision_expert.*"])
    done = run_stage(config, tmp_path / "out", start, **QUIET)
    about = read_stage(done.folder)
    assert about.settings["init_from"] == read_stage(image_stage.folder).settings_hash
    assert about.settings["model"]["stage"]["init_without"] == ["*.vision_expert.*"]
    assert not any("expert" in name for name in about.tensors)
    assert load_trained_system("tiny", done.folder).stage == "video"
    model = tiny()
    load_weights(model, image_stage.folder, ["*.vision_expert.*"])
    given = load_file(image_stage.weights)
    name = "language_model.model.layers.1.mlp.up_proj.weight"
    assert torch.equal(dict(model.named_parameters())[name], given[name])


def test_what_only_the_new_system_has_begins_anew(stage_file, tmp_path, expert):
    first = run_stage(stage_file("image", trains=BOTH, steps=1), tmp_path / "i", **QUIET)
    model = expert()
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(WeightsError, match=r"the file lacks: .*vision_expert"):
        load_weights(model, first.folder)
    load_weights(model, first.folder, ["*.vision_expert.*"])
    for name, value in model.named_parameters():
        if "expert" in name:
            assert torch.equal(value, before[name])
    settings = {"model.system": "expert", "model.init_from": first.folder}
    config = stage_file(
        "video", trains=["projector.*"], steps=1, init_without=["*.vision_expert.*"]
    )
    done = run_stage(config, tmp_path / "out", settings, **QUIET)
    assert any("expert" in name for name in read_stage(done.folder).tensors)  # whole from here on
    assert load_trained_system("expert", done.folder).stage == "video"


def test_a_pattern_that_leaves_out_nothing_is_refused(image_stage, stage_file, tmp_path):
    config = stage_file("video", init_without=["*.vision_xpert.*"])
    with pytest.raises(WeightsError, match=r"no name here or in the model is '\*\.vision_xpert"):
        run_stage(config, tmp_path / "out", {"model.init_from": image_stage.folder}, **QUIET)


@pytest.fixture
def recipes(stage_file, tmp_path, monkeypatch, expert):
    """An image recipe of one system, and a video recipe of another that starts from it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "ROOT", tmp_path)

    def write(system, stage, **changes):
        folder = tmp_path / "experiments" / system
        folder.mkdir(parents=True, exist_ok=True)
        text = stage_file(stage, trains=BOTH, steps=1, **changes).read_text(encoding="utf-8")
        text = text.replace("system: tiny", f"system: {system}")
        (folder / f"world_{stage}.yaml").write_text(text, encoding="utf-8")

    write("expert", "image")
    left_out = {"init_without": ["*.vision_expert.*"]}
    write("tiny", "video", init_from="expert/world/image", **left_out)
    write("tiny", "tuning", init_from="video")
    return write


def test_a_stage_may_start_from_another_systems_by_name(recipes, tmp_path):
    with pytest.raises(UserError, match=r"first run `vlmcourse train --system expert .*--seed 3`"):
        run_stages("tiny", seed=3, **QUIET)
    first = run_stages("expert", seed=3, **QUIET)[0]
    done = run_stages("tiny", seed=3, **QUIET)
    assert [result.name for result in done] == ["video", "tuning"]
    begun = read_stage(done[0].folder).settings["init_from"]
    assert begun == read_stage(first.folder).settings_hash
    with pytest.raises(UserError, match="expert/world/image is not finished"):
        run_stages("tiny", seed=4, **QUIET)
    other = run_stages("tiny", seed=4, init_from=first.folder, **QUIET)
    assert read_stage(other[0].folder).settings["init_from"] == begun


@pytest.mark.parametrize("name", ["world/image", "a/b/c/d"])
def test_a_name_of_half_a_stage_is_refused(stage_file, tmp_path, name):
    with pytest.raises(UserError, match="neither a stage nor SYSTEM/RECIPE/STAGE"):
        run_stage(stage_file(init_from=name), tmp_path / "out", **QUIET)


def test_options_of_each_stage_are_kept_and_the_last_ones_count(recipes, tmp_path, caplog):
    """As a resolution that grows from stage to stage."""
    import yaml

    for stage, frames in (("video", 2), ("tuning", 3)):
        path = tmp_path / "experiments" / "tiny" / f"world_{stage}.yaml"
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings["model"]["options"] = {"num_frames": frames}
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    first = run_stages("expert", **QUIET)[0]
    with caplog.at_level(logging.INFO):
        done = run_stages(
            "tiny", overrides={"model.options.spatial_grid": 4}, init_from=first.folder, **QUIET
        )
    assert "tuning changes options of video: num_frames 2 -> 3" in caplog.text
    told = [read_stage(result.folder).settings["model"]["options"] for result in done]
    assert told == [{"num_frames": n, "spatial_grid": 4} for n in (2, 3)]
    for path in (done[-1].folder, done[-1].folder.parent):
        loaded = load_trained_system("tiny", path)
        assert loaded.options == told[-1]
        assert loaded.model.config.num_frames == 3
    assert load_trained_system("tiny", done[0].folder).model.config.num_frames == 2
    assert done[-1].folder.parent.name.startswith("world-spatial_grid_4-from_")
