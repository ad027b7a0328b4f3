"""Video files to arrays: what a file holds, when each frame is shown, and the frames themselves.

Frames are decoded at the size they were recorded in and turned upright; making them smaller is the
job of one function, `transforms.resize_frames`, because the resizers of the decoders differ. A file
whose wanted frames cannot all be decoded raises `VideoError`: a cut-off file still announces the
frames that are missing (`num_frames`), so a sampling rule that spans the whole video fails loudly
instead of seeing less of it. Its undamaged part can be read by asking for indices below
`readable_frames`. Inside a damaged picture decoders paint over what is missing; such frames are
returned as the decoder gives them.

Every function opens the file and closes it before it returns, so that no reader is alive across a
fork (a decord reader that was opened before a fork hangs or fails when it is used after it).
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import av
import numpy as np

from vlmcourse.media.errors import VideoError
from vlmcourse.media.frame_index import (
    FrameIndex,
    build_index,
    decode_frames,
    frame_rate,
    video_stream,
)
from vlmcourse.media.opening import check_file, open_media
from vlmcourse.media.transforms import Resampling, resize_frames

Backend = Literal["auto", "decord", "pyav"]

MAX_BYTES = 8 * 2**30  # of pixels in one answer
_CHUNK = 16  # frames decoded and resized at a time
# In others decord 0.6 is not trusted: from a transport stream it gave other frames than asked for.
_DECORD_CONTAINERS = ("mov", "matroska")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds.

    Attributes:
        path: the file.
        num_frames: frames that the file announces; all of them can be read unless the file is cut
            off.
        fps: average frames per second (an average only, when the rate varies).
        duration_s: length of the recording in seconds as the container states it.
        width: pixels across of the upright picture.
        height: pixels down of the upright picture.
        has_audio: whether there is a sound track.
        readable_frames: frames whose data is in the file; less than `num_frames` when it is cut
            off.
    """

    path: Path
    num_frames: int
    fps: float
    duration_s: float
    width: int
    height: int
    has_audio: bool
    readable_frames: int


@dataclass(frozen=True)
class Frames:
    """Frames of one video.

    Attributes:
        pixels: `[T, H, W, 3]` uint8, red green blue, upright.
        indices: `[T]` int64, position of each in the video.
        times_s: `[T]` float64, when each is first shown, in seconds from the start of the
            recording.
        info: the whole video.
    """

    pixels: np.ndarray
    indices: np.ndarray
    times_s: np.ndarray
    info: VideoInfo


@dataclass(frozen=True)
class _Video:
    info: VideoInfo
    index: FrameIndex
    quarter_turns: int  # counter-clockwise
    container: str


def probe_video(path: str | Path) -> VideoInfo:
    """Say what a video file holds; reads the whole file but decodes only its first frame.

    Raises:
        VideoError: the file is missing, empty, no video, or has no frame that can be decoded.
    """
    return _examine(path).info


def frame_times_s(path: str | Path) -> np.ndarray:
    """Return when each frame is shown, from the file's time stamps: right for variable frame rates.

    Returns:
        `[num_frames]` float64 seconds, ascending; 0 is the start of the recording.

    Raises:
        VideoError: as in `probe_video`, or the file is cut off and times are missing.
    """
    video = _examine(path)
    if video.index.readable < video.index.promised:
        raise VideoError(path, _cut_off(video.index))
    return video.index.times_s.copy()


def read_frames(
    path: str | Path,
    indices: Sequence[int] | np.ndarray | None = None,
    *,
    backend: Backend = "auto",
    size: tuple[int, int] | None = None,
    mode: Resampling = "bilinear",
) -> Frames:
    """Decode the frames of a video at given positions.

    Args:
        path: any file that ffmpeg reads: mp4, webm, mkv, avi, GIF, a single picture, ...
        indices: `[T]` positions in any order, repeats allowed; None means every frame.
        backend: "decord", "pyav", or "auto": decord where it is known to be right and PyAV
            elsewhere (not installed, damaged or rotated file, hidden frames, GIF, transport
            streams).
        size: (height, width) to resize to while reading, which keeps memory small; None keeps the
            recorded size. The numbers are those of `resize_frames` on the full-size frames.
        mode: how to resize; see `resize_frames`.

    Returns:
        `Frames` with one row per entry of `indices`, in their order.

    Raises:
        VideoError: as in `probe_video`; an index the video does not have; a wanted frame that
            cannot be decoded; a file that the chosen backend cannot read; more than `MAX_BYTES` of
            pixels.
    """
    if backend not in ("auto", "decord", "pyav"):
        raise ValueError(f"backend must be 'auto', 'decord' or 'pyav', not {backend!r}")
    video = _examine(path)
    wanted = _wanted(video, indices)
    height, width = size or (video.info.height, video.info.width)
    unique, place = np.unique(wanted, return_inverse=True)
    needed = len(wanted) * height * width * 3
    if needed > MAX_BYTES:
        raise VideoError(
            path,
            f"{len(wanted)} frames of {width}x{height} would take {needed / 2**30:.0f} GiB of "
            "memory; choose fewer indices or a smaller size",
        )
    pixels = np.empty((len(unique), height, width, 3), np.uint8)
    for reader in _readers(video, backend):
        try:
            _fill(pixels, video, reader(video, unique.tolist()), size, mode)
            break
        except _ReaderFailed as cause:
            if backend == "decord":
                raise VideoError(path, f"decord cannot read this file: {cause}") from cause
            _log.debug("%s: %s failed (%s)", path, reader.__name__, cause)
    if not np.array_equal(unique, wanted):
        pixels = pixels[place]
    return Frames(pixels, wanted, video.index.times_s[wanted], video.info)


class _ReaderFailed(Exception):
    """A backend is missing or cannot read what the next one may be able to read."""


def _examine(path: str | Path) -> _Video:
    """Index a video and decode its first frame, which tells size and rotation. Who asks for a
    video's length and then for its frames has it indexed once."""
    try:
        about = Path(path).stat()
    except OSError:
        return _indexed(path, 0, 0)  # says what is wrong
    return _indexed(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=4)
def _indexed(path: str | Path, changed_ns: int, size: int) -> _Video:
    """The same; a file that was written since is another one."""
    with open_media(path, VideoError) as container:
        stream = video_stream(container, path)
        index = build_index(container, stream, path)
        fps = frame_rate(stream)
        duration_s = (container.duration or 0) / av.time_base
        has_audio = bool(container.streams.audio)
        name = container.format.name.split(",")[0]
    with open_media(path, VideoError) as container:
        first = _first_frame(container, path)
    span_s = float(index.times_s[-1] - index.times_s[0])
    fps = fps or ((index.readable - 1) / span_s if span_s > 0 else 1.0)
    turns = round(first.rotation / 90) % 4
    width, height = (first.height, first.width) if turns % 2 else (first.width, first.height)
    info = VideoInfo(
        path=Path(path),
        num_frames=index.promised,
        fps=fps,
        duration_s=duration_s or index.promised / fps,
        width=width,
        height=height,
        has_audio=has_audio,
        readable_frames=index.readable,
    )
    return _Video(info, index, turns, name)


def _first_frame(container: av.container.InputContainer, path: str | Path) -> av.VideoFrame:
    frame = next(decode_frames(container, video_stream(container, path)), None)
    if frame is None:
        raise VideoError(path, "no frame of the video track can be decoded")
    return frame


def _wanted(video: _Video, indices: Sequence[int] | np.ndarray | None) -> np.ndarray:
    """Return the wanted positions as int64 `[T]`, or say which of them the file does not have."""
    index, path = video.index, video.info.path
    if indices is None:
        if index.readable < index.promised:
            raise VideoError(path, _cut_off(index))
        return np.arange(index.readable)
    wanted = np.asarray(indices)
    if wanted.size == 0:
        return np.zeros(0, np.int64)
    if wanted.ndim != 1 or not np.issubdtype(wanted.dtype, np.integer):
        raise ValueError(
            f"indices must be whole numbers in one row, got {wanted.dtype} {wanted.shape}"
        )
    outside = wanted[(wanted < 0) | (wanted >= index.promised)]
    if outside.size:
        raise VideoError(
            path, f"there is no frame {outside[0]}; its {index.promised} frames are numbered from 0"
        )
    if (wanted >= index.readable).any():
        raise VideoError(path, _cut_off(index))
    return wanted.astype(np.int64)


def _cut_off(index: FrameIndex) -> str:
    return (
        f"the file is cut off or damaged: only the first {index.readable} of {index.promised} "
        f"frames can be read; copy or download it again, or ask for indices below {index.readable}"
    )


def _readers(video: _Video, backend: Backend) -> list:
    """Return the backends to try, best first."""
    trusted = (
        video.container in _DECORD_CONTAINERS
        and video.quarter_turns == 0
        and video.index.pts is not None
        and video.index.readable == video.index.promised
    )
    if backend == "pyav" or (backend == "auto" and not trusted):
        return [_read_pyav, _read_in_order]
    if not trusted:
        raise VideoError(
            video.info.path,
            "decord does not read this file rightly (it is rotated, cut off or of a kind that "
            "decord cannot seek in); use backend 'auto' or 'pyav'",
        )
    return [_read_decord] if backend == "decord" else [_read_decord, _read_pyav, _read_in_order]


def _fill(
    pixels: np.ndarray,
    video: _Video,
    frames: Iterable[np.ndarray],
    size: tuple[int, int] | None,
    mode: Resampling,
) -> None:
    """Copy decoded chunks `[t, H, W, 3]` into `pixels`, upright and resized."""
    done = 0
    for chunk in frames:
        if video.quarter_turns:
            chunk = np.rot90(chunk, video.quarter_turns, axes=(1, 2))
        if size is not None:
            chunk = resize_frames(chunk, *size, mode=mode)
        if chunk.shape[1:] != pixels.shape[1:]:
            raise VideoError(
                video.info.path,
                f"the picture changes its size inside the video (from {pixels.shape[2]}x"
                f"{pixels.shape[1]} to {chunk.shape[2]}x{chunk.shape[1]}); give read_frames a size",
            )
        pixels[done : done + len(chunk)] = chunk
        done += len(chunk)


def _read_decord(video: _Video, wanted: list[int]) -> Iterator[np.ndarray]:
    """Yield chunks `[t, H, W, 3]` of the wanted frames (ascending, no repeats) from decord."""
    try:
        import decord
    except ImportError as cause:
        raise _ReaderFailed("decord is not installed") from cause
    limit = getattr(decord, "DECORDLimitReachedError", decord.DECORDError)
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(check_file(video.info.path, VideoError)), num_threads=1)
        if len(reader) != video.index.readable:
            raise _ReaderFailed(f"it counts {len(reader)} frames, not {video.index.readable}")
        for start in range(0, len(wanted), _CHUNK):
            yield reader.get_batch(wanted[start : start + _CHUNK]).asnumpy()
    except (decord.DECORDError, limit, RuntimeError) as cause:
        raise _ReaderFailed(str(cause).strip().split("\n")[0]) from cause


def _read_pyav(video: _Video, wanted: list[int]) -> Iterator[np.ndarray]:
    """Yield chunks `[1, H, W, 3]` of the wanted frames, jumping to the key frame before each."""
    yield from _read_with_pyav(video, wanted, jump=True)


def _read_in_order(video: _Video, wanted: list[int]) -> Iterator[np.ndarray]:
    """As `_read_pyav` without jumps: slower, for files in which jumps land on the wrong frame."""
    try:
        yield from _read_with_pyav(video, wanted, jump=False)
    except _ReaderFailed as cause:
        raise VideoError(video.info.path, f"{cause}; copy or download the file again") from cause


def _read_with_pyav(video: _Video, wanted: list[int], *, jump: bool) -> Iterator[np.ndarray]:
    index, last = video.index, -1
    with open_media(video.info.path, VideoError) as container:
        stream = video_stream(container, video.info.path)
        frames = enumerate(decode_frames(container, stream))
        for want in wanted:
            if index.pts is None:
                frame = next((frame for number, frame in frames if number == want), None)
            else:
                pts = index.pts[want]
                key = index.key_frame_before(pts) if jump and want > last + 1 else None
                if key is not None and (last < 0 or key[0] > index.pts[last]):
                    container.seek(key[1], stream=stream)
                    frames = enumerate(decode_frames(container, stream))
                stamped = (frame for _, frame in frames if frame.pts is not None)
                frame = next((frame for frame in stamped if frame.pts >= pts), None)
                frame = frame if frame is not None and frame.pts == pts else None
            if frame is None:
                raise _ReaderFailed(f"frame {want} is damaged and cannot be decoded")
            last = want
            yield frame.to_ndarray(format="rgb24")[None]
