"""The units of CogVLM2 as a whole at sizes of our own, and the kind of damage they notice."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlmcourse.checkpoints.cogvlm2 import to_official
from vlmcourse.reference import cogvlm2_system_units as units
from vlmcourse.reference.runner import run_folders
from vlmcourse.systems.cogvlm2 import build_paper
from vlmcourse.systems.cogvlm2_config import CogVLM2Config

REFERENCE = Path(__file__).parent / "cogvlm2_video"
CONFIG = {
    "vocab_size": 50, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_multi_query_heads": 3, "rms_norm_eps": 1e-5,
    "vision_config": {
        "num_hidden_layers": 1, "hidden_size": 20, "patch_size": 5, "num_heads": 2,
        "intermediate_size": 30, "layer_norm_eps": 1e-6, "num_positions": 37, "image_size": 30,
    },
    "frames": 4, "tokens_per_frame": 11, "query": "And then?", "answer": "rain",
    "tokenizer": "one id per character: 4 + ord(ch) % (50-4); bos 2, eos 3, placeholder 1",
}  # fmt: skip


# ---------------------------------------------------------------- a second, plain implementation


def positions_of(types):
    """Shared positions of one row, token by token."""
    marks = [
        kind == 0 or i == 0 or i == len(types) - 1 or types[i - 1] == 0 or types[i + 1] == 0
        for i, kind in enumerate(types)
    ]
    found = []
    for i, mark in enumerate(marks):
        rises = i > 0 and (mark or marks[i - 1])
        found.append(0 if i == 0 else found[-1] + rises)
    return found


def turned(x, positions):
    """Rotary embedding of `[H, L, d]`, halves paired."""
    half = x.shape[-1] // 2
    angles = torch.tensor(positions)[:, None] * 500000.0 ** (-torch.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


def norm(x, weight):
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()


def decoded(weights, ids, types, seen):
    """One row through the official weights: embeddings, states behind each layer, logits."""
    heads, groups, width = 6, 3, CONFIG["hidden_size"]
    size, positions = width // heads, positions_of(types)
    expert = [t == n == 1 for t, n in zip(types, [*types[1:], 0])]
    if not any("vision_expert" in key for key in weights):
        expert = [False] * len(ids)
    x = weights["model.embed_tokens.weight"][torch.tensor(ids)].clone()
    x[torch.tensor(types) == 1] = seen
    embeddings, states = x, []

    def linear(part, rows, suffixes):
        return torch.stack(
            [
                torch.nn.functional.linear(
                    row,
                    weights[f"{part.format(suffixes[e])}.weight"],
                    weights.get(f"{part.format(suffixes[e])}.bias"),
                )
                for row, e in zip(rows, expert)
            ]
        )

    for number in range(CONFIG["num_hidden_layers"]):
        layer = f"model.layers.{number}."
        names = ("language_expert", "vision_expert")
        fused = linear(
            f"{layer}self_attn.{{}}_query_key_value",
            norm(x, weights[f"{layer}input_layernorm.weight"]),
            names,
        )
        query, key, value = fused.split([width, groups * size, groups * size], -1)
        query = turned(query.view(-1, heads, size).transpose(0, 1), positions)
        key = turned(key.view(-1, groups, size).transpose(0, 1), positions)
        key = key.repeat_interleave(heads // groups, 0)
        value = value.view(-1, groups, size).transpose(0, 1).repeat_interleave(heads // groups, 0)
        scores = query @ key.transpose(1, 2) / size**0.5
        hidden = torch.ones(len(ids), len(ids)).triu(1).bool()
        mixed = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value
        x = x + linear(f"{layer}self_attn.{{}}_dense", mixed.transpose(0, 1).flatten(1), names)
        names, inner = (
            ("language_mlp", "vision_mlp"),
            norm(x, weights[f"{layer}post_attention_layernorm.weight"]),
        )
        gate, up = (linear(f"{layer}mlp.{{}}.{part}_proj", inner, names) for part in ("gate", "up"))
        x = x + linear(f"{layer}mlp.{{}}.down_proj", gate * gate.sigmoid() * up, names)
        states.append(x)
    logits = norm(x, weights["model.norm.weight"]) @ weights["lm_head.weight"].T
    return embeddings, states, logits


def answered(weights, ids, types, seen, count=4):
    """Likeliest tokens one after the other, each time with a pass over all; the logits behind."""
    start = len(ids)
    for _ in range(count):
        best = int(decoded(weights, ids, types, seen)[2][-1].argmax())
        ids, types = [*ids, best], [*types, 0]
    logits = decoded(weights, ids, types, seen)[2]
    return torch.tensor([ids[start:]]), logits[None, start:]


# ---------------------------------------------------------------- units of other sizes


def rows_of_pictures():
    """No picture, two, and one; the third row is padded."""
    picture = [1] * 11
    return [[2, 7, 7, 9, 5], [2, *picture, 6, *picture, 9, 8], [2, *picture, 5, 4, 20]]


def padded(rows, value):
    length = max(map(len, rows))
    return torch.tensor([row + [value] * (length - len(row)) for row in rows])


def results(weights, rows, labels, seen, prefix):
    """Outputs of padded rows."""
    found = {name: [] for name in ("inputs_embeds", "layer_0", "layer_1", "layer_2", "logits")}
    loss, positions, count, length = 0.0, [], 0, max(map(len, rows))
    for row, own_labels, own in zip(rows, labels, seen):
        types = [int(i == 1) for i in row]
        embeddings, states, logits = decoded(weights, row, types, own)
        wanted = torch.tensor([*own_labels[1 : len(row)], -100])
        loss = loss + torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
        count += int((wanted != -100).sum())
        positions.append((positions_of(types) + [positions_of(types)[-1]] * length)[:length])
        pad = weights["model.embed_tokens.weight"][1].expand(length - len(row), -1)
        for name, value in zip(found, (embeddings, *states, logits)):
            rest = (
                pad
                if name == "inputs_embeds"
                else value.new_zeros(length - len(row), value.shape[1])
            )
            found[name].append(torch.cat([value, rest]))
    outputs = {f"{prefix}{name}": torch.stack(value) for name, value in found.items()}
    return outputs | {
        f"{prefix}position_ids": torch.tensor(positions),
        f"{prefix}loss": torch.as_tensor(loss / count),
    }


def write_unit(folder: Path, name: str) -> Path:
    """A unit whose outputs the plain implementation computed (pictures' tokens are ours)."""
    torch.manual_seed(0)
    meta = {"system": "cogvlm2_video", "unit": name, "config": CONFIG}
    experts = name == "cogvlm2_loss"
    vision, llama = units.sizes_of(CONFIG)
    config = CogVLM2Config(experts=experts, image_size=30, patch_size=5, adapter_width=40)
    model = build_paper("cpu", config, vision, llama)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    weights = to_official({key: value.detach() for key, value in model.state_dict().items()})
    pixels = torch.randn(3 if experts else 4, 3, 30, 30)
    with torch.no_grad():
        one_each = torch.ones(len(pixels), 1, dtype=torch.bool)
        features = model.encode_frames(pixels)[:, None]
        vision_tokens = model.connect(features, one_each, one_each.float())[0]
    fill = images if experts else videos
    inputs, outputs = fill(weights, pixels, vision_tokens)
    groups = {"weights": weights, "inputs": inputs, "outputs": {**outputs, "vision": vision_tokens}}
    tensors = {f"{group}/{key}": t for group, own in groups.items() for key, t in own.items()}
    path = folder / f"{name}.safetensors"
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, path)
    path.with_suffix(".json").write_text(json.dumps(meta))
    return path


def images(weights, pixels, seen):
    rows = rows_of_pictures()
    labels = [[-100 if i == 1 or n < 3 else i for n, i in enumerate(row)] for row in rows]
    ids = padded(rows, 1)
    real = padded([[1] * len(row) for row in rows], 0)
    own = [seen[:0].flatten(0, 1), seen[:2].flatten(0, 1), seen[2]]
    outputs = results(weights, rows, labels, own, "")
    answer, logits = answered(weights, rows[0], [0] * len(rows[0]), own[0])
    inputs = {
        "input_ids": ids,
        "token_type_ids": ((ids == 1) & real.bool()).long(),
        "attention_mask": real,
        "labels": padded(labels, -100),
        "images": pixels,
        "images_per_sample": torch.tensor([0, 2, 1]),
    }
    return inputs, outputs | {"generated_ids": answer, "generated_logits": logits}


def videos(weights, pixels, seen):
    def text(words):
        return [4 + ord(character) % 46 for character in words]

    frames = [[1] * 11 + text(str(number)) for number in range(4)]
    prompts = {
        "chat": [2, *(i for frame in frames for i in frame), *text("Question: And then? Answer:")],
        "base": [2, *[1] * 44, *text("And then?")],
    }
    seen, ending = seen.flatten(0, 1), [*text("rain"), 3]
    inputs, outputs = {"frames": pixels}, {}
    for case, prompt in prompts.items():
        labels = [-100] * len(prompt) + ending
        inputs[f"{case}_input_ids"] = torch.tensor([prompt + ending])
        inputs[f"{case}_token_type_ids"] = (inputs[f"{case}_input_ids"] == 1).long()
        inputs[f"{case}_labels"] = torch.tensor([labels])
        outputs |= results(weights, [prompt + ending], [labels], [seen], f"{case}_")
    types = [int(i == 1) for i in prompts["chat"]]
    inputs["prompt_input_ids"] = torch.tensor([prompts["chat"]])
    inputs["prompt_token_type_ids"] = torch.tensor([types])
    answer, logits = answered(weights, prompts["chat"], types, seen)
    return inputs, outputs | {"generated_ids": answer, "generated_logits": logits}


@pytest.mark.parametrize(("name", "count"), [("cogvlm2_loss", 11), ("cogvlm2_video_loss", 26)])
def test_units_of_other_sizes_agree_and_notice_one_changed_weight(name, count, tmp_path):
    path = write_unit(tmp_path, name)
    rows = run_folders([tmp_path])
    assert [row for row in rows if not row.ok] == []
    assert len(rows) == count
    tensors = load_file(path)
    tensors["weights/model.layers.1.self_attn.language_expert_dense.weight"] *= 1.01
    save_file(tensors, path)
    assert any(not row.ok for row in run_folders([tmp_path]))
    tensors["weights/model.pooler.weight"] = torch.ones(2)
    save_file(tensors, path)
    assert "keys of no known part" in run_folders([tmp_path])[0].note


def test_what_no_text_and_no_counter_would_be_is_noticed(tmp_path):
    for path in REFERENCE.glob("cogvlm2_video_loss.*"):
        shutil.copy(path, tmp_path)
    shutil.copy(REFERENCE / "prompts.json", tmp_path)
    meta = json.loads((tmp_path / "prompts.json").read_text())
    meta["rows"][0]["encoded_texts"][2] = "3"
    meta["rows"][1]["last_position"] += 1
    (tmp_path / "prompts.json").write_text(json.dumps(meta))
    meta = json.loads((tmp_path / "cogvlm2_video_loss.json").read_text())
    meta["config"]["answer"] = "A cat"
    (tmp_path / "cogvlm2_video_loss.json").write_text(json.dumps(meta))
    bad = {(row.unit, row.output) for row in run_folders([tmp_path]) if not row.ok}
    assert {("prompts", "encoded_texts"), ("prompts", "last_position")} <= bad
    assert {("cogvlm2_video_loss", "labels"), ("cogvlm2_video_loss", "loss")} <= bad
    assert ("cogvlm2_video_loss", "generated_ids") not in bad
