"""Qwen2-VL's units at sizes of our own, made by transformers' classes and by loops over tokens."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from qwen2_vl_twins import given_to_both, tiny_theirs
from safetensors.torch import load_file, save_file

from vlmcourse.reference.qwen2_vl_units import UNITS
from vlmcourse.reference.runner import run_folders

REFERENCE = Path(__file__).parent / "qwen2_vl"
ROWS = [
    ["one", ("image", 1, 6, 2), "and", ("video", 1, 2, 4), ("image", 1, 2, 2), "what?"],
    ["a", ("video", 3, 4, 8), "?"],
    ["text alone here"],
]


def write(folder, unit, config, meta, **groups):
    tensors = {
        f"{group}/{name}": value.contiguous().clone()
        for group, values in groups.items()
        for name, value in values.items()
    }
    save_file(tensors, folder / f"{unit}.safetensors")
    told = {"system": "qwen2_vl", "unit": unit, "config": config, **meta}
    (folder / f"{unit}.json").write_text(json.dumps(told))


def flat_config(theirs) -> dict:
    """The config of a model in the form of the units."""
    text, vision = theirs.config.text_config, theirs.config.vision_config
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "rms_norm_eps")
    names += ("num_attention_heads", "num_key_value_heads")
    own = ("depth", "embed_dim", "num_heads", "mlp_ratio", "patch_size", "temporal_patch_size")
    own += ("spatial_merge_size", "in_channels", "hidden_act")
    tokens = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {
        **{name: getattr(text, name) for name in names},
        **{name: getattr(theirs.config, name) for name in tokens},
        "rope_theta": text.rope_parameters["rope_theta"],
        "mrope_section": list(text.rope_parameters["mrope_section"]),
        "tie_word_embeddings": theirs.config.tie_word_embeddings,
        "vision": {**{name: getattr(vision, name) for name in own}, "layer_norm_eps": 1e-6},
    }


@torch.no_grad()
def model_unit(folder, tied: bool, side: str):
    theirs = tiny_theirs(seed=5, tied=tied, section=(1, 3, 4))
    _, given = given_to_both(ROWS, side, seed=6)
    labels = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
    labels[:, :12] = -100
    seen = {}
    inner = theirs.model
    hooks = [
        layer.register_forward_hook(lambda m, i, out, n=n: seen.update({f"layer_{n}": out}))
        for n, layer in enumerate(inner.language_model.layers)
    ]
    hooks.append(
        inner.language_model.register_forward_pre_hook(
            lambda m, i, kw: seen.update(
                inputs_embeds=kw["inputs_embeds"], position_ids=kw["position_ids"][-3:]
            ),
            with_kwargs=True,
        )
    )
    result = theirs(**given, labels=labels)
    for hook in hooks:
        hook.remove()
    outputs = {**seen, "logits": result.logits, "loss": result.loss}
    for name, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        hooks = [
            block.register_forward_hook(
                lambda m, i, out, n=n, name=name: outputs.update({f"{name}_block_{n}": out})
            )
            for n, block in enumerate(inner.visual.blocks)
        ]
        tower = inner.visual(given[pixels], given[f"{name}_grid_thw"])
        for hook in hooks:
            hook.remove()
        outputs[f"{name}_merged"] = tower.pooler_output
    outputs |= first_steps(theirs, given, seen)
    state = {
        key.replace("model.visual.", "visual.").replace("model.language_model.", "model."): value
        for key, value in theirs.state_dict().items()
        if not (tied and key.startswith("lm_head"))
    }
    inputs = {key: value for key, value in given.items() if key != "mm_token_type_ids"}
    meta = {"outputs": {"generated_ids": {"meaning": "arg max over ids 40..200, row 0"}}}
    config = flat_config(theirs)
    write(
        folder, "qwen2_vl_loss", config, meta,
        weights=state, inputs=inputs | {"labels": labels}, outputs=outputs,
    )  # fmt: skip


def first_steps(theirs, given, seen) -> dict:
    """Three tokens behind the first row, each by a whole forward without a cache."""
    real = given["attention_mask"][0].bool()
    embeddings = seen["inputs_embeds"][:1, real]
    ids = seen["position_ids"][:, :1, real]
    tokens, places, logits = [], [], []
    for step in range(4):
        read = theirs.model.language_model(inputs_embeds=embeddings, position_ids=ids)
        last = theirs.lm_head(read.last_hidden_state[:, -1])
        if step:
            logits.append(last)
        tokens.append(40 + int(last[0, 40:201].argmax()))
        free = ids.max() + 1
        places.append(free.expand(3))
        ids = torch.cat([ids, free.expand(3, 1, 1)], -1)
        more = theirs.get_input_embeddings()(torch.tensor([[tokens[-1]]]))
        embeddings = torch.cat([embeddings, more], 1)
    return {
        "generated_ids": torch.tensor([tokens[:3]]),
        "generated_positions": torch.stack(places[:3]),
        "generated_logits": torch.stack(logits, 1),
    }


def every_output_is_compared(folder, by=1e-2):
    rows = run_folders([folder])
    assert all(row.ok for row in rows), [row for row in rows if not row.ok]
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    for name, value in tensors.items():
        if name.startswith("outputs/"):
            more = by if value.is_floating_point() else 1
            save_file(tensors | {name: value + more}, path)
            failed = {row.output for row in run_folders([folder]) if not row.ok}
            assert name.removeprefix("outputs/") in failed
    save_file(tensors, path)


@pytest.mark.parametrize(("tied", "side"), [(False, "left"), (True, "right")])
def test_a_model_of_other_sizes_agrees(tied, side, tmp_path):
    model_unit(tmp_path, tied, side)
    every_output_is_compared(tmp_path)


@pytest.mark.parametrize("unit", ["mrope", "patchify"])
def test_all_outputs_are_compared(unit, tmp_path):
    for path in REFERENCE.glob(f"{unit}.*"):
        shutil.copy(path, tmp_path)
    every_output_is_compared(tmp_path)


def test_positions_of_other_rows_agree(tmp_path):
    """Ids of transformers 5.23 itself; those of the release from a loop over pieces."""
    theirs = tiny_theirs(seed=1)
    rows = [[("video", 5, 2, 4), "a", ("image", 1, 4, 4)], ["bb", ("video", 2, 6, 2), "c"]]
    _, given = given_to_both(rows, "left")
    grids = {key: given[key] for key in given if key.endswith("grid_thw")}
    told = {key: given[key] for key in ("input_ids", "attention_mask")}
    later, delta = theirs.model.get_rope_index(
        **told, mm_token_type_ids=given["mm_token_type_ids"], **grids
    )
    released = torch.ones_like(later)
    for number, row in enumerate(rows):
        ids, free = [], 0
        for piece in row:
            if isinstance(piece, str):
                ids += [[free + i] * 3 for i in range(len(piece))]
                free += len(piece)
                continue
            t, h, w = piece[1], piece[2] // 2, piece[3] // 2
            inside = [[free + 1 + i, free + 1 + j, free + 1 + k]
                      for i in range(t) for j in range(h) for k in range(w)]  # fmt: skip
            behind = free + 1 + max(t, h, w)
            ids += [[free] * 3, *inside, [behind] * 3]
            free = behind + 1
        released[:, number, -len(ids) :] = torch.tensor(ids).T
    released_delta = released.amax((0, 2))[:, None] + 1 - released.shape[-1]
    config = flat_config(theirs) | {"head_dim": 16, "spatial_merge_size": 2}
    length = released.shape[-1]
    rotary = {"query": torch.randn(2, 2, length, 16), "key": torch.randn(2, 1, length, 16)}
    meta = {"inputs": {"query": {"meaning": "positions of case mixed"}}}
    write(
        tmp_path, "mrope", config, meta,
        inputs={f"mixed_{k}": v for k, v in (told | grids).items()}
        | rotary | {"real_positions": torch.zeros(3, 1, 2, dtype=torch.int64)},
        outputs={
            "mixed_position_ids": released, "mixed_delta": released_delta,
            "mixed_position_ids_v5": later, "mixed_delta_v5": delta,
        },
    )  # fmt: skip
    rows = run_folders([tmp_path])
    assert all(row.ok for row in rows), rows
    assert len(rows) == 4


def test_a_wrong_map_shows(tmp_path):
    shutil.copy(REFERENCE / "released_keys.json", tmp_path)
    path = tmp_path / "released_keys.json"
    told = json.loads(path.read_text())
    shapes = told["checkpoints"]["Qwen/Qwen2-VL-2B, Qwen/Qwen2-VL-2B-Instruct"]["keys"]
    shapes["visual.merger.ln_q.weight"] = [7]
    path.write_text(json.dumps(told))
    failed = {row.output for row in run_folders([tmp_path]) if not row.ok}
    assert failed == {"names and shapes", "modules to ours"}


def test_units_are_told_apart():
    assert set(UNITS) == {
        f"qwen2_vl/{name}" for name in ("mrope", "patchify", "qwen2_vl_loss", "released_keys")
    }
