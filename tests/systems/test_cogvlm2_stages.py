"""CogVLM2's stage files say what its stages say, and read the data they name."""

from functools import cache

import pytest

from vlmcourse.systems.cogvlm2_stages import PAPER_STAGES, SLOW_ENCODER, WORLD_STAGES
from vlmcourse.training.settings import StageSettings, stage_files, stage_of

WORLD = {
    (system, recipe): stages
    for system, recipes in WORLD_STAGES.items()
    for recipe, stages in recipes.items()
}
RECIPES = {**WORLD, **{(system, "paper"): stages for system, stages in PAPER_STAGES.items()}}


@cache
def settings_of(system, recipe):
    """The settings of every stage file by the stage's name; reading them takes a while."""
    return {
        stage_of(path): StageSettings([f"--config={path}"]).config
        for path in stage_files(system, recipe)
    }


@pytest.mark.parametrize(("system", "recipe"), RECIPES)
def test_stage_files_say_what_the_system_says(system, recipe):
    settings = settings_of(system, recipe)
    assert set(settings) == {stage.name for stage in RECIPES[system, recipe]}
    for stage in RECIPES[system, recipe]:
        model = settings[stage.name].model
        assert model.system == system
        for name in vars(stage):
            assert getattr(model.stage, name) == getattr(stage, name), name


def test_stages_follow_each_other():
    for (system, recipe), stages in RECIPES.items():
        order = [stage_of(path) for path in stage_files(system, recipe)]
        for stage in stages:
            before = stage.init_from
            assert before is None or "/" in before or order.index(before) < order.index(stage.name)


def test_methods_differ_in_what_they_say_and_in_nothing_else():
    mixed, unmixed, experts = (
        settings_of("cogvlm2", recipe) for recipe in ("mixed", "unmixed", "experts")
    )
    starts = [x["pretrain_2"].model.stage.init_from for x in (unmixed, experts)]
    assert starts == ["cogvlm2/mixed/pretrain_1"] * 2
    sources = [x["pretrain_2"].data.train for x in (mixed, unmixed, experts)]
    assert sources[0][:2] == sources[1] == sources[2]
    assert sources[0][2].form == "text"
    pictures, texts = sum(x.weight for x in sources[1]), sources[0][2].weight
    steps = [x["pretrain_2"].model.stage.steps for x in (mixed, unmixed, experts)]
    assert steps[1] == steps[2] == round(steps[0] * pictures / (pictures + texts))
    assert (pictures, texts) == (7, 3)


def test_growing_recipes_say_their_size_and_the_encoder_is_slow():
    growing = settings_of("cogvlm2", "growing")
    sizes = [growing[f"grow_{n}"].model.options["image_size"] for n in (32, 64, 96)]
    assert sizes == [32, 64, 96]
    for stages in RECIPES.values():
        for stage in stages:
            trains_encoder = {"*", "vision_encoder.*"} & set(stage.trains)
            video = stage in PAPER_STAGES["cogvlm2_video"]
            wanted = SLOW_ENCODER if trains_encoder else {}
            assert dict(stage.rate_factors) == wanted or video


def test_paper_sums_are_those_of_the_paper():
    image = {stage.name: stage for stage in PAPER_STAGES["cogvlm2"]}
    video = {stage.name: stage for stage in PAPER_STAGES["cogvlm2_video"]}
    assert (image["sft_1"].learning_rate, image["sft_1"].batch_size) == (1e-5, 2340)
    assert (image["sft_1"].steps, image["sft_2"].steps) == (3000, 750)
    assert image["sft_2"].batch_size == 1150
    assert [stage.learning_rate for stage in video.values()] == [4e-6, 1e-6]
    for stage in (image["sft_1"], image["sft_2"], *video.values()):
        assert stage.trains == ("*",)
