"""Features on disk: computed once, resumed, shared, and bad files named."""

import json
import multiprocessing
import pickle
import shutil

import pytest
import torch

from vlmcourse.media.subtitles import Cue
from vlmcourse.systems.processor import Given
from vlmcourse.training import feature_cache
from vlmcourse.training.feature_cache import CacheError, cache_features, features_hash


@pytest.fixture
def clips(world):
    return sorted((world / "clips").glob("*.mp4"))


@pytest.fixture
def model(build_tiny):
    return build_tiny().eval()


def cache(model, clips, root, **more):
    return cache_features(model, "tiny", clips, root, shard_clips=2, progress=False, **more)


def test_cached_features_are_those_of_watching(model, clips, tmp_path):
    found = cache(model, clips, tmp_path)
    assert len(found) == found.computed == 6
    clip, streams = found.load(clips[3])
    watched = model.watch(clips[3])
    assert tuple(streams) == found.streams(clips[3]) == ("pictures",)
    features = streams["pictures"]
    assert features.dtype == torch.float16
    torch.testing.assert_close(features.float(), watched.pictures.features[0], atol=2e-3, rtol=1e-3)
    assert torch.equal(clip.times_s, watched.clip.times_s)
    assert clip.duration_s == watched.clip.duration_s
    assert clip.frames is None


def test_a_listening_system_keeps_every_stream(tiny_video_llama, clips, silent, tmp_path):
    model = tiny_video_llama()
    mute = next((silent / "clips").glob("*.mp4"))
    found = cache(model, [clips[0], mute], tmp_path)
    clip, streams = found.load(clips[0])
    watched = model.watch(clips[0])
    fresh = model.streams(model.processor.read(clips[0]))
    assert set(streams) == set(fresh) == {"pictures", "sounds", "sound_pictures"}
    for name, features in streams.items():
        assert features.dtype == torch.float16
        torch.testing.assert_close(features.float(), fresh[name], atol=2e-2, rtol=2e-3)
    assert torch.equal(clip.sound_times_s, watched.clip.sound_times_s)
    assert clip.given == watched.clip.given == Given("pictures", "sounds")
    clip, streams = found.load(mute)
    assert set(streams) == set(found.streams(mute)) == {"pictures", "sound_pictures"}
    assert clip.sound_times_s is None
    assert clip.given == Given("pictures", None)
    assert set(found.load(clips[0], ["sounds", "gone"])[1]) == {"sounds"}


def test_subtitles_come_from_their_own_file_and_are_never_kept(model, clips, tmp_path, monkeypatch):
    said, asked = {clips[0]: (Cue(1.0, 2.0, "it jumps"),)}, []

    def read_cues(path):
        asked.append(path)
        return said.get(path, ())

    before = cache(model, clips[:2], tmp_path)
    before = pickle.loads(pickle.dumps(before))  # as worker processes get it
    assert before.load(clips[0])[0].cues == ()
    monkeypatch.setattr(model.processor, "read_cues", read_cues, raising=False)
    again = cache(model, clips[:2], tmp_path)
    assert again.computed == 0
    for video in (*clips[:2], *clips[:2]):
        assert again.load(video)[0].cues == said.get(video, ())
    assert asked == clips[:2]
    assert b"jumps" not in b"".join(x.read_bytes() for x in again.folder.glob("*.safetensors"))


def test_what_decides_the_features_of_a_listening_system(tiny_video_llama):
    model = tiny_video_llama()
    assert features_hash(model) == features_hash(tiny_video_llama(num_video_queries=5))
    assert features_hash(model) == features_hash(tiny_video_llama(sound_scale=1.0))
    assert features_hash(model) != features_hash(tiny_video_llama(num_sound_clips=5))
    before = features_hash(model)
    with torch.no_grad():
        model.image_qformer.queries.add_(1e-3)
    assert features_hash(model) != before


def test_a_second_call_computes_nothing(model, clips, tmp_path, monkeypatch):
    cache(model, clips[:4], tmp_path)
    monkeypatch.setattr(model, "encode_frames", None)
    again = cache(model, clips[:4], tmp_path)
    assert again.computed == 0
    assert again.load(clips[0])[1]["pictures"].shape == (4, 64, 32)


def test_only_what_is_new_is_computed(model, clips, tmp_path):
    cache(model, clips[:3], tmp_path)
    assert cache(model, clips, tmp_path).computed == 3


def test_a_killed_run_goes_on_behind_the_last_shard(model, clips, tmp_path, monkeypatch):
    encode, calls = model.encode_frames, []

    def dies_at_the_fourth(pixels):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(pixels)

    monkeypatch.setattr(model, "encode_frames", dies_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        cache(model, clips, tmp_path)
    monkeypatch.setattr(model, "encode_frames", encode)
    resumed = cache(model, clips, tmp_path)
    assert resumed.computed == 4  # one shard of two clips was whole
    whole = cache(model, clips, tmp_path / "other")
    for clip in clips:
        assert torch.equal(resumed.load(clip)[1]["pictures"], whole.load(clip)[1]["pictures"])
    assert not list(tmp_path.glob("*/*.part"))


def test_a_damaged_shard_is_computed_again(model, clips, tmp_path, caplog):
    folder = cache(model, clips, tmp_path).folder
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:50])
    mended = cache(model, clips, tmp_path)
    assert mended.computed == 2
    assert "is damaged" in caplog.text


def test_an_unreadable_clip_is_counted_and_listed(model, clips, tmp_path, caplog):
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video", encoding="utf-8")
    found = cache(model, [*clips[:2], bad], tmp_path)
    assert len(found) == 2
    assert list(found.unreadable) == [bad]
    assert bad not in found
    assert "1 of 3 videos cannot be read: bad.mp4" in caplog.text
    assert str(bad) in json.loads((found.folder / "unreadable.json").read_text())
    with pytest.raises(CacheError, match=r"bad\.mp4: no features"):
        found.load(bad)


def test_nothing_readable_is_an_error(model, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"")
    with pytest.raises(CacheError, match="1 of 1 videos cannot be read"):
        cache(model, [bad], tmp_path)
    with pytest.raises(CacheError, match=r"gone\.mp4"):
        cache(model, [tmp_path / "gone.mp4"], tmp_path)


def test_a_file_that_changes_is_computed_anew(model, clips, tmp_path):
    path = tmp_path / "clip.mp4"
    shutil.copy(clips[0], path)
    before = cache(model, [path], tmp_path).load(path)[1]["pictures"]
    shutil.copy(clips[1], path)
    after = cache(model, [path], tmp_path)
    assert after.computed == 1
    assert not torch.equal(after.load(path)[1]["pictures"], before)


def test_another_encoder_or_frame_rule_finds_another_folder(model, build_tiny):
    assert features_hash(model) == features_hash(build_tiny().eval())
    assert features_hash(model) != features_hash(build_tiny(num_frames=3))
    with torch.no_grad():
        model.vision_encoder.position.add_(1e-3)
    assert features_hash(model) != features_hash(build_tiny())


def test_large_files_are_told_apart_by_both_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "WHOLE_MIB", 0)
    path = tmp_path / "large.mp4"
    keys = []
    for content in (b"a" * 10, b"a" * 9 + b"b", b"a" * 11):
        path.write_bytes(content)
        keys.append(feature_cache.file_key(path))
    assert len(set(keys)) == 3


def _hold(folder, held, release):
    with feature_cache.one_writer(folder):
        held.set()
        release.wait(20)


def test_a_second_writer_waits(tmp_path):
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, held, release))
    process.start()
    assert held.wait(20)
    told = []

    def waiting(*_):
        told.append(1)
        release.set()

    with feature_cache.one_writer(tmp_path, waiting):
        assert told == [1]
    process.join()
