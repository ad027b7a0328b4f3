"""Films of several scenes are asked as any split, and told apart in the record."""

import pytest

from vlmcourse import cli
from vlmcourse.records import read_record
from vlmcourse.world.dataset import SplitSettings, make_split
from vlmcourse.world.story import StorySettings


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    settings = SplitSettings(story=StorySettings.of_length(8), scenes=(1, 2), fps=2, sound=False)
    made = make_split(root, "test", 4, settings, workers=1, progress=False)
    return root, made


def test_a_record_tells_films_apart_by_their_scenes(scenes, runs, foundations, tmp_path):
    root, made = scenes
    path = tmp_path / "scenes.json"
    asked = cli.main([
        *("evaluate", "--system", "video_chatgpt", "--runs", str(runs[0])),
        *("--split", str(root / "test"), "--cache", str(tmp_path / "cache")),
        *("--foundations", str(foundations), "--device", "cpu", "--record", str(path)),
        *("--controls", "oracle_text"),
    ])  # fmt: skip
    assert asked == 0
    metrics = read_record(path)["metrics"]
    for number, films in ((1, (0, 2)), (2, (1, 3))):
        questions = sum(len(made.questions[film]) for film in films)
        assert metrics[f"system/scenes/{number}"]["n"] == questions
        assert metrics[f"tokens/scenes/{number}"]["n"] == 2
        assert f"system/scenes/{number}/order" in metrics
        assert f"text_storyboard/scenes/{number}" in metrics
    assert metrics["system/all"]["n"] == sum(map(len, made.questions))
