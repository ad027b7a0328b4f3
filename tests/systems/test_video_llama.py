"""Video-LLaMA: branches, stages, files with and without sound, answers."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from sounding_clips import write_file
from torch.testing import assert_close

from vlmcourse.conversation import Turn, ask
from vlmcourse.errors import UserError
from vlmcourse.media.errors import MediaError
from vlmcourse.systems import build
from vlmcourse.systems.batch import Media, collate, stack_media
from vlmcourse.systems.generation import TextStream, stop_at
from vlmcourse.systems.processor import Clip, Given
from vlmcourse.systems.stages import set_trainable

PAIRS = [("where ?", "left"), ("what happens at first ?", "red")]
SEEN, HEARD = Given("pictures", None), Given(None, "sounds")
IMAGINED, BOTH = Given(None, "sound_pictures"), Given("pictures", "sounds")
BRANCH = {
    "vision": ("frame_position.", "video_qformer.", "llama_proj."),
    "audio": ("audio_position.", "audio_qformer.", "audio_llama_proj."),
}


def clip_of(frames=8, sounds=8, given=BOTH):
    """The facts of a clip, and random streams for it."""
    times = torch.arange(float(frames))
    clip = Clip(times, None, 8.0, sound_times_s=torch.arange(float(sounds)), given=given)
    streams = {
        "pictures": torch.randn(frames, 3, 16),
        "sounds": 20 * torch.nn.functional.normalize(torch.randn(sounds, 1, 12), dim=-1),
        "sound_pictures": torch.nn.functional.normalize(torch.randn(frames, 1, 12), dim=-1),
    }
    return clip, streams


def training_batch(model, clips, pairs=PAIRS):
    rows = [
        model.processor.row(ask(*pair), clip) for pair, (clip, _) in zip(pairs, clips, strict=True)
    ]
    media = [model.media(streams, clip) for clip, streams in clips]
    pictures, sounds = (
        stack_media(list(kind)) if kind[0] is not None else None for kind in zip(*media)
    )
    return collate(rows, model.processor.tokenizer.pad_id, pictures, sounds)


# ---------------------------------------------------------------- stages


@pytest.mark.parametrize("number", range(4))
def test_one_step_moves_exactly_what_the_stage_names(tiny_video_llama, number):
    model = tiny_video_llama()
    stage = model.stages("world")[number]
    branch = stage.name.split("_")[0]
    expected = {n for n, _ in model.named_parameters() if n.startswith(BRANCH[branch])}
    assert set(set_trainable(model, stage.trains)) == expected
    before = {name: value.clone() for name, value in model.state_dict().items()}
    chosen = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(chosen, lr=0.01, weight_decay=0.1)
    model.train()
    given = SEEN if branch == "vision" else IMAGINED
    model(training_batch(model, [clip_of(given=given), clip_of(given=given)])).loss.backward()
    optimiser.step()
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    # a key's bias adds the same to all scores of a query, so its gradient is rounding alone
    assert {n for n in moved if not n.endswith("key.bias")} == {
        n for n in expected if not n.endswith("key.bias")
    }
    assert moved <= expected


@pytest.mark.parametrize(("given", "stage"), [(SEEN, 1), (HEARD, 3)])
def test_each_branch_overfits_one_batch(tiny_video_llama, given, stage):
    model = tiny_video_llama(sound_scale=1.0)
    set_trainable(model, model.stages("world")[stage].trains)
    batch = training_batch(model, [clip_of(given=given), clip_of(given=given)])
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    first = model(batch).loss.item()
    for _ in range(150):
        optimiser.zero_grad()
        result = model(batch)
        result.loss.backward()
        optimiser.step()
    assert result.loss.item() < 0.2 < first
    assert result.correct.all()


def test_frozen_encoders_stay_in_eval_mode_while_the_video_qformer_drops_out(tiny_video_llama):
    model = tiny_video_llama(qformer_dropout=0.3)
    set_trainable(model, model.stages("world")[0].trains)
    model.train()
    pixels = torch.randn(2, 3, 64, 64)
    assert torch.equal(model.encode_frames(pixels), model.encode_frames(pixels))
    features, mask = torch.randn(1, 8, 3, 16), torch.ones(1, 8, dtype=torch.bool)
    tokens = [model.connect(features, mask, torch.zeros(1, 8))[0] for _ in range(2)]
    assert not torch.equal(*tokens)


def test_paper_size_on_the_meta_device():
    model = build("video_llama", "paper", "meta")
    assert all(p.is_meta for p in model.parameters())
    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()
    }
    assert counts["language_model"] == 6_738_415_616
    assert counts["vision_encoder"] == 985_894_528 + 2 * 1408
    assert counts["image_qformer"] == 105_137_664 + 32 * 768
    trained = []
    for stage in model.stages("paper"):
        set_trainable(model, stage.trains)
        trained.append(sum(p.numel() for p in model.parameters() if p.requires_grad))
    assert trained == [22_104_064, 22_104_064, 22_855_680, 22_855_680]
    assert model.answer_settings["top_p"] == 0.9
    with torch.device("meta"):
        there, times = torch.ones(2, 8, dtype=torch.bool), torch.zeros(2, 8)
        features = model.encode_frames(torch.empty(8, 3, 224, 224))
        assert features.shape == (8, 32, 768)
        tokens, _ = model.connect(features.expand(2, 8, 32, 768), there, times)
        heard, _ = model.connect_sound(torch.empty(2, 8, 1, 1024), there, times)
    assert tokens.shape == (2, 32, 4096)
    assert heard.shape == (2, 8, 4096)


def test_options_change_the_settings_and_unknown_ones_are_named():
    model = build("video_llama", "paper", "meta", num_video_queries=8, listens=False)
    assert model.video_qformer.queries.shape == (1, 8, 768)
    assert model.imagebind is None
    with pytest.raises(UserError, match=r"unknown option num_querys\. Known: .*num_video_queries"):
        build("video_llama", "paper", "meta", num_querys=8)
    with pytest.raises(UserError, match="unknown option num_video_queries"):
        build("video_chatgpt", "paper", "meta", num_video_queries=8)


def test_parts_that_do_not_fit_the_settings_are_refused(tiny_video_llama):
    with pytest.raises(UserError, match="image_width is 16 here, not 8"):
        tiny_video_llama(image_width=8)
    with pytest.raises(UserError, match="sound_width is 12 here, not 8"):
        tiny_video_llama(sound_width=8)


# ---------------------------------------------------------------- branches


def test_clips_of_different_lengths_in_one_batch_are_as_alone(tiny_video_llama):
    model = tiny_video_llama()
    clips = [clip_of(8, 8), clip_of(3, 5)]
    both = model(training_batch(model, clips))
    for row, clip in enumerate(clips):
        alone = model(training_batch(model, [clip], PAIRS[row : row + 1]))
        assert_close(both.token_loss[both.rows == row], alone.token_loss, atol=1e-5, rtol=1e-5)


def test_only_positions_tell_the_order_of_frames(tiny_video_llama):
    there = torch.ones(1, 8, dtype=torch.bool)
    features, times = torch.randn(1, 8, 3, 16), torch.zeros(1, 8)
    order = torch.randperm(8)
    for positions, same in ((False, True), (True, False)):
        model = tiny_video_llama(frame_positions=positions)
        one, other = (model.connect(f, there, times)[0] for f in (features, features[:, order]))
        assert torch.allclose(one, other, atol=1e-5) == same


def test_frame_positions_are_added_frame_by_frame(tiny_video_llama):
    model = tiny_video_llama()
    seen = {}
    model.video_qformer.register_forward_pre_hook(lambda _, args: seen.update(read=args))
    features, mask = torch.randn(1, 2, 3, 16), torch.tensor([[True, False]])
    model.connect(features, mask, torch.zeros(1, 2))
    read, visible = seen["read"]
    assert_close(read[0, 4], features[0, 1, 1] + model.frame_position.weight[1])
    assert visible.tolist() == [[True] * 3 + [False] * 3]


def test_more_frames_than_positions_are_refused(tiny_video_llama):
    model = tiny_video_llama(max_frames=4, num_sound_clips=4)
    there = torch.ones(1, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match="5 frames, and only 4 positions"):
        model.connect(torch.randn(1, 5, 3, 16), there, torch.zeros(1, 5))
    with pytest.raises(ValueError, match="5 clips, and only 4 positions"):
        model.connect_sound(torch.randn(1, 5, 1, 12), there, torch.zeros(1, 5))


def test_sound_is_twenty_times_as_long_unless_it_is_scaled(tiny_video_llama):
    model = tiny_video_llama()
    mel, pixels = torch.randn(2, 1, 128, 204), torch.randn(2, 3, 64, 64)
    heard, imagined = model.encode_sound(mel), model.encode_sound(pixels)
    assert heard.shape == imagined.shape == (2, 1, 12)
    assert_close(heard.norm(dim=-1), torch.full((2, 1), 20.0))
    assert_close(imagined.norm(dim=-1), torch.ones(2, 1))
    scaled = tiny_video_llama(sound_scale=1.0)
    there, times = torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2)
    loud, quiet = (scaled.connect_sound(x[None], there, times)[0] for x in (heard, heard / 20))
    assert_close(loud, quiet)


def test_maps_over_frames_and_tokens_come_out_on_request(tiny_video_llama):
    model = tiny_video_llama()
    mask = torch.ones(1, 8, dtype=torch.bool)
    read = model.read_frames(torch.randn(1, 8, 3, 16), mask, output_attentions=True)
    assert [m.shape for m in read.cross_attentions] == [(1, 2, 4, 24)] * 2
    assert_close(read.cross_attentions[0].sum(-1), torch.ones(1, 2, 4))


def test_a_conversation_without_a_picture_has_no_places(tiny_video_llama):
    model = tiny_video_llama()
    clip, streams = clip_of(given=Given(None, None))
    row = model.processor.row(ask(*PAIRS[0]), clip)
    assert not any(row.kinds)
    assert model.media(streams, clip) == (None, None)
    assert model.answer(model.remember(streams, clip), ["where ?"], max_new_tokens=2)


# ---------------------------------------------------------------- files


def test_a_file_gives_what_is_in_it(tiny_video_llama, tmp_path):
    model = tiny_video_llama()
    read = model.processor.read
    sounding = read(write_file(tmp_path / "both.mp4", frames=20, seconds=5))
    assert sounding.given == BOTH
    assert sounding.times_s.tolist() == [0.0, 0.5, 1.25, 1.75, 2.5, 3.0, 3.75, 4.25]
    assert sounding.sound.shape == (8, 1, 128, 204)
    silent = read(write_file(tmp_path / "silent.mp4", frames=3))
    assert silent.given == SEEN
    assert silent.sound is None
    assert silent.num_frames == 3
    heard = read(write_file(tmp_path / "heard.wav", seconds=3))
    assert heard.given == HEARD
    assert heard.num_frames == 0
    assert heard.duration_s == pytest.approx(3.0, abs=0.2)
    deaf = tiny_video_llama(listens=False).processor
    assert deaf.read(tmp_path / "both.mp4").sound is None
    with pytest.raises(MediaError, match=r"heard\.wav: holds nothing to see"):
        deaf.read(tmp_path / "heard.wav")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(MediaError, match=r"broken\.mp4"):
        read(tmp_path / "broken.mp4")


def test_a_picture_is_a_clip_of_one_frame(tiny_video_llama, tmp_path):
    from PIL import Image

    model = tiny_video_llama()
    Image.new("RGB", (90, 50), (200, 30, 30)).save(tmp_path / "red.png")
    watched = model.watch(tmp_path / "red.png")
    assert watched.clip.is_picture
    assert watched.clip.frames.shape == (1, 64, 64, 3)
    assert watched.clip.frames[0, 30, 30].tolist() == [200, 30, 30]
    assert watched.pictures.features.shape == (1, 1, 3, 16)
    assert model.answer(watched, ["what colour is the square ?"], max_new_tokens=2)


def test_every_way_of_watching_a_sounding_video_gives_an_answer(tiny_video_llama, tmp_path):
    model = tiny_video_llama()
    path = write_file(tmp_path / "both.mp4", frames=12, seconds=3)
    pad = model.processor.tokenizer.pad_id
    first_words = []
    for given in (BOTH, SEEN, HEARD, IMAGINED):
        watched = model.watch(path, given)
        assert (watched.pictures is None) == (given.pictures is None)
        assert (watched.sounds is None) == (given.sounds is None)
        assert model.answer(watched, ["what happens at first ?"], max_new_tokens=2)
        row = model.processor.question_row("what happens at first ?", watched.clip)
        batch = collate([row], pad, watched.pictures, watched.sounds)
        first_words.append(model.logits(batch)[0, -1])
    assert len(torch.stack(first_words).unique(dim=0)) == 4
    sound_only = model.watch(write_file(tmp_path / "heard.wav", seconds=3))
    assert sound_only.pictures is None
    assert model.answer(sound_only, ["where ?"], max_new_tokens=3)


def test_streams_hold_all_and_media_are_the_same_encoded_or_not(tiny_video_llama, tmp_path):
    model = tiny_video_llama()
    clip = model.processor.read(write_file(tmp_path / "both.mp4", frames=12, seconds=3))
    streams, inputs = model.streams(clip), model.stream_inputs(clip)
    shapes = {name: tuple(x.shape) for name, x in streams.items()}
    assert shapes == {"pictures": (8, 3, 16), "sounds": (8, 1, 12), "sound_pictures": (8, 1, 12)}
    assert model.streams(clip, ["sounds"]).keys() == {"sounds"}
    rows = [model.processor.row(ask(*PAIRS[0]), clip)]
    pad = model.processor.tokenizer.pad_id
    for given in (BOTH, IMAGINED):
        given_clip = replace(clip, given=given)
        rows = [model.processor.row(ask(*PAIRS[0]), given_clip)]
        ready, raw = model.media(streams, given_clip), model.media(inputs, given_clip, False)
        assert raw[1].inputs is not None
        losses = [model(collate(rows, pad, *media)).loss for media in (ready, raw)]
        assert_close(*losses, atol=1e-5, rtol=1e-5)


def test_training_varies_crops_and_frames_by_the_draw_alone(tiny_video_llama, tmp_path):
    processor = tiny_video_llama().processor
    path = write_file(tmp_path / "long.mp4", frames=40)
    same, again, other = (processor.read_for_training(path, draw) for draw in (1, 1, 2))
    assert torch.equal(same.frames, again.frames)
    assert same.frames.shape == (8, 64, 64, 3)
    assert not torch.equal(same.frames, other.frames)
    assert same.times_s.tolist() == processor.read(path).times_s.tolist()
    drawn = [processor.read_for_training(path, n, "caption").times_s.tolist() for n in (1, 2)]
    assert drawn[0] != drawn[1]
    assert all(sum(t < 5 for t in times) == 4 for times in drawn)


# ---------------------------------------------------------------- answers


def test_answers_in_a_batch_are_those_one_by_one_with_and_without_shared_cache(tiny_video_llama):
    model = tiny_video_llama()
    clip, streams = clip_of(5, 8)
    watched = model.remember(streams, clip)
    questions = ["where ?", "what colour is the circle ?", "what happens at first ?"]
    together = model.answer(watched, questions, max_new_tokens=6)
    apart = model.answer(watched, questions, max_new_tokens=6, share_prefix=False)
    alone = [model.answer(watched, [q], max_new_tokens=6)[0] for q in questions]
    assert together == apart == alone
    history = [model.processor.question_turn("where ?"), Turn("assistant", "left")]
    assert model.answer(watched, ["when ?"], history, max_new_tokens=2)


def test_a_system_whose_audio_branch_never_trained_does_not_listen(tiny_video_llama, tmp_path):
    model = tiny_video_llama()
    path = write_file(tmp_path / "both.mp4", frames=12, seconds=3)
    model.tell_trained(["video_qformer.queries", "audio_qformer.queries"])
    assert model.watch(path).sounds is not None
    model.tell_trained(["video_qformer.queries"])
    assert model.watch(path).clip.given == SEEN
    assert model.watch(path).sounds is None


def test_a_prompt_beyond_the_context_loses_its_beginning(tiny_video_llama, caplog):
    model = tiny_video_llama()
    clip, streams = clip_of()
    watched = model.remember(streams, clip)
    rows = [model.processor.question_row(q, clip) for q in ("where ?", "when ?")]
    asked = ["where ?", "when ?"]
    room = len(rows[0])
    whole = model.answer(watched, asked, max_new_tokens=3, context=room + 3)
    assert "left out" not in caplog.text
    assert whole == model.answer(watched, asked, max_new_tokens=3)
    model.answer_settings = {"context": room + 1, "max_new_tokens": 3}
    batch = collate([rows[0]], 0, watched.pictures, watched.sounds, side="left")
    cut = model.answer(watched, ["where ?"])
    assert "its first 2 places are left out" in caplog.text
    embeddings = model.embed(batch)[:, 2:]
    by_hand = model._generate(embeddings, {"attention_mask": torch.ones(1, room - 2)})
    assert cut == by_hand


def test_answers_stop_at_any_of_several_endings():
    stop = stop_at([(7,), (3, 4)])
    ids = torch.tensor([[1, 2, 7], [2, 3, 4], [3, 4, 2]])
    assert stop(ids, None).tolist() == [True, True, False]
    assert stop(ids[:, :0], None).tolist() == [False] * 3
    assert stop_at([]) is None


def test_a_stream_never_shows_the_beginning_of_a_stop():
    words = {1: "a dog", 2: "#", 3: "##", 4: " runs"}
    shown = []
    stream = TextStream(
        lambda ids: "".join(words[i] for i in ids).split("###")[0], shown.append, ["###"]
    )
    for index in (1, 2, 4, 3, 2):
        stream.put(torch.tensor([index]))
    stream.end()
    assert shown == ["a dog", "# runs"]


def test_importing_the_system_does_not_import_transformers():
    code = "import sys, vlmcourse.systems.video_llama; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_media_without_a_branch_are_an_error(tiny_video_llama):
    model = tiny_video_llama()
    model.imagebind = None
    mel = Media(
        torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2), torch.randn(1, 2, 1, 128, 204)
    )
    with pytest.raises(TypeError, match="does not listen"):
        model._features(mel, model.encode_sound)


def test_the_world_preset_stands_on_the_shipped_foundations(tmp_path):
    model = build("video_llama", num_video_queries=8)
    assert model.processor.layout.role == ""
    watched = model.watch(write_file(tmp_path / "both.mp4", frames=32, seconds=8))
    assert watched.clip.times_s.tolist() == list(range(8))
    assert watched.pictures.features.shape == (1, 8, 16, 96)
    assert watched.sounds.features.shape == (1, 8, 1, 64)
    assert_close(watched.sounds.features.norm(dim=-1), torch.full((1, 8, 1), 20.0))
    assert len(model.answer(watched, ["what happens first ?", "where ?"], max_new_tokens=3)) == 2
    for stage in model.stages("world"):
        set_trainable(model, stage.trains)
