"""The Video-LLaMA units at sizes of our own, and the kind of damage they notice."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlmcourse.checkpoints.video_llama import to_official
from vlmcourse.reference import video_llama_units as units
from vlmcourse.reference.rows import Unit
from vlmcourse.reference.runner import run_folders

REFERENCE = Path(__file__).parent / "video_llama"
CONFIG = {
    "vit": {
        "image_size": 24, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 3,
        "mlp_ratio": 2.5, "eps": 1e-5, "ln_vision_eps": 1e-4,
    },
    "image_qformer": {
        "hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 22, "encoder_width": 12, "cross_attention_freq": 2,
        "num_query_token": 5, "layer_norm_eps": 1e-12,
    },
    "video_qformer": {
        "hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 26, "encoder_width": 20, "cross_attention_freq": 1,
        "num_query_token": 7, "layer_norm_eps": 1e-12,
    },
    "audio_qformer": {
        "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 26, "encoder_width": 14, "cross_attention_freq": 1,
        "num_query_token": 3, "layer_norm_eps": 1e-12,
    },
    "imagebind": {
        "out_embed_dim": 14,
        "audio": {
            "num_mel_bins": 26, "target_length": 36, "kernel": 16, "stride": 10,
            "embed_dim": 12, "num_blocks": 1, "num_heads": 2,
        },
        "vision": {
            "image_size": 24, "patch": 8, "embed_dim": 8, "num_blocks": 1, "num_heads": 2,
        },
    },
    "audio_position_embedding": {"num": 6, "dim": 14},
    "max_frame_pos": 9,
    "llm_hidden": 18,
}  # fmt: skip
GIVEN = {
    "video_llama_vision": {
        "frames": torch.randn(3, 3, 5, 24, 24), "image": torch.randn(1, 3, 24, 24),
    },
    "video_llama_audio": {
        "audio": torch.randn(3, 6, 1, 26, 36), "frames": torch.randn(3, 2, 3, 24, 24),
    },
}  # fmt: skip
NOT_IN_FILES = ("llama_model.",)


def write_unit(folder: Path, name: str) -> Path:
    """A unit whose outputs are what our own model gave."""
    meta = {"system": "video_llama", "unit": name, "config": CONFIG}
    torch.manual_seed(0)
    empty = Unit(folder / f"{name}.json", meta, {})
    weights = to_official(units.tiny_model(empty).state_dict())
    tensors = {f"weights/{k}": v for k, v in weights.items() if not k.startswith(NOT_IN_FILES)}
    tensors |= {f"inputs/{key}": value for key, value in GIVEN[name].items()}
    unit = Unit(empty.path, meta, tensors)
    outputs: dict[str, torch.Tensor] = {}

    class Recorder(dict):
        def __getitem__(self, key):
            return key

    def record(unit, case, output, ours, expected, atol=0.0):
        outputs[expected] = ours

    unit.__dict__["outputs"] = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "compare_tensors", record)
        list(units.UNITS[f"video_llama/{name}"](unit))
    tensors |= {f"outputs/{key}": value for key, value in outputs.items()}
    save_file(
        {key: value.detach().contiguous().clone() for key, value in tensors.items()},
        folder / f"{name}.safetensors",
    )
    empty.path.write_text(json.dumps(meta))
    return folder / f"{name}.safetensors"


@pytest.mark.parametrize(("name", "count"), [("video_llama_vision", 8), ("video_llama_audio", 10)])
def test_units_of_other_sizes_run_and_notice_one_changed_weight(name, count, tmp_path):
    path = write_unit(tmp_path, name)
    rows = run_folders([tmp_path])
    assert len(rows) == count
    assert all(row.ok for row in rows), [row for row in rows if not row.ok]
    tensors = load_file(path)
    part = "video" if name.endswith("vision") else "audio"
    tensors[f"weights/{part}_Qformer.bert.encoder.layer.1.crossattention.self.value.weight"] *= 1.01
    save_file(tensors, path)
    assert any(not row.ok for row in run_folders([tmp_path]))
    tensors[f"weights/{part}_Qformer.bert.pooler.weight"] = torch.ones(2)
    save_file(tensors, path)
    assert "keys of no known part" in run_folders([tmp_path])[0].note


def test_a_shifted_label_and_a_lost_key_are_noticed(tmp_path):
    tmp_path = tmp_path / "video_llama"  # the folder's name is the system of released_keys.json
    tmp_path.mkdir()
    for path in REFERENCE.glob("video_llama_conversation.*"):
        shutil.copy(path, tmp_path)
    shutil.copy(REFERENCE / "released_keys.json", tmp_path)
    path = tmp_path / "video_llama_conversation.safetensors"
    tensors = load_file(path)
    labels = tensors["outputs/video_vicuna_labels"]
    tensors["outputs/video_vicuna_labels"] = labels.roll(1, dims=1)
    save_file(tensors, path)
    keys = json.loads((tmp_path / "released_keys.json").read_text())
    del keys["vision_branch_keys"]["video_query_tokens"]
    (tmp_path / "released_keys.json").write_text(json.dumps(keys))
    bad = [(row.unit, row.case, row.output) for row in run_folders([tmp_path]) if not row.ok]
    assert ("video_llama_conversation", "video vicuna", "labels") in bad
    assert ("released_keys", "vision", "whole branch") in bad
    assert len(bad) == 2
