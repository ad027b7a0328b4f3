"""LoRA inside a transformers language model."""

import copy

import pytest
import torch
from torch.testing import assert_close

from vlmcourse.backbones.language_model import LlamaSizes, build_llama, build_mistral
from vlmcourse.parts.lora import add_lora, begin_lora, lora_names

SIZES = LlamaSizes(40, 16, 24, 2, 4, num_key_value_heads=2)


@pytest.fixture(params=[build_llama, build_mistral], ids=["llama", "mistral"])
def plain(request):
    torch.manual_seed(0)
    return request.param(SIZES).eval()


def filled(model, spread=0.3):
    with torch.no_grad():
        for name in lora_names(model):
            model.get_parameter(name).normal_(0, spread)
    return model


def test_fresh_side_paths_change_nothing_and_the_class_stays(plain):
    ids = torch.randint(0, 40, (2, 9))
    before, kind = plain(ids).logits, type(plain)
    model = add_lora(plain, rank=3, alpha=6, dropout=0.5)
    assert type(model) is kind
    assert torch.equal(model(ids).logits, before)
    filled(model)
    assert not torch.allclose(model(ids).logits, before, atol=1e-2)


def test_a_side_path_is_a_low_rank_change_of_the_weight(plain):
    merged = copy.deepcopy(plain)
    model = filled(add_lora(plain, rank=3, alpha=6))
    with torch.no_grad():
        for layer, other in zip(model.model.layers, merged.model.layers):
            for name in ("q_proj", "v_proj"):
                side = getattr(layer.self_attn, name)
                change = side.lora_B.default.weight @ side.lora_A.default.weight
                getattr(other.self_attn, name).weight += 6 / 3 * change
    ids = torch.randint(0, 40, (2, 9))
    assert_close(model(ids).logits, merged(ids).logits, atol=1e-5, rtol=1e-5)
    told = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(ids, **told), merged.generate(ids, **told))


def test_only_queries_and_values_have_one_and_only_they_train(plain):
    before = sum(p.numel() for p in plain.parameters())
    model = add_lora(plain, rank=3, alpha=6)
    names = lora_names(model)
    assert len(names) == 2 * 2 * 2
    assert names[0] == "model.layers.0.self_attn.q_proj.lora_A.default.weight"
    assert {name.split(".")[4] for name in names} == {"q_proj", "v_proj"}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(names)
    added = 2 * (3 * (16 + 16) + 3 * (16 + 8))  # two layers; values are 8 wide
    assert sum(p.numel() for p in model.parameters()) == before + added


def test_dropout_acts_in_training_alone(plain):
    model = filled(add_lora(plain, rank=3, alpha=6, dropout=0.5))
    ids = torch.randint(0, 40, (1, 9))
    assert torch.equal(model(ids).logits, model(ids).logits)  # eval mode, as it came
    model.train()
    assert not torch.equal(model(ids).logits, model(ids).logits)


def test_on_the_meta_device_and_brought_to_life():
    with torch.device("meta"):
        model = add_lora(build_llama(SIZES), rank=3, alpha=6)
    assert all(p.is_meta for p in model.parameters())
    torch.manual_seed(0)
    begin_lora(model, "cpu", torch.float16)
    side = model.model.layers[1].self_attn.v_proj
    assert side.lora_A.default.weight.dtype == torch.float16
    assert side.lora_A.default.weight.abs().sum() > 0 == side.lora_B.default.weight.abs().sum()
    assert model.model.norm.weight.is_meta


def test_rank_zero_twice_and_unknown_layers():
    assert not lora_names(add_lora(build_llama(SIZES), rank=0, alpha=1))
    model = add_lora(build_llama(SIZES), rank=2, alpha=1, targets=["o_proj"])
    assert all("o_proj" in name for name in lora_names(model))
    with pytest.raises(ValueError, match="side paths already"):
        add_lora(model, rank=2, alpha=1)
    with pytest.raises(ValueError, match="not found"):
        add_lora(build_llama(SIZES), rank=2, alpha=1, targets=["query"])
