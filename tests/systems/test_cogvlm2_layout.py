"""How CogVLM2 writes conversations: snapshots a reader can check, time texts, files."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from described_rows import described
from sounding_clips import write_file
from tiny_cogvlm2 import build_tiny, random_clip

from vlmcourse.backbones.tokenizers import FastTokenizer
from vlmcourse.conversation import (
    IGNORED,
    Conversation,
    ConversationError,
    Turn,
    ask,
    read_conversation,
)
from vlmcourse.media.errors import MediaError
from vlmcourse.systems.cogvlm2_config import IMAGE_CONFIG, VIDEO_CONFIG, CogVLM2Config
from vlmcourse.systems.cogvlm2_processor import CogVLM2Processor, dialogue
from vlmcourse.systems.processor import Clip, Given

HERE = Path(__file__).parent
SPECIAL = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>"),
    "<|eot_id|>",
)
TALK = {
    "conversations": [
        {"from": "human", "value": "<video>\nWhat is happening?"},
        {"from": "gpt", "value": "A dog runs."},
        {"from": "human", "value": "Where?"},
        {"from": "gpt", "value": "In a field."},
    ]
}
SPOKEN = (
    "Question: What is happening? Answer: A dog runs.\nQuestion: Where? Short answer: In a field."
    " 0 1 2 10 11 at 0.0 s at 1.2 s at 2.4 s Tell me more. A red circle"
)


def make_tokenizer() -> FastTokenizer:
    """Words with the blank in front of them, and Llama 3's special tokens."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    piece = r" ?[A-Za-z]+|\d{1,3}| ?[^\sA-Za-z\d]+|\s+"
    pieces = re.findall(piece, SPOKEN)
    words = dict.fromkeys([*SPECIAL, "?", " ", *pieces, *(piece.strip(" ") for piece in pieces)])
    vocabulary = {word: i for i, word in enumerate(words)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(piece), "isolated")
    names = {"bos_token": SPECIAL[0], "eos_token": SPECIAL[1]}
    return FastTokenizer(
        PreTrainedTokenizerFast(
            tokenizer_object=core, additional_special_tokens=list(SPECIAL[2:]), **names
        )
    )


def make(**settings) -> CogVLM2Processor:
    return CogVLM2Processor(make_tokenizer(), replace(VIDEO_CONFIG, **settings))


def clip_of(frames: int = 3) -> Clip:
    return Clip(torch.arange(float(frames)) * 1.2, duration_s=3.6)


PICTURE = Clip(torch.zeros(1))


def check_snapshot(name, row, tokenizer):
    path = HERE / "snapshots" / f"cogvlm2_{name}.txt"
    text = described(row, tokenizer.inner.convert_ids_to_tokens)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


TALKS = {
    "video_chat": {},
    "video_chat_seconds": {"time_text": "seconds"},
    "video_chat_no_time": {"time_text": "none"},
    "video_base": {"template": "base"},
    "video_vqa": {"template": "vqa"},
}


@pytest.mark.parametrize("name", TALKS)
def test_snapshots_of_videos(name):
    processor = make(**TALKS[name])
    row = processor.row(read_conversation(TALK), clip_of())
    check_snapshot(name, row, processor.tokenizer)


def test_snapshots_of_pictures_texts_and_questions():
    image = CogVLM2Processor(make_tokenizer(), IMAGE_CONFIG)
    rows = {
        "image_chat": image.row(ask("Where?", "In a field.", "<image>\n"), PICTURE),
        "image_question": image.question_row("Where?", PICTURE),
        "image_caption": image.caption_row("A red circle", PICTURE, "picture"),
        "text": image.text_row(ask("Where?", "In a field."), "A dog runs."),
        "text_bare": image.text_row(Conversation((Turn("user", "Where?"),))),
    }
    for name, row in rows.items():
        check_snapshot(name, row, image.tokenizer)


WORLD = {
    "world": {},
    "world_seconds": {"time_text": "seconds"},
    "world_one_run": {"template": "base"},
}


@pytest.mark.parametrize("name", WORLD)
def test_snapshots_of_the_world(name):
    processor = build_tiny(**WORLD[name]).processor
    row = processor.row(ask("what happens first ?", "red circle jumps"), random_clip(3, rate=1.5))
    check_snapshot(name, row, processor.tokenizer)


# ---------------------------------------------------------------- rules


def test_counters_dialogue_and_answer_are_tokenised_apart():
    processor = make(image_size=28)
    given = []
    encode = processor.tokenizer.encode
    processor.tokenizer.encode = lambda text: given.append(text) or encode(text)
    processor.row(ask("Where?", "In a field."), clip_of(12))
    assert given == [*map(str, range(12)), "Question: Where? Answer:", "In a field."]


def test_history_is_text_and_the_last_answer_alone_is_trained():
    row = make().row(read_conversation(TALK), clip_of())
    trained = [i for i, label in zip(row.ids, row.labels) if label != IGNORED]
    tokenizer = make_tokenizer()
    names = tokenizer.inner.convert_ids_to_tokens(trained)
    assert names == ["In", " a", " field", ".", "<|end_of_text|>"]
    rounds = [("What?", "A dog."), ("Who?", "Me.")]
    told = "Question: What? Answer: A dog.\nQuestion: Who? Answer: Me.\nQuestion: Why? Answer:"
    assert dialogue("chat", "Why?", rounds) == told
    assert dialogue("vqa", "Why?", rounds) == told.replace("Answer:", "Short answer:")
    assert dialogue("base", "Why?", rounds) == "Why?"


@pytest.mark.parametrize("template", ["chat", "base", "vqa"])
def test_a_prompt_is_the_beginning_of_its_training_row(template):
    processor = make(template=template)
    prompt = processor.question_row("What is happening?", clip_of())
    row = processor.row(ask("What is happening?", "A dog runs."), clip_of())
    assert row.ids[: len(prompt)] == prompt.ids
    assert set(row.labels[: len(prompt)]) == {IGNORED}
    history = [processor.question_turn("What is happening?"), Turn("assistant", "A dog runs.")]
    later = processor.question_row("Where?", clip_of(), history)
    whole = processor.row(read_conversation(TALK), clip_of())
    assert whole.ids[: len(later)] == later.ids


def test_the_medium_stands_in_front_wherever_its_marker_is():
    processor = make()
    rows = [
        processor.row(ask(text, "Yes.", marker=""), clip_of())
        for text in ("<video>\nWhere?", "Where?\n<video>", "<image>\nWhere?")
    ]
    assert rows[0] == rows[1] == rows[2]


def test_a_picture_gets_no_counter_and_a_hidden_video_no_places():
    processor = make()
    picture = processor.question_row("Where?", PICTURE)
    assert len(picture) == len(processor.question_row("Where?", clip_of(1))) - 1
    unseen = replace(clip_of(), given=Given(None, None))
    assert not any(processor.question_row("Where?", unseen).kinds)


def test_the_paper_tokens_a_frame():
    assert VIDEO_CONFIG.tokens_per_frame == 66
    assert IMAGE_CONFIG.tokens_per_frame == 2306
    row = make().question_row("Where?", clip_of(24))
    assert len(row) == 1 + 24 * 67 + 6  # "Question", ":", " Where", "?", " Answer", ":"


def test_a_limit_cuts_answers_but_no_frames():
    processor = make(image_size=28)
    whole = processor.row(ask("Where?", "In a field."), clip_of(2))
    assert (
        processor.row(ask("Where?", "In a field."), clip_of(2), max_length=16).ids == whole.ids[:16]
    )
    with pytest.raises(ConversationError, match="do not hold the media"):
        processor.row(ask("Where?", "In a field."), clip_of(2), max_length=5)


def test_llama3s_own_turn_end_stops_an_answer_too():
    processor = make()
    tokenizer = processor.tokenizer
    assert processor.stop_sequences == ((tokenizer.token_id("<|eot_id|>"),),)
    assert tokenizer.pad_id == tokenizer.token_id("<|reserved_special_token_0|>")
    ids = [*tokenizer.encode("In a field.")[0], tokenizer.token_id("<|eot_id|>")]
    assert processor.answer_text(ids) == " ".join(["In", " a", " field", "."])


# ---------------------------------------------------------------- files


def test_frames_of_a_file_by_both_rules(tmp_path):
    path = write_file(tmp_path / "clip.mp4", frames=20, seconds=5)  # 4 frames a second
    chat, base = (build_tiny(sampling=how).processor.read(path) for how in ("chat", "base"))
    assert chat.times_s.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 4.75][: chat.num_frames]
    assert chat.num_frames in (5, 6)
    assert base.num_frames == 8
    assert base.times_s.tolist() == [0.0, 0.5, 1.25, 2.0, 2.5, 3.25, 4.0, 4.75]
    assert base.frames.dtype == torch.uint8
    few = build_tiny(sampling="chat", num_frames=2).processor.read(path)
    assert few.times_s.tolist() == [0.0, 1.0]


def test_a_picture_file_is_a_clip_of_one_frame(tmp_path):
    from PIL import Image

    Image.new("RGB", (90, 50), (200, 30, 30)).save(tmp_path / "red.png")
    model = build_tiny(experts=True)
    watched = model.watch(tmp_path / "red.png")
    assert watched.clip.is_picture
    assert watched.clip.frames.shape == (1, 50, 90, 3)
    assert watched.pictures.features.shape == (1, 1, 16, 16)
    assert model.answer(watched, ["what colour is square ?"], max_new_tokens=2)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(MediaError, match=r"broken\.png"):
        model.watch(tmp_path / "broken.png")


def test_settings_of_the_layout_leave_cached_features_good():
    from vlmcourse.training.feature_cache import reading_rule

    rule = reading_rule(make())
    same = (
        {"template": "vqa"},
        {"time_text": "none"},
        {"positions": "sequential"},
        {"experts": True},
    )
    assert all(reading_rule(make(**settings)) == rule for settings in same)
    for settings in ({"num_frames": 4}, {"image_size": 28}, {"sampling": "base"}):
        assert reading_rule(make(**settings)) != rule
    assert CogVLM2Config() == VIDEO_CONFIG
