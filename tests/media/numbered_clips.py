"""Videos whose every frame carries its own number, so that a test knows which frame it got."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, BIT = 96, 64, 12  # eight bits of 12 x 12 pixels along the lower edge


def numbered_frame(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Return `[H, W, 3]`: the number in black and white bits, a red square in the upper left."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    pixels[:16, :16] = (255, 0, 0)
    pixels[16:32, (number * 3) % (width - 8) :][:, :8] = 255  # something that moves
    for bit in range(8):
        pixels[-BIT:, bit * BIT : (bit + 1) * BIT] = 255 * (number >> bit & 1)
    return pixels


def numbers_of(pixels: np.ndarray) -> list[int]:
    """Read the numbers back from upright frames `[T, H, W, 3]` of the size they were made in."""
    row = pixels[:, -BIT // 2, :, :].mean(-1)  # [T, W]
    bits = row[:, BIT // 2 : 8 * BIT : BIT] > 128  # [T, 8]
    return (bits * (1 << np.arange(8))).sum(1).tolist()


def write_video(
    path: Path,
    frames: int = 30,
    *,
    fps: int = 10,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times_ms: Sequence[int] | None = None,
    rotation: int = 0,
    gop: int = 12,
    faststart: bool = False,
    sound: np.ndarray | None = None,
    sound_rate: int = 48000,
    sound_start_s: float = 0.0,
) -> Path:
    """Write numbered frames, with B-frames where the codec has them, and sound `[C, S]`."""
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        stream.gop_size = gop
        base = Fraction(1, 1000) if times_ms is not None else Fraction(1, fps)
        stream.codec_context.time_base = base
        if codec == "libx264":
            stream.codec_context.max_b_frames = 2
        if rotation:
            stream.set_display_rotation(rotation)
        voice = None
        if sound is not None:
            voice = container.add_stream("aac", rate=sound_rate)
            voice.layout = "mono" if len(sound) == 1 else "stereo"
        container.start_encoding()
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            frame.pts = number if times_ms is None else times_ms[number]
            frame.time_base = base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if voice is not None:
            _write_sound(container, voice, sound, sound_rate, sound_start_s)
    return path


def write_sound(path: Path, sound: np.ndarray, rate: int, codec: str) -> Path:
    """Write sound `[C, S]` alone."""
    with av.open(str(path), "w") as container:
        voice = container.add_stream(codec, rate=rate)
        voice.layout = "mono" if len(sound) == 1 else "stereo"
        _write_sound(container, voice, sound, rate, 0.0)
    return path


def _write_sound(container, voice, sound: np.ndarray, rate: int, start_s: float) -> None:
    layout = "mono" if len(sound) == 1 else "stereo"
    data = np.ascontiguousarray(sound, np.float32)
    frame = av.AudioFrame.from_ndarray(data, format="fltp", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, round(start_s * rate), Fraction(1, rate)
    container.mux(voice.encode(frame))
    container.mux(voice.encode(None))
