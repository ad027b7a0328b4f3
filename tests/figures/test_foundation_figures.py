"""Pictures of the foundations: each shows what it was given and fits the limit."""

import matplotlib as mpl
import numpy as np
import pytest

from vlmcourse.figures import foundations as draw
from vlmcourse.figures import png_bytes


def frames(count=3):
    made = np.random.default_rng(0).integers(0, 40, (count, 64, 64, 3), dtype=np.uint8)
    made[:, 5:20, 5:20] = (220, 40, 40)
    return made


def texts(figure):
    figure.canvas.draw()
    return [t.get_text() for t in figure.findobj(mpl.text.Text) if t.get_text()]


def causal(length):
    return np.tril(np.ones((length, length)))


FIGURES = {
    "three_parts": lambda: draw.three_parts(frames(1)[0], 8, (96, 128), "what glows ?", "red moon"),
    "word_maps": lambda: draw.word_maps(frames(8), {"red": np.eye(8)[None].repeat(8, 0)}, range(8)),
    "row_mask": lambda: draw.row_mask(causal(5), [0, 0, 1, 1, 2], list("abcde"), "a row"),
    "attention_heads": lambda: draw.attention_heads({"new": causal(4)[None]}, list("abcd"), "who"),
    "sum_of_words": lambda: draw.sum_of_words({"red": np.ones(9), "moon": np.arange(9)}, "sum"),
    "named_places": lambda: draw.named_places(frames(2), [[["red"]] * 9] * 2, [[["red"]] * 9] * 2),
}


@pytest.mark.parametrize("name", FIGURES)
def test_fits_and_leaves_pyplot_alone(name):
    import matplotlib.pyplot as plt

    assert len(png_bytes(FIGURES[name]())) < draw.MAP_PNG_BYTES
    assert not plt.get_fignums()


def test_three_parts_tells_the_widths():
    shown = " ".join(texts(draw.three_parts(frames(1)[0], 4, (7, 9), "what ?", "red moon")))
    assert "16 patch tokens,\n7 wide" in shown
    assert "9 wide" in shown


def test_a_map_keeps_to_its_own_scale_and_drops_what_is_below_zero():
    maps = {"red": np.full((1, 2, 2), -1.0), "blue": np.array([[[0.0, 4.0], [2.0, -3.0]]])}
    figure = draw.word_maps(frames(1), maps, [0.5])
    laid_over = [axis.images[1].get_array() for axis in figure.axes[1:]]
    assert np.asarray(laid_over[0]).max() == 0
    np.testing.assert_allclose(laid_over[1], [[0, 1], [0.5, 0]])


def test_a_mask_is_coloured_by_the_segment_looked_at():
    visible = np.array([[True, False], [True, True]])
    image = draw.row_mask(visible, [0, 1], ["a", "b"]).axes[0].images[0]
    assert np.asarray(image.get_array()).tolist() == [[1, 0], [1, 2]]


def test_the_last_stripe_is_the_sum():
    figure = draw.sum_of_words({"red": np.ones(4), "moon": np.arange(4)}, "sum")
    np.testing.assert_allclose(figure.axes[2].images[0].get_array(), [[1, 2, 3, 4]])


def test_words_that_are_wrong_or_missing_are_marked():
    found = [[["red", "star"], []]]
    truth = [[["red", "moon"], []]]
    figure = draw.named_places(frames(1), found, truth, side=1)
    colours = {t.get_text(): t.get_color() for t in figure.axes[1].texts}
    assert set(colours) == {"red", "star", "(moon)"}
    assert len(set(colours.values())) == 3
