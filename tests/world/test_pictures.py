"""Pictures: moments as films show them, drawn at their own size, asked what they tell."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlmcourse.errors import UserError
from vlmcourse.training.instruction_data import read_llava_json
from vlmcourse.world import language, pictures
from vlmcourse.world.dataset import (
    PictureSettings,
    SplitSettings,
    load_split,
    make_split,
    verify_split,
)
from vlmcourse.world.pictures import moment, sample_moment
from vlmcourse.world.render import DIGITS, digit_mask, render_frame
from vlmcourse.world.splits import SPLITS, sample_stories, scene_split
from vlmcourse.world.story import (
    FRAME_ACTIONS,
    SLIDE,
    Event,
    Story,
    StorySettings,
    Thing,
    is_held_out,
    sample_story,
)

SMALL = PictureSettings(width=32, height=32)
STORIES = {split: PictureSettings().sample(split, 300) for split in SPLITS}
KINDS = {"colour", "shape", "size", "where", "count", "number", "exists", "does", "which"}


def make(root, split="train", count=10, settings=SMALL, **more):
    return make_split(root, split, count, settings, **{"workers": 1, "progress": False} | more)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def written(folder):
    return {p.name: p.stat().st_mtime_ns for p in (Path(folder) / "clips").iterdir()}


# ---------------------------------------------------------------- which moments


def test_a_moment_shows_what_the_film_shows_then():
    """To the pixel, also after something has moved."""
    moved = acting = 0
    for seed in range(60):
        story = sample_story(seed)
        for second in range(0, story.duration_s, 2):
            now = story.event_at(second)
            if now is not None and now.action == SLIDE:
                continue
            shown = moment(story, second)
            film = render_frame(story, second + 0.5, 48, 48)
            assert np.array_equal(render_frame(shown, 0.5, 48, 48), film)
            moved += shown.things != story.things
            acting += bool(shown.events)
    assert moved > 10
    assert acting > 30


def test_a_moment_within_a_slide_is_refused():
    things = (Thing("red", "star", "big", 1, 1),)
    story = Story(3, 4, things, (Event(1, 1, 0, SLIDE, "left"),))
    with pytest.raises(ValueError, match="slide"):
        moment(story, 1)
    assert moment(story, 2).things == (replace(things[0], column=0),)
    assert moment(story, 0).things == things


def test_two_of_three_pictures_show_an_action_of_any_kind():
    for split, stories in STORIES.items():
        acts = Counter(e.action for s in stories for e in s.events)
        assert set(acts) == set(FRAME_ACTIONS)
        assert 0.58 < sum(acts.values()) / len(stories) < 0.75, split
        assert max(len(s.events) for s in stories) == 1
    for share, wanted in ((0.0, {0}), (1.0, {1})):
        found = [sample_moment(seed, acting=share) for seed in range(40)]
        assert {len(s.events) for s in found if s} == wanted


def test_actions_of_the_test_split_are_held_out_and_no_others():
    for split, stories in STORIES.items():
        done = [(s.things[e.thing], e.action) for s in stories for e in s.events]
        assert {is_held_out(t.colour, t.shape, a) for t, a in done} == {split == "test"}


def test_pictures_share_no_seed_with_films_and_no_scene_with_another_split():
    seeds = {split: {s.seed for s in stories} for split, stories in STORIES.items()}
    films = {s.seed for split in SPLITS for s in sample_stories(split, 300)}
    assert len(set.union(films, *seeds.values())) == len(films) + 3 * 300
    for split, stories in STORIES.items():
        assert all(scene_split(s) == split for s in stories)


def test_the_same_wish_gives_the_same_moments_and_a_larger_one_adds_to_them():
    assert PictureSettings().sample("val", 40) == STORIES["val"][:40]


# ---------------------------------------------------------------- what is asked


def test_only_questions_that_one_picture_answers():
    for stories in STORIES.values():
        asked = [q for s in stories for q in language.all_questions(s)]
        assert {q.kind for q in asked} == KINDS
        assert {q.evidence for q in asked} == {"picture"}


def test_places_and_actions_are_those_of_the_moment():
    for story in STORIES["train"]:
        found = {q.text: q.answer for q in language.all_questions(story)}
        for t in story.things:
            assert found[f"where is {t.name} ?"] == language.place_words(t.row, t.column)
        acts = [answer for text, answer in found.items() if text.startswith("what does")]
        assert acts == [e.action for e in story.events]
        assert found["how many things are there ?"] == str(len(story.things))


@pytest.mark.parametrize("split", SPLITS)
def test_best_blind_guess_stays_at_chance(split):
    stories = PictureSettings().sample(split, 600)
    questions = [q for asked in language.balanced_questions(stories, seed=0) for q in asked]
    answers = defaultdict(set)
    for q in questions:
        answers[q.kind].add(q.answer)
    assert set(answers) == KINDS
    for kind, share in language.blind_best(questions).items():
        assert share <= 1.2 / len(answers[kind]) + 0.03, f"{kind}: best blind guess {share:.2f}"


def test_the_words_of_a_question_do_not_tell_what_exists_or_acts():
    """A guesser that knows the answers of the training split by word, and sees no picture."""
    asked = {
        split: [
            q
            for some in language.balanced_questions(PictureSettings().sample(split, 600), 0)
            for q in some
            if q.kind in ("exists", "does")
        ]
        for split in ("train", "val")
    }
    votes = defaultdict(Counter)
    for q in asked["train"]:
        for word in q.text.split():
            votes[q.kind, word][q.answer] += 1
    right = defaultdict(list)
    for q in asked["val"]:
        shares = Counter()
        for word in q.text.split():
            known = votes[q.kind, word]
            shares.update({a: n / sum(known.values()) for a, n in known.items()})
        right[q.kind].append(max(shares, key=shares.get) == q.answer)
    assert np.mean(right["exists"]) < 0.56
    assert (
        np.mean(right["does"]) < 0.35
    )  # a fifth by chance; combinations that are held out tell a bit


# ---------------------------------------------------------------- what is on disk


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make(tmp_path_factory.mktemp("pictures"), "val", 12, PictureSettings())


def test_pictures_are_drawn_at_their_size(world):
    assert [clip.name for clip in world.clips] == [f"val_{i:05d}.png" for i in range(12)]
    for clip, story in zip(world.clips, world.stories, strict=True):
        assert np.array_equal(pixels(clip), render_frame(story, 0.5, 96, 96))
    assert world.stories == STORIES["val"][:12]
    assert world.questions == language.balanced_questions(world.stories, seed=1)


@pytest.mark.parametrize("digit", range(10))
def test_every_bit_of_a_digit_is_legible_at_96_pixels_and_not_at_32(digit):
    bits = np.array([[row >> (4 - c) & 1 for c in range(5)] for row in DIGITS[digit]])

    def read(unit):
        mask = np.asarray(digit_mask(digit, unit)) / 255
        rows = ((np.arange(7) + 0.5) * mask.shape[0] / 7).astype(int)
        columns = ((np.arange(5) + 0.5) * mask.shape[1] / 5).astype(int)
        return np.abs(mask[rows][:, columns] - bits).max()

    assert read(1.5) < 0.4
    assert read(0.5) > 0.5


def test_the_general_reader_reads_pictures(world):
    samples = read_llava_json(world.folder / "conversations.json", world.folder / "clips")
    asked = [(clip, q) for clip, qs in zip(world.clips, world.questions) for q in qs]
    assert len(samples) == len(asked)
    for sample, (clip, question) in zip(samples, asked, strict=True):
        assert (sample.video, sample.medium) == (clip, "picture")
        assert sample.turns[0][1] == f"<image>\n{question.text}"
        assert sample.plain_turns == (("user", question.text), ("assistant", question.answer))
        assert (sample.kind, sample.evidence) == (question.kind, "picture")


def test_captions_are_short_or_detailed_and_tell_the_moment(world):
    samples = read_llava_json(world.folder / "captions.json", world.folder / "clips")
    assert [s.kind for s in samples] == ["short", "detailed"] * 12
    assert {s.evidence for s in samples} == {"picture"}
    acting = next(i for i, story in enumerate(world.stories) if story.events)
    story = world.stories[acting]
    told = samples[2 * acting + 1].plain_turns[1][1]
    assert told == language.caption(story, "detailed")
    assert told.endswith(f" . {language.event_words(story, story.events[0])}")


def test_two_processes_make_the_same_files(world, tmp_path):
    made = make(tmp_path, "val", 130, workers=2)
    alone = make(tmp_path / "alone", "val", 130)
    assert made.data_checksum == alone.data_checksum
    assert verify_split(made.folder) == {}


def test_damage_is_found_and_only_it_is_mended(tmp_path):
    first = make(tmp_path)
    before = written(first.folder)
    first.clips[2].write_bytes(b"no picture")
    first.clips[5].unlink()
    assert verify_split(first.folder) == {
        f"clips/{first.clips[2].name}": "changed",
        f"clips/{first.clips[5].name}": "missing",
    }
    again = make(tmp_path)
    assert again.data_checksum == first.data_checksum
    after = written(again.folder)
    assert {n for n in before if before[n] != after[n]} == {first.clips[i].name for i in (2, 5)}
    assert make(tmp_path, count=14).stories[:10] == first.stories


def test_pictures_and_films_never_mix_in_a_folder(tmp_path):
    first = make(tmp_path, count=3)
    films = SplitSettings(StorySettings(duration_s=4, events=(1, 2)), 2, 32, 32)
    with pytest.raises(UserError, match=r"medium image -> video.*--force"):
        make(tmp_path, count=3, settings=films)
    with pytest.raises(UserError, match="width 32 -> 48"):
        make(tmp_path, count=3, settings=replace(SMALL, width=48))
    assert make(tmp_path, count=3).data_checksum == first.data_checksum
    made = make(tmp_path, count=3, settings=films, force=True)
    assert {p.suffix for p in (made.folder / "clips").iterdir()} <= {".mp4", ".srt"}
    assert [clip.suffix for clip in load_split(made.folder).clips] == [".mp4"] * 3


def test_another_look_makes_pictures_anew_and_other_words_only_words(tmp_path, monkeypatch):
    first = make(tmp_path, count=3)
    before, now = written(first.folder), SMALL.made_by()
    monkeypatch.setattr(language, "place_words", lambda row, column: "somewhere")
    assert SMALL.made_by()["clips_made_by"] == now["clips_made_by"]
    again = make(tmp_path, count=3)
    assert written(again.folder) == before
    assert again.data_checksum != first.data_checksum
    monkeypatch.setattr(pictures, "render_frame", lambda *_: np.zeros((32, 32, 3), np.uint8))
    assert pixels(make(tmp_path, count=3).clips[0]).max() == 0


@pytest.mark.parametrize(
    ("wrong", "named"), [({"height": 15}, "96x15"), ({"acting": 1.5}, "acting must be 0 to 1")]
)
def test_impossible_settings_are_refused_by_name(wrong, named):
    with pytest.raises(UserError, match=named):
        PictureSettings(**wrong)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals")
def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    count = 320
    arguments = f"--pictures --split val --count {count} --size 32x32 --workers 1 --root {tmp_path}"
    command = [sys.executable, "-m", "vlmcourse.cli", "world", *arguments.split()]
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    folder, journal = tmp_path / "val", tmp_path / "val" / "progress.jsonl"
    until = time.monotonic() + 60
    while not journal.exists() or journal.read_text().count("\n") < 3:
        assert time.monotonic() < until
        assert run.poll() is None
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    run.wait()
    with pytest.raises(UserError, match="no such file"):
        load_split(folder)
    (folder / "clips" / "val_00319.png.123.part").write_bytes(b"half a picture")
    before = written(folder)
    resumed = make(tmp_path, "val", count)
    after = written(folder)
    assert sum(before[name] == after.get(name) for name in before) >= 128
    assert not list(folder.glob("clips/*.part"))
    assert not journal.exists()
    assert verify_split(folder) == {}
    assert resumed.data_checksum == make(tmp_path / "whole", "val", count).data_checksum
