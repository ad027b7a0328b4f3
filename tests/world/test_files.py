"""Clips as real files: what comes out of the mp4 and the srt is what went in."""

import hashlib
import os
import re
import subprocess
import sys

import av
import decord
import numpy as np
import pysubs2
import pytest

from vlmcourse.errors import UserError
from vlmcourse.world.files import whole_file, write_clip
from vlmcourse.world.render import render_frames
from vlmcourse.world.sound import render_sound
from vlmcourse.world.story import Line, Sound, Story, StorySettings, Thing, sample_story

THINGS = (Thing("red", "circle", "big", 0, 0), Thing("blue", "star", "small", 2, 1))
STORY = Story(3, 6, THINGS, (), (Sound(1, "bell"), Sound(4, "rattle")), (Line(2, 1, "anna"),))


def decode(path):
    """Return (frames [T, H, W, 3], sound [S] or None, seconds) by PyAV."""
    with av.open(str(path)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        seconds = container.duration / av.time_base
    sound = None
    with av.open(str(path)) as container:
        if container.streams.audio:
            sound = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    return np.stack(frames), sound, seconds


def distance(a, b):
    """Return the mean difference of frames [..., H, W, 3] in grey levels -> [...]."""
    return np.abs(a.astype(float) - b).mean((-3, -2, -1))


def checksum(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(("width", "height", "fps"), [(64, 64, 4), (96, 54, 4), (160, 90, 12.5)])
def test_decoded_frames_are_the_drawn_ones(tmp_path, width, height, fps):
    story = sample_story(21)
    frames, _, seconds = decode(write_clip(story, tmp_path, "clip", fps, width, height).video)
    drawn = render_frames(story, fps, width, height)
    assert frames.shape == drawn.shape
    assert abs(seconds - story.duration_s) < 0.1
    # The codec smooths noise and halves the colour planes.
    assert distance(frames, drawn).max() < 6.0
    turns = [i for i in range(1, len(drawn)) if not np.array_equal(drawn[i], drawn[i - 1])]
    assert turns
    for i in turns:
        assert distance(frames[i], drawn[i]) < distance(frames[i], drawn[i - 1])
        assert distance(frames[i - 1], drawn[i - 1]) < distance(frames[i - 1], drawn[i])


def test_better_quality_is_nearer(tmp_path):
    story, errors = sample_story(5), []
    for crf in (0, 23, 45):
        frames, _, _ = decode(write_clip(story, tmp_path, f"q{crf}", crf=crf).video)
        errors.append(np.abs(frames.astype(float) - render_frames(story)).mean())
    assert errors == sorted(errors)
    assert errors[2] > errors[0] + 0.5


def test_decord_and_pyav_agree(tmp_path):
    path = write_clip(STORY, tmp_path, "clip").video
    reader = decord.VideoReader(str(path))
    frames, _, _ = decode(path)
    assert len(reader) == len(frames) == 24
    assert reader.get_avg_fps() == 4.0
    assert np.array_equal(reader.get_batch(range(24)).asnumpy(), frames)
    stamps = reader.get_frame_timestamp(range(24))
    assert np.allclose(stamps[:, 0], np.arange(24) / 4, atol=1e-3)


def test_sound_is_heard_in_its_seconds(tmp_path):
    _, sound, _ = decode(write_clip(STORY, tmp_path, "clip").video)
    assert abs(len(sound) - 6 * 16000) <= 1024
    sound = np.pad(sound, (0, 1024))[: 6 * 16000]
    loud = np.sqrt(np.mean(sound.reshape(6, -1) ** 2, axis=1))
    assert set(np.nonzero(loud > 0.01)[0]) == {1, 4}
    assert np.corrcoef(sound, render_sound(STORY))[0, 1] > 0.95


def test_container_streams_and_order(tmp_path):
    path = write_clip(STORY, tmp_path, "clip").video
    with av.open(str(path)) as container:
        names = [stream.codec_context.name for stream in container.streams]
        assert names == ["h264", "aac"]
        assert container.streams.audio[0].rate == 16000
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "a player must find the index first"


def test_a_story_without_sounds_still_has_a_track_unless_told_otherwise(tmp_path):
    silent = Story(3, 4, THINGS, ())
    _, sound, _ = decode(write_clip(silent, tmp_path, "with").video)
    assert np.abs(sound).max() < 0.05
    frames, none, _ = decode(write_clip(silent, tmp_path, "without", sound=False).video)
    assert none is None
    assert len(frames) == 16


def test_subtitles_say_the_lines(tmp_path):
    files = write_clip(STORY, tmp_path, "clip")
    assert files.subtitles == tmp_path / "clip.srt"
    (cue,) = pysubs2.load(str(files.subtitles))
    assert (cue.start, cue.end) == (2000, 3500)
    assert cue.plaintext == "blue star is called anna"
    assert re.match(r"1\n00:00:02,000 --> 00:00:03,500\n", files.subtitles.read_text())


def test_no_lines_no_subtitles_and_no_stale_ones(tmp_path):
    write_clip(STORY, tmp_path, "clip")
    files = write_clip(Story(3, 4, THINGS, ()), tmp_path, "clip")
    assert files.subtitles is None
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    first = write_clip(sample_story(8), tmp_path / "a", "clip")
    second = write_clip(sample_story(8), tmp_path / "b", "clip")
    assert checksum(first.video) == checksum(second.video)
    assert checksum(first.video) != checksum(write_clip(sample_story(9), tmp_path, "x").video)


def test_bytes_do_not_depend_on_what_memory_held_before(tmp_path):
    """With x264's mbtree these clips depend on it; glibc fills memory as MALLOC_PERTURB_ says."""
    code = (
        "import sys; from vlmcourse.world.files import write_clip;"
        "from vlmcourse.world.splits import sample_stories;"
        "stories = sample_stories('val', 12);"
        "[write_clip(s, sys.argv[1], str(i), 4, 32, 32, sound=i == 0)"
        " for i, s in enumerate(stories)]"
    )
    heap = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TOP_PAD_": "100000000"}
    for fill in ("85", "170"):
        command = [sys.executable, "-c", code, str(tmp_path / fill)]
        environment = os.environ | heap | {"MALLOC_PERTURB_": fill}
        subprocess.run(command, env=environment, check=True, timeout=60)
    for index in range(12):
        name = f"{index}.mp4"
        assert checksum(tmp_path / "85" / name) == checksum(tmp_path / "170" / name)


def test_a_failure_leaves_nothing_behind(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"before")

    def fail():
        with whole_file(path) as part:
            part.write_bytes(b"half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"width": 63}, "even"),
        ({"height": 8}, "at least 16"),
        ({"fps": 0}, "fps"),
        ({"crf": 52}, "crf"),
    ],
)
def test_impossible_formats_are_refused(tmp_path, arguments, reason):
    with pytest.raises(UserError, match=reason):
        write_clip(STORY, tmp_path, "clip", **arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("duration_s", "fps", "size"), [(60, 4, (96, 54)), (600, 0.5, (32, 32))])
def test_long_clips(tmp_path, duration_s, fps, size):
    story = sample_story(2, StorySettings(duration_s=duration_s))
    frames, sound, seconds = decode(write_clip(story, tmp_path, "long", fps, *size).video)
    assert frames.shape == (duration_s * fps, size[1], size[0], 3)
    assert abs(len(sound) / 16000 - duration_s) < 0.1
    assert abs(seconds - duration_s) < 0.1
    last = render_frames(story, fps, *size)[-1]
    assert np.abs(frames[-1].astype(float) - last).mean() < 6.0
