"""Splits on disk: disjoint, repeatable, resumed after a kill, mended when damaged."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from vlmcourse.errors import UserError
from vlmcourse.training.instruction_data import read_llava_json
from vlmcourse.world import language
from vlmcourse.world.dataset import SplitSettings, load_split, make_split, verify_split
from vlmcourse.world.splits import sample_stories
from vlmcourse.world.story import StorySettings

SMALL = SplitSettings(story=StorySettings(duration_s=4, events=(1, 2)), fps=2, width=32, height=32)


def make(root, split="train", count=10, settings=SMALL, **more):
    return make_split(root, split, count, settings, **{"workers": 1, "progress": False} | more)


def written(folder):
    """Return when each clip was written."""
    return {p.name: p.stat().st_mtime_ns for p in (Path(folder) / "clips").iterdir()}


# ---------------------------------------------------------------- what is on disk


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make(tmp_path_factory.mktemp("world"), "val", 12)


def test_a_split_holds_what_the_contract_says(world):
    names = {p.name for p in world.folder.iterdir()} - {".lock"}
    assert names == {
        "clips",
        "stories.jsonl",
        "conversations.json",
        "captions.json",
        "manifest.json",
    }
    assert len(world) == len(world.clips) == len(world.questions) == 12
    assert all(clip.is_file() for clip in world.clips)
    for clip, story in zip(world.clips, world.stories, strict=True):
        assert clip.with_suffix(".srt").exists() == bool(story.lines)
    assert world.stories == sample_stories("val", 12, SMALL.story)
    assert verify_split(world.folder) == {}


def test_questions_are_the_balanced_ones_and_survive_the_file(world):
    assert world.questions == language.balanced_questions(world.stories, seed=1)
    assert sum(map(len, world.questions)) > 12


def test_the_general_reader_reads_the_worlds_questions(world):
    samples = read_llava_json(world.folder / "conversations.json", world.folder / "clips")
    asked = [(clip, q) for clip, qs in zip(world.clips, world.questions) for q in qs]
    assert len(samples) == len(asked)
    for sample, (clip, question) in zip(samples, asked, strict=True):
        assert sample.video == clip
        assert sample.plain_turns == (("user", question.text), ("assistant", question.answer))
        assert (sample.family, sample.kind) == (question.family, question.kind)
        assert sample.evidence == question.evidence
    assert len({s.id for s in samples}) == len(samples)


def test_captions_tell_the_stories(world):
    samples = read_llava_json(world.folder / "captions.json", world.folder / "clips")
    styles = list(language.CAPTION_REQUESTS)
    assert [s.kind for s in samples] == styles * 12
    assert samples[1].plain_turns[1][1] == language.caption(world.stories[0], styles[1])


def test_the_data_checksum_is_that_of_the_files(world):
    listing = "".join(
        f"{hashlib.sha256((world.folder / path).read_bytes()).hexdigest()}  {path}\n"
        for path in sorted(world.manifest["files"])
    )
    assert world.data_checksum == hashlib.sha256(listing.encode()).hexdigest()
    assert len(world.manifest["files"]) == 3 + len(list((world.folder / "clips").iterdir()))


def test_two_processes_make_the_same_files(world, tmp_path):
    made = make(tmp_path, "val", 12, workers=2)
    assert made.data_checksum == world.data_checksum


# ---------------------------------------------------------------- reuse, damage, change


def test_a_second_run_writes_nothing(tmp_path):
    first = make(tmp_path)
    before = written(first.folder), (first.folder / "manifest.json").stat().st_mtime_ns
    assert make(tmp_path).data_checksum == first.data_checksum
    assert (written(first.folder), (first.folder / "manifest.json").stat().st_mtime_ns) == before


def test_damage_is_found_and_only_it_is_mended(tmp_path):
    first = make(tmp_path)
    before = written(first.folder)
    spoilt, gone = first.clips[2], first.clips[5]
    spoken = next(c.with_suffix(".srt") for c in first.clips if c.with_suffix(".srt").exists())
    spoilt.write_bytes(spoilt.read_bytes()[:-100])
    gone.unlink()
    spoken.write_text("1\n")
    (first.folder / "conversations.json").write_text("[]")
    assert verify_split(first.folder) == {
        f"clips/{spoilt.name}": "changed",
        f"clips/{gone.name}": "missing",
        f"clips/{spoken.name}": "changed",
        "conversations.json": "changed",
    }
    with pytest.raises(UserError, match=r"conversations\.json"):
        load_split(first.folder)
    again = make(tmp_path)
    assert again.data_checksum == first.data_checksum
    assert verify_split(again.folder) == {}
    after = written(again.folder)
    remade = {name.split(".")[0] for name in before if before[name] != after[name]}
    assert remade == {spoilt.stem, gone.stem, spoken.stem}


@pytest.mark.parametrize("name", ["captions.json", "stories.jsonl"])
def test_a_lost_text_is_written_again(tmp_path, name):
    first = make(tmp_path)
    before = written(first.folder)
    (first.folder / name).unlink()
    assert make(tmp_path).data_checksum == first.data_checksum
    assert written(first.folder) == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": {}, "data_checksum": "x"}'])
def test_a_damaged_manifest_is_named_and_replaced(tmp_path, content):
    first = make(tmp_path, count=3)
    (first.folder / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json: damaged"):
        load_split(first.folder)
    assert make(tmp_path, count=3).data_checksum == first.data_checksum


def test_loading_what_was_never_made_says_how_to_make_it(tmp_path):
    with pytest.raises(UserError, match="vlmcourse world"):
        load_split(tmp_path / "train")


def test_other_settings_are_refused_by_name_and_remade_with_force(tmp_path):
    first = make(tmp_path, count=3)
    other = replace(SMALL, fps=4.0, story=replace(SMALL.story, duration_s=5))
    with pytest.raises(UserError, match=r"fps 2 -> 4\.0; story\.duration_s 4 -> 5.*--force"):
        make(tmp_path, count=3, settings=other)
    assert load_split(first.folder).data_checksum == first.data_checksum
    made = make(tmp_path, count=3, settings=other, force=True)
    assert {s.duration_s for s in made.stories} == {5}
    assert verify_split(made.folder) == {}


def test_a_split_made_before_a_setting_existed_counts_as_made_with_its_default(tmp_path):
    first = make(tmp_path, count=3)
    path = first.folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["settings"]["story"]["live_sound"]
    path.write_text(json.dumps(manifest))
    before = written(first.folder)
    make(tmp_path, count=3)
    assert written(first.folder) == before
    live = replace(SMALL, story=replace(SMALL.story, live_sound=True))
    with pytest.raises(UserError, match=r"story\.live_sound False -> True.*another --root"):
        make(tmp_path, count=3, settings=live)


def test_count_grows_by_adding_and_shrinks_only_with_force(tmp_path):
    few = make(tmp_path, count=4)
    before = written(few.folder)
    more = make(tmp_path, count=9)
    assert len(more) == 9
    assert {k: v for k, v in written(more.folder).items() if k in before} == before
    with pytest.raises(UserError, match="count 9 -> 4"):
        make(tmp_path, count=4)
    fewer = make(tmp_path, count=4, force=True)
    assert fewer.data_checksum == few.data_checksum
    assert set(written(fewer.folder)) == set(before)


def test_a_changed_look_remakes_clips_and_changed_words_only_words(tmp_path, monkeypatch):
    first = make(tmp_path, count=3)
    before = written(first.folder)
    now = SMALL.made_by()
    monkeypatch.setattr(SplitSettings, "made_by", lambda self: now | {"words_made_by": "new"})
    make(tmp_path, count=3)
    assert written(first.folder) == before
    monkeypatch.setattr(SplitSettings, "made_by", lambda self: now | {"clips_made_by": "new"})
    make(tmp_path, count=3)
    assert all(written(first.folder)[name] != before[name] for name in before)


# ---------------------------------------------------------------- kill and resume


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX signals and /proc")
def test_a_killed_run_goes_on_where_it_stopped(tmp_path, workers):
    count = 80
    arguments = f"--split val --count {count} --size 32x32 --no-sound --root {tmp_path}".split()
    command = [
        sys.executable,
        "-m",
        "vlmcourse.cli",
        "world",
        *arguments,
        "--workers",
        str(workers),
    ]
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    folder, journal = tmp_path / "val", tmp_path / "val" / "progress.jsonl"
    until = time.monotonic() + 60
    while not journal.exists() or journal.read_text().count("\n") < 3:
        assert time.monotonic() < until
        assert run.poll() is None
        time.sleep(0.005)
    children = [
        int(pid)
        for task in Path(f"/proc/{run.pid}/task").glob("*/children")
        for pid in task.read_text().split()
    ]
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (folder / "manifest.json").exists()
    with pytest.raises(UserError, match="no such file"):
        load_split(folder)
    while any(alive(pid) for pid in children):
        assert time.monotonic() < until, "workers outlive their parent"
        time.sleep(0.02)

    with open(journal, "a") as torn:
        torn.write('{"clips/val_00070.mp4": "12')
    finished = set()
    for line in journal.read_text().splitlines()[1:-1]:
        finished |= {Path(path).name for path in json.loads(line)}
    left = folder / "clips" / "val_00070.mp4.123.part"
    left.write_bytes(b"half a clip")
    (folder / "clips" / "val_00079.mp4").write_bytes(b"not in the journal, so not trusted")
    before = written(folder)
    assert 16 <= len(finished) < count
    settings = SplitSettings(width=32, height=32, sound=False)
    resumed = make_split(tmp_path, "val", count, settings, workers=1, progress=False)
    after = written(folder)
    assert all(before[name] == after[name] for name in finished)
    assert not left.exists()
    assert not journal.exists()
    assert verify_split(folder) == {}
    whole = make_split(tmp_path / "whole", "val", count, settings, workers=1, progress=False)
    assert resumed.data_checksum == whole.data_checksum


def test_a_second_maker_waits_for_the_first(tmp_path):
    arguments = (
        f"--split val --count 24 --size 32x32 --no-sound --workers 1 --root {tmp_path}".split()
    )
    command = [sys.executable, "-m", "vlmcourse.cli", "world", *arguments]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert outputs[0][0] == outputs[1][0]
    assert verify_split(tmp_path / "val") == {}
