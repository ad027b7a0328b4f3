"""Sizes of pictures and video frames under Qwen2-VL's rule."""

import random

import pytest

from vlmcourse.parts.dynamic_resolution import (
    MAX_PIXELS,
    MIN_PIXELS,
    VIDEO_MAX_PIXELS,
    budget_frames,
    smart_resize,
    square_size,
    video_cost,
    video_max_pixels,
    video_tokens,
)


def sizes(count: int, least: int, most: int) -> list[tuple[int, int]]:
    rng = random.Random(0)
    return [(rng.randint(least, most), rng.randint(least, most)) for _ in range(count)]


@pytest.mark.parametrize("variant", ["course", "qwen_vl_utils", "transformers_4_45"])
def test_sides_area_and_shape(variant):
    for height, width in sizes(300, 40, 5000):
        rows, columns = smart_resize(height, width, max_pixels=1_003_520, variant=variant)
        assert rows % 28 == columns % 28 == 0
        assert MIN_PIXELS <= rows * columns <= 1_003_520
        if min(rows, columns) > 280 and max(height, width) / min(height, width) < 3:
            assert rows / columns == pytest.approx(height / width, rel=0.15)


def test_parity_with_transformers():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as theirs

    for height, width in sizes(300, 28, 4000):
        for most in (MAX_PIXELS, 602_112):
            expected = theirs(height, width, factor=28, min_pixels=3136, max_pixels=most)
            assert smart_resize(height, width, max_pixels=most) == tuple(expected)


def test_a_side_never_vanishes_unless_officially():
    long = {"height": 60, "width": 11_000, "max_pixels": 100_352}
    assert smart_resize(**long, variant="qwen_vl_utils")[0] == 0
    assert min(smart_resize(**long)) == 28


def test_too_thin_and_too_small():
    with pytest.raises(ValueError, match="more than 200"):
        smart_resize(10, 2001)
    with pytest.raises(ValueError, match="more than 200"):
        smart_resize(0, 10)
    assert smart_resize(10, 20) == (56, 84)
    with pytest.raises(ValueError, match="at least 28"):
        smart_resize(27, 300, variant="transformers_4_45")


def test_other_steps():
    assert smart_resize(100, 100, factor=16, min_pixels=0) == (96, 96)
    assert smart_resize(104, 104, factor=16, min_pixels=0) == (96, 96)  # 6.5 to the even side


def test_video_budget():
    assert video_max_pixels(4) == VIDEO_MAX_PIXELS
    assert video_max_pixels(256) == 150_528
    assert video_max_pixels(365) > 105_369
    assert video_max_pixels(768) == 105_369  # the lower bound wins
    rows, columns = smart_resize(720, 1280, min_pixels=100_352, max_pixels=video_max_pixels(16))
    assert video_tokens(16, rows, columns) == 8 * (rows // 28) * (columns // 28)


def test_squares_of_as_many_tokens():
    for height, width in sizes(300, 40, 5000):
        rows, columns = smart_resize(height, width, max_pixels=1_003_520)
        tokens = rows * columns // 28**2
        side, other = square_size(rows, columns)
        assert side == other
        assert side % 28 == 0
        near = (side // 28) ** 2
        wanted = min(((k * k) for k in range(1, 60)), key=lambda n: abs(n - tokens))
        assert abs(near - tokens) == abs(wanted - tokens)
        bounded, _ = square_size(rows, columns, max_pixels=1_003_520)
        assert bounded**2 <= 1_003_520
        assert bounded in (side, side - 28)
    assert square_size(28, 28 * 3, max_pixels=28**2) == (28, 28)
    assert square_size(16, 16, factor=16, max_pixels=10) == (16, 16)


def test_the_budget_overflows_in_long_videos():
    last = budget_frames()
    assert last == 365
    assert video_max_pixels(last) == 24576 * 784 * 2 / 365 > 105_369
    assert video_max_pixels(last + 1) == 105_369
    for frames in (4, 64, 240, 364):
        assert video_cost(frames, 720, 1280).overflow == 0
    longest = video_cost(768, 720, 1280)  # FACTS: 46,080 for 1280 x 720
    assert (longest.tokens, longest.budget) == (46_080, 24_576)
    assert longest.overflow == 46_080 - 24_576
    assert longest.tokens == 384 * (longest.height // 28) * (longest.width // 28)


def test_the_budget_of_a_small_world():
    small = {"min_pixels": 4 * 256, "total_pixels": 256 * 256}
    told = {"factor": 16, "frame_max_pixels": 16 * 256, **small}
    last = budget_frames(**small)
    assert last == 2 * 256 * 256 // int(1.05 * 4 * 256)
    assert video_cost(16, 64, 64, **told).tokens == 8 * 16
    assert [video_cost(n, 64, 64, **told).overflow > 0 for n in (16, 64, 256)] == [0, 0, 1]
