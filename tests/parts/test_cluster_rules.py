"""How many clusters, neighbours and tokens; noise."""

import pytest
import torch

from vlmcourse.parts.cluster_rules import (
    cluster_count,
    neighbours,
    num_events,
    recorded_noise,
    scale_sizes,
    seeded_noise,
    token_count,
)
from vlmcourse.parts.merging_baselines import grid_ids, place_ids, random_ids


def test_counts_of_clusters():
    assert cluster_count(64, 256) == 64
    assert cluster_count(1, 7) == 7  # a share of 1
    assert cluster_count(1.5, 7) == 2
    assert cluster_count(1 / 16, 17) == 2
    assert scale_sizes(256, (64, 32, 16)) == (64, 32, 16)
    assert scale_sizes(24, (0.25, 0.5, 0.5)) == (6, 3, 2)
    with pytest.raises(ValueError, match="64 asks for 64 clusters of 49"):
        cluster_count(64, 49)
    assert [num_events(n, 1 / 16) for n in (16, 17, 100)] == [1, 2, 7]
    assert [num_events(n, 4) for n in (3, 4, 50)] == [3, 4, 4]


def test_counts_of_tokens_as_published():
    counts = [token_count(n, 256, (64, 32, 16), 1 / 16) for n in (1, 2, 3, 16, 64, 100)]
    assert counts == [112, 224, 112, 112, 448, 784]


def test_neighbours_shrink_by_the_official_rule_alone():
    assert [neighbours(5, n, "official") for n in (1, 2, 3, 4, 5, 9)] == [1, 1, 1, 2, 5, 5]
    assert {neighbours(5, n) for n in (1, 2, 3, 4, 5, 9)} == {5}


def test_noise_by_seed_and_as_written_down():
    a, b = seeded_noise(1), seeded_noise(1)
    first = a((2, 3))
    assert torch.equal(first, b((2, 3)))
    assert not torch.equal(first, a((2, 3)))
    assert first.min() >= 0
    assert first.max() < 1
    drawn = recorded_noise([first])
    assert drawn((2, 3)) is first
    with pytest.raises(ValueError, match=r"shape \(2, 3\) is wanted, but none is left"):
        drawn((2, 3))


def test_grids():
    assert grid_ids(16, 4).reshape(4, 4)[:, ::2].tolist() == [[0, 1], [0, 1], [2, 3], [2, 3]]
    eight = grid_ids(64, 32).reshape(8, 8)
    assert eight[1].tolist() == list(range(8))
    assert eight[:, 0].tolist() == [0, 0, 8, 8, 16, 16, 24, 24]
    uneven = grid_ids(25, 6)
    assert uneven.bincount(minlength=6).min() >= 2
    with pytest.raises(ValueError, match="15 patches do not fall"):
        grid_ids(15, 3)
    with pytest.raises(ValueError, match="1 x 7 cells"):
        grid_ids(36, 7)
    mask = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    assert place_ids(mask, 3).tolist() == [[0, 1, 2, 0, 1, 2], [0, 1, 2, -1, -1, -1]]


def test_chance_leaves_no_cluster_empty_and_knows_no_batch():
    mask = torch.arange(30) < torch.tensor([30, 12, 5])[:, None]
    counts = torch.tensor([7, 12, 1])
    ids = random_ids(mask, counts, seed=4)
    for row, (length, count) in enumerate(((30, 7), (12, 12), (5, 1))):
        own = ids[row, :length]
        assert own.unique().tolist() == list(range(count))
        assert ids[row, length:].eq(-1).all()
        assert torch.equal(own[None], random_ids(mask[row : row + 1, :length], count, seed=4))
    assert not torch.equal(ids, random_ids(mask, counts, seed=5))
