"""The picture of a side path: sizes are true to one scale, and the change ends at its rank."""

import matplotlib as mpl
import numpy as np
import pytest

from vlmcourse.figures import png_bytes
from vlmcourse.figures.low_rank import LOW_RANK_PNG_BYTES, side_path

RNG = np.random.default_rng(0)
WEIGHT, DOWN, UP = RNG.normal(size=(48, 64)), RNG.normal(size=(4, 64)), RNG.normal(size=(48, 4))


def texts(figure):
    figure.canvas.draw()
    return {t.get_text() for t in figure.findobj(mpl.text.Text) if t.get_text()}


def test_matrices_with_their_sizes_and_the_singular_values_of_their_product():
    figure = side_path(WEIGHT, DOWN, UP, 0.25, "LoRA")
    shown = texts(figure)
    assert {"W", "+ 0.25 · ", "B", "A", "LoRA"} <= shown
    assert {"48 x 64\nfrozen", "48 x 4\ntrains", "4 x 64\ntrains"} <= shown
    whole, change = (line.get_ydata() for line in figure.axes[1].lines)
    assert len(whole) == 48
    expected = np.linalg.svd(0.25 * UP @ DOWN, compute_uv=False)
    assert change == pytest.approx(expected[:4])
    assert expected[4:] == pytest.approx(0, abs=1e-9)
    assert len(png_bytes(figure)) <= LOW_RANK_PNG_BYTES


def test_a_fresh_side_path_is_drawn_and_misfits_are_refused():
    figure = side_path(WEIGHT, DOWN, np.zeros_like(UP), 1.0)
    assert figure.axes[1].lines[1].get_ydata() == pytest.approx(0)
    with pytest.raises(ValueError, match="do not go together"):
        side_path(WEIGHT, DOWN, UP.T, 1.0)
