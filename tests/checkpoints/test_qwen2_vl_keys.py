"""Qwen2-VL's key map: both namings, both ways, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from qwen2_vl_twins import save_folder, tiny_theirs
from safetensors.torch import load_file, save_file

from vlmcourse.backbones.qwen2_vit import Qwen2VitConfig
from vlmcourse.checkpoints import qwen2_vl as keys
from vlmcourse.checkpoints.files import CheckpointError

RELEASED = Path(__file__).parents[1] / "reference" / "qwen2_vl" / "released_keys.json"


@pytest.fixture(params=["Qwen2-VL-2B", "Qwen2-VL-7B"])
def released(request):
    told = json.loads(RELEASED.read_text())["checkpoints"]
    (found,) = [value for name, value in told.items() if request.param in name]
    return found


def test_names_go_there_and_back_in_both_namings(released):
    ours = [keys.our_name(key) for key in released["keys"]]
    assert len(set(ours)) == len(ours) == released["n_keys"]
    tops = {name.partition(".")[0] for name in ours}
    assert tops == {"vision_encoder", "merger", "language_model"}
    assert [keys.official_name(name) for name in ours] == list(released["keys"])
    modules = [keys.official_name(name, "modules") for name in ours]
    assert [keys.our_name(key) for key in modules] == ours
    starts = ("model.visual.", "model.language_model.", "lm_head.")
    assert all(key.startswith(starts) for key in modules)


@pytest.mark.parametrize(
    "key",
    [
        "visual.patch_embed.proj.bias",
        "visual.blocks.x.norm1.weight",
        "visual.blocks.0.norm3.weight",
        "visual.merger.mlp.1.weight",
        "model.visual.model.norm.weight",
        "language_model.model.norm.weight",
        "model.rotary_emb.inv_freq",
    ],
)
def test_a_key_of_no_known_part_is_named(key):
    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        keys.from_official({key: torch.zeros(1)}, "file")
    with pytest.raises(KeyError):
        keys.official_name(f"other.{key}")


def test_a_tensor_under_both_namings_is_refused():
    twice = {"model.norm.weight": torch.ones(2), "model.language_model.norm.weight": torch.ones(2)}
    with pytest.raises(CheckpointError, match="both namings"):
        keys.from_official(twice)


def test_the_patch_embedding_changes_its_shape_alone():
    small = Qwen2VitConfig(width=8, heads=2, patch_size=5, temporal_patch=3)
    kernel = torch.randn(8, 3, 3, 5, 5)
    ours = keys.from_official({"visual.patch_embed.proj.weight": kernel})
    patch = torch.randn(3, 3, 5, 5)
    wanted = torch.einsum("dctij,ctij->d", kernel, patch)
    torch.testing.assert_close(ours[keys.PATCHES] @ patch.flatten(), wanted)
    (back,) = keys.to_official(ours, vision=small).values()
    assert torch.equal(back, kernel)


def test_a_tied_table_is_stored_once_and_never_two_things():
    words = torch.randn(5, 4)
    ours = keys.from_official({"model.embed_tokens.weight": words}, tied=True)
    assert ours[keys.WORDS_OUT] is ours[keys.WORDS_IN]
    assert list(keys.to_official(ours, tied=True)) == ["model.embed_tokens.weight"]
    both = {"model.embed_tokens.weight": words, "lm_head.weight": words.clone()}
    assert len(keys.from_official(both, tied=True)) == 2
    other = both | {"lm_head.weight": words + 1}
    with pytest.raises(CheckpointError, match="tied"):
        keys.from_official(other, tied=True)
    assert len(keys.from_official(other)) == 2
    with pytest.raises(ValueError, match="two different tables"):
        keys.to_official({keys.WORDS_IN: words, keys.WORDS_OUT: words + 1}, tied=True)


CONFIG_4 = {
    "hidden_act": "silu", "hidden_size": 1536, "intermediate_size": 8960,
    "max_position_embeddings": 32768, "num_attention_heads": 12, "num_hidden_layers": 28,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "sliding_window": 32768,
    "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936,
    "vision_config": {
        "depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "in_chans": 3,
        "hidden_size": 1536, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
    },
}  # fmt: skip
"""In the form of transformers 4, with the published sizes."""


def test_sizes_from_a_config_of_transformers_4(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG_4))
    vision, language, section = keys.read_sizes(tmp_path)
    assert vision == Qwen2VitConfig()
    assert section == (16, 24, 24)
    assert (language.rope_theta, language.rms_norm_eps, language.tie_embeddings) == (
        1e6,
        1e-6,
        True,
    )
    assert (language.num_heads, language.num_key_value_heads, language.num_layers) == (12, 2, 28)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"use_sliding_window": True}, "window"),
        ({"rope_scaling": {"type": "yarn", "mrope_section": [1]}}, "yarn"),
        ({"hidden_act": "gelu"}, "SiLU"),
        ({"vision_config": {"depth": 2}}, "embed_dim"),
        ({"vision_config": {**CONFIG_4["vision_config"], "hidden_act": "silu"}}, "silu"),
        ({"vision_config": {**CONFIG_4["vision_config"], "hidden_size": 8}}, "wide"),
        ({"rope_scaling": None}, "mrope_section"),
    ],
)
def test_what_is_not_built_is_refused(change, reason, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG_4 | change))
    with pytest.raises(CheckpointError, match=rf"config\.json: not the config.*{reason}"):
        keys.read_sizes(tmp_path)


def test_what_is_missing_left_over_or_damaged_is_named(tmp_path):
    save_folder(tiny_theirs(), tmp_path)
    key = "visual.blocks.1.attn.proj.bias"
    path = next(p for p in tmp_path.glob("*.safetensors") if key in load_file(p))
    kept = load_file(path)
    save_file({name: t for name, t in kept.items() if name != key}, path)
    with pytest.raises(CheckpointError, match=rf"the shards lack 1: {key}"):
        keys.load_released(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    del told["weight_map"][key]
    index.write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match=r"missing 1: .*blocks\.1\.attention\.dense\.bias"):
        keys.load_released(tmp_path)
    save_file(kept | {"visual.extra": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"no known part, 1: visual\.extra"):
        keys.load_released(tmp_path)
    save_file(kept, path)
    model = keys.load_released(tmp_path, dtype=torch.float32)
    assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json: not the config of a Qwen2-VL"):
        keys.load_released(tmp_path)
