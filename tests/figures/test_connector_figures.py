"""Figures of chapter 11: tokens and their sources, connectors by family, all pairs."""

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from vlmcourse.figures import png_bytes
from vlmcourse.figures.family_map import BARE, family_map
from vlmcourse.figures.pair_matrix import EMPTY, pair_matrix
from vlmcourse.figures.sweep import accuracy_lines, difference_dots
from vlmcourse.figures.token_sources import tint, token_sources, untouched

LIMIT = 60_000


def share(mean, reach=0.05):
    return {"mean": mean, "low": mean - reach, "high": mean + reach}


def film(count=4):
    return np.random.default_rng(0).integers(60, 200, (count, 64, 64, 3), dtype=np.uint8)


# ---- sources of tokens


def one_patch(frame, patch, count=4):
    shares = np.zeros((count, 64))
    shares[frame, patch] = 1.0
    return shares


def test_only_patches_that_a_token_comes_from_are_tinted():
    frames = film()
    shown = tint(frames, [one_patch(1, 9)])
    changed = np.abs(shown - untouched(frames)).max(-1) > 1
    assert changed[1, 8:16, 8:16].all(), "the patch in row 1 and column 1 of frame 1"
    assert changed.sum() == 64


def test_a_token_from_everywhere_tints_everything():
    frames = film()
    shown = tint(frames, [np.full((4, 64), 1 / 256)])
    assert (np.abs(shown - untouched(frames)).max(-1) > 1).all()


def test_a_row_a_way_and_a_column_a_frame():
    some = {"projection": [one_patch(0, 3), one_patch(2, 60)], "means": [np.full((4, 64), 1.0)]}
    figure = token_sources(film(), some, {"means": "of all frames"}, title="Sources")
    assert len(figure.axes) == 8
    assert [figure.axes[i].get_ylabel() for i in (0, 4)] == ["projection", "means"]
    assert len(figure.legends[0].get_texts()) == 2
    assert len(png_bytes(figure)) < LIMIT


def test_shares_of_other_frames_are_refused():
    with pytest.raises(ValueError, match="do not belong to 4 frames"):
        tint(film(), [one_patch(0, 0, count=3)])
    with pytest.raises(ValueError, match="at least one token"):
        token_sources(film(), {"none": []})


# ---- variants by family

TABLE = {
    "good": {"order": share(0.9), "when": share(0.1), "place": None},
    "near": {"order": share(0.84), "when": share(0.11), "place": share(0.5)},
    "far": {"order": share(0.4), "when": share(0.12), "place": share(0.3)},
}
GUESS = {"order": share(0.25), "when": share(0.1), "place": share(0.1)}


def cells(axis):
    """(row, column) -> colour of the filled cells, and the widths of the frames."""
    filled, framed = {}, {}
    for patch in axis.patches:
        assert isinstance(patch, Rectangle)
        at = (round(patch.get_y() + patch.get_height() / 2), round(patch.get_x() + 0.5))
        if patch.get_fill():
            filled[at] = patch.get_facecolor()
        else:
            framed[at] = patch.get_linewidth()
    return filled, framed


def test_the_best_of_a_column_and_what_reaches_into_it_are_framed():
    filled, framed = cells(family_map(TABLE, chance=GUESS).axes[0])
    assert framed[0, 0] > framed[1, 0], "order: the best, and one that is not told from it"
    assert (2, 0) not in framed
    assert sum(filled[0, 0][:3]) < sum(filled[2, 0][:3]), "the better, the darker"


def test_what_does_not_leave_the_guess_stays_bare():
    from matplotlib.colors import to_rgba

    figure = family_map(TABLE, ["order", "when", "place"], GUESS, "Which")
    axis = figure.axes[0]
    filled, framed = cells(axis)
    assert all(filled[row, 1] == to_rgba(BARE) for row in range(3))
    assert not any((row, 1) in framed for row in range(3))
    texts = [text.get_text() for text in axis.texts]
    assert texts.count("—") == 1, "what failed is told"
    assert texts.count("25") == 1, "the guess is the last row"
    assert len(png_bytes(figure)) < LIMIT
    with pytest.raises(ValueError, match="at least one variant"):
        family_map({})


# ---- all pairs


def test_a_pair_is_shown_in_both_orders_and_coloured_only_if_it_is_a_difference():
    from matplotlib.colors import to_rgba

    one, other = share(0.1), share(0.02)
    lost = {"mean": None, "low": None, "high": None}
    panels = {"8 tokens": {("a", "b"): one, ("a", "c"): other, ("b", "c"): lost}}
    figure = pair_matrix(panels, ["a", "b", "c"], "Pairs")
    axis = figure.axes[0]
    said = {text.get_position(): text for text in axis.texts}
    assert said[1, 0].get_text() == "+10.0"
    assert said[0, 1].get_text() == "−10.0"
    assert said[1, 0].get_fontweight() == "bold"
    assert (said[2, 0].get_text(), said[2, 0].get_fontweight()) == ("+2.0", "normal")
    assert len(said) == 4, "what was not decided has no number"
    filled, _ = cells(axis)
    assert filled[0, 2] == to_rgba(EMPTY) != filled[0, 1]
    assert len(png_bytes(figure)) < LIMIT
    with pytest.raises(ValueError, match="two names"):
        pair_matrix(panels, ["a"])


# ---- a long title beside a long legend


def test_the_legend_leaves_room_for_the_title():
    names = [f"a connector {i}" for i in range(8)]
    panels = {g: {n: {8: 0.4, 32: 0.5} for n in names} for g in ("all", "order", "when")}
    title = "Connectors at equal visual tokens, or a title of that length"
    figure = accuracy_lines(panels, "tokens", log=True, title=title)
    figure.canvas.draw()
    written = figure._suptitle.get_window_extent()
    assert written.x1 < figure.legends[0].get_window_extent().x0
    few = difference_dots({"a": (share(0.1), "supported")}, title)
    few.canvas.draw()
    assert few._suptitle.get_window_extent().x1 < few.legends[0].get_window_extent().x0
