"""The small ImageBind: its pairs, its loss, what trains, its file, its gates."""

import numpy as np
import pytest
import torch

from vlmcourse.backbones.foundations import load_imagebind, load_vision_encoder
from vlmcourse.backbones.imagebind import ImageBindAudioConfig
from vlmcourse.backbones.world_imagebind import (
    WorldImageBindConfig,
    WorldImageBindVisionConfig,
    build_world_imagebind,
)
from vlmcourse.errors import UserError
from vlmcourse.foundations import imagebind_gates
from vlmcourse.foundations.imagebind import (
    SAMPLE_RATE,
    STILL_SHARE,
    WINDOW_S,
    ImageBindFoundation,
    PairWorld,
    info_nce,
    make_pair_batch,
    mel_window,
    sample_pair,
)
from vlmcourse.foundations.imagebind_gates import STILL, Pool, heard_in, sound_probe
from vlmcourse.media.imagebind_audio import sound_clips
from vlmcourse.world.render import render_frame
from vlmcourse.world.sound import render_sound
from vlmcourse.world.story import (
    ACTION_SOUND,
    ACTIONS,
    Event,
    Sound,
    Story,
    StorySettings,
    Thing,
    sample_story,
)

SMALL = WorldImageBindConfig(
    ImageBindAudioConfig(
        patch_size=32,
        patch_stride=32,
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        out_width=16,
        drop_path=0.0,
    ),
    WorldImageBindVisionConfig(out_width=16),
)
LIVE = StorySettings(live_sound=True)


@pytest.fixture(scope="module")
def encoder():
    return load_vision_encoder()


@pytest.fixture(scope="module")
def shipped():
    return load_imagebind()


# ---------------------------------------------------------------- pairs


def test_a_frame_lies_within_its_stretch_of_sound_at_any_offset():
    rng, story = np.random.default_rng(0), sample_story(1, LIVE)
    pairs = [sample_pair(story, rng) for _ in range(500)]
    assert all(0 <= p.start_s <= story.duration_s - WINDOW_S for p in pairs)
    assert all(p.start_s <= p.time_s <= p.start_s + WINDOW_S for p in pairs)
    assert len({round(p.start_s % 1, 1) for p in pairs}) == 11
    still = sum(story.event_at(int(p.time_s)) is None for p in pairs) / len(pairs)
    assert abs(still - STILL_SHARE) < 0.07


def test_a_story_without_events_gives_still_frames():
    story = Story(0, 8, (Thing("red", "star", "big", 0, 0),), ())
    assert sample_pair(story, np.random.default_rng(0)).time_s < 8


def test_a_window_is_the_clip_that_the_system_hears():
    track = render_sound(sample_story(3, LIVE))
    clips = sound_clips(track[None], SAMPLE_RATE)
    for start_s, mel in zip(clips.times_s.tolist(), clips.mels, strict=True):
        torch.testing.assert_close(mel_window(track, start_s), mel, atol=1e-4, rtol=0)


def test_a_batch_follows_from_seed_and_step_alone():
    one, two = (PairWorld(stories=3, pairs=2).batch(7) for _ in range(2))
    assert torch.equal(one.mels, two.mels)
    assert torch.equal(one.frames, two.frames)
    assert not torch.equal(one.mels, PairWorld(stories=3, pairs=2).batch(8).mels)
    assert not torch.equal(one.mels, PairWorld(seed=2, stories=3, pairs=2).batch(7).mels)
    assert one.mels.shape == (6, 1, 128, 204)
    assert one.frames.shape == (6, 64, 64, 3)


def test_sound_and_frame_of_a_pair_are_of_one_story():
    batch = make_pair_batch(0, stories=2, pairs=3)
    corners = batch.frames[:, :4, :4].float().flatten(1)  # a story's noise stays the same
    alike = torch.cdist(corners, corners) == 0
    assert alike.tolist() == torch.block_diag(torch.ones(3, 3), torch.ones(3, 3)).bool().tolist()


# ---------------------------------------------------------------- model and loss


def test_loss_written_by_hand():
    sounds, pictures = (
        torch.tensor([[2.0, 0.0], [0.0, 3.0]]),
        torch.tensor([[1.0, 0.0], [0.6, 0.8]]),
    )
    scores = np.array([[2.0, 1.2], [0.0, 2.4]])
    rows = -np.log(np.exp(np.diag(scores)) / np.exp(scores).sum(1)).mean()
    columns = -np.log(np.exp(np.diag(scores)) / np.exp(scores).sum(0)).mean()
    assert info_nce(sounds, pictures).item() == pytest.approx((rows + columns) / 2, abs=1e-6)
    assert info_nce(50 * torch.eye(3), torch.eye(3)).item() < 1e-6


def test_training_learns_a_batch_and_leaves_the_encoder_alone():
    torch.manual_seed(0)
    module = ImageBindFoundation(SMALL).train()
    module.log = lambda *_, **__: None
    before = {k: v.clone() for k, v in module.state_dict().items()}
    batch = make_pair_batch(0, stories=6, pairs=1)
    optimiser = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for step in range(60):
        loss = module.training_step(batch, step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    module.imagebind.vision(torch.randn(4, 3, 64, 64))  # would move batch statistics in train mode
    frozen = "imagebind.vision.encoder."
    for name, value in module.state_dict().items():
        still = name.startswith(frozen) or name.endswith("log_logit_scale")
        assert torch.equal(value, before[name]) == still, name


# ---------------------------------------------------------------- the file


def test_export_and_load_round_trip(tmp_path, encoder):
    from safetensors import safe_open

    from vlmcourse.foundations.training import export_imagebind, export_vision

    torch.manual_seed(1)
    module = ImageBindFoundation().eval()
    path = export_imagebind(module, tmp_path)
    with safe_open(path, "pt") as file:
        assert not [name for name in file.keys() if "encoder" in name]  # noqa: SIM118
    with pytest.raises(UserError, match="vision_encoder"):
        load_imagebind(tmp_path)
    module.encoder = encoder
    export_vision(module, tmp_path)
    loaded = load_imagebind(tmp_path)
    pixels, mels = torch.randn(2, 3, 64, 64), torch.randn(2, 1, 128, 204)
    torch.testing.assert_close(
        loaded.embed_pictures(pixels), module.imagebind.embed_pictures(pixels)
    )
    torch.testing.assert_close(loaded.embed_sound(mels), module.imagebind.embed_sound(mels))
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"imagebind\.safetensors: not the world's ImageBind"):
        load_imagebind(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="missing"):
        load_imagebind(tmp_path)


def test_a_shipped_sound_finds_the_picture_of_its_action(shipped):
    """One clip an action, the same thing in each; sounds and pictures of the shipped weights."""
    thing, frames, mels = Thing("red", "square", "big", 1, 1), [], []
    for action in ACTIONS:
        way = "left" if action == "slides" else None
        event = Event(1, 1, 0, action, way)
        story = Story(9, 4, (thing,), (event,), (Sound(1, ACTION_SOUND[action]),))
        frames.append(render_frame(story, 1.5, 64, 64))
        mels.append(mel_window(render_sound(story), 0.5))
    with torch.no_grad():
        pixels = shipped.vision.preprocess(torch.from_numpy(np.stack(frames)))
        scores = shipped.embed_sound(torch.stack(mels)) @ shipped.embed_pictures(pixels).T
    assert (scores.argmax(1) == torch.arange(6)).sum() >= 5
    assert (scores.argmax(0) == torch.arange(6)).sum() >= 5


# ---------------------------------------------------------------- gates


def test_what_is_heard_in_a_window():
    story = Story(0, 8, (), (), (Sound(1, "drum"), Sound(2, "bell"), Sound(6, "drum")))
    assert heard_in(story, 1.0) == ("jumps", "glows")
    assert heard_in(story, 3.5) == ()
    assert heard_in(story, 4.5) == ("jumps",)
    assert heard_in(story, 4.4) is None  # 0.4 s of the last sound
    assert heard_in(story, 2.5) == ("glows",)


def made_up_pool(noise: float) -> Pool:
    """Embeddings that say exactly what they are of, or nothing of it."""
    rng = np.random.default_rng(0)
    classes, pool = [*ACTIONS, STILL], Pool(torch.empty(0), torch.empty(0))
    sounds, pictures = [], []
    for _ in range(700):
        action = classes[rng.integers(7)]
        heard = () if action == STILL else (action,)
        if heard and rng.random() < 0.2:
            heard = (action, ACTIONS[(ACTIONS.index(action) + 1) % 6])
        one_hot = [float(c in (heard or (STILL,))) for c in classes]
        sounds.append(one_hot), pictures.append([float(c == action) for c in classes])
        pool.heard.append(heard), pool.seen.append(action), pool.phase.append(0.5)
    pool.sounds, pool.pictures = torch.tensor(sounds), torch.tensor(pictures)
    if noise:
        generator = torch.Generator().manual_seed(0)
        pool.sounds = torch.randn(pool.sounds.shape, generator=generator)
    return pool


@pytest.mark.parametrize(("noise", "one", "two"), [(0, (1, 1), (1, 1)), (1, (0.1, 0.25), (0, 0.2))])
def test_gates_are_all_or_chance(noise, one, two, monkeypatch):
    pool = made_up_pool(noise)
    monkeypatch.setattr(imagebind_gates, "live_pool", lambda *_: pool)
    monkeypatch.setattr(imagebind_gates, "dubbed_sounds", lambda *_: (pool.sounds, pool.heard))
    shares = {
        name: np.mean(right)
        for name, right in imagebind_gates.imagebind_gates(torch.nn.Identity()).items()
    }
    for name in ("picture_of_sound", "sound_of_picture", "among_32_pictures", "among_32_sounds"):
        assert one[0] <= shares[name] <= one[1], name
    for name in ("probe_two_kinds", "two_pictures_of_two_sounds"):
        assert two[0] <= shares[name] <= two[1], name
    assert 0.1 < shares["among_32_chance"] < 0.25
    if not noise:
        names = ("still_picture_of_silence", "silence_of_still_picture", "probe_silence")
        names += ("picture_of_sound_or_still", "sound_of_picture_or_silence/slides")
        assert [shares[name] for name in names] == [1] * 5


def test_probe_reads_two_kinds_at_once():
    pool = made_up_pool(0)
    two = pool.windows(2)
    read = sound_probe(pool)(pool.sounds[two])
    for scores, i in zip(read, two, strict=True):
        assert {ACTIONS[k] for k in scores.topk(2).indices.tolist()} == {*pool.heard[i]}


def test_the_gates_run_on_real_stories(encoder):
    result = imagebind_gates.imagebind_gates(
        build_world_imagebind(encoder, SMALL), stories=16, dubbed_clips=2
    )
    assert {"picture_of_sound", "probe_kind", "probe_silence", "dubbed_kind"} <= set(result)
