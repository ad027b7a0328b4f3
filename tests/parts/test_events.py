"""Events: which frames belong together, in which order, and how firmly."""

import torch

from vlmcourse.parts.event_merging import merge_videos
from vlmcourse.parts.events import event_frames, events, partitions


def frames(*scenes, width=8, seed=0):
    """Frame vectors `[1, T, D]`: of each frame the number of its scene is given."""
    generator = torch.Generator().manual_seed(seed)
    points = 5 * torch.randn(max(scenes) + 1, width, generator=generator)
    return (points[list(scenes)] + 0.1 * torch.randn(len(scenes), width, generator=generator))[None]


def test_events_are_what_looks_alike_in_the_order_of_first_frames():
    vectors = frames(2, 2, 0, 0, 1, 2, 2, 0, 1)
    found = events(vectors, None, 3, 2)
    assert found.ids.tolist() == [[0, 0, 1, 1, 2, 0, 0, 1, 2]]
    assert found.counts.tolist() == [3]
    assert sorted(found.clusters[0].tolist()) == [0, 1, 2]
    parts = events(vectors, None, 3, 3, temporal="contiguous")
    assert parts.ids.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2]]
    parts = events(vectors[:, :8], None, 3, 3, temporal="contiguous")
    assert parts.ids.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2]]


def test_a_scene_of_fewer_frames_than_neighbours_is_nowhere_dense_and_no_event():
    vectors = frames(0, 0, 0, 0, 1, 1, 0, 0)
    found = [events(vectors, None, 2, k).ids[0].tolist() for k in (2, 3)]
    assert found[0] == [0, 0, 0, 0, 1, 1, 0, 0]
    assert found[1] != found[0]


def test_numbers_of_events_as_published():
    for length, count in ((3, 1), (16, 1), (17, 2), (48, 3), (64, 4), (100, 7)):
        found = events(torch.randn(1, length, 4), None, 1 / 16, 5)
        assert int(found.counts) == count
        assert found.ids.unique().tolist() == list(range(count))


def test_more_events_than_frames_are_as_many_as_frames():
    assert events(torch.randn(1, 3, 4), None, 4, 5).counts.tolist() == [3]


def test_videos_of_a_batch_do_not_know_each_other():
    lengths = [9, 2, 5, 1]
    vectors = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    for how in ({}, {"rule": "official"}, {"temporal": "contiguous"}):
        found = events(vectors, mask, 0.5, 3, **how)
        assert found.ids[~mask].eq(-1).all()
        for row, length in enumerate(lengths):
            alone = events(vectors[row : row + 1, :length], None, 0.5, 3, **how)
            assert torch.equal(found.ids[row, :length], alone.ids[0])
            assert found.counts[row] == alone.counts[0]
        assert found.ids[1, :2].tolist() == [0, 1]  # two pictures


def test_the_official_events_hang_on_noise_and_ours_do_not():
    vectors = torch.randn(20, 16, generator=torch.Generator().manual_seed(0))
    found = partitions(vectors, range(20))
    assert found.shape == (20, 20)
    assert len(found.unique(dim=0)) > 5
    assert torch.equal(found[3], partitions(vectors, [3])[0])  # a seed is a partition
    assert len(partitions(vectors[:16], range(20)).unique(dim=0)) == 1  # one event
    longer = torch.randn(80, 16, generator=torch.Generator().manual_seed(1))
    assert len(partitions(longer, range(20)).unique(dim=0)) == 1  # k = 5 again
    ours = [events(vectors[None], None, 1 / 16, 5).ids for _ in range(3)]
    assert all(torch.equal(ours[0], other) for other in ours)


def test_two_far_apart_scenes_are_split_rightly_by_ours_and_by_chance_there():
    vectors = frames(*[0] * 10, *[1] * 10, seed=3)
    truth = torch.tensor([0] * 10 + [1] * 10)
    assert torch.equal(events(vectors, None, 1 / 16, 5).ids[0], truth)
    right = (partitions(vectors[0], range(40)) == truth).all(1)
    assert 0 < int(right.sum()) < 40


def test_frames_of_each_event_over_all_videos():
    features = torch.zeros(2, 6, 1, 8)
    features[0, :, 0] = frames(0, 1, 0, 1, 1, 0)[0]
    features[1, :4, 0] = frames(1, 1, 1, 0)[0]
    mask = torch.arange(6) < torch.tensor([[6], [4]])
    found = merge_videos(features, mask, (1,), (1,), 2, 1).events
    members = event_frames(found, mask)
    assert members.frames.tolist() == [[0, 2, 5], [1, 3, 4], [6, 7, 8], [9, -1, -1]]
    assert members.sizes == [3, 3, 3, 1]
    assert members.videos.tolist() == [0, 0, 1, 1]
    assert members.pictures == [False] * 4
    assert members.groups("official") == [[0, 1, 2], [3]]
