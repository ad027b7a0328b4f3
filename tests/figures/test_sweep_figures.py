"""Figures of sweeps: every point is drawn where it was measured; what failed leaves a gap."""

import numpy as np
import pytest

from vlmcourse.figures import png_bytes
from vlmcourse.figures.sweep import accuracy_dots, accuracy_lines, difference_dots


def share(mean, reach=0.05):
    return {"mean": mean, "low": mean - reach, "high": mean + reach}


LINES = {
    "all": {
        "pooling": {8: share(0.5), 32: share(0.52), 128: None},
        "qformer": {8: share(0.45), 32: share(0.55), 128: share(0.6)},
    },
    "order": {"pooling": {8: share(0.4)}, "qformer": {128: 0.7}},
}


def test_lines_stand_at_their_means_and_beside_each_other():
    figure = accuracy_lines(LINES, "tokens", log=True, chance={"all": 0.3}, title="Connectors")
    first, second = figure.axes
    curves = [line for line in first.lines if len(line.get_xdata()) == 3]
    heights = [line.get_ydata() for line in curves]
    np.testing.assert_allclose(heights[1], [45, 55, 60])
    np.testing.assert_allclose(heights[0][:2], [50, 52])
    assert np.isnan(heights[0][2]), "no run was finished there"
    xs = np.array([line.get_xdata() for line in curves])
    assert (np.diff(xs, axis=0) > 0).all()
    assert np.abs(xs - np.log2([8, 32, 128])).max() < 0.5
    assert [t.get_text() for t in first.get_xticklabels()] == ["8", "32", "128"]
    low, high = first.get_ylim()
    assert low < 30 < 65 < high < 80, "chance and every interval are seen, and little else"
    assert second.get_title(loc="center") == "order"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["pooling", "qformer", "best blind guess"]
    assert len(png_bytes(figure)) < 60_000


def test_many_lines_keep_looks_of_their_own():
    names = [f"variant {i}" for i in range(12)]
    figure = accuracy_lines({"all": {name: {1: 0.1, 2: 0.2} for name in names}}, "frames")
    marks = figure.legends[0].legend_handles
    assert len({(mark.get_color(), mark.get_marker()) for mark in marks}) == 12


def test_dots_name_settings_without_a_run():
    panels = {"all": {"films": share(0.5), "pictures": None}}
    figure = accuracy_dots(panels, {"all": share(0.3)}, "Which")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["no run"]
    (dots,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert dots.get_xdata()[0] == 50
    assert len(png_bytes(figure)) < 60_000


def test_differences_are_coloured_by_their_verdicts():
    nothing = {"mean": None, "low": None, "high": None}
    figure = difference_dots(
        {
            "one": (share(0.1), "supported"),
            "two": (share(-0.1), "opposite"),
            "three": (nothing, "not decided"),
        }
    )
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [float(line.get_xdata()[0]) for line in dots[:2]] == [10, -10]
    assert len({line.get_color() for line in dots}) == 3
    assert [text.get_text().strip() for text in figure.axes[0].texts] == ["not decided"]


@pytest.mark.parametrize(
    "drawn",
    [
        lambda: accuracy_lines({"all": {}}, "tokens"),
        lambda: accuracy_dots({"all": {}}),
        lambda: difference_dots({}),
    ],
)
def test_nothing_to_draw_is_an_error(drawn):
    with pytest.raises(ValueError, match="needs at least one"):
        drawn()
