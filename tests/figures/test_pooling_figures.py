"""Pictures of pooling: they show what they are given, and refuse what they cannot show."""

import matplotlib as mpl
import numpy as np
import pytest

from vlmcourse.figures import png_bytes
from vlmcourse.figures.pooling import pooling_diagram, twin_films


def film(count=8, side=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def texts(figure):
    return " ".join(t.get_text() for t in figure.findobj(mpl.text.Text))


def pictures(figure):
    return [image.get_array() for axis in figure.axes for image in axis.images]


def twins(**changes):
    given = {
        "films": {"one": film(seed=1), "two": film(seed=2)},
        "patch_distance": np.random.default_rng(3).random((8, 8, 8)),
        "temporal_distance": [0, 1, 1, 0, 0, 1, 1, 0],
        "spatial_distance": np.zeros((8, 8)),
        "usual": {"temporal": 2.0},
        "times_s": np.arange(8) + 0.5,
    }
    return twin_films(**(given | changes))


@pytest.mark.parametrize("count", [4, 8, 12])
def test_the_diagram_counts_frames_and_patches_and_fits(count):
    figure = pooling_diagram(film(count))
    assert f"{count} frames of 64 patches" in texts(figure)
    assert f"{count} temporal tokens" in texts(figure)
    assert "64 spatial tokens" in texts(figure)
    assert len(pictures(figure)) == count + 1
    assert len(png_bytes(figure)) < 60_000


def test_the_spatial_tokens_are_drawn_as_the_mean_frame_by_patches():
    frames = film(3)
    expected = frames.reshape(3, 8, 8, 8, 8, 3).mean(axis=(0, 2, 4))  # [8, 8, 3]
    drawn = pictures(pooling_diagram(frames, brighter=1.0))[-1]
    assert drawn.shape == (8, 8, 3)
    assert np.abs(drawn - expected).max() <= 1


def test_frames_that_do_not_fall_into_patches_are_refused():
    with pytest.raises(ValueError, match="60 x 60"):
        pooling_diagram(film(side=60))


def test_twin_films_share_one_colour_scale_with_their_spatial_tokens():
    figure = twins()
    assert {"one", "two"} <= set(texts(figure).split())
    maps = [image for axis in figure.axes for image in axis.images if image.get_array().ndim == 2]
    scales = {image.get_clim() for image in maps if image.get_array().shape == (8, 8)}
    assert len(scales) == 1
    assert len(png_bytes(figure)) < 60_000


def test_the_bars_are_the_distances_of_the_temporal_tokens():
    figure = twins(temporal_distance=[0, 0.5, 1, 0, 0, 1, 0.25, 0])
    bars = next(axis for axis in figure.axes if len(axis.patches) == 8)
    assert [bar.get_height() for bar in bars.patches] == [0, 0.5, 1, 0, 0, 1, 0.25, 0]


def test_equal_films_can_be_drawn():
    assert twins(patch_distance=np.zeros((8, 8, 8)), temporal_distance=np.zeros(8))
