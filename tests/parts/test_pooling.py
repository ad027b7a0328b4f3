import pytest
import torch
from torch.testing import assert_close

from vlmcourse.parts.pooling import (
    average_grid,
    pooled_as_inference,
    pooled_as_training_files,
    spatio_temporal_pooling,
)


def by_hand(frames: torch.Tensor, num_temporal: int) -> torch.Tensor:
    rows = [frame.mean(0) for frame in frames]
    rows += [torch.zeros(frames.shape[-1])] * (num_temporal - len(rows))
    return torch.stack([*rows, *frames.mean(0)])


@pytest.mark.parametrize("num_frames", [1, 3, 8, 11])
def test_one_video(num_frames):
    features = torch.randn(num_frames, 4, 6)
    tokens, mask = spatio_temporal_pooling(features[None], num_temporal=8)
    assert mask.all()
    assert_close(tokens[0], by_hand(features, 8))


def test_batch_of_different_lengths_equals_one_by_one():
    videos = [torch.randn(count, 4, 6) for count in (2, 9, 5)]
    frame_mask = torch.arange(9)[None] < torch.tensor([2, 9, 5])[:, None]
    features = torch.full((3, 9, 4, 6), 7.0)  # what stands behind a video's end must not matter
    for row, video in enumerate(videos):
        features[row, : len(video)] = video
    tokens, mask = spatio_temporal_pooling(features, frame_mask, num_temporal=4)
    for row, video in enumerate(videos):
        assert_close(tokens[row][mask[row]], by_hand(video, 4))


def test_shuffled_frames_change_only_the_order_of_temporal_tokens():
    features = torch.randn(1, 6, 4, 3)
    order = torch.randperm(6)
    tokens, _ = spatio_temporal_pooling(features, num_temporal=6)
    shuffled, _ = spatio_temporal_pooling(features[:, order], num_temporal=6)
    assert_close(shuffled[:, :6], tokens[:, :6][:, order])
    assert_close(shuffled[:, 6:], tokens[:, 6:])


def test_a_padded_row_is_zero_before_and_the_bias_after_a_linear_layer():
    linear = torch.nn.Linear(3, 2)
    tokens, _ = spatio_temporal_pooling(torch.randn(1, 2, 4, 3), num_temporal=5)
    assert not tokens[0, 2:5].any()
    assert_close(linear(tokens)[0, 3], linear.bias)


def test_grid_average():
    grid = torch.arange(16.0).reshape(1, 16, 1)
    assert average_grid(grid, 2)[0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(average_grid(grid, 4), grid)
    with pytest.raises(ValueError, match="16 tokens"):
        average_grid(grid, 3)
    tokens, mask = spatio_temporal_pooling(torch.randn(2, 3, 16, 5), num_temporal=3, spatial_grid=2)
    assert tokens.shape == (2, 7, 5)
    assert mask.shape == (2, 7)


def test_a_video_without_frames_is_an_error():
    with pytest.raises(ValueError, match="without frames"):
        spatio_temporal_pooling(torch.zeros(1, 0, 4, 3))
    with pytest.raises(ValueError, match="without frames"):
        spatio_temporal_pooling(torch.zeros(1, 2, 4, 3), torch.zeros(1, 2, dtype=torch.bool))


def test_half_precision_ways_differ_from_each_other_as_the_official_ones():
    features = 5 * torch.randn(7, 4, 16)
    files, inference = pooled_as_training_files(features, 10), pooled_as_inference(features, 10)
    exact = spatio_temporal_pooling(features[None], num_temporal=10)[0][0]
    assert files.dtype == inference.dtype == torch.float16
    assert_close(inference, exact.half(), rtol=0, atol=0)
    assert not torch.equal(files, inference)  # float16 features were rounded before the mean
    assert_close(files.float(), exact, rtol=2e-3, atol=5e-3)
