"""Figures of chapters 09 and 10: the bank as a film, cluster maps, events, the cost of a stream."""

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from vlmcourse.figures import png_bytes
from vlmcourse.figures.bank_film import bank_film, entry_spans, merged_borders
from vlmcourse.figures.cluster_maps import cluster_colours, cluster_maps
from vlmcourse.figures.event_lanes import event_lanes, in_order, partition_lanes, scene_starts
from vlmcourse.figures.stream_curves import stream_cost, stream_lines
from vlmcourse.parts.merge_history import merge_history

LIMIT = 60_000


def film(count=6, height=64, width=64):
    return np.random.default_rng(0).integers(0, 80, (count, height, width, 3), dtype=np.uint8)


def texts(figure):
    figure.canvas.draw()
    return [t.get_text() for t in figure.findobj(mpl.text.Text) if t.get_text()]


def bars(axis):
    """Left edge, middle height and width of every bar of the bank or lane."""
    drawn = [p for p in axis.patches if isinstance(p, Rectangle) and p.get_fill()]
    return [(p.get_x(), p.get_y() + p.get_height() / 2, p.get_width()) for p in drawn]


# ---- the bank


def history(rule="weighted", capacity=2):
    """Four positions of six frames; at position 0 frames 1 and 2 are alike, at 1 frames 0 and 1."""
    frames = torch.eye(6)[:, None].repeat(1, 4, 1)
    frames[2, 0] = frames[1, 0] + 0.1
    frames[1, 1] = frames[0, 1] + 0.1
    return merge_history(frames, capacity, rule).numpy()


def test_spans_and_borders_follow_the_bank():
    told = history()
    assert entry_spans(told[1, :, 0]) == [(0, 0), (1, 1)]
    assert entry_spans(told[2, :, 0]) == [(0, 0), (1, 2)]
    assert merged_borders([(0, 0), (1, 1)], [(0, 0), (1, 2)], 2) == [2]
    assert merged_borders([(0, 0), (1, 1)], [(0, 1), (2, 2)], 2) == [1]
    assert merged_borders([(0, 0), (1, 1)], [(1, 1), (2, 2)], 2) == [], "what is dropped is no dot"
    assert merged_borders([], [(0, 0)], 0) == []


def test_every_line_is_a_bank_and_every_merge_a_dot():
    told, times = history(), [0, 1, 2, 3, 4, 5.5]
    figure = bank_film(film(), told, {"here": 0, "there": 1}, times, "T")
    for axis, place in zip(figure.axes, (0, 1)):
        lines = {}
        for left, line, width in bars(axis):
            lines.setdefault(round(line), []).append((round(left + 0.44), round(width)))
        for step in range(6):
            spans = entry_spans(told[step, :, place])
            assert sorted(lines[step]) == [(a, b - a + 1) for a, b in spans]
        dots = [tuple(xy) for line in axis.lines for xy in line.get_xydata()]
        assert len(dots) == 4, "six frames, two entries"
        first = (1.5, 2.0) if place == 0 else (0.5, 2.0)
        assert first in dots
        assert len(axis.images) == 6
    assert {"T", "here", "there", "seconds", "5.5"} <= set(texts(figure))
    assert len(png_bytes(figure)) < LIMIT


def test_the_patch_is_marked_in_what_is_cut_out():
    figure = bank_film(film(2), np.ones((2, 1, 64, 2), bool), {"corner": 63, "middle": 9})
    for axis, share in zip(figure.axes, (2 / 3, 1 / 3)):
        assert axis.images[0].get_array().shape == (24, 24, 3)
        mark = next(p for p in axis.patches if not p.get_fill())
        assert mark.get_x() == pytest.approx(-0.47 + 0.94 * share)
    whole = bank_film(film(2), np.ones((2, 1, 5, 2), bool), {"all": None})
    assert whole.axes[0].images[0].get_array().shape == (64, 64, 3)


def test_a_bank_that_drops_frames_has_no_dots():
    figure = bank_film(film(), history("fifo"), {"fifo": 0})
    assert not [xy for line in figure.axes[0].lines for xy in line.get_xydata()]


@pytest.mark.parametrize("shape", [(5, 2, 4, 5), (6, 2, 4)])
def test_a_history_of_another_film_is_refused(shape):
    with pytest.raises(ValueError, match="history of 6 frames"):
        bank_film(film(), np.ones(shape, bool), {"here": 0})
    with pytest.raises(ValueError, match="position"):
        bank_film(film(), history(), {})


# ---- clusters


def test_maps_paint_and_outline_every_cluster():
    frame = np.full((64, 64, 3), 100, np.uint8)
    halves = np.repeat([[0, 0, 0, 0, 1, 1, 1, 1]], 8, axis=0).reshape(-1)
    checks = np.indices((4, 4)).sum(0).reshape(-1) % 2
    figure = cluster_maps({"a": frame, "b": frame}, {"a": [halves, halves * 0], "b": [checks]}, "T")
    axes = figure.axes
    left, right = (axes[1].images[0].get_array()[32, x] for x in (8, 56))
    assert not np.array_equal(left, right)
    lines = [c for c in axes[1].collections if isinstance(c, LineCollection)]
    drawn = [segment for c in lines for segment in c.get_segments()]
    assert len(drawn) == 8
    assert {x for segment in drawn for x in segment[:, 0]} == {0.5}
    assert not axes[2].collections, "one cluster has no borders"
    assert len([c for c in axes[4].collections if isinstance(c, LineCollection)]) == 24
    assert not axes[5].get_visible()
    shown = texts(figure)
    assert {"T", "a: 64 patches", "b: 16 patches", "2 tokens", "1 tokens", "0", "1"} <= set(shown)
    assert len(png_bytes(figure)) < LIMIT


def test_colours_of_clusters_differ():
    colours = cluster_colours(64)
    apart = np.abs(colours[:, None] - colours[None]).max(-1) + np.eye(64)
    assert apart.min() > 0.01
    assert apart[:8, :8].min() > 0.08
    assert ((colours >= 0) & (colours <= 1)).all()


def test_maps_that_do_not_fit_are_refused():
    frame = film(1)[0]
    with pytest.raises(ValueError, match="square"):
        cluster_maps({"a": frame}, {"a": [np.zeros(15, int)]})
    with pytest.raises(ValueError, match="together"):
        cluster_maps({"a": frame}, {"b": [np.zeros(16, int)]})


# ---- events


def test_events_are_lanes_over_the_film():
    lanes = {"true scenes": [0, 0, 0, 5, 5, 5], "by chance": [3, 3, 1, 1, 3, 3]}
    figure = event_lanes(film(), lanes, scene_starts(lanes["true scenes"]), range(6), "T")
    axis = figure.axes[0]
    found = [(round(x + 0.48), round(y), round(w + 0.04)) for x, y, w in bars(axis)]
    assert found == [(0, 0, 3), (3, 0, 3), (0, 1, 2), (2, 1, 2), (4, 1, 2)]
    colours = [p.get_facecolor() for p in axis.patches]
    assert colours[2] == colours[4] != colours[3]
    assert [line.get_xdata()[0] for line in axis.lines] == [2.5]
    assert {"T", "true scenes", "by chance", "seconds"} <= set(texts(figure))
    assert len(png_bytes(figure)) < LIMIT
    with pytest.raises(ValueError, match="5 events of 'x'"):
        event_lanes(film(), {"x": [0] * 5})
    with pytest.raises(ValueError, match="at least one"):
        event_lanes(film(), {})


def test_partitions_that_are_equal_stand_together():
    ids = np.array([[0, 0, 1, 1], [0, 1, 1, 1], [7, 7, 2, 2], [4, 0, 4, 0]])
    assert in_order(ids[2]).tolist() == [0, 0, 1, 1]
    figure = partition_lanes(ids, [2], title="official")
    axis = figure.axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["0", "2", "1", "3"]
    shown = texts(figure)
    assert "official: 3 different partitions in 4 tries" in shown
    assert [text for text in shown if text.endswith("alike")] == ["2 alike"]
    assert len(png_bytes(figure)) < LIMIT
    with pytest.raises(ValueError, match="partitions"):
        partition_lanes(ids, names=["a"])


# ---- a stream


def record():
    metrics = {}
    for way, grows in (("bank_5", 0), ("all_frames", 1)):
        for count in (1, 10, 100):
            told = {"n": 9, "low": None, "high": None, "unit": ""}
            size = count if grows else min(count, 5)
            for panel in ("state_kib", "peak_mib"):
                metrics[f"{way}/{panel}/{count}"] = {**told, "mean": 50.0 * size}
            metrics[f"{way}/ms/{count}"] = {**told, "mean": 5 + size, "low": 4 + size, "high": 9}
        metrics[f"{way}/slope/ms"] = {**told, "mean": 0.1}
    return {"metrics": metrics}


def test_a_stream_shows_what_grows_and_what_does_not():
    lines = stream_lines(record())
    assert list(lines["ms"]) == ["bank_5", "all_frames"]
    assert lines["state_kib"]["all_frames"][100]["mean"] == 5000
    figure = stream_cost(record(), names={"all_frames": "everything"}, title="T")
    assert [len(axis.lines) for axis in figure.axes] == [2, 2, 2]
    assert figure.axes[0].lines[0].get_ydata().tolist() == [50, 250, 250]
    assert figure.axes[1].get_ylim()[0] == 0
    assert {"bank 5", "everything", "time a frame, ms", "frames seen", "T"} <= set(texts(figure))
    assert len(png_bytes(figure)) < LIMIT
    assert len(stream_cost(record(), ["bank_5"]).axes[0].lines) == 1
    with pytest.raises(ValueError, match="bank_9"):
        stream_cost(record(), ["bank_9"])
