"""Settings: typed, overridable, and every mistake named in the user's words."""

import logging
import re

import pytest
import yaml

from vlmcourse.errors import UserError
from vlmcourse.systems import minigpt4_video_stages, video_llama_stages
from vlmcourse.systems.processor import Given
from vlmcourse.systems.video_chatgpt import PAPER_STAGES, WORLD_STAGES
from vlmcourse.training import cli
from vlmcourse.training.settings import (
    SettingsError,
    StageSettings,
    as_options,
    stage_files,
    stage_of,
)


def test_defaults_file_and_overrides(stage_file):
    config = stage_file()
    settings = StageSettings([f"--config={config}", "--model.stage.learning_rate=0.5"])
    stage = settings.config.model.stage
    assert stage.learning_rate == 0.5
    assert stage.batch_size == 9
    assert stage.max_grad_norm == 1.0
    assert settings.plain()["model"]["stage"]["trains"] == ["projector.*"]
    again = yaml.safe_load(settings.text())
    assert again["data"]["questions_per_video"] == 3


@pytest.mark.parametrize(
    ("place", "key", "told"),
    [
        (("model", "stage"), "learning_rat", "Did you mean model.stage.learning_rate?"),
        (("model",), "sytem", "Did you mean model.system?"),
        (("data",), "question_per_video", "Did you mean data.questions_per_video?"),
        (("trainer",), "log_every_n_step", "Did you mean trainer.log_every_n_steps?"),
        ((), "modell", "modell"),
    ],
)
def test_an_unknown_key_in_a_file_is_named(stage_file, place, key, told):
    config = stage_file()
    settings = yaml.safe_load(config.read_text())
    part = settings
    for name in place:
        part = part.setdefault(name, {})
    part[key] = 3
    config.write_text(yaml.safe_dump(settings))
    with pytest.raises(SettingsError, match=re.escape(told)) as error:
        StageSettings([f"--config={config}"])
    assert key in str(error.value)


def test_an_unknown_key_of_a_source_is_named(stage_file):
    config = stage_file()
    settings = yaml.safe_load(config.read_text())
    settings["data"]["train"][0]["vidoes"] = "x"
    config.write_text(yaml.safe_dump(settings))
    with pytest.raises(SettingsError, match=r"unknown setting vidoes\. Did you mean videos"):
        StageSettings([f"--config={config}"])


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--model.stage.stepz=3", "--model.stage.stepz. Did you mean model.stage.steps?"),
        ("--data.questions_pervideo=3", "Did you mean data.questions_per_video?"),
        ("--model.stage.zzz=3", "Known: model.stage."),
        ("--trainer.max_steps=3", "trainer.max_steps is not for a stage file"),
        ("--model.stage.steps=many", "model.stage.steps"),
        ("--model.stage.steps=null", "either steps or epochs"),
        ("--model.stage.schedule=cosin", "known: cosine, cosine_from_start, linear, constant"),
        ("--model.system=no_such", "unknown system 'no_such'"),
    ],
)
def test_a_wrong_override_is_named(stage_file, option, told):
    with pytest.raises(UserError, match=re.escape(told)) as error:
        StageSettings([f"--config={stage_file()}", option]).model_and_data()
    assert "NoneType" not in str(error.value) or "steps" in option


def test_a_file_that_is_missing_or_no_yaml(tmp_path):
    with pytest.raises(SettingsError, match=r"gone\.yaml"):
        StageSettings([f"--config={tmp_path / 'gone.yaml'}"])
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: [1,")
    with pytest.raises(SettingsError):
        StageSettings([f"--config={broken}"])


def test_overrides_as_a_dictionary():
    assert as_options({"a.b": 1, "c": "x", "d": [1], "e": None, "f": True}) == [
        *("--a.b=1", "--c=x", "--d=[1]", "--e=null", "--f=true")
    ]


def test_younger_settings_are_told_where_they_are_set(stage_file):
    """Hashes of runs that were finished before these settings existed stay good."""
    factors = {"projector.*": 0.1, "projector.bias": 2.0}
    for rate_factors, kinds in (({}, None), (factors, ["when"])):
        config = stage_file(rate_factors=rate_factors)
        settings = yaml.safe_load(config.read_text())
        settings["data"]["train"][0]["kinds"] = kinds
        config.write_text(yaml.safe_dump(settings, sort_keys=False))
        read = StageSettings([f"--config={config}"])
        plain = read.plain()
        assert list(read.config.model.stage.rate_factors.items()) == list(rate_factors.items())
        assert plain["model"]["stage"].get("rate_factors", {}) == rate_factors
        assert ("rate_factors" in plain["model"]["stage"]) is bool(rate_factors)
        assert plain["data"]["train"][0].get("kinds") == kinds
        assert ("kinds" in plain["data"]["train"][0]) is (kinds is not None)
        assert "families" not in plain["data"]["train"][0]
    option = '--model.stage.rate_factors={"projector.bias": 0.5}'
    module, _ = StageSettings([f"--config={config}", option]).model_and_data()
    assert module.rate_factors == {"projector.weight": 1.0, "projector.bias": 0.5}


# ---------------------------------------------------------------- the files of this repository


@pytest.mark.parametrize(
    ("system", "recipe", "stages"),
    [
        ("video_chatgpt", "world", WORLD_STAGES),
        ("video_chatgpt", "paper", PAPER_STAGES),
        ("video_llama", "world", video_llama_stages.WORLD_STAGES),
        ("video_llama", "heard", video_llama_stages.HEARD_STAGES),
        ("video_llama", "paper", video_llama_stages.PAPER_STAGES),
        ("minigpt4_video", "world", minigpt4_video_stages.WORLD_STAGES),
        ("minigpt4_video", "linear_first", minigpt4_video_stages.LINEAR_FIRST_STAGES),
        ("minigpt4_video", "paper", minigpt4_video_stages.PAPER_STAGES),
        ("minigpt4_video", "mistral", minigpt4_video_stages.MISTRAL_STAGES),
    ],
)
def test_stage_files_say_what_the_system_says(system, recipe, stages):
    """What trains, in which order, and every number."""
    files = stage_files(system, recipe)
    assert [stage_of(path) for path in files] == [stage.name for stage in stages]
    for path, stage in zip(files, stages, strict=True):
        read = StageSettings([f"--config={path}"]).config.model.stage
        for name in vars(stage):
            assert getattr(read, name) == getattr(stage, name), name


@pytest.mark.parametrize("recipe", ["world", "paper", "heard"])
def test_the_audio_branch_is_given_what_its_recipe_says(recipe):
    """Pictures in the place of sound, as the official training; "heard" trains on sound."""
    stream = "sounds" if recipe == "heard" else "sound_pictures"
    heard = [path for path in stage_files("video_llama", recipe) if "audio" in stage_of(path)]
    assert [stage_of(path) for path in heard] == ["audio_1", "audio_2"]
    for path in heard:
        settings = StageSettings([f"--config={path}"])
        assert settings.plain()["data"]["given"] == {"pictures": None, "sounds": stream}


def test_official_mixtures_are_drawn_by_batch():
    weights = [
        [
            source["weight"]
            for source in StageSettings([f"--config={path}"]).plain()["data"]["train"]
        ]
        for path in stage_files("video_llama", "paper")
    ]
    assert weights == [[100, 24], [1, 1, 1]] * 2


def test_unknown_systems_and_presets_are_named():
    with pytest.raises(SettingsError, match=r"stage files exist for: .*video_chatgpt"):
        stage_files("video_chat", "world")


# ---------------------------------------------------------------- the command


def test_the_command_trains_and_tells(stage_file, tmp_path, capsys, caplog):
    config = stage_file()
    arguments = [
        *(f"--config={config}", "--device=cpu", f"--out={tmp_path / 'out'}"),
        "--model.stage.steps=2",
    ]
    with caplog.at_level(logging.INFO):
        assert cli.main(arguments) == 0
    assert "alignment: loss" in capsys.readouterr().out
    assert re.search(r"projector +0 +1,056", caplog.text)  # the table of what trains
    assert cli.main(arguments) == 0
    assert "(reused)" in capsys.readouterr().out


def test_print_config_shows_all_and_trains_nothing(stage_file, tmp_path, capsys):
    assert cli.main([f"--config={stage_file()}", "--seed=4", "--print_config"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["model"]["seed"] == 4
    assert shown["data"]["accumulate"] == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--sytem=tiny"], "unknown option --sytem. Did you mean --system?"),
        (["--model.seed"], "needs a value"),
        (["tiny"], "unexpected 'tiny'"),
    ],
)
def test_wrong_options_are_named(stage_file, words, told):
    with pytest.raises(UserError, match=re.escape(told)):
        cli.main([f"--config={stage_file()}", *words])


def test_an_unknown_device_is_named(stage_file, tmp_path):
    with pytest.raises(UserError, match="unknown device 'gpu'"):
        cli.main([f"--config={stage_file()}", "--device=gpu", f"--out={tmp_path}"])


def test_any_recipe_trains(tmp_path):
    """The lightning classes of other parts, by class_path; a misspelt key is named here too."""
    recipe = {
        "model": {
            "class_path": "vlmcourse.foundations.vision.VisionFoundation",
            "init_args": {"warmup_steps": 1},
        },
        "data": {
            "class_path": "vlmcourse.foundations.vision.FrameWorld",
            "init_args": {"frames": 2},
        },
        "trainer": {
            **{"max_steps": 1, "accelerator": "cpu", "logger": False},
            **{"enable_checkpointing": False, "enable_progress_bar": False},
            "default_root_dir": str(tmp_path),
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert cli.fit(["--config", str(path)]).trainer.global_step == 1
    recipe["model"]["init_args"]["warmup_stepz"] = 1
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(SettingsError, match="warmup_stepz"):
        cli.fit(["--config", str(path)])


def test_what_is_given_and_options_are_settings(stage_file):
    given = {"pictures": None, "sounds": "sounds"}
    config = stage_file(data={"given": given})
    options = ["--model.options.spatial_grid=4", "--data.given.sounds=sound_pictures"]
    settings = StageSettings([f"--config={config}", *options])
    assert settings.plain()["data"]["given"] == {**given, "sounds": "sound_pictures"}
    assert settings.plain()["model"]["options"] == {"spatial_grid": 4}
    module, data = settings.model_and_data()
    assert module.model.config.spatial_grid == 4
    assert data.given == Given(None, "sound_pictures")
    with pytest.raises(SettingsError, match=r"Did you mean data\.given\.sounds"):
        StageSettings([f"--config={config}", "--data.given.sound=sounds"])
