"""Splits of pictures and of clips of several lengths: asked as any split, as far as it has a
meaning."""

import pytest
import torch

from vlmcourse import cli, systems
from vlmcourse.conversation import PICTURE
from vlmcourse.evaluation.asked import load_probes
from vlmcourse.evaluation.rows import video_rows
from vlmcourse.records import read_record
from vlmcourse.training.weights import StageFile, save_stage
from vlmcourse.world.dataset import PictureSettings, SplitSettings, load_split, make_split
from vlmcourse.world.story import StorySettings

SYSTEM = "cogvlm2"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for split in ("train", "test"):
        make_split(root, split, 6, PictureSettings(), workers=1, progress=False)
    return root


@pytest.fixture(scope="module")
def run(foundations, tmp_path_factory):
    model = systems.build(SYSTEM, foundations=foundations)
    torch.manual_seed(0)
    names = [n for n, _ in model.named_parameters() if n.startswith(("adapter.", "conv."))]
    moved = {n: p.detach() + 0.01 * torch.randn_like(p) for n, p in model.named_parameters()}
    tensors = {name: moved[name] for name in names}
    shapes = {name: list(value.shape) for name, value in tensors.items()}
    settings = {"model": {"system": SYSTEM, "seed": 0}, "init_from": None}
    about = StageFile("s", ("adapter.*", "conv.*"), shapes, "hash", "train", settings, {})
    folder = tmp_path_factory.mktemp("run")
    save_stage(folder / "s", tensors, about)
    return folder


def command(data, run, foundations, path):
    return [
        *("evaluate", "--system", SYSTEM, "--runs", str(run), "--data", str(data)),
        *("--foundations", str(foundations), "--cache", str(path.parent / "cache")),
        *("--device", "cpu", "--record", str(path)),
    ]


def test_pictures_are_asked_without_what_needs_a_film(pictures, run, foundations, tmp_path):
    path = tmp_path / "pictures.json"
    assert cli.main(command(pictures, run, foundations, path)) == 0
    record = read_record(path)
    conditions = record["settings"]["conditions"]
    assert not {"one_frame", "shuffled", "shuffled_sound", "no_subtitles"} & set(conditions)
    assert {"system", "blind", "no_video", "other_clip", "text_events"} < set(conditions)
    metrics = record["metrics"]
    assert metrics["system/order"]["n"] == metrics["system/sound"]["n"] == 0
    assert metrics["system/appearance"]["n"] > 0
    assert metrics["tokens/video"]["mean"] == metrics["tokens/places"]["mean"] == 18
    assert metrics["parameters/experts"]["mean"] > 0


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            ["--controls", "shuffled"],
            "'shuffled' takes nothing from a system given pictures, one at a time",
        ),
        (["--grounding"], "no event whose beginning and length are asked"),
    ],
)
def test_what_needs_a_film_is_refused(
    pictures, run, foundations, tmp_path, options, complaint, capsys
):
    path = tmp_path / "no.json"
    assert cli.main([*command(pictures, run, foundations, path), *options]) == 2
    assert complaint in capsys.readouterr().err
    assert not path.exists()


def test_a_picture_stands_where_pictures_stand(pictures, foundations, tmp_path):
    model = systems.build(SYSTEM, foundations=foundations)
    probes = load_probes(load_split(pictures / "test"), model, SYSTEM, tmp_path, 2, progress=False)
    assert all(clip.is_picture for clip in probes.clips)
    for row, asked in zip(video_rows(model, probes, probes.clips), probes.asked):
        assert row.kinds.count(PICTURE) == 18
        assert max(row.segments) == len(asked)


def test_clips_of_several_lengths_are_asked_together(foundations, tmp_path):
    settings = SplitSettings(story=StorySettings(duration_s=(4, 6), events=(1, 2)))
    root = tmp_path / "lengths"
    split = make_split(root, "test", 6, settings, workers=1, progress=False)
    make_split(root, "train", 6, settings, workers=1, progress=False)
    assert {story.duration_s for story in split.stories} == {4, 6}
    model = systems.build("cogvlm2_video", foundations=foundations)
    tensors = {"boi": model.boi.detach() + 1}
    settings = {"model": {"system": "cogvlm2_video", "seed": 0}, "init_from": None}
    about = StageFile("s", ("boi",), {"boi": [1, 1, 32]}, "hash", "train", settings, {})
    save_stage(tmp_path / "run" / "s", tensors, about)
    path = tmp_path / "lengths.json"
    asked = [*command(root, tmp_path / "run", foundations, path), "--permutations", "1"]
    asked[asked.index(SYSTEM)] = "cogvlm2_video"
    assert cli.main(asked) == 0
    metrics = read_record(path)["metrics"]
    tokens = metrics["tokens/video"]
    assert tokens["mean"] == pytest.approx(
        sum(19 * (story.duration_s + 1) for story in split.stories) / 6, abs=1e-3
    )
    assert cli.main([*asked, "--grounding"]) == 0
    assert "random/mean_iou" in read_record(path)["metrics"]
