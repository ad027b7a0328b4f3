"""`vlmcourse world`: every kind of data by its option, and wrong options in one line."""

import pytest
from PIL import Image

from vlmcourse import cli
from vlmcourse.world.command import ROOTS
from vlmcourse.world.dataset import load_split
from vlmcourse.world.pictures import MANY_SIZES
from vlmcourse.world.splits import SPLITS, scene_split
from vlmcourse.world.story import is_held_out
from vlmcourse.world.texts import load_texts


def run(*arguments):
    """Run the command and return its exit code."""
    return cli.main(["world", *map(str, arguments)])


def held_out(story):
    """Say of every event whether its combination is held out."""
    done = [(story.things[e.thing], e.action) for e in story.events]
    return [is_held_out(t.colour, t.shape, action) for t, action in done]


def test_the_command_makes_all_splits(tmp_path, capsys):
    arguments = f"--count 3 --duration 5 --size 48x32 --fps 2 --workers 1 --root {tmp_path}"
    assert cli.main(["world", *arguments.split()]) == 0
    told = capsys.readouterr().out
    for split in SPLITS:
        made = load_split(tmp_path / split)
        assert len(made) == 3
        assert made.manifest["settings"]["width"] == 48
        assert made.data_checksum[:12] in told


def test_the_command_makes_live_sound_beside_the_dubbed_clips(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--live-sound"]):
        arguments = ("--split", "test", "--count", 2, "--duration", 5, "--fps", 2, "--workers", 1)
        assert run(*arguments, *more) == 0
    capsys.readouterr()
    dubbed, live = (load_split(tmp_path / "data" / f / "test") for f in ("world", "world_live"))
    assert [m.manifest["settings"]["story"]["live_sound"] for m in (dubbed, live)] == [False, True]
    for story in live.stories:
        assert [s.start_s for s in story.sounds] == [e.start_s for e in story.events]
        assert scene_split(story) == "test"
        assert any(held_out(story))
    assert dubbed.data_checksum != live.data_checksum


def test_every_kind_of_data_has_a_folder_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = ("--split", "val", "--count", 3)
    assert run("--pictures", *few, "--workers", 1) == 0
    assert run("--durations", "8,4", *few, "--fps", 1, "--size", "32x32", "--workers", 1) == 0
    assert run("--texts", *few) == 0
    told = capsys.readouterr().out.splitlines()
    pictures = load_split(ROOTS["pictures"] / "val")
    lengths = load_split(ROOTS["durations"] / "val")
    texts = load_texts(ROOTS["texts"] / "val")
    assert {clip.suffix for clip in pictures.clips} == {".png"}
    assert lengths.manifest["settings"]["story"]["duration_s"] == [4, 8]
    assert {story.duration_s for story in lengths.stories} <= {4, 8}
    assert texts.manifest["count"] == 3
    assert len(set(map(str, ROOTS.values()))) == len(ROOTS)
    made = ((pictures, "3 pictures"), (lengths, "3 clips"), (texts, "3 descriptions"))
    for (split, what), line in zip(made, told, strict=True):
        assert what in line
        assert split.data_checksum[:12] in line


def test_the_size_of_pictures_is_asked_for(tmp_path):
    assert (
        run(
            *("--pictures", "--size", "33x48", "--split", "val"),
            *("--count", 2, "--workers", 1, "--root", tmp_path),
        )
        == 0
    )
    for clip in load_split(tmp_path / "val").clips:
        with Image.open(clip) as picture:
            assert picture.size == (33, 48)


def test_pictures_of_many_sizes_are_asked_for_by_a_list_or_without(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    few = ("--split", "val", "--count", 6, "--workers", 1)
    assert run("--pictures", "--sizes", *few) == 0
    made = load_split(ROOTS["sizes"] / "val")
    assert set(made.sizes) <= set(MANY_SIZES)
    assert made.manifest["settings"]["sizes"] == [list(size) for size in MANY_SIZES]
    assert all(story.mark for story in made.stories)
    assert made.data_checksum[:12] in capsys.readouterr().out
    assert run("--pictures", "--sizes", "48x32, 20x60,48x32", *few, "--root", "own") == 0
    assert load_split("own/val").manifest["settings"]["sizes"] == [[48, 32], [20, 60]]


def test_longer_films_tell_more(tmp_path, caplog):
    few = ("--split", "test", "--count", 2, "--fps", 1, "--size", "32x32", "--workers", 1)
    for duration_s, events in ((8, [1, 4]), (64, [2, 8]), (65, [2, 8])):
        root = tmp_path / str(duration_s)
        assert run("--duration", duration_s, *few, "--root", root) == 0
        made = load_split(root / "test")
        assert made.manifest["settings"]["story"]["events"] == events
        assert [story.duration_s for story in made.stories] == [duration_s] * 2
        assert ("no words for seconds from 64" in caplog.text) == (duration_s > 64)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--sizes", "32x32"], "--sizes cannot be had with films: give --pictures too"),
        (["--pictures", "--sizes", "32x32,64"], "--sizes must look like"),
        (["--pictures", "--sizes", "32x32", "--size", "32x32"], "exclude each other"),
        (["--pictures", "--sizes", "32x32,8x40"], "at least 16 pixels, not 8x40"),
        (["--texts", "--sizes"], "--sizes cannot be had with --texts"),
        (["--size", "64"], "--size must look like"),
        (["--size", "63x64"], "even"),
        (["--duration", "2"], "4 to 600"),
        (["--count", "0"], "count"),
        (["--durations", "4;6"], "--durations must look like"),
        (["--durations", "4,2"], "4 to 600 seconds, not 2"),
        (["--durations", "4,6", "--duration", "8"], "exclude each other"),
        (["--pictures", "--size", "8x96"], "at least 16 pixels, not 8x96"),
        (["--pictures", "--fps", "0", "--no-sound"], "--fps, --no-sound cannot be had with --pic"),
        (["--pictures", "--durations", "4,6"], "--durations cannot be had with --pictures"),
        (["--texts", "--size", "64x64"], "--size cannot be had with --texts"),
        (["--texts", "--count", "0"], "count"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, capsys, arguments, reason):
    assert cli.main(["world", "--root", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit):
        cli.main(["world", "--help"])
    assert "example: vlmcourse world" in capsys.readouterr().out
