"""Accuracy by shape and size: who belongs to which class, and that equal clips make no classes."""

import numpy as np
import pytest
from PIL import Image

from vlmcourse import cli
from vlmcourse.evaluation.shapes import (
    CLASSES,
    clip_sizes,
    group_costs,
    group_metrics,
    scene_groups,
    shape_groups,
    shape_of,
)
from vlmcourse.records import read_record
from vlmcourse.world.dataset import PictureSettings, SplitSettings, load_split, make_split
from vlmcourse.world.language import Question
from vlmcourse.world.story import StorySettings


def test_a_shape_is_told_from_the_sides():
    assert [shape_of(size) for size in ((96, 96), (96, 81), (96, 80), (48, 128))] == [
        "square", "square", "wide", "tall"
    ]  # fmt: skip


def test_classes_hold_the_questions_of_their_clips():
    sizes, clip_of = [(32, 32), (128, 48), (48, 128), (32, 32)], [0, 0, 1, 2, 3]
    found = {name: np.flatnonzero(x).tolist() for name, x in shape_groups(sizes, clip_of).items()}
    assert found == {
        "shape/square": [0, 1, 4],
        "shape/wide": [2],
        "shape/tall": [3],
        "area/1024": [0, 1, 4],
        "area/6144": [2, 3],
        "size/32x32": [0, 1, 4],
        "size/48x128": [3],
        "size/128x48": [2],
    }


def test_clips_of_one_size_make_no_classes():
    assert shape_groups([(64, 64)] * 3, [0, 1, 2]) == {}
    assert group_metrics({"system": np.ones((1, 3))}, [], [0, 1, 2], {}) == {}


def test_many_areas_fall_into_quarters():
    sizes = [(32, 32 + side) for side in range(4 * CLASSES)]
    found = shape_groups(sizes, np.arange(len(sizes)))
    areas = {n: x for n, x in found.items() if n.startswith("area/")}
    assert [int(x.sum()) for x in areas.values()] == [CLASSES] * 4
    assert next(iter(areas)) == f"area/1024-{32 * (32 + CLASSES - 1)}"
    assert np.sum(list(areas.values()), axis=0).tolist() == [1] * len(sizes)
    assert not [name for name in found if name.startswith("size/")]


def test_metrics_count_answers_and_keep_families_apart():
    questions = [
        Question("what ?", "red", *two)
        for two in [("colour", "appearance"), ("count", "count")] * 2
    ]
    groups = shape_groups([(32, 32), (64, 32)], [0, 0, 1, 1])
    right = np.array([[1, 0, 0, 0], [1, 0, 1, 0]], dtype=float)
    found = group_metrics({"system": right, "blind": right[:1]}, questions, [0, 0, 1, 1], groups)
    assert found["system/shape/square"]["mean"] == 0.5
    assert found["system/shape/wide"]["mean"] == 0.25
    assert found["system/shape/wide"]["n"] == 4
    assert found["system/shape/wide/appearance"]["mean"] == 0.5
    assert found["system/area/1024/count"]["mean"] == 0.0
    assert found["blind/shape/wide"]["mean"] == 0.0
    assert "blind/shape/wide/appearance" not in found


def test_films_are_told_apart_by_their_scenes():
    films = SplitSettings(story=StorySettings.of_length(24), scenes=(1, 2, 4)).sample("val", 4)
    found = scene_groups(films, [0, 0, 1, 2, 3])
    assert {name: np.flatnonzero(x).tolist() for name, x in found.items()} == {
        "scenes/1": [0, 1, 4],
        "scenes/2": [2],
        "scenes/4": [3],
    }
    assert scene_groups([films[0], films[3]], [0, 1]) == {}


def test_costs_by_size():
    sizes = [(32, 32), (64, 64), (64, 64), (128, 48)]
    costs = group_costs([4, 16, 16, 24], shape_groups(sizes, range(4)))
    assert costs["tokens/size/64x64"]["mean"] == 16
    assert costs["tokens/shape/square"]["mean"] == 12
    assert costs["tokens/shape/square"]["n"] == 3
    assert group_costs([4, 4], {}) == {}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A split of pictures, some square and some wide."""
    root = tmp_path_factory.mktemp("mixed")
    settings = PictureSettings(sizes=((96, 96), (128, 48)))
    for split in ("train", "test"):
        make_split(root, split, 8, settings, workers=1, progress=False)
    return root


def test_sizes_are_those_of_the_files(mixed, world):
    split = load_split(mixed / "test")
    few = [split.ids[6], split.ids[1]]
    assert clip_sizes(split, few) == [Image.open(split.clips[i]).size for i in (6, 1)]
    assert len(set(clip_sizes(split, split.ids))) == 2
    films = load_split(world / "test")
    assert clip_sizes(films, films.ids) == []


def test_pictures_of_mixed_sizes_are_told_apart(mixed, runs, foundations, tmp_path, capsys):
    path = tmp_path / "mixed.json"
    common = ("--data", mixed, "--foundations", foundations, "--cache", tmp_path / "cache")
    command = ("evaluate", "--system", "video_chatgpt", "--runs", *runs[:2], *common)
    command += ("--controls", "blind", "--device", "cpu", "--record", path)
    assert cli.main(list(map(str, command))) == 0
    metrics = read_record(path)["metrics"]
    halves = [metrics[f"system/{name}"]["n"] for name in ("shape/square", "shape/wide")]
    assert sum(halves) == metrics["system/all"]["n"]
    assert metrics["system/size/128x48"] == metrics["system/shape/wide"]
    assert metrics["tokens/shape/wide"]["mean"] == metrics["tokens/video"]["mean"]
    assert metrics["blind/shape/wide"]["n"] == halves[1] // 2
    assert metrics["best_constant/shape/wide/appearance"]["n"] > 0
    assert "| shape, wide |" in capsys.readouterr().out
    path = tmp_path / "sides.json"
    sides = ("compare", "--a", runs[0], "--b", runs[1], *common, "--device", "cpu")
    sides += ("--a-system", "video_chatgpt", "--b-system", "video_chatgpt", "--record", path)
    assert cli.main(list(map(str, (*sides, "--about", "shape/wide")))) == 0
    less = read_record(path)["metrics"]["difference/shape/wide"]
    assert less["n"] == halves[1] // 2
    assert "| shape, wide |" in capsys.readouterr().out
