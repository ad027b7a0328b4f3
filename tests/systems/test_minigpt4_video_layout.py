"""How MiniGPT4-video writes conversations: snapshots a reader can check, limits, answers."""

import os
from pathlib import Path

import pytest
import torch
from described_rows import described

from vlmcourse.backbones.tokenizers import FastTokenizer, SentencePieceTokenizer
from vlmcourse.conversation import IGNORED, PICTURE, ConversationError, Turn, ask
from vlmcourse.foundations.tokenizer import build_tokenizer
from vlmcourse.media.subtitles import Cue
from vlmcourse.systems.minigpt4_video_config import WORLD_CONFIG, MiniGPT4VideoConfig
from vlmcourse.systems.minigpt4_video_layout import VIDEO_REQUESTS
from vlmcourse.systems.minigpt4_video_processor import MiniGPT4VideoProcessor, answer_start
from vlmcourse.systems.processor import Clip

HERE = Path(__file__).parent
TOKENIZER = HERE.parent / "reference" / "minigpt4_video" / "tiny_tokenizer.model"
CUES = (Cue(0.0, 0.4, "hello my friend"), Cue(0.9, 1.6, "thank you"), Cue(1.7, 1.9, "so much"))
VIDEO = Clip(torch.tensor([0.0, 1.0, 2.0]), None, 3.0, cues=CUES)
ONE, TWO = Clip(torch.zeros(1)), Clip(torch.zeros(2))
TALK = ask("where?", "in a field")


def make(**settings):
    settings = {"picture_requests": ("Tell me.",), "video_requests": ("Tell me.",)} | settings
    tokenizer = SentencePieceTokenizer(TOKENIZER, pad_token="$$")
    return MiniGPT4VideoProcessor(tokenizer, MiniGPT4VideoConfig(**settings), num_patches=16)


def words(processor, row, start=0):
    return [processor.tokenizer.token(i) for i in row.ids[start:]]


ROWS = {
    "training_video": lambda: (make(), "row", (TALK, VIDEO)),
    "training_picture": lambda: (make(), "row", (TALK, ONE)),
    "training_two_pictures": lambda: (
        make(),
        "row",
        (ask("and <image> the same?", "no", marker="Is <image> "), TWO),
    ),
    "pretrain_caption_bare": lambda: (make(), "caption_row", ("a field", ONE, "picture")),
    "pretrain_caption_requested": lambda: (
        make(chat_template=False),
        "caption_row",
        ("a field", ONE, "picture", True),
    ),
    "align_caption": lambda: (make(), "caption_row", ("a field", ONE, "picture", True)),
    "video_caption": lambda: (make(), "caption_row", ("a field", VIDEO, "video", True)),
    "question": lambda: (make(), "question_row", ("where?", VIDEO)),
    "question_official_chat": lambda: (
        make(official_prompt="chat"),
        "question_row",
        ("where?", VIDEO),
    ),
    "question_official_benchmark": lambda: (
        make(official_prompt="benchmark"),
        "question_row",
        ("where?", VIDEO),
    ),
}


def check_snapshot(name, row, name_of):
    path = HERE / "snapshots" / f"minigpt4_video_{name}.txt"
    text = described(row, name_of)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", ROWS)
def test_snapshots(name):
    processor, method, given = ROWS[name]()
    check_snapshot(name, getattr(processor, method)(*given), processor.tokenizer.token)


@pytest.mark.parametrize("name", ["video", "picture", "caption"])
def test_snapshots_of_the_world(name):
    tokenizer = FastTokenizer(build_tokenizer())
    processor = MiniGPT4VideoProcessor(tokenizer, WORLD_CONFIG, num_patches=64)
    said = (Cue(1.0, 2.0, "red moon is called anna"), Cue(1.2, 2.0, "blue star is called bob"))
    film = Clip(torch.arange(3.0), None, 3.0, cues=said)
    row = {
        "video": lambda: processor.row(ask("what is red moon called ?", "anna"), film),
        "picture": lambda: processor.row(ask("where is red moon ?", "top left"), ONE),
        "caption": lambda: processor.caption_row("big red moon top left", ONE, "picture"),
    }[name]()
    check_snapshot(f"world_{name}", row, tokenizer.inner.convert_ids_to_tokens)


# ---------------------------------------------------------------- rules


def test_a_prompt_is_the_beginning_of_its_training_row():
    for clip in (VIDEO, ONE):
        processor = make()
        prompt, row = processor.question_row("where?", clip), processor.row(TALK, clip)
        assert row.ids[: answer_start(row)] == prompt.ids
    history = [processor.question_turn("where?"), Turn("assistant", "in a field")]
    later = processor.question_row("Why?", VIDEO, history)
    whole = processor.row(TALK, VIDEO)
    assert later.ids[: len(whole)] == whole.ids


def test_released_prompts_differ_from_training_where_the_notes_say():
    plain, chat, benchmark = (
        make(official_prompt=how).question_row("where?", VIDEO)
        for how in (None, "chat", "benchmark")
    )
    token = make().tokenizer.token
    first, second, third = ([token(i) for i in x.ids] for x in (plain, chat, benchmark))
    assert second[:2] == ["<s>", "<s>"]
    assert first[0] == "<s>" != first[1]
    assert first[-4:] == ["[", "/", "INST", "]"]
    assert second[-3:] == third[-3:] == ["▁[/", "INST", "]"]
    assert len(third) == len(second) + 1  # one blank more
    assert "".join(third).startswith("<s><s>▁[INST]▁▁<Img>")


def test_the_medium_stands_in_front_wherever_the_file_has_it():
    process = make()
    rows = [process.row(ask(text, "no", marker=""), VIDEO) for text in (
        "<video>\nWhy?", "Why?\n<video>", "<video> Why?", "<image>\nWhy?",
    )]  # fmt: skip
    assert all(row == rows[0] for row in rows)
    assert process.row(ask("<video>\nWhy?", "no", marker=""), ONE) == process.row(
        ask("<image>\nWhy?", "no", marker=""), ONE
    )
    with pytest.raises(ConversationError, match="2 markers for 1 pictures"):
        process.row(ask("<image> and <image>?", "no", marker=""), ONE)


def test_captions_of_both_layouts_take_a_request_by_the_draw():
    process = make(video_requests=("Tell me.", "What?"))
    rows = [process.caption_row("a field", VIDEO, "video", True, n) for n in (0, 1, 2)]
    assert rows[0] == rows[2] != rows[1]
    assert len(set(VIDEO_REQUESTS)) == len(VIDEO_REQUESTS)


def test_the_answer_has_a_limit_of_its_own():
    process = make()
    row = process.row(TALK, VIDEO)
    start = answer_start(row)
    cut = process.row(TALK, VIDEO, max_length=3)
    assert cut.ids == row.ids[: start + 3]
    assert cut.num_trained == 3  # without the end token
    assert process.row(TALK, VIDEO, max_length=99) == row
    assert process.caption_row("a field", ONE, "picture", max_length=2).num_trained == 2


def test_every_piece_of_the_answer_is_trained_and_none_before():
    row = make().row(ask("where?", "?"), VIDEO)  # a lone prefix space, and the mark
    assert [label != IGNORED for label in row.labels[answer_start(row) :]] == [True] * 3
    assert words(make(), row, answer_start(row)) == ["▁", "?", "</s>"]


def test_subtitles_get_shorter_until_all_fits(caplog):
    whole = make().row(TALK, VIDEO)
    context = answer_start(whole) - 1
    assert make(max_context=context).row(TALK, VIDEO) == whole
    process = make(max_context=context - 1, subtitle_words=7)
    row = process.row(TALK, VIDEO)
    assert "subtitles cut to 3 words" in caplog.text
    text = "".join(words(process, row))
    assert "hello▁my▁friend" in text
    assert "thank" not in text
    assert text.endswith("where?[/INST]▁in▁a▁field</s>")
    assert process.row(TALK, VIDEO) == row
    assert caplog.text.count("told once") == 1
    with pytest.raises(ConversationError, match="do not fit in max_context=20"):
        make(max_context=20).row(TALK, VIDEO)


def test_the_official_cut_takes_the_end_in_training_and_nothing_of_a_question():
    whole = make().row(TALK, VIDEO)
    start = answer_start(whole)
    cut = make(max_context=start - 4, official_cut=True)
    row = cut.row(TALK, VIDEO)
    assert row.ids == whole.ids[: start - 3] + whole.ids[start:]
    assert row.num_trained == whole.num_trained
    assert "[/INST]" not in "".join(words(cut, row))
    assert cut.question_row("where?", VIDEO) == make().question_row("where?", VIDEO)
    deep = make(max_context=12, official_cut=True).row(TALK, VIDEO)
    assert deep.kinds[:13].count(PICTURE) < 3 * 4  # through the pictures


def test_official_padding_hides_a_token_of_the_answer():
    ours, theirs = make(), make(official_padding=True)
    pair = ask("where?", "a$$b")
    rows = [process.row(pair, VIDEO) for process in (ours, theirs)]
    assert rows[0].ids == rows[1].ids
    pad = ours.tokenizer.pad_id
    assert rows[0].labels.count(pad) == 1
    assert rows[1].labels.count(pad) == 0
    assert rows[0].num_trained == rows[1].num_trained + 1


def test_an_answer_ends_at_its_end_and_begins_behind_the_last_mark():
    process = make()
    encode = process.tokenizer.encode
    end = process.tokenizer.token_id("</s>")
    assert process.answer_text([*encode("in a field")[0], end, *encode("more")[0]]) == "in a field"
    assert process.answer_text(encode("so [/INST] in [/INST] a field")[0]) == "a field"
    assert process.answer_text(encode("a field</s> more")[0]) == "a field"
    assert process.answer_text([end]) == ""


def test_only_what_is_read_from_files_makes_another_cache():
    from vlmcourse.training.feature_cache import reading_rule

    rule = reading_rule(make())
    for settings in (
        {"merge": 2}, {"subtitles": False}, {"official_cut": True}, {"layout": "mistral"},
        {"lora_rank": 1, "max_context": 99}, {"official_captions": "train"},
    ):  # fmt: skip
        assert reading_rule(make(**settings)) == rule
    assert reading_rule(make(num_frames=9)) != rule
    assert reading_rule(make(official_repeat=True)) != rule
