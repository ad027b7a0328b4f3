"""How MA-LMM reads files and writes questions: frames, snapshots a reader can check, lengths."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from described_rows import described
from PIL import Image
from safetensors.torch import load_file
from sounding_clips import write_file
from tiny_ma_lmm import build_tiny, build_tiny_paper

from vlmcourse.backbones.tokenizers import SentencePieceTokenizer
from vlmcourse.conversation import IGNORED, Conversation, ConversationError, Turn, ask
from vlmcourse.media.sampling import ma_lmm_test_indices, ma_lmm_window_indices
from vlmcourse.media.transforms import crop_and_resize, to_uint8
from vlmcourse.media.video import read_frames
from vlmcourse.systems.ma_lmm_processor import clean_question
from vlmcourse.systems.processor import Clip

torch.set_num_threads(1)

HERE = Path(__file__).parent
UNIT = HERE.parent / "reference" / "video_llama" / "video_llama_conversation.safetensors"
CLIP = Clip(torch.arange(4.0), duration_s=4.0)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(load_file(UNIT)["inputs/tokenizer_model"].numpy().tobytes())
    return path


@pytest.fixture
def make(model_file):
    def build(**settings):
        return build_tiny_paper(SentencePieceTokenizer(model_file), **settings).processor

    return build


def check_snapshot(name, row, name_of):
    path = HERE / "snapshots" / f"ma_lmm_{name}.txt"
    text = described(row, name_of)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


# ---------------------------------------------------------------- rows

QUESTION = "What is the (best) activity: in the video?"
ROWS = {
    "training": ({"text_length": 40}, lambda p: p.row(ask(QUESTION, "make tea"), CLIP)),
    "question": ({"text_length": 40}, lambda p: p.question_row(QUESTION, CLIP)),
    "question_prompted": (
        {"prompt": "Question: {} Short answer:", "text_length": 40},
        lambda p: p.question_row("who sings?", CLIP),
    ),
    "caption": (
        {"text_length": 40},
        lambda p: p.caption_row("a man is singing", CLIP, prompted=True),
    ),
    "every_frame_alone": ({"reader": "frames"}, lambda p: p.question_row("who sings?", CLIP)),
}


@pytest.mark.parametrize("name", ROWS)
def test_snapshots(make, name):
    settings, row_of = ROWS[name]
    processor = make(**settings)
    check_snapshot(name, row_of(processor), processor.tokenizer.token)


def test_snapshot_in_the_small_world():
    processor = build_tiny().processor
    row = processor.row(ask("what happens first ?", "red circle jumps"), CLIP)
    check_snapshot("world", row, processor.tokenizer.inner.convert_ids_to_tokens)


def test_the_begin_token_is_the_end_token_and_stands_behind_the_video(make):
    processor = make()
    row = processor.row(ask("who sings", "a man"), CLIP)
    end, place = (processor.tokenizer.token_id(token) for token in ("</s>", "[PAD]"))
    assert row.ids[:4] == [place] * 3 + [end]
    assert row.ids[-1] == row.labels[-1] == end
    assert place == len(processor.tokenizer) - 1
    assert row.labels[3] == IGNORED


def test_answers_are_tokenised_alone(make):
    processor = make()
    row = processor.row(ask("who sings", "a man"), CLIP)
    encode = processor.tokenizer.encode
    end = processor.tokenizer.token_id("</s>")
    assert row.ids[3:] == [end, *encode("who sings")[0], *encode("a man")[0], end]


def test_a_long_question_loses_its_beginning_and_a_long_answer_its_end(make):
    processor = make(text_length=6, answer_length=4)
    words, answer = "one two three four five six seven eight", "a b c d e f g h i j k"
    row = processor.row(ask(words, answer), CLIP)
    asked, told = (processor.tokenizer.encode(text)[0] for text in (words, answer))
    end = processor.tokenizer.token_id("</s>")
    assert row.ids[3:] == [end, *asked[-5:], *told[:3], end]
    short = processor.row(ask(words, answer), CLIP, max_length=10)
    assert short.ids == row.ids[:10]
    with pytest.raises(ConversationError, match="2 positions do not hold"):
        processor.row(ask(words, answer), CLIP, max_length=2)
    ids, mask = processor.instruct([" ".join(["what"] * 20 + ["video"])])
    words = [processor.instructions.words[i] for i in ids[0]]
    assert words == ["[CLS]", "what", "what", "what", "video", "<end>"]
    assert mask.all()


def test_a_conversation_goes_on_behind_the_first_answer(make):
    processor = make(text_length=40)
    turns = (Turn("user", "<video>\nWho?"), Turn("assistant", "a man"), Turn("user", "Where?"))
    row = processor.row(Conversation(turns), CLIP)
    first = processor.row(Conversation(turns[:2]), CLIP)
    assert row.ids == first.ids + processor.tokenizer.encode("where?")[0]


@pytest.mark.parametrize(
    ("question", "clean"),
    [
        ('What! is "THIS" (here): a*b #c; d~e?', "what is this here ab c de?"),
        ("where?  ", "where?"),
        (" ".join(str(n) for n in range(60)), " ".join(str(n) for n in range(50))),
    ],
)
def test_questions_are_cleaned(question, clean):
    assert clean_question(question) == clean


def test_instructions_are_the_cleaned_and_prompted_questions(make):
    processor = make(prompt="Question: {} Short answer:")
    assert processor.asked("WHO sings?!") == "Question: who sings? Short answer:"
    turns = (("user", "<video>\nWHO sings?"), ("assistant", "a man"))
    assert processor.instruction_of(turns, "conversation") == "WHO sings?"
    caption = (("user", "<video>"), ("assistant", "a man"))
    assert processor.instruction_of(caption, "prompted_caption") == (
        "what does the video describe?"
    )


def test_unknown_tokens_are_no_part_of_an_answer(make):
    processor = make()
    ids = processor.tokenizer.encode("a man")[0]
    assert processor.answer_text([1, *ids, 0, 2]) == "a man"


# ---------------------------------------------------------------- files


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A film of 6 seconds, four frames a second."""
    return write_file(tmp_path_factory.mktemp("film") / "film.mp4", 24)


def test_frames_are_those_of_a_dump_of_ten_a_second(make, film):
    processor = make(num_frames=5)
    clip = processor.read(film)
    dumped = np.array(ma_lmm_test_indices(60, 5)) / 10
    assert clip.times_s.tolist() == (dumped // 0.25 * 0.25).tolist()
    assert clip.frames.shape == (5, 28, 28, 3)
    pixels = torch.from_numpy(read_frames(film, (clip.times_s * 4).long().tolist()).pixels)
    wanted = to_uint8(crop_and_resize(pixels.permute(3, 0, 1, 2), (0, 0, 64, 64), 28))
    assert clip.frames.equal(wanted.permute(1, 2, 3, 0))


def test_windows_of_a_film(make, film):
    processor = make(num_frames=4)
    clip = processor.read(f"{film}#t=2,4")
    dumped = np.array(ma_lmm_window_indices((2, 4), 60, 4)) / 10
    assert clip.times_s.tolist() == (dumped // 0.25 * 0.25).tolist()
    drawn = [processor.read_for_training(f"{film}#t=2,4", draw).times_s for draw in range(3)]
    assert all(times.equal(clip.times_s) for times in drawn)
    cut = make(num_frames=4, window_frames="cut")
    assert cut.read(f"{film}#t=2,4").times_s.tolist() == [2.0, 2.5, 3.25, 4.0]
    drawn = {tuple(cut.read_for_training(f"{film}#t=2,4", d).times_s.tolist()) for d in range(8)}
    assert len(drawn) > 1
    assert all(2 <= second <= 4.1 for times in drawn for second in times)


def test_a_folder_of_pictures_is_a_film_of_ten_a_second(make, tmp_path):
    for number in range(1, 13):
        Image.new("RGB", (40, 20), (number * 20, 0, 0)).save(tmp_path / f"frame{number:06d}.png")
    clip = make(num_frames=3).read(tmp_path)
    assert clip.times_s.tolist() == pytest.approx([0.0, 0.6, 1.1])
    assert clip.frames[:, 14, 14, 0].tolist() == pytest.approx([20, 140, 240], abs=1)


def test_training_draws_frames_and_one_crop_and_mirrors(make, film):
    processor = make(num_frames=4)
    clips = [processor.read_for_training(film, draw) for draw in range(12)]
    assert processor.draws
    again = processor.read_for_training(film, 5)
    assert again.frames.equal(clips[5].frames)
    assert len({tuple(clip.times_s.tolist()) for clip in clips}) > 6
    for clip in clips:
        edges = np.linspace(0, 6, 5)
        assert all(a - 0.25 <= t <= b for t, a, b in zip(clip.times_s, edges, edges[1:]))
    red = [clip.frames[-1, :, :, 0].float() - clip.frames[-1, :, :, 2].float() for clip in clips]
    leaning = [bool((one[:, :14] > 100).sum() > (one[:, 14:] > 100).sum()) for one in red]
    assert {True, False} == set(leaning)


def test_the_small_world_takes_a_frame_a_second_of_any_length(film):
    processor = build_tiny(image_size=64).processor
    assert not processor.draws
    clip = processor.read(film)
    assert clip.times_s.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert torch.as_tensor(read_frames(film, [0, 4, 8, 12, 16, 20]).pixels).equal(clip.frames)
    assert processor.read(f"{film}#t=2,4").times_s.tolist() == [2.0, 3.0, 4.0]


def test_features_in_a_cache_outlive_settings_of_the_memory():
    from vlmcourse.training.feature_cache import features_hash

    plain = build_tiny()
    for same in ({"merging": "fifo"}, {"visual_memory": 5}, {"reader": "all"},
                 {"frame_position": "none"}, {"text_length": 9}):  # fmt: skip
        assert features_hash(build_tiny(**same)) == features_hash(plain)
    assert features_hash(build_tiny(seconds_apart=2.0)) != features_hash(plain)
    assert replace(plain.config, num_frames=9) != plain.config
