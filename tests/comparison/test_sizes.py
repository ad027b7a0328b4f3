"""Sizes and tokens: counted on the systems' own code, and as the official code has them."""

import math

import pytest

from vlmcourse.comparison import costs, sizes
from vlmcourse.comparison.facts import FactError, Size
from vlmcourse.comparison.table import SIZES


@pytest.fixture(scope="module")
def counted(records):
    return {name: one["mean"] for name, one in records[SIZES]["metrics"].items()}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        # one linear layer, and the rows of two marks
        ("video_chatgpt/7B/parameters/trained/alignment", 1024 * 4096 + 4096),
        ("video_chatgpt/7B/parameters/trained/instruction_tuning", 1025 * 4096 + 2 * 4096),
        ("video_llama/7B/parameters/trained/vision_1", 22_104_064),
        ("video_llama/7B/parameters/trained/audio_2", 22_855_680),
        ("minigpt4_video/Llama 2 7B/parameters/trained/video_instruction", 56_627_200),
        ("minigpt4_video/Mistral 7B/parameters/trained/image_align", 50_335_744),
        ("cogvlm2_video/video 12B/parameters/total", 12_507_530_496),
        ("cogvlm2_video/image 19B/parameters/total", 19_503_105_280),
        ("qwen2_vl/2B/parameters/total", 2_208_985_600),
        ("qwen2_vl/7B/parameters/total", 8_291_375_616),
        ("qwen2_vl/72B/parameters/total", 73_405_560_320),
        ("qwen2_vl/7B/parameters/trained/stage_1", 675_759_104),
        ("chat_univi/7B/parameters/total", 1025 * 4096 + 6_738_415_616 + 303_179_776),
        ("chat_univi/13B/parameters/trained/stage_1", 1025 * 5120),
        ("ma_lmm/7B/parameters/trained/breakfast", 189_006_336),
    ],
)
def test_parameters_are_those_that_other_tests_know(counted, name, wanted):
    assert counted[name] == wanted


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("video_llama/7B/film_60/tokens", 32),
        ("video_llama/7B/film_600/sound_tokens", 8),
        ("video_chatgpt/7B/film_60/tokens", 100 + 256),
        ("minigpt4_video/Llama 2 7B/film_60/tokens", 45 * 64),
        ("minigpt4_video/Mistral 7B/film_600/tokens", 90 * 64),
        ("cogvlm2_video/video 12B/film_60/tokens", 24 * 66),
        ("cogvlm2_video/video 12B/film_600/last_second", 23),
        ("ma_lmm/7B/film_600/tokens", 32),
        ("chat_univi/7B/film_60/tokens", 112 * math.ceil(60 / 16)),
        ("chat_univi/7B/film_600/tokens", 112 * math.ceil(64 / 16)),
        # 640 x 360 becomes 644 x 364: 23 x 13 squares of 28 pixels for each pair of 120 frames
        ("qwen2_vl/7B/film_60/tokens", 23 * 13 * 60),
        # 768 frames may have 105,369 pixels each: 420 x 224, 15 x 8 squares for 384 pairs
        ("qwen2_vl/7B/film_600/tokens", 15 * 8 * 384),
    ],
)
def test_tokens_are_those_worked_out_by_hand(counted, name, wanted):
    assert counted[name] == wanted


def test_one_size_counted_anew_agrees_with_the_record(tmp_path, counted):
    from vlmcourse.comparison.films import write_film

    film = write_film(tmp_path / "film.mp4", 60, sizes.WIDTH, sizes.HEIGHT, sizes.FPS)
    found = sizes.size_counts(Size("7B", "chat_univi"), {60: film})
    there = {
        name.removeprefix("chat_univi/7B/"): value
        for name, value in counted.items()
        if name.startswith("chat_univi/7B/") and "film_600" not in name
    }
    assert found == there


def test_every_size_of_the_facts_is_in_the_record(comparison, counted):
    for row in comparison.rows:
        for size in row.system.sizes:
            assert counted[f"{row.system.key}/{size.name}/parameters/total"] > 1e9
            assert row.trained(size)


def test_a_size_that_is_missing_names_the_remedy(comparison):
    with pytest.raises(FactError, match="vlmcourse table --measure sizes"):
        comparison.rows[0].count("film_60/frames", Size("99B", "video_llama"))


# ---- cost


def train(wall_s, cpu_s, peak_mib, status="ok"):
    return {"wall_s": wall_s, "cpu_s": cpu_s, "peak_mib": peak_mib, "status": status}


def test_costs_are_sums_over_stages_and_means_over_runs(comparison):
    row = next(row for row in comparison.rows if row.system.key == "chat_univi")
    there = {
        name: one | {"id": name}
        for name, one in {
            "train-chat_univi-world-stage_1-seed0": train(60, 30, 500),
            "train-chat_univi-world-stage_2-seed0": train(120, 100, 900),
            "train-chat_univi-world-stage_1-seed1": train(80, 40, 600),
            "train-chat_univi-world-stage_2-seed1": train(100, 90, 800),
            "language_model_training": train(1, 10, 1),
            "language_model_more_training": train(1, 20, 1),
            "vision_encoder_training": train(1, 5, 1),
            "chat_univi-probes": train(1, 1, 1) | {"seeds": [0, 1]},
        }.items()
    }
    found = costs.training_cost(row.system, there)
    assert (found.runs, found.stages) == (2, 2)
    assert (found.wall_s, found.cpu_s, found.peak_mib) == (180, 130, 900)
    assert found.parts_cpu_s == 35
    there["train-chat_univi-world-stage_1-seed1"]["status"] = "failed"
    with pytest.raises(FactError, match="failed run"):
        costs.training_cost(row.system, there)
    del there["train-chat_univi-world-stage_1-seed1"]
    with pytest.raises(FactError, match="0 records match"):
        costs.training_cost(row.system, there)


def test_several_records_of_one_stage_are_refused():
    there = {f"train-a-{x}": {"id": x, "status": "ok"} for x in "bc"}
    with pytest.raises(FactError, match="2 records match 'train-a-\\*'"):
        costs.one_record("train-a-*", there)
