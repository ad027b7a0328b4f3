"""The subtitles of a clip: given, beside it, transcribed before, transcribed now, or none."""

import logging

import numpy as np
import pytest
from sounding_clips import write_file

from vlmcourse.media.errors import AudioError, SubtitleError
from vlmcourse.media.subtitles import Cue, read_subtitles
from vlmcourse.media.transcribe import Subtitles, find_cues, sound_hash, subtitles_of

SRT = "1\n00:00:00,500 --> 00:00:01,000\n{}\n"
HEARD = (Cue(0.25, 0.75, "a red & a blue one"), Cue(1.0, 1.5, "<no more>"))


class Listener:
    """Hears two lines in anything; `samples` are those it heard last."""

    def __init__(self, name="tiny (en)", cues=HEARD):
        self.name, self.cues, self.calls = name, cues, 0

    def transcribe(self, samples):
        self.samples, self.calls = samples, self.calls + 1
        return list(self.cues)


@pytest.fixture(autouse=True)
def no_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def clip(tmp_path):
    (tmp_path / "clips").mkdir()
    return write_file(tmp_path / "clips" / "a b.mp4", frames=8, seconds=2)


# ------------------------------------------------------------------ the order


def test_the_first_that_there_is_counts(clip, tmp_path):
    listener = Listener()
    assert find_cues(clip) == Subtitles((), "none", None)
    heard = find_cues(clip, transcriber=listener)
    kept = clip.with_name("a b.whisper.vtt")
    assert heard == Subtitles(HEARD, "transcribed", kept)
    assert find_cues(clip, transcriber=listener) == Subtitles(HEARD, "transcript", kept)
    assert find_cues(clip) == Subtitles(HEARD, "transcript", kept), "also without anybody to listen"
    beside, given = clip.with_suffix(".srt"), tmp_path / "other.srt"
    beside.write_text(SRT.format("beside"))
    given.write_text(SRT.format("given"))
    assert find_cues(clip, transcriber=listener) == Subtitles(
        (Cue(0.5, 1.0, "beside"),), "beside", beside
    )
    assert find_cues(clip, given, listener) == Subtitles((Cue(0.5, 1.0, "given"),), "given", given)
    assert subtitles_of(str(clip), str(given)) == (Cue(0.5, 1.0, "given"),)
    assert listener.calls == 1


def test_the_listener_gets_the_sound(clip):
    listener = Listener()
    find_cues(clip, transcriber=listener, cache=False)
    assert listener.samples.dtype == np.float32
    assert listener.samples.ndim == 1
    assert len(listener.samples) == pytest.approx(2 * 16000, abs=2048)
    assert np.abs(listener.samples).max() > 0.2
    assert not list(clip.parent.glob("*.vtt"))


def test_no_sound_track_is_normal(tmp_path):
    from PIL import Image

    silent = write_file(tmp_path / "silent.mp4", frames=8)
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    listener = Listener()
    for path in (silent, tmp_path / "one.png"):
        assert find_cues(path, transcriber=listener) == Subtitles()
        assert subtitles_of(path) == ()
    assert listener.calls == 0


def test_digital_silence_says_nothing(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.zeros(16000, np.float32), 16000)
    listener = Listener()
    assert find_cues(tmp_path / "a.wav", transcriber=listener).cues == ()
    assert listener.calls == 0


def test_a_sound_track_that_cannot_be_decoded_is_named(clip):
    content = clip.read_bytes()
    clip.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(AudioError, match=r"a b\.mp4: .*cut off"):
        subtitles_of(clip, transcriber=Listener())
    assert subtitles_of(clip) == (), "nobody listens, so nobody has to decode"


def test_a_clip_that_is_missing(tmp_path):
    with pytest.raises(AudioError, match=r"gone\.mp4: no such file"):
        subtitles_of(tmp_path / "gone.mp4", transcriber=Listener())


@pytest.mark.parametrize("beside", [True, False])
def test_a_bad_subtitle_file_is_named_and_nobody_listens_instead(clip, tmp_path, beside):
    bad = clip.with_suffix(".srt") if beside else tmp_path / "given.srt"
    bad.write_text("no times here")
    listener = Listener()
    with pytest.raises(SubtitleError, match=f"{bad.name}: holds no subtitles"):
        subtitles_of(clip, None if beside else bad, listener)
    assert listener.calls == 0


# ------------------------------------------------------------------ transcripts that are kept


def test_nothing_said_is_remembered(clip):
    listener = Listener(cues=())
    for _ in range(2):
        assert find_cues(clip, transcriber=listener).cues == ()
    assert listener.calls == 1


def test_the_file_tells_who_heard_what(clip):
    find_cues(clip, transcriber=Listener("large\n--> v2 (en)"))
    text = clip.with_name("a b.whisper.vtt").read_text()
    assert text.startswith("WEBVTT\n\nNOTE\ntranscribed by: large -> v2 (en)\nsound sha256: ")
    assert sound_hash(clip) in text
    assert read_subtitles(clip.with_name("a b.whisper.vtt")) == list(HEARD)
    assert [path.name for path in clip.parent.iterdir() if path.name.startswith(".")] == []


def test_another_model_listens_anew(clip):
    find_cues(clip, transcriber=Listener())
    other = Listener("large (en)", cues=HEARD[:1])
    assert find_cues(clip, transcriber=other) == Subtitles(
        HEARD[:1], "transcribed", clip.with_name("a b.whisper.vtt")
    )
    assert find_cues(clip).cues == HEARD[:1]


def test_another_sound_makes_it_stale(clip, caplog):
    listener = Listener()
    find_cues(clip, transcriber=listener)
    write_file(clip, frames=8, seconds=1.5)
    with caplog.at_level(logging.WARNING):
        assert find_cues(clip) == Subtitles()
    assert "a b.whisper.vtt: not used, it was made from another sound" in caplog.text
    assert find_cues(clip, transcriber=listener).origin == "transcribed"
    assert find_cues(clip, transcriber=listener).origin == "transcript"
    assert listener.calls == 2


def test_other_pictures_do_not(clip):
    listener = Listener()
    find_cues(clip, transcriber=listener)
    write_file(clip, frames=6, seconds=2)
    assert find_cues(clip, transcriber=listener).origin == "transcript"


def test_a_damaged_transcript_is_made_anew(clip, caplog):
    listener, kept = Listener(), clip.with_name("a b.whisper.vtt")
    find_cues(clip, transcriber=listener)
    kept.write_text(kept.read_text().replace("00:00:00.250 -->", "00:00:00.2 -->"))
    with caplog.at_level(logging.WARNING):
        assert find_cues(clip, transcriber=listener).cues == HEARD
    assert "times that cannot be read" in caplog.text
    assert listener.calls == 2


def test_somebodys_own_file_of_that_name_is_taken_and_never_overwritten(clip):
    kept, listener = clip.with_name("a b.whisper.vtt"), Listener()
    kept.write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nmine\n")
    assert subtitles_of(clip, transcriber=listener) == (Cue(1.0, 2.0, "mine"),)
    kept.write_text("WEBVTT\n\n00:01 --> 00:02\nmine\n")
    with pytest.raises(SubtitleError, match="times that cannot be read"):
        subtitles_of(clip, transcriber=listener)
    assert listener.calls == 0


def test_where_the_folder_cannot_be_written_the_user_cache_is_used(clip, tmp_path):
    clip.with_name("a b.whisper.vtt").mkdir()  # stands in the way
    found = find_cues(clip, transcriber=Listener())
    assert found.cues == HEARD
    assert found.file.parent == tmp_path / "cache" / "vlmcourse" / "transcripts"
    assert found.file.name.startswith("a b.")
    assert find_cues(clip) == Subtitles(HEARD, "transcript", found.file)
    assert sorted(path.name for path in clip.parent.iterdir()) == ["a b.mp4", "a b.whisper.vtt"]


def test_where_nothing_can_be_written_a_warning_says_so(clip, tmp_path, caplog):
    clip.with_name("a b.whisper.vtt").mkdir()
    (tmp_path / "cache").write_text("a file, not a folder")
    with caplog.at_level(logging.WARNING):
        assert find_cues(clip, transcriber=Listener()) == Subtitles(HEARD, "transcribed", None)
    assert "was not kept" in caplog.text
    assert "a b.whisper.vtt" in caplog.text


def test_a_chosen_folder_keeps_clips_of_one_name_apart(clip, tmp_path):
    other = tmp_path / "b" / clip.name
    other.parent.mkdir()
    write_file(other, frames=4, seconds=1)
    kept = tmp_path / "kept"
    find_cues(clip, transcriber=Listener(), cache=kept)
    find_cues(other, transcriber=Listener(cues=HEARD[:1]), cache=kept)
    assert find_cues(clip, cache=kept).cues == HEARD
    assert find_cues(other, cache=kept).cues == HEARD[:1]
    assert len(list(kept.iterdir())) == 2
    assert find_cues(clip).cues == (), "nothing was written beside it"


def test_a_broken_write_leaves_the_old_file(clip, monkeypatch):
    find_cues(clip, transcriber=Listener())
    kept = clip.with_name("a b.whisper.vtt")
    before = kept.read_bytes()

    def fails(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vlmcourse.media.transcribe.os.replace", fails)
    assert find_cues(clip, transcriber=Listener("other")).file is None
    assert kept.read_bytes() == before
    assert sorted(path.name for path in clip.parent.iterdir()) == ["a b.mp4", "a b.whisper.vtt"]


# ------------------------------------------------------------------ the hash


def test_the_hash_is_of_the_sound(clip, tmp_path):
    same = write_file(tmp_path / "same.mp4", frames=3, seconds=2)
    other = write_file(tmp_path / "other.mp4", frames=8, seconds=1.5)
    assert sound_hash(clip) == sound_hash(same) != sound_hash(other)
    assert len(sound_hash(clip)) == 64
    assert sound_hash(write_file(tmp_path / "silent.mp4", frames=4)) == ""
