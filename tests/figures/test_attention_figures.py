"""Pictures of attention: traced as it flows, drawn when and where it falls, else refused."""

import matplotlib as mpl
import numpy as np
import pytest

from vlmcourse.figures import png_bytes
from vlmcourse.figures.attention import attention_film, traced_to_patches

RNG = np.random.default_rng(0)


def film(count=8, side=64):
    return RNG.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def attention(*shape, over=-1):
    made = RNG.random(shape)
    return made / made.sum(over, keepdims=True)


def whole(queries=4, frames=8, tokens=16):
    return attention(queries, frames * tokens).reshape(queries, frames, tokens)


def test_attention_through_two_maps_is_their_product():
    over_tokens, over_patches = whole(2, 3, 5), attention(3, 5, 16)
    traced = traced_to_patches(over_tokens, over_patches)
    assert traced.shape == (2, 3, 4, 4)
    by_hand = sum(over_tokens[1, 2, p] * over_patches[2, p] for p in range(5))
    np.testing.assert_allclose(traced[1, 2].ravel(), by_hand)
    np.testing.assert_allclose(traced.sum((1, 2, 3)), 1.0)


@pytest.mark.parametrize(
    ("over_tokens", "over_patches", "complaint"),
    [
        (whole(2, 3, 5), attention(3, 4, 16), "are needed, not"),
        (whole(2, 3, 5), attention(3, 5, 17), "17 patches form no square"),
        (whole(2, 3, 5)[0], attention(3, 5, 16), "are needed, not"),
    ],
)
def test_maps_that_do_not_fit_are_refused(over_tokens, over_patches, complaint):
    with pytest.raises(ValueError, match=complaint):
        traced_to_patches(over_tokens, over_patches)


def test_heat_lies_on_the_patch_and_the_bar_on_the_frame_that_gets_it():
    over_tokens, over_patches = np.zeros((1, 3, 2)), np.zeros((3, 2, 16))
    over_tokens[0, 1, 0], over_tokens[0, 2, 1] = 0.75, 0.25
    over_patches[1, 0, 6] = over_patches[2, 1, 0] = 1.0
    figure = attention_film(film(3), over_tokens, over_patches, [0, 1, 2], ["query 7"], "heat")
    axes = np.array(figure.axes).reshape(3, 3)
    heat = [axis.images[1].get_array() for axis in axes[1]]
    assert [float(one.max()) for one in heat] == pytest.approx([0, 1, (1 / 3) ** 0.5])
    assert np.unravel_index(heat[1].argmax(), (4, 4)) == (1, 2)
    assert [axis.texts[0].get_text() for axis in axes[2]] == ["0 %", "75 %", "25 %"]
    shown = [text.get_text() for text in figure.findobj(mpl.text.Text)]
    assert {"query\n7", "heat", "1.0 s"} <= set(shown)


@pytest.mark.parametrize(("queries", "frames", "side"), [(4, 8, 64), (1, 4, 224)])
def test_films_of_several_sizes_fit(queries, frames, side):
    drawn = attention_film(
        film(frames, side) // 8, whole(queries, frames), attention(frames, 16, 64), range(frames)
    )
    assert len(png_bytes(drawn)) < 60_000


def test_a_film_of_another_length_is_refused():
    with pytest.raises(ValueError, match="3 frames, 8 maps, 8 times"):
        attention_film(film(3), whole(), attention(8, 16, 64), range(8))
