"""Chat-UniVi's units at sizes of our own, by transformers' classes and a second formulation."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from chat_univi_twin import (
    Recorder,
    original_clusters,
    original_merge,
    original_picture,
    original_video,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from vlmcourse.reference.chat_univi_system_units import find_runs
from vlmcourse.reference.runner import run_folders

REFERENCE = Path(__file__).parent / "chat_univi"
KS = [4, 3]


def write(folder, unit, meta, tensors):
    save_file({name: t.contiguous().clone() for name, t in tensors.items()},
              folder / f"{unit}.safetensors")  # fmt: skip
    told = {"system": "chat_univi", "unit": unit, **meta}
    (folder / f"{unit}.json").write_text(json.dumps(told))


def put(tensors, group, case, values):
    tensors.update({f"{group}/{case}/{name}": value for name, value in values.items()})


def put_noise(tensors, case, drawn):
    put(tensors, "inputs", case, {f"noise/{n:02}": noise for n, noise in enumerate(drawn)})


def every_output_is_compared(folder):
    rows = run_folders([folder])
    assert all(row.ok for row in rows), [row for row in rows if not row.ok]
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    for name, value in tensors.items():
        if name.startswith("outputs/"):
            save_file(tensors | {name: value + (1e-2 if value.is_floating_point() else 1)}, path)
            rows = run_folders([folder])
            failed = {f"{row.case}/{row.output}".lstrip("/") for row in rows if not row.ok}
            assert name.removeprefix("outputs/") in failed
    save_file(tensors, path)


def test_clustering(tmp_path):
    cases = {
        "plain": {"B": 3, "N": 17, "C": 5, "cluster_num": 6, "k": 4, "token_mask": False},
        "long": {"B": 2, "N": 31, "C": 9, "cluster_num": 4, "k": 3, "token_mask": False},
        "holes": {"B": 2, "N": 15, "C": 5, "cluster_num": 3, "k": 3, "token_mask": True},
        "k_above": {"B": 2, "N": 15, "C": 5, "cluster_num": 3, "k": 7, "token_mask": False},
        "noisy": {"B": 1, "N": 13, "C": 5, "cluster_num": 2, "k": 1, "token_mask": False},
    }
    generator, tensors = torch.Generator().manual_seed(7), {}
    for case, sizes in cases.items():
        shape = (sizes["B"], sizes["N"])
        x = torch.randn(*shape, sizes["C"], generator=generator)
        noise = torch.rand(shape, generator=generator)
        weights = 0.5 + torch.rand(*shape, 1, generator=generator)
        given = {"x": x, "noise": noise, "token_weight": weights}
        if sizes["token_mask"]:
            given["token_mask"] = (torch.rand(shape, generator=generator) < 0.7).float()
        found = original_clusters(
            x, sizes["cluster_num"], sizes["k"], noise, given.get("token_mask")
        )
        ids, count = found["cluster_id"], sizes["cluster_num"]
        found["merged_uniform"] = original_merge(x, ids, count)[0]
        merged, shares = original_merge(x, ids, count, weights)
        found |= {"merged_weighted": merged, "agg_weight_weighted": shares}
        put(tensors, "inputs", case, given)
        put(tensors, "outputs", case, found)
    rule = [[12, 5, 40, 12, 5], [12, 5, 9, -1, -1], [3, 4, 10, 3, 1], [0.3, 4, 10, 3, 1]]
    tensors["outputs/ctm_rule"] = torch.tensor([*rule, [7, 9, 10, 7, 3], [1, 3, 5, 5, 3.0]])
    write(tmp_path, "dpc_knn", {"config": {"cases": cases}}, tensors)
    every_output_is_compared(tmp_path)


def projector(tensors, width, hidden, case=""):
    weight, bias = torch.randn(hidden, width), torch.randn(hidden)
    head = f"weights/{case}model.mm_projector"
    tensors |= {f"{head}.weight": weight, f"{head}.bias": bias}
    return lambda x: F.linear(x, weight, bias)


def test_pictures(tmp_path):
    torch.manual_seed(1)
    tensors, cases = {}, {}
    for case, (count, rates) in {"a": (25, [9, 4]), "b": (14, [0.5, 3])}.items():
        x, draw = torch.randn(2, count, 7), Recorder(3)
        scales, told = original_picture(x, rates, KS, draw)
        sizes = [scale.shape[1] for scale in scales]
        used = [min(3, max(n // 2, 1)) if k > n else k for n, k in zip(sizes, KS)]
        cases[case] = {"rates": rates, "k_used": used, "tokens_out": sum(sizes)}
        told["visual_tokens"] = projector(tensors, 7, 5, f"{case}/")(torch.cat(scales, 1))
        put(tensors, "inputs", case, {"features": x})
        put_noise(tensors, case, draw.drawn)
        put(tensors, "outputs", case, told)
    write(tmp_path, "image_merge", {"config": {"k": KS, "cases": cases}}, tensors)
    every_output_is_compared(tmp_path)


def test_videos(tmp_path):
    torch.manual_seed(2)
    tensors, cases = {}, {}
    project = projector(tensors, 6, 5)
    for frames, rate in ((2, 0.1), (5, 0.1), (19, 0.1), (34, 0.05)):
        case, draw = f"t{frames}", Recorder(frames)
        x = torch.randn(frames, 9, 6) + 2 * torch.randn(frames, 1, 6)
        tokens, told = original_video(x, [4, 3], KS, rate, 5, draw)
        cases[case] = {"T": frames, "rates": [4, 3], "temporal_rate": rate}
        cases[case] |= {"branch": "image", "tokens_out": len(tokens)}
        if frames > 2:
            count = len(told["event_order"])
            used = 5 if count >= 5 else max(count // 2, 1)
            cases[case] |= {"branch": "video", "events": count, "temporal_k_used": used}
        told["visual_tokens"] = project(tokens)
        put(tensors, "inputs", case, {"features": x})
        put_noise(tensors, case, draw.drawn)
        put(tensors, "outputs", case, told)
    config = {"k": KS, "temporal_k": 5, "official_temporal_rate": 1 / 16, "cases": cases}
    write(tmp_path, "video_merge", {"config": config}, tensors)
    every_output_is_compared(tmp_path)


# ---------------------------------------------------------------- the whole model

CLIP = {
    "image_size": 12, "patch_size": 4, "hidden_size": 8, "intermediate_size": 12,
    "num_hidden_layers": 3, "num_attention_heads": 2, "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}  # fmt: skip
LLAMA = {
    "vocab_size": 30, "hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 3, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
}  # fmt: skip
CASES = {
    "mixed": [[1, 5, 0, 9, 8], [1, 7, 7], [1, 0, 0, 0, 0, 4, 6], [0, 0, 3]],
    "film": [[1, 4, *[0] * 12, 9, 9, 9]],
    "apart": [[1, 4, 0, 9, 8, 0, 0, 0, 6, 5]],
}
"""Rows of ids; 0 is a picture or frame."""


def tiny_parts():
    torch.manual_seed(4)
    clip = CLIPVisionModel(CLIPVisionConfig(**CLIP)).eval()
    told = {name: value for name, value in LLAMA.items() if name != "rope_theta"}
    llama = LlamaForCausalLM(LlamaConfig(**told, attn_implementation="eager")).eval()
    for parameter in (*clip.parameters(), *llama.parameters()):
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0, 0.3)
    return clip, llama


def official_keys(clip, llama, tensors) -> None:
    tower = "weights/model.vision_tower.vision_tower.vision_model."
    tensors |= {tower + name: value for name, value in clip.state_dict().items()}
    tensors |= {f"weights/{name}": value for name, value in llama.state_dict().items()}


@torch.no_grad()
def case_of(tensors, case, rows, clip, llama, project, config):
    """What the official code makes of a case, row by row; also of several runs in a row."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [-1] * (longest - len(row)) for row in rows])
    attention = (ids != -1).long()
    labels = ids.masked_fill(ids <= 6, -100)
    ids = ids.masked_fill(ids == 0, -200).masked_fill(ids == -1, 0)
    owned = sum(max(row.count(0), 1) for row in rows)
    pixels = torch.randn(owned, 3, CLIP["image_size"], CLIP["image_size"])
    features = clip(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    draw, taken, several = Recorder(len(case)), 0, False
    made = []
    for row in range(len(rows)):
        own = [run for run in find_runs(ids, -200) if run.row == row]
        taken, several = taken + (not own), several or len(own) > 1
        words = llama.get_input_embeddings()(ids[row].clamp(min=0))
        seen, told, left = [], [], labels[row]
        for run in own:
            x, taken = features[taken : taken + run.frames], taken + run.frames
            told_rate, k = config["temporal_cluster_rate"], config["temporal_k"]
            tokens, _ = original_video(x, config["cluster_rates"], config["k"], told_rate, k, draw)
            first, last = own[0].start, own[-1].stop
            seen += [words[:first], project(tokens)]
            told += [left[:first], torch.full((len(tokens),), -100)]
            left = left[last:]
        seen.append(words[own[-1].stop :] if own else words)
        told.append(left)
        made.append((torch.cat(seen), torch.cat(told), attention[row]))
    length = max(len(embeddings) for embeddings, _, _ in made)
    embeds = torch.stack([F.pad(e, (0, 0, 0, length - len(e))) for e, _, _ in made])
    put(tensors, "inputs", case, {"input_ids": ids, "attention_mask": attention, "labels": labels,
                                  "pixel_values": pixels})  # fmt: skip
    put_noise(tensors, case, draw.drawn)
    found = {"vision_features": features, "inputs_embeds": embeds}
    wide = max(len(told) for _, told, _ in made)
    found["labels"] = torch.stack([F.pad(t, (0, wide - len(t)), value=-100) for _, t, _ in made])
    if not several:
        found["attention_mask"] = torch.stack([
            F.pad(torch.cat([mask.new_ones(len(e) - len(mask)), mask]), (0, length - len(e)))
            for e, _, mask in made
        ])  # fmt: skip
        both = {"inputs_embeds": embeds, "attention_mask": found["attention_mask"]}
        places = torch.arange(length).expand(len(rows), -1)
        found["logits"] = llama(**both, position_ids=places).logits
        lines, targets = found["logits"][:, :-1].flatten(0, 1), found["labels"][:, 1:].flatten()
        found["loss"] = F.cross_entropy(lines, targets)[None]
    put(tensors, "outputs", case, found)
    return {"length_out": length, "labels_length_out": wide}


def test_the_whole_model(tmp_path):
    clip, llama = tiny_parts()
    config = {
        "image_token_index": -200, "cluster_rates": [4, 2], "k": KS,
        "temporal_cluster_rate": 0.15, "temporal_k": 3, "mm_vision_select_layer": -2,
        "clip": CLIP, "llama": LLAMA,
    }  # fmt: skip
    tensors = {}
    official_keys(clip, llama, tensors)
    project = projector(tensors, 8, 12)
    config["cases"] = {
        case: case_of(tensors, case, rows, clip, llama, project, config)
        for case, rows in CASES.items()
    }
    assert config["cases"]["apart"] == {"length_out": 18, "labels_length_out": 16}
    write(tmp_path, "chat_univi_loss", {"config": config}, tensors)
    every_output_is_compared(tmp_path)


@pytest.mark.parametrize("key", ["model.mm_projector.bias", "model.ctm0.weight"])
def test_released_keys_that_do_not_fit_are_found(tmp_path, key):
    shutil.copy(REFERENCE / "released_keys.json", tmp_path)
    path = tmp_path / "released_keys.json"
    told = json.loads(path.read_text())
    first = next(iter(told["checkpoints"].values()))
    told["checkpoints"] = {"one": first}
    path.write_text(json.dumps(told))
    assert all(row.ok for row in run_folders([tmp_path]))
    first["non_llm_keys"][key] = [7]
    path.write_text(json.dumps(told))
    assert not all(row.ok for row in run_folders([tmp_path]))
