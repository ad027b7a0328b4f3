"""Pictures of a story: every state is visible, in its seconds, at its place, at any size."""

import itertools

import numpy as np
import pytest

from vlmcourse.world.render import (
    DIGITS,
    RGB,
    STATES,
    STILL,
    digit_mask,
    iter_frames,
    num_frames,
    render_frame,
    render_frames,
)
from vlmcourse.world.story import COLOURS, SHAPES, SIZES, Event, Mark, Story, Thing, sample_story


def one_thing(shape="circle", size="big", state=STILL, colour="red", row=1, column=1, seed=5):
    events = () if state == STILL else (Event(0, 4, 0, state),)
    return Story(seed, 4, (Thing(colour, shape, size, row, column),), events)


def coloured(frame, colour):
    """Return where a frame [H, W, 3] is nearest to a palette colour and not dark -> bool [H, W]."""
    palette = np.array(list(RGB.values()), dtype=float)
    distance = np.linalg.norm(frame[:, :, None].astype(float) - palette, axis=-1)
    return (distance.argmin(-1) == COLOURS.index(colour)) & (frame.max(-1) > 110)


def centre(mask):
    rows, columns = np.nonzero(mask)
    return rows.mean(), columns.mean()


@pytest.mark.parametrize(("width", "height"), [(64, 64), (96, 54), (54, 96), (33, 47), (16, 16)])
def test_any_size_gives_uint8_frames(width, height):
    frames = render_frames(sample_story(1), 2, width, height)
    assert frames.shape == (16, height, width, 3)
    assert frames.dtype == np.uint8


def test_the_same_story_gives_the_same_frames_and_another_seed_does_not():
    assert np.array_equal(render_frames(sample_story(7)), render_frames(sample_story(7)))
    assert not np.array_equal(
        render_frame(one_thing(seed=1), 0), render_frame(one_thing(seed=2), 0)
    )


@pytest.mark.parametrize("fps", [0.5, 1, 4, 25])
def test_a_frame_shows_the_middle_of_its_time(fps):
    story = sample_story(3)
    frames = render_frames(story, fps)
    assert len(frames) == num_frames(story, fps) == 8 * fps
    for index in (0, len(frames) // 2, len(frames) - 1):
        assert np.array_equal(frames[index], render_frame(story, (index + 0.5) / fps))


@pytest.mark.parametrize("state", [s for s in STATES if s != STILL])
def test_an_event_fills_exactly_its_seconds(state):
    thing = Thing("green", "star", "small", 0, 2)
    frames = render_frames(Story(9, 8, (thing,), (Event(3, 2, 0, state),)), fps=4)
    differs = [not np.array_equal(frame, frames[0]) for frame in frames]
    assert differs == [3 <= index / 4 < 5 for index in range(32)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_states_of_a_shape_look_different(shape, size):
    looks = {s: render_frame(one_thing(shape, size, s), 0.5).astype(int) for s in STATES}
    for a, b in itertools.combinations(STATES, 2):
        changed = (np.abs(looks[a] - looks[b]).max(-1) > 60).sum()
        assert changed >= 8, f"{a} and {b} differ in {changed} pixels"


@pytest.mark.parametrize("size", SIZES)
def test_shapes_look_different(size):
    looks = {s: render_frame(one_thing(s, size), 0.5).astype(int) for s in SHAPES}
    for a, b in itertools.combinations(SHAPES, 2):
        assert (np.abs(looks[a] - looks[b]).max(-1) > 60).sum() >= 12, (a, b)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("colour", COLOURS)
def test_a_thing_is_painted_in_its_colour(colour, state):
    frame = render_frame(one_thing("cross", "big", state, colour), 0.5)
    counts = {c: int(coloured(frame, c).sum()) for c in COLOURS if c != "white"}
    if colour == "white":  # pins, walls and shadows are pale too
        assert coloured(frame, "white").sum() > 40
    else:
        assert max(counts, key=counts.get) == colour
        assert counts[colour] >= 25


def test_big_is_bigger_than_small_whatever_the_shape():
    for shape in SHAPES:
        area = [coloured(render_frame(one_thing(shape, s), 0), "red").sum() for s in SIZES]
        assert area[1] > 1.8 * area[0], shape


@pytest.mark.parametrize(("width", "height"), [(64, 64), (96, 54)])
def test_every_place_is_where_its_name_says(width, height):
    for row, column, seed in itertools.product(range(3), range(3), range(3)):
        story = one_thing("square", "small", row=row, column=column, seed=seed)
        y, x = centre(coloured(render_frame(story, 0, width, height), "red"))
        assert int(3 * y / height) == row
        assert int(3 * x / width) == column


def test_a_slide_moves_evenly_to_the_neighbour_and_stays():
    thing = Thing("blue", "square", "big", 1, 0)
    story = Story(2, 6, (thing,), (Event(2, 1, 0, "slides", "right"),))
    xs = [centre(coloured(f, "blue"))[1] for f in render_frames(story, fps=4)]
    ys = [centre(coloured(f, "blue"))[0] for f in render_frames(story, fps=4)]
    steps = np.diff(xs)
    assert np.allclose(steps[:7], 0)
    assert np.allclose(steps[12:], 0)
    assert np.all(steps[7:12] > 1)
    assert abs(xs[-1] - xs[0] - 21) <= 1
    assert np.ptp(ys) < 0.5


def test_a_mark_is_readable_in_its_place():
    for digit, (row, column) in zip(range(10), itertools.cycle([(0, 0), (2, 1)])):
        empty = Story(4, 4, (), (), mark=None)
        marked = Story(4, 4, (), (), mark=Mark(digit, row, column))
        ink = render_frame(marked, 0).max(-1) > 120
        assert not (render_frame(empty, 0).max(-1) > 120).any()
        rows, columns = np.nonzero(ink)
        y, x = rows.min(), columns.min()
        assert int(3 * rows.mean() / 64) == row
        assert int(3 * columns.mean() / 64) == column
        bits = np.array([[line >> (4 - c) & 1 for c in range(5)] for line in DIGITS[digit]])
        first = np.nonzero(bits.any(0))[0][0]
        seen = ink[y : y + 7, x - first : x - first + 5]
        assert np.array_equal(seen, bits.astype(bool)), digit


def test_digits_differ_and_scale_with_the_frame():
    masks = [np.asarray(digit_mask(d, 1.0)) for d in range(10)]
    for a, b in itertools.combinations(masks, 2):
        assert (a != b).sum() >= 2
    assert digit_mask(3, 2.0).size == (10, 14)


def test_a_larger_picture_shows_the_same():
    story = sample_story(11)
    small = render_frame(story, 2.5).astype(float)
    large = render_frame(story, 2.5, 256, 256).astype(float)
    shrunk = large.reshape(64, 4, 64, 4, 3).mean((1, 3))
    # Places are whole pixels, so the two may lie half a pixel apart, not a whole one.
    agreement = np.corrcoef(small.ravel(), shrunk.ravel())[0, 1]
    assert agreement > 0.9
    for step, axis in itertools.product((-1, 1), (0, 1)):
        moved = np.roll(shrunk, step, axis)
        assert agreement > np.corrcoef(small.ravel(), moved.ravel())[0, 1]


def test_equal_frames_are_drawn_once():
    thing = Thing("red", "moon", "big", 0, 0)
    story = Story(1, 60, (thing,), (Event(20, 3, 0, "glows"),))
    frames = list(iter_frames(story, fps=4))
    assert len(frames) == 240
    assert len({id(frame) for frame in frames}) == 3
