"""The order of samples and the draws of a mixture: pure functions of a seed and a number."""

from collections import Counter
from pathlib import Path

import numpy as np

from vlmcourse.training import order
from vlmcourse.training.order import Draws, Order


def test_an_epoch_holds_every_sample_once_and_units_one_video():
    videos = [Path("abcd"[i % 4]) for i in range(30)]
    order = Order(videos, 3, seed=1)
    units = order.units(0, order.units_per_epoch)
    assert Counter(i for unit in units for i in unit) == Counter(range(30))
    assert all(len({videos[i] for i in unit}) == 1 for unit in units)
    assert {len(unit) for unit in units} == {2, 3}
    assert order.epoch(1) != units


def test_the_stream_crosses_epochs_and_starts_anywhere():
    order = Order([Path(x) for x in "aabbccd"], 2, seed=3)
    stream = order.units(0, 11)
    assert order.units_per_epoch == 4
    assert stream[:4] == order.epoch(0)
    assert stream[4:8] == order.epoch(1)
    assert Order([Path(x) for x in "aabbccd"], 2, seed=3).units(5, 4) == stream[5:9]
    assert Order([Path(x) for x in "aabbccd"], 2, seed=4).units(0, 4) != stream[:4]


def test_draws_are_of_their_weights_and_know_their_place():
    draws = Draws([100, 24], seed=5)
    drawn = [draws(i) for i in range(2000)]
    sources = np.array([source for source, _ in drawn])
    assert abs(np.mean(sources == 0) - 100 / 124) < 0.03
    for number in (0, 1):
        assert [n for source, n in drawn if source == number] == list(range(sum(sources == number)))


def test_a_draw_depends_on_seed_and_number_alone(monkeypatch):
    monkeypatch.setattr(order, "BLOCK", 16)
    forward = [Draws([1, 2, 3], 7)(i) for i in (50, 49, 3)]
    draws = Draws([1, 2, 3], 7)
    inorder = [draws(i) for i in range(60)]
    assert forward == [inorder[i] for i in (50, 49, 3)]
    assert inorder != [Draws([1, 2, 3], 8)(i) for i in range(60)]
    assert len({source for source, _ in inorder[:16]}) == 3
