"""Probes of a system that looks and listens: what each condition takes away, and false answers."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from tiny_listener import BOTH, STRETCHES, build_listener, learn_falsely, made_up_probes

from vlmcourse.conversation import PICTURE, SOUND, TEXT
from vlmcourse.evaluation import probes as probing
from vlmcourse.evaluation import scoring
from vlmcourse.evaluation.asked import OPPOSED, OPPOSITE, asked_seconds, sound_seconds
from vlmcourse.evaluation.conditions import TRAINED, WITHOUT_MEDIA, chosen_conditions
from vlmcourse.systems.processor import Given
from vlmcourse.world.language import Question

SHOWING = [name for name in TRAINED if name not in WITHOUT_MEDIA]


@pytest.fixture(scope="module")
def asked():
    return made_up_probes()


@pytest.fixture(scope="module")
def model(asked):
    made = build_listener()
    learn_falsely(made, asked)
    return made.eval()


def under(asked, condition):
    """The probes as a condition shows them."""
    clips, streams = probing.shown(asked, condition)
    return replace(asked, clips=clips, streams=streams)


@pytest.mark.parametrize("condition", SHOWING)
def test_what_is_decided_is_what_is_said(model, asked, condition):
    """Under every condition: right, false "yes" and false "no" as generation gives them."""
    said = list(chain(*probing.generated_answers(model, under(asked, condition))))
    found = probing.ask_all([model], asked, [condition], permutations=1)
    questions = asked.questions
    assert found.right[condition][0].tolist() == [
        float(a == q.answer) for a, q in zip(said, questions)
    ]
    assert found.opposite[condition][0].tolist() == [
        float(q.kind in OPPOSED and a == OPPOSITE[q.answer]) for a, q in zip(said, questions)
    ]
    if condition == "system":
        assert 0.2 < found.right[condition].mean() < 0.95
        assert found.opposite[condition].sum() > 1


def test_rows_hold_places_for_what_is_given(model, asked):
    kinds = {
        name: [set(row.kinds) for row in rows]
        for name in SHOWING
        if (rows := probing.video_rows(model, asked, probing.shown(asked, name)[0]))
    }
    both = {TEXT, PICTURE, SOUND}
    assert kinds["system"] == [both] * 5 + [{TEXT, PICTURE}], "the last file is silent"
    assert kinds["picture_only"] == [{TEXT, PICTURE}] * 6
    assert kinds["sound_only"] == [{TEXT, SOUND}] * 5 + [{TEXT}]
    assert kinds["other_sound"] == [both] * 2 + [{TEXT, PICTURE}] + [both] * 3
    row = probing.video_rows(model, asked, asked.clips)[0]
    places = [kind for kind in row.kinds if kind != TEXT]
    assert places == sorted(places, reverse=True), "the sound stands first"
    assert places.count(SOUND) == STRETCHES


def test_what_the_conditions_change(asked):
    for name in ("one_frame", "shuffled", "shuffled_sound", "other_sound"):
        for number, shown in enumerate(probing.shown(asked, name)[1]):
            true = asked.streams[number]
            same = {n for n in shown if n in true and torch.equal(shown[n], true[n])}
            changed = {"one_frame": {"pictures", "sound_pictures"}, "other_sound": {"sounds"}}
            changed |= {"shuffled": changed["one_frame"], "shuffled_sound": {"sounds"}}
            assert same == set(true) - changed[name]
    still = probing.shown(asked, "one_frame")[1][0]["pictures"]
    assert all(torch.equal(frame, asked.streams[0]["pictures"][2]) for frame in still)
    frames, faces = (
        probing.shown(asked, "shuffled")[1][0][n] for n in asked.streams[0] if n != "sounds"
    )
    order = [int((asked.streams[0]["pictures"] == f).flatten(1).all(1).nonzero()) for f in frames]
    assert torch.equal(asked.streams[0]["sound_pictures"][order], faces), "frames keep together"
    clips, streams = probing.shown(asked, "other_sound")
    assert torch.equal(streams[0]["sounds"], asked.streams[3]["sounds"])
    assert "sounds" not in streams[2], "the sixth file has no sound to lend"
    assert clips[2].sound_times_s is None
    assert clips[5].sound_times_s is not None
    clips, streams = probing.shown(asked, "other_clip")
    assert streams[0] is asked.streams[3]
    assert {c.given for c in clips} == {BOTH}


def test_a_whole_run_may_hear_pictures(model):
    """The audio branch given frames, as in its official training: no sound is in the row."""
    given = Given(None, "sound_pictures")
    heard = made_up_probes(given=given)
    found = probing.ask_all([model], heard, chosen_conditions(None, given), heard.questions)
    assert set(found.right) >= {"system", "shuffled", "one_frame", "blind"}
    assert not {"shuffled_sound", "other_sound", "picture_only"} & set(found.right)
    assert (found.right["shuffled"] != found.right["system"]).any()


def test_rates_of_false_answers(asked):
    questions = [
        Question("is there red star ?", truth, kind, family)
        for kind, family in (("exists", "existence"), ("heard", "sound"))
        for truth in ("no", "no", "yes", "yes")
    ]
    said_opposite = np.array([[1, 0, 0, 0, 1, 1, 0, 1.0]])
    right = np.array([[0, 1, 1, 0, 0, 0, 1, 0.0]])  # one question got another answer
    found = scoring.score({"system": right}, questions, np.arange(8), {"system": said_opposite})
    rates = {n: found[f"system/{n}"]["mean"] for n in scoring.HALLUCINATION}
    assert list(rates.values()) == [0.5, 0.0, 1.0, 0.5]
    assert found["system/hallucination/false_yes"]["n"] == 2
    table = scoring.probe_table({"metrics": found})
    assert "| hallucination, false yes |  | 2 | 50.0" in table


def test_opposites_stand_behind_their_clips_questions(asked):
    doubled, own, partners = probing.with_opposites(asked)
    turned = [q for q, mine in zip(doubled.questions, own) if not mine]
    assert len(doubled.questions) == len(asked.questions) + len(turned)
    assert [q for q, mine in zip(doubled.questions, own) if mine] == asked.questions
    for question, partner in zip(turned, partners, strict=True):
        original = asked.questions[partner]
        assert replace(question, answer=original.answer) == original
        assert {question.answer, original.answer} == {"yes", "no"}
    assert {q.kind for q in turned} == set(OPPOSED)


def test_questions_by_the_second_of_their_sound(asked):
    seconds = sound_seconds(asked)
    for question, second, clip in zip(asked.questions, seconds, asked.clip_of):
        if question.kind == "sound_when":
            assert second == int(question.answer)
        elif second >= 0:
            story = asked.stories[clip]
            assert question.kind == "heard"
            assert question.answer == "yes"
            assert [s.start_s for s in story.sounds if s.kind in question.text] == [second]
    assert (seconds >= 0).sum() > len(asked.stories) / 2
    right = np.zeros((1, len(seconds)))
    right[0, seconds == seconds.max()] = 1
    found = scoring.score({"system": right}, asked.questions, asked.clip_of, seconds=seconds)
    by_second = {n: v["mean"] for n, v in found.items() if n.startswith("system/second/")}
    assert {n for n, mean in by_second.items() if mean} <= {
        f"system/second/{kind}/{seconds.max()}" for kind in ("heard", "sound_when")
    }
    assert sum(by_second.values()) > 0
    assert "second/" not in scoring.probe_table({"metrics": found}, kinds=True)


def test_events_have_a_second_too(asked):
    both, events = asked_seconds(asked, True), asked_seconds(asked, False)
    for question, second, alone in zip(asked.questions, both, events):
        assert alone == (int(question.answer) if question.kind == "when" else -1)
        assert second >= alone
    assert set((both - events).nonzero()[0]) == set((sound_seconds(asked) >= 0).nonzero()[0])
