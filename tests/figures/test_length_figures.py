"""Figures of chapters 12 and 15: costs over the length of a film, accuracy over training films."""

import numpy as np
import pytest

from vlmcourse.figures import png_bytes
from vlmcourse.figures.length_costs import length_costs, length_lines
from vlmcourse.figures.scaling import BEYOND, scaling_curves
from vlmcourse.sweep.scaling import PowerLaw, power_law


def value(mean):
    return {"n": 5, "mean": mean, "low": mean, "high": mean, "unit": ""}


RECORD = {
    "metrics": {
        f"{system}/{seconds}/{cost}": value(amount)
        for system, each in (("video_llama", 0), ("qwen2_vl", 16))
        for seconds in (8, 32, 128)
        for cost, amount in (
            ("frames", 8), ("tokens", 32 + each * seconds), ("watch_s", 0.25),
            ("answer_s", 0.5), ("peak_mib", 0.0),
        )
    }
}  # fmt: skip


def test_costs_are_read_and_seconds_are_added_up():
    lines = length_lines(RECORD)
    assert lines["tokens"]["qwen2_vl"] == {8: 160, 32: 544, 128: 2080}
    assert lines["seconds"]["video_llama"] == {8: 0.75, 32: 0.75, 128: 0.75}
    assert set(lines) == {"tokens", "seconds", "peak_mib"}


def test_every_system_is_a_line_and_no_cost_is_lost_on_a_logarithmic_axis():
    figure = length_costs(RECORD, names={"qwen2_vl": "Qwen2-VL"}, title="What a film costs")
    tokens, _, memory = figure.axes
    np.testing.assert_allclose(tokens.lines[1].get_ydata(), [160, 544, 2080])
    assert (np.array([line.get_ydata() for line in memory.lines]) == 1).all(), "0 MiB, drawn at 1"
    assert {axis.get_xscale() for axis in figure.axes} == {"log"}
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["video_llama", "Qwen2-VL"]
    assert len(png_bytes(figure)) < 60_000
    with pytest.raises(ValueError, match="nothing of 'ma_lmm'"):
        length_costs(RECORD, ["ma_lmm"])


def law(a, b, c):
    draws = np.array([[a + move, b, c] for move in np.linspace(-0.02, 0.02, 41)])
    told = (value(a), value(b), value(c))
    return PowerLaw(*told, (250, 1000, 4000, 8000), draws)


def test_a_curve_goes_through_its_points_and_is_dotted_beyond_them():
    fitted = law(0.8, 6.0, 0.5)
    points = {
        n: {"mean": float(power_law(n, 0.8, 6, 0.5)), "low": 0.3, "high": 0.9}
        for n in (250, 1000, 4000, 8000)
    }
    panels = {"all": {"everything": points, "connector": {250: value(0.5)}}, "order": {}}
    panels["order"] = {"everything": points}
    figure = scaling_curves(panels, {"all": {"everything": fitted}}, chance={"all": 0.2})
    axis, other = figure.axes
    solid, dotted = [line for line in axis.lines if len(line.get_xdata()) > 4]
    assert max(solid.get_xdata()) <= 8000 < min(dotted.get_xdata())
    assert max(dotted.get_xdata()) == pytest.approx(BEYOND * 8000)
    middle = np.interp(1000, solid.get_xdata(), solid.get_ydata())
    assert middle == pytest.approx(100 * power_law(1000, 0.8, 6, 0.5), abs=0.5)
    assert len(axis.collections) == 3, "two lines of intervals and one band"
    assert len(other.lines) == 1, "points alone where nothing was fitted"
    assert len(png_bytes(figure)) < 60_000
    with pytest.raises(ValueError, match="at least one point"):
        scaling_curves({}, {})
