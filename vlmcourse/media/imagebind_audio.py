"""From sound to what ImageBind hears: a few two-second clips, each a picture of pitch over time.

    samples [C, S] -> 16 kHz -> M clips of 2 s -> log mel [M, 1, 128, 198] -> 204 columns, scaled

Paper: ImageBind, arXiv 2305.05665, section 3; Video-LLaMA, arXiv 2306.02858, section 2.1.
Official: DAMO-NLP-SG/Video-LLaMA@64888c0:video_llama/models/ImageBind/data.py (the same functions
as in facebookresearch/ImageBind@53680b0:imagebind/data.py).

Why the filter bank and the resampler are written here: the official ones are torchaudio's, which
this course cannot install (it would bring another torch). transformers has a Kaldi filter bank in
NumPy, but in other number types; where one band is loud and another near the floor, rounding
decides, and it misses the official numbers by up to 1e-3. Resamplers of other libraries have other
filters. What is below computes in float32 and in the official order; it gives the very bits of
torchaudio's Python code on one machine, and 2e-5 from one machine to another.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vlmcourse.media.audio import read_audio
from vlmcourse.media.errors import AudioError

SAMPLE_RATE = 16000
MEL_MEAN, MEL_STD = -4.268, 9.138
"""What the official code takes off log mel values, and what it divides them by."""

WINDOW, HOP, FFT_SIZE = 400, 160, 512
"""25 ms, 10 ms and the next power of two, in samples."""
LOWEST_HZ, HIGHEST_HZ = 20.0, SAMPLE_RATE / 2
PRE_EMPHASIS = 0.97
ENERGY_FLOOR = torch.finfo(torch.float32).eps

ZERO_CROSSINGS, ROLLOFF = 6, 0.99
MOST_FILTER_TAPS = 1 << 26


@dataclass(frozen=True)
class SoundClips:
    """The clips of one sound.

    Attributes:
        mels: `[M, 1, mels, steps]` float32; band 0 is the lowest, a column is 10 ms.
        times_s: `[M]` float32, where each clip starts.
    """

    mels: Tensor
    times_s: Tensor


def read_sound_clips(
    path: str | Path,
    clips: int = 8,
    clip_s: float = 2.0,
    mels: int = 128,
    steps: int = 204,
    *,
    official: bool = False,
    to_end: bool = False,
) -> SoundClips:
    """`sound_clips` of a file, read at its own sample rate and with all its channels.

    Raises:
        AudioError: the file has no sound that can be read, or too little of it.
    """
    audio = read_audio(path, sample_rate=None, mono=False)
    try:
        return sound_clips(
            audio.samples,
            audio.sample_rate,
            clips,
            clip_s,
            mels,
            steps,
            official=official,
            to_end=to_end,
        )
    except AudioError as error:
        raise AudioError(path, error.reason) from error


def sound_clips(
    samples: np.ndarray | Tensor,
    sample_rate: int,
    clips: int = 8,
    clip_s: float = 2.0,
    mels: int = 128,
    steps: int = 204,
    *,
    official: bool = False,
    to_end: bool = False,
) -> SoundClips:
    """Turn a sound into the clips that ImageBind's sound encoder takes.

    Differs: (1) every clip loses its own mean. The official code subtracts it in place, and clips
    overlap, so that a later clip meets samples that an earlier one has moved: at the borders of
    earlier clips the spectrum jumps by up to 0.5. (2) Channels are averaged. The official filter
    bank reads the first one alone; what is heard only on the right is lost. `official=True` does
    both as released.
    As released in both: a two-second clip has 198 columns and six of padding, and a sound shorter
    than that has more. Padding is put in before scaling as a log energy of 0, which is louder than
    most sounds (0.467 after scaling), not as silence (-1.278).

    Args:
        samples: `[C, S]` float, about -1..1.
        sample_rate: samples per second; anything but 16000 is resampled first.
        clips: M.
        clip_s: seconds of a clip; a sound shorter than this gives M equal clips.
        mels: bands between 20 Hz and 8 kHz.
        steps: columns of a clip; more are cut off at the end.
        official: see above.
        to_end: the last clip ends with the sound; see `sound_clip_spans`.

    Raises:
        AudioError: fewer samples than one window (25 ms), or samples that are no numbers.
        ValueError: a shape, type, rate or count that cannot be.
    """
    waveform = _checked(samples)  # [C, S]
    if not official:
        waveform = waveform.mean(0, keepdim=True)  # [1, S]
    waveform = resample(waveform, sample_rate)  # [C or 1, S] at 16 kHz
    if waveform.shape[1] < WINDOW:
        length_ms = 1000 * waveform.shape[1] / SAMPLE_RATE
        raise AudioError(f"{length_ms:.1f} ms of sound; at least one window of 25 ms is needed")
    waveform = waveform.clone() if official else waveform  # the caller's samples stay
    spans = exact_spans(waveform.shape[1] / SAMPLE_RATE, clips, clip_s, to_end)
    pictures = []
    for start, end in sample_ranges(spans):
        clip = waveform[:, start:end]  # [C, n], a view
        clip = clip.sub_(clip.mean()) if official else clip - clip.mean()
        pictures.append(_scaled(kaldi_log_mel(clip[0], mels), steps))
    times_s = torch.tensor([float(start) for start, _ in spans])
    return SoundClips(torch.stack(pictures)[:, None], times_s)


def sound_clip_spans(
    duration_s: float, clips: int = 8, clip_s: float = 2.0, *, to_end: bool = False
) -> Tensor:
    """Start and end of each clip in seconds: `[M, 2]` float64.

    Clip `i` starts at `i / M` of the room that a clip has in the sound.
    Differs: nothing. Unsaid in the paper: the last clip starts `(M - 1) / M` of the way, so the end
    of a sound longer than one clip is never heard (0.75 s of 8 s with 8 clips of 2 s). `to_end`
    lets clip `i` start at `i / (M - 1)` instead.

    Args:
        duration_s: length of the sound, above 0; below `clip_s` all clips are the same, and their
            end lies behind that of the sound.
        clips: M, at least 1.
        clip_s: at least one window, 0.025.
        to_end: the last of several clips ends with the sound.
    """
    spans = exact_spans(duration_s, clips, clip_s, to_end)
    return torch.tensor([[float(a), float(b)] for a, b in spans], dtype=torch.float64)


def exact_spans(
    duration_s: float, clips: int, clip_s: float, to_end: bool = False
) -> list[tuple[Fraction, Fraction]]:
    """Spans as fractions: a rounded start could fall one sample too early."""
    if clips < 1 or not clip_s * SAMPLE_RATE >= WINDOW or not 0 < duration_s < math.inf:
        raise ValueError(f"no {clips} clips of {clip_s} s fit a sound of {duration_s} s")
    room = Fraction(max(duration_s - clip_s, 0))
    step = room / (max(clips - 1, 1) if to_end else clips)
    return [(step * i, step * i + Fraction(clip_s)) for i in range(clips)]


def sample_ranges(spans: list[tuple[Fraction, Fraction]]) -> list[tuple[int, int]]:
    """First and last (exclusive) sample of each span at 16 kHz; the last may lie past the end."""
    return [(int(start * SAMPLE_RATE), int(end * SAMPLE_RATE)) for start, end in spans]


def _checked(samples: np.ndarray | Tensor) -> Tensor:
    waveform = torch.as_tensor(samples)
    if waveform.ndim != 2 or not waveform.is_floating_point():
        raise ValueError(
            f"expected float samples [C, S], got {waveform.dtype} {tuple(waveform.shape)}"
        )
    if waveform.numel() == 0:
        raise AudioError("no samples; the sound is empty")
    if not bool(waveform.isfinite().all()):
        raise AudioError("samples that are no numbers (NaN or infinite)")
    return waveform.float()


def _scaled(log_mel: Tensor, steps: int) -> Tensor:
    """`[mels, F]` to `[mels, steps]`: padded on the right or cut, then scaled."""
    columns = log_mel[:, :steps]
    columns = F.pad(columns, (0, steps - columns.shape[1]))
    return (columns - MEL_MEAN) / MEL_STD


def kaldi_log_mel(samples: Tensor, mels: int = 128) -> Tensor:
    """The log mel filter bank of Kaldi, as ImageBind uses it.

    Official: torchaudio 2.11.0:compliance/kaldi.py (`fbank`; Hann window, no dither, no energy).

    Args:
        samples: `[S]` float32 at 16 kHz, at least one window of 400.
        mels: bands.

    Returns:
        `[mels, F]` with `F = 1 + (S - 400) // 160`: only windows that fit.
    """
    windows = samples.unfold(0, WINDOW, HOP)  # [F, 400]
    windows = windows - windows.mean(1, keepdim=True)
    before = torch.cat([windows[:, :1], windows[:, :-1]], dim=1)  # each sample's predecessor
    windows = windows - PRE_EMPHASIS * before  # lifts high pitches
    windows = windows * torch.hann_window(WINDOW, periodic=False)
    power = torch.fft.rfft(windows, FFT_SIZE).abs().square()  # [F, 257]
    energy = power @ mel_filters(mels)  # [F, mels]
    return energy.clamp(min=ENERGY_FLOOR).log().T


def mel_filters(mels: int = 128) -> Tensor:
    """Triangles that are equally wide and half overlapping on the mel scale: `[257, mels]`.

    With 128 bands the low ones are narrower than the steps of the spectrum: band 3 falls between
    two of them and never hears anything.
    """
    lowest, highest = (1127.0 * math.log(1.0 + hz / 700.0) for hz in (LOWEST_HZ, HIGHEST_HZ))
    width = (highest - lowest) / (mels + 1)
    band = torch.arange(mels)
    left, peak, right = (lowest + (band + side) * width for side in (0.0, 1.0, 2.0))  # [mels]
    hertz = SAMPLE_RATE / FFT_SIZE * torch.arange(float(FFT_SIZE // 2))
    mel = (1127.0 * (1.0 + hertz / 700.0).log())[:, None]  # [256, 1]
    rising, falling = (mel - left) / (peak - left), (right - mel) / (right - peak)
    triangles = torch.minimum(rising, falling).clamp(min=0)  # [256, mels]
    return F.pad(triangles, (0, 0, 0, 1))  # the last frequency counts nowhere


def resample(samples: Tensor, sample_rate: int, new_rate: int = SAMPLE_RATE) -> Tensor:
    """Change the sample rate with a windowed sinc filter.

    Between samples a sound is the sum of sinc waves, one a sample. Cut off after six zero crossings
    by a cosine window, and widened when the rate falls so that what is too high for it goes, they
    are read at the new moments. `b` new samples in `a` old ones repeat the same weights.

    Official: torchaudio 2.11.0:functional/functional.py (`resample` with its defaults).

    Args:
        samples: `[C, S]` float32.
        sample_rate: of the samples, a whole number.
        new_rate: wanted, a whole number.

    Returns:
        `[C, ceil(S * new_rate / sample_rate)]`; the samples themselves where the rates agree.

    Raises:
        ValueError: a rate that is none, or two rates with next to no common divisor.
    """
    if (
        sample_rate != int(sample_rate)
        or new_rate != int(new_rate)
        or min(sample_rate, new_rate) < 1
    ):
        raise ValueError(f"sample rates must be whole numbers above 0: {sample_rate}, {new_rate}")
    divisor = math.gcd(int(sample_rate), int(new_rate))
    old, new = int(sample_rate) // divisor, int(new_rate) // divisor
    if old == new:
        return samples
    weights = _sinc_weights(old, new)  # [new, K]
    reach = (weights.shape[1] - old) // 2
    padded = F.pad(samples, (reach, reach + old))[:, None]  # [C, 1, S']
    phases = F.conv1d(padded, weights[:, None], stride=old)  # [C, new, n]
    wanted = -(-samples.shape[1] * new // old)
    return phases.transpose(1, 2).flatten(1)[:, :wanted]


def _sinc_weights(old: int, new: int) -> Tensor:
    """Weights `[new, K]` of the old samples around each of `new` new moments."""
    cutoff = min(old, new) * ROLLOFF
    reach = math.ceil(ZERO_CROSSINGS * old / cutoff)
    if new * (old + 2 * reach) > MOST_FILTER_TAPS:
        raise ValueError(
            f"the rates {old} : {new} have too large a table of weights; "
            f"read the file with read_audio(path, {SAMPLE_RATE})"
        )
    moment = torch.arange(0.0, -new, -1)[:, None] / new  # [new, 1]
    distance = moment + torch.arange(-reach, reach + old, dtype=torch.float32) / old  # [new, K]
    crossings = (distance * cutoff).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = torch.cos(crossings * math.pi / ZERO_CROSSINGS / 2).square()
    angle = crossings * math.pi
    sinc = torch.where(angle == 0, 1.0, angle.sin() / angle)
    return sinc * (window * (cutoff / old))
