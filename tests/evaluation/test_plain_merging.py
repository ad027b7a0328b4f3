"""The merging beside its loops: the same tokens, and what is timed is what it says."""

import torch
from torch.testing import assert_close

from vlmcourse.evaluation import plain_merging
from vlmcourse.evaluation.plain_merging import MergingSizes, loop_clusters, loop_means

SMALL = MergingSizes(5, (5, 1, 4), 16, 12, (6, 4, 2), (4, 3, 3), temporal_rate=0.5, temporal_k=2)


def test_both_ways_give_the_same_tokens(monkeypatch):
    monkeypatch.setitem(plain_merging.SIZES, "small", SMALL)
    works = plain_merging.works("small", "cpu")
    assert works.keys() == {"film", "batch_one_by_one"}
    assert plain_merging.AIM.keys() <= works.keys()
    for name, count in (("film", 3 * 12), ("batch_one_by_one", (3 + 1 + 2) * 12)):
        (ours,), (loops,) = works[name].ours(), works[name].loops()
        assert ours.shape == (count, 12)
        assert_close(ours, loops, atol=1e-5, rtol=0)


def test_published_sizes_are_timed():
    paper = plain_merging.SIZES["paper"]
    assert (paper.frames, paper.patches, paper.width) == (64, 256, 1024)
    assert (paper.rates, paper.ks) == ((64, 32, 16), (5, 3, 3))
    assert (paper.temporal_rate, paper.temporal_k) == (1 / 16, 5)


def test_loops_do_what_they_say():
    x = torch.tensor([[0.0], [1.0], [2.0], [20.0], [21.0]])
    assert loop_clusters(x, 2, 2) == [0, 0, 0, 1, 1]
    assert_close(loop_means(x, [0, 0, 0, 1, 1], 2), torch.tensor([[1.0], [20.5]]))
