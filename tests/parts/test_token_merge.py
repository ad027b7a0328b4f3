"""Merging of neighbouring tokens."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from vlmcourse.parts.token_merge import merge_neighbours, merged_width


def test_four_tokens_of_one_row_of_the_picture_become_one():
    grid = torch.arange(64.0).reshape(1, 64, 1)  # token i of an 8 x 8 grid says i
    merged = merge_neighbours(grid, 4)
    assert merged.shape == (1, 16, 4)
    assert merged[0, 0].tolist() == [0, 1, 2, 3]  # side by side, not [0, 1, 8, 9]
    assert merged[0, 2].tolist() == [8, 9, 10, 11]


def test_other_ways_give_as_many_tokens():
    tokens = torch.randn(2, 3, 12, 5)
    ways = {by: merge_neighbours(tokens, 3, by) for by in ("concatenate", "mean", "first")}
    assert {by: tuple(x.shape) for by, x in ways.items()} == {
        "concatenate": (2, 3, 4, 15), "mean": (2, 3, 4, 5), "first": (2, 3, 4, 5),
    }  # fmt: skip
    assert_close(ways["mean"][1, 2, 3], tokens[1, 2, 9:].mean(0))
    assert_close(ways["first"], tokens[:, :, ::3])
    assert all(merged_width(5, 3, by) == x.shape[-1] for by, x in ways.items())


def test_a_linear_layer_behind_the_concatenation_can_do_what_the_others_do():
    tokens, layer = torch.randn(2, 8, 3), nn.Linear(12, 5)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(5, 3).repeat(1, 4) / 4)
    mean = nn.functional.linear(
        merge_neighbours(tokens, 4, "mean"), layer.weight[:, :3] * 4, layer.bias
    )
    assert_close(layer(merge_neighbours(tokens, 4)), mean)


def test_what_does_not_fit_is_told():
    assert merge_neighbours(torch.randn(1, 5, 2), 1).shape == (1, 5, 2)
    with pytest.raises(ValueError, match="10 tokens do not fall into groups of 4"):
        merge_neighbours(torch.randn(10, 2), 4)
    with pytest.raises(ValueError, match="unknown way to merge 'max'; known: concatenate, mean"):
        merge_neighbours(torch.randn(8, 2), 4, "max")
