"""Instruction data: the shapes of real files are read, what is wrong is named entry by entry."""

import json
import logging

import pytest

from vlmcourse.training.instruction_data import InstructionDataError, read_llava_json
from vlmcourse.world.conversations import llava_entry, write_llava_json


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a.mp4", "b.mkv", "v_x.1.mp4", "öl.mp4"):
        (folder / name).write_bytes(b"film")
    return folder


def talk(*values, video="a.mp4", **more):
    speakers = ("human", "gpt")
    turns = [{"from": speakers[i % 2], "value": value} for i, value in enumerate(values)]
    return {"video": video, "conversations": turns, **more}


def read(tmp_path, videos, *entries, **more):
    path = tmp_path / "data.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return read_llava_json(path, videos, **more)


def test_llava_entries_with_several_turns(tmp_path, videos):
    (sample,) = read(tmp_path, videos, talk("<video>\nWho?", "Me.", "Why?", "Because.", id=7))
    assert sample.id == "7"
    assert sample.video == videos / "a.mp4"
    assert sample.turns == (
        ("user", "<video>\nWho?"),
        ("assistant", "Me."),
        ("user", "Why?"),
        ("assistant", "Because."),
    )
    assert (sample.family, sample.evidence, sample.kind) == (None, None, None)


def test_the_worlds_writer_and_this_reader_agree(tmp_path, videos):
    path = tmp_path / "world.json"
    extra = {"family": "when", "evidence": "motion", "kind": "at"}
    write_llava_json(path, [llava_entry("a_00", "a.mp4", "what happens ?", "öl burns", **extra)])
    (sample,) = read_llava_json(path, videos)
    assert sample.plain_turns == (("user", "what happens ?"), ("assistant", "öl burns"))
    assert {k: getattr(sample, k) for k in extra} == extra


def test_video_chatgpt_entries_place_the_video_as_the_official_script(tmp_path, videos):
    raw = [{"q": f"Q{i}", "a": f"A{i}", "video_id": "a"} for i in range(4)]
    samples = read(tmp_path, videos, *raw)
    assert [s.turns[0][1] for s in samples] == [
        "Q0\n<video>",
        "<video>\nQ1",
        "Q2\n<video>",
        "<video>\nQ3",
    ]
    assert [s.plain_turns[0][1] for s in samples] == ["Q0", "Q1", "Q2", "Q3"]
    assert [s.id for s in samples] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("name", "file"),
    [("a.pkl", "a.mp4"), ("b", "b.mkv"), ("v_x.1", "v_x.1.mp4"), ("öl.mp4", "öl.mp4")],
)
def test_names_of_features_and_bare_ids_find_the_video(tmp_path, videos, name, file):
    (sample,) = read(tmp_path, videos, talk("Q", "A", video=name))
    assert sample.video == videos / file


@pytest.mark.parametrize(
    ("asked", "read_as"),
    [
        ("Who?", "<video>\nWho?"),
        ("Who?\n<video>", "Who?\n<video>"),
        ("<image>\nWho?", "<video>\nWho?"),
    ],
)
def test_the_video_stands_once_in_the_first_turn(tmp_path, videos, asked, read_as):
    (sample,) = read(tmp_path, videos, talk(asked, "Me.", "And?", "You."))
    assert sample.turns[0][1] == read_as
    assert sample.plain_turns[0][1] == "Who?"


def test_a_leading_answer_is_dropped(tmp_path, videos):
    entry = talk("Q", "A")
    entry["conversations"].insert(0, {"from": "gpt", "value": "Hello"})
    (sample,) = read(tmp_path, videos, entry)
    assert [role for role, _ in sample.turns] == ["user", "assistant"]


MALFORMED = {
    "no object": ("hello", "a text instead of an object"),
    "no known shape": ({"id": "x", "video": "a.mp4"}, "neither 'conversations' nor"),
    "no video": ({"conversations": talk("Q", "A")["conversations"]}, "'video' is missing"),
    "image no text": (
        {"image": 3, "conversations": talk("Q", "A")["conversations"]},
        "'image' is a number",
    ),
    "QA no list": ({"video": "a.mp4", "QA": {}}, "'QA' is no list of rounds"),
    "round no object": ({"video": "a.mp4", "QA": ["Q"]}, "round 0 is a text"),
    "round without answer": ({"video": "a.mp4", "QA": [{"q": "Q"}]}, "'a' of round 0 is missing"),
    "empty caption": ({"image_id": "1", "caption": " "}, "'caption' is empty"),
    "caption of nothing": ({"caption": "a"}, "'video' is missing"),
    "video no text": (talk("Q", "A", video=3), "'video' is a number, not a text"),
    "no turns": (talk(), "no list of turns"),
    "turn no object": ({"video": "a.mp4", "conversations": ["Q"]}, "turn 0 is a text"),
    "stranger": (
        {"video": "a.mp4", "conversations": [{"from": "system", "value": "Q"}]},
        "turn 0 is from 'system'",
    ),
    "from a list": (
        {"video": "a.mp4", "conversations": [{"from": [], "value": "Q"}]},
        "turn 0 is from []",
    ),
    "no value": (
        {"video": "a.mp4", "conversations": [{"from": "human"}]},
        "'value' of turn 0 is missing",
    ),
    "empty answer": (talk("Q", "  "), "'value' of turn 1 is empty"),
    "unanswered": (talk("Q", "A", "Q2"), "do not take turns"),
    "only an answer": (
        {"video": "a.mp4", "conversations": [{"from": "gpt", "value": "A"}]},
        "do not take turns",
    ),
    "two videos": (talk("<video><video>\nQ", "A"), "must stand once"),
    "video in answer": (talk("Q", "<video>"), "must stand once"),
    "video in later turn": (talk("Q", "A", "<video> Q2", "A2"), "must stand once"),
    "only a video": (talk("<video>", "A"), "first question is empty"),
    "family no text": (talk("Q", "A", family=3), "'family' is a number"),
    "empty q": ({"q": "", "a": "A", "video_id": "a"}, "'q' is empty"),
    "a is null": ({"q": "Q", "a": None, "video_id": "a"}, "'a' is missing"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_entry_is_named_with_file_index_and_reason(tmp_path, videos, case):
    entry, reason = MALFORMED[case]
    with pytest.raises(InstructionDataError) as caught:
        read(tmp_path, videos, talk("Q", "A"), entry, talk("Q", "A"))
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'data.json'}: 1 of 3 entries are malformed (entry 1: ")
    assert reason in text
    assert "\n" not in text
    assert [index for index, _ in caught.value.problems] == [1]


def test_all_problems_are_told_at_once(tmp_path, videos):
    entries = [talk("Q", "A"), *[talk("Q") for _ in range(20)]]
    entries += [talk("Q", "A", video=f"lost{i % 3}.mp4") for i in range(5)]
    with pytest.raises(InstructionDataError, match=r"20 of 26 .*and 12 more") as caught:
        read(tmp_path, videos, *entries)
    assert len(caught.value.problems) == 20
    assert caught.value.missing_videos == ["lost0.mp4", "lost1.mp4", "lost2.mp4"]
    assert "3 videos of 5 entries are not in" in str(caught.value)


def test_missing_videos_are_an_error_or_counted_and_left_out(tmp_path, videos, caplog):
    entries = [talk("Q", "A"), talk("Q", "A", video="lost.mp4"), talk("Q", "A", video="x" * 400)]
    with pytest.raises(InstructionDataError, match=r"2 videos of 2 entries are not in .*lost\.mp4"):
        read(tmp_path, videos, *entries)
    with caplog.at_level(logging.WARNING):
        samples = read(tmp_path, videos, *entries, missing="skip")
    assert len(samples) == 1
    assert "2 videos of 2 entries" in caplog.text
    assert "lost.mp4" in caplog.text
    with pytest.raises(InstructionDataError, match="1 videos of 1 entries"):
        read(tmp_path, videos, talk("Q", "A", video="lost.mp4"), missing="skip")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b'[{"id": 1},\n {"id": ]', r"not JSON: .* \(line 2, column 9\)"),
        (b"{}", "holds an object, not a list"),
        (b"[]", "holds no entries"),
        (b"\xff\xfe\x00", "UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_no_list_of_entries(tmp_path, videos, content, reason):
    path = tmp_path / "data.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InstructionDataError, match=reason) as caught:
        read_llava_json(path, videos)
    assert str(caught.value).startswith(f"{path}: ")
