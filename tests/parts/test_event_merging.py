"""Merging of pictures and videos: numbers of tokens, batches, controls, noise."""

import pytest
import torch
from chat_univi_twin import Recorder, original_video
from torch.testing import assert_close

from vlmcourse.evaluation.plain_merging import MergingSizes, loop_video
from vlmcourse.parts.cluster_rules import recorded_noise, seeded_noise, token_count
from vlmcourse.parts.event_merging import merge_videos, video_tokens
from vlmcourse.parts.image_merging import image_scales, image_tokens

RATES, KS = (8, 4, 2), (5, 3, 3)
HOWS = [
    {},
    {"merging": "grid"},
    {"merging": "random", "seed": 3},
    {"temporal": "contiguous"},
    {"merging": "random", "temporal": "contiguous"},
    {"rule": "official"},
]


def film(frames, patches=16, width=6, seed=0):
    """Two scenes in turns, `[1, T, P, D]`."""
    generator = torch.Generator().manual_seed(seed)
    scenes = 3 * torch.randn(2, patches, width, generator=generator)
    which = (torch.arange(frames) // 2) % 2
    return (scenes[which] + torch.randn(frames, patches, width, generator=generator))[None]


def whole(features):
    return torch.ones(features.shape[:2], dtype=torch.bool)


def batch(lengths):
    longest = max(lengths)
    features = torch.cat([film(longest, seed=i) for i in range(len(lengths))])
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    features[~mask] = float("nan")
    return features, mask


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_videos_and_pictures_of_a_batch_are_each_as_alone(how):
    lengths = [9, 1, 16, 2, 3, 12]
    features, mask = batch(lengths)
    merged = merge_videos(features, mask, RATES, KS, 0.25, 5, **how)
    for v, length in enumerate(lengths):
        alone = merge_videos(features[v : v + 1, :length], mask[v : v + 1, :length], RATES, KS,
                             0.25, 5, **how)  # fmt: skip
        assert torch.equal(merged.events.ids[v, :length], alone.events.ids[0])
        count = token_count(length, 16, RATES, 0.25)
        assert alone.tokens.shape == (1, count, 6)
        assert alone.mask.all()
        assert merged.mask[v].tolist() == [i < count for i in range(merged.mask.shape[1])]
        assert_close(merged.tokens[v, :count], alone.tokens[0], atol=1e-6, rtol=0)
        assert not merged.tokens[v, count:].any()


@pytest.mark.parametrize("temporal_rate", [0.25, 3, 1 / 16])
def test_the_exact_rule_is_what_loops_say(temporal_rate):
    features = film(11, seed=4)
    sizes = MergingSizes(11, (11,), 16, 6, RATES, KS, temporal_rate, 4)
    tokens, mask, events = video_tokens(features, whole(features), RATES, KS, temporal_rate, 4)
    assert_close(tokens[0], loop_video(features[0], sizes), atol=1e-5, rtol=0)
    assert mask.all()
    assert int(events.counts) == {0.25: 3, 3: 3, 1 / 16: 1}[temporal_rate]


def test_one_or_two_frames_are_pictures_and_three_a_video():
    features = film(3)
    for count in (1, 2):
        part = features[:, :count]
        tokens, _, _ = video_tokens(part, whole(part), RATES, KS, 1 / 16, 5)
        pictures = image_tokens(part[0], RATES, KS)  # [T, 14, D]
        assert torch.equal(tokens[0], pictures.flatten(0, 1))
    assert video_tokens(features, whole(features), RATES, KS, 1 / 16, 5)[0].shape[1] == 14
    more = video_tokens(features, whole(features), RATES, KS, 1 / 16, 5, pictures=3)[0]
    assert more.shape[1] == 3 * 14


def test_scales_are_means_of_means_and_patches_are_followed():
    features = film(4)[0]
    scales = image_scales(features, RATES, KS)
    assert [tuple(scale.tokens.shape) for scale in scales] == [(4, n, 6) for n in RATES]
    first, second, _ = scales
    one = features[2, first.patches[2] == 3].mean(0)
    assert_close(first.tokens[2, 3], one, atol=1e-5, rtol=1e-5)
    members = second.ids[2] == 1
    assert_close(second.tokens[2, 1], first.tokens[2, members].mean(0), atol=1e-5, rtol=1e-5)
    assert torch.equal(second.patches, second.ids.gather(1, first.patches))


def test_gradients_are_those_of_the_averages():
    small = film(4, patches=4, width=2).double().requires_grad_()
    torch.autograd.gradcheck(
        lambda x: merge_videos(x, whole(x), (3, 2), (2, 2), 0.5, 2).tokens, small, atol=1e-6
    )
    features = film(6).requires_grad_()
    merged = merge_videos(features, whole(features), RATES, KS, 0.34, 3)
    merged.tokens.sum().backward()
    # each token is a mean: one unit of gradient, shared by those that take part in it
    expected = torch.full((1, 6), 14.0 * int(merged.events.counts))
    assert_close(features.grad.sum((1, 2)), expected, atol=1e-3, rtol=0)
    assert int(merged.events.counts) == 3


def test_grid_keeps_places():
    patches = torch.arange(16.0).expand(1, 3, 16)[..., None]
    merged = merge_videos(patches, whole(patches), (4, 2), (5, 3), 1 / 16, 5, merging="grid")
    cells = [2.5, 4.5, 10.5, 12.5]
    assert_close(merged.tokens[0, :, 0], torch.tensor([*cells, 6.5, 8.5]), atol=1e-4, rtol=0)


def test_random_merging_depends_on_the_seed_and_not_on_what_is_seen():
    features, other = film(5), film(5, seed=9)
    how = {"merging": "random", "temporal": "contiguous"}
    a, b = (merge_videos(x, whole(x), RATES, KS, 0.4, 5, seed=1, **how) for x in (features, other))
    c = merge_videos(features, whole(features), RATES, KS, 0.4, 5, seed=2, **how)
    assert torch.equal(a.frames[0].ids, b.frames[0].ids)
    assert all(torch.equal(x, y) for x, y in zip(a.event_ids, b.event_ids))
    assert not torch.equal(a.frames[0].ids, c.frames[0].ids)
    assert all(len(scale.ids[0].unique()) == n for scale, n in zip(a.frames, RATES))


@pytest.mark.parametrize(("frames", "rate"), [(2, 1 / 16), (18, 1 / 16), (7, 0.5), (30, 1 / 16)])
def test_the_official_rule_with_its_noise(frames, rate):
    features, draw = film(frames, seed=frames), Recorder(frames)
    tokens, told = original_video(features[0], RATES, KS, rate, 5, draw)
    noise = recorded_noise(draw.drawn)
    merged = merge_videos(
        features, whole(features), RATES, KS, rate, 5, rule="official", noise=[noise]
    )
    assert_close(merged.tokens[0], tokens, atol=1e-5, rtol=0)
    if frames > 2:
        clusters = merged.events.clusters[0]
        assert torch.equal(clusters, told["event_order"])
        assert torch.equal(clusters[merged.events.ids[0]], told["frame_event"])
    with pytest.raises(ValueError, match="none is left"):
        noise((1, 2))


def test_noise_is_drawn_medium_by_medium():
    features, mask = batch([6, 1, 20, 2])
    how = {"rule": "official"}
    together = merge_videos(
        features, mask, RATES, KS, 0.1, 5, noise=[seeded_noise(s) for s in range(4)], **how
    )
    for v, length in enumerate([6, 1, 20, 2]):
        own = features[v : v + 1, :length]
        alone = merge_videos(own, whole(own), RATES, KS, 0.1, 5, noise=[seeded_noise(v)], **how)
        assert_close(together.tokens[v, : alone.tokens.shape[1]], alone.tokens[0])


def test_shares_as_rates_count_on_what_there_is():
    features = film(6)
    rates, generator = (0.5, 0.25), (5, 3)
    pictures = image_tokens(features[0], rates, generator)
    assert pictures.shape == (6, 8 + 2, 6)
    merged = merge_videos(features, whole(features), rates, generator, 2, 5)
    frames = merged.events.ids[0].bincount()
    wanted = sum(-(-8 * int(n) // 2) + -(-2 * int(n) // 4) for n in frames)
    assert int(merged.mask.sum()) == wanted
    with pytest.raises(ValueError, match="not known yet"):
        token_count(6, 16, rates, 2)


def test_what_cannot_be_is_refused():
    features = film(4)
    with pytest.raises(ValueError, match="17 clusters of 16 tokens"):
        video_tokens(features, whole(features), (17,), (5,), 0.5, 5)
    with pytest.raises(ValueError, match="without frames"):
        video_tokens(features, ~whole(features), RATES, KS, 0.5, 5)
    with pytest.raises(ValueError, match="unknown merging 'mean'"):
        video_tokens(features, whole(features), RATES, KS, 0.5, 5, merging="mean")
    with pytest.raises(ValueError, match="unknown events 'scenes'"):
        video_tokens(features, whole(features), RATES, KS, 0.5, 5, temporal="scenes")
    with pytest.raises(ValueError, match="1 x 13"):
        image_tokens(features[0], (13,), (5,), merging="grid")
    with pytest.raises(ValueError, match=r"noise of shape \(1, 4\) is wanted, but it is \(2, 4\)"):
        video_tokens(
            features, whole(features), RATES, KS, 0.5, 5, rule="official",
            noise=[recorded_noise([torch.rand(2, 4)])],
        )  # fmt: skip
