"""Questions are answerable, exact and balanced."""

import re
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from vlmcourse.world.language import (
    CAPTION_REQUESTS,
    FAMILIES,
    KIND_FAMILY,
    all_questions,
    balanced_questions,
    blind_best,
    caption,
    event_list,
    moments,
    storyboard,
)
from vlmcourse.world.splits import sample_stories
from vlmcourse.world.story import (
    Event,
    Line,
    Mark,
    Sound,
    Story,
    StorySettings,
    Thing,
    sample_story,
)
from vlmcourse.world.words import vocabulary

STORY = Story(
    seed=0,
    duration_s=8,
    things=(Thing("red", "circle", "big", 0, 0), Thing("blue", "star", "small", 1, 1)),
    events=(Event(1, 2, 0, "glows"), Event(5, 1, 1, "slides", "right")),
    sounds=(Sound(3, "bell"),),
    lines=(Line(2, 1, "anna"),),
    mark=Mark(7, 2, 2),
)
ANSWERS = {
    "what colour is circle ?": "red",
    "what shape is blue thing ?": "star",
    "what size is red circle ?": "big",
    "where is red circle ?": "top left",
    "how many things are there ?": "2",
    "what number is shown ?": "7",
    "is there red circle ?": "yes",
    "is there red star ?": "no",
    "what does red circle do ?": "glows",
    "what slides ?": "blue star",
    "when does red circle glow ?": "1",
    "how long does red circle glow ?": "2",
    "which way does blue star slide ?": "right",
    "what happens at 2 ?": "red circle glows",
    "what happens at 4 ?": "nothing",
    "how many events are there ?": "2",
    "what happens first ?": "red circle glows",
    "what happens last ?": "blue star slides",
    "does red circle glow before blue star slides ?": "yes",
    "does red circle glow after blue star slides ?": "no",
    "is bell heard ?": "yes",
    "is drum heard ?": "no",
    "when is bell heard ?": "3",
    "what sound is first ?": "bell",
    "what is blue star called ?": "anna",
    "is red circle seen or bell heard ?": "both",
    "is red circle seen or drum heard ?": "seen",
    "is blue circle seen or bell heard ?": "heard",
    "is red star seen or drum heard ?": "nothing",
    "what happens when bell heard ?": "nothing",
    "is bell heard before red circle glows ?": "no",
    "is bell heard before blue star slides ?": "yes",
}


@pytest.mark.parametrize("text", ANSWERS)
def test_answers_of_a_story_written_by_hand(text):
    found = {q.text: q.answer for q in all_questions(STORY)}
    assert found[text] == ANSWERS[text]


def test_a_question_never_has_two_answers():
    for seed in range(100):
        found = defaultdict(set)
        for q in all_questions(sample_story(seed)):
            found[q.text].add(q.answer)
        assert all(len(answers) == 1 for answers in found.values())


def test_a_moved_thing_is_not_asked_for_its_place():
    assert "where is blue star ?" not in {q.text for q in all_questions(STORY)}


def test_a_slide_is_not_asked_for_its_length():
    """It is always the same, so nobody would have to look."""
    assert "how long does blue star slide ?" not in {q.text for q in all_questions(STORY)}


def test_descriptions():
    assert event_list(STORY).startswith("scene : big red circle top left , small blue star centre")
    assert "at 1 red circle glows for 2 ." in event_list(STORY)
    assert "at 55 blue star slides right for 1 ." in event_list(STORY, offset_s=50)
    seen = [m.seen[1] for m in moments(STORY)]
    assert seen[4] == "small blue star centre middle"
    assert seen[5] == "small blue star centre middle slides"
    assert seen[6] == "small blue star centre right"
    assert storyboard(STORY).count("big red circle top left glows") == 2


def test_a_single_moment_does_not_tell_the_direction():
    """Only the seconds around a slide do: that is what makes direction a question of time."""
    text = " ".join(m.seen[1] for m in moments(STORY)[:6])
    assert not re.search(r"\bright\b", text)


def in_words(story, second):
    """Say what happens in a second, from the story's events alone."""
    for e in story.events:
        if second in range(e.start_s, e.start_s + e.length_s):
            thing = story.things[e.thing]
            return f"{thing.colour} {thing.shape} {e.action}"
    return "nothing"


def answer_by_brute_force(story, text):
    """Answer a question about sound from a table of what is seen and heard in every second."""
    seconds = range(story.duration_s)
    seen = [in_words(story, t) for t in seconds]
    heard = [{s.kind for s in story.sounds if s.start_s == t} for t in seconds]
    if match := re.fullmatch(r"is (\w+ \w+) seen or (\w+) heard \?", text):
        there = match[1] in {f"{t.colour} {t.shape}" for t in story.things}
        sounds = any(match[2] in kinds for kinds in heard)
        return ("nothing", "heard", "seen", "both")[2 * there + sounds]
    when = [t for t in seconds for word in text.split() if word in heard[t]]
    assert len(when) == 1, f"{text}: asked of a sound that is not heard exactly once"
    if text.startswith("what happens when"):
        return seen[when[0]]
    if match := re.fullmatch(r"is \w+ heard before (.*) \?", text):
        acting = [t for t in seconds if seen[t] == match[1]]
        assert acting, f"{text}: this never happens"
        assert when[0] not in acting, f"{text}: at the same time is neither before nor after"
        return "yes" if when[0] < min(acting) else "no"
    assert text == f"when is {text.split()[2]} heard ?"
    return str(when[0])


MANY_SOUNDS = {
    "dubbed": StorySettings(sounds=(0, 4)),
    "live": StorySettings(live_sound=True),
    "long": StorySettings(duration_s=16, sounds=(0, 6), events=(1, 8)),
    "mixed": StorySettings(duration_s=(4, 6, 8), sounds=(0, 4)),
}


@pytest.mark.parametrize("settings", MANY_SOUNDS.values(), ids=list(MANY_SOUNDS))
def test_questions_of_sound_and_picture_are_exact(settings):
    kinds = ("seen_heard", "during", "sound_before", "sound_when")
    counted = Counter()
    for seed in range(200):
        story = sample_story(seed, settings)
        for q in all_questions(story):
            if q.kind in kinds:
                assert q.answer == answer_by_brute_force(story, q.text), (seed, q)
                counted[q.kind] += 1
    assert min(counted[kind] for kind in kinds) > 100


def test_a_sound_that_comes_twice_is_not_asked_for_its_moment():
    story = replace(STORY, sounds=(Sound(3, "bell"), Sound(4, "drum"), Sound(6, "bell")))
    asked = [q for q in all_questions(story) if q.kind in ("sound_when", "during", "sound_before")]
    assert {q.kind for q in asked} == {"sound_when", "during", "sound_before"}
    assert not [q for q in asked if "bell" in q.text]
    assert caption(story, "heard") == "bell at 3 , drum at 4 , bell at 6"


def test_an_absent_thing_is_made_of_present_ones():
    """Otherwise one word of the question would tell that it is not there."""
    for seed in range(50):
        story = sample_story(seed)
        words = {w for t in story.things for w in (t.colour, t.shape)}
        for q in all_questions(story):
            if q.kind == "seen_heard":
                assert set(q.text.split()[1:3]) <= words


def test_neither_picture_nor_sound_alone_answers_seen_heard():
    """Given one of the two senses whole, half of the balanced answers stay open."""
    stories = [sample_story(seed) for seed in range(600)]
    asked = [q for qs in balanced_questions(stories, 2) for q in qs if q.kind == "seen_heard"]
    answers = Counter(q.answer for q in asked)
    for sense in (("seen", "both"), ("heard", "both")):  # what this sense confirms
        known = sum(answers[a] for a in sense)
        assert max(answers[a] for a in sense) < 0.53 * known
        assert max(answers[a] for a in set(answers) - {*sense}) < 0.53 * (len(asked) - known)


def test_captions():
    assert caption(STORY, "short") == "red circle , blue star"
    assert "red circle glows" in caption(STORY, "detailed")
    assert caption(STORY, "timed").startswith("at 1 red circle glows for 2")
    assert caption(STORY, "timed", 40).startswith("at 41 red circle glows for 2")
    assert caption(STORY, "heard") == "bell at 3"
    assert caption(STORY, "heard", 40) == "bell at 43"
    assert caption(replace(STORY, sounds=()), "heard") == "nothing"
    with pytest.raises(ValueError, match="style"):
        caption(STORY, "rhymed")


def test_every_word_is_in_the_vocabulary():
    known = set(vocabulary())
    for seed in range(200):
        story = sample_story(seed, StorySettings(duration_s=16))
        texts = [event_list(story, 40), storyboard(story), *CAPTION_REQUESTS.values()]
        texts += [caption(story, style, 40) for style in CAPTION_REQUESTS]
        texts += [f"{q.text} {q.answer}" for q in all_questions(story, 40)]
        assert set(" ".join(texts).split()) <= known


@pytest.mark.parametrize("duration_s", [16, 32, 64])
def test_long_films_are_asked_evenly_in_words_that_are_known(duration_s):
    """As the test splits on which it is measured what longer films do to a system."""
    stories = sample_stories("test", 100, StorySettings.of_length(duration_s))
    questions = [q for asked in balanced_questions(stories, seed=2) for q in asked]
    known = set(vocabulary())
    assert {w for q in questions for w in f"{q.text} {q.answer}".split()} <= known
    asked, shares = Counter(q.kind for q in questions), blind_best(questions)
    for kind in ("where", "when", "at", "before", "after", "first", "last"):
        assert asked[kind] >= 80, kind
    assert max(shares[kind] for kind in ("before", "after", "exists")) <= 0.52
    assert shares["where"] < 0.14
    assert max(shares[kind] for kind in ("when", "at", "first", "last")) < 0.09
    seconds = [int(q.answer) for q in questions if q.kind == "when"]
    assert min(seconds) < duration_s / 8
    assert max(seconds) >= duration_s - 4


@pytest.mark.parametrize("duration_s", [65, 128, 512])
def test_no_second_is_asked_for_that_has_no_word(duration_s):
    stories = sample_stories("test", 20, StorySettings.of_length(duration_s))
    known = set(vocabulary())
    asked = [q for story in stories for q in all_questions(story)]
    assert {w for q in asked for w in f"{q.text} {q.answer}".split()} <= known
    seconds = {int(q.text.split()[-2]) for q in asked if q.kind == "at"}
    assert seconds == set(range(64))
    starts = [e.start_s for story in stories for e in story.events]
    assert sum(q.kind == "when" for q in asked) == sum(start < 64 for start in starts)
    assert max(starts) >= 64 or duration_s == 65
    assert sum(q.kind == "recall" for q in asked) >= 10
    late = all_questions(replace(stories[0], duration_s=8, events=(), sounds=()), 60)
    assert {q.text for q in late if q.kind == "at"} == {
        f"what happens at {s} ?" for s in (60, 61, 62, 63)
    }


def test_times_of_a_long_film_are_told_where_all_have_words():
    from vlmcourse.world.conversations import caption_entries

    early = replace(STORY, duration_s=100)
    late = replace(early, events=(Event(64, 2, 0, "glows"),), sounds=(Sound(70, "bell"),))
    styles = [[e["kind"] for e in caption_entries(["x"], [story])] for story in (early, late)]
    assert styles == [["short", "detailed", "timed", "heard"], ["short", "detailed"]]


def test_a_picture_is_asked_what_it_answers_and_nothing_else():
    story = replace(STORY, duration_s=1, events=(Event(0, 1, 0, "glows"),), sounds=(), lines=())
    found = {q.text: q.answer for q in all_questions(story)}
    for text in list(ANSWERS)[:9]:
        assert found.pop(text) == ANSWERS[text]
    assert found.pop("what glows ?") == "red circle"
    rest = re.compile(r"(what (colour|shape|size) is|where is|is there) [a-z ]+\?")
    assert all(rest.fullmatch(text) for text in found)
    assert found["where is blue star ?"] == "centre middle"


def test_families_and_kinds_are_complete():
    long = [sample_story(seed, StorySettings(duration_s=16)) for seed in range(300)]
    asked = [q for s in long for q in all_questions(s)]
    assert {q.family for q in asked} == set(FAMILIES)
    assert {q.kind for q in asked} == set(KIND_FAMILY)
    assert all(q.family == KIND_FAMILY[q.kind] for q in asked)
    assert {q.evidence for q in asked if q.family == "picture_sound"} == {"picture+sound"}


@pytest.mark.parametrize("settings", [StorySettings(), *MANY_SOUNDS.values()])
def test_best_blind_guess_stays_at_chance(settings):
    """The share of the commonest answer of each kind, against one over the number of answers."""
    chosen = balanced_questions([sample_story(seed, settings) for seed in range(1000)], seed=0)
    questions = [q for asked in chosen for q in asked]
    answers = defaultdict(set)
    for q in questions:
        answers[q.kind].add(q.answer)
    for kind, share in blind_best(questions).items():
        assert share <= 1.2 / len(answers[kind]) + 0.03, f"{kind}: best blind guess {share:.2f}"
    assert all(max(Counter(q.kind for q in asked).values()) == 1 for asked in chosen)


def test_yes_and_no_do_not_follow_from_the_words():
    """A guesser that sees the question but no clip must not do better on yes/no questions."""
    train, test = (
        [
            q
            for asked in balanced_questions([sample_story(s) for s in seeds], seed=1)
            for q in asked
            if q.kind in ("exists", "before", "after", "heard", "sound_before")
        ]
        for seeds in (range(1500), range(5000, 6000))
    )
    votes = defaultdict(Counter)
    for q in train:
        for word in q.text.split():
            votes[q.kind, word][q.answer] += 1

    def guess(q):
        shares = [
            (votes[q.kind, w]["yes"] + 1) / (sum(votes[q.kind, w].values()) + 2)
            for w in q.text.split()
        ]
        return "yes" if sum(shares) / len(shares) > 0.5 else "no"

    right = sum(guess(q) == q.answer for q in test) / len(test)
    assert right < 0.56


def test_per_story_limits_and_repeats_exactly():
    stories = [sample_story(seed) for seed in range(50)]
    chosen = balanced_questions(stories, seed=3, per_story=5)
    assert all(len(asked) == 5 for asked in chosen)
    assert chosen == balanced_questions(stories, seed=3, per_story=5)
