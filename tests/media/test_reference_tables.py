"""The tables of the original code: all green, and any wrong number is noticed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlmcourse.reference.runner import run_unit
from vlmcourse.reference.table_units import UNITS

CASES = Path(__file__).parents[1] / "reference"


@pytest.fixture
def copy(tmp_path):
    """Return `copy(name)`: JSON object and tensors of a unit, and a function that runs them."""

    def copier(name: str):
        source = CASES / f"{name}.json"
        meta, twin = json.loads(source.read_text()), source.with_suffix(".safetensors")
        tensors = load_file(twin) if twin.exists() else {}

        def run():
            (tmp_path / source.name).write_text(json.dumps(meta))
            if tensors:
                save_file(tensors, tmp_path / twin.name)
            return run_unit(tmp_path / source.name, UNITS)

        return meta, tensors, run

    return copier


def bad(rows) -> list[str]:
    return [row.output for row in rows if not row.ok]


@pytest.mark.parametrize("name", UNITS)
def test_every_row_agrees(name):
    rows = run_unit(CASES / f"{name}.json", UNITS)
    assert len(rows) > 20
    assert [row for row in rows if not row.ok] == []


@pytest.mark.parametrize(
    "name",
    [
        "video_chatgpt/frame_indices",
        "minigpt4_video/frame_indices",
        "video_llama/video_llama_frames",
    ],
)
def test_every_tensor_is_compared(name, copy):
    """Each output has its row; changed by one, that row and no other fails."""
    _, tensors, run = copy(name)
    outputs = [key for key in tensors if key.startswith("outputs/")]
    compared = {row.output for row in run()}
    assert {key.removeprefix("outputs/") for key in outputs} <= compared
    for key in outputs[:: max(1, len(outputs) // 6)]:
        tensors[key].view(-1)[-1] += 1
        assert bad(run()) == [key.removeprefix("outputs/")]
        tensors[key].view(-1)[-1] -= 1


@pytest.mark.parametrize(
    "name",
    [
        "video_chatgpt/frame_indices",
        "minigpt4_video/frame_indices",
        "video_llama/video_llama_frames",
    ],
)
def test_an_output_without_a_rule_fails(name, copy):
    _, tensors, run = copy(name)
    tensors["outputs/something_new"] = torch.zeros(2)
    assert bad(run()) == ["something_new"]


def test_an_asked_pair_without_its_output_fails(copy):
    _, tensors, run = copy("video_chatgpt/frame_indices")
    del tensors["outputs/idx_64_100"]
    assert bad(run()) == ["idx_64_100"]


def test_other_sizes_than_the_committed_ones(copy):
    """Video-ChatGPT's rule written a second time, on totals that no file holds."""
    _, tensors, run = copy("video_chatgpt/frame_indices")
    tensors.clear()
    pairs = [(total, wanted) for total in (4, 57, 333, 7777) for wanted in (1, 3, 57, 400)]
    tensors["inputs/pairs"] = torch.tensor(pairs)
    for total, wanted in pairs:
        borders = (
            torch.arange(min(total, wanted) + 1, dtype=torch.float64)
            * ((total - 1) / min(total, wanted))
        ).round()
        tensors[f"outputs/idx_{total}_{wanted}"] = (
            (borders[:-1] + borders[1:]).div(2, rounding_mode="floor").long()
        )
    rows = run()
    assert len(rows) == len(pairs)
    assert bad(rows) == []


def test_other_settings_are_read_from_the_file(copy):
    meta, _, run = copy("qwen2_vl/smart_resize")
    meta["config"]["MAX_RATIO"] = 10  # now 20 x 400 is too thin
    assert {"qwen_vl_utils"} <= {row.output for row in run() if not row.ok}
    meta, _, run = copy("video_llama/video_llama_frames")
    meta["config"]["std"] = [1.0, 1.0, 1.0]
    assert sorted(bad(run())) == ["eval", "train"]
    meta["config"]["crop_box_top_left_h_w"] = [0, 0, 4, 5]
    assert sorted(bad(run())) == ["eval", "train", "train_resized", "train_uint8"]


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        (
            "qwen2_vl/smart_resize",
            lambda meta: meta["smart_resize"][3].update(qwen_vl_utils=[28, 28]),
            ["qwen_vl_utils"],
        ),
        (
            "qwen2_vl/smart_resize",
            lambda meta: meta["smart_nframes"][0].update(nframes=2),
            ["nframes"],
        ),
        (
            "qwen2_vl/smart_resize",
            lambda meta: meta["smart_nframes"][-1]["indices"].__setitem__(0, 1),
            ["indices"],
        ),
        (
            "qwen2_vl/smart_resize",
            lambda meta: meta["video_pixels"][9].update(llm_tokens=1),
            ["llm_tokens"],
        ),
        (
            "qwen2_vl/smart_resize",
            lambda meta: meta["video_pixels"][9].update(cost=1),
            ["cost"],
        ),
        (
            "cogvlm2_video/frame_indices",
            lambda meta: meta["constant_rate"][7]["base"].__setitem__(3, 9),
            ["base"],
        ),
        (
            "cogvlm2_video/frame_indices",
            lambda meta: meta["variable_rate"][0]["chat"].pop(),
            ["chat"],
        ),
        (
            "minigpt4_video/subtitle_alignment",
            lambda meta: meta["cases"][1]["expected"]["mistral"]["train"].update(frames=1),
            ["mistral/train/frames"],
        ),
        (
            "minigpt4_video/subtitle_alignment",
            lambda meta: meta["cases"][0]["expected"]["llama2"]["inference"]["captions"].pop("8"),
            ["llama2/inference/captions"],
        ),
        (
            "video_llama/video_llama_frames",
            lambda meta: meta["config"]["seconds_text"]["8_8"].reverse(),
            ["8_8"],
        ),
        (
            "video_llama/video_llama_frames",
            lambda meta: meta["config"]["caption_processor"][0].update(result="a dog"),
            ["0"],
        ),
        (
            "video_llama/video_llama_frames",
            lambda meta: meta["config"].update(number_of_such_cases=1),
            ["number of cases"],
        ),
    ],
)
def test_a_wrong_entry_is_found(copy, name, change, expected):
    meta, _, run = copy(name)
    change(meta)
    assert bad(run()) == expected
