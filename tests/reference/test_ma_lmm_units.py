"""The MA-LMM units at sizes of our own, and the kind of damage they notice."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from ma_lmm_twin import Bank, Twin
from safetensors.torch import load_file, save_file

from vlmcourse.checkpoints.ma_lmm import to_official
from vlmcourse.reference import ma_lmm_units as units
from vlmcourse.reference.rows import Unit
from vlmcourse.reference.runner import run_folders

REFERENCE = Path(__file__).parent / "ma_lmm"
FORMER = {
    "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 20,
    "max_position_embeddings": 11, "vocab_size": 29, "cross_attention_freq": 2,
    "layer_norm_eps": 1e-12,
}  # fmt: skip
QFORMER = {
    "memory_bank_length": 4, "max_num_frames": 9, "num_query_token": 5, "vision_width": 14,
    "tokens_per_frame": 6, "ln_vision": {"eps": 1e-3}, "qformer": FORMER, "llm_hidden": 18,
    "cases": {
        "nine": {"B": 3, "T": 9, "num_frames": 9},
        "small_bank": {"B": 2, "T": 5, "num_frames": 5, "memory_bank_length": 1},
        "apart": {"B": 2, "T": 4, "memory_bank_length": 0},
    },
}  # fmt: skip
WORDS = {"nine": [10, 7, 3], "small_bank": [4, 6], "apart": [5, 5]}
LOSS = {
    "memory_bank_length": 3, "num_frames": 4, "max_num_frames": 6, "num_query_token": 3,
    "vit": {
        "img_size": 24, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 3,
        "mlp_ratio": 3.0, "layer_norm_eps": 1e-5,
    },
    "ln_vision_eps": 1e-4, "qformer": FORMER,
    "llama": {
        "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 28, "rms_norm_eps": 1e-5,
        "rope_theta": 500.0,
    },
    "tokenizer_ids": {"pad": 60, "bos_in_use": 2, "eos": 2},
    "generation": {
        "num_beams": 2, "num_return_sequences": 2, "max_length": 6, "min_length": 1,
        "do_sample": False, "repetition_penalty": 1.5, "length_penalty": 1, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0,
    },
}  # fmt: skip


def padded(lengths, most, low, high, left=False):
    """Ids and mask of texts of some lengths."""
    ids, mask = torch.zeros(len(lengths), most, dtype=torch.long), torch.zeros(len(lengths), most)
    for row, length in enumerate(lengths):
        place = slice(most - length, most) if left else slice(0, length)
        ids[row, place] = torch.randint(low, high, (length,))
        mask[row, place] = 1
    return ids, mask.long()


def empty_unit(folder, name, config, **more):
    """A unit without numbers, whose model gets random weights large enough to matter."""
    meta = {"system": "ma_lmm", "unit": name, "config": config, **more}
    unit = Unit(folder / f"{name}.json", meta, {})
    torch.manual_seed(3)
    model = units.tiny_model(unit, config["memory_bank_length"])
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            parameter.normal_(std=0.3)
            if "norm" in parameter_name and parameter_name.endswith("weight"):
                parameter += 1
    return unit, to_official(model.state_dict())


def save(unit, tensors):
    kept = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
    save_file(kept, unit.path.with_suffix(".safetensors"))
    unit.path.write_text(json.dumps(unit.meta))


def qformer_unit(folder):
    """Expected numbers come from the twin, in float64 and one video at a time."""
    unit, weights = empty_unit(folder, "ma_lmm_qformer", QFORMER)
    weights = {k: v for k, v in weights.items() if not k.startswith("llm_model.")}
    twin = Twin(weights, FORMER["num_attention_heads"], FORMER["cross_attention_freq"], 1e-3)
    tensors = {f"weights/{key}": value for key, value in weights.items()}
    for case, told in QFORMER["cases"].items():
        features = torch.randn(told["B"], told["T"], 6, 14)
        ids, mask = padded(WORDS[case], max(WORDS[case]), 1, 29)
        given = {"features": features, "text_ids": ids, "text_mask": mask}
        tensors |= {f"inputs/{case}/{key}": value for key, value in given.items()}
        capacity = told.get("memory_bank_length", 4)
        if not capacity:
            tensors |= {f"outputs/{case}/{k}": v for k, v in apart(twin, given).items()}
            continue
        videos = [
            twin.read(*one, capacity) for one in zip(features, ids, mask.double(), strict=True)
        ]
        for t in range(told["T"]):
            last, names = t == told["T"] - 1, videos[0][t]
            for name in names:
                value = torch.stack([video[t][name] for video in videos]).float()
                if name == "visual_size":
                    full = f"visual_size.compress{t - capacity:02d}"
                    if t >= capacity and not last:
                        tensors[f"outputs/{case}/{full}"] = value
                elif not (name.endswith("size.layer0") or (last and "bank" in name)):
                    tensors[f"outputs/{case}/step{t:02d}/{name}"] = value
        final = torch.stack([video[-1]["query_output"][:5] for video in videos])
        tensors[f"outputs/{case}/final_query_output"] = final.float()
        tensors[f"outputs/{case}/inputs_llm"] = twin.linear(final, "llm_proj").float()
    save(unit, tensors)


def apart(twin, given):
    """Every frame alone, without its position."""
    twin.w["image_pe.weight"], kept = twin.w["image_pe.weight"] * 0, twin.w["image_pe.weight"]
    out = torch.stack([
        twin.read(frame[None], ids, mask.double(), 1)[0]["query_output"][:5]
        for features, ids, mask in zip(*given.values(), strict=True)
        for frame in features
    ])  # fmt: skip
    twin.w["image_pe.weight"] = kept
    llm = twin.linear(out.unflatten(0, (2, 4)).flatten(1, 2), "llm_proj")
    return {"query_output": out.float(), "inputs_llm": llm.float()}


def compress_unit(folder):
    config = {"cases": {"big": {}, "chain": {"memory_bank_length": 5}}}
    unit = Unit(
        folder / "memory_bank_compress.json",
        {"system": "ma_lmm", "unit": "memory_bank_compress", "config": config},
    )
    torch.manual_seed(4)
    frames = torch.randn(3, 13, 4, 7).cumsum(1)
    sizes = torch.randint(1, 9, (3, 6, 4)).float()
    tensors = {"inputs/chain/frames": frames, "inputs/big/bank": frames[:, :6]}
    tensors["inputs/big/size"] = sizes
    banks = [Bank(5) for _ in frames]
    for t in range(13):
        for bank, video in zip(banks, frames, strict=True):
            bank.append(video[t].double())
        step = f"outputs/chain/step{t:02d}"
        tensors[f"{step}/bank"] = torch.stack([bank.tensor() for bank in banks]).float()
        tensors[f"{step}/size"] = torch.stack([bank.sizes() for bank in banks])
    for bank, video, size in zip(banks, frames, sizes, strict=True):
        bank.lists = [
            [(vector.double(), float(n)) for vector, n in zip(video[:5, p], size[:5, p])]
            for p in range(4)
        ]
        for p, entries in enumerate(bank.lists):
            entries.append((video[5, p].double(), float(size[5, p])))
            bank.capacity = 6
        merge(bank)
    tensors["outputs/big/bank"] = torch.stack([bank.tensor() for bank in banks]).float()
    tensors["outputs/big/size"] = torch.stack([bank.sizes() for bank in banks])
    similarity = torch.cosine_similarity(frames[:, :5], frames[:, 1:6], dim=-1)
    tensors["outputs/big/similarity"] = similarity
    tensors["outputs/big/merge_index"] = similarity.argmax(1)
    save(unit, tensors)


def merge(bank):
    """One merge of a full bank: a new frame comes, and what it did is taken back."""
    for entries in bank.lists:
        alike = [float(torch.cosine_similarity(a[0], b[0], dim=0)) for a, b in pairwise(entries)]
        best = alike.index(max(alike))
        (x, n), (y, m) = entries[best : best + 2]
        entries[best : best + 2] = [((n * x + m * y) / (n + m), n + m)]


def loss_unit(folder):
    """Expected numbers are our own: the row is that of other sizes, and what moves is noticed."""
    count = {"trainable_parameters_in_official_setting": {"count": 118}}
    silent = [
        f"Qformer.bert.encoder.layer.3.{part}"
        for part in (
            *(f"intermediate.dense.{one}" for one in ("weight", "bias")),
            *(f"output.dense.{one}" for one in ("weight", "bias")),
            *(f"output.LayerNorm.{one}" for one in ("weight", "bias")),
        )
    ]
    more = count | {"trainable_but_zero_gradient_here": silent}
    unit, weights = empty_unit(folder, "ma_lmm_loss", LOSS, **more)
    tensors = {f"weights/{key}": value for key, value in weights.items()}
    inputs = {"frames": torch.randn(3, 3, 4, 24, 24)}
    for name, most, lengths, high, left in (
        ("qformer_text", 8, (8, 3, 5), 29, False),
        ("llm_text_input", 7, (4, 7, 5), 60, False),
        ("llm_text_output", 5, (5, 3, 4), 60, False),
        ("gen_prompt", 7, (4, 7, 5), 60, True),
    ):
        ids, mask = padded(lengths, most, 3, high, left)
        inputs |= {f"{name}_ids": ids, f"{name}_mask": mask}
    tensors |= {f"inputs/{key}": value for key, value in inputs.items()}
    whole = Unit(unit.path, unit.meta, tensors)
    outputs = {}
    names = ["llm_proj.weight", "image_pe.weight", "query_tokens"]

    class Recorder(dict):
        def __getitem__(self, key):
            return Named(key)

        def __iter__(self):
            return iter([f"grad/{name}" for name in names])

    class Named(str):
        def __getitem__(self, mask):
            return Named(self)

    def record(unit, case, output, ours, expected, atol=0.0):
        outputs[str(expected)] = ours

    whole.__dict__["outputs"] = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "compare_tensors", record)
        list(units.check_loss(whole))
    real = units.training_batch(whole).attention
    logits = torch.zeros(*real.shape, 61)
    logits[real] = outputs["logits"]
    outputs["logits"] = logits
    save(unit, tensors | {f"outputs/{key}": value for key, value in outputs.items()})


def test_banks_and_former_of_other_sizes_agree_with_a_twin_in_double_precision(tmp_path):
    qformer_unit(tmp_path)
    compress_unit(tmp_path)
    rows = run_folders([tmp_path])
    assert all(row.ok for row in rows), [row for row in rows if not row.ok]
    assert len(rows) == 161
    path = tmp_path / "ma_lmm_qformer.safetensors"
    tensors = load_file(path)
    key = "weights/Qformer.bert.encoder.layer.2.crossattention.self.value.weight"
    tensors[key] *= 1.01
    save_file(tensors, path)
    assert any(not row.ok for row in run_folders([tmp_path]))
    tensors[key] /= 1.01
    tensors["outputs/nine/visual_size.compress02"][0, 1, 2] += 1
    save_file(tensors, path)
    assert [row.output for row in run_folders([tmp_path]) if not row.ok] == [
        "visual_size.compress02"
    ]


def test_a_whole_system_of_other_sizes_runs_and_damage_is_noticed(tmp_path):
    loss_unit(tmp_path)
    rows = run_folders([tmp_path])
    assert all(row.ok for row in rows), [row for row in rows if not row.ok]
    path = tmp_path / "ma_lmm_loss.safetensors"
    tensors = load_file(path)
    moved = tensors["outputs/grad/image_pe.weight"].abs().amax(1) > 0
    assert moved.nonzero().flatten().tolist() == [3]  # four frames; only the last one's row
    labels = tensors["outputs/labels"]
    tensors["outputs/labels"] = labels.roll(1, dims=1)
    save_file(tensors, path)
    assert [row.output for row in run_folders([tmp_path]) if not row.ok] == ["labels"]
    tensors["outputs/labels"] = labels
    tensors["weights/Qformer.bert.pooler.weight"] = torch.ones(2)
    save_file(tensors, path)
    assert "keys of no known part" in run_folders([tmp_path])[0].note


def test_a_lost_key_and_a_wrong_shape_are_noticed(tmp_path):
    tmp_path = tmp_path / "ma_lmm"
    tmp_path.mkdir()
    shutil.copy(REFERENCE / "released_keys.json", tmp_path)
    path = tmp_path / "released_keys.json"
    keys = json.loads(path.read_text())
    del keys["trainable_module_keys"]["query_tokens"]
    keys["frozen_visual_encoder_keys"]["visual_encoder.pos_embed"] = [1, 1025, 1408]
    path.write_text(json.dumps(keys))
    bad = {(row.case, row.output) for row in run_folders([tmp_path]) if not row.ok}
    assert ("trainable_module_keys", "whole part") in bad
    assert ("frozen_visual_encoder_keys", "shapes") in bad
