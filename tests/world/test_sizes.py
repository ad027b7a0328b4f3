"""Pictures of many sizes: drawn at their own size, told by the manifest, asked evenly."""

import json
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vlmcourse.errors import UserError
from vlmcourse.training.instruction_data import read_llava_json
from vlmcourse.world import balance, language
from vlmcourse.world.dataset import PictureSettings, load_split, make_split, verify_split
from vlmcourse.world.pictures import MANY_SIZES
from vlmcourse.world.render import PITCH, digit_mask, render_frame
from vlmcourse.world.story import Story, StorySettings, Thing

MARKED = StorySettings(mark_probability=1.0)
MANY = PictureSettings(MARKED, sizes=MANY_SIZES)
FEW = PictureSettings(MARKED, sizes=((32, 32), (96, 32), (24, 56)))
STORIES = MANY.sample("train", 600)


def make(root, split="val", count=12, settings=FEW, **more):
    return make_split(root, split, count, settings, **{"workers": 1, "progress": False} | more)


def test_every_picture_is_drawn_at_the_size_that_its_seed_draws(tmp_path):
    made = make(tmp_path, settings=MANY)
    assert made.sizes == [MANY.size_of(story) for story in made.stories]
    assert len(set(made.sizes)) > 4
    for clip, story, size in zip(made.clips, made.stories, made.sizes, strict=True):
        with Image.open(clip) as picture:
            assert picture.size == size
            assert np.array_equal(np.asarray(picture), render_frame(story, 0.5, *size))
    assert make(tmp_path, count=16, settings=MANY).sizes[:12] == made.sizes


def test_all_sizes_are_as_likely_and_the_scenes_those_of_one_size():
    counts = Counter(map(MANY.size_of, STORIES))
    assert set(counts) == set(MANY_SIZES)
    assert max(counts.values()) < 2 * min(counts.values())
    alone = PictureSettings().sample("train", 100)
    assert [s.things for s in STORIES[:100]] == [s.things for s in alone]
    assert [s.events for s in STORIES[:100]] == [s.events for s in alone]
    assert all(story.mark for story in STORIES)


def test_the_manifest_tells_the_sizes(tmp_path):
    made = make(tmp_path)
    assert made.manifest["settings"]["sizes"] == [[32, 32], [96, 32], [24, 56]]
    assert not {"width", "height"} & made.manifest["settings"].keys()
    assert list(made.manifest["sizes"]) == made.ids
    told = {tuple(map(int, size.split("x"))) for size in made.manifest["sizes"].values()}
    assert told <= set(FEW.sizes)
    one = make(tmp_path / "one", settings=PictureSettings(width=32, height=32))
    assert one.sizes is None
    assert list(one.manifest["settings"]) == ["story", "width", "height", "acting"]
    assert "sizes" not in one.manifest


def test_what_is_there_is_used_again_and_never_mixed_with_other_sizes(tmp_path):
    made = make(tmp_path)
    before = {clip: clip.stat().st_mtime_ns for clip in made.clips}
    made.clips[3].unlink()
    assert make(tmp_path).data_checksum == made.data_checksum
    changed = [clip for clip in made.clips if clip.stat().st_mtime_ns != before[clip]]
    assert changed == [made.clips[3]]
    assert verify_split(made.folder) == {}
    with pytest.raises(UserError, match=r"sizes \[\[32, 32\], .* -> \[\[32, 32\]\]"):
        make(tmp_path, settings=replace(FEW, sizes=((32, 32),)))
    with pytest.raises(UserError, match=r"sizes \[\[32, 32\], .* -> None; width 96 -> 32"):
        make(tmp_path, settings=PictureSettings(MARKED, 32, 32))
    make(tmp_path / "one", settings=PictureSettings(MARKED, 32, 32))
    with pytest.raises(UserError, match=r"sizes None -> .*width 32 -> None"):
        make(tmp_path / "one")
    assert load_split(made.folder).sizes == made.sizes


def test_the_fingerprint_follows_how_questions_are_evened(monkeypatch):
    before = FEW.made_by()
    assert before["words_made_by"] != PictureSettings().made_by()["words_made_by"]
    monkeypatch.setattr(balance, "_least_used", lambda candidates, *_: (candidates or [None])[0])
    after = FEW.made_by()
    assert after["clips_made_by"] == before["clips_made_by"]
    assert after["words_made_by"] != before["words_made_by"]


def test_the_general_reader_reads_them(tmp_path):
    made = make(tmp_path)
    samples = read_llava_json(made.folder / "conversations.json", made.folder / "clips")
    assert len(samples) == sum(map(len, made.questions)) > 50
    assert {sample.medium for sample in samples} == {"picture"}
    entry = json.loads((made.folder / "captions.json").read_text())[1]
    assert "number" in entry["conversations"][1]["value"]


@pytest.mark.parametrize("size", MANY_SIZES)
def test_nine_places_fit_without_touching_at_every_size(size):
    """A picture of one thing at each place: nine separate blobs, none cut off by the border."""
    width, height = size
    seen = np.zeros((height, width), dtype=int)
    for place in range(9):
        thing = Thing("yellow", "square", "big", place // 3, place % 3)
        frame = render_frame(Story(7, 1, (thing,), ()), 0.5, width, height)
        body = (frame[..., 0] > 150) & (frame[..., 2] < 110)
        rows, columns = np.nonzero(body)
        unit = min(size) / 64
        side = 2 * 0.9 * 8.2 * unit
        assert abs(np.ptp(columns) + 1 - side) <= 2, "not stretched, whatever the frame's shape"
        assert abs(np.ptp(rows) + 1 - side) <= 2
        x, y = (0.5 + (place % 3 - 1) * PITCH) * width, (0.5 + (place // 3 - 1) * PITCH) * height
        assert abs(columns.mean() - x) <= 2 * unit + 1
        assert abs(rows.mean() - y) <= 2 * unit + 1
        seen += body
    assert seen.max() == 1


def test_a_digit_grows_with_the_shorter_side():
    height = {size: np.asarray(digit_mask(8, min(size) / 64)).shape[0] for size in MANY_SIZES}
    assert height[32, 32] < 5 <= height[48, 128]
    assert min(height[size] for size in MANY_SIZES if min(size) >= 64) == 7
    assert {max(size) / min(size) for size in MANY_SIZES} >= {1.0, 3.0}
    assert all(side % 16 == 0 for size in MANY_SIZES for side in size)


# ---------------------------------------------------------------- even answers


def test_a_guess_that_knows_the_size_stays_near_chance():
    asked = MANY.ask(STORIES, seed=0)
    by_size, answers = defaultdict(list), defaultdict(set)
    for story, questions in zip(STORIES, asked, strict=True):
        by_size[MANY.size_of(story)] += questions
        by_size[None] += questions
    for question in by_size[None]:
        answers[question.kind].add(question.answer)
    assert len(answers) == 9
    for size, questions in by_size.items():
        for kind, share in language.blind_best(questions).items():
            limit = 1.2 / len(answers[kind]) + (0.01 if size is None else 0.1)
            if kind != "which":  # its thirty answers are too many for one size
                assert share <= limit, (size, kind, share)
    kept = len(by_size[None]) / sum(map(len, language.balanced_questions(STORIES, 0)))
    assert kept > 0.93, "few questions are left out for it"


def test_one_group_is_balanced_too_and_the_same_wish_gives_the_same():
    stories = STORIES[:200]
    asked = balance.balanced_over_groups(stories, [0] * 200, seed=3)
    assert asked == balance.balanced_over_groups(stories, [0] * 200, seed=3)
    for questions in asked:
        assert len({q.kind for q in questions}) == len(questions)
    shares = language.blind_best([q for questions in asked for q in questions])
    assert shares["exists"] == pytest.approx(0.5, abs=0.01)
    assert shares["where"] < 0.14
    for story, questions in zip(stories[:20], asked):
        assert set(questions) <= set(language.all_questions(story))


@pytest.mark.parametrize(("sizes", "named"), [(((96, 8), (32, 32)), "not 96x8"), ((), "empty")])
def test_impossible_sizes_are_refused(sizes, named):
    with pytest.raises(UserError, match=named):
        PictureSettings(sizes=sizes)
