"""Rotary tables in three precisions; the exact numbers are in the reference unit."""

import torch

from vlmcourse.backbones.language_model import LlamaSizes, build_llama
from vlmcourse.parts.rotary_precision import StoredRotary, inverse_frequencies, rotary_angles


def test_positions_collapse_in_half_precision():
    half = inverse_frequencies(64, 500000.0, torch.bfloat16)
    cos, _ = rotary_angles(torch.arange(2048), half)
    assert len(cos[:256, 0].unique()) > 100
    assert torch.equal(cos[256::2][:100], cos[256:456:2])
    for first, step in ((256, 2), (512, 4), (1024, 8)):
        assert torch.equal(cos[first + step // 2], cos[first])  # rounded to the even neighbour
        assert not torch.equal(cos[first + step], cos[first])
    exact, _ = rotary_angles(torch.arange(2048), inverse_frequencies(64, 500000.0))
    assert (exact[1:] != exact[:-1]).any(-1).all()


def test_a_table_is_built_with_other_numbers_than_it_is_cast_to():
    exact = inverse_frequencies(128, 500000.0)
    for built_in, most in ((False, 0.004), (True, 0.006)):
        half = inverse_frequencies(128, 500000.0, torch.bfloat16, built_in)
        wrong = ((half.float() - exact) / exact).abs().max()
        assert most / 2 < wrong < most


def test_it_takes_the_place_of_a_llama_s_own_table():
    torch.manual_seed(0)
    llama = build_llama(LlamaSizes(64, 32, 48, 2, 4, rope_theta=500000.0)).eval()
    ids = torch.randint(0, 64, (2, 9))
    before = llama(ids).logits
    llama.model.rotary_emb = StoredRotary(inverse_frequencies(8, 500000.0))
    assert torch.equal(llama(ids).logits, before)
    llama.model.rotary_emb = StoredRotary(inverse_frequencies(8, 500000.0, torch.bfloat16))
    far = torch.arange(600, 609)[None].expand(2, -1)
    assert not torch.allclose(llama(ids, position_ids=far).logits, before, atol=1e-3)
    llama.float()  # a cast of the model does not sharpen what was stored
    cos, _ = llama.model.rotary_emb(torch.zeros(1), torch.tensor([[512, 513]]))
    assert torch.equal(cos[0, 0], cos[0, 1])
    assert cos.dtype == torch.float32
