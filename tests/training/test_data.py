"""Batches: which conversations stand together, and that packing changes no number."""

import json
from types import SimpleNamespace

import pytest
import torch

from vlmcourse.conversation import PICTURE, SOUND
from vlmcourse.errors import UserError
from vlmcourse.systems.processor import Given
from vlmcourse.systems.stages import set_trainable
from vlmcourse.training.data import Part, VideoInstructionData, conversation_of
from vlmcourse.training.sources import Source


@pytest.fixture
def prepared(build_tiny, world, tmp_path):
    model = build_tiny().eval()
    set_trainable(model, ["projector.*"])

    def make(batch_size=24, seed=0, json="conversations.json", **settings):
        settings.setdefault("cache", tmp_path / "cache")
        source = settings.pop("source", Source(world / json))
        data = VideoInstructionData([source], **settings)
        data.prepare(model, "tiny", batch_size, seed, progress=False)
        return data

    return make


def same(a, b):
    return torch.equal(a.ids, b.ids) and torch.equal(a.pictures.features, b.pictures.features)


def test_a_batch_depends_on_seed_and_number_alone(prepared):
    data, again = prepared(), prepared()
    last = data.batch(5)
    data.batch(0)
    assert same(data.batch(5), last)
    assert same(again.batch(5), last)
    assert not same(prepared(seed=1).batch(5), last)


def test_packed_and_unpacked_have_one_loss(prepared):
    """The same conversations, packed behind one video or each in its own row."""
    packed, single = prepared(questions_per_video=30), prepared(questions_per_video=1)
    part = packed.parts[0]
    unit = part.order.units(0, 1)[0]
    one_row = packed._batch(part, 0, 0, count=1)
    same_clip = [part.samples[i] for i in unit]
    place = SimpleNamespace(units=lambda start, count: [[i] for i in range(len(same_clip))])
    rows = single._batch(Part(same_clip, place, 1), 0, 0)
    assert one_row.ids.shape[0] == 1
    assert rows.ids.shape[0] == len(same_clip) > 10
    with torch.no_grad():
        a, b = packed.model(one_row), packed.model(rows)
    assert a.num_targets == b.num_targets
    torch.testing.assert_close(a.token_loss, b.token_loss, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(a.loss, b.loss, atol=1e-6, rtol=1e-6)


def test_cached_and_fresh_features_have_nearly_one_loss(prepared):
    cached, fresh = prepared(), prepared(cache=None)
    with torch.no_grad():
        a, b = (data.model(data.batch(0)) for data in (cached, fresh))
    assert fresh.batch(0).pictures.features is None
    torch.testing.assert_close(a.loss, b.loss, atol=1e-3, rtol=1e-3)


def test_batch_size_counts_conversations(prepared):
    """Six clips with about 18 questions each: 36 conversations are two clips a step."""
    data = prepared(batch_size=36, questions_per_video=30)
    assert data.parts[0].units_per_batch == 2
    assert data.steps_per_epoch() == 3
    halves = prepared(batch_size=36, questions_per_video=30, accumulate=2)
    assert halves.parts[0].units_per_batch == 1
    assert halves.steps_per_epoch() == 3
    assert prepared(batch_size=36).parts[0].units_per_batch == 36


def test_evidence_and_limit_choose_samples(prepared, world):
    chosen = Source(world / "conversations.json", evidence=("sound",), limit=2)
    data = prepared(source=chosen)
    assert {sample.evidence for sample in data.parts[0].samples} == {"sound"}
    assert len({sample.video for sample in data.parts[0].samples}) == 2
    with pytest.raises(UserError, match="no conversation is left"):
        Source(world / "conversations.json", evidence=("smell",)).samples()


def test_an_unreadable_video_leaves_training_and_is_listed(
    prepared, tmp_path, world, caplog, read_json
):
    entries = read_json(world / "captions.json")[:4]
    entries[3]["video"] = "bad.mp4"
    (tmp_path / "clips").mkdir()
    for clip in (world / "clips").glob("*.mp4"):
        (tmp_path / "clips" / clip.name).write_bytes(clip.read_bytes())
    bad = tmp_path / "clips" / "bad.mp4"
    bad.write_bytes(b"not a video")
    (tmp_path / "own.json").write_text(json.dumps(entries), encoding="utf-8")
    cached = prepared(source=Source(tmp_path / "own.json"))
    assert list(cached.unreadable) == [bad]
    assert len(cached.parts[0].samples) == 3
    fresh = prepared(source=Source(tmp_path / "own.json"), cache=None, batch_size=4)
    assert fresh.batch(0).ids.shape[0] == 3
    assert list(fresh.unreadable) == [bad]
    assert caplog.text.count("left out of training") == 1
    alone = prepared(source=Source(tmp_path / "own.json"), cache=None, batch_size=1)
    part = alone.parts[0]
    place = [part.samples[unit[0]].video for unit in part.order.units(0, 4)].index(bad)
    with pytest.raises(UserError, match=r"none of the videos of a batch can be used: bad\.mp4"):
        alone.batch(place)


def test_conversations_of_a_user_may_have_several_turns(prepared, tmp_path, world):
    turns = [("human", "what is shown ?"), ("gpt", "red circle"), ("human", "where ?")]
    entry = {
        "id": "1",
        "video": next((world / "clips").glob("*.mp4")).name,
        "conversations": [
            {"from": who, "value": text} for who, text in [*turns, ("gpt", "top left")]
        ],
    }
    (tmp_path / "own.json").write_text(json.dumps([entry]), encoding="utf-8")
    data = prepared(source=Source(tmp_path / "own.json", videos=world / "clips"), batch_size=1)
    answers = data.batch(0).labels
    text = data.model.processor.tokenizer.decode(answers[answers >= 0].tolist())
    assert text.split() == ["red", "circle", "top", "left"]


def test_cached_features_of_a_training_encoder_are_refused(build_tiny, world, tmp_path):
    model = build_tiny()  # everything trains
    data = VideoInstructionData([Source(world / "captions.json")], cache=tmp_path / "cache")
    with pytest.raises(UserError, match="the encoder trains"):
        data.prepare(model, "tiny", 4, 0, progress=False)


def test_the_checksum_is_the_worlds_own_or_of_the_file(world, tmp_path, read_json):
    manifest = read_json(world / "manifest.json")
    assert Source(world / "captions.json").checksum() == manifest["data_checksum"]
    other = tmp_path / "own.json"
    other.write_text("[]", encoding="utf-8")
    first = Source(other).checksum()
    other.write_text("[ ]", encoding="utf-8")
    assert Source(other).checksum() != first


# ---------------------------------------------------------------- sound, pictures, mixtures


@pytest.fixture
def listening(listener, tmp_path):
    """Data of a tiny Video-LLaMA: `listening([Source(...)], given=...)`."""

    def make(sources, batch_size=4, seed=0, **settings):
        model = listener()
        set_trainable(model, ["audio_qformer.*"])
        settings.setdefault("cache", tmp_path / "cache")
        data = VideoInstructionData(sources, **settings)
        data.prepare(model, "listener", batch_size, seed, progress=False)
        return data

    return make


BOTH = Given("pictures", "sounds")


@pytest.mark.parametrize("cached", [True, False])
def test_a_batch_with_sound_holds_exactly_its_clips(listening, world, cached):
    settings = {} if cached else {"cache": None}
    data = listening(
        [Source(world / "captions.json", limit=2)], batch_size=2, given=BOTH, **settings
    )
    batch = data.batch(0)
    units = data.parts[0].order.units(0, 2)
    assert (batch.kinds == PICTURE).sum(1).tolist() == [4, 4]
    assert (batch.kinds == SOUND).sum(1).tolist() == [2, 2]
    for row, unit in enumerate(units):
        sample = data.parts[0].samples[unit[0]]
        watched = data.model.watch(sample.video)
        expected = data.model.processor.row(conversation_of(sample), watched.clip)
        assert batch.ids[row, : len(expected)].tolist() == expected.ids
        assert batch.labels[row, : len(expected)].tolist() == expected.labels
        for kind, encode in (
            ("pictures", data.model.encode_frames),
            ("sounds", data.model.encode_sound),
        ):
            media, fresh = getattr(batch, kind), getattr(watched, kind)
            seen = media.features[row] if cached else encode(media.inputs[row])
            torch.testing.assert_close(seen.float(), fresh.features[0], atol=2e-2, rtol=2e-3)
            assert torch.equal(media.times_s[row], fresh.times_s[0])
    with torch.no_grad():
        assert data.model(batch).loss.isfinite()


@pytest.mark.parametrize(
    "given", [BOTH, Given(None, "sounds"), Given(None, "sound_pictures"), Given("pictures", None)]
)
def test_only_what_is_given_is_in_a_batch(listening, world, given):
    batch = listening([Source(world / "captions.json", limit=2)], given=given).batch(0)
    assert (batch.pictures is None) == (given.pictures is None)
    assert (batch.sounds is None) == (given.sounds is None)
    places = (batch.kinds == PICTURE).any(), (batch.kinds == SOUND).any()
    assert places == (given.pictures is not None, given.sounds is not None)
    if given.sounds is not None:
        clips = {"sounds": 8, "sound_pictures": 8}[given.sounds]
        assert batch.sounds.features.shape[1:] == (clips, 1, 12)


def test_packed_rows_with_sound_have_the_loss_of_single_ones(listening, world):
    one_clip = [Source(world / "conversations.json", limit=1)]
    packed = listening(one_clip, questions_per_video=30, given=BOTH)
    single = listening(one_clip, batch_size=40, given=BOTH)
    one_row, rows = packed.batch(0), single.batch(0)
    count = len(packed.parts[0].samples)
    assert one_row.ids.shape[0] == 1
    assert rows.ids.shape[0] >= count > 10
    with torch.no_grad():
        a = packed.model(one_row)
        part = single._batch(single.parts[0], 0, 0, count)
        b = single.model(part)
    assert a.num_targets == b.num_targets
    torch.testing.assert_close(a.loss, b.loss, atol=1e-5, rtol=1e-5)


def test_silent_clips_fall_out_of_a_source_that_is_heard(listening, half_silent, silent, caplog):
    source = Source(half_silent)
    total = len(source.samples())
    everything = listening([source], given=Given("pictures", None))
    assert everything.lacking == {}
    assert len(everything.parts[0].samples) == total
    data = listening([source], given=BOTH)
    assert {path.parent.parent for path in data.lacking} == {silent}
    assert set(data.lacking.values()) == {"sounds"}
    lost = total - len(data.parts[0].samples)
    told = f"{lost} samples left out, for 2 videos have no sounds: val_00000.mp4, val_00001.mp4"
    assert told in caplog.text
    fresh = listening([source], given=BOTH, cache=None, batch_size=total)
    assert len(fresh.batch(0).sounds) == total - lost
    assert fresh.lacking == data.lacking
    assert fresh.unreadable == {}
    assert "val_00001.mp4: it has no sounds" in caplog.text
    with pytest.raises(UserError, match=r"captions\.json: all 2 videos have no sounds"):
        listening([source, Source(silent / "captions.json")], given=BOTH)


def test_an_unknown_stream_is_told_with_those_there_are(listening, world):
    with pytest.raises(UserError, match=r"have no noise; .* has pictures, sound_pictures, sounds"):
        listening([Source(world / "captions.json", limit=1)], given=Given("pictures", "noise"))


def test_pictures_train_as_videos_of_one_frame(listening, prepared, picture_file):
    source = Source(picture_file, videos=picture_file.parent)
    batch = listening([source], given=Given("pictures", None), batch_size=2).batch(0)
    assert batch.pictures.frame_mask.tolist() == [[True], [True]]
    assert batch.labels[batch.labels >= 0].tolist().count(2) == 2  # two ends of answers
    with pytest.raises(UserError, match="all 2 videos have no sounds"):
        listening([source], given=BOTH)
    batch = prepared(source=source, batch_size=2).batch(0)  # a system without a form of its own
    assert batch.pictures.features.shape[:2] == (2, 1)


def test_a_bad_picture_is_named(listening, picture_file):
    (picture_file.parent / "1.png").write_bytes(b"\x89PNG\r\n and no more")
    data = listening([Source(picture_file, videos=picture_file.parent)], given=Given())
    assert [path.name for path in data.unreadable] == ["1.png"]
    assert len(data.parts[0].samples) == 1


def test_a_batch_of_a_mixture_comes_from_one_source(listening, world, picture_file):
    sources = [
        Source(world / "captions.json", limit=3, weight=3),
        Source(picture_file, videos=picture_file.parent, weight=1, form="caption"),
    ]
    data = listening(sources, given=Given(), batch_size=2)
    frames = [data.batch(i).pictures.frame_mask.shape[1] for i in range(60)]
    assert set(frames) == {1, 8}
    assert 30 < frames.count(8) < 58
    again = listening(sources, given=Given(), batch_size=2)
    assert all(same(data.batch(i), again.batch(i)) for i in (40, 3, 17))
    videos = [i for i in range(60) if frames[i] == 8]
    samples = data.parts[0].order.units(0, 4)
    for row, unit in enumerate(samples):  # two batches walk through their own source in order
        sample = data.parts[0].samples[unit[0]]
        expected = data.cache.load(sample.video)[1]["pictures"]
        batch = data.batch(videos[row // 2])
        assert torch.equal(batch.pictures.features[row % 2], expected)
    with pytest.raises(UserError, match="a mixture of sources has no epochs"):
        data.steps_per_epoch()


@pytest.mark.parametrize(("weights", "told"), [((1, None), "or none has"), ((1, 0), "above 0")])
def test_weights_are_all_there_and_above_nothing(world, weights, told):
    sources = [Source(world / "captions.json", weight=weight) for weight in weights]
    with pytest.raises(UserError, match=told):
        VideoInstructionData(sources)


def test_captions_stand_right_behind_their_video(prepared, world):
    source = Source(world / "captions.json", limit=1, form="caption")
    data = prepared(source=source, batch_size=1)
    sample = data.parts[0].samples[data.parts[0].order.units(0, 1)[0][0]]
    batch, tokenizer = data.batch(0), data.model.processor.tokenizer
    trained = batch.labels[0] >= 0
    assert tokenizer.decode(batch.ids[0][trained].tolist()) == sample.turns[1][1]
    assert trained.int().diff().tolist().count(1) == 1  # one stretch, at the end
    assert "USER:" not in tokenizer.inner.decode(batch.ids[0].tolist())
    prompted = Source(world / "captions.json", limit=1, form="prompted_caption")
    with pytest.raises(UserError, match="has no requests"):
        prepared(source=prompted).batch(0)
