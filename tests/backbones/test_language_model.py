import pytest
import torch
from torch.testing import assert_close

from vlmcourse.backbones.language_model import (
    LlamaSizes,
    build_llama,
    grow_vocabulary,
    load_language_model,
    rebuild_buffers,
)
from vlmcourse.errors import UserError

TINY = LlamaSizes(20, 16, 24, 2, 4, num_key_value_heads=2, rope_theta=5000.0)


def test_sizes_reach_the_model():
    model = build_llama(TINY)
    assert model.config.rope_parameters["rope_theta"] == 5000.0
    assert model.model.layers[0].self_attn.k_proj.weight.shape == (8, 16)
    assert model.lm_head.weight is not model.model.embed_tokens.weight


def test_save_and_load(tmp_path):
    model = build_llama(TINY).eval()
    model.save_pretrained(tmp_path)
    again = load_language_model(tmp_path)
    ids = torch.tensor([[1, 5, 7]])
    with torch.no_grad():
        assert_close(again(ids).logits, model(ids).logits)


def test_a_folder_that_does_not_fit_is_named(tmp_path):
    with pytest.raises(UserError, match="no config"):
        load_language_model(tmp_path)
    model = build_llama(TINY)
    state = {k: v for k, v in model.state_dict().items() if "layers.1.mlp" not in k}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(UserError, match=r"layers\.1\.mlp"):
        load_language_model(tmp_path)


def test_meta_build_assign_and_rebuilt_buffers():
    real = build_llama(TINY).eval()
    with torch.device("meta"):
        empty = build_llama(TINY).eval()
    empty.load_state_dict(real.state_dict(), assign=True)
    rebuild_buffers(empty, "cpu")
    ids = torch.tensor([[1, 5, 7]])
    with torch.no_grad():
        assert_close(empty(ids).logits, real(ids).logits)


def test_grown_rows_start_as_the_official_ones():
    model = build_llama(TINY)
    old = model.get_input_embeddings().weight.detach().clone()
    torch.manual_seed(1)
    grow_vocabulary(model, random_rows=1, mean_rows=2)
    for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        assert table.shape == (23, 16)
        assert_close(table[21], table[:21].mean(0))
        assert torch.equal(table[21], table[22])
    assert torch.equal(model.get_input_embeddings().weight[:20], old)
    other = build_llama(TINY)
    torch.manual_seed(2)
    grow_vocabulary(other, random_rows=1, mean_rows=2)
    assert torch.equal(
        other.get_input_embeddings().weight[20], model.get_input_embeddings().weight[20]
    )
