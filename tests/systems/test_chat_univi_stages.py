"""Chat-UniVi's stages move what they name; its files say what they say and read what they need."""

from functools import cache

import pytest
import torch
from tiny_chat_univi import build_tiny, random_clip, training_batch

from vlmcourse.conversation import ask
from vlmcourse.systems.chat_univi_stages import PAPER_STAGES, WORLD_STAGES
from vlmcourse.systems.stages import set_trainable
from vlmcourse.training.settings import StageSettings, stage_files, stage_of

RECIPES = {**WORLD_STAGES, **PAPER_STAGES}
PARTS = {"stage_1": {"projector"}, "stage_2": {"projector", "language_model"}}
CONTROLS = {
    "grid": ("merging", "grid"),
    "random": ("merging", "random"),
    "contiguous": ("temporal", "contiguous"),
    "official_noise": ("clustering", "official"),
}


@cache
def settings_of(recipe):
    """The settings of every stage file by the stage's name; reading them takes a while."""
    return {
        stage_of(path): StageSettings([f"--config={path}"]).config
        for path in stage_files("chat_univi", recipe)
    }


@pytest.mark.parametrize("stage", WORLD_STAGES["world"], ids=lambda stage: stage.name)
@pytest.mark.parametrize("clustering", ["exact", "official"])
def test_one_step_moves_exactly_what_each_stage_names(stage, clustering):
    model = build_tiny(clustering=clustering)
    names = [name for name, _ in model.named_parameters()]
    named = {name for name in names if name.split(".")[0] in PARTS[stage.name]}
    assert set(set_trainable(model, stage.trains)) == named
    before = {name: value.clone() for name, value in model.state_dict().items()}
    talks = [ask("what colour is circle ?", "red"), ask("what happens first ?", "star jumps")]
    model.train()
    model(training_batch(model, [random_clip(1), random_clip(8)], talks)).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    assert {n for n, value in model.state_dict().items() if not value.equal(before[n])} == named


@pytest.mark.parametrize("recipe", RECIPES)
def test_stage_files_say_what_the_system_says(recipe):
    settings = settings_of(recipe)
    assert list(settings) == [stage.name for stage in RECIPES[recipe]]
    for stage in RECIPES[recipe]:
        model = settings[stage.name].model
        assert model.system == "chat_univi"
        for name in vars(stage):
            assert getattr(model.stage, name) == getattr(stage, name), name


def test_the_controls_differ_in_one_option_and_in_nothing_else():
    world = settings_of("world")
    for recipe, (option, value) in CONTROLS.items():
        for name, settings in settings_of(recipe).items():
            plain = world[name]
            assert settings.model.options == {**plain.model.options, option: value}
            assert settings.data.train == plain.data.train
            for field in ("steps", "batch_size", "learning_rate", "schedule", "trains"):
                assert settings.model.stage[field] == plain.model.stage[field], (recipe, field)


def test_one_kind_alone_is_half_of_the_mixture_for_as_many_steps():
    plain = settings_of("world")["stage_2"]
    films, pictures = plain.data.train
    for recipe, source in (("images_only", pictures), ("videos_only", films)):
        (settings,) = settings_of(recipe).values()
        assert settings.data.train == [source]
        assert settings.model.options == plain.model.options
        assert settings.model.stage.steps == plain.model.stage.steps
        assert settings.model.stage.init_from == "chat_univi/world/stage_1"


def test_the_paper_mixes_without_weights():
    for recipe in RECIPES:
        for settings in settings_of(recipe).values():
            assert all(source.weight is None for source in settings.data.train)


def test_science_questions_go_on_from_the_projector_of_stage_1():
    (settings,) = settings_of("scienceqa").values()
    assert settings.model.stage.init_from == "chat_univi/paper/stage_1"
    assert (settings.model.stage.epochs, settings.model.stage.batch_size) == (9, 32)
