"""A film that passes by: one frame at a time, from a file of any length or a folder that grows.

Nothing is kept but the frame that is on the screen, and no table of contents is made; what has
passed cannot be asked for again.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np

from vlmcourse.errors import UserError
from vlmcourse.media.errors import VideoError
from vlmcourse.media.film import pictures_in
from vlmcourse.media.frame_index import decode_frames, frame_rate, video_stream
from vlmcourse.media.opening import open_media, time_origin_s

Moment = tuple[float, np.ndarray]
"""The second of a frame, and the frame `[H, W, 3]` uint8."""


def passing_frames(path: str | Path, apart_s: float) -> Iterator[Moment]:
    """The frame on the screen every `apart_s` seconds of a video file, as it is decoded.

    The same frames as `sampling.every_seconds` chooses, if the file's time stamps are in order.

    Raises:
        VideoError: the file cannot be read, or none of its frames.
        UserError: `apart_s` is not above 0.
    """
    if not apart_s > 0:
        raise UserError(f"frames lie more than 0 seconds apart, not {apart_s}")
    wanted, before = None, None
    with open_media(path, VideoError) as container:
        for second, frame in _timed(container, path):
            wanted = second if wanted is None else wanted
            while before is not None and wanted + 1e-6 < second:
                yield wanted, _upright(before)
                wanted += apart_s
            before = frame
        if before is None:
            raise VideoError(path, "no frame of the video track can be decoded")
        if wanted <= second + 1e-6:
            yield wanted, _upright(before)


def _timed(container, path: str | Path) -> Iterator[tuple[float, av.VideoFrame]]:
    stream = video_stream(container, path)
    origin_s, apart_s, last = time_origin_s(container), 1 / (frame_rate(stream) or 1.0), 0.0
    for number, frame in enumerate(decode_frames(container, stream)):
        if frame.pts is not None:
            last = float(frame.pts * frame.time_base) - origin_s
        elif number:
            last += apart_s
        yield last, frame


def _upright(frame: av.VideoFrame) -> np.ndarray:
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4)


def arriving_pictures(
    folder: str | Path,
    apart_s: float,
    ended: Callable[[], bool],
    wait_s: float = 0.2,
    idle: Callable[[], None] = lambda: None,
) -> Iterator[Moment]:
    """Pictures of a folder in the order of their names, those that are still to come, too.

    Only names behind the last one count as new, so pictures have to be numbered as they come. One
    that cannot be read yet is tried again; if the next one is there and it still cannot, that is an
    error.

    Args:
        apart_s: seconds that pass from picture to picture.
        ended: asked when nothing is new; True ends the stream.
        wait_s: between two looks at the folder.
        idle: called before every wait.

    Raises:
        VideoError: the folder is not there, or a picture is damaged.
    """
    from vlmcourse.media.film import natural
    from vlmcourse.media.video import read_frames

    folder, last, count = Path(folder), None, 0
    while True:
        if not folder.is_dir():
            raise VideoError(folder, "no such folder")
        found = pictures_in(folder)
        new = [p for p in found if last is None or natural(p) > natural(last)]
        read = 0
        for place, path in enumerate(new):
            try:
                pixels = read_frames(path, [0]).pixels[0]
            except VideoError:
                if place + 1 < len(new):
                    raise
                break  # perhaps it is still being written
            yield count * apart_s, pixels
            last, count, read = path, count + 1, read + 1
        if read == 0:
            if ended():
                return
            idle()
            time.sleep(wait_s)
