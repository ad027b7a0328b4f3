"""The MiniGPT4-video units without their tokenizer, at other limits, and the damage they notice."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlmcourse.checkpoints.minigpt4_video import to_official
from vlmcourse.reference import minigpt4_video_units as units
from vlmcourse.reference.rows import Unit
from vlmcourse.reference.runner import read_unit, run_folders

REFERENCE = Path(__file__).parent / "minigpt4_video"
LOSS = "minigpt4_video_loss"
SIZES = {
    "eva": {
        "img_size": 12, "patch_size": 3, "embed_dim": 12, "depth": 1, "num_heads": 3,
        "mlp_ratio": 2.5, "block_norm_eps": 1e-5,
    },
    "ln_vision_eps": 1e-4,
    "merge": 2,
    "llm": {
        "kind": "mistral", "vocab_size": 150, "hidden_size": 24, "intermediate_size": 20,
        "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 3,
        "rms_norm_eps": 1e-6, "rope_theta": 500.0, "sliding_window": None,
        "tie_word_embeddings": False,
    },
    "lora": {"r": 3, "alpha": 5, "dropout": 0.1},
    "max_context_len": 90,
    "max_txt_len": 9,
}  # fmt: skip


def copied(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        for path in REFERENCE.glob(f"{name}.*"):
            shutil.copy(path, folder)
    return folder


def failures(folder: Path) -> list[str]:
    return [f"{row.case}/{row.output}" for row in run_folders([folder]) if not row.ok]


def test_without_the_tokenizer_the_told_ids_do(tmp_path):
    copied(tmp_path, LOSS, f"{LOSS}_mistral", "token_merge")
    rows = run_folders([tmp_path])
    assert len(rows) == 4 + 46 + 20
    assert not failures(tmp_path)


def write_variant(folder: Path) -> Path:
    """A unit of other sizes whose outputs are what our own model gave; the answer is cut, and the
    context through a picture."""
    meta = json.loads((REFERENCE / f"{LOSS}.json").read_text())
    meta["config"] |= SIZES
    meta["cases"]["video_truncated"]["max_context_len"] = 30
    torch.manual_seed(0)
    empty = Unit(folder / f"{LOSS}.json", meta, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "load_strict", lambda *args: None)
        model = units.tiny_model(empty)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_()
    weights = to_official(model.state_dict())
    meta["config"]["trainable"] = [k for k in weights if "lora" in k or "llama_proj" in k]
    tensors = {f"weights/{key}": value for key, value in weights.items()}
    tensors["inputs/video_image"] = torch.randn(2, 3, 3, 12, 12)
    tensors["inputs/video_length"] = torch.tensor([3, 2])
    tensors["inputs/single_image"] = torch.randn(2, 3, 12, 12)
    names = [k for k in load_file(REFERENCE / f"{LOSS}.safetensors") if k.startswith("outputs/")]
    outputs: dict[str, torch.Tensor] = {}

    class Recorder(dict):
        def __contains__(self, key):
            return f"outputs/{key}" in names

        def __getitem__(self, key):
            return Recorded(key)

    class Recorded(str):
        def __getitem__(self, mask):
            return None  # logits, of which the real positions are compared

    def record(unit, case, output, ours, expected, atol=0.0):
        if expected is not None:
            outputs[str(expected)] = ours

    shutil.copy(REFERENCE / "tiny_tokenizer.model", folder)
    unit = Unit(empty.path, meta, tensors)
    unit.__dict__["outputs"] = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "compare_tensors", record)
        list(units.check_loss(unit))
    tensors |= {f"outputs/{key}": value for key, value in outputs.items()}
    save_file(
        {key: value.detach().contiguous().clone() for key, value in tensors.items()},
        folder / f"{LOSS}.safetensors",
    )
    for case in meta["cases"].values():  # ids of the cut answers are what our rows say
        if "answer_ids" in case:
            case["answer_ids"] = [ids[:9] for ids in case["answer_ids"]]
    empty.path.write_text(json.dumps(meta))
    return folder / f"{LOSS}.safetensors"


def test_a_unit_of_other_sizes_runs_and_notices_one_changed_weight(tmp_path):
    path = write_variant(tmp_path)
    assert not failures(tmp_path)
    unit = read_unit(path.with_suffix(".json"))
    cut = unit.outputs["video_truncated/attention_mask"].sum(1)
    assert cut.tolist() == [1 + 30 + 9, 1 + 30 + 8]
    assert unit.outputs["video/answer_targets"].shape == (2, 9)
    tensors = load_file(path)
    tensors[
        "weights/llama_model.base_model.model.model.layers.2.self_attn.v_proj.lora_B.weight"
    ] *= 1.01
    save_file(tensors, path)
    bad = failures(tmp_path)
    assert "video/loss" in bad
    assert "single_bare/loss" in bad


def test_damage_is_noticed(tmp_path):
    copied(tmp_path, LOSS, "tiny_tokenizer")
    path = tmp_path / f"{LOSS}.safetensors"
    whole = load_file(path)

    def change(name, value):
        save_file({**whole, name: value}, path)
        return failures(tmp_path)

    shifted = whole["outputs/video/labels"].roll(1, dims=1)
    assert change("outputs/video/labels", shifted) == ["video/labels"]
    scaled = whole["outputs/video/grad/llama_proj.bias"] * 1.01
    assert change("outputs/video/grad/llama_proj.bias", scaled) == ["video/grad/llama_proj.bias"]
    assert change("outputs/video/new", torch.ones(1)) == ["/video/new"]
    assert change("weights/query_tokens", torch.ones(1)) == ["/unit"]
    meta = json.loads((tmp_path / f"{LOSS}.json").read_text())
    meta["cases"]["inference"]["segment_ids"][0][0].pop(0)  # one begin token less
    (tmp_path / f"{LOSS}.json").write_text(json.dumps(meta))
    save_file(whole, path)
    assert failures(tmp_path) == ["inference/segment_ids"]


def test_a_lost_key_is_noticed(tmp_path):
    folder = copied(tmp_path / "minigpt4_video", "released_keys")
    meta = json.loads((folder / "released_keys.json").read_text())
    meta["checkpoint_keys"]["mistral"].popitem()
    meta["trainable_parameters"]["llama2"] += 1
    (folder / "released_keys.json").write_text(json.dumps(meta))
    assert failures(folder) == ["llama2/trainable parameters", "mistral/whole"]
