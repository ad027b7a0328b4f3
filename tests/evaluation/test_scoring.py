"""Scores: the interval covers both sources of chance, families and leaks are told apart."""

import numpy as np
import pytest

from vlmcourse.evaluation import scoring
from vlmcourse.evaluation.conditions import EARS, EYES
from vlmcourse.evaluation.scoring import Bootstrap, Judgement
from vlmcourse.record_form import validate_metric
from vlmcourse.world.language import FAMILIES, Question


def draw(rng, runs, clips, per_clip, clip_spread=0.0, run_spread=0.0):
    """Answers whose chance of being right depends on the clip and on the run."""
    by_clip = rng.normal(0, clip_spread, clips).repeat(per_clip)
    by_run = rng.normal(0, run_spread, runs)[:, None]
    chance = (0.5 + by_clip + by_run).clip(0, 1)
    return (rng.random((runs, clips * per_clip)) < chance).astype(float)


def width(right, clip_of):
    made = Bootstrap(clip_of, draws=1000).metric(right, np.ones(right.shape[1], dtype=bool))
    return made["high"] - made["low"]


def test_questions_of_one_clip_count_as_one_witness():
    """Ten copies of every answer must not make the interval narrower."""
    right = draw(np.random.default_rng(0), 1, 100, 1)
    alone = width(right, np.arange(100))
    copied = width(right.repeat(10, axis=1), np.arange(100).repeat(10))
    assert copied == pytest.approx(alone, rel=0.05)
    assert alone == pytest.approx(2 * 1.96 * 0.5 / 10, rel=0.15)


def test_runs_that_differ_widen_the_interval():
    clip_of = np.arange(400)
    same = np.full((3, 400), 0.5)
    same[:, ::2] = 1
    apart = same.copy()
    apart[0], apart[2] = same[0] - 0.2, same[2] + 0.2
    assert width(apart.clip(0, 1), clip_of) > 2 * width(same, clip_of)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Clips and runs both drawn: about 95 % of intervals hold the mean that they are drawn around.

    With three runs no interval is exact; fewer than four in five would be wrong.
    """
    rng, hits, clip_of = np.random.default_rng(1), 0, np.arange(60).repeat(3)
    for _ in range(120):
        right = draw(rng, 3, 60, 3, clip_spread=0.3)
        made = Bootstrap(clip_of, draws=300).metric(right, np.ones(180, dtype=bool))
        hits += made["low"] <= 0.5 <= made["high"]
    assert hits / 120 >= 0.88


def test_two_of_three_runs_give_the_unbiased_variance():
    """Without chance from clips, the variance of the draws is that of a mean of three runs."""
    right = np.repeat(np.array([[0.2], [0.5], [0.8]]), 50, axis=1)
    means = Bootstrap(np.arange(50), draws=40_000).means(right, np.ones(50, dtype=bool))
    assert means.var() == pytest.approx(np.var([0.2, 0.5, 0.8], ddof=1) / 3, rel=0.05)


def test_certainty_is_not_claimed_where_all_are_right_or_wrong():
    boots, chosen = Bootstrap(np.arange(30).repeat(2)), np.ones(60, dtype=bool)
    wrong = boots.metric(np.zeros((3, 60)), chosen)
    assert (wrong["mean"], wrong["low"]) == (0.0, 0.0)
    assert wrong["high"] == pytest.approx(0.113, abs=0.01)  # Wilson: 0 of 30
    right = boots.metric(np.ones((1, 60)), chosen)
    assert right["low"] == pytest.approx(1 - wrong["high"])
    level = boots.metric(np.zeros((3, 60)), chosen, difference=True)
    assert level["low"] == pytest.approx(-level["high"])
    assert level["high"] > 0


def test_metrics_fit_a_record_and_keep_the_runs():
    boots = Bootstrap(np.arange(40))
    made = boots.metric(draw(np.random.default_rng(2), 3, 40, 1), np.ones(40, dtype=bool))
    validate_metric("x", made, pytest.fail)
    assert made["n"] == 120
    assert np.mean(made["values"]) == pytest.approx(made["mean"], abs=1e-5)
    nothing = boots.metric(np.zeros((3, 40)), np.zeros(40, dtype=bool))
    validate_metric("x", nothing, pytest.fail)
    assert nothing["mean"] is None


def questions(clips=40):
    """For every clip a question on colour, one on order and one on sound."""
    three = [
        Question("what colour is circle ?", "red", "colour", "appearance"),
        Question("what happens first ?", "red circle jumps", "first", "order"),
        Question("is bell heard ?", "yes", "heard", "sound"),
    ]
    return three * clips, np.arange(clips).repeat(3)


def answers(clips=40, sound=0.5):
    """The system knows colour, guesses at order as its controls do, and hears `sound`."""
    rng = np.random.default_rng(3)
    chance = np.tile([0.95, 0.4, sound], clips)
    blind = np.tile([0.2, 0.4, 0.5], clips)
    return {
        "system": (rng.random((3, 3 * clips)) < chance).astype(float),
        "best_constant": (rng.random((1, 3 * clips)) < blind).astype(float),
        "blind": (rng.random((1, 3 * clips)) < blind / 2).astype(float),
    }


def test_scores_by_family_kind_and_evidence():
    asked, clip_of = questions()
    found = scoring.score(answers(), asked, clip_of)
    assert found["system/appearance"]["mean"] == found["system/kind/colour"]["mean"] > 0.9
    assert found["system/evidence/picture"] == found["system/appearance"]
    assert found["blind/sound"]["n"] == 40
    assert found["system/sound"]["n"] == 120
    assert found["system/speech"]["n"] == 0
    gain = found["gain_over_blind/appearance"]
    told = found["system/appearance"]["mean"] - found["blind/appearance"]["mean"]
    assert gain["mean"] == pytest.approx(told, abs=1e-5)
    assert gain["n"] == 120
    assert "gain_over_system/all" not in found
    for name, value in found.items():
        validate_metric(name, value, pytest.fail)


def test_what_is_beaten_and_what_leaks():
    asked, clip_of = questions(100)
    metrics = scoring.score(answers(100), asked, clip_of)
    assert scoring.judgement(metrics) == Judgement(["appearance"])
    hears = scoring.score(answers(100, sound=0.9), asked, clip_of)
    assert scoring.judgement(hears, EYES) == Judgement(["appearance"], leaks=["sound"])
    assert scoring.judgement(hears, EYES | EARS) == Judgement(["appearance", "sound"])
    assert scoring.judgement(hears, EARS) == Judgement(["sound"], leaks=["appearance"])


def gains(**low):
    """Metrics in which the system's gains over conditions in one family have these lower ends."""
    made = {"n": 9, "mean": 0.5, "low": 0.1, "high": 0.9, "unit": "share"}
    return {f"gain_over_{name}/picture_sound": made | {"low": value} for name, value in low.items()}


def test_a_question_of_two_senses_is_beaten_only_with_both():
    both = gains(blind=0.3, picture_only=0.1, sound_only=0.1, other_sound=0.1)
    assert scoring.judgement(both, EYES | EARS).beaten == ["picture_sound"]
    one = gains(blind=0.3, picture_only=-0.1, sound_only=0.2)
    assert scoring.judgement(one, EYES | EARS) == Judgement(), "what is heard adds nothing"
    assert scoring.judgement(gains(blind=0.3), EYES) == Judgement(partly=["picture_sound"])
    assert scoring.judgement(gains(blind=0.3), frozenset()) == Judgement(leaks=["picture_sound"])


def test_a_guess_is_no_leak_because_a_language_model_never_guesses_right():
    """Above a model that always says the same wrong word, and level with the best constant."""
    asked = [Question("what sound is first ?", kind, "sound_first", "sound") for kind in "ab" * 50]
    rng, blind = np.random.default_rng(0), np.zeros((1, 100))
    said = {"system": (rng.random((3, 100)) < 0.5).astype(float), "blind": blind}
    assert scoring.judgement(scoring.score(said, asked, np.arange(100))).leaks == ["sound"]
    said["best_constant"] = np.tile([[1.0, 0.0]], 50)
    assert scoring.judgement(scoring.score(said, asked, np.arange(100))) == Judgement()


def test_differences_draw_the_same_clips_for_both():
    """Two variants that fail on the same clips: the difference is known better than either."""
    rng = np.random.default_rng(4)
    hard = rng.random(200) < 0.5
    a = np.repeat(np.where(hard, 0.1, 0.9)[None], 3, axis=0)
    b, chosen = a - rng.choice([0.0, 0.1], 200), np.ones(200, dtype=bool)
    boots = Bootstrap(np.arange(200))
    made, alone = boots.difference(a, b, chosen, False), boots.metric(a, chosen)
    assert made["low"] < 0.05 < made["high"]
    assert made["high"] - made["low"] < 0.02 < 0.1 < alone["high"] - alone["low"]
    validate_metric("x", made, pytest.fail)


def test_runs_are_drawn_apart_unless_they_are_the_same():
    level = np.array([0.3, 0.5, 0.7])[:, None]
    a, chosen = np.repeat(level, 90, axis=1), np.ones(90, dtype=bool)
    a[:, ::2] += 0.1
    boots = Bootstrap(np.arange(90))
    paired, apart = (boots.difference(a, a - 0.1, chosen, paired) for paired in (True, False))
    assert paired["mean"] == apart["mean"] == pytest.approx(0.1)
    assert paired["high"] - paired["low"] < 0.1 < apart["high"] - apart["low"]
    spread = np.var([0.3, 0.5, 0.7], ddof=1) / 3
    draws = boots.means(a, chosen) - boots.means(a - 0.1, chosen, stream=2)
    assert draws.var() == pytest.approx(2 * spread, rel=0.1)
    other = boots.difference(a, a[:2], chosen, False)
    assert other["n"] == 180
    assert boots.difference(a, a, ~chosen, False)["mean"] is None


def test_a_difference_that_never_varies_claims_no_certainty():
    boots, chosen = Bootstrap(np.arange(30)), np.ones(30, dtype=bool)
    mixed = np.tile([0.0, 1.0], (3, 15))
    for paired in (True, False):
        made = boots.difference(np.ones((3, 30)), np.zeros((3, 30)), chosen, paired)
        assert made["mean"] == 1.0
        assert made["low"] == pytest.approx(0.887, abs=0.01)
        level = boots.difference(mixed, mixed, chosen, paired)
        assert level["low"] == pytest.approx(-level["high"])
        assert level["high"] == pytest.approx(0.113, abs=0.01)


def test_the_table_shows_families_that_are_asked_with_their_evidence():
    asked, clip_of = questions()
    record = {"metrics": scoring.score(answers(), asked, clip_of)}
    lines = scoring.probe_table(record).splitlines()
    assert lines[0] == "| questions | evidence | n | system | best_constant | blind |"
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in lines[2:]}
    assert list(rows) == [
        *("all", "all of picture", "all of motion", "all of sound"),
        *("appearance", "order", "sound"),
    ]
    assert rows["order"].startswith("| order | motion | 40 | ")
    kinds = scoring.probe_table(record, kinds=True).splitlines()
    assert [line.split(" | ")[0] for line in kinds[2:]] == ["| colour", "| first", "| heard"]


def test_bars_come_from_the_record():
    from vlmcourse import figures

    asked, clip_of = questions()
    record = {"metrics": scoring.score(answers(), asked, clip_of)}
    table, chance = scoring.bar_values(record, ("system", "blind"), tuple(FAMILIES))
    assert list(table) == ["system", "blind"]
    assert list(table["blind"]) == ["appearance", "order", "sound"]
    assert chance["sound"] == record["metrics"]["best_constant/sound"]["mean"]
    figures.accuracy_bars(table, chance)


def test_seconds_come_in_order():
    asked, clip_of = questions()
    seconds = np.where(np.arange(len(asked)) % 3 == 2, np.repeat(np.arange(40) % 12, 3), -1)
    found = scoring.score(answers(), asked, clip_of, seconds=seconds)
    by_second = {n: v["n"] for n, v in found.items() if n.startswith("system/second/heard/")}
    assert list(by_second) == [f"system/second/heard/{second}" for second in range(12)]
    assert sum(by_second.values()) == 120
    assert not any(name.startswith("system/second/sound_when/") for name in found)
