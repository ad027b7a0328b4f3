"""Waves tell moments apart, in whole numbers and between them."""

import math

import pytest
import torch
from torch.testing import assert_close

from vlmcourse.parts.waves import waves


def test_the_first_wave_turns_a_radian_a_moment_and_the_last_one_in_all():
    found = waves(torch.tensor([0, 3]), 8, 6)
    assert_close(found[0], torch.tensor([0.0, 0, 0, 1, 1, 1]))
    turned = [3.0, 3 / math.sqrt(8), 3 / 8]
    assert_close(found[1], torch.tensor([*map(math.sin, turned), *map(math.cos, turned)]))


@pytest.mark.parametrize("width", [4, 7, 96])
def test_every_moment_looks_different_and_has_the_width(width):
    found = waves(torch.arange(64).view(4, 16), 64, width)
    assert found.shape == (4, 16, width)
    assert float(torch.pdist(found.flatten(0, 1)).min()) > 0.1


def test_seconds_may_fall_between_numbers():
    seconds = torch.tensor([2.0, 2.25, 2.5])
    found = waves(seconds, 8, 16)
    assert torch.equal(found[0], waves(torch.tensor(2), 8, 16))
    assert float((found[1] - found[0]).norm()) < float((found[2] - found[0]).norm())
