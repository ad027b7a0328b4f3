"""Figures of chapters 06 and 07: merging, subtitles, experts, spans, resolution, trends."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.patches import FancyArrowPatch, Rectangle

from vlmcourse.figures import png_bytes
from vlmcourse.figures.experts import expert_lanes, learnt_and_kept
from vlmcourse.figures.merging import (
    merged_patches,
    rows_of_patches,
    tokens_that_see,
    windows_of_patches,
)
from vlmcourse.figures.resolution import token_grids
from vlmcourse.figures.spans import spans_on_a_clock
from vlmcourse.figures.subtitle_lanes import subtitle_lanes
from vlmcourse.figures.trends import accuracy_over, by_x, short_number

LIMIT = 60_000


def film(count=4, height=64, width=64):
    return np.random.default_rng(0).integers(0, 80, (count, height, width, 3), dtype=np.uint8)


def texts(figure):
    figure.canvas.draw()
    return [t.get_text() for t in figure.findobj(mpl.text.Text) if t.get_text()]


def metric(mean, reach=0.05):
    return {"n": 9, "mean": mean, "low": mean - reach, "high": mean + reach, "unit": "share"}


# ---- merging


def test_groups_of_patches():
    assert rows_of_patches(4)[:2].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert windows_of_patches(4).tolist() == [
        [0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]
    ]  # fmt: skip
    for tokens in (rows_of_patches(8), windows_of_patches(8)):
        assert sorted(tokens.ravel()) == list(range(64))
    with pytest.raises(ValueError, match="9 patches"):
        rows_of_patches(3)
    with pytest.raises(ValueError, match="a side of 5"):
        windows_of_patches(5)
    assert tokens_that_see(rows_of_patches(4), [0, 5]).tolist() == [True, True, False, False]


def test_merged_patches_tell_who_sees_a_thing():
    ways = {"row": rows_of_patches(8), "window": windows_of_patches(8)}
    figure = merged_patches(film(1)[0], ways, thing=[18, 19, 26, 27], title="T")
    shown = texts(figure)
    assert {"T", "64 patches", "row: 16 tokens", "1 of 16 see the thing"} <= set(shown)
    assert "2 of 16 see the thing" in shown
    painted = figure.axes[4].images[0].get_array()
    assert (painted[0, :4] == painted[0, 0]).all()
    assert (painted[0, 0] != painted[0, 4]).any()
    assert len(png_bytes(figure)) < LIMIT
    with pytest.raises(ValueError, match="does not fall into 8 x 8"):
        merged_patches(film(1, 60)[0], ways)


# ---- subtitles


def test_arrows_go_from_what_is_said_to_the_frames_that_carry_it():
    cues = [(0.5, 1.5, "red circle is called anna"), (1.0, 3.0, "it rains"), (5, 6, "unseen")]
    figure = subtitle_lanes(cues, film(3), [0, 3, 6], [[], [0, 1], []], 8.0, title="T")
    (axis,) = figure.axes
    arrows = [patch for patch in axis.patches if isinstance(patch, FancyArrowPatch)]
    ends = [arrow._posA_posB for arrow in arrows]
    assert [(round(a[0], 2), b[0]) for a, b in ends] == [(0.8, 3), (1.6, 3)]
    assert ends[0][0][1] != ends[1][0][1], "texts that overlap stand over each other"
    boxes = [patch for patch in axis.patches if not isinstance(patch, FancyArrowPatch)]
    assert boxes[2].get_facecolor()[:3] == (1, 1, 1), "carried by no frame"
    assert len(png_bytes(figure)) < LIMIT
    with pytest.raises(ValueError, match="no cue 3"):
        subtitle_lanes(cues, film(1), [0], [[3]], 8.0)
    with pytest.raises(ValueError, match="1 frames, 2 times"):
        subtitle_lanes(cues, film(1), [0, 1], [[]], 8.0)


# ---- experts


def test_every_token_has_a_dot_in_its_lane():
    kinds = ["special", *["picture"] * 5, "time", "text"]
    mask = [False, True, True, True, True, False, False, False]
    figure = expert_lanes(["<s>", "boi", "", "", "", "eoi", "0", "why"], kinds, mask)
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    heights = [float(line.get_ydata()[0]) for line in dots]
    assert [height == max(heights) for height in heights] == mask
    assert "4 of 8 tokens go through vision weights" in texts(figure)
    with pytest.raises(ValueError, match="not 2, 1, 2"):
        expert_lanes(["a", "b"], ["text"], [True, False])


def test_what_was_lost_points_to_the_left():
    learnt = {"experts": {"appearance": metric(0.8)}, "none": {"appearance": metric(0.9)}}
    kept = {"experts": {"events": 0.0}, "none": {"events": metric(-0.4)}}
    figure = learnt_and_kept(learnt, kept, {"experts": 2_500_000, "none": 900}, title="T")
    shown = texts(figure)
    assert {"80", "90", "-40.0", "+0.0", "text: events", "experts\n2.5 M", "none\n900"} <= set(
        shown
    )
    widths = [p.get_width() for p in figure.axes[1].patches if isinstance(p, Rectangle)]
    assert widths == pytest.approx([0, -40])
    left, right = figure.axes[1].get_xlim()
    assert left < -45 < 0 < right
    with pytest.raises(ValueError, match="the same variants"):
        learnt_and_kept(learnt, {})


# ---- spans


def test_spans_misses_and_odd_answers():
    said = {"seconds": [(0, 2), None, (3, 3)], "counters": [(1, 4), (9, 11), (np.nan, np.nan)]}
    truth = [(0, 3), (4, 5), (2, 4)]
    figure = spans_on_a_clock(
        ["a", "b", "c"], truth, said, 8.0, {"seconds": [0.67, 0, 0]}, film(4), "T"
    )
    shown = texts(figure)
    assert shown.count("no number") == 2
    assert {"0.67", "IoU", "true span", "seconds", "counters", "T"} <= set(shown)
    bars = {(p.get_x(), p.get_width()) for p in figure.axes[-1].patches if p.get_width() > 0}
    assert {(0, 3), (4, 1), (2, 2), (0, 2), (1, 3)} <= bars
    markers = {line.get_marker() for line in figure.axes[-1].lines}
    assert {">", "D"} <= markers, "behind the end, and without length"
    assert len(png_bytes(figure)) < LIMIT
    with pytest.raises(ValueError, match="1 events need as many"):
        spans_on_a_clock(["a"], truth, said, 8.0)


# ---- resolution and trends


def test_grids_count_patches_and_tokens():
    pictures = {f"{side} px": film(1, side, side)[0] for side in (32, 64, 96)}
    figure = token_grids(pictures, marks=2)
    shown = texts(figure)
    assert {"16 patches, 4 + 2 tokens", "64 patches, 16 + 2 tokens"} <= set(shown)
    assert "144 patches, 36 + 2 tokens" in shown
    assert len(png_bytes(figure)) < LIMIT
    with pytest.raises(ValueError, match="40 x 40 does not fall"):
        token_grids({"x": film(1, 40, 40)[0]})
    with pytest.raises(ValueError, match="at least one picture"):
        token_grids({})


def test_trends_hold_points_intervals_and_notes():
    line = {4: metric(0.3), 8: metric(0.5), 16: 0.6}
    panels = {name: {"a": line, "b": {4: metric(0.2)}} for name in ("all", "when", "order")}
    figure = accuracy_over(panels, "frames", True, {"when": 0.1}, {4: "×32", 8: "×16"}, title="T")
    shown = texts(figure)
    assert {"T", "frames", "when", "4\n×32", "8\n×16", "16", "a", "b", "best blind guess"} <= set(
        shown
    )
    drawn = figure.axes[0].lines[0]
    assert drawn.get_xdata().tolist() == [4, 8, 16]
    assert drawn.get_ydata().tolist() == pytest.approx([30, 50, 60])
    assert len(png_bytes(figure)) < LIMIT
    crowded = accuracy_over({"all": {"a": {200_000: 0.1, 210_000: 0.2, 2_000_000: 0.3}}}, "tokens")
    assert "210k" not in texts(crowded), "names that would overlap are not written"
    with pytest.raises(ValueError, match="at least one point"):
        accuracy_over({"all": {"a": {}}}, "x")


def test_lines_of_records():
    records = {x: {"metrics": {"system/when": metric(x / 100)}} for x in (4, 8)}
    assert by_x(records, ["when"])["when"][8]["mean"] == 0.08
    assert [short_number(x) for x in (4, 900, 12_000, 3_400_000)] == ["4", "900", "12k", "3.4M"]
