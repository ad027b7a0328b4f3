"""The picture of two branches: it names what it was given, and fits into a notebook."""

import matplotlib as mpl
import numpy as np
import pytest

from vlmcourse.figures import png_bytes
from vlmcourse.figures.branches import BRANCHES_PNG_BYTES, two_branches

COUNTS = {"frame_tokens": 16, "clips": 6, "picture": 32, "sound": 5}


def drawn(frames=8, side=64, samples=16_000):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (frames, side, side, 3), dtype=np.uint8)
    wave = np.sin(np.arange(samples) / 20).astype(np.float32)
    return two_branches(pixels, wave, COUNTS, ("what is seen ?", "red circle"))


def test_it_tells_counts_question_and_answer():
    figure = drawn()
    shown = [text.get_text() for text in figure.findobj(mpl.text.Text)]
    assert {"32", "5", "what is seen ?", "red circle", "frozen", "trains"} <= set(shown)
    assert "8 frames of\n16 tokens\n+ position" in shown
    assert "log-mel,\n6 clips" in shown
    assert "6 vectors\n+ position" in shown


@pytest.mark.parametrize(("frames", "side", "samples"), [(1, 64, 5), (8, 224, 160_000)])
def test_it_fits_whatever_it_is_given(frames, side, samples):
    assert len(png_bytes(drawn(frames, side, samples))) <= BRANCHES_PNG_BYTES


def test_frames_that_are_no_frames_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        two_branches(np.zeros((8, 64, 64)), np.zeros(9), COUNTS, ("", ""))
