"""The units of EVA ViT-g and of the Q-Former at sizes of our own, made with transformers."""

import json

import pytest
import torch
from blip2_twins import official_qformer, official_vision, qformer_model, vision_model
from safetensors.torch import load_file, save_file

from vlmcourse.backbones.eva_clip import EvaClipConfig
from vlmcourse.parts.qformer import QFormerConfig
from vlmcourse.reference.runner import run_folders

EYES = EvaClipConfig(40, 8, 36, 2, 3, mlp_ratio=2.7, norm_eps=1e-5, vision_norm_eps=1e-5)
QUERIES = QFormerConfig(32, 3, 4, 48, 36, 3, 7, vocab_size=53, max_positions=24)


def write(folder, system, unit, config, weights, inputs, outputs):
    tensors = {f"weights/{k}": v for k, v in weights.items()}
    tensors |= {f"inputs/{k}": v for k, v in inputs.items()}
    tensors |= {f"outputs/{k}": v for k, v in outputs.items()}
    save_file(
        {k: v.contiguous().clone() for k, v in tensors.items()}, folder / f"{unit}.safetensors"
    )
    meta = {"system": system, "unit": unit, "config": config}
    (folder / f"{unit}.json").write_text(json.dumps(meta))


@torch.no_grad()
def eva_unit(folder):
    twin, images = vision_model(EYES), torch.randn(3, 3, 40, 40)
    out = twin(images, output_hidden_states=True)
    states = out.hidden_states
    outputs = {f"block_{i}": state for i, state in enumerate(states[1:])}
    outputs |= {"embeddings": states[0], "tokens": states[-1]}
    outputs["tokens_ln_vision"] = out.last_hidden_state
    like = torch.zeros(1, 50, 36)  # any number of patches other than 25
    outputs["pos_embed_resized"] = twin.embeddings.interpolate_pos_encoding(like, 56, 56)
    config = {
        "image_size": 40, "patch_size": 8, "embed_dim": 36, "depth": 2, "num_heads": 3,
        "mlp_ratio": 2.7, "mlp_hidden": 97, "block_norm_eps": 1e-5, "ln_vision_eps": 1e-5,
        "rel_pos_bias": False, "drop_path_rate": 0.0, "resized_image_size": 56,
    }  # fmt: skip
    weights = official_vision(twin)
    write(folder, "eva_vit", "eva_vit", config, weights, {"images": images}, outputs)


@torch.no_grad()
def qformer_unit(folder):
    twin, queries, x = qformer_model(QUERIES), torch.randn(1, 7, 32), torch.randn(4, 9, 36)
    full, partial = (torch.ones(4, 9, dtype=torch.int64) for _ in range(2))
    partial[2, :5] = 0
    ids, words = torch.randint(0, 53, (4, 11)), torch.ones(4, 11, dtype=torch.int64)
    words[1, 3:] = 0
    given = {"query_embeds": queries.expand(4, -1, -1), "encoder_hidden_states": x}
    plain = twin(None, **given, output_hidden_states=True)
    masked = twin(None, **given, encoder_attention_mask=partial)
    both = torch.cat([torch.ones(4, 7, dtype=torch.int64), words], dim=1)
    with_text = twin(ids, attention_mask=both, **given)
    outputs = {f"hidden_{i}": state for i, state in enumerate(plain.hidden_states)}
    outputs["queries_out"] = plain.last_hidden_state
    outputs["queries_out_masked"] = masked.last_hidden_state
    outputs["with_text_out"] = with_text.last_hidden_state
    config = {
        "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "intermediate_size": 48, "vocab_size": 53, "max_position_embeddings": 24,
        "encoder_width": 36, "query_length": 7, "cross_attention_freq": 3,
        "layers_with_cross_attention": [0], "layer_norm_eps": 1e-12, "dropout": 0.1,
    }  # fmt: skip
    inputs = {
        "encoder_hidden_states": x, "encoder_mask_full": full, "encoder_mask_partial": partial,
        "text_ids": ids, "text_mask": words,
    }  # fmt: skip
    weights = official_qformer(twin, queries)
    write(folder, "blip2_qformer", "blip2_qformer", config, weights, inputs, outputs)


@pytest.mark.parametrize(("make", "count"), [(eva_unit, 7), (qformer_unit, 14)])
def test_units_of_other_sizes_agree_and_every_output_is_compared(make, count, tmp_path):
    make(tmp_path)
    rows = run_folders([tmp_path])
    assert len(rows) == count
    assert all(row.ok for row in rows), [row for row in rows if not row.ok]
    (path,) = tmp_path.glob("*.safetensors")
    tensors = load_file(path)
    for name in tensors:
        if name.startswith("outputs/"):
            save_file(tensors | {name: tensors[name] + 1e-3}, path)
            failed = {row.output for row in run_folders([tmp_path]) if not row.ok}
            assert failed == {name.removeprefix("outputs/")}


@pytest.mark.parametrize("name", ["rel_pos_bias", "layer_scale", "final_norm"])
def test_an_option_that_is_not_built_is_a_failure(name, tmp_path):
    eva_unit(tmp_path)
    path = tmp_path / "eva_vit.json"
    meta = json.loads(path.read_text())
    meta["config"][name] = True
    path.write_text(json.dumps(meta))
    assert not any(row.ok for row in run_folders([tmp_path]))
