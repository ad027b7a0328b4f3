"""Questions are answerable, exact and balanced."""

import re
from collections import Counter, defaultdict

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
    vocabulary,
)
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


def test_captions():
    assert caption(STORY, "short") == "red circle , blue star"
    assert "red circle glows" in caption(STORY, "detailed")
    assert caption(STORY, "timed").startswith("at 1 red circle glows for 2")
    with pytest.raises(ValueError, match="style"):
        caption(STORY, "rhymed")


def test_every_word_is_in_the_vocabulary():
    known = set(vocabulary())
    for seed in range(200):
        story = sample_story(seed, StorySettings(duration_s=16))
        texts = [event_list(story, 40), storyboard(story), *CAPTION_REQUESTS.values()]
        texts += [caption(story, style) for style in CAPTION_REQUESTS]
        texts += [f"{q.text} {q.answer}" for q in all_questions(story, 40)]
        assert set(" ".join(texts).split()) <= known


def test_families_and_kinds_are_complete():
    long = [sample_story(seed, StorySettings(duration_s=16)) for seed in range(300)]
    asked = [q for s in long for q in all_questions(s)]
    assert {q.family for q in asked} == set(FAMILIES)
    assert {q.kind for q in asked} == set(KIND_FAMILY)
    assert all(q.family == KIND_FAMILY[q.kind] for q in asked)


def test_best_blind_guess_stays_at_chance():
    """The share of the commonest answer of each kind, against one over the number of answers."""
    chosen = balanced_questions([sample_story(seed) for seed in range(1000)], seed=0)
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
            if q.kind in ("exists", "before", "after", "heard")
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
