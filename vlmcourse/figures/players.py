"""Players inside a notebook, small enough to be stored with it."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from IPython.display import Audio, Video

LARGEST_BYTES = 60_000


def sound_player(samples: np.ndarray, sample_rate: int, bit_rate: int = 32_000) -> "Audio":
    """Return a player for a sound, stored as MP3: about 4 kB for a second.

    Args:
        samples: float [S] or [C, S] in -1..1; channels are averaged.
        sample_rate: one that MP3 knows: 8000, 16000, 22050, 44100, ...
        bit_rate: of the MP3 in bits per second.

    Raises:
        ValueError: the sound is too long to be stored in a notebook.
    """
    import av
    from IPython.display import Audio

    mono = np.atleast_2d(np.asarray(samples, np.float32)).mean(axis=0)  # [S]
    buffer = io.BytesIO()
    with av.open(buffer, "w", "mp3", {"fflags": "+bitexact", "write_xing": "0"}) as container:
        stream = container.add_stream("libmp3lame", rate=sample_rate, layout="mono")
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(mono[None], "fltp", "mono")
        frame.sample_rate, frame.pts = sample_rate, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = buffer.getvalue()
    _check(len(data), "a sound")
    player = Audio(data=data)
    player.mimetype = "audio/mpeg"
    return player


def video_player(path: str | Path, width: int = 480) -> "Video":
    """Return a player for a video file, stored whole in the notebook; small pictures stay sharp.

    Raises:
        ValueError: the file is too large to be stored in a notebook.
    """
    from IPython.display import Video

    data = Path(path).read_bytes()
    _check(len(data), "a video")
    looks = 'controls loop style="image-rendering: pixelated"'
    return Video(data=data, embed=True, mimetype="video/mp4", width=width, html_attributes=looks)


def _check(size: int, what: str) -> None:
    if size > LARGEST_BYTES:
        limit = LARGEST_BYTES // 1000
        raise ValueError(f"{what} of {size / 1000:.0f} kB is too much for a notebook ({limit} kB)")
