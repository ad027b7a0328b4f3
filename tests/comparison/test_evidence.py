"""Claims: their records are there, and their verdicts are computed right."""

import math

import pytest
import yaml

from vlmcourse.comparison import claims, evidence
from vlmcourse.comparison.claims import Claim, Evidence, Place, read_claims
from vlmcourse.comparison.evidence import CONTRADICTED, SUPPORTED, UNDECIDED, judge, measure
from vlmcourse.comparison.facts import FactError


def share(mean, low, high, n=100):
    return {"n": n, "mean": mean, "low": low, "high": high, "unit": "share"}


def record(name, seeds=(0, 1, 2), data="d1", clips=320, **metrics):
    runs = [f"run{seed}" for seed in seeds]
    return {
        "id": name, "status": "ok", "seeds": list(seeds), "data_checksum": data,
        "settings": {"clips": clips} | ({"runs": runs} if runs else {}), "metrics": metrics,
    }  # fmt: skip


def asked(expect="greater", a="gain_over_blind/all", b=None, record_b="y", **more):
    other = None if b is None else Place(record_b, b)
    return Evidence("label", Place("x", a), other, expect, **more)


# ---- one number


@pytest.mark.parametrize(
    ("expect", "interval", "verdict"),
    [
        ("greater", (0.10, 0.02, 0.20), SUPPORTED),
        ("greater", (0.10, -0.02, 0.20), UNDECIDED),
        ("greater", (-0.10, -0.20, -0.01), CONTRADICTED),
        ("greater", (0.10, 0.0, 0.20), UNDECIDED),
        ("less", (-0.10, -0.20, -0.01), SUPPORTED),
        ("less", (0.10, 0.02, 0.20), CONTRADICTED),
        ("less", (0.10, -0.02, 0.20), UNDECIDED),
    ],
)
def test_a_difference_is_judged_by_its_side(expect, interval, verdict):
    found = measure(asked(expect), {"x": record("x", **{"gain_over_blind/all": share(*interval)})})
    assert found.verdict == verdict
    assert found.kind == "paired"
    assert found.runs == 3


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((0.01, -0.04, 0.04), SUPPORTED),
        ((0.01, -0.06, 0.04), UNDECIDED),
        ((0.20, 0.04, 0.30), UNDECIDED),
        ((0.20, 0.06, 0.30), CONTRADICTED),
        ((-0.20, -0.30, -0.06), CONTRADICTED),
    ],
)
def test_equality_needs_the_whole_interval_within_the_margin(interval, verdict):
    wanted = asked("equal", margin=0.05)
    found = measure(wanted, {"x": record("x", **{"gain_over_blind/all": share(*interval)})})
    assert found.verdict == verdict


def test_a_value_is_held_against_a_number():
    there = {"x": record("x", **{"system/all": share(0.6, 0.55, 0.65)})}
    assert measure(asked(a="system/all", than=0.5), there).verdict == SUPPORTED
    assert measure(asked(a="system/all", than=0.6), there).verdict == UNDECIDED
    found = measure(asked(a="system/all", than=0.7), there)
    assert (found.verdict, found.kind) == (CONTRADICTED, "single")


def test_what_was_counted_is_certain():
    count = {"n": 1, "mean": 23, "low": None, "high": None, "unit": "s"}
    there = {"x": record("x", seeds=(), last=count)}
    found = measure(asked("less", a="last", than=24), there)
    assert (found.verdict, found.kind, found.runs) == (SUPPORTED, "counted", None)
    assert measure(asked("less", a="last", than=23), there).verdict == UNDECIDED


def test_an_unpaired_difference_by_hand():
    """0.7 (0.6 to 0.75) less 0.5 (0.46 to 0.53): 0.2, down by hypot(.10, .03), up by hypot(.05,
    .04)."""
    there = {
        "x": record("x", **{"system/all": share(0.7, 0.6, 0.75)}),
        "y": record("y", (0, 1), **{"system/all": share(0.5, 0.46, 0.53)}),
    }
    found = measure(asked(a="system/all", b="system/all"), there)
    assert found.value == pytest.approx(0.2)
    assert found.low == pytest.approx(0.2 - math.hypot(0.1, 0.03))
    assert found.high == pytest.approx(0.2 + math.hypot(0.05, 0.04))
    assert (found.kind, found.runs, found.records) == ("unpaired", 2, ("x", "y"))


def test_an_unpaired_interval_holds_what_it_says():
    """Of 1,000 differences of two independent shares, 95 % of the intervals hold the true one."""
    import numpy as np

    rng, n, held = np.random.default_rng(0), 400, 0
    for _ in range(1000):
        sides = []
        for p in (0.7, 0.55):
            mean = rng.binomial(n, p) / n
            half = 1.96 * math.sqrt(mean * (1 - mean) / n)
            sides.append(share(mean, mean - half, mean + half))
        _, low, high = evidence.unpaired(*sides)
        held += low <= 0.15 <= high
    assert 930 <= held <= 970


# ---- what cannot be compared


@pytest.mark.parametrize(
    ("there", "complaint"),
    [
        ({}, "no record 'x'"),
        ({"x": record("x") | {"status": "failed"}}, "failed run"),
        ({"x": record("x")}, "no metric 'gain_over_blind/all'"),
        ({"x": record("x", **{"gain_over_blind/all": share(None, None, None, 0)})}, "not measured"),
    ],
)
def test_a_number_that_is_not_there_is_named(there, complaint):
    with pytest.raises(FactError, match=complaint):
        measure(asked(), there)


@pytest.mark.parametrize("other", [{"data": "d2"}, {"clips": 120}])
def test_other_clips_are_refused_unless_it_says_why(other):
    there = {
        "x": record("x", **{"system/all": share(0.7, 0.6, 0.8)}),
        "y": record("y", **other, **{"system/all": share(0.5, 0.4, 0.6)}),
    }
    with pytest.raises(FactError, match="different clips"):
        measure(asked(a="system/all", b="system/all"), there)
    wanted = asked(a="system/all", b="system/all", across="the same stories")
    assert measure(wanted, there).value == pytest.approx(0.2)


def test_different_units_are_refused():
    there = {
        "x": record("x", **{"system/all": share(0.7, 0.6, 0.8)}),
        "y": record("y", speed={"n": 3, "mean": 5.0, "low": 4.0, "high": 6.0, "unit": "1/s"}),
    }
    with pytest.raises(FactError, match="a difference of"):
        measure(asked(a="system/all", b="speed"), there)


# ---- claims of several numbers


@pytest.mark.parametrize(
    ("each", "verdict"),
    [
        ((SUPPORTED, SUPPORTED), SUPPORTED),
        ((SUPPORTED, UNDECIDED), UNDECIDED),
        ((SUPPORTED, CONTRADICTED), CONTRADICTED),
        ((UNDECIDED, CONTRADICTED), CONTRADICTED),
    ],
)
def test_one_contradiction_decides_and_all_have_to_support(each, verdict):
    assert evidence.overall(each) == verdict


def test_correction_for_many_numbers():
    assert evidence.bonferroni(1) == pytest.approx(1)
    assert evidence.bonferroni(50) == pytest.approx(3.2905 / 1.95996, rel=1e-4)
    there = {"x": record("x", **{"gain_over_blind/all": share(0.1, 0.02, 0.18)})}
    alone = judge([Claim("a", "s", "strength", "t", "measured here", (asked(),))], there)[0]
    assert (alone.verdict, alone.holds, alone.runs) == (SUPPORTED, True, 3)
    many = judge([Claim("a", "s", "strength", "t", "measured here", (asked(),) * 50)], there)[0]
    assert (many.verdict, many.holds) == (SUPPORTED, False)


# ---- the file


def write(tmp_path, **changes):
    claim = {
        "side": "strength", "text": "t", "by": "measured here",
        "evidence": [{"label": "l", "record": "x", "metric": "m", "expect": "greater"}],
    } | changes  # fmt: skip
    claim = {key: value for key, value in claim.items() if value is not None}
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump({"one": {"first": claim}}))
    return tmp_path


def test_a_claim_is_read(tmp_path):
    found = read_claims(write(tmp_path), {"one": None})["first"]
    assert (found.system, found.side, found.by) == ("one", "strength", claims.HERE)
    assert found.evidence == (Evidence("l", Place("x", "m"), None, "greater"),)


ONE = {"label": "l", "record": "x", "metric": "m", "expect": "greater"}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"side": "virtue"}, "side is one of strength, weakness"),
        ({"by": "a paper"}, "is neither"),
        ({"text": None}, "text"),
        ({"colour": "red"}, "colour"),
        ({"evidence": []}, "no evidence"),
        ({"evidence": [{"label": "l", "expect": "greater"}]}, "needs record and metric"),
        ({"evidence": [ONE | {"expect": "more"}]}, "expect is one of greater, less, equal"),
        ({"evidence": [ONE | {"expect": "equal"}]}, "a margin above 0 goes with"),
        ({"evidence": [ONE | {"margin": 0.1}]}, "a margin above 0 goes with"),
    ],
)
def test_a_claim_that_is_not_whole_is_refused_by_name(tmp_path, changes, complaint):
    with pytest.raises(FactError) as refused:
        read_claims(write(tmp_path, **changes), {"one": None})
    assert "claim 'first'" in str(refused.value)
    assert complaint in str(refused.value)


def test_an_unknown_system_is_refused(tmp_path):
    with pytest.raises(FactError, match="unknown system 'one'; known: two"):
        read_claims(write(tmp_path), {"two": None})


# ---- what is committed


def test_every_committed_claim_has_its_numbers(comparison, records):
    for one in comparison.judged:
        for number in one.measured:
            assert all(name in records for name in number.records)
            assert number.verdict in evidence.VERDICTS
            assert number.low is None or number.low <= number.value <= number.high


def test_every_system_has_strengths_and_weaknesses(comparison):
    for row in comparison.rows:
        sides = [one.claim.side for one in row.claims]
        assert sides.count("strength") >= 2, row.system.name
        assert sides.count("weakness") >= 2, row.system.name


def test_a_paper_that_is_contradicted_is_discussed(comparison):
    contradicted = [one.claim for one in comparison.judged if one.verdict == CONTRADICTED]
    assert contradicted
    for claim in contradicted:
        assert claim.by == claims.HERE or claim.discussion, claim.key


def test_both_papers_and_runs_speak(comparison):
    who = {one.claim.by == claims.HERE for one in comparison.judged}
    assert who == {True, False}


def test_a_difference_that_a_record_holds_is_told_as_it_stands(comparison, records):
    one = next(x for x in comparison.judged if x.claim.key == "video-llama-temporal")
    held = records["video_llama-compare-frame_positions"]["metrics"]["difference/order"]
    assert [one.measured[0].value, one.measured[0].low] == [held["mean"], held["low"]]
    assert one.measured[0].kind == "paired"


def test_a_difference_of_pairs_is_found_the_other_way_round():
    kept = {"difference/a/b/all": share(0.10, 0.02, 0.20), "mean/a/all": share(0.5, 0.4, 0.6)}
    found = measure(asked("less", "difference/b/a/all"), {"x": record("x", **kept)})
    assert (found.value, found.low, found.high) == (-0.10, -0.20, -0.02)
    assert (found.kind, found.verdict) == ("paired", SUPPORTED)
    for metric in ("difference/a/c/all", "difference/b/a/order", "mean/b/all", "nothing"):
        with pytest.raises(FactError, match="has no metric"):
            measure(asked("less", metric), {"x": record("x", **kept)})


def test_runs_of_pairs_are_those_of_the_side_that_has_fewer():
    pairs = record("x", seeds=(), **{"difference/a/b/all": share(0.10, 0.02, 0.20)})
    pairs["settings"]["contenders"] = {"a": {"runs": ["0", "1", "2"]}, "b": {"runs": ["0", "1"]}}
    assert measure(asked(a="difference/a/b/all"), {"x": pairs}).runs == 2
