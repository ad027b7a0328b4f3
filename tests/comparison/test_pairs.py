"""Pairs of systems on the same questions, and the choices that follow from them."""

import numpy as np
import pytest
from made_up_sweep import answer, made_up_questions

from vlmcourse.comparison import choice, pairs
from vlmcourse.comparison.claims import Evidence, Place
from vlmcourse.comparison.evidence import SUPPORTED, measure
from vlmcourse.comparison.facts import FactError
from vlmcourse.comparison.pairs import Contender, Paired
from vlmcourse.evaluation.answer_bits import AnswerFile, AnswersError, save_answers
from vlmcourse.record_form import validate_metric

QUESTIONS = made_up_questions(120)
LEVELS = {"good": 1.2, "twin": 1.2, "poor": -1.0}


def answers(level, seed, runs=3, questions=QUESTIONS, conditions=("system",)):
    rng = np.random.default_rng(seed)
    clip = np.random.default_rng(0).normal(0, 0.6, questions.num_clips)[questions.clip_of]
    right = {name: answer(rng, level, clip, runs, 0.05) for name in conditions}
    wrong = {name: np.zeros_like(said) for name, said in right.items()}
    return AnswerFile(questions, right, wrong, tuple(range(runs)), "d", {"split": "s"})


@pytest.fixture(scope="module")
def contenders():
    return [
        Contender(name, name.title(), name, answers(level, seed))
        for seed, (name, level) in enumerate(LEVELS.items())
    ]


@pytest.fixture(scope="module")
def measured(contenders):
    return pairs.measure(contenders, draws=2000)


@pytest.fixture(scope="module")
def paired(contenders, measured):
    return Paired.of({"settings": pairs.settings_of(contenders), "metrics": measured[0]})


def test_every_pair_of_every_group_is_there(contenders, measured):
    metrics, note = measured
    groups = pairs.asked_groups(contenders)
    assert {"all", "appearance", "hallucination/false_yes"} <= set(groups)
    assert "speech" not in groups, "nobody was asked"
    assert len(metrics) == len(groups) * (3 + 3 + 3)
    for name, one in metrics.items():
        validate_metric(name, one, pytest.fail)
    assert f"Of {3 * len(groups)} differences" in note


def test_what_differs_is_told_apart_and_a_twin_is_not(paired):
    assert paired.told_apart("good", "poor", "all")
    assert not paired.told_apart("good", "twin", "all")
    found = paired.difference("good", "poor", "all")
    assert found["low"] > 0.3
    assert found["mean"] == pytest.approx(
        paired.mean("good", "all")["mean"] - paired.mean("poor", "all")["mean"]
    )


def test_the_other_way_round_the_sign_turns(paired):
    one, other = (paired.difference(*x, "all") for x in (("good", "poor"), ("poor", "good")))
    assert (other["low"], other["mean"], other["high"]) == (-one["high"], -one["mean"], -one["low"])
    with pytest.raises(FactError, match="no difference of 'good' and 'nobody'"):
        paired.difference("good", "nobody", "all")


def test_the_corrected_interval_is_the_wider_one(paired):
    for group in paired.groups:
        plain = paired.difference("good", "twin", group)
        wider = paired.difference("good", "twin", group, "corrected")
        assert wider["low"] <= plain["low"]
        assert wider["high"] >= plain["high"]


def test_the_same_run_with_and_without_its_ears_is_paired_run_by_run():
    """The runs differ much, what each of them loses does not: only pairing can tell."""
    rng = np.random.default_rng(5)
    hears = (rng.random((3, len(QUESTIONS.kind))) < np.array([[0.3], [0.5], [0.9]])) * 1.0
    sees = hears * (rng.random(hears.shape) > 0.1)
    both = {"system": hears, "picture_only": sees}
    file = AnswerFile(QUESTIONS, both, both, (0, 1, 2), "d", {})
    alone = AnswerFile(QUESTIONS, {"system": sees}, {"system": sees}, (0, 1, 2), "d", {})
    a, eyes = Contender("a", "A", "a", file), Contender("a_eyes", "eyes", "a", file, "picture_only")
    same, _ = pairs.measure([a, eyes], draws=1000)
    other, _ = pairs.measure([a, Contender("a_eyes", "eyes", "b", alone)], draws=1000)
    assert same["difference/a/a_eyes/all"]["low"] > 0
    assert other["difference/a/a_eyes/all"]["low"] < 0


def test_a_record_of_pairs_is_evidence_for_claims(paired, contenders):
    settings = pairs.settings_of(contenders)
    record = {"status": "ok", "settings": settings, "metrics": paired.metrics}
    evidence = Evidence("all", Place("p", "difference/good/poor/all"), None, "greater")
    found = measure(evidence, {"p": record})
    assert (found.kind, found.verdict, found.runs) == ("paired", SUPPORTED, 3)


# ---- files


class Named:
    def __init__(self, key):
        self.key, self.name = key, key.title()


def test_files_of_runs_are_stacked_and_ears_told_apart(tmp_path):
    save_answers(tmp_path / "hears.json", answers(0.5, 1, conditions=("system", "picture_only")))
    for seed in (0, 1):
        one = answers(0.1, seed, runs=1)
        one = AnswerFile(one.questions, one.right, one.opposite, (seed,), "d", {})
        save_answers(tmp_path / f"slow-seed{seed}.json", one)
    found = pairs.read_contenders(tmp_path, [Named("hears"), Named("slow")])
    assert [one.key for one in found] == ["hears", "hears_eyes", "slow"]
    assert found[1].name == "Hears, eyes alone"
    assert found[1].answers is found[0].answers
    assert found[2].answers.seeds == (0, 1)


def test_a_system_without_answers_or_with_other_questions_is_named(tmp_path):
    save_answers(tmp_path / "a.json", answers(0.5, 1))
    with pytest.raises(FactError, match="no answers of B"):
        pairs.read_contenders(tmp_path, [Named("a"), Named("b")])
    save_answers(tmp_path / "b.json", answers(0.5, 1, questions=made_up_questions(30)))
    with pytest.raises(AnswersError, match="other questions"):
        pairs.read_contenders(tmp_path, [Named("a"), Named("b")])


# ---- choices


SIZES = {
    "metrics": {
        "good/7B/film_60/tokens": {"mean": 100},
        "twin/7B/film_60/tokens": {"mean": 10},
        "twin/7B/film_60/sound_tokens": {"mean": 5},
        "poor/7B/film_60/tokens": {"mean": 1},
    }
}


def test_who_is_shown_to_be_nearly_as_good_may_be_the_cheaper_choice(paired):
    jobs = {"see": "appearance"}
    (wide,) = choice.choose(paired, SIZES, {"appearance": {"mean": 0.2}}, jobs, margin=0.4)
    assert {wide.best, *wide.within} == {"good", "twin"}
    assert wide.worse == ("poor",)
    assert wide.cheapest == "twin", "the cheapest of all is worse"
    assert wide.above_guess
    (strict,) = choice.choose(paired, SIZES, {}, jobs, margin=0.001)
    assert strict.within == ()
    assert {strict.best, *strict.undecided} == {"good", "twin"}, "not told apart, not shown level"
    assert strict.cheapest == strict.best


def test_every_contender_stands_in_one_class(paired):
    for one in choice.choose(paired, SIZES, {}, {group: group for group in paired.groups}):
        told = [one.best, *one.within, *one.worse, *one.nearly, *one.undecided]
        assert sorted(told) == sorted(paired.names)


def test_worse_but_for_the_correction_is_said(paired):
    pairs_of_poor = [f"corrected/{better}/poor/all" for better in ("good", "twin")]
    wider = {name: {**paired.metrics[name], "low": -0.1} for name in pairs_of_poor}
    unsure = Paired(paired.names, paired.systems, {**paired.metrics, **wider})
    (before,), (after,) = (choice.choose(x, SIZES, {}, {"all": "all"}) for x in (paired, unsure))
    assert (before.worse, before.nearly) == (("poor",), ())
    assert (after.worse, after.nearly) == ((), ("poor",))


def test_nobody_is_recommended_where_nobody_beats_a_guess(paired):
    (one,) = choice.choose(paired, SIZES, {"appearance": {"mean": 0.99}}, {"see": "appearance"})
    assert not one.above_guess


def test_of_wrong_answers_fewer_are_better():
    rates = {"bold": 0.5, "shy": 0.02}
    contenders = []
    for seed, (name, rate) in enumerate(rates.items()):
        said = (np.random.default_rng(seed).random((3, len(QUESTIONS.kind))) < rate) * 1.0
        file = AnswerFile(QUESTIONS, {"system": said}, {"system": said}, (0, 1, 2), "d", {})
        contenders.append(Contender(name, name, name, file))
    metrics, _ = pairs.measure(contenders, draws=2000)
    paired = Paired.of({"settings": pairs.settings_of(contenders), "metrics": metrics})
    sizes = {"metrics": {f"{key}/7B/film_60/tokens": {"mean": 1} for key in rates}}
    jobs = {"see": "hallucination/false_yes", "name": "appearance"}
    wrong, right = choice.choose(paired, sizes, {}, jobs)
    assert (wrong.best, right.best) == ("shy", "bold")
    assert wrong.guess is None


def test_tokens_of_sound_count_for_who_hears():
    assert choice.minute_tokens(SIZES, "twin") == 15
    assert choice.minute_tokens(SIZES, "twin", hears=False) == 10
    with pytest.raises(FactError, match="no tokens of 'nobody'"):
        choice.minute_tokens(SIZES, "nobody")
