"""DPC-KNN: how many clusters, which tokens, whatever else is in the batch."""

import pytest
import torch
from torch.testing import assert_close

from vlmcourse.evaluation.plain_merging import loop_clusters
from vlmcourse.parts import clustering
from vlmcourse.parts.clustering import cluster_shares, dpc_knn, merge_clusters
from vlmcourse.parts.density_peaks import centre_scores, densities, token_distances


def tokens(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blobs(sets, sizes, width=6, seed=0):
    """Tokens `[B, sum of sizes, C]` around far-apart points, and which of them each is of."""
    points = 20 * tokens(sets, len(sizes), width, seed=seed)
    owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return points[:, owner] + 0.1 * tokens(sets, len(owner), width, seed=seed + 1), owner


def same_partition(a, b):
    return torch.equal(a[:, None] == a[None], b[:, None] == b[None])


@pytest.mark.parametrize("rule", ["exact", "official"])
def test_far_apart_groups_are_found(rule):
    x, owner = blobs(3, [9, 5, 7])
    found = dpc_knn(x, 3, 3, rule=rule)
    for row in range(3):
        assert same_partition(found.ids[row], owner)


@pytest.mark.parametrize("rule", ["exact", "official"])
@pytest.mark.parametrize("count", [1, 2, 7, 30])
def test_as_many_clusters_as_asked_for_and_none_empty(rule, count):
    x = tokens(4, 30, 5)
    x[1, 10:] = x[1, :1]  # 21 equal tokens
    x[2] = 1.0  # all equal
    found = dpc_knn(x, count, 5, noise=torch.rand(4, 30), rule=rule)
    for row in range(4):
        assert found.ids[row].unique().tolist() == list(range(count))
        assert found.ids[row][found.centres[row]].tolist() == list(range(count))


@pytest.mark.parametrize(("count", "k"), [(1, 1), (4, 3), (9, 5), (12, 12), (12, 50)])
def test_the_exact_rule_is_what_loops_say(count, k):
    x = tokens(2, 12, 7, seed=count)
    x[1, 5] = x[1, 2]
    found = dpc_knn(x, count, k)
    for row in range(2):
        assert found.ids[row].tolist() == loop_clusters(x[row].double(), count, k)


def test_without_noise_the_same_every_time_and_ties_go_to_the_first():
    x = torch.tensor([[0.0], [4.0], [8.0], [12.0]])[None]  # k = 1: all as dense, all ties
    found = dpc_knn(x, 2, 1)
    assert found.scores[0].tolist() == [12, 4, 4, 4]
    assert found.centres[0].tolist() == [0, 1]
    assert found.ids[0].tolist() == [0, 1, 1, 1]
    between = torch.tensor([[[10.0], [11.0], [0.0], [1.0], [5.0]]])  # centres at 10 and at 0
    assert dpc_knn(between, 2, 2).ids[0].tolist() == [0, 0, 1, 1, 0]  # to the higher score


def test_equal_tokens_are_at_distance_0_and_stay_their_own_centres():
    x = 30 + tokens(1, 40, 64)
    x[0, 30:] = x[0, :10]
    distance = token_distances(x)
    assert float(distance[0, 30:, :10].diagonal().abs().max()) == 0
    assert float(distance.diagonal(dim1=1, dim2=2).abs().max()) == 0
    assert_close(distance, distance.mT)
    far = torch.cdist(x.double(), x.double()).float() / 8
    assert_close(distance, far, atol=1e-5, rtol=1e-5)
    found = dpc_knn(x, 40, 5)
    assert sorted(found.ids[0].tolist()) == list(range(40))


def test_another_order_of_tokens_gives_the_same_clusters():
    x = tokens(3, 25, 8)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(1))
    there, here = dpc_knn(x, 6, 4), dpc_knn(x[:, order], 6, 4)
    assert torch.equal(here.ids, there.ids[:, order])
    assert torch.equal(order[here.centres], there.centres)


def test_sets_of_a_batch_do_not_know_each_other():
    x = tokens(5, 24, 8)
    lengths, counts = torch.tensor([24, 7, 3, 16, 1]), torch.tensor([5, 2, 3, 1, 1])
    mask = torch.arange(24) < lengths[:, None]
    x[~mask] = float("nan")
    found = dpc_knn(x, counts, 4, mask=mask)
    assert found.ids[~mask].eq(-1).all()
    merged = merge_clusters(x, found.ids, 5)
    for row, (length, count) in enumerate(zip(lengths.tolist(), counts.tolist())):
        alone = dpc_knn(x[row : row + 1, :length], count, 4)
        assert torch.equal(found.ids[row, :length], alone.ids[0])
        assert found.centres[row].tolist() == alone.centres[0].tolist() + [-1] * (5 - count)
        assert_close(found.scores[row, :length], alone.scores[0], atol=0, rtol=1e-6)
        expected = merge_clusters(x[row : row + 1, :length], alone.ids, count)
        assert torch.equal(merged[row, :count], expected[0])
        assert not merged[row, count:].any()


def test_a_mask_may_have_holes():
    x, mask = tokens(1, 20, 8), torch.rand(1, 20, generator=torch.Generator().manual_seed(2)) < 0.6
    found = dpc_knn(x, 4, 3, mask=mask)
    alone = dpc_knn(x[:, mask[0]], 4, 3)
    assert torch.equal(found.ids[mask], alone.ids[0])
    assert torch.equal(found.scores[mask], alone.scores[0])


def test_blocks_change_nothing(monkeypatch):
    x, mask = tokens(7, 18, 5), torch.arange(18) < torch.tensor([18, 9, 4, 18, 12, 6, 5])[:, None]
    noise = torch.rand(7, 18)
    for rule, given in (("exact", {"mask": mask}), ("official", {"noise": noise})):
        whole = dpc_knn(x, 4, 3, rule=rule, **given)
        monkeypatch.setitem(clustering.MOST, "cpu", 3 * 18 * 18)
        parts = dpc_knn(x, 4, 3, rule=rule, **given)
        monkeypatch.undo()
        assert torch.equal(whole.ids, parts.ids)
        assert torch.equal(whole.scores, parts.scores)


def test_noise_decides_by_the_official_rule_and_is_as_large_as_said():
    x = tokens(1, 14, 6)
    noise = torch.zeros(1, 14)
    distance = token_distances(x, rule="official")
    assert densities(distance, 1, rule="official").unique().tolist() == [1.0]
    partitions = set()
    for seed in range(10):
        noise = torch.rand(1, 14, generator=torch.Generator().manual_seed(seed))
        density = densities(distance, 1, noise=noise, rule="official")
        assert 1 <= float(density.min()) <= float(density.max()) <= 1 + 1.1e-6
        found = dpc_knn(x, 3, 1, noise=noise, rule="official")
        assert int(density[0].argmax()) in found.centres[0].tolist()
        partitions.add(tuple(found.ids[0].tolist()))
    assert len(partitions) > 1


def test_scores_of_the_densest_and_of_the_others():
    x = torch.tensor([[[0.0], [1.0], [1.5], [9.0]]])
    distance = token_distances(x)
    density = densities(distance, 2)
    assert density[0].argsort(descending=True).tolist() == [1, 2, 0, 3]
    scores = centre_scores(distance, density)
    assert_close(scores[0], (torch.tensor([1.0, 9.0, 0.5, 7.5]) * density[0]))


def test_merging_is_a_mean_with_weights_and_passes_gradients_to_it_alone():
    x = tokens(2, 6, 3).requires_grad_()
    ids = torch.tensor([[0, 1, 0, 1, 2, 0], [2, -1, 1, 0, 0, 0]])
    weights = torch.rand(2, 6) + 0.5
    merged = merge_clusters(x, ids, 3, weights)
    w = weights[0, [0, 2, 5]]
    assert_close(merged[0, 0], (x[0, [0, 2, 5]] * w[:, None]).sum(0) / w.sum(), atol=1e-5, rtol=0)
    shares = cluster_shares(ids, 3, weights)
    merged.sum().backward()
    assert_close(x.grad, shares[:, :, None].expand_as(x))
    assert shares[1, 1] == 0
    found = dpc_knn(x, 2, 3)
    assert not any(value.requires_grad for value in (found.ids, found.scores))
    assert merge_clusters(x.detach(), torch.full((2, 6), -1), 2).eq(0).all()


def test_half_precision_is_summed_in_full():
    x = torch.full((1, 1000, 2), 1.01, dtype=torch.bfloat16)
    merged = merge_clusters(x, torch.zeros(1, 1000, dtype=torch.int64), 1)
    assert merged.dtype == torch.bfloat16
    assert_close(merged[0, 0], x[0, 0])


def test_what_cannot_be_is_refused():
    x = tokens(2, 5, 3)
    with pytest.raises(ValueError, match=r"\[6, 6\] clusters of 5 tokens"):
        dpc_knn(x, 6, 2)
    with pytest.raises(ValueError, match="clusters of"):
        dpc_knn(x, 3, 2, mask=torch.arange(5).expand(2, 5) < torch.tensor([[5], [2]]))
    with pytest.raises(ValueError, match=r"\[0, 0\] clusters of 5"):
        dpc_knn(x, 0, 2)
    with pytest.raises(ValueError, match="unknown rule 'noisy'"):
        dpc_knn(x, 2, 2, rule="noisy")
