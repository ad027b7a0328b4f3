"""Small files with pictures, sound, or both."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_file(path: Path, frames: int = 0, seconds: float = 0.0, fps: int = 4) -> Path:
    """Write `frames` frames of 64 x 64, each brighter than the last, and a rising tone.

    Without frames the file holds sound alone, without seconds pictures alone.
    """
    rate = 16000
    with av.open(str(path), "w") as container:
        stream = voice = None
        if frames:
            stream = container.add_stream("libx264", rate=fps)
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
        if seconds:
            codec = "pcm_s16le" if path.suffix == ".wav" else "aac"
            voice = container.add_stream(codec, rate=rate)
            voice.layout = "mono"
        for index in range(frames):
            pixels = np.full((64, 64, 3), 10 + 20 * index % 240, np.uint8)
            pixels[:20, : 4 + 2 * index] = (250, 30, 30)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(frame))
        if frames:
            container.mux(stream.encode(None))
        if seconds:
            time_s = np.arange(round(seconds * rate)) / rate
            tone = 0.5 * np.sin(2 * np.pi * (300 + 200 * time_s) * time_s)
            sound = av.AudioFrame.from_ndarray(
                (tone * 32767).astype(np.int16)[None], format="s16", layout="mono"
            )
            sound.sample_rate, sound.pts, sound.time_base = rate, 0, Fraction(1, rate)
            container.mux(voice.encode(sound))
            container.mux(voice.encode(None))
    return path
