"""Conditions: what is given decides which of them mean something, and what counts as a leak."""

import pytest

from vlmcourse.errors import UserError
from vlmcourse.evaluation import conditions
from vlmcourse.evaluation.conditions import (
    chosen_conditions,
    given_evidence,
    given_streams,
    read_given,
)
from vlmcourse.systems.processor import Given

EYES, EARS = conditions.EYES, conditions.EARS


@pytest.mark.parametrize(
    ("names", "given", "evidence"),
    [
        (["pictures"], Given("pictures", None), EYES),
        (["sounds"], Given(None, "sounds"), EARS),
        (["sound_pictures"], Given(None, "sound_pictures"), EYES),
        (["sounds", "pictures"], Given("pictures", "sounds"), EYES | EARS),
        (["pictures", "sound_pictures"], Given("pictures", "sound_pictures"), EYES),
    ],
)
def test_names_of_streams_say_what_is_given_and_known(names, given, evidence):
    assert read_given(names) == given
    assert set(given_streams(given)) == set(names)
    assert given_evidence(given) == evidence
    assert "speech" not in evidence


@pytest.mark.parametrize("names", [[], ["sounds", "sound_pictures"], ["pictures", "pictures"]])
def test_two_streams_for_the_same_places_are_refused(names):
    with pytest.raises(UserError, match="--given takes pictures"):
        read_given(names)


def test_a_system_that_only_looks_is_asked_as_before():
    assert chosen_conditions(None, Given()) == [
        *("system", "majority", "best_constant", "blind", "no_video", "other_clip"),
        *("one_frame", "shuffled", "text_events", "text_storyboard"),
    ]


def test_a_system_that_does_both_is_asked_under_all_conditions():
    others = (*conditions.SUBTITLES, "told_events", "told_storyboard")
    assert chosen_conditions(None, Given("pictures", "sounds")) == [
        name for name in conditions.CONDITIONS if name not in others
    ]


def test_controls_without_a_meaning_are_refused_by_name():
    heard = Given(None, "sounds")
    assert "shuffled_sound" in chosen_conditions(None, heard)
    assert "one_frame" not in chosen_conditions(None, heard)
    with pytest.raises(UserError, match="'shuffled' takes nothing from a system given sounds"):
        chosen_conditions(["blind", "shuffled"], heard)
    with pytest.raises(UserError, match="unknown control 'blnd'"):
        chosen_conditions(["blnd"], heard)
    assert chosen_conditions([], heard) == ["system", "best_constant"]


def test_every_condition_is_constant_frozen_or_trained():
    kinds = (conditions.CONSTANT, conditions.FROZEN, conditions.TRAINED)
    assert sorted(sum(kinds, ())) == sorted(conditions.CONDITIONS)
    assert set(conditions.BLIND) | set(conditions.LACKS) < set(conditions.CONDITIONS)
