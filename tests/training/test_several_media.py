"""Conversations about several pictures and videos, and media of any size, in training."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sounding_clips import write_file
from tiny_cogvlm2 import build_tiny as build_other
from tiny_qwen2_vl import build_tiny

from vlmcourse.conversation import PICTURE
from vlmcourse.errors import UserError
from vlmcourse.systems.stages import set_trainable
from vlmcourse.training.callbacks import _size
from vlmcourse.training.data import VideoInstructionData
from vlmcourse.training.feature_cache import cache_features, features_hash
from vlmcourse.training.instruction_data import InstructionDataError, read_llava_json
from vlmcourse.training.sources import Source

SIZES = {"a.png": (16, 8), "b.png": (8, 24), "c.png": (8, 8)}


@pytest.fixture
def folder(tmp_path):
    clips = tmp_path / "clips"
    clips.mkdir()
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(clips / name)
    write_file(clips / "d.mp4", frames=8, fps=4)
    return tmp_path


def entry(*values, **named):
    turns = [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]
    return {"conversations": turns, **named}


TWO = entry("<image> <image> which is red ?", "both", image=["a.png", "b.png"])
MIXED = entry(
    *("<image>\n<video>\nwhat is shown ?", "red moon", "<image> is it there ?", "no"),
    images=["a.png", "c.png"],
    videos=["d.mp4"],
)


def written(folder, *entries, name="data.json"):
    (folder / name).write_text(json.dumps(entries), encoding="utf-8")
    return folder / name


# ---------------------------------------------------------------- files


def test_markers_take_names_in_order(folder):
    two, mixed = read_llava_json(written(folder, TWO, MIXED), folder / "clips")
    assert [file.name for file in two.files] == ["a.png", "b.png"]
    assert [file.name for file in mixed.files] == ["a.png", "d.mp4", "c.png"]
    assert mixed.turns[2] == ("user", "<image> is it there ?")
    assert two.shared == two.files != mixed.shared


def test_without_markers_all_stand_in_front_and_a_list_of_one_is_one(folder):
    bare = entry("which is red ?", "both", images=["a.png"], videos=["d.mp4"])
    single = entry("where is moon ?", "top left", image=["b.png"])
    first, second = read_llava_json(written(folder, bare, single), folder / "clips")
    assert first.turns[0][1] == "<image><video>\nwhich is red ?"
    assert (second.video.name, second.others) == ("b.png", ())
    assert second.turns[0][1] == "<image>\nwhere is moon ?"


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (entry("<image> a ?", "b", image=["a.png", "b.png"]), "<image> stands 1 times, for 2"),
        (entry("<video> a ?", "b", images=["a.png"]), "<image> stands 0 times, for 1"),
        (entry("a ?", "b", images=[]), "lists of pictures and videos are empty"),
        (entry("a ?", "b", images=["a.png", 7]), "named 7, not by a text"),
        (entry("a ?", "b", images=["a.png", "z.png"]), "z.png"),
    ],
)
def test_entries_that_do_not_agree_are_named(folder, bad, told):
    with pytest.raises(InstructionDataError, match=told):
        read_llava_json(written(folder, bad), folder / "clips")


# ---------------------------------------------------------------- batches


def prepared(model, sources, cache=None, **settings):
    data = VideoInstructionData(sources, cache=cache, **settings)
    data.prepare(model, "qwen2_vl", 8, 0, progress=False)
    return data


def sources_of(folder):
    """Several media, one picture, a film, a text: without weights they share batches."""
    single = entry("<image>\nwhere is moon ?", "top left", image="c.png")
    film = entry("<video>\nwhat happens first ?", "red moon jumps", video="d.mp4")
    path = written(folder, TWO, MIXED, single, film)
    text = entry("what colour is circle ?", "red")
    return [Source(path), Source(written(folder, text, name="texts.json"), form="text")]


def test_one_batch_holds_several_media_pictures_films_and_texts(folder):
    model = build_tiny()
    data = prepared(model, sources_of(folder))
    batch = data._batch(data.parts[0], 0, 0, count=5)
    places = (batch.kinds == PICTURE).sum(1)
    assert sorted(places.tolist()) == [0, 1, 5, 2 * 64, 2 * 64 + 3]
    assert len(batch.pictures) == 2 + 3 + 1 + 1
    assert batch.pictures.rows.bincount(minlength=5).tolist() == [
        {0: 0, 1: 1, 5: 2, 131: 3, 128: 1}[count] for count in places.tolist()
    ]
    size = _size(batch, model.vision_encoder)
    assert (size["videos"], size["frames"]) == (7, 5 + 2 * 2)
    assert size["patches"] == 4 * int(places.sum())
    assert model(batch).loss.isfinite()


def test_cached_and_fresh_features_have_nearly_one_loss(folder, tmp_path):
    model = build_tiny()
    set_trainable(model, ["language_model.*"])
    cached = prepared(model, sources_of(folder), cache=tmp_path / "cache")
    fresh = prepared(model, sources_of(folder))
    with torch.no_grad():
        a, b = (model(data._batch(data.parts[0], 0, 0, count=5)) for data in (cached, fresh))
    torch.testing.assert_close(a.loss, b.loss, atol=1e-2, rtol=1e-2)


def test_a_system_that_takes_one_says_which_conversation_has_several(folder):
    with pytest.raises(UserError, match=r"one picture or video a conversation, not a\.png, b\.png"):
        prepared(build_other(), [Source(written(folder, TWO))])


def test_the_cache_keeps_sizes_and_knows_what_changes_them(folder, tmp_path):
    model = build_tiny()
    files = [folder / "clips" / name for name in (*SIZES, "d.mp4")]
    cache = cache_features(model, "qwen2_vl", files, tmp_path / "cache", progress=False)
    for file in files:
        clip, streams = cache.load(file)
        read = model.processor.read(file)
        assert torch.equal(clip.grid, read.grid)
        assert len(streams["pictures"]) == model.processor.tokens_of(clip)
        torch.testing.assert_close(
            streams["pictures"].float(), model.streams(read)["pictures"], atol=1e-2, rtol=1e-2
        )
    keys = {}
    for name, value in (
        *(("max_pixels", 128), ("video_max_pixels", 128), ("fps", 1.0), ("resize", "square")),
        *(("positions", "sequential"), ("add_vision_id", True), ("system_text", "Hm.")),
    ):
        model.processor.config = replace(build_tiny().config, **{name: value})
        keys[name] = features_hash(model)
    model.processor.config = build_tiny().config
    same = {name for name, key in keys.items() if key == features_hash(model)}
    assert same == {"positions", "add_vision_id", "system_text"}
    assert len(set(keys.values())) == 5
