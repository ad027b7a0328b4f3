"""Sound of every kind of file: the right samples on the right clock, or one error."""

import numpy as np
import pytest
from numbered_clips import write_sound, write_video

from vlmcourse.media.audio import Audio, has_audio, log_mel, read_audio
from vlmcourse.media.errors import AudioError
from vlmcourse.media.video import probe_video


def tone(hertz: float, seconds: float, rate: int, loudness: float = 0.5) -> np.ndarray:
    return loudness * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def click(at_s: float, seconds: float, rate: int) -> np.ndarray:
    """Return silence with a short burst of 1 kHz in the middle of which lies `at_s`."""
    times = np.arange(round(seconds * rate)) / rate - at_s
    return 0.8 * np.cos(2 * np.pi * 1000 * times) * np.exp(-((times / 0.003) ** 2))


def loudest_hertz(samples: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.fft.rfftfreq(len(samples), 1 / rate)[spectrum.argmax()])


def loudest_s(audio: Audio) -> float:
    return float(np.abs(audio.samples[0]).argmax() / audio.sample_rate)


def test_wav_is_read_exactly(tmp_path):
    import soundfile

    wave = tone(440, 1.0, 16000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    audio = read_audio(tmp_path / "a.wav")
    assert audio.samples.dtype == np.float32
    assert audio.samples.shape == (1, 16000)
    assert audio.duration_s == 1.0
    np.testing.assert_array_equal(audio.samples[0], wave)


def test_sound_of_a_video(tmp_path):
    path = write_video(tmp_path / "a.mp4", sound=tone(440, 2.0, 48000)[None])
    assert has_audio(path)
    assert probe_video(path).has_audio
    audio = read_audio(path)
    assert audio.sample_rate == 16000
    assert audio.duration_s == pytest.approx(2.0, abs=0.05)
    assert loudest_hertz(audio.samples[0, 1600:-1600], 16000) == pytest.approx(440, abs=2)
    effective = np.sqrt(np.square(audio.samples[0, 1600:-1600]).mean())
    assert effective == pytest.approx(0.5 / np.sqrt(2), abs=0.02)


def test_mono_is_the_mean_of_left_and_right(tmp_path):
    sides = np.stack([tone(300, 1.0, 48000, 0.8), tone(1200, 1.0, 48000, 0.4)])
    path = write_video(tmp_path / "a.mp4", sound=sides)
    both = read_audio(path, 48000, mono=False)
    assert both.samples.shape[0] == 2
    assert loudest_hertz(both.samples[0], 48000) == pytest.approx(300, abs=3)
    assert loudest_hertz(both.samples[1], 48000) == pytest.approx(1200, abs=3)
    mixed = read_audio(path, 48000)
    np.testing.assert_allclose(mixed.samples[0], both.samples.mean(0), atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000])
def test_resampling_keeps_pitch_and_length(tmp_path, rate):
    import soundfile

    soundfile.write(tmp_path / "a.wav", tone(440, 1.5, 44100), 44100, subtype="FLOAT")
    audio = read_audio(tmp_path / "a.wav", rate)
    assert audio.duration_s == pytest.approx(1.5, abs=2 / rate)
    expected = tone(440, 1.5, rate)
    edge = rate // 20
    shared = slice(edge, len(expected) - edge)
    np.testing.assert_allclose(audio.samples[0, shared], expected[shared], atol=2e-3)


def test_resampling_removes_what_would_fold_back(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "a.wav", tone(7000, 1.0, 44100), 44100, subtype="FLOAT")
    assert np.abs(read_audio(tmp_path / "a.wav", 8000).samples[0, 800:-800]).max() < 0.01


def test_recorded_rate(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "a.flac", tone(440, 0.5, 22050), 22050)
    assert read_audio(tmp_path / "a.flac", None).sample_rate == 22050


@pytest.mark.parametrize("at_s", [0.25, 1.5])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_sound_and_time_agree(tmp_path, name, at_s):
    """AAC starts with a warm-up of 1024 samples (21 ms), which must not delay the sound."""
    path = write_video(tmp_path / name, sound=click(at_s, 2.0, 48000)[None])
    assert loudest_s(read_audio(path)) == pytest.approx(at_s, abs=0.002)


def test_sound_that_starts_late(tmp_path):
    path = write_video(tmp_path / "a.mp4", sound=click(0.5, 1.0, 48000)[None], sound_start_s=0.7)
    audio = read_audio(path)
    assert loudest_s(audio) == pytest.approx(1.2, abs=0.002)
    assert np.abs(audio.samples[0, : int(0.6 * 16000)]).max() == 0


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.wav", "pcm_s16le"), ("a.mp3", "libmp3lame"), ("a.opus", "libopus"), ("a.m4a", "aac")],
)
def test_sound_files(tmp_path, name, codec):
    path = write_sound(tmp_path / name, tone(440, 1.0, 48000)[None], 48000, codec)
    audio = read_audio(path)
    assert audio.duration_s == pytest.approx(1.0, abs=0.06)
    assert loudest_hertz(audio.samples[0], 16000) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("channels", [3, 6])
def test_many_channels(tmp_path, channels):
    import soundfile

    waves = np.stack([tone(200 * (place + 1), 0.5, 16000) for place in range(channels)], axis=1)
    soundfile.write(tmp_path / "a.wav", waves, 16000, subtype="FLOAT")
    audio = read_audio(tmp_path / "a.wav", mono=False)
    np.testing.assert_allclose(audio.samples, waves.T, atol=1e-6)
    mixed = read_audio(tmp_path / "a.wav")
    np.testing.assert_allclose(mixed.samples[0], waves.mean(1), atol=1e-6)


def test_odd_name(tmp_path):
    path = write_sound(tmp_path / "Ton: Größe.wav", tone(440, 0.2, 16000)[None], 16000, "pcm_s16le")
    assert read_audio(path).samples.shape == (1, 3200)


# ------------------------------------------------------------------ unusable files


def test_video_without_sound(plain):
    assert not has_audio(plain)
    with pytest.raises(AudioError, match=r"plain\.mp4: has no sound track"):
        read_audio(plain)


@pytest.mark.parametrize("reader", [read_audio, has_audio])
def test_files_that_are_none(tmp_path, reader):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("Hello, this is no sound.\n" * 40)
    for name, reason in [
        ("gone.wav", "no such file"),
        ("empty.wav", "empty"),
        ("text.wav", "holds text"),
        (".", "folder"),
    ]:
        with pytest.raises(AudioError, match=reason) as caught:
            reader(tmp_path / name)
        assert caught.value.path == tmp_path / name


@pytest.mark.parametrize(("name", "codec"), [("a.wav", "pcm_s16le"), ("a.mka", "aac")])
def test_cut_off(tmp_path, name, codec):
    whole = write_sound(tmp_path / name, tone(440, 6.0, 16000)[None], 16000, codec)
    path = tmp_path / ("cut" + whole.suffix)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(AudioError, match=r"cut off or damaged: [23]\.\d of 6\.\d seconds"):
        read_audio(path)


def test_cut_off_video(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 48000 * 6))
    whole = write_video(tmp_path / "whole.mp4", frames=60, faststart=True, sound=noise)
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 7 // 10])
    with pytest.raises(AudioError, match="cut off or damaged"):
        read_audio(path)
    assert has_audio(path)


def test_wrong_rate(plain):
    with pytest.raises(ValueError, match="above 0"):
        read_audio(plain, 0)


# ------------------------------------------------------------------ mel spectrogram


def test_log_mel_shows_pitch_and_time():
    rate = 16000
    wave = np.concatenate([np.zeros(rate), tone(300, 1.0, rate), tone(3000, 1.0, rate)])
    mel = log_mel(wave, rate, 64)
    assert mel.dtype == np.float32
    assert mel.shape == (64, 301)  # a column every 10 ms, the first at 0 s
    assert mel.max() == 0
    assert mel.min() == -80
    assert (mel[:, :95] == -80).all()
    low, high = mel[:, 150].argmax(), mel[:, 250].argmax()
    assert 5 <= low < 15
    assert 35 < high < 55
    loud = mel.max(0) > -10
    assert loud[105:300].all()


def test_log_mel_agrees_with_librosa():
    import librosa

    wave = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    power = librosa.feature.melspectrogram(
        y=wave, sr=16000, n_fft=512, win_length=400, hop_length=160, n_mels=40, pad_mode="constant"
    )
    expected = librosa.power_to_db(power, ref=np.max)
    np.testing.assert_allclose(log_mel(wave, 16000, 40), expected, atol=1e-3)


def test_log_mel_takes_what_read_audio_gives(tmp_path):
    import soundfile

    soundfile.write(tmp_path / "a.wav", tone(440, 0.5, 16000), 16000)
    audio = read_audio(tmp_path / "a.wav")
    assert log_mel(audio.samples, audio.sample_rate).shape == (80, 51)
    with pytest.raises(ValueError, match="expected samples"):
        log_mel(np.zeros((2, 100)), 16000)
    with pytest.raises(ValueError, match="expected samples"):
        log_mel(np.zeros(0), 16000)
