"""From patches to tokens between their marks."""

import pytest
import torch

from vlmcourse.parts.gated_adapter import GatedAdapter, convolve_grid, enclose, grid_convolution


def test_each_token_is_a_square_of_four_neighbours():
    conv = grid_convolution(1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[[[1.0, 10.0], [100.0, 1000.0]]]]))
        conv.bias.fill_(0.5)
    tokens = torch.arange(16.0).reshape(1, 16, 1)  # a 4 x 4 grid
    found = convolve_grid(tokens, conv).flatten().tolist()
    corners = [0, 2, 8, 10]
    wanted = [c + 10 * (c + 1) + 100 * (c + 4) + 1000 * (c + 5) + 0.5 for c in corners]
    assert found == wanted


@pytest.mark.parametrize("count", [9, 8])
def test_a_grid_that_cannot_be_halved_is_refused(count):
    with pytest.raises(ValueError, match=f"{count} patches"):
        convolve_grid(torch.zeros(1, count, 2), grid_convolution(2))


def test_the_gate_opens_and_closes():
    adapter = GatedAdapter(6, 8, 10)
    tokens = torch.randn(2, 5, 6)
    assert adapter(tokens).shape == (2, 5, 8)
    assert [n for n, _ in adapter.named_parameters() if "bias" in n] == ["norm.bias"]
    with torch.no_grad():
        adapter.gate.weight.zero_()
    assert torch.equal(adapter(tokens), torch.zeros(2, 5, 8))


def test_every_token_is_adapted_alone():
    adapter, tokens = GatedAdapter(6, 8, 10), torch.randn(2, 5, 6)
    swapped = adapter(tokens.flip(1)).flip(1)
    torch.testing.assert_close(adapter(tokens), swapped)


def test_the_marks_stand_at_both_ends_of_each_picture():
    begin, end = torch.full((1, 1, 3), 7.0), torch.full((1, 1, 3), 9.0)
    found = enclose(torch.zeros(2, 4, 3), begin, end)
    assert found[..., 0].tolist() == [[7, 0, 0, 0, 0, 9]] * 2
    assert enclose(torch.zeros(1, 1, 3).bfloat16(), begin, end).dtype == torch.bfloat16
