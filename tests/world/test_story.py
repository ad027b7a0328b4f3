"""Stories keep the rules that make every question answerable."""

import hashlib
from collections import Counter

import pytest

from vlmcourse.errors import UserError
from vlmcourse.world.story import (
    ACTION_SOUND,
    ACTIONS,
    SLIDE,
    SOUNDS,
    Story,
    StorySettings,
    is_held_out,
    sample_story,
)

STORIES = [sample_story(seed) for seed in range(300)]
HASH_OF_STORIES = "19ebe5e61f6e62eb5e7d72b19ed0af34ae748cf22028e5bba5406e956f611420"
LIVE = [sample_story(seed, StorySettings(live_sound=True)) for seed in range(300)]


def test_same_seed_same_story_and_other_seed_another():
    assert sample_story(5) == sample_story(5)
    assert len({s.to_json() for s in STORIES}) == len(STORIES)


def test_json_round_trip():
    for story in STORIES[:50]:
        assert Story.from_json(story.to_json()) == story


def test_events_lie_within_the_clip_and_never_overlap():
    for story in STORIES:
        busy = Counter(t for e in story.events for t in range(e.start_s, e.end_s))
        assert all(n == 1 for n in busy.values())
        assert all(0 <= t < story.duration_s for t in busy)


def test_things_never_share_a_place_even_after_sliding():
    for story in STORIES:
        for time_s in (0.0, story.duration_s):
            places = [story.place_at(i, time_s) for i in range(len(story.things))]
            if story.mark:
                places.append((story.mark.row, story.mark.column))
            assert len(set(places)) == len(places)


def test_a_slide_has_still_seconds_on_both_sides():
    slides = [(s, e) for s in STORIES for e in s.events if e.action == SLIDE]
    assert slides
    for story, event in slides:
        assert event.start_s >= 1
        assert event.end_s < story.duration_s
        before = story.place_at(event.thing, event.start_s)
        after = story.place_at(event.thing, event.end_s)
        assert sum(abs(a - b) for a, b in zip(before, after)) == 1


def _has_held_out(story: Story) -> bool:
    done = [(story.things[e.thing], e.action) for e in story.events]
    return any(is_held_out(t.colour, t.shape, a) for t, a in done)


def test_held_out_combinations_are_excluded_or_required():
    assert not any(_has_held_out(s) for s in STORIES)
    required = StorySettings(held_out="require")
    assert all(_has_held_out(sample_story(seed, required)) for seed in range(100))


def test_number_of_events_is_spread_evenly():
    counts = Counter(len(s.events) for s in STORIES)
    assert set(counts) == {1, 2, 3, 4}
    assert min(counts.values()) > 0.15 * len(STORIES)


@pytest.mark.parametrize("duration_s", [4, 60, 600])
def test_any_length(duration_s):
    settings = StorySettings(duration_s=duration_s, events=(1, 2))
    assert sample_story(3, settings).duration_s == duration_s


def test_mixed_lengths_are_equally_likely_and_their_events_fit():
    settings = StorySettings(duration_s=(4, 6, 8), events=(1, 4))
    stories = [sample_story(seed, settings) for seed in range(600)]
    lengths = Counter(s.duration_s for s in stories)
    assert set(lengths) == {4, 6, 8}
    assert min(lengths.values()) > 0.28 * len(stories)
    for story in stories:
        assert story == sample_story(story.seed, settings)
        assert 1 <= len(story.events) <= story.duration_s // 2
        times = [e.end_s for e in story.events] + [s.start_s + 1 for s in story.sounds]
        times += [line.start_s + 1.5 for line in story.lines]
        assert max(times) <= story.duration_s
    assert {len(s.events) for s in stories if s.duration_s == 8} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"duration_s": 2}, "duration_s"),
        ({"held_out": "maybe"}, "held_out"),
        ({"things": (0, 2)}, "things"),
        ({"events": (1, 9)}, "events"),
        ({"held_out": "require", "events": (0, 2)}, "held_out"),
        ({"duration_s": ()}, "empty list"),
        ({"duration_s": (4, 601)}, "not 601"),
        ({"duration_s": (4, 8), "events": (1, 5)}, "0 to 4"),
        ({"duration_s": (4, 8), "events": (3, 4)}, "3 events do not fit into 4 seconds"),
    ],
)
def test_impossible_settings_are_refused_by_name(wrong, named):
    with pytest.raises(UserError, match=named):
        StorySettings(**wrong)


# ---------------------------------------------------------------- live and dubbed sound


def test_every_action_has_a_sound_of_its_own():
    assert tuple(ACTION_SOUND) == (*ACTIONS,)
    assert sorted(ACTION_SOUND.values()) == sorted(SOUNDS)


def test_live_sounds_are_those_of_the_events_second_by_second():
    for story in LIVE:
        assert all(e.length_s == 1 for e in story.events)
        told = [(e.start_s, ACTION_SOUND[e.action]) for e in story.events]
        assert [(s.start_s, s.kind) for s in story.sounds] == told


def _agreement(stories) -> Counter:
    """Count, over the seconds with a sound, whether the action that is seen then makes it."""
    seen = [(s.kind, story.event_at(s.start_s)) for story in stories for s in story.sounds]
    return Counter(e is not None and ACTION_SOUND[e.action] == kind for kind, e in seen)


def test_sight_and_sound_agree_live_and_are_independent_dubbed():
    assert set(_agreement(LIVE)) == {True}
    dubbed = [sample_story(seed) for seed in range(2000)]
    seen = [(s.kind, story.event_at(s.start_s)) for story in dubbed for s in story.sounds]
    kinds = Counter(kind for kind, _ in seen)
    actions = Counter(e.action if e else None for _, e in seen)
    both = Counter((kind, e.action if e else None) for kind, e in seen)
    expected = {(k, a): kinds[k] * actions[a] / len(seen) for k in kinds for a in actions}
    squares = sum((both[cell] - wanted) ** 2 / wanted for cell, wanted in expected.items())
    assert squares < 52  # chi-square, (6 - 1) * (7 - 1) degrees of freedom, p = 0.007


def test_live_sound_leaves_the_default_stories_alone():
    """The same hash as before there was such an option."""
    lines = "\n".join(story.to_json() for story in STORIES)
    assert hashlib.sha256(lines.encode()).hexdigest() == HASH_OF_STORIES
    assert [s.things for s in STORIES] != [s.things for s in LIVE]


# ---------------------------------------------------------------- longer stories


def test_what_happens_grows_with_the_cube_root_of_the_length():
    events = {d: StorySettings.of_length(d).events for d in (4, 5, 8, 16, 32, 64, 600)}
    assert events == {
        **{4: (1, 2), 5: (1, 2), 8: (1, 4), 16: (1, 5)},
        **{32: (2, 6), 64: (2, 8), 600: (4, 12)},
    }
    sounds = [StorySettings.of_length(d).sounds for d in (8, 16, 64, 600)]
    assert sounds == [(0, 2), (0, 3), (0, 4), (0, 6)]
    assert StorySettings.of_length(64).lines == (0, 4)
    assert StorySettings.of_length(8) == StorySettings()
    mixed = (4, 6, 8)
    assert StorySettings.of_length(mixed, True) == StorySettings(mixed, live_sound=True)
    assert StorySettings.of_length((6, 64)).events == (1, 8)


@pytest.mark.parametrize("duration_s", [16, 32, 64, 600])
def test_long_stories_are_told_from_beginning_to_end(duration_s):
    settings = StorySettings.of_length(duration_s, live_sound=duration_s == 600)
    stories = [sample_story(seed, settings) for seed in range(60)]
    low, high = settings.events
    assert {len(s.events) for s in stories} >= {low + 1, min(high, 11)}
    starts = [e.start_s / duration_s for s in stories for e in s.events]
    for quarter in (0.0, 0.25, 0.5, 0.75):
        assert sum(quarter <= x < quarter + 0.25 for x in starts) > 0.15 * len(starts)
    for story in stories:
        busy = Counter(t for e in story.events for t in range(e.start_s, e.end_s))
        assert all(n == 1 and 0 <= t < duration_s for t, n in busy.items())
        assert all(s.start_s < duration_s for s in (*story.sounds, *story.lines))


def test_as_much_as_few_things_can_do_is_enough():
    """Two things have eleven events between them, of which one is a slide; asking for more ends."""
    settings = StorySettings(64, things=(2, 2), events=(12, 12))
    assert len(sample_story(1, settings).events) == 11


def test_more_sounds_than_there_are_kinds_are_refused():
    with pytest.raises(UserError, match="sounds must lie within 0 to 6"):
        StorySettings(sounds=(0, 7))
