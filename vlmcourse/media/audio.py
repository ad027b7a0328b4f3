"""Sound out of any container, as float samples on the same clock as the pictures.

PyAV decodes and resamples with ffmpeg's own code. decord's sound reader is not used: version 0.6
shifts the samples and gives NaN for stereo. soundfile cannot read AAC, and librosa needs an ffmpeg
binary for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from vlmcourse.media.errors import AudioError
from vlmcourse.media.opening import open_media, states_length, time_origin_s

_TOLERANCE_S = 0.5  # a track may end this much before the length that its header states


@dataclass(frozen=True)
class Audio:
    """The sound of a file.

    Attributes:
        samples: `[C, S]` float32, about -1..1; sample `i` belongs to second `i / sample_rate` of
            the recording.
        sample_rate: samples per second.
    """

    samples: np.ndarray
    sample_rate: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.samples.shape[-1] / self.sample_rate


def has_audio(path: str | Path) -> bool:
    """Say whether a file has a sound track.

    Raises:
        AudioError: the file is missing, empty or no recording at all.
    """
    with open_media(path, AudioError) as container:
        return bool(container.streams.audio)


def read_audio(path: str | Path, sample_rate: int | None = 16000, mono: bool = True) -> Audio:
    """Decode the first sound track of a file.

    A track that starts after the pictures is padded with silence in front, one that starts before
    them is cut, so that sound and frames share one clock.

    Args:
        path: a video or sound file: mp4, webm, wav, mp3, flac, ...
        sample_rate: samples per second of the result; None keeps the recorded rate.
        mono: take the mean of all channels; otherwise they stay. (ffmpeg's own mix of float samples
            adds left and right with 0.71 each, which can leave -1..1.)

    Returns:
        `Audio` with samples `[1, S]`, or `[C, S]` when `mono` is false.

    Raises:
        AudioError: the file is missing, empty, no recording, has no sound track, or is cut off.
    """
    if sample_rate is not None and sample_rate <= 0:
        raise ValueError(f"sample_rate must be above 0, not {sample_rate}")
    with open_media(path, AudioError) as container:
        stream = next(iter(container.streams.audio), None)
        if stream is None:
            raise AudioError(path, "has no sound track (a silent video?); use a file with sound")
        rate = sample_rate or stream.rate
        resampler = av.AudioResampler(format="fltp", rate=rate)
        decoder = _Decoder(container, stream, path)
        parts, start_s = [], None
        for frame in decoder.frames():
            if start_s is None and frame.pts is not None:
                start_s = float(frame.pts * frame.time_base) - time_origin_s(container)
            try:
                parts.extend(part.to_ndarray() for part in resampler.resample(frame))
            except ValueError as cause:
                raise AudioError(path, "changes its sample rate or channels midway") from cause
        if not parts:
            raise AudioError(path, "the sound track holds no samples that can be decoded")
        parts.extend(part.to_ndarray() for part in resampler.resample(None))
        samples = np.concatenate(parts, axis=1).astype(np.float32, copy=False)  # [C, S]
        length_s = samples.shape[1] / rate
        if decoder.is_cut_off(length_s):
            raise AudioError(
                path,
                f"the sound is cut off or damaged: {length_s:.1f} of {decoder.stated_s:.1f} "
                "seconds can be decoded; copy or download the file again",
            )
    if mono:
        samples = samples.mean(axis=0, keepdims=True)  # [1, S]
    return Audio(_shift(samples, round((start_s or 0.0) * rate)), rate)


def log_mel(
    samples: np.ndarray,
    sample_rate: int,
    num_mels: int = 80,
    *,
    window_s: float = 0.025,
    hop_s: float = 0.010,
    range_db: float = 80.0,
) -> np.ndarray:
    """Turn sound into the picture a sound encoder sees: loudness per pitch band and moment.

    A Hann window slides over the samples, the power of each frequency is summed into bands that are
    equally wide to the ear (librosa's mel filters), and the power is given in decibel below the
    loudest band. This one is for looking and teaching; each sound encoder has its own fixed
    variant.

    Args:
        samples: `[S]` or `[1, S]` float.
        sample_rate: samples per second.
        num_mels: bands M.
        window_s: length of the window in seconds.
        hop_s: step of the window in seconds.
        range_db: everything this far below the loudest is shown as silence.

    Returns:
        `[M, F]` float32 from -range_db to 0; column `f` is centred at second `f * hop_s`.
    """
    import librosa
    import torch

    mono = torch.from_numpy(np.array(samples, np.float32)).squeeze(0)  # [S], copied
    if mono.ndim != 1 or len(mono) == 0:
        raise ValueError(f"expected samples [S] or [1, S], got {np.shape(samples)}")
    window, hop = round(window_s * sample_rate), round(hop_s * sample_rate)
    size = 1 << max(1, window - 1).bit_length()  # next power of two
    mono = torch.nn.functional.pad(mono, (size // 2, size // 2))
    spectrum = torch.stft(
        mono,
        n_fft=size,
        hop_length=hop,
        win_length=window,
        window=torch.hann_window(window),
        center=False,
        return_complex=True,
    )
    power = spectrum.abs().square()  # [size / 2 + 1, F]
    filters = librosa.filters.mel(sr=sample_rate, n_fft=size, n_mels=num_mels)
    bands = torch.from_numpy(filters) @ power  # [M, F]
    decibel = 10 * bands.clamp(min=1e-10).log10()
    return (decibel - decibel.max()).clamp(min=-range_db).numpy()


class _Decoder:
    """Decode one sound track and notice when the recording ends too early."""

    def __init__(
        self, container: av.container.InputContainer, stream: av.AudioStream, path: str | Path
    ) -> None:
        self.container, self.stream = container, stream
        self.bad_packets, self.end_s = 0, 0.0
        track_s = float(stream.duration * stream.time_base) if stream.duration else 0.0
        if container.format.name == "wav":
            track_s *= _wav_share_stated(path)
        self.by_track = track_s > 0
        start_s, length_s = (
            (x or 0) / av.time_base for x in (container.start_time, container.duration)
        )
        self.stated_s = track_s or start_s + length_s

    def frames(self) -> Iterator[av.AudioFrame]:
        """Yield decoded frames; packets that cannot be decoded are counted and passed over."""
        packets = self.container.demux()
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError:
                self.bad_packets += 1
                return
            if packet.pts is not None:
                stop = (packet.pts + (packet.duration or 0)) * packet.time_base
                self.end_s = max(self.end_s, float(stop))
            if packet.stream.index != self.stream.index:
                continue
            try:
                frames = packet.decode()
            except av.FFmpegError:
                self.bad_packets += 1
                continue
            yield from frames

    def is_cut_off(self, length_s: float) -> bool:
        """Say whether the header states more than `length_s` seconds of sound.

        Where it states the length of the whole recording only, its last track to end counts.
        """
        certain = self.bad_packets > 0 or states_length(self.container)
        reached_s = length_s if self.by_track else max(length_s, self.end_s)
        return certain and reached_s < self.stated_s - _TOLERANCE_S


def _wav_share_stated(path: str | Path) -> float:
    """Return how much longer a wav file says it is than it is; ffmpeg goes by the disk alone."""
    with Path(path).expanduser().open("rb") as file:
        head = file.read(8)
        size = file.seek(0, 2)
    stated = int.from_bytes(head[4:8], "little") + 8
    open_ended = 0xFFFFFFF0  # recorders that do not know the length write 0 or -1
    cut_off = head[:4] == b"RIFF" and size < stated < open_ended
    return stated / size if cut_off else 1.0


def _shift(samples: np.ndarray, start: int) -> np.ndarray:
    """Put sample 0 of `[C, S]` at position `start` of the recording's clock."""
    if start > 0:
        return np.pad(samples, ((0, 0), (start, 0)))
    return samples[:, -start:] if start < 0 else samples
