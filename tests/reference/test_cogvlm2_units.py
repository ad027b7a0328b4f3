"""CogVLM2's units at sizes of our own, made by code that was written a second time."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from cogvlm2_twins import (
    OfficialEyes,
    OfficialLayer,
    eyes_weights,
    layer_weights,
    official_positions,
)
from safetensors.torch import load_file, save_file

from vlmcourse.reference.cogvlm2_units import UNITS
from vlmcourse.reference.runner import run_folders

REFERENCE = Path(__file__).parent / "cogvlm2_video"
EYES = {
    "vocab_size": 11, "hidden_size": 20, "intermediate_size": 28, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_multi_query_heads": 1, "rms_norm_eps": 1e-5,
    "vision_config": {
        "num_hidden_layers": 4, "hidden_size": 18, "patch_size": 5, "num_heads": 3,
        "intermediate_size": 22, "layer_norm_eps": 1e-6, "image_size": 30,
    },
}  # fmt: skip
LAYERS = [
    {"hidden_size": 24, "intermediate_size": 20, "num_attention_heads": 3,
     "num_multi_query_heads": 3, "num_hidden_layers": 5, "rms_norm_eps": 1e-6, "vocab_size": 7},
    {"hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 8,
     "num_multi_query_heads": 2, "num_hidden_layers": 1, "rms_norm_eps": 1e-5, "vocab_size": 7},
]  # fmt: skip
TYPES = {
    "": ([[1, 1, 1, 1, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1, 1, 0], [0] * 9], [[1] * 9] * 3),
    "pad_": (
        [[0, 0, 0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0, 0, 0]],
        [[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 0]],
    ),
}


def write(folder, unit, config, weights, inputs, outputs):
    tensors = {}
    for kind, group in (("weights", weights), ("inputs", inputs), ("outputs", outputs)):
        for name, value in group.items():
            value = value.float() if value.is_floating_point() else value
            tensors[f"{kind}/{name}"] = value.contiguous().clone()
    save_file(tensors, folder / f"{unit}.safetensors")
    meta = {"system": "cogvlm2_video", "unit": unit, "config": config}
    (folder / f"{unit}.json").write_text(json.dumps(meta))


def eyes_unit(folder):
    weights = eyes_weights(EYES, seed=1)
    images = torch.randn(3, 3, 30, 30, generator=torch.Generator().manual_seed(0))
    outputs = OfficialEyes(weights, EYES).outputs(images)
    write(folder, "eva2_clip_e", EYES, weights, {"images": images}, outputs)


def layer_unit(folder, config):
    weights, inputs, outputs = layer_weights(config, seed=2), {}, {}
    generator = torch.Generator().manual_seed(3)
    for case, (types, real) in TYPES.items():
        types, real = torch.tensor(types), torch.tensor(real)
        states = torch.randn(*types.shape, config["hidden_size"], generator=generator)
        step = torch.randn(len(types), 1, config["hidden_size"], generator=generator)
        given = {"token_type_ids": types, "attention_mask": real, "hidden_states": states}
        positions = official_positions(types, real)
        found: dict[str, list] = {"position_ids": list(positions)}
        for row in range(len(types)):
            layer = OfficialLayer(weights, config)
            told = (types[row].tolist(), real[row].tolist(), positions[row].tolist())
            out, cache = layer.row(states[row], *told)
            if not case:
                given["step_hidden_states"], last = step, int(positions[row, -1]) + 1
                after, _ = layer.row(step[row], [0], [1], [last], cache)
                out["step_hidden_states"] = after["hidden_states"]
                out["step_position_ids"] = torch.tensor([last])
            for name, value in out.items():
                found.setdefault(name, []).append(value)
        inputs |= {case + name: value for name, value in given.items()}
        outputs |= {case + name: torch.stack(value) for name, value in found.items()}
    write(folder, "visual_expert_layer", config, weights, inputs, outputs)


def every_output_is_compared(folder, count, by=1e-2):
    rows = run_folders([folder])
    assert len(rows) == count
    assert all(row.ok for row in rows), [row for row in rows if not row.ok]
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    for name, value in tensors.items():
        if name.startswith("outputs/"):
            more = by if value.is_floating_point() else 1
            save_file(tensors | {name: value + more}, path)
            failed = {row.output for row in run_folders([folder]) if not row.ok}
            assert failed == {name.removeprefix("outputs/")}
    save_file(tensors, path)


def test_an_encoder_of_other_sizes_agrees(tmp_path):
    eyes_unit(tmp_path)
    every_output_is_compared(tmp_path, 5 + 2 * 4)


@pytest.mark.parametrize("config", LAYERS)
def test_a_layer_of_other_sizes_agrees(config, tmp_path):
    layer_unit(tmp_path, config)
    every_output_is_compared(tmp_path, 10 + 8)


def test_frames_and_tables_are_all_compared(tmp_path):
    for path in REFERENCE.glob("video_transform.*"):
        shutil.copy(path, tmp_path)
    every_output_is_compared(tmp_path, 12)


def test_a_changed_weight_and_an_unknown_key_are_noticed(tmp_path):
    layer_unit(tmp_path, LAYERS[1])
    (path,) = tmp_path.glob("*.safetensors")
    tensors = load_file(path)
    name = "weights/self_attn.vision_expert_dense.weight"
    save_file(tensors | {name: 1.01 * tensors[name]}, path)
    failed = {row.output for row in run_folders([tmp_path]) if not row.ok}
    assert "self_attn" in failed
    assert "key_rotated" not in failed
    save_file(tensors | {"weights/mlp.third_mlp.weight": torch.ones(2)}, path)
    assert "model.layers.0.mlp.third_mlp.weight" in run_folders([tmp_path])[0].note
    name = "weights/self_attn.rotary_emb.inv_freq"
    save_file(tensors | {name: 10000.0 ** (-torch.arange(2) / 2)}, path)
    assert "frequencies of base 500000" in run_folders([tmp_path])[0].note


def test_a_form_that_is_not_built_is_a_failure(tmp_path):
    eyes_unit(tmp_path)
    path = tmp_path / "eva2_clip_e.json"
    meta = json.loads(path.read_text())
    meta["config"]["vision_config"]["hidden_act"] = "relu"
    path.write_text(json.dumps(meta))
    assert "relu" in run_folders([tmp_path])[0].note


def test_lost_added_and_misshapen_released_keys_are_noticed(tmp_path):
    folder = tmp_path / "cogvlm2_video"
    folder.mkdir()
    told = json.loads((REFERENCE / "released_keys.json").read_text())
    video = next(c for name, c in told["checkpoints"].items() if "video" in name)
    told["checkpoints"] = {"THUDM/x": video}
    path, keys = folder / "released_keys.json", video["keys"]

    def failures(changed):
        video["keys"] = changed
        path.write_text(json.dumps(told))
        return {row.output or row.note for row in run_folders([folder]) if not row.ok}

    lost = {k: s for k, s in keys.items() if k != "model.vision.eoi"}
    assert {"names and shapes", "keys"} <= failures(lost)
    assert failures({**keys, "model.vision.conv.bias": [3]}) == {"names and shapes"}
    failures({**keys, "model.vision.neck.weight": [3]})
    assert "model.vision.neck.weight" in run_folders([folder])[0].note
    video["parameters"] += 1
    assert failures(keys) == {"parameters"}


def test_the_units_of_the_folder_are_all_known():
    names = {path.stem for path in REFERENCE.glob("*.json")}
    assert {name.partition("/")[2] for name in UNITS} <= names
