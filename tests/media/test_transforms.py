"""Resizing, cropping and normalising of frames."""

import random

import numpy as np
import pytest
import torch

from vlmcourse.media import transforms
from vlmcourse.media.captions import clean_caption
from vlmcourse.media.transforms import (
    CLIP_MEAN,
    CLIP_STD,
    crop_and_resize,
    normalise_and_crop,
    normalise_frames,
    random_crop_box,
    resize_frames,
    to_uint8,
)


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 36, 50, 3), dtype=np.uint8)


@pytest.mark.parametrize(("mode", "pillow"), [("bilinear", 2), ("bicubic", 3)])
@pytest.mark.parametrize("size", [(12, 20), (70, 90), (36, 25)])
def test_resizing_agrees_with_pillow(mode, pillow, size):
    from PIL import Image

    rows, columns, colours = np.ogrid[:36, :50, :3]
    waves = [np.sin(rows / 3 + step) * np.cos(columns / 4 - colours) for step in range(5)]
    frames = (128 + 90 * np.stack(waves)).astype(np.uint8)  # smooth: Pillow clips between passes
    ours = resize_frames(frames, *size, mode)
    assert ours.shape == (5, *size, 3)
    for one, frame in zip(ours, frames):
        theirs = np.asarray(Image.fromarray(frame).resize(size[::-1], pillow))
        assert np.abs(one.astype(int) - theirs).max() <= 1


def test_nearest_takes_pixels_by_the_floor_rule(frames):
    ours = resize_frames(frames, 10, 7, "nearest")
    rows, columns = np.arange(10) * 36 // 10, np.arange(7) * 50 // 7
    np.testing.assert_array_equal(ours, frames[:, rows][:, :, columns])


def test_antialiasing_is_a_choice():
    stripes = np.zeros((1, 32, 32, 3), np.uint8)
    stripes[:, :, ::2] = 255
    smooth = resize_frames(stripes, 32, 8, "bilinear")
    assert np.abs(smooth[:, :, 1:-1].astype(int) - 128).max() < 10
    rough = resize_frames(stripes, 32, 11, "bilinear", antialias=False)
    assert rough.std() > smooth.std() * 3


def test_bicubic_stays_in_range():
    edge = np.zeros((1, 8, 8, 3), np.uint8)
    edge[:, :, 4:] = 255
    wide = resize_frames(edge, 8, 40, "bicubic")
    assert wide[0, 0, :10].max() < 60
    assert wide[0, 0, -10:].min() > 195
    assert (np.diff(wide[0, 0, 15:25, 0].astype(int)) >= 0).all()  # no wrap at the edge


def test_kinds_are_kept(frames):
    tensor = torch.from_numpy(frames)
    resized = resize_frames(tensor, 10, 10)
    assert isinstance(resized, torch.Tensor)
    np.testing.assert_array_equal(resized.numpy(), resize_frames(frames, 10, 10))
    assert resize_frames(frames, 36, 50) is not None
    np.testing.assert_array_equal(resize_frames(frames, 36, 50), frames)
    assert resize_frames(frames[:0], 4, 4).shape == (0, 4, 4, 3)


def test_chunks_do_not_matter(frames, monkeypatch):
    whole = resize_frames(frames, 20, 20, "bicubic")
    monkeypatch.setattr(transforms, "_AT_A_TIME", 2)
    np.testing.assert_array_equal(resize_frames(frames, 20, 20, "bicubic"), whole)


def test_turned_views_are_accepted(frames):
    turned = np.rot90(frames, 1, axes=(1, 2))
    np.testing.assert_array_equal(resize_frames(turned, 50, 36), turned)
    assert resize_frames(turned, 10, 10).shape == (5, 10, 10, 3)


def test_wrong_input_is_named(frames):
    with pytest.raises(ValueError, match=r"uint8 \[T, H, W, 3\]"):
        resize_frames(frames[0], 4, 4)
    with pytest.raises(ValueError, match="float32"):
        resize_frames(frames.astype(np.float32), 4, 4)
    with pytest.raises(ValueError, match="mode"):
        resize_frames(frames, 4, 4, "area")


def test_normalise():
    frames = torch.full((3, 2, 4, 5), 255, dtype=torch.uint8)
    frames[:, 0] = 0
    values = normalise_frames(frames)
    assert values.dtype == torch.float32
    for colour in range(3):
        black, white = -CLIP_MEAN[colour] / CLIP_STD[colour], (1 - CLIP_MEAN[colour])
        torch.testing.assert_close(values[colour, 0], torch.full((4, 5), black))
        torch.testing.assert_close(values[colour, 1], torch.full((4, 5), white / CLIP_STD[colour]))


def test_crop_cuts_the_box_before_resizing():
    frames = torch.zeros(3, 1, 10, 12)
    frames[:, :, 2:6, 3:7] = 100
    torch.testing.assert_close(
        crop_and_resize(frames, (2, 3, 4, 4), 9), torch.full((3, 1, 9, 9), 100.0)
    )


@pytest.mark.parametrize(("long", "first"), [(24, 0), (25, 0), (26, 1), (27, 2), (29, 2), (31, 4)])
def test_the_middle_is_kept_and_half_a_pixel_goes_to_the_even_side(long, first):
    frames = torch.randint(0, 256, (3, 2, 24, long))
    wanted = normalise_frames(frames[..., first : first + 24])
    torch.testing.assert_close(normalise_and_crop(frames, 24), wanted)
    upright = normalise_and_crop(frames.transpose(2, 3), 24)
    torch.testing.assert_close(upright, wanted.transpose(2, 3))


def test_the_short_side_is_scaled_without_antialiasing():
    frames = torch.zeros(3, 20, 16, 22, dtype=torch.uint8)
    frames[:, :, 2::4] = 200  # between the rows that a plain bilinear filter reads, 1.5, 5.5, ...
    black = torch.zeros(3)
    half = normalise_and_crop(frames, 4, (0, 0, 0), (1, 1, 1))
    assert half.shape == (3, 20, 4, 4)  # 22 / 16 * 4 = 5.5 columns, so 5
    torch.testing.assert_close(half, torch.full((3, 20, 4, 4), 100 / 255))
    frames[:] = 0
    frames[:, :, ::4] = 200
    assert torch.equal(normalise_and_crop(frames, 4, (0, 0, 0), (1, 1, 1))[:, 19, 2, 2], black)


def test_overshoot_is_limited_or_wraps():
    values = torch.tensor([-3.7, -0.5, 0.9, 254.99, 258.2, 256.0])
    assert to_uint8(values).tolist() == [0, 0, 0, 254, 255, 255]
    assert to_uint8(values, official=True).tolist() == [253, 0, 0, 254, 2, 0]


@pytest.mark.parametrize(("height", "width"), [(100, 160), (224, 224), (10, 400)])
def test_random_crops_fit(height, width):
    rng = random.Random(0)
    shares, places = [], set()
    for _ in range(300):
        top, left, rows, columns = random_crop_box(height, width, rng)
        assert 0 <= top <= height - rows
        assert 0 <= left <= width - columns
        assert 0.7 < columns / rows < 1.4
        shares.append(rows * columns / (height * width))
        places.add((top, left))
    if width < 400:
        assert min(shares) > 0.48
        assert max(shares) > (0.9 if height == width else 0.75)
        assert len(places) > 100
    else:
        assert places == {(0, (400 - 13) // 2)}  # no such box fits: the largest in the middle


def test_captions_are_simplified():
    assert clean_caption("  A Man (left): runs!!  #fast\n") == "a man left runs fast"
    assert clean_caption("Why? Yes, it's - so.") == "why? yes, it's - so"
    assert clean_caption("one two three four", max_words=3) == "one two three"
    assert clean_caption("...") == ""
