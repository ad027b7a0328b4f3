"""Figures of the comparison: numbers stand where they were measured, colours say verdicts."""

import numpy as np
import pytest

from vlmcourse.comparison import load
from vlmcourse.figures import PALETTE, png_bytes
from vlmcourse.figures.bills import cost_bars, token_bill, value_for_money
from vlmcourse.figures.forest import Effect, ForestRow, forest, rows_of
from vlmcourse.figures.seen import seen_map


def share(mean, reach=0.05):
    return {"mean": mean, "low": mean - reach, "high": mean + reach, "unit": "share"}


ROWS = [
    ForestRow("A", "+ it sees", "supported", (Effect(20.0, 10.0, 30.0),)),
    ForestRow("A", "− it forgets", "contradicted", (
        Effect(5.0, 1.0, 9.0, "less", verdict="contradicted"),
        Effect(0.0, -3.0, 3.0, "equal", margin=5.0),
    )),
    ForestRow("B", "+ " + "long " * 60, "undecided", (Effect(1, -1, 3, verdict="undecided"),)),
]  # fmt: skip


def test_a_forest_has_a_row_a_claim_and_a_mark_a_number():
    figure = forest(ROWS, title="Claims")
    (axis,) = figure.axes
    labels = axis.get_yticklabels()
    assert [text.get_text().split("\n")[0][:8] for text in labels] == [
        "+ it see",
        "− it for",
        "+ long l",
    ]
    assert all(text.get_text().count("\n") < 2 for text in labels)
    places = [text.get_position()[1] for text in labels]
    assert places == sorted(places), "in reading order from the top"
    low, high = axis.get_ylim()
    assert low > high
    marks = [line for line in axis.lines if line.get_marker() in "><D"]
    assert [line.get_marker() for line in marks] == [">", "<", "D", ">"]
    assert [float(np.ravel(line.get_xdata())[0]) for line in marks] == [20.0, 5.0, 0.0, 1.0]
    colours = [PALETTE[name] for name in ("blue", "red", "blue", "grey")]
    assert [line.get_color() for line in marks] == colours
    heads = [text.get_text() for text in axis.texts]
    assert heads == ["A", "B"]
    assert len(png_bytes(figure)) < 60_000


def test_nothing_to_draw_is_refused():
    for draw in (forest, seen_map, cost_bars):
        with pytest.raises(ValueError, match="at least one"):
            draw([] if draw is forest else {})
    with pytest.raises(ValueError, match="at least one"):
        value_for_money({}, "cost")
    with pytest.raises(ValueError, match="at least one"):
        token_bill({"a minute": {}})


def test_claims_become_rows_without_counts():
    comparison = load()
    names = {key: system.name for key, system in comparison.facts.systems.items()}
    rows = rows_of(comparison.judged, names)
    texts = [row.text for row in rows]
    assert not any("costs 32 tokens however long" in text for text in texts), "a count, no share"
    both = [rows_of(comparison.judged, names, who) for who in ("paper", "here")]
    assert len(both[0]) + len(both[1]) == len(rows)
    assert {row.head for row in rows_of(comparison.judged, names, systems=["ma_lmm"])} == {"MA-LMM"}
    order = next(row for row in both[0] if "captures what changes over time" in row.text)
    assert order.effects[0].value == pytest.approx(39.0, abs=0.1)
    assert all(row.text[0] in "+−" for row in rows)


def test_a_map_tells_every_number_and_what_is_missing():
    table = {
        "One": {"order": share(0.9), "when": None},
        "Two, eyes": {"order": 0.2, "when": share(0.5)},
    }
    figure = seen_map(table, {"blind": {"order": 0.25}}, [("One", "order")], title="Seen")
    left, right = figure.axes
    texts = [text.get_text() for text in left.texts]
    assert texts == ["90", "85–95", "20", "—", "50", "45–55"]
    assert [text.get_text() for text in right.texts] == ["25", "—"]
    assert len(left.patches) == 1
    assert [text.get_text() for text in left.get_yticklabels()] == ["order", "when"]


def test_a_bill_tells_frames_times_tokens():
    films = {
        "a minute": {"A": (8, 32), "B": (120, 17940)},
        "ten": {"A": (8, 32), "B": (768, 46080)},
    }
    figure = token_bill(films, {"context": 32768}, title="Tokens")
    texts = [text.get_text().strip() for text in figure.axes[0].texts]
    assert texts == ["32", "8 frames x 4", "17,940", "120 frames x 150", "context"]
    assert [bar.get_width() for bar in figure.axes[1].patches] == [32, 46080]
    with pytest.raises(ValueError, match="the same systems"):
        token_bill({"a minute": films["a minute"], "ten": {"A": (8, 32)}})


def test_costs_have_a_scale_each_and_intervals():
    one = {"mean": 100.0, "low": 90.0, "high": 110.0}
    figure = cost_bars({"speed": {"A": one, "B": 50.0}, "memory": {"A": 1.0, "B": 2.0}})
    first, second = figure.axes
    assert [bar.get_width() for bar in first.patches] == [100, 50]
    assert first.get_xlim()[1] > 110 > second.get_xlim()[1]
    assert [text.get_text() for text in second.texts] == ["1", "2"]


def test_points_stand_at_cost_and_share():
    figure = value_for_money(
        {"A": (10.0, share(0.5)), "B": (100.0, share(0.7))}, "cost", beside=["B"]
    )
    marks = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [tuple(np.ravel(line.get_data())) for line in marks] == [(10.0, 50.0), (100.0, 70.0)]
    assert [text.get_horizontalalignment() for text in figure.axes[0].texts] == ["left", "right"]
