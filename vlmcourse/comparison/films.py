"""A film for counting: grey, silent and of any length, as a real file, so that every system's own
processor says what it would take of it."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

GREY = 128
SOUND_HZ = 16_000
SOUND_BLOCK = 1024


def write_film(
    path: str | Path, seconds: int, width: int = 640, height: int = 360, fps: int = 10
) -> Path:
    """Write an mp4 of grey frames with a silent sound track.

    Args:
        seconds: length.
        width, height: in pixels, even numbers.
        fps: frames a second.
    """
    path = Path(path)
    frame = av.VideoFrame.from_ndarray(
        np.full((height, width, 3), GREY, dtype=np.uint8), format="rgb24"
    ).reformat(format="yuv420p")
    with av.open(str(path), "w", format="mp4") as container:
        picture = container.add_stream("libx264", rate=fps)
        picture.width, picture.height, picture.pix_fmt = width, height, "yuv420p"
        picture.options = {"preset": "ultrafast", "threads": "1"}
        sound = container.add_stream("aac", rate=SOUND_HZ, layout="mono")
        for number in range(seconds * fps):
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        for start in range(0, seconds * SOUND_HZ, SOUND_BLOCK):
            container.mux(sound.encode(_silence(start)))
        container.mux(sound.encode(None))
    return path


def _silence(start: int) -> av.AudioFrame:
    """One block of silence that begins at this sample."""
    block = np.zeros((1, SOUND_BLOCK), dtype=np.float32)
    frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SOUND_HZ, start, Fraction(1, SOUND_HZ)
    return frame
