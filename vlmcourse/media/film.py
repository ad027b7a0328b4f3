"""A film is a video file, or a folder of pictures taken at even steps; either may name a window.

MA-LMM's authors write every video out as pictures, ten a second, before anything else; a folder of
them stands for the video. A window is written as the web does it: `film.mp4#t=20,119`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlmcourse.media.errors import VideoError

DUMPED_FPS = 10.0
"""Pictures a second in a folder."""
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_WINDOW = re.compile(r"(.+)#t=(\d+(?:\.\d+)?),(\d+(?:\.\d+)?)")

Window = tuple[float, float]
"""First and last second."""


def with_window(path: str | Path, window: Window) -> Path:
    """Name a window of a file."""
    return Path(f"{path}#t={window[0]:g},{window[1]:g}")


def split_window(path: str | Path) -> tuple[Path, Window | None]:
    """The file, and the window that is named behind it, if there is one."""
    found = _WINDOW.fullmatch(str(path))
    if found is None or Path(path).exists():
        return Path(path), None
    return Path(found[1]), (float(found[2]), float(found[3]))


@dataclass(frozen=True)
class Film:
    """What a file or a folder shows.

    Attributes:
        path: of the file or folder.
        times_s: `[N]` float64, when each frame is first shown, ascending.
        duration_s: 0 for one picture.
        pictures: the files of a folder in order; None for a file.
    """

    path: Path
    times_s: np.ndarray
    duration_s: float
    pictures: tuple[Path, ...] | None = None

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """Frames `[T, H, W, 3]` uint8. Raises VideoError, also where pictures differ in size."""
        from vlmcourse.media.video import read_frames

        if self.pictures is None:
            return read_frames(self.path, indices).pixels
        frames = [read_frames(self.pictures[i], [0]).pixels[0] for i in indices]
        for index, frame in zip(indices, frames, strict=True):
            if frame.shape != frames[0].shape:
                told = "x".join(map(str, frame.shape[1::-1]))
                raise VideoError(self.pictures[index], f"is of another size than others ({told})")
        return np.stack(frames)

    def shown_at(self, seconds: np.ndarray) -> np.ndarray:
        """`[T]` indices of the frames that are on the screen at these seconds."""
        found = np.searchsorted(self.times_s, np.asarray(seconds) + 1e-6, side="right") - 1
        return found.clip(0, len(self.times_s) - 1)


def open_film(path: str | Path) -> Film:
    """Say what a file or a folder of pictures shows.

    Raises:
        VideoError: it cannot be read, or holds nothing to see.
    """
    from vlmcourse.media.video import frame_times_s, probe_video

    path = Path(path)
    if path.is_dir():
        pictures = pictures_in(path)
        if not pictures:
            raise VideoError(path, f"no pictures in this folder ({', '.join(PICTURES)})")
        times = np.arange(len(pictures)) / DUMPED_FPS
        return Film(path, times, len(pictures) / DUMPED_FPS, tuple(pictures))
    if path.suffix.lower() in PICTURES:
        probe_video(path)  # says what is wrong
        return Film(path, np.zeros(1), 0.0)
    return Film(path, frame_times_s(path), probe_video(path).duration_s)


def pictures_in(folder: Path) -> list[Path]:
    """Pictures of a folder, numbers in their names in the order of numbers: frame2 before
    frame10."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES]
    return sorted(found, key=natural)


def natural(path: Path) -> list[tuple[int, str]]:
    """A key to sort by in which numbers count as numbers."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
