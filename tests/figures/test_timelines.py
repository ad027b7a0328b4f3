"""Pictures over one time axis: what is drawn where, within the size a notebook may hold."""

import numpy as np
import pytest

from vlmcourse.figures import clip_sheet, frame_rules, matrices, picture_grid, png_bytes
from vlmcourse.figures.timelines import SMALL_PNG_BYTES


def frames(count: int, height: int = 36, width: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 40, (count, height, width, 3), dtype=np.uint8)


def labels(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


def test_a_clip_sheet_puts_every_lane_on_the_clips_clock():
    spans = {"said": [(0.5, 2, "hello")], "happens": [(1, 3, "jumps"), (5, 6, "hides")]}
    figure = clip_sheet(frames(4), 8.0, np.zeros(8000), spans, title="a clip")
    pictures, sound, said, happens = figure.axes
    assert [image.get_extent()[0] for image in pictures.images] == pytest.approx(
        [0.04, 2.04, 4.04, 6.04]
    )
    assert sound.get_ylabel() == "sound"
    assert labels(said) == ["hello"]
    assert labels(happens) == ["jumps", "hides"]
    assert {axis.get_xlim() for axis in figure.axes} == {(0.0, 8.0)}
    assert len(png_bytes(figure)) <= SMALL_PNG_BYTES


def test_a_clip_sheet_without_sound_or_lanes_is_a_row_of_frames():
    assert len(clip_sheet(frames(3), 3.0).axes) == 1


@pytest.mark.parametrize(
    ("seconds", "hatched"),
    [([0, 1, 2, 3], True), ([0, 1, 2, 7.5], False), (list(range(0, 8)), False), ([0.0], True)],
)
def test_only_an_end_longer_than_every_gap_is_hatched(seconds, hatched):
    axis = frame_rules([("a rule", seconds)], 8.0, [(2, 3, "jumps")]).axes[0]
    bars = [patch for patch in axis.patches if patch.get_hatch()]
    assert bool(bars) is hatched
    if hatched:
        assert bars[0].get_x() == max(seconds)
        assert bars[0].get_width() == 8.0 - max(seconds)
    assert str(len(seconds)) in labels(axis)


def test_a_picture_grid_takes_pictures_of_different_shapes():
    tall, wide = frames(1, 60, 20)[0], frames(1, 20, 60)[0]
    figure = picture_grid([[tall, wide], [tall, wide]], ["up", "down"], ["tall\nthin", "wide"])
    assert [axis.get_title() for axis in figure.axes[:2]] == ["tall\nthin", "wide"]
    assert [axis.get_ylabel() for axis in figure.axes] == ["up", "", "down", ""]


def test_matrices_write_no_negative_zero():
    figure = matrices({"one": np.array([[-0.01, 1.0]])}, ["a"], ["x", "y"], "share", numbers=True)
    assert labels(figure.axes[0]) == ["0.0", "1.0"]
