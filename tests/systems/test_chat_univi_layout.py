"""How Chat-UniVi reads files and writes conversations: frames, squares, snapshots, labels."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from described_rows import described
from PIL import Image
from sounding_clips import write_file
from tiny_chat_univi import build_tiny, random_clip, vicuna_processor

from vlmcourse.conversation import IGNORED, TEXT, Conversation, Turn, ask, lay_out, prompt_text
from vlmcourse.errors import UserError
from vlmcourse.media.errors import MediaError
from vlmcourse.systems.chat_univi_processor import laid_out_text
from vlmcourse.systems.video_chatgpt_labels import length_counted_labels

HERE = Path(__file__).parent
TALK = Conversation(
    (
        Turn("user", "<video>\nwhat is the man doing?"),
        Turn("assistant", "he is riding a red bike."),
        Turn("user", "where?"),
        Turn("assistant", "in a park."),
    )
)
SEVERAL = Conversation(
    (
        Turn("user", "<image>\nwhat is this? <video>\nand this?"),
        Turn("assistant", "a bike."),
        Turn("user", "<image>\nand the last?"),
        Turn("assistant", "a red bike."),
    )
)
PICTURE = random_clip(1)


def check_snapshot(name, row, processor):
    tokenizer = processor.tokenizer
    inner = getattr(tokenizer, "inner", None)
    text = described(row, inner.convert_ids_to_tokens if inner else tokenizer.token)
    path = HERE / "snapshots" / f"chat_univi_{name}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize(
    ("name", "talk", "clip"),
    [
        ("video", TALK, random_clip(8)),
        ("picture", ask("what is this?", "a bike.", "<image>\n"), PICTURE),
        ("two_frames", ask("what is this?", "a bike."), random_clip(2)),
        ("several", SEVERAL, replace(PICTURE, others=(random_clip(5), random_clip(1)))),
    ],
)
def test_rows_are_what_the_snapshots_say(name, talk, clip):
    processor = vicuna_processor()
    check_snapshot(name, processor.row(talk, clip), processor)


def test_questions_captions_and_texts_are_what_the_snapshots_say():
    for prompt in ("v1", "simple", "simpleqa"):
        processor = vicuna_processor(prompt=prompt)
        row = processor.question_row("what is this?", PICTURE)
        check_snapshot(f"question_{prompt}", row, processor)
    check_snapshot("caption", processor.caption_row("a bike.", PICTURE, "picture"), processor)
    check_snapshot("text", processor.text_row(ask("where?", "here.", "")), processor)
    with pytest.raises(ValueError, match="no requests"):
        processor.caption_row("a bike.", PICTURE, prompted=True)


def test_rows_of_the_world_are_what_the_snapshots_say():
    world = build_tiny().processor
    check_snapshot("world", world.row(ask("what colour is circle ?", "red"), random_clip(8)), world)
    check_snapshot("world_caption", world.caption_row("red moon", PICTURE, "picture"), world)
    talk = Conversation((Turn("user", "<image><video> what is shown ?"), Turn("assistant", "moon")))
    several = replace(PICTURE, others=(random_clip(8),))
    check_snapshot("world_several", world.row(talk, several), world)


def test_the_prompts_are_the_published_ones():
    asked = ask("What is it?", marker="<image>")
    processor = vicuna_processor(temporal_rate=1.0, spatial_rates=(2,))
    told = {}
    for name in ("v1", "simple", "simpleqa"):
        template = vicuna_processor(prompt=name).answer_template
        turns = tuple(replace(turn, text=laid_out_text(turn.text)) for turn in asked.turns)
        pieces = lay_out(
            Conversation(turns), template, lambda kind: processor.expand(kind, PICTURE)
        )
        told[name] = prompt_text(pieces)
    end = "questions. USER: <unk><unk>\nWhat is it? ASSISTANT:"
    assert told["v1"].startswith("<s>A chat between a curious user and an artificial intelligence")
    assert told["v1"].endswith(f"polite answers to the user's {end}")
    assert told["simple"].endswith(
        "polite answers to the human's questions.###Human: Hi!###Assistant: Hi there! How can I "
        "help you today?###Human: <unk><unk>\nWhat is it?###Assistant:"
    )
    assert "human's questions.   If you don't know the answer" not in told["simpleqa"]
    assert "human's questions.  If you don't know the answer to a question, pl" in told["simpleqa"]
    assert told["simpleqa"].endswith("slope.###Human: <unk><unk>\nWhat is it?###Assistant:")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("<image>\nwhat?", "<image>\nwhat?"),
        ("what?\n<image>", "<image>\nwhat?"),
        ("what?\n<video>", "<video>\nwhat?"),
        ("what?<video>\n", "<video>\nwhat?"),
        ("<video>\n\nwhat?", "<video>\nwhat?"),
        ("see\n<image>\nthen what?", "see<image>\nthen what?"),
        ("both? <image>\n<image>", "<image>\n<image>\nboth?"),
        ("this? <image>\nor this? <image>", "this? <image>\nor this? <image>\n"),
        ("<image>", "<image>\n"),
        ("nothing\n\nhere", "nothing\n\nhere"),
    ],
)
def test_a_line_break_follows_each_picture_and_late_pictures_come_in_front(text, wanted):
    assert laid_out_text(text) == wanted


def test_answers_are_trained_with_their_end_and_nothing_else_is():
    processor = vicuna_processor()
    tokenizer, row = processor.tokenizer, processor.row(TALK, random_clip(8))
    trained = [token for token in row.labels if token != IGNORED]
    end = tokenizer.token_id("</s>")
    answers = [tokenizer.encode(turn.text)[0] for turn in TALK.turns[1::2]]
    assert trained == [*answers[0], end, *answers[1], end]


def test_labels_are_those_of_the_official_rule():
    """Which counts tokens with one placeholder a frame; places here are many."""
    processor = vicuna_processor("fast")
    tokenizer, clip = processor.tokenizer, random_clip(8)
    row = processor.row(TALK, clip)
    places = [i for i, kind in enumerate(row.kinds) if kind != TEXT]
    kept = [i for i in range(len(row)) if i not in places[clip.num_frames :]]
    turns = tuple(replace(turn, text=laid_out_text(turn.text)) for turn in TALK.turns)
    pieces = lay_out(Conversation(turns), processor.template, lambda kind: ())
    mark = "<image>" * clip.num_frames
    prompt = prompt_text(pieces[1:]).replace("USER: \n", f"USER: {mark}\n", 1)

    def count(text):
        chunks = text.split("<image>")
        return len(chunks) + sum(len(tokenizer.encode(chunk)[0]) for chunk in chunks if chunk)

    ids, padding = [row.ids[i] for i in kept], -1  # the tiny tokenizer knows no line break
    wanted = length_counted_labels(prompt, ids, count, padding, 2048)
    assert [row.labels[i] for i in kept] == wanted
    assert sum(label != IGNORED for label in wanted) > 5


def test_a_row_is_cut_as_if_every_frame_were_one_token():
    processor, clip = vicuna_processor(), random_clip(8)
    whole = processor.row(TALK, clip)
    extra = processor.tokens_of(clip) - 8
    cut = processor.row(TALK, clip, max_length=len(whole) - extra - 3)
    assert cut.ids == whole.ids[:-3]
    assert processor.row(TALK, clip, max_length=len(whole) - extra).ids == whole.ids


def test_the_length_alone_decides_how_many_tokens_a_video_costs():
    released = vicuna_processor(
        num_patches=256, spatial_rates=(64, 32, 16), spatial_ks=(5, 3, 3), temporal_rate=1 / 16
    )
    lengths = {1: 112, 2: 224, 3: 112, 16: 112, 17: 224, 32: 224, 33: 336, 64: 448, 100: 784}
    for frames, tokens in lengths.items():
        assert released.tokens_of(random_clip(frames, side=8)) == tokens
    fixed = vicuna_processor(temporal_rate=4)
    counts = [fixed.tokens_of(random_clip(n, side=8)) for n in (3, 4, 9)]
    assert counts == [3 * 12, 4 * 12, 4 * 12]


def test_shares_of_tokens_are_for_pictures():
    processor = vicuna_processor(spatial_rates=(0.5, 0.5, 1))
    assert processor.tokens_of(PICTURE) == 8 + 4 + 4
    with pytest.raises(UserError, match="tokens are not known"):
        processor.tokens_of(random_clip(8))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"spatial_rates": (17, 4, 2)}, r"spatial_rates \(17, 4, 2\).*17 clusters of 16"),
        ({"spatial_rates": (4, 8, 2)}, "8 clusters of 4"),
        ({"spatial_rates": (0, 4)}, "not a list of whole numbers or shares"),
        ({"spatial_rates": 16}, "not a list"),
        ({"spatial_ks": (0.5, 1, 1)}, "not a list of whole numbers above"),
        ({"spatial_rates": (8, 4, 2, 2)}, "4 spatial_rates, but 3 spatial_ks"),
        ({"temporal_rate": 0.0}, "temporal_rate must be above 0"),
        ({"merging": "mean"}, "'mean', not one of dpc_knn, grid, random"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, told):
    with pytest.raises(UserError, match=told):
        vicuna_processor(**settings)


def test_what_a_file_is_counts_and_not_its_marker():
    processor = vicuna_processor()
    rows = [processor.row(ask("where?", "here.", m), PICTURE) for m in ("<image>\n", "<video>\n")]
    assert rows[0] == rows[1]


def test_nobody_can_type_a_place():
    processor = vicuna_processor("fast")
    row = processor.question_row("<unk><unk>?", PICTURE)
    assert sum(kind != TEXT for kind in row.kinds) == 12


# ---------------------------------------------------------------- files


def picture(path, width, height):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize(("width", "height"), [(61, 47), (30, 75), (224, 224), (500, 333)])
def test_pictures_are_cut_as_transformers_cuts_them(tmp_path, width, height):
    from transformers import CLIPImageProcessor

    from vlmcourse.backbones.clip import ClipConfig, ClipEncoder

    path = picture(tmp_path / "a.png", width, height)
    clip = vicuna_processor(image_size=224).read(path)
    assert clip.is_picture
    assert clip.frames.shape == (1, 224, 224, 3)
    theirs = CLIPImageProcessor()(Image.open(path), return_tensors="pt")["pixel_values"]
    encoder = ClipEncoder(ClipConfig(8, 8, 1, 1))
    torch.testing.assert_close(encoder.preprocess(clip.frames), theirs, atol=1e-5, rtol=0)


def test_films_give_a_frame_a_second(tmp_path):
    path = write_file(tmp_path / "a.mp4", frames=42, fps=4)
    clip = vicuna_processor().read(path)
    assert clip.times_s.tolist() == [float(second) for second in range(11)]
    assert clip.frames.shape == (11, 8, 8, 3)
    assert not clip.is_picture
    few = vicuna_processor(num_frames=4).read(path)
    assert few.times_s.tolist() == [0.0, 3.0, 6.0, 10.0]
    assert torch.equal(few.frames, clip.frames[[0, 3, 6, 10]])


def test_films_of_the_world_stay_as_they_are(tmp_path):
    path = write_file(tmp_path / "a.mp4", frames=20, fps=1)
    clip = build_tiny().processor.read(path)
    assert clip.frames.shape == (20, 64, 64, 3)


def test_one_frame_of_a_film_is_a_picture(tmp_path):
    processor = vicuna_processor()
    clip = processor.read(write_file(tmp_path / "a.mp4", frames=2, fps=4))
    assert clip.num_frames == 1
    assert processor.tokens_of(clip) == 12


def test_bad_files_are_named(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(MediaError, match=r"broken\.png"):
        vicuna_processor().read(broken)
