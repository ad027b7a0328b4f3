"""The sound path of ImageBind: two other writings of it, and sounds of every kind."""

import math

import numpy as np
import pytest
import torch
from numbered_clips import write_sound, write_video
from torch.testing import assert_close

from vlmcourse.errors import UserError
from vlmcourse.media.errors import AudioError
from vlmcourse.media.imagebind_audio import (
    ENERGY_FLOOR,
    MEL_MEAN,
    MEL_STD,
    exact_spans,
    kaldi_log_mel,
    mel_filters,
    read_sound_clips,
    resample,
    sample_ranges,
    sound_clip_spans,
    sound_clips,
)

FLOOR = (math.log(ENERGY_FLOOR) - MEL_MEAN) / MEL_STD
PADDING = (0 - MEL_MEAN) / MEL_STD


def noise(seconds: float, channels: int = 1, rate: int = 16000, loud: float = 0.1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(round(1000 * seconds) + channels)
    return loud * torch.randn(channels, round(seconds * rate), generator=generator)


def tone(hertz: float, seconds: float, rate: int = 16000) -> torch.Tensor:
    return 0.5 * torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * rate)) / rate)[None]


# ------------------------------------------------------------------ other implementations


@pytest.mark.filterwarnings("ignore:At least one mel filter")
@pytest.mark.parametrize("mels", [128, 40])
def test_filter_bank_agrees_with_transformers(mels):
    """NumPy, and other number types: near, not equal (see the head of the module)."""
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    filters = mel_filter_bank(
        257, mels, 20, 8000, 16000, mel_scale="kaldi", triangularize_in_mel_space=True
    )
    assert_close(mel_filters(mels), torch.from_numpy(filters).float(), atol=3e-5, rtol=0)
    samples = noise(1.5)[0]
    theirs = spectrogram(
        samples.numpy(),
        window_function(400, "hann", periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=filters,
        log_mel="log",
        mel_floor=ENERGY_FLOOR,
        remove_dc_offset=True,
    )
    ours = kaldi_log_mel(samples, mels)
    assert ours.shape == (mels, 1 + (24000 - 400) // 160)
    assert_close(ours, torch.from_numpy(theirs).float(), atol=2e-3, rtol=0)


@pytest.mark.parametrize("rate", [44100, 48000, 8000, 11025])
@pytest.mark.parametrize("length", [4001, 3])
def test_resampling_agrees_with_scipy(rate, length):
    """The same filter, as a table for scipy's polyphase filter, in float64."""
    from scipy.signal import resample_poly

    samples = noise(1.0, 2, rate)[:, :length]
    divisor = math.gcd(rate, 16000)
    up, down = 16000 // divisor, rate // divisor
    cutoff = 0.99 * min(rate, 16000)
    reach = math.ceil(6 * up * rate / cutoff)
    crossings = np.arange(-reach, reach + 1) * cutoff / (up * rate)
    window = np.cos(np.clip(crossings, -6, 6) * np.pi / 12) ** 2
    taps = np.sinc(crossings) * window * cutoff / (up * rate)
    expected = resample_poly(samples.double().numpy(), up, down, axis=1, window=taps)
    ours = resample(samples, rate)
    assert ours.shape == (2, math.ceil(length * 16000 / rate))
    assert_close(ours, torch.from_numpy(expected).float(), atol=3e-5, rtol=0)


# ------------------------------------------------------------------ resampling


def test_resampling_keeps_tones_and_removes_what_would_fold_back():
    kept = resample(tone(440, 1.0, 44100), 44100)
    assert kept.shape == (1, 16000)
    assert_close(kept[:, 200:-200], tone(440, 1.0)[:, 200:-200], atol=3e-3, rtol=0)
    assert resample(tone(11000, 1.0, 44100), 44100)[:, 200:-200].abs().max() < 0.01
    same = noise(0.1)
    assert resample(same, 16000) is same


def test_rates_that_are_none():
    for rate in (0, -16000, 44100.5):
        with pytest.raises(ValueError, match="whole numbers above 0"):
            resample(noise(0.1), rate)
    with pytest.raises(ValueError, match=r"read_audio\(path, 16000\)"):
        resample(noise(0.1), 44101)


# ------------------------------------------------------------------ where the clips lie


def test_spans_are_exact_and_stop_short_of_the_end():
    spans = sound_clip_spans(5.0)
    assert spans.dtype == torch.float64
    assert spans.tolist() == [[0.375 * i, 0.375 * i + 2] for i in range(8)]
    assert sound_clip_spans(8.0)[-1].tolist() == [5.25, 7.25]
    assert sound_clip_spans(8.0, to_end=True)[-1].tolist() == [6, 8]
    assert sound_clip_spans(8.0, 1, to_end=True).tolist() == [[0, 2]]
    thirds = sample_ranges(exact_spans(3.0, 3, 2.0))
    assert thirds == [(0, 32000), (5333, 37333), (10666, 42666)]


@pytest.mark.parametrize("seconds", [0.5, 2.0])
def test_all_clips_of_a_short_sound_are_the_same(seconds):
    assert sound_clip_spans(seconds, 3).tolist() == [[0, 2]] * 3
    clips = sound_clips(noise(seconds), 16000, 3)
    assert clips.times_s.tolist() == [0, 0, 0]
    assert torch.equal(clips.mels[0], clips.mels[2])


def test_spans_that_cannot_be():
    for duration, count, clip_s in ((0, 8, 2), (5, 0, 2), (5, 8, 0.02), (math.nan, 8, 2)):
        with pytest.raises(ValueError, match="clips of"):
            sound_clip_spans(duration, count, clip_s)


# ------------------------------------------------------------------ clips


def test_shapes_and_times():
    clips = sound_clips(noise(5.0), 16000)
    assert clips.mels.shape == (8, 1, 128, 204)
    assert clips.mels.dtype == clips.times_s.dtype == torch.float32
    assert clips.times_s.tolist() == [0.375 * i for i in range(8)]
    assert clips.mels.isfinite().all()
    other = sound_clips(noise(5.0).numpy(), 16000, 4, 1.0, 40, 64)
    assert other.mels.shape == (4, 1, 40, 64)


def test_padding_is_louder_than_silence():
    mels = sound_clips(torch.zeros(1, 16000 * 3), 16000, 2).mels
    assert_close(mels[..., :198], torch.full((2, 1, 128, 198), FLOOR))
    assert_close(mels[..., 198:], torch.full((2, 1, 128, 6), PADDING))
    assert (round(FLOOR, 3), round(PADDING, 3)) == (-1.278, 0.467)


def test_a_sound_that_ends_before_two_seconds_is_padded():
    short, long = noise(1.2), noise(2.0)
    mels = sound_clips(short, 16000, 1).mels[0, 0]
    assert (mels[:, 118:] == mels[0, -1]).all()
    assert_close(mels[0, -1], torch.tensor(PADDING))
    assert (sound_clips(long, 16000, 1).mels[0, 0, 10:, 118:198] != mels[0, -1]).all()
    cut = sound_clips(long, 16000, 1, steps=100).mels
    assert_close(cut, sound_clips(long, 16000, 1).mels[..., :100])


def test_a_tone_lights_its_band():
    mels = sound_clips(torch.cat([tone(300, 1.0), tone(3000, 1.0)], dim=1), 16000, 1).mels[0, 0]
    low, high = mels[:, 20].argmax(), mels[:, 150].argmax()
    filters = mel_filters()
    assert (filters[:, low].argmax() * 31.25 - 300).abs() < 32
    assert (filters[:, high].argmax() * 31.25 - 3000).abs() < 60


def test_one_band_is_deaf():
    silent = (mel_filters() == 0).all(0).nonzero().flatten()
    assert silent.tolist() == [3]
    assert (sound_clips(noise(2.0), 16000, 1).mels[0, 0, 3, :198] - FLOOR).abs().max() < 1e-6


def test_each_clip_is_computed_alone():
    samples = noise(5.0) + 0.3
    clips = sound_clips(samples, 16000)
    for i in (0, 3, 7):
        alone = sound_clips(samples[:, 6000 * i : 6000 * i + 32000], 16000, 1)
        assert torch.equal(alone.mels[0], clips.mels[i])


def test_a_batch_of_sounds_is_one_by_one():
    """Nothing is kept between calls, and the caller's samples stay as they are."""
    first, second = noise(3.0, 2) + 0.1, noise(2.5, 2)
    before = first.clone()
    for official in (False, True):
        once = sound_clips(first, 16000, official=official).mels
        sound_clips(second, 16000, official=official)
        assert torch.equal(sound_clips(first, 16000, official=official).mels, once)
        assert torch.equal(first, before)


def test_the_official_mean_moves_borders_of_earlier_clips_only():
    samples = noise(5.0, loud=0.01) + torch.linspace(0, 0.5, 80000)
    ours = sound_clips(samples, 16000).mels
    official = sound_clips(samples, 16000, official=True).mels
    moved = (ours - official).abs().amax((1, 2))  # [M, steps]
    assert moved[0].max() == 0
    assert moved[7].max() > 0.1
    assert (
        0 < (moved[7] > 0.02).sum() < 30
    )  # the start of no earlier clip lies inside; seven ends do
    steady = sound_clips(noise(5.0), 16000).mels
    assert_close(steady, sound_clips(noise(5.0), 16000, official=True).mels, atol=0.05, rtol=0)


def test_what_is_heard_on_the_right_counts():
    right = torch.cat([torch.zeros(1, 32000), tone(1000, 2.0)])
    assert sound_clips(right, 16000, 1).mels.max() > 0.47
    deaf = sound_clips(right, 16000, 1, official=True).mels[..., :198]
    assert_close(deaf, torch.full_like(deaf, FLOOR), atol=1e-4, rtol=0)
    both = torch.cat([tone(1000, 2.0)] * 2)
    mels = [sound_clips(both, 16000, 1, official=official).mels for official in (False, True)]
    assert_close(*mels, atol=2e-3, rtol=0)  # the two means are rounded differently


# ------------------------------------------------------------------ sounds that are none


def test_too_little_sound():
    with pytest.raises(AudioError, match="the sound is empty") as caught:
        sound_clips(torch.zeros(1, 0), 16000)
    assert isinstance(caught.value, UserError)
    with pytest.raises(AudioError, match=r"24\.9 ms of sound"):
        sound_clips(torch.zeros(1, 399), 16000)
    assert sound_clips(torch.zeros(1, 400), 16000, 1).mels.shape == (1, 1, 128, 204)


def test_samples_that_are_none():
    with pytest.raises(AudioError, match="no numbers"):
        sound_clips(torch.full((1, 16000), math.nan), 16000)
    with pytest.raises(ValueError, match=r"expected float samples \[C, S\]"):
        sound_clips(torch.zeros(16000), 16000)
    with pytest.raises(ValueError, match=r"torch\.int16"):
        sound_clips(torch.zeros(1, 16000, dtype=torch.int16), 16000)
    with pytest.raises(ValueError, match="whole numbers above 0"):
        sound_clips(noise(1.0), 0)


# ------------------------------------------------------------------ files


def test_a_video_with_sound(tmp_path):
    path = write_video(tmp_path / "a.mp4", sound=tone(440, 2.0, 48000).numpy())
    clips = read_sound_clips(path, 3)
    assert clips.mels.shape == (3, 1, 128, 204)
    loudest = clips.mels[0, 0, :, 50:150].mean(1).argmax()
    assert (mel_filters()[:, loudest].argmax() * 31.25 - 440).abs() < 32


def test_a_stereo_file_is_read_with_both_channels_at_its_own_rate(tmp_path):
    import soundfile

    sides = noise(2.5, 2, 44100).clamp(-1, 1)
    soundfile.write(tmp_path / "a.wav", sides.T.numpy(), 44100, subtype="FLOAT")
    for official in (False, True):
        expected = sound_clips(sides, 44100, official=official).mels
        assert torch.equal(read_sound_clips(tmp_path / "a.wav", official=official).mels, expected)
    assert read_sound_clips(tmp_path / "a.wav", to_end=True).times_s[-1] == 0.5


def test_the_file_is_named(tmp_path, plain):
    with pytest.raises(AudioError, match=r"plain\.mp4: has no sound track"):
        read_sound_clips(plain)
    path = write_sound(tmp_path / "blip.wav", tone(440, 0.01, 16000).numpy(), 16000, "pcm_s16le")
    with pytest.raises(AudioError, match=r"blip\.wav: 10\.0 ms of sound"):
        read_sound_clips(path)
