"""Batches: which conversations stand together, and that packing changes no number."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vlmcourse.errors import UserError
from vlmcourse.systems.stages import set_trainable
from vlmcourse.training.data import Part, VideoInstructionData
from vlmcourse.training.order import Order
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


def test_an_epoch_holds_every_sample_once_and_units_one_video():
    videos = [Path("abcd"[i % 4]) for i in range(30)]
    order = Order(videos, 3, seed=1)
    units = order.units(0, order.units_per_epoch)
    assert Counter(i for unit in units for i in unit) == Counter(range(30))
    assert all(len({videos[i] for i in unit}) == 1 for unit in units)
    assert {len(unit) for unit in units} == {2, 3}
    assert order.epoch(1) != units


def test_the_stream_crosses_epochs_and_starts_anywhere():
    order = Order([Path(x) for x in "aabbccd"], 2, seed=3)
    stream = order.units(0, 11)
    assert order.units_per_epoch == 4
    assert stream[:4] == order.epoch(0)
    assert stream[4:8] == order.epoch(1)
    assert Order([Path(x) for x in "aabbccd"], 2, seed=3).units(5, 4) == stream[5:9]
    assert Order([Path(x) for x in "aabbccd"], 2, seed=4).units(0, 4) != stream[:4]


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
    with pytest.raises(UserError, match=r"none of the videos of a batch can be read: bad\.mp4"):
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
