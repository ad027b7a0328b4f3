"""Official CogVLM2 weights: names, cuts, folders of shards, and what is refused."""

import json

import pytest
import torch
from cogvlm2_twins import eyes_weights, layer_weights
from safetensors.torch import load_file, save_file

from vlmcourse.backbones.eva2_clip_e import Eva2ClipConfig
from vlmcourse.backbones.eva_clip import resize_positions
from vlmcourse.checkpoints import cogvlm2 as keys
from vlmcourse.checkpoints import load_released
from vlmcourse.checkpoints.files import CheckpointError
from vlmcourse.parts.rotary_precision import StoredRotary, inverse_frequencies
from vlmcourse.parts.visual_expert import ExpertLlama

CONFIG = {
    "vocab_size": 20, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_multi_query_heads": 2, "rms_norm_eps": 1e-5,
    "hidden_act": "silu", "max_position_embeddings": 2048, "template_version": "base",
    "vision_config": {
        "num_hidden_layers": 2, "hidden_size": 16, "patch_size": 6, "num_heads": 4,
        "intermediate_size": 20, "layer_norm_eps": 1e-6, "image_size": 24, "hidden_act": "gelu",
        "in_channels": 3, "dropout_prob": 0.0, "num_positions": 17,
    },
}  # fmt: skip


def official(experts):
    """Whole official weights, tiny and random, in bfloat16."""
    generator = torch.Generator().manual_seed(7)
    weights = {f"model.vision.{k}": t for k, t in eyes_weights(CONFIG).items()}
    for layer in range(2):
        for key, tensor in layer_weights(CONFIG, layer).items():
            if experts or "vision" not in key:
                weights[f"model.layers.{layer}.{key}"] = tensor
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[key] = 0.3 * torch.randn(20, 32, generator=generator)
    weights["model.norm.weight"] = torch.rand(32, generator=generator)
    return {key: tensor.to(torch.bfloat16) for key, tensor in weights.items()}


@pytest.fixture(params=[True, False], ids=["image", "video"])
def experts(request):
    return request.param


def write_folder(folder, weights):
    """Three shards with their index, config and tokenizer, as they are released."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir()
    names, places = sorted(weights), {}
    for number in range(3):
        file = f"model-0000{number + 1}-of-00003.safetensors"
        part = {name: weights[name] for name in names[number::3]}
        save_file(part, folder / file)
        places |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|eot_id|>"]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*special, "a", "?"])}, "?"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens(special)
    core.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": special[0]}
    told["eos_token"] = special[1]
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder


def test_names_and_shapes_go_there_and_back(experts):
    weights = official(experts)
    ours = keys.from_official(weights)
    frequencies = weights["model.layers.0.self_attn.rotary_emb.inv_freq"]
    back = keys.to_official(ours, frequencies)
    assert back.keys() == weights.keys()
    assert keys.has_experts(back) == experts
    assert all(torch.equal(back[key], tensor) for key, tensor in weights.items())
    assert not any("inv_freq" in key for key in keys.to_official(ours))
    for key in weights:
        assert all(keys.official_name(name) == key for name in keys.our_names(key))


def test_one_matrix_becomes_three_of_the_right_rows():
    rows = torch.arange(64.0)[:, None].expand(64, 32)  # 32 of queries, 16 of keys, 16 of values
    ours = keys.from_official(
        {"model.layers.3.self_attn.language_expert_query_key_value.weight": rows}
    )
    first = "language_model.model.layers.3.self_attn."
    assert {name: t[:, 0].tolist() for name, t in ours.items()} == {
        f"{first}q_proj.weight": list(range(32)),
        f"{first}k_proj.weight": list(range(32, 48)),
        f"{first}v_proj.weight": list(range(48, 64)),
    }
    with pytest.raises(KeyError):
        keys.to_official({name: t for name, t in ours.items() if "k_proj" not in name})


@pytest.mark.parametrize("rows", [32, 63, 52])
def test_a_matrix_that_cannot_be_cut_is_refused(rows):
    key = "model.layers.0.self_attn.language_expert_query_key_value.weight"
    with pytest.raises(CheckpointError, match=f"{rows} x 32"):
        keys.from_official({key: torch.zeros(rows, 32)})


def test_the_published_sizes_fit_to_the_last_parameter(experts):
    from vlmcourse.systems import build

    model = build("cogvlm2" if experts else "cogvlm2_video", "paper", "meta")
    wanted = 19_503_105_280 if experts else 12_507_530_496
    assert sum(p.numel() for p in model.parameters()) == wanted
    back = keys.to_official(model.state_dict(), torch.empty(64, device="meta"))
    assert len(back) == (1221 if experts else 1029)
    if experts:
        values = sum(tensor.numel() for tensor in back.values())
        assert 2 * values == 39_006_214_656  # the index's size in bytes; frequencies count there
        added = sum(p.numel() for n, p in model.named_parameters() if "vision_expert" in n)
        assert added == 6_979_518_464


def test_keys_of_no_known_part_are_listed_and_none_is_lost():
    weights = official(True)
    strange = ("model.vision.neck.weight", "model.layers.0.mlp.third.weight", "model.layers.x.y")
    with pytest.raises(CheckpointError) as error:
        keys.from_official(weights | dict.fromkeys(strange, torch.ones(1)), "some file")
    assert all(key in str(error.value) for key in ("some file", *strange))


def test_frequencies_of_another_base_are_refused():
    key = "model.layers.0.self_attn.rotary_emb.inv_freq"
    for built_in in (True, False):
        assert (
            keys.from_official({key: inverse_frequencies(8, 5e5, torch.bfloat16, built_in)}) == {}
        )
    with pytest.raises(CheckpointError, match="base 500000"):
        keys.from_official({key: inverse_frequencies(8, 10000.0)})


def test_positions_are_stretched_to_another_size():
    table = {"model.vision.patch_embedding.position_embedding.weight": torch.randn(17, 8)}
    same = keys.from_official(table, vision=Eva2ClipConfig(24, 6))
    assert torch.equal(same["vision_encoder.positions"][0], *table.values())
    larger = keys.from_official(table, vision=Eva2ClipConfig(48, 6))["vision_encoder.positions"]
    assert torch.equal(larger, resize_positions(next(iter(table.values()))[None], 65))
    kept = keys.from_official(table, vision=Eva2ClipConfig(48, 6, position_grid=4))
    assert kept["vision_encoder.positions"].shape == (1, 17, 8)
    with pytest.raises(CheckpointError, match="position table"):
        keys.from_official({next(iter(table)): torch.zeros(16, 8)}, vision=Eva2ClipConfig(24, 6))


def test_a_folder_of_shards_becomes_a_model(experts, tmp_path):
    weights = official(experts)
    folder = write_folder(tmp_path / "cogvlm2", weights)
    system, other = ("cogvlm2", "cogvlm2_video")[:: 1 if experts else -1]
    model = load_released(system, folder, dtype=torch.float32)
    assert isinstance(model.language_model, ExpertLlama) == model.config.experts == experts
    assert model.vision_encoder.config.fit == ("squash" if experts else "crop")
    assert (model.config.template, model.config.image_size) == ("chat", 24)
    assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])
    back = keys.to_official(
        model.state_dict(), weights["model.layers.0.self_attn.rotary_emb.inv_freq"]
    )
    assert all(torch.equal(back[key].bfloat16(), tensor) for key, tensor in weights.items())
    with pytest.raises(CheckpointError, match="not the"):
        load_released(other, folder)


def test_what_is_missing_left_over_or_damaged_is_named(tmp_path):
    folder = write_folder(tmp_path / "cogvlm2", official(True))
    shard = folder / "model-00002-of-00003.safetensors"
    tensors = load_file(shard)
    key = "model.layers.1.mlp.vision_mlp.up_proj.weight"
    path = next(p for p in folder.glob("*.safetensors") if key in load_file(p))
    kept = load_file(path)
    save_file({name: t for name, t in kept.items() if name != key}, path)
    with pytest.raises(CheckpointError, match=rf"the shards lack 1: {key}"):
        keys.load_released(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    del index["weight_map"][key]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"missing 1: .*vision_expert_mlp\.up_proj"):
        keys.load_released(folder)
    save_file(kept, path)
    shard.write_bytes(b"damage")
    with pytest.raises(CheckpointError, match=shard.name):
        keys.load_released(folder)
    save_file(tensors, shard)
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json: not the config of a CogVLM2"):
        keys.load_released(folder)


def test_variants_of_released_models(tmp_path):
    video = write_folder(tmp_path / "video-base", official(False))
    model = keys.load_released(video, dtype=torch.float32, experts=True, image_size=36)
    assert (model.config.template, model.config.sampling) == ("base", "base")
    assert model.config.experts
    assert isinstance(model.language_model, ExpertLlama)
    own = dict(model.language_model.named_parameters())
    first = "model.layers.1.vision_expert_mlp.up_proj.weight"
    assert torch.equal(own[first], own[first.replace("vision_expert_", "")])
    assert model.vision_encoder.positions.shape == (1, 37, 16)
    assert keys.load_released(video, template="chat").config.template == "chat"
    image = write_folder(tmp_path / "image", official(True))
    with pytest.raises(CheckpointError, match="cannot be left out"):
        keys.load_released(image, experts=False)


def test_pre_training_begins_with_a_new_connector_and_copies(tmp_path):
    folder = write_folder(tmp_path / "image", official(True))
    whole, begun, without = (
        keys.load_released(folder, dtype=torch.float32, **options)
        for options in ({}, {"trained": False}, {"trained": False, "experts": False})
    )
    own, old = begun.state_dict(), whole.state_dict()
    for part, same in (("vision_encoder.", True), ("conv.", False), ("adapter.project.", False)):
        assert all(own[n].equal(old[n]) == same for n in own if n.startswith(part))
    assert not begun.boi.any()
    up = "language_model.model.layers.1.vision_expert_mlp.up_proj.weight"
    assert own[up].equal(old[up.replace("vision_expert_", "")])
    assert not without.config.experts
    assert not any("vision_expert" in name for name in without.state_dict())


def test_the_official_angles_can_be_asked_for(tmp_path):
    folder = write_folder(tmp_path / "video", official(False))
    exact = keys.load_released(folder, dtype=torch.float32).language_model.model
    coarse = keys.load_released(folder, official_rotary=True, dtype=torch.float32)
    coarse = coarse.language_model.model
    assert isinstance(coarse.rotary_emb, StoredRotary)
    ids = torch.tensor([[5, 9, 14]])
    near, far = torch.tensor([[0, 0, 0]]), torch.tensor([[511, 513, 515]])
    for positions, same in ((near, True), (far, False)):
        states = [m(ids, position_ids=positions).last_hidden_state for m in (exact, coarse)]
        assert torch.allclose(*states, atol=1e-4) == same
