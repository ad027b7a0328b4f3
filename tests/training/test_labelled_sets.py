"""The annotation files of LVU, Breakfast, COIN, questions and captions."""

import json
from pathlib import Path

import pytest

from vlmcourse.errors import UserError
from vlmcourse.training.instruction_data import InstructionDataError
from vlmcourse.training.labelled_sets import find_videos, labelled_samples, read_labelled
from vlmcourse.training.sources import Source

SAMPLES = Path(__file__).parents[1] / "malmm"
LVU = SAMPLES / "lvu" / "test.json"


def test_every_window_of_lvu_is_a_sample():
    read = read_labelled(LVU, "lvu/scene")
    assert [(clip.id, clip.answer, clip.window) for clip in read.clips] == [
        ("demoLVU0002_0", "office", (0, 99)),
        ("demoLVU0002_20", "office", (20, 119)),
        ("demoLVU0002_40", "office", (40, 139)),
        ("demoLVU0002_60", "office", (60, 159)),
        ("demoLVU0003_0", "hotel", (0, 60)),
    ]
    assert read.clips[0].question == "what is the scene of the movie?"
    assert read.left_out == {"demoLVU0001": "has no scene", "demoLVU0004": "has no scene"}
    spoken = read_labelled(LVU, "lvu/way_speaking").clips
    assert spoken[0].question == "what is the way_speaking of the movie?"
    assert {clip.answer for clip in spoken} == {"explain"}
    (related,) = {c.answer for c in read_labelled(LVU, "lvu/relationship").clips}
    assert related == "ex-boyfriend ex-girlfriend"


def test_breakfast_and_coin(tmp_path):
    read = read_labelled(SAMPLES / "breakfast" / "val.json", "breakfast").clips
    assert [(clip.video, clip.answer) for clip in read][1] == (
        "P91-stereo-P91_friedegg_ch0", "fried egg",
    )  # fmt: skip
    assert {clip.question for clip in read} == {"what type of breakfast is shown in the video?"}
    broken = {"P28-cam01-P28_cereals": {"class_name": "cereal"}, "P01": {"class_name": "tea"}}
    path = tmp_path / "b.json"
    path.write_text(json.dumps(broken), encoding="utf-8")
    assert read_labelled(path, "breakfast").left_out == {
        "P28-cam01-P28_cereals": "left out officially, too"
    }
    coin = read_labelled(SAMPLES / "coin" / "COIN_malmm.json", "coin/val")
    assert [clip.answer for clip in coin.clips] == ["replace cd drive with ssd"]
    assert coin.left_out == {
        "demoCOIN002": "is of train", "demoCOIN003": "has no num_frames_actual"
    }  # fmt: skip


def test_coin_s_own_file_says_the_same():
    own = read_labelled(SAMPLES / "coin" / "COIN_original.json", "coin/val").clips
    assert own == read_labelled(SAMPLES / "coin" / "COIN_malmm.json", "coin/val").clips


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("msvd", ("0000000", "demoAAAAAAA_3_11", "who climbs over the fence?", "boy")),
        ("activitynet",
         ("v_demo00000a1_1", "demo00000a1", "is the person in the coat alone", "yes")),
    ],
)  # fmt: skip
def test_questions(name, first):
    clip = read_labelled(SAMPLES / name / "qa_test.json", "qa").clips[0]
    assert (clip.id, clip.video, clip.question, clip.answer) == first


def test_captions_of_videos_and_of_windows():
    whole = read_labelled(SAMPLES / "msrvtt" / "cap_val.json", "captions").clips
    assert [(c.id, c.video, c.question, c.window) for c in whole][:1] == [
        ("0", "video9001", "", None)
    ]
    part = read_labelled(SAMPLES / "youcook2" / "cap_val.json", "youcook2").clips[2]
    assert (part.video, part.window) == ("demoYC00002", (5, 19))
    assert part.answer == "whisk the eggs and the milk"


@pytest.mark.parametrize(
    ("form", "content", "reason"),
    [
        ("qa", {"1": {"question": "who?", "video": "v"}}, "1: 'answer' is missing"),
        ("qa", {"1": {"question": " ", "video": "v", "answer": "a"}}, "'question' is empty"),
        ("lvu/scene", {"m": {"scene": "office", "duration": "9"}}, "'duration' is '9'"),
        ("breakfast", {"a": 3}, "a: no object"),
        ("breakfast", [], "is no object of samples"),
        ("coin/train", {"a": {"subset": "val", "target": "x"}}, "no sample of coin/train"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, form, content, reason):
    path = tmp_path / "set.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InstructionDataError, match=reason):
        read_labelled(path, form)


def test_unknown_forms_and_missing_files():
    with pytest.raises(UserError, match="unknown form 'lvu/colour'"):
        read_labelled(LVU, "lvu/colour")
    with pytest.raises(InstructionDataError, match=r"nothing\.json: No such file"):
        read_labelled(SAMPLES / "nothing.json", "qa")


def test_videos_are_files_or_folders_and_windows_are_named(tmp_path):
    (tmp_path / "demoLVU0002.mp4").write_bytes(b"film")
    (tmp_path / "demoLVU0003").mkdir()
    found, missing = find_videos(read_labelled(LVU, "lvu/scene").clips, tmp_path)
    assert missing == []
    assert found["demoLVU0003"] == tmp_path / "demoLVU0003"
    source = Source(LVU, videos=tmp_path, annotation="lvu/scene")
    samples = source.samples()
    assert str(samples[1].video) == f"{tmp_path / 'demoLVU0002.mp4'}#t=20,119"
    assert samples[1].turns == (
        ("user", "<video>\nwhat is the scene of the movie?"), ("assistant", "office"),
    )  # fmt: skip
    captions = SAMPLES / "msrvtt" / "cap_val.json"
    (tmp_path / "video9001.avi").write_bytes(b"film")
    kept = Source(captions, videos=tmp_path, annotation="captions", missing="skip",
                  form="prompted_caption", clean_captions=True).samples()  # fmt: skip
    assert [s.turns[1][1] for s in kept] == ["two men dance on a stage", "a pair performs a dance"]
    assert {(s.form, s.turns[0][1]) for s in kept} == {("prompted_caption", "<video>")}


def test_missing_videos_are_counted_and_named(tmp_path, caplog):
    (tmp_path / "demoLVU0003.mp4").write_bytes(b"film")
    with pytest.raises(InstructionDataError, match=r"1 videos are not in .* \(demoLVU0002\)"):
        labelled_samples(LVU, "lvu/scene", tmp_path)
    kept = labelled_samples(LVU, "lvu/scene", tmp_path, missing="skip")
    assert [sample.id for sample in kept] == ["demoLVU0003_0"]
    assert "demoLVU0002" in caplog.text
