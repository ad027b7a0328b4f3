"""How Qwen2-VL reads files and writes conversations: sizes, frames, snapshots."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from described_rows import described
from PIL import Image
from sounding_clips import write_file
from tiny_qwen2_vl import build_tiny, chat_tokenizer, random_clip

from vlmcourse.conversation import IGNORED, Conversation, Turn, ask, lay_out, prompt_text
from vlmcourse.media.errors import MediaError
from vlmcourse.media.sampling import qwen2_vl_indices
from vlmcourse.media.transforms import resize_frames
from vlmcourse.media.video import read_frames
from vlmcourse.systems.qwen2_vl_config import PAPER_CONFIG, WORLD_CONFIG
from vlmcourse.systems.qwen2_vl_processor import Qwen2VLProcessor, resized_picture

HERE = Path(__file__).parent
TALK = Conversation(
    (
        Turn("user", "<video>\nWhat is happening?"),
        Turn("assistant", "A dog runs."),
        Turn("user", "Where?"),
        Turn("assistant", "In a field."),
    )
)
MANY = Conversation(
    (
        Turn("user", "<image>\n<video>\nWhat is this? And this?"),
        Turn("assistant", "A dog runs."),
        Turn("user", "<image> And in the second?"),
    )
)


def make(**settings) -> Qwen2VLProcessor:
    return Qwen2VLProcessor(chat_tokenizer(), replace(PAPER_CONFIG, **settings))


def clip_of(frames=1, rows=4, columns=8):
    """A clip of a 56 x 112 picture, or of frames of that size."""
    clip = random_clip(frames, 8, 8)
    return replace(clip, grid=torch.tensor([-(-frames // 2), rows, columns]))


def check_snapshot(name, row, processor):
    path = HERE / "snapshots" / f"qwen2_vl_{name}.txt"
    text = described(row, processor.tokenizer.inner.convert_ids_to_tokens)
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize(
    ("name", "settings", "talk", "clip"),
    [
        ("video", {}, TALK, clip_of(6)),
        ("picture", {}, ask("What is happening?", "A dog runs.", "<image>\n"), clip_of()),
        ("several", {}, MANY, replace(clip_of(), others=(clip_of(4), clip_of(1, 2, 2)))),
        (
            *("several_numbered", {"add_vision_id": True}, MANY),
            replace(clip_of(), others=(clip_of(4), clip_of(1, 2, 2))),
        ),
        ("no_system", {"system_text": ""}, ask("Where?", "In a field."), clip_of()),
    ],
)
def test_rows_are_what_the_snapshots_say(name, settings, talk, clip):
    processor = make(**settings)
    check_snapshot(name, processor.row(talk, clip), processor)


def test_captions_texts_and_questions_are_what_the_snapshots_say():
    processor = make()
    check_snapshot("caption", processor.caption_row("A dog runs.", clip_of(), "picture"), processor)
    text = processor.text_row(ask("How many?", "Two."), "scene : two dogs")
    check_snapshot("text", text, processor)
    check_snapshot("question", processor.question_row("Where?", clip_of(2)), processor)
    with pytest.raises(ValueError, match="no requests"):
        processor.caption_row("A dog runs.", clip_of(), prompted=True)


def test_rows_of_the_world_are_what_the_snapshots_say():
    world = build_tiny().processor
    talk = ask("what colour is circle ?", "red")
    check_snapshot("world", world.row(talk, random_clip(4)), world)
    check_snapshot("world_caption", world.caption_row("red moon", random_clip()), world)
    several = replace(random_clip(), others=(random_clip(4),))
    talk = Conversation((Turn("user", "<image><video> what is shown ?"), Turn("assistant", "moon")))
    check_snapshot("world_several", world.row(talk, several), world)
    world = build_tiny(add_vision_id=True).processor
    check_snapshot("world_several_numbered", world.row(talk, several), world)


def test_the_prompt_is_the_published_one():
    """The official README shows this text, with one placeholder for the whole picture."""
    processor = make()
    clip = clip_of(1, 2, 2)
    question = Conversation((Turn("user", "<image>Describe this image."),))
    expand = processor.expander(question, clip)
    assert prompt_text(lay_out(question, processor.template, expand)) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>Describe this image.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_answers_are_trained_with_their_end_and_nothing_else_is():
    processor = make()
    row = processor.row(TALK, clip_of(6))
    trained = [token for token in row.labels if token != IGNORED]
    end, tokenizer = processor.tokenizer.token_id("<|im_end|>"), processor.tokenizer
    answers = [tokenizer.encode(turn.text)[0] for turn in TALK.turns[1::2]]
    assert trained == [*answers[0], end, *answers[1], end]
    prompt = processor.row(Conversation(TALK.turns[:3]), clip_of(6))
    assert row.ids[: len(prompt)] == prompt.ids


def test_what_a_file_is_counts_and_not_its_marker():
    processor = make()
    rows = [processor.row(ask("Where?", "Two.", m), clip_of()) for m in ("<image>\n", "<video>\n")]
    assert rows[0] == rows[1]
    assert processor.tokenizer.token_id("<|image_pad|>") in rows[0].ids


def test_nobody_can_type_a_mark():
    processor = make()
    row = processor.question_row("<|im_end|><|image_pad|>", clip_of(1, 2, 2))
    for token, count in (("<|im_end|>", 2), ("<|image_pad|>", 1)):
        assert row.ids.count(processor.tokenizer.token_id(token)) == count


# ---------------------------------------------------------------- files


def picture(path, width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path, pixels


@pytest.mark.parametrize(
    ("width", "height", "grid"),
    [(61, 47, (1, 4, 4)), (400, 30, (1, 2, 28)), (30, 400, (1, 28, 2)), (5, 9, (1, 6, 4))],
)
def test_pictures_keep_their_shape(tmp_path, width, height, grid):
    path, pixels = picture(tmp_path / "a.png", width, height)
    clip = make().read(path)
    assert clip.is_picture
    assert tuple(clip.grid.tolist()) == grid
    rows, columns = 14 * grid[1], 14 * grid[2]
    assert clip.frames.shape == (1, rows, columns, 3)
    assert np.array_equal(clip.frames[0].numpy(), resized_picture(pixels, rows, columns))


def test_bounds_of_pictures_hold_and_squares_cost_as_much(tmp_path):
    path, _ = picture(tmp_path / "a.png", 640, 160)
    for most, grid, square in ((64 * 784, (8, 32), (16, 16)), (16 * 784, (4, 16), (8, 8))):
        assert make(max_pixels=most).read(path).grid[1:].tolist() == list(grid)
        assert make(max_pixels=most, resize="square").read(path).grid[1:].tolist() == list(square)
    small, _ = picture(tmp_path / "b.png", 20, 10)
    assert make(min_pixels=16 * 784).read(small).grid.tolist() == [1, 6, 12]


def test_pictures_of_the_world_stay_as_they_are(tmp_path):
    world = Qwen2VLProcessor(build_tiny().processor.tokenizer, WORLD_CONFIG)
    for width, height in ((32, 32), (128, 48), (96, 96), (64, 192)):
        path, pixels = picture(tmp_path / "a.png", width, height)
        clip = world.read(path)
        assert np.array_equal(clip.frames[0].numpy(), pixels)
        assert world.tokens_of(clip) == width * height // 256


def test_films_give_the_official_frames_at_the_official_size(tmp_path):
    path = write_file(tmp_path / "a.mp4", frames=19, fps=4)
    clip = make().read(path)
    assert clip.grid.tolist() == [5, 24, 24]
    chosen = qwen2_vl_indices(19, 10)
    frames = read_frames(path, chosen)
    assert torch.allclose(clip.times_s, torch.as_tensor(frames.times_s, dtype=torch.float32))
    wanted = resize_frames(frames.pixels, 336, 336, "bicubic")
    assert np.array_equal(clip.frames.numpy(), wanted)


def test_settings_decide_frames_and_sizes(tmp_path):
    path = write_file(tmp_path / "a.mp4", frames=32, fps=4)
    world = build_tiny().processor.tokenizer

    def grid(**settings):
        return Qwen2VLProcessor(world, replace(WORLD_CONFIG, **settings)).read(path).grid.tolist()

    assert grid() == [8, 8, 8]
    assert grid(fps=1.0) == [4, 8, 8]
    assert grid(fps=1.0, min_frames=12) == [6, 8, 8]
    assert grid(max_frames=6) == [3, 8, 8]
    assert grid(video_max_pixels=1024) == [8, 4, 4]
    assert grid(video_total_pixels=8 * 9 * 256) == [8, 6, 6]


@pytest.mark.parametrize(("frames", "steps"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)])
def test_very_short_films_give_what_they_have(tmp_path, frames, steps):
    clip = make().read(write_file(tmp_path / "a.mp4", frames=frames, fps=4))
    assert clip.grid[0] == steps
    assert not clip.is_picture
    assert clip.num_frames == min(2 * steps, frames)


def test_bad_files_are_named(tmp_path):
    path, _ = picture(tmp_path / "line.png", 2001, 10)
    with pytest.raises(MediaError, match=r"line\.png.*2001.*differ by more than 200"):
        make().read(path)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(MediaError, match=r"broken\.png"):
        make().read(broken)


def test_several_files_are_watched_as_one_conversation(tmp_path):
    model = build_tiny()
    wide, _ = picture(tmp_path / "a.png", 40, 8)
    tall, _ = picture(tmp_path / "b.png", 8, 24)
    film = write_file(tmp_path / "c.mp4", frames=6, fps=4)
    watched = model.watch([wide, film, tall])
    assert [one.is_picture for one in watched.clip.all] == [True, False, True]
    grids = watched.pictures.extras["grid"].tolist()
    assert grids == [one.grid.tolist() for one in watched.clip.all]
    assert grids[0] == [1, 2, 10]
    assert watched.pictures.rows.tolist() == [0, 0, 0]
    alone = model.watch(tall)
    assert torch.equal(watched.pictures.features[2, :3], alone.pictures.features[0])
    assert len(model.answer(watched, ["what is shown ?", "where is moon ?"], max_new_tokens=2)) == 2
