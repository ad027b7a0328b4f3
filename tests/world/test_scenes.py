"""Films of several scenes: cut as they were joined, seen, heard and asked as one film."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from vlmcourse import cli
from vlmcourse.errors import UserError
from vlmcourse.world import language
from vlmcourse.world.dataset import SplitSettings, load_split, make_split, verify_split
from vlmcourse.world.files import subtitle_text
from vlmcourse.world.render import iter_frames, render_frame, render_frames
from vlmcourse.world.scenes import cut, join, scene_borders, scene_of
from vlmcourse.world.sound import render_sound
from vlmcourse.world.splits import SPLITS, sample_stories, scene_split
from vlmcourse.world.story import (
    Event,
    Line,
    Mark,
    Sound,
    Story,
    StorySettings,
    Thing,
    is_held_out,
)
from vlmcourse.world.words import vocabulary

RED = Story(
    seed=1,
    duration_s=4,
    things=(Thing("red", "circle", "big", 0, 0), Thing("blue", "star", "small", 1, 1)),
    events=(Event(1, 2, 0, "glows"),),
    sounds=(Sound(0, "bell"),),
    lines=(Line(2, 1, "anna"),),
    mark=Mark(7, 2, 2),
)
GREEN = Story(
    seed=2,
    duration_s=4,
    things=(Thing("green", "circle", "small", 2, 2), Thing("white", "moon", "big", 0, 1)),
    events=(Event(0, 1, 1, "tilts"), Event(2, 1, 0, "glows")),
    sounds=(Sound(1, "bell"), Sound(3, "drum")),
    lines=(Line(0, 0, "bob"),),
)
FILM = join([RED, GREEN])
FILMS = SplitSettings(story=StorySettings.of_length(24), scenes=(1, 2, 4))


def asked(story):
    return {q.text: q.answer for q in language.all_questions(story)}


def test_a_film_is_cut_where_it_was_joined():
    assert cut(FILM) == [(0, RED), (4, GREEN)]
    assert scene_borders(FILM) == [0, 4, 8]
    assert scene_of(FILM, [0.0, 3.9, 4.0, 7.5, 9.0]) == [0, 0, 1, 1, 1]
    assert cut(RED) == [(0, RED)]
    assert scene_borders(RED) == [0, 4]
    assert join([RED]) is RED
    assert Story.from_json(FILM.to_json()) == FILM
    assert "scenes" not in RED.to_json()


@pytest.mark.parametrize("stories", [[], [RED, RED], [FILM, GREEN]])
def test_only_whole_stories_of_other_things_are_joined(stories):
    with pytest.raises(ValueError, match="film"):
        join(stories)


def test_every_scene_looks_and_sounds_as_it_does_alone():
    for fps in (1, 4, 2.5):
        frames = render_frames(FILM, fps, 32, 32)
        times = (np.arange(len(frames)) + 0.5) / fps
        for frame, time_s in zip(frames, times, strict=True):
            story, start_s = (RED, 0) if time_s < 4 else (GREEN, 4)
            assert (frame == render_frame(story, time_s - start_s, 32, 32)).all()
            assert (frame == render_frame(FILM, time_s, 32, 32)).all()
    assert sum(1 for _ in iter_frames(FILM, 4)) == 32
    both = np.concatenate([render_sound(RED), render_sound(GREEN)])
    assert (render_sound(FILM) == both).all()
    assert "00:00:04,000 --> 00:00:05,500\ngreen circle is called bob" in subtitle_text(FILM)


def test_questions_are_true_of_the_whole_film():
    found = asked(FILM)
    assert found["what happens first ?"] == "red circle glows"
    assert found["what happens last ?"] == "green circle glows"
    assert found["when does white moon tilt ?"] == "4"
    assert found["what happens at 6 ?"] == "green circle glows"
    assert found["how many events are there ?"] == "3"
    assert found["is there green circle ?"] == found["is there red circle ?"] == "yes"
    assert found["what number is shown ?"] == "7"
    assert found["what shape is red thing ?"] == "circle"
    assert found["where is green circle ?"] == "bottom right"
    assert found["what is green circle called ?"] == "bob"
    assert found["does white moon tilt after red circle glows ?"] == "yes"


def test_what_two_scenes_would_answer_differently_is_not_asked():
    found = asked(FILM)
    assert "what colour is circle ?" not in found
    assert "what glows ?" not in found
    assert "when is bell heard ?" not in found
    assert "how many things are there ?" not in found
    assert "what number is shown ?" not in asked(join([RED, replace(GREEN, mark=Mark(3, 1, 0))]))
    texts = [q.text for q in language.all_questions(FILM)]
    first = language.all_questions(FILM)
    answers = {(q.text, q.answer) for q in first}
    assert len(answers) == len(set(texts))


def test_absent_things_are_shown_by_no_scene():
    mixed = replace(GREEN, things=(Thing("red", "star", "big", 0, 0), GREEN.things[1]))
    found = asked(join([RED, mixed]))
    assert found["is red star seen or drum heard ?"] == "both"
    assert found["is there red star ?"] == "yes"


def test_descriptions_tell_scene_after_scene():
    told = language.event_list(FILM)
    assert told == f"{language.event_list(RED)} {language.event_list(GREEN, 4)}"
    seconds = language.moments(FILM)
    assert [m.second for m in seconds] == list(range(8))
    assert seconds[5].seen == language.moments(GREEN)[1].seen
    assert "white moon" not in " ".join(seconds[3].seen)
    assert set(language.caption(FILM, "detailed").split()) <= set(vocabulary())


# ---------------------------------------------------------------- splits


def test_scenes_keep_to_their_split_and_its_combinations():
    for split in SPLITS:
        for film in FILMS.sample(split, 12):
            scenes = [story for _, story in cut(film)]
            assert film.duration_s == sum(s.duration_s for s in scenes) == 24
            assert {scene_split(s) for s in scenes} == {split}
            names = [t.name for t in film.things]
            assert len(set(names)) == len(names)
            for story in scenes:
                combinations = [
                    is_held_out(story.things[e.thing].colour, story.things[e.thing].shape, e.action)
                    for e in story.events
                ]
                assert any(combinations) == (split == "test")


def test_numbers_of_scenes_come_in_turn_and_more_films_only_add_some():
    films = FILMS.sample("test", 9)
    assert [max(1, len(film.scenes)) for film in films] == [1, 2, 4] * 3
    assert FILMS.sample("test", 4) == films[:4]
    others = {story.seed for story in sample_stories("test", 50)}
    assert not {story.seed for film in films for _, story in cut(film)} & others


def test_scenes_are_of_any_length():
    films = [film for film in FILMS.sample("val", 90) if len(film.scenes) == 2]
    first = Counter(scene_borders(film)[1] for film in films)
    assert min(first) <= 6
    assert max(first) >= 18
    assert max(first.values()) <= 8
    four = [cut(film) for film in FILMS.sample("val", 30) if len(film.scenes) == 4]
    lengths = [story.duration_s for parts in four for _, story in parts]
    assert min(lengths) == 4
    assert max(lengths) > 7


def test_a_guess_that_knows_the_number_of_scenes_stays_near_chance():
    films = FILMS.sample("test", 120)
    questions = FILMS.ask(films, seed=2)
    for number in (0, 2, 4):
        here = [q for f, some in zip(films, questions) if len(f.scenes) == number for q in some]
        counts, best = Counter(q.kind for q in here), language.blind_best(here)
        assert all(counts[kind] >= 30 for kind in ("where", "when", "before", "exists"))
        assert max(best[kind] for kind in ("before", "after", "exists")) <= 0.56
        assert best["where"] <= 0.16
        assert max(best[kind] for kind in ("first", "last")) <= 0.15


@pytest.mark.parametrize(
    ("scenes", "named"),
    [((7,), "7 scenes"), ((2, 9), "9 scenes"), ((0, 1), "0 scenes"), ((), "0 ")],
)
def test_impossible_numbers_of_scenes_are_refused(scenes, named):
    with pytest.raises(UserError, match=named):
        SplitSettings(story=StorySettings.of_length(24), scenes=scenes)


def test_the_command_makes_films_of_scenes_and_keeps_them(tmp_path):
    few = ["world", "--split", "test", "--count", "3", "--size", "32x32", "--fps", "1"]
    few += ["--workers", "1", "--root", str(tmp_path)]
    assert cli.main([*few, "--scenes", "4,1,2"]) == 0
    made = load_split(tmp_path / "test")
    assert made.manifest["settings"]["scenes"] == [1, 2, 4]
    assert [len(scene_borders(story)) - 1 for story in made.stories] == [1, 2, 4]
    assert {story.duration_s for story in made.stories} == {24}
    assert verify_split(made.folder) == {}
    settings = replace(FILMS, width=32, height=32, fps=1.0)
    again = make_split(tmp_path, "test", 3, settings, workers=1, progress=False)
    assert again.stories == settings.sample("test", 3)
    with pytest.raises(UserError, match="scenes"):
        make_split(tmp_path, "test", 3, replace(settings, scenes=None), progress=False)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--scenes", "1;2"], "--scenes must look like 1,2,4"),
        (["--scenes", "1,7"], "24 seconds cannot be cut into 7 scenes"),
        (["--scenes", "2", "--durations", "8,16"], "one length"),
        (["--pictures", "--scenes", "2"], "--scenes cannot be had with --pictures"),
    ],
)
def test_wrong_scenes_are_one_line(tmp_path, capsys, arguments, reason):
    assert cli.main(["world", "--root", str(tmp_path), *arguments]) == 2
    assert reason in capsys.readouterr().err
