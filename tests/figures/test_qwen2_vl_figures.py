"""Figures of chapter 08: patches with their positions, three axes, token costs, maps, lengths."""

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle

from vlmcourse.backbones.qwen2_vit import patch_places
from vlmcourse.figures import png_bytes
from vlmcourse.figures.heat import heat_map
from vlmcourse.figures.patches import patch_order, patch_positions
from vlmcourse.figures.positions import position_axes
from vlmcourse.figures.token_cost import (
    BUDGET,
    film_costs,
    last_frames_within,
    picture_costs,
    token_costs,
)
from vlmcourse.figures.trends import accuracy_over, by_tokens, by_x
from vlmcourse.parts.mrope import mrope_positions

LIMIT = 60_000


def film(count=4, height=64, width=64):
    return np.random.default_rng(0).integers(0, 80, (count, height, width, 3), dtype=np.uint8)


def texts(figure):
    figure.canvas.draw()
    return [t.get_text() for t in figure.findobj(mpl.text.Text) if t.get_text()]


def metric(mean, reach=0.05):
    return {"n": 9, "mean": mean, "low": mean - reach, "high": mean + reach, "unit": "share"}


def positions(runs, grids):
    kinds = torch.tensor([[int(kind == "picture") for kind, _, n in runs for _ in range(n)]])
    return mrope_positions(kinds, torch.tensor(grids, dtype=torch.int64).reshape(-1, 3))[:, 0]


# ---- patches


def test_patches_are_numbered_as_the_tower_reads_them():
    places = patch_places(torch.tensor([[1, 4, 6]]), 2).tolist()
    order = patch_order(4, 6, 2)
    assert [order[row, column] for row, column in places] == list(range(24))


def test_every_token_shows_its_three_numbers():
    runs = [("text", "", 3), ("picture", "", 2 * 16)]
    ids = positions(runs, [[2, 8, 8]])[:, 3:]
    figure = patch_positions(film(), ids, title="T")
    shown = texts(figure)
    assert {"T", "64 patches, in order", "16 tokens: t,h,w", "frames 2 and 3"} <= set(shown)
    assert {str(number) for number in range(64)} <= set(shown)
    assert len([text for text in shown if text[0] in "34" and text.count(",") == 2]) == 32
    assert shown.count("3,3,3") == shown.count("4,3,3") == 1
    assert "4,6,6" in shown, "the last token of the second pair"
    assert "5,3,3" not in shown
    assert len(png_bytes(figure)) < LIMIT


def test_a_picture_of_any_shape_is_drawn_and_misfits_are_refused():
    wide = patch_positions(film(1, 32, 128), positions([("picture", "", 16)], [[1, 4, 16]]))
    assert "one picture" in texts(wide)
    tall = patch_positions(film(1, 192, 64), positions([("picture", "", 48)], [[1, 24, 8]]))
    assert tall.get_figheight() < 6
    large = patch_positions(
        np.zeros((1, 640, 640, 3), np.uint8), positions([("picture", "", 1600)], [[1, 80, 80]])
    )
    assert not [text for text in texts(large) if text == "17"], "numbers nobody could read"
    with pytest.raises(ValueError, match="60 x 64 does not fall into 2 x 2 patches"):
        patch_positions(film(1, 64, 60), np.zeros((3, 16)))
    with pytest.raises(ValueError, match="for 2 x 4 x 4 tokens"):
        patch_positions(film(4), np.zeros((3, 16)))


# ---- positions

ROW = [
    ("special", "<s>", 1), ("text", "look at", 2), ("picture", "picture", 6),
    ("text", "and then at", 3), ("picture", "film", 48), ("text", "what is it ?", 4),
    ("answer", "a cat", 2),
]  # fmt: skip


def test_each_axis_has_a_lane_and_each_run_its_numbers():
    ids = positions(ROW, [[1, 4, 6], [3, 8, 8]])
    figure = position_axes(ROW, ids, [film(1, 32, 48)[0]], title="T")
    strip, *lanes = figure.axes
    assert [lane.get_ylabel() for lane in lanes] == ["time", "row", "column"]
    for lane, line in zip(lanes, ids):
        drawn = np.concatenate([one.get_ydata() for one in lane.lines[: len(ROW)]])
        assert drawn.tolist() == line.tolist()
    assert len(strip.images) == 1
    shown = texts(figure)
    assert {"T", "look at", "picture\n×6", "film\n×48", "9–11", "9–12"} <= set(shown)
    assert "13–16" in shown, "text goes on behind the largest"
    assert len(png_bytes(figure)) < LIMIT


def test_lanes_can_do_without_the_counted_line():
    ids = positions(ROW, [[1, 4, 6], [3, 8, 8]])
    with_it, without = (position_axes(ROW, ids, sequential=one) for one in (True, False))
    assert len(with_it.axes[1].lines) == len(without.axes[1].lines) + 1
    with pytest.raises(ValueError, match=r"positions \(3, 4\) for 66 tokens"):
        position_axes(ROW, np.zeros((3, 4)))
    with pytest.raises(ValueError, match="3 frames for 2 runs"):
        position_axes(ROW, ids, list(film(3)))
    text = [("text", "words", 3)]
    assert "0–2" in texts(position_axes(text, positions(text, [])))


# ---- costs


def test_costs_are_the_official_ones():
    assert picture_costs([224]) == {224: 64}
    assert picture_costs([2000], max_pixels=256 * 784)[2000] <= 256
    assert max(picture_costs(range(3000, 4400, 100)).values()) <= 16384
    assert last_frames_within() == 365
    costs = film_costs([60, 182, 400], (1280, 720))
    assert costs[60] <= BUDGET
    assert costs[182] <= BUDGET
    assert costs[400] == 46080 > BUDGET


def test_the_overflow_is_marked_where_it_is_reached():
    pictures = {"any": picture_costs(range(56, 1120, 56))}
    long = token_costs(pictures, {"720p": film_costs([10, 100, 300], (1280, 720))}, title="T")
    assert any("above 365 frames" in text for text in texts(long))
    assert {"T", "context: 32,768", "budget of a film: 24,576"} <= set(texts(long))
    short = token_costs(pictures, {"720p": film_costs([10, 100], (1280, 720))})
    assert not any("above 365" in text for text in texts(short))
    assert len(png_bytes(long)) < LIMIT
    with pytest.raises(ValueError, match="at least one picture and one film"):
        token_costs(pictures, {})


# ---- maps


def frames_of(axis):
    return [p for p in axis.patches if isinstance(p, Rectangle) and not p.get_fill()]


def test_a_map_shows_numbers_and_frames_what_is_as_good_as_the_best():
    cells = [[metric(0.3), metric(0.52)], [metric(0.6), None]]
    figure = heat_map(
        {"order": cells, "when": [[0.1, 0.2], [0.3, 0.4]]},
        ["0.5", "1"], ["1024", "2304"], "fps", "pixels", tokens=[[4, 9], [8, 18_400]],
        chance={"order": 0.26}, title="T",
    )  # fmt: skip
    shown = texts(figure)
    assert {"T", "order (guess 26)", "when", "30", "60", "—", "18.4k t", "fps", "pixels"} <= set(
        shown
    )
    assert [(p.get_x() + 0.47, p.get_y() + 0.47) for p in frames_of(figure.axes[0])] == [
        pytest.approx((1, 0)), pytest.approx((0, 1))
    ]  # fmt: skip
    assert len(png_bytes(figure)) < LIMIT


def test_maps_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="at least one panel"):
        heat_map({}, ["a"], ["b"])
    with pytest.raises(ValueError, match="all: 1 x 2 cells are needed"):
        heat_map({"all": [[0.1]]}, ["a"], ["b", "c"])


# ---- lengths and tokens


def test_what_was_seen_in_training_is_shaded():
    panels = {"order": {"M-RoPE": {8: metric(0.8), 16: metric(0.7), 64: metric(0.5)}}}
    figure = accuracy_over(panels, "seconds", log=True, trained=(8, 8))
    assert "in training" in texts(figure)
    assert len(figure.axes[0].patches) == 1
    plain = accuracy_over(panels, "seconds", log=True)
    assert not figure.axes[0].get_xlim()[0] < 4, "the band does not stretch the axis"
    assert len(plain.axes[0].patches) == 0


def test_a_guess_may_differ_from_length_to_length():
    record = {"metrics": {"system/when": metric(0.6), "best_constant/when": metric(0.2)}}
    longer = {"metrics": {"system/when": metric(0.4), "best_constant/when": metric(0.1)}}
    panels = {"when": {"M-RoPE": by_x({8: record, 16: longer}, ["when"])["when"]}}
    assert [panels["when"]["M-RoPE"][x]["mean"] for x in (8, 16)] == [0.6, 0.4]
    guess = by_x({8: record, 16: longer}, ["when"], "best_constant")
    figure = accuracy_over(panels, "seconds", log=True, chance=guess)
    dashed = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert np.allclose(dashed[0].get_ydata(), [20, 10])
    assert "best blind guess" in texts(figure)


def test_records_are_put_in_order_of_their_tokens():
    records = [
        {"metrics": {"system/all": metric(share), "tokens/video": {"mean": tokens}}}
        for tokens, share in ((64.5, 0.7), (16.0, 0.4))
    ]
    found = by_tokens(records, ["all"])
    assert found["all"][16.0]["mean"] == 0.4
    assert found["all"][64.5]["mean"] == 0.7
