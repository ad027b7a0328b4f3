"""Sources: which file is read how, and what of it is used."""

import json

import pytest

from vlmcourse.errors import UserError
from vlmcourse.training.instruction_data import InstructionDataError
from vlmcourse.training.sources import Source


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/1.mp4", "a/2.mp4", "3.mp4", "10.jpg", "x.png"):
        (tmp_path / name).write_bytes(b"film")
    return tmp_path


def write(folder, name, content):
    path = folder / name
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


WEBVID = """videoid,contentUrl,duration,page_dir,name
1,http://x,PT1S,a,"A Cat, jumping. "
3,http://x,PT1S,,Dog
"""


def test_captions_in_a_table_are_read_as_webvid_has_them(files):
    source = Source(write(files, "t.csv", WEBVID), videos=files, form="caption")
    first, second = source.samples()
    assert first.video == files / "a" / "1.mp4"
    assert second.video == files / "3.mp4"
    assert first.turns == (("user", "<video>"), ("assistant", "A Cat, jumping."))
    assert (first.id, first.form, first.medium) == ("1", "caption", "video")
    clean = Source(source.json, videos=files, form="caption", clean_captions=True, max_length=32)
    assert clean.samples()[0].turns[1][1] == "a cat, jumping"
    assert clean.samples()[0].max_length == 32


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("videoid,text\n1,x\n", r"t\.csv: lacks the columns name"),
        ("videoid,name\n", "holds no entries"),
        ("", "lacks the columns name, videoid"),
        ("videoid,name\n3,\n", "entry 0: 'caption' is empty"),
        ("videoid,name\n3\n", "entry 0: 'caption' is missing"),
        ("videoid,name\n,x\n", "entry 0: 'video' is empty"),
        ("videoid,name\n7,x\n", r"1 videos of 1 entries are not in .*\(7\)"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(files, content, reason):
    with pytest.raises(InstructionDataError, match=reason):
        Source(write(files, "t.csv", content), videos=files).samples()


def test_captions_of_minigpt4(files):
    entries = {"annotations": [{"image_id": "10", "caption": "A hill."}]}
    path = write(files, "filter_cap.json", entries)
    (sample,) = Source(path, videos=files, form="prompted_caption", max_length=320).samples()
    assert sample.video == files / "10.jpg"
    assert sample.medium == "picture"
    assert sample.turns == (("user", "<image>"), ("assistant", "A hill."))
    assert (sample.form, sample.max_length) == ("prompted_caption", 320)


def test_pictures_of_llava_as_conversations_and_as_captions(files):
    turns = [("human", "Tell.\n<image>"), ("gpt", "A hill."), ("human", "More?"), ("gpt", "No.")]
    entry = {
        "id": "9",
        "image": "x.png",
        "conversations": [{"from": who, "value": text} for who, text in turns],
    }
    path = write(files, "chat.json", [entry])
    (talk,) = Source(path, videos=files).samples()
    assert (talk.medium, len(talk.turns)) == ("picture", 4)
    assert talk.plain_turns[0] == ("user", "Tell.")
    (caption,) = Source(path, videos=files, form="caption").samples()
    assert caption.turns[1] == ("assistant", "A hill.")
    assert len(caption.turns) == 2
    gone = write(files, "gone.json", [{**entry, "image": "gone.jpg"}])
    with pytest.raises(InstructionDataError, match=r"gone\.jpg"):
        Source(gone, videos=files).samples()


def test_conversations_of_videochat(files):
    rounds = [{"i": "", "q": "Who?", "a": "A cat."}, {"q": "Why?", "a": "Because."}]
    path = write(files, "videochat.json", [{"video": "a/2.mp4", "QA": rounds}])
    (sample,) = Source(path, videos=files).samples()
    assert sample.video == files / "a" / "2.mp4"
    assert sample.turns[0] == ("user", "<video>\nWho?")
    assert sample.turns[3] == ("assistant", "Because.")


def test_an_unknown_form_is_named(files):
    with pytest.raises(UserError, match="unknown form 'captions'; known: conversation, caption"):
        Source(write(files, "t.csv", WEBVID), form="captions").samples()
