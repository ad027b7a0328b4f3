"""MA-LMM's stages move what they name; its files say what they say; the official schedule."""

from dataclasses import replace

import pytest
import torch
import yaml
from tiny_ma_lmm import build_tiny, features_of, training_batch

from vlmcourse.systems import with_options
from vlmcourse.systems.ma_lmm_config import MaLmmConfig
from vlmcourse.systems.ma_lmm_stages import PAPER_STAGES, WORLD_STAGES
from vlmcourse.systems.stages import Stage, set_trainable
from vlmcourse.training.labelled_sets import FORMS
from vlmcourse.training.settings import EXPERIMENTS, StageSettings, stage_files, stage_of
from vlmcourse.training.sources import located

RECIPES = {
    "world": {},
    "official_position": {"frame_position": "official"},
    "waves": {"position_start": "waves", "max_frames": 512},
    "no_position": {"frame_position": "none"},
    "mean": {"merging": "mean"},
    "fifo": {"merging": "fifo"},
    "no_query_bank": {"query_memory": 0},
    "no_visual_bank": {"visual_memory": 0},
    "average": {"reader": "average"},
    "one_frame": {"reader": "one_frame"},
    "all_frames": {"reader": "all"},
}


def files_of(recipe):
    """The contents of every stage file by the stage's name."""
    paths = stage_files("ma_lmm", recipe)
    return {stage_of(path): yaml.safe_load(path.read_text(encoding="utf-8")) for path in paths}


def told(stage):
    """A stage as its file tells it; what a file leaves out has its default."""
    return {n: list(v) if isinstance(v, tuple) else v for n, v in vars(stage).items()}


def defaults():
    return told(Stage(name="", trains=(), data=""))


def test_one_step_moves_exactly_what_the_stages_name():
    model = build_tiny(qformer_layers=2)
    pictures = set(set_trainable(model, WORLD_STAGES[0].trains))
    chosen = set(set_trainable(model, WORLD_STAGES[1].trains))
    assert chosen - pictures == {"frame_positions.weight"}
    assert {name.split(".")[0] for name in chosen} == {
        *("vision_norm", "frame_positions", "qformer", "projector"),
    }
    before = {name: value.clone() for name, value in model.named_parameters()}
    pairs = [[("what happens first ?", "red circle jumps")]]
    model(training_batch(model, [features_of(model, 4)], pairs)).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    moved = {n for n, value in model.named_parameters() if not value.equal(before[n])}
    assert moved <= chosen
    idle = chosen - moved  # words after the last layer reach nothing; a key bias changes nothing
    assert all("layers.1.text_feed_forward" in n or n.endswith("key.bias") for n in idle)


@pytest.mark.parametrize("recipe", RECIPES)
def test_world_files_differ_from_the_first_in_their_option(recipe):
    files, world = files_of(recipe), files_of("world")
    stages = WORLD_STAGES if recipe == "world" else WORLD_STAGES[1:]
    assert list(files) == [stage.name for stage in stages]
    for stage in stages:
        found = files[stage.name]
        assert found["model"].get("options", {}) == RECIPES[recipe]
        if recipe != "world":
            stage = replace(stage, init_from="ma_lmm/world/image_instruction")
        assert {**defaults(), **found["model"]["stage"]} == told(stage)
        assert found["data"] == world[stage.name]["data"]


def test_paper_files_say_what_the_system_says():
    files = files_of("paper")
    assert set(files) == {stage.name for stage in PAPER_STAGES}
    for stage in PAPER_STAGES:
        found = files[stage.name]
        assert {**defaults(), **found["model"]["stage"]} == told(stage)
        config = with_options(MaLmmConfig(), found["model"]["options"])
        assert config.visual_memory == config.query_memory
        classes = stage.name.startswith(("lvu", "breakfast", "coin"))
        banks = 20 if classes else 10 if stage.name.endswith("_qa") else 40
        frames = 100 if classes else 20 if stage.name.endswith("_qa") else 80
        assert (config.visual_memory, config.num_frames) == (banks, frames)
        assert config.text_length == (30 if classes else 128)
        assert found["data"]["train"][0]["annotation"] in FORMS


@pytest.mark.parametrize("name", ["paper_youcook2_captions", "world_video_instruction"])
def test_files_are_valid_settings(name):
    path = located(EXPERIMENTS / "ma_lmm") / f"{name}.yaml"
    read = StageSettings([f"--config={path}"]).config
    assert Stage(**vars(read.model.stage)) in (*PAPER_STAGES, *WORLD_STAGES)


def test_the_first_epoch_is_the_warm_up_and_each_later_one_has_one_rate():
    from math import cos, pi

    from vlmcourse.training.module import learning_rate_factor

    breakfast = next(stage for stage in PAPER_STAGES if stage.name == "breakfast")
    total = 20 * 21  # about 21 steps an epoch
    rates = [1e-4 * learning_rate_factor(breakfast, step, total) for step in range(total)]
    assert rates[0] == pytest.approx(1e-8)
    assert rates[20] == pytest.approx(1e-8 + (1e-4 - 1e-8) * 20 / 1000)  # cut off: about 2e-6
    assert rates[21:42] == pytest.approx([1e-4 * 0.5 * (1 + cos(pi / 20))] * 21)
    assert rates[-1] == pytest.approx(1e-4 * 0.5 * (1 + cos(pi * 19 / 20)))
    short = replace(breakfast, warmup_steps=10)
    assert learning_rate_factor(short, 15, total) == 1.0
    assert learning_rate_factor(short, total, total) == pytest.approx(0.0)
