"""How Video-LLaMA writes conversations: snapshots a reader can check, labels, lengths, stops."""

import os
from pathlib import Path

import pytest
import torch
from described_rows import described
from safetensors.torch import load_file

from vlmcourse.backbones.tokenizers import SentencePieceTokenizer
from vlmcourse.conversation import IGNORED, ConversationError, Turn, ask, read_conversation
from vlmcourse.parts.packing import PADDING
from vlmcourse.systems.processor import Clip, Given
from vlmcourse.systems.templates import CAPTION_REQUESTS
from vlmcourse.systems.video_llama import VideoLlamaConfig, VideoLlamaProcessor
from vlmcourse.systems.video_llama_layout import frame_message

HERE = Path(__file__).parent
UNIT = HERE.parent / "reference" / "video_llama" / "video_llama_conversation.safetensors"
SEEN, IMAGINED = Given("pictures", None), Given(None, "sound_pictures")
BOTH, HEARD = Given("pictures", "sounds"), Given(None, "sounds")
TEXTS = ("Listen to ", ". Look at ", ". Now answer.")
TALK = {
    "conversations": [
        {"from": "human", "value": "<video>\nWhat is happening?"},
        {"from": "gpt", "value": "A dog runs."},
        {"from": "human", "value": "Where?"},
        {"from": "gpt", "value": "In a field."},
    ]
}


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(load_file(UNIT)["inputs/tokenizer_model"].numpy().tobytes())
    return path


@pytest.fixture
def make(model_file):
    def build(**settings):
        settings = {"num_video_queries": 4, "num_audio_queries": 2, "sound_texts": TEXTS} | settings
        return VideoLlamaProcessor(SentencePieceTokenizer(model_file), VideoLlamaConfig(**settings))

    return build


def clip_of(given=SEEN, frames=2):
    times = torch.arange(float(frames)) * 1.2
    return Clip(times, duration_s=3.0, sound_times_s=torch.zeros(8), given=given)


def picture(given=SEEN):
    return Clip(torch.zeros(1), given=given)


def check_snapshot(name, row, tokenizer):
    path = HERE / "snapshots" / f"video_llama_{name}.txt"
    text = described(row, tokenizer.token)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


TALKS = {
    "vicuna_training": ({}, clip_of()),
    "llama2_training": ({"layout": "llama2"}, clip_of()),
    "vicuna_training_audio_branch": ({}, clip_of(IMAGINED)),
    "vicuna_training_picture": ({}, picture()),
}


@pytest.mark.parametrize("name", TALKS)
def test_snapshots_of_training_conversations(make, name):
    settings, clip = TALKS[name]
    processor = make(**settings)
    row = processor.row(read_conversation(TALK), clip, max_length=512)
    check_snapshot(name, row, processor.tokenizer)


CAPTIONS = {
    "caption_stage_1": ({}, "video", clip_of(), False),
    "caption_stage_2_vicuna": ({}, "picture", picture(), True),
    "caption_stage_2_llama2": ({"layout": "llama2"}, "picture", picture(), True),
    "caption_stage_2_audio_branch": ({}, "picture", picture(IMAGINED), True),
}


@pytest.mark.parametrize("name", CAPTIONS)
def test_snapshots_of_captions(make, name):
    settings, medium, clip, prompted = CAPTIONS[name]
    processor = make(caption_requests=("Tell me what you see.",), **settings)
    row = processor.caption_row("A man runs", clip, medium, prompted, 5)
    check_snapshot(name, row, processor.tokenizer)


PROMPTS = {
    "question_vicuna": ({}, clip_of()),
    "question_llama2": ({"layout": "llama2"}, clip_of()),
    "question_sound_and_pictures": ({}, clip_of(BOTH)),
    "question_sound_alone": ({}, clip_of(HEARD)),
    "question_released_vicuna": ({"official_prompt": True}, clip_of()),
    "question_released_llama2": ({"official_prompt": True, "layout": "llama2"}, clip_of()),
    "question_released_sound_and_pictures": ({"official_prompt": True}, clip_of(BOTH)),
    "question_released_picture": (
        {"official_prompt": True, "picture_system": "You see it."},
        picture(),
    ),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_snapshots_of_questions(make, name):
    settings, clip = PROMPTS[name]
    processor = make(**settings)
    check_snapshot(name, processor.question_row("Where?", clip), processor.tokenizer)


@pytest.mark.parametrize("given", [BOTH, SEEN, HEARD], ids=["both", "seen", "heard"])
def test_snapshots_of_the_world(tiny_video_llama, given):
    processor = tiny_video_llama().processor
    row = processor.row(ask("what colour is the circle ?", "red"), clip_of(given, 8))
    names = processor.tokenizer.inner.convert_ids_to_tokens
    path = (
        HERE / "snapshots" / f"video_llama_world_{'_'.join(filter(None, vars(given).values()))}.txt"
    )
    text = described(row, names)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


# ---------------------------------------------------------------- rules


@pytest.mark.parametrize("layout", ["vicuna", "llama2"])
def test_a_prompt_is_the_beginning_of_its_training_row(make, layout):
    processor = make(layout=layout)
    prompt = processor.question_row("What is happening?", clip_of())
    row = processor.row(ask("What is happening?", "A dog runs."), clip_of())
    assert row.ids[: len(prompt)] == prompt.ids
    later = processor.question_row(
        "Where?",
        clip_of(),
        [processor.question_turn("What is happening?"), Turn("assistant", "A dog runs.")],
    )
    whole = processor.row(read_conversation(TALK), clip_of())
    assert whole.ids[: len(later)] == later.ids


def test_the_medium_stands_where_the_paper_puts_it(make):
    processor = make()

    def order(text, clip):
        row = processor.row(ask(text, "Yes.", marker=""), clip)
        return row.kinds.index(1), len(row)

    first, last = (order(t, clip_of())[0] for t in ("<video>\nWhy?", "Why?\n<video>"))
    assert first == last  # a video always stands in front
    first, last = (order(t, picture())[0] for t in ("<image>\nWhy?", "Why?\n<image>"))
    assert first < last  # a picture stays where it is
    assert order("<video>\nWhy?", picture()) == order("<image>\nWhy?", picture())


@pytest.mark.parametrize("layout", ["vicuna", "llama2"])
def test_the_official_rule_and_ours_differ_only_where_a_character_is_unknown(make, layout):
    known = read_conversation(TALK)
    unknown = ask("Where @ is it?", "In @ a field.")
    ours, theirs = (make(layout=layout, official_padding=on) for on in (False, True))
    assert ours.row(known, clip_of()) == theirs.row(known, clip_of())
    good, bad = ours.row(unknown, clip_of()), theirs.row(unknown, clip_of())
    assert good.ids == bad.ids
    places = [i for i, index in enumerate(good.ids) if index == 0]
    assert len(places) == 2
    assert good.labels[places[1]] == 0  # a token like any other
    assert [bad.segments[i] for i in places] == [PADDING] * 2
    if layout == "vicuna":  # counted without the unknown token, so all behind it is one too early
        assert good.labels != bad.labels
    caption = theirs.caption_row("A @ man", clip_of())
    assert IGNORED in caption.labels[-4:]
    assert PADDING not in caption.segments


def test_a_limit_cuts_conversations_whole_and_captions_alone(make):
    processor = make()
    row = processor.row(read_conversation(TALK), clip_of())
    assert processor.row(read_conversation(TALK), clip_of(), max_length=60).ids == row.ids[:60]
    with pytest.raises(ConversationError, match="do not hold the media"):
        processor.row(read_conversation(TALK), clip_of(), max_length=12)
    whole = processor.caption_row("A man runs in a field", clip_of())
    cut = processor.caption_row("A man runs in a field", clip_of(), max_length=3)
    assert cut.ids == whole.ids[: 1 + 4 + 3]  # begin, places, and three tokens of the caption
    assert processor.caption_row("A man", clip_of(), max_length=99).num_trained == 3


def test_a_caption_asks_with_one_of_the_requests(make):
    processor = make()
    rows = [processor.caption_row("A man", picture(), "picture", True, draw) for draw in (0, 1, 4)]
    assert rows[0] == rows[2] != rows[1]
    assert len(CAPTION_REQUESTS) == 4


def test_seconds_are_those_of_the_file_and_can_be_left_out(make):
    message = frame_message([0.0, 0.45, 1.15, 2.25, 12.345])
    assert message == "The video contains 5 frames sampled at 0.0, 0.5, 1.1, 2.2, 12.3 seconds. "
    # as the official code rounds index / rate, though our seconds are float32
    for rate in (4.0, 10.0, 24.0, 25.0, 30.0):
        times = torch.tensor([i / rate for i in range(200)])
        told = frame_message(times.tolist()).split("at ")[1].split(" seconds")[0].split(", ")
        assert told == [str(round(i / rate, 1)) for i in range(200)]
    short, long = (
        make(frame_text="").question_row("Why?", clip_of()),
        make().question_row("Why?", clip_of()),
    )
    assert len(short) < len(long)


def test_an_answer_ends_at_its_stop_and_sheds_what_stands_in_front(make):
    vicuna, llama2 = make(), make(layout="llama2")
    encode = vicuna.tokenizer.encode

    def ids(text):
        return encode(text)[0]

    assert vicuna.answer_text([0, 1, *ids("A dog runs.\n### Human: no")]) == "A dog runs."
    assert vicuna.answer_text(ids("Assistant: A dog")) == "A dog"
    assert llama2.answer_text([*ids("A dog ## runs"), 2, 0, 0]) == "A dog ## runs"
    assert vicuna.stop_sequences == ((835,), (2277, 29937))
