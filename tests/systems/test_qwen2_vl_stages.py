"""Qwen2-VL's stages move what they name; its files say what they say and read what they need."""

from functools import cache

import pytest
import torch
from tiny_qwen2_vl import build_tiny, random_clip, training_batch

from vlmcourse.systems.qwen2_vl_stages import (
    PAPER_STAGES,
    SLOW_TOWER,
    SLOWEST_TOWER,
    WORLD_STAGES,
)
from vlmcourse.systems.stages import set_trainable
from vlmcourse.training.settings import StageSettings, stage_files, stage_of

RECIPES = {**WORLD_STAGES, **PAPER_STAGES}
PAIRS = [("what colour is circle ?", "red"), ("what happens first ?", "blue star jumps")]
PARTS = {
    "stage_1": {"vision_encoder", "merger"},
    "stage_2": {"vision_encoder", "merger", "language_model", "time_embedding"},
    "stage_3": {"language_model", "time_embedding"},
}


@cache
def settings_of(recipe):
    """The settings of every stage file by the stage's name; reading them takes a while."""
    return {
        stage_of(path): StageSettings([f"--config={path}"]).config
        for path in stage_files("qwen2_vl", recipe)
    }


@pytest.mark.parametrize("recipe", WORLD_STAGES)
def test_one_step_moves_exactly_what_each_stage_names(recipe):
    positions = settings_of(recipe)["stage_3"].model.options["positions"]
    for stage in WORLD_STAGES[recipe]:
        model = build_tiny(positions=positions)
        names = [name for name, _ in model.named_parameters()]
        named = {name for name in names if name.split(".")[0] in PARTS[stage.name]}
        assert set(set_trainable(model, stage.trains)) == named
        before = {name: value.clone() for name, value in model.state_dict().items()}
        clips = [random_clip(1, 16, 8), random_clip(4, 8, 24)]
        model(training_batch(model, clips, PAIRS)).loss.backward()
        torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
        moved = {n for n, value in model.state_dict().items() if not value.equal(before[n])}
        assert moved == named


@pytest.mark.parametrize("recipe", RECIPES)
def test_stage_files_say_what_the_system_says(recipe):
    settings = settings_of(recipe)
    assert list(settings) == [stage.name for stage in RECIPES[recipe]]
    for stage in RECIPES[recipe]:
        model = settings[stage.name].model
        assert model.system == "qwen2_vl"
        for name in vars(stage):
            assert getattr(model.stage, name) == getattr(stage, name), name


def test_the_vision_tower_is_slow_where_it_trains_in_the_world():
    for stages in WORLD_STAGES.values():
        for stage in stages:
            wanted = {"stage_1": SLOWEST_TOWER, "stage_2": SLOW_TOWER, "stage_3": {}}
            assert stage.rate_factors == wanted[stage.name]


def test_the_controls_differ_in_one_option_and_in_nothing_else():
    world = settings_of("world")
    for recipe, option in (
        ("sequential", ("positions", "sequential")),
        ("time_embedding", ("positions", "time_embedding")),
        ("square", ("resize", "square")),
    ):
        for name, settings in settings_of(recipe).items():
            plain = world[name]
            wanted = {**plain.model.options, option[0]: option[1]}
            assert settings.model.options == wanted
            assert settings.data.train == plain.data.train
            for field in ("steps", "batch_size", "learning_rate", "schedule"):
                told, same = settings.model.stage[field], plain.model.stage[field]
                assert told == same, (recipe, name, field)


def test_controls_of_positions_start_from_the_same_stage_1():
    for recipe in ("sequential", "time_embedding"):
        assert list(settings_of(recipe)) == ["stage_2", "stage_3"]
        assert settings_of(recipe)["stage_2"].model.stage.init_from == "qwen2_vl/world/stage_1"
    assert settings_of("square")["stage_1"].model.stage.init_from is None
