"""Events against true scenes: what is measured, of which films, and the record of it."""

import numpy as np
import pytest
import torch

from vlmcourse import cli
from vlmcourse.evaluation import scene_events
from vlmcourse.evaluation.scene_events import Film, agreement, events_metrics, film_measures
from vlmcourse.records import read_record
from vlmcourse.world.dataset import SplitSettings, make_split
from vlmcourse.world.story import StorySettings


def film(scenes, noise=0.05, seed=0):
    """Frames near one point a scene."""
    scenes = torch.tensor(scenes)
    rng = torch.Generator().manual_seed(seed)
    points = 3 * torch.eye(8)[scenes]
    return Film(points + noise * torch.randn(len(scenes), 8, generator=rng), scenes)


TWO = film([0] * 9 + [1] * 3)
ONE = film([0] * 12)


def test_agreement_is_that_of_partitions():
    truth = torch.tensor([0, 0, 0, 1, 1, 1])
    assert agreement(torch.tensor([4, 4, 4, 2, 2, 2]), truth) == {"ari": 1.0, "homogeneity": 1.0}
    finer = agreement(torch.tensor([0, 0, 1, 2, 2, 3]), truth)
    assert finer["homogeneity"] == pytest.approx(1.0)
    # By hand: 2 pairs of frames are together in both, 2 in the finer, 6 in the truth, of 15.
    assert finer["ari"] == pytest.approx((2 - 2 * 6 / 15) / ((2 + 6) / 2 - 2 * 6 / 15), abs=1e-6)
    assert agreement(torch.tensor([0, 1, 0, 1, 0, 1]), truth)["homogeneity"] < 0.1


def test_scenes_are_found_where_parts_of_time_miss_them():
    found = film_measures(TWO, 2, 3, seeds=4)
    assert found["exact/ari"] == found["exact/homogeneity"] == 1
    assert found["contiguous/ari"] < 0.5
    assert found["events"] == 2
    assert 1 <= found["official/partitions"] <= 4
    assert found["official/stability"] <= 1


def test_stability_tells_how_much_the_noise_decides():
    """With two events the official rule has one neighbour: nothing but noise is left."""
    free = film([0] * 12, noise=1.0, seed=1)
    assert film_measures(free, 2, 5, seeds=6)["official/partitions"] > 3
    settled = film_measures(free, 2, 2, seeds=6)
    assert settled["official/stability"] > film_measures(free, 2, 5, seeds=6)["official/stability"]


def test_metrics_stand_by_the_number_of_scenes():
    metrics = events_metrics([TWO, ONE, film([0] * 4 + [1] * 8, seed=2)], 0.25, 3, seeds=3)
    assert metrics["own/events/scenes/2"]["mean"] == 3
    assert metrics["true/events/scenes/2"]["mean"] == 2
    assert metrics["true/exact/ari/scenes/2"]["mean"] == 1
    assert metrics["true/exact/ari/scenes/2"]["n"] == 2
    assert "own/official/stability/scenes/1" in metrics
    assert "own/exact/ari/scenes/1" not in metrics
    assert "true/events/scenes/1" not in metrics
    assert metrics["own/exact/homogeneity/scenes/2"]["unit"] == "share"
    status, note = scene_events.judged(metrics)
    assert status in ("ok", "negative")
    assert "2 scenes, true number of events" in note


@pytest.mark.parametrize(("even", "status"), [(0.2, "ok"), (0.95, "negative")])
def test_no_better_than_parts_of_time_is_told(even, status):
    def one(mean):
        return {"n": 9, "mean": mean, "low": mean - 0.1, "high": mean + 0.1, "unit": ""}

    metrics = {"own/exact/ari/scenes/2": one(0.8), "own/contiguous/ari/scenes/2": one(even)}
    assert scene_events.judged(metrics)[0] == status


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    settings = SplitSettings(story=StorySettings.of_length(12), scenes=(1, 2), fps=1, sound=False)
    make_split(root, "test", 4, settings, workers=1, progress=False)
    return root


def run(*arguments):
    return cli.main(["evaluate", "--system", "chat_univi", "--events", *map(str, arguments)])


def test_the_command_writes_a_record_and_a_table(scenes, tmp_path, capsys):
    path = tmp_path / "events.json"
    where = ("--split", scenes / "test", "--cache", tmp_path / "cache", "--record", path)
    assert run(*where, "--set", "temporal_rate=3") == 0
    record = read_record(path)
    assert record["settings"]["temporal_rate"] == 3
    assert record["settings"]["clips"] == 4
    assert record["metrics"]["own/events/scenes/2"]["mean"] == 3
    assert record["seeds"] == list(range(scene_events.SEEDS))
    assert np.isfinite(record["metrics"]["true/exact/ari/scenes/2"]["mean"])
    table = capsys.readouterr().out
    assert "| adjusted Rand index | 2 scenes, own count | 2 scenes, true count |" in table
    assert "official, partitions" in table


def test_what_has_no_events_or_no_scenes_is_refused(scenes, world, tmp_path, capsys):
    cache = ("--cache", tmp_path / "cache")
    for arguments, reason in (
        (("--split", world / "test", *cache), "no film of several scenes"),
        (("--split", scenes / "test", "--runs", "x", *cache), "takes no --runs"),
        (("--split", scenes / "test", "--controls", "blind"), "no grid, controls"),
    ):
        assert run(*arguments) == 2
        assert reason in capsys.readouterr().err
    other = ["evaluate", "--system", "video_chatgpt", "--events", "--split", str(scenes / "test")]
    assert cli.main(other) == 2
    assert "video_chatgpt makes no events" in capsys.readouterr().err
