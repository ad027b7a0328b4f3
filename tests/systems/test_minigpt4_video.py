"""MiniGPT4-video: merging, LoRA, stages, files with and without subtitles, answers."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from sounding_clips import write_file
from torch.testing import assert_close

from vlmcourse.conversation import PICTURE, Turn, ask
from vlmcourse.errors import UserError
from vlmcourse.media.errors import MediaError
from vlmcourse.media.subtitles import Cue
from vlmcourse.row_packing import pack
from vlmcourse.systems import build
from vlmcourse.systems.batch import collate, one_medium, stack_media
from vlmcourse.systems.minigpt4_video_stages import linear_first
from vlmcourse.systems.processor import Clip
from vlmcourse.systems.stages import set_trainable

PAIRS = [("where is red star ?", "top left"), ("what happens first ?", "red star jumps")]
SAID = (Cue(1.0, 2.0, "red star is called anna"), Cue(2.5, 3.0, "blue moon is called bob"))
SRT = "1\n00:00:01,000 --> 00:00:02,000\nred star is called anna\n"


def clip_of(frames=4, cues=SAID):
    """The facts of a clip, and random features for it."""
    clip = Clip(torch.arange(float(frames)), None, float(frames), cues=tuple(cues))
    return clip, torch.randn(frames, 64, 96)


def training_batch(model, clips, pairs=PAIRS):
    rows = [
        model.processor.row(ask(*pair), clip) for pair, (clip, _) in zip(pairs, clips, strict=True)
    ]
    media = stack_media([one_medium(features, clip.times_s) for clip, features in clips])
    return collate(rows, model.processor.tokenizer.pad_id, media)


# ---------------------------------------------------------------- stages


def variants(model):
    return {"official": model.stages("world"), "linear_first": linear_first(model.stages("world"))}


@pytest.mark.parametrize("recipe", ["official", "linear_first"])
@pytest.mark.parametrize("number", [0, 3])
def test_one_step_moves_exactly_what_the_stage_names(tiny_minigpt4_video, recipe, number):
    model = tiny_minigpt4_video()
    stage = variants(model)[recipe][number]
    expected = {"llama_proj.weight", "llama_proj.bias"}
    if recipe == "official" or stage.name.startswith("video_"):
        expected |= {n for n, _ in model.named_parameters() if ".lora_" in n}
    assert set(set_trainable(model, stage.trains)) == expected
    before = {name: value.clone() for name, value in model.state_dict().items()}
    chosen = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(chosen, lr=0.01)
    model.train()
    model(training_batch(model, [clip_of(), clip_of()])).loss.backward()
    optimiser.step()
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert moved == expected


def test_one_batch_is_learned_by_heart(tiny_minigpt4_video):
    model = tiny_minigpt4_video(lora_b=0.0)
    set_trainable(model, model.stages("world")[3].trains)
    batch = training_batch(model, [clip_of(), clip_of(3)])
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    first = model(batch).loss.item()
    for _ in range(80):
        optimiser.zero_grad()
        result = model(batch)
        result.loss.backward()
        optimiser.step()
    assert result.loss.item() < 0.2 < first
    assert result.correct.all()


def test_lora_drops_out_in_training_alone_and_only_where_it_trains(tiny_minigpt4_video):
    model = tiny_minigpt4_video(lora_dropout=0.5)
    batch = training_batch(model, [clip_of(), clip_of()])

    def same_twice(patterns, mode):
        set_trainable(model, patterns)
        model.train(mode)
        return torch.equal(model(batch).token_loss, model(batch).token_loss)

    official, paper = (x[0].trains for x in variants(model).values())
    assert not same_twice(official, True)
    assert same_twice(official, False)
    assert same_twice(paper, True)


def test_a_fresh_model_answers_as_its_language_model_does_without_lora(tiny_minigpt4_video):
    fresh, none = (tiny_minigpt4_video(lora_b=0.0, lora_rank=rank) for rank in (4, 0))
    weights = none.state_dict()
    renamed = {n.replace("base_layer.", ""): t for n, t in fresh.state_dict().items()}
    none.load_state_dict({name: renamed[name] for name in weights})
    batch = training_batch(fresh, [clip_of(), clip_of()])
    assert torch.equal(fresh.logits(batch), none.logits(batch))
    assert type(fresh.language_model).__name__ == "LlamaForCausalLM"


@pytest.mark.parametrize(
    ("layout", "trained", "frames", "context"),
    [("llama2", 56_627_200, 45, 3700), ("mistral", 50_335_744, 90, 7500)],
)
def test_paper_size_on_the_meta_device(layout, trained, frames, context):
    model = build("minigpt4_video", "paper", "meta", layout=layout)
    assert all(p.is_meta for p in model.parameters())
    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
    assert counts["vision_encoder"] == 985_894_528 + 2 * 1408
    assert counts["llama_proj"] == 4 * 1408 * 4096 + 4096
    language = {"llama2": 6_738_415_616, "mistral": 7_241_732_096}[layout]
    assert counts["language_model"] == language + trained - counts["llama_proj"]
    for stage in model.stages("paper"):
        set_trainable(model, stage.trains)
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained
    settings = model.answer_settings
    assert settings["context"] - settings["max_new_tokens"] == context
    assert settings["repetition_penalty"] == 1.5
    assert model.config.num_frames == frames
    with torch.device("meta"):
        features = model.encode_frames(torch.empty(2, 3, 224, 224))[None]
        assert features.shape == (1, 2, 256, 1408)
        there = torch.ones(1, 2, dtype=torch.bool)
        tokens, mask = model.connect(features, there, torch.zeros(1, 2))
    assert tokens.shape == (1, 2 * 64, 4096)
    assert mask.shape == (1, 2 * 64)


def test_pictures_have_the_colours_of_imagenet():
    from vlmcourse.backbones.eva_clip import EvaClipEncoder
    from vlmcourse.systems.minigpt4_video import EYES

    encoder = EvaClipEncoder(replace(EYES, image_size=14, hidden_size=16, num_layers=1))
    grey = encoder.preprocess(torch.full((1, 20, 30, 3), 128, dtype=torch.uint8))
    assert grey.shape == (1, 3, 14, 14)
    expected = [(128 / 255 - m) / s for m, s in zip(EYES.mean, EYES.std)]
    assert_close(grey[0, :, 5, 5], torch.tensor(expected))
    assert EYES.mean == (0.485, 0.456, 0.406)


# ---------------------------------------------------------------- frames, tokens, rows


@pytest.mark.parametrize(("frames", "merge"), [(4, 2), (8, 4), (16, 8), (32, 16)])
def test_the_same_number_of_places_from_many_frames_or_many_tokens(
    tiny_minigpt4_video, frames, merge
):
    model = tiny_minigpt4_video(num_frames=frames, merge=merge)
    clip, features = clip_of(frames)
    row = model.processor.row(ask(*PAIRS[0]), clip)
    assert row.kinds.count(PICTURE) == 128
    loss = model(collate([row], 0, one_medium(features))).loss
    assert torch.isfinite(loss)


@pytest.mark.parametrize("merge_by", ["mean", "first"])
def test_other_ways_of_merging_have_as_many_places(tiny_minigpt4_video, merge_by):
    model = tiny_minigpt4_video(merge_by=merge_by)
    assert model.llama_proj.in_features == 96
    assert torch.isfinite(model(training_batch(model, [clip_of(), clip_of()])).loss)


def test_rows_of_a_batch_are_as_alone(tiny_minigpt4_video):
    model = tiny_minigpt4_video()
    clips = [clip_of(4), clip_of(2, cues=())]
    both = model(training_batch(model, clips))
    for row, clip in enumerate(clips):
        alone = model(training_batch(model, [clip], PAIRS[row : row + 1]))
        assert_close(both.token_loss[both.rows == row], alone.token_loss, atol=1e-5, rtol=1e-5)


def test_packed_questions_are_as_apart(tiny_minigpt4_video):
    model = tiny_minigpt4_video()
    clip, features = clip_of()
    rows = [model.processor.row(ask(*pair), clip) for pair in PAIRS]
    packed = model(collate([pack(rows)], 0, one_medium(features)))
    apart = [model(collate([row], 0, one_medium(features))).token_loss for row in rows]
    assert_close(packed.token_loss, torch.cat(apart), atol=1e-5, rtol=1e-5)


def test_a_row_may_hold_several_pictures_and_another_none(tiny_minigpt4_video):
    model = tiny_minigpt4_video(layout="llama2")
    process, features = model.processor, torch.randn(3, 64, 96)
    two, one = Clip(torch.zeros(2)), Clip(torch.zeros(1))
    talk = ask("is it in <image> ?", "no", marker="<image>\nwhat is in ")
    text = process.text_row(ask(*PAIRS[1], marker=""))
    rows = [process.row(talk, two), process.row(ask(*PAIRS[0]), one), text]
    media = stack_media([one_medium(features[:2]), one_medium(features[2:])], rows=[0, 1])
    result = model(collate(rows, 0, media))
    assert rows[0].kinds.count(PICTURE) == 2 * 16
    places = [i for i, kind in enumerate(rows[0].kinds) if kind == PICTURE]
    assert places[16] > places[15] + 1  # words between the pictures
    single = stack_media([one_medium(f[None]) for f in features], rows=[0, 0, 1])
    assert_close(model(collate(rows, 0, single)).token_loss, result.token_loss)
    alone = model(collate(rows[:1], 0, one_medium(features[:2])))
    assert_close(result.token_loss[result.rows == 0], alone.token_loss, atol=1e-5, rtol=1e-5)


def test_cut_rows_fill_the_places_that_are_left(tiny_minigpt4_video):
    model = tiny_minigpt4_video(layout="llama2", official_cut=True, max_context=40)
    clips = [clip_of(4, ()), clip_of(1, ())]
    batch = training_batch(model, clips)
    left = (batch.kinds == PICTURE).sum(1)
    assert 16 < left[0] < 32  # the cut goes through the second of four frames
    assert left[1] == 16
    whole = tiny_minigpt4_video(layout="llama2")
    other = training_batch(whole, clips)
    end = 1 + 40
    assert_close(model.embed(batch)[0, :end], whole.embed(other)[0, :end])
    assert torch.isfinite(model(batch).loss)


# ---------------------------------------------------------------- files


@pytest.fixture
def film(tmp_path):
    path = write_file(tmp_path / "film.mp4", frames=32, seconds=8)
    path.with_suffix(".srt").write_text(SRT)
    return path


def test_a_video_is_read_with_what_is_said_in_it(tiny_minigpt4_video, film, tmp_path):
    model = tiny_minigpt4_video(num_frames=8)
    watched = model.watch(film)
    assert watched.clip.times_s.tolist() == list(range(8))
    assert watched.clip.cues == SAID[:1]
    assert watched.pictures.features.shape == (1, 8, 64, 96)
    prompt = [model.processor.question_row("where ?", c) for c in (
        watched.clip, replace(watched.clip, cues=()), replace(watched.clip, cues=SAID[1:]),
    )]  # fmt: skip
    said = len(["said", ":", *SAID[0].text.split(), "."])
    assert len(prompt[0]) == len(prompt[1]) + said == len(prompt[2])
    assert prompt[0].ids != prompt[2].ids
    silent = model.watch(write_file(tmp_path / "silent.mp4", frames=3))
    assert silent.clip.cues == ()
    assert model.answer(silent, ["where ?"], max_new_tokens=2)
    deaf = tiny_minigpt4_video(num_frames=8, subtitles=False)
    assert deaf.watch(film).clip.cues == ()
    assert len(deaf.processor.question_row("where ?", watched.clip)) == len(prompt[1])


def test_a_picture_is_a_clip_of_one_frame(tiny_minigpt4_video, tmp_path):
    from PIL import Image

    model = tiny_minigpt4_video()
    Image.new("RGB", (96, 50), (200, 30, 30)).save(tmp_path / "red.png")
    watched = model.watch(tmp_path / "red.png")
    assert watched.clip.is_picture
    assert watched.clip.frames.shape == (1, 64, 64, 3)
    assert watched.clip.frames[0, 30, 30].tolist() == [200, 30, 30]
    assert model.answer(watched, ["what colour is star ?"], max_new_tokens=2)


def test_bad_files_are_told(tiny_minigpt4_video, film, tmp_path):
    read = tiny_minigpt4_video().processor.read
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(MediaError, match=r"broken\.mp4"):
        read(tmp_path / "broken.mp4")
    film.with_suffix(".srt").write_text("1\n00:00:01 --> 2\nhello\n")
    with pytest.raises(MediaError, match=r"film\.srt: line 2"):
        read(film)


def test_short_videos_repeat_their_last_frame_where_the_official_code_does(
    tiny_minigpt4_video, tmp_path
):
    path = write_file(tmp_path / "short.mp4", frames=3)
    path.with_suffix(".srt").write_text(SRT)

    def frames(training, **settings):
        processor = tiny_minigpt4_video(num_frames=8, **settings).processor
        return (processor.read_for_training(path, 0) if training else processor.read(path)).times_s

    assert frames(True).tolist() == frames(False).tolist() == [0.0, 0.25, 0.5]
    repeated = [0.0, 0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert frames(True, official_repeat=True).tolist() == repeated
    assert frames(False, official_repeat=True).tolist() == [0.0, 0.25, 0.5]
    assert tiny_minigpt4_video(official_repeat=True).processor.draws  # or training would not ask
    assert not tiny_minigpt4_video().processor.draws
    benchmark = {"official_repeat": True, "official_prompt": "benchmark"}
    assert frames(False, **benchmark).tolist() == repeated


def test_official_captions_lose_what_the_official_code_loses(tiny_minigpt4_video, film):
    film.with_suffix(".srt").write_text(
        SRT + "\n2\n00:00:07,200 --> 00:00:07,900\nbye\n"
        "\n3\n00:00:03,000 --> 00:00:03,500\nred star is called anna\n"
    )

    def said(**settings):
        processor = tiny_minigpt4_video(num_frames=8, **settings).processor
        clip = processor.read(film)
        row = processor.question_row("where ?", clip)
        names = processor.tokenizer.inner.convert_ids_to_tokens
        return [w for w, kind in zip(names(row.ids), row.kinds) if kind == 0]

    assert said().count("anna") == 2  # said twice
    assert said().count("said") == 3  # and the word behind the last frame
    assert said(official_captions="infer").count("said") == 1
    assert said(official_captions="train").count("called") == 1
    with pytest.raises(UserError, match="official_captions is one of None, infer, train, evaluate"):
        tiny_minigpt4_video(official_captions="yes")


# ---------------------------------------------------------------- answers


def test_answers_in_a_batch_are_those_one_by_one_with_and_without_shared_cache(tiny_minigpt4_video):
    model = tiny_minigpt4_video()
    clip, features = clip_of()
    watched = model.remember(features, clip)
    questions = ["where is red star ?", "what is blue moon called ?", "how many events are there ?"]
    together = model.answer(watched, questions, max_new_tokens=6)
    apart = model.answer(watched, questions, max_new_tokens=6, share_prefix=False)
    alone = [model.answer(watched, [q], max_new_tokens=6)[0] for q in questions]
    assert together == apart == alone
    by_hand = []
    batch = collate([model.processor.question_row(questions[0], clip)], 0, watched.pictures)
    embeddings = model.embed(batch)
    for _ in range(6):  # the whole forward for every token
        logits = model.language_model(inputs_embeds=embeddings).logits[0, -1]
        by_hand.append(int(logits.argmax()))
        embeddings = torch.cat([embeddings, model.embed_text(logits.argmax()[None, None])], 1)
    assert together[0] == model.processor.answer_text(by_hand)
    history = [model.processor.question_turn("where ?"), Turn("assistant", "top left")]
    assert model.answer(watched, ["when ?"], history, max_new_tokens=2)


def test_the_world_preset_stands_on_the_shipped_foundations(film):
    model = build("minigpt4_video", num_frames=4, merge=2)
    watched = model.watch(film)
    assert watched.clip.times_s.tolist() == [0, 2, 4, 6]
    asked = ["what is red star called ?", "where is red star ?"]
    assert model.answer(watched, asked, max_new_tokens=3)[0] == "anna"  # read, not seen
    other = replace(watched, clip=replace(watched.clip, cues=()))
    assert model.answer(other, asked, max_new_tokens=3)[0] != "anna"
    for stage in model.stages("world"):
        assert len(set_trainable(model, stage.trains)) == 2 + 4 * 4
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert frozen == 321_048 + 799_872


def test_options_change_the_settings_and_unknown_ones_are_named():
    model = build("minigpt4_video", "paper", "meta", lora_rank=0, merge_by="mean")
    assert model.llama_proj.in_features == 1408
    assert not any("lora" in name for name, _ in model.named_parameters())
    with pytest.raises(UserError, match=r"unknown option frames\. Known: num_frames"):
        build("minigpt4_video", "paper", "meta", frames=8)
    with pytest.raises(UserError, match="layouts are llama2, mistral, not 'world'"):
        build("minigpt4_video", "paper", "meta", layout="world")
    with pytest.raises(UserError, match="merge=5 does not divide 64"):
        build("minigpt4_video", merge=5)
    with pytest.raises(UserError, match="official_prompt is one of None, chat, benchmark"):
        build("minigpt4_video", official_prompt="yes")


def test_importing_the_system_does_not_import_transformers_or_peft():
    code = (
        "import sys, vlmcourse.systems.minigpt4_video, vlmcourse.checkpoints.minigpt4_video;"
        "sys.exit('transformers' in sys.modules or 'peft' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
