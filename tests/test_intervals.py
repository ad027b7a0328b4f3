"""Means with their spread: the right interval for runs and for clips."""

import json
import math

import numpy as np
import pytest

from vlmcourse import intervals
from vlmcourse.intervals import confidence_interval, metric


def test_seeds_use_students_t():
    low, high = confidence_interval([0.50, 0.54, 0.58], kind="seeds")
    half = 4.302653 * 0.04 / math.sqrt(3)  # t(0.975, 2), sample sd 0.04
    assert (low, high) == pytest.approx((0.54 - half, 0.54 + half), abs=1e-6)
    assert all(math.isnan(x) for x in confidence_interval([0.5], kind="seeds"))


def test_clips_are_drawn_again():
    values = [1.0] * 60 + [0.0] * 40
    low, high = confidence_interval(values)
    normal = 1.96 * math.sqrt(0.6 * 0.4 / 100)
    assert (low, high) == pytest.approx((0.6 - normal, 0.6 + normal), abs=0.02)
    assert confidence_interval(values) == (low, high)
    narrow = confidence_interval(values, level=0.5)
    assert narrow[1] - narrow[0] < (high - low) / 2


def test_answers_of_one_clip_are_not_independent():
    values = np.repeat([1.0, 0.0] * 10, 10)  # 20 clips with ten equal answers each
    alone = confidence_interval(values)
    by_clip = confidence_interval(values, groups=np.repeat(np.arange(20), 10))
    assert by_clip[1] - by_clip[0] > 2.5 * (alone[1] - alone[0])


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = confidence_interval((rng.random(50) < 0.3).astype(float))
        hits += low <= 0.3 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_all_right_is_no_certainty():
    low, high = confidence_interval([1.0] * 20)
    assert (round(low, 3), high) == (0.839, 1.0)
    assert confidence_interval([0.0] * 20)[1] == pytest.approx(0.161, abs=1e-3)
    assert confidence_interval([3.0] * 20) == (3.0, 3.0)
    assert all(math.isnan(x) for x in confidence_interval([1.0]))
    with pytest.raises(ValueError, match="'clips' or 'seeds'"):
        confidence_interval([1.0, 0.0], kind="days")


def test_metrics_are_plain_json():
    made = metric([1, 0, 1, 1], "share", keep=True)
    assert made["n"] == 4
    assert made["mean"] == 0.75
    assert made["values"] == [1, 0, 1, 1]
    assert metric([], "share") == {"n": 0, "mean": None, "low": None, "high": None, "unit": "share"}
    assert metric([2.0], "s", kind="seeds")["low"] is None
    json.dumps(made, allow_nan=False)
    assert intervals.tidy(1 / 3) == 0.333333
