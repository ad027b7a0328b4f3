"""The table of contents of a video: when each frame is shown, before anything is decoded."""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import numpy as np

from vlmcourse.media.errors import VideoError
from vlmcourse.media.opening import states_length, time_origin_s

# Jumps are made in these containers only: elsewhere one may land on a frame that needs another.
_SEEKABLE = ("mov", "matroska")
_COUNTS_FRAMES = ("mov", "avi")  # containers whose header holds the number of frames


@dataclass(frozen=True)
class FrameIndex:
    """What a video file says it shows.

    Attributes:
        pts: presentation time stamps of the readable frames in the order they are shown, in the
            stream's units; None when the file has none to trust (then frames are counted).
        times_s: `[T]` float64, start of every readable frame in seconds from the container's start.
        promised: frames that the file's header announces; more than T when the file is cut off.
        key_frames: (pts, dts) of the frames at which decoding may begin, ascending; empty = no
            jumps.
    """

    pts: tuple[int, ...] | None
    times_s: np.ndarray
    promised: int
    key_frames: tuple[tuple[int, int], ...] = ()

    @property
    def readable(self) -> int:
        """Number of frames whose data is in the file."""
        return len(self.times_s)

    def key_frame_before(self, pts: int) -> tuple[int, int] | None:
        """Return the last (pts, dts) at which decoding may begin to reach the frame at `pts`."""
        place = bisect_right(self.key_frames, (pts, math.inf))
        return self.key_frames[place - 1] if place else None


def video_stream(container: av.container.InputContainer, path: str | Path) -> av.VideoStream:
    """Return the first moving picture of a file; the cover picture of a song is not one.

    Raises:
        VideoError: the file has no video track.
    """
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    kinds = sorted({stream.type for stream in container.streams})
    if "audio" in kinds:
        reason = "holds sound only, no video track"
    elif "subtitle" in kinds:
        reason = "holds subtitles only, no video track"
    else:
        reason = "holds no frame (cut off, or never recorded to the end); copy or record it again"
    raise VideoError(path, reason)


def frame_rate(stream: av.VideoStream) -> float:
    """Return the header's average frames per second, or ffmpeg's guess; 0 without either."""
    return float(stream.average_rate or stream.guessed_rate or 0)


def build_index(
    container: av.container.InputContainer, stream: av.VideoStream, path: str | Path
) -> FrameIndex:
    """Read the packets of a video without decoding them and list the frames they will give.

    Packets marked as hidden by an edit list are left out, as players do. Packets cut short by the
    end of the file count as missing. The container stands at its end afterwards.

    Raises:
        VideoError: the video track has no readable frame.
    """
    packets, hidden, cut, end_s = [], 0, 0, 0.0
    try:
        for packet in container.demux():
            if packet.size == 0:  # an AVI's repeated frame (with a time) or the end of a track
                hidden += packet.stream.index == stream.index and packet.pts is not None
                continue
            if packet.pts is not None:
                stop = (packet.pts + (packet.duration or 0)) * packet.time_base
                end_s = max(end_s, float(stop))
            if packet.stream.index != stream.index:
                continue
            if packet.is_discard:
                hidden += 1
                continue
            packets.append((packet.pts, packet.dts, packet.is_keyframe))
            cut = cut + 1 if packet.is_corrupt else 0  # damaged packets at the very end
    except av.FFmpegError:
        cut += 1  # the packet that could not be read
        packets.append((None, None, False))
    packets, lost = packets[: len(packets) - cut], packets[len(packets) - cut :]
    if not packets:
        raise VideoError(
            path, "the video track holds no readable frame; record or download it again"
        )
    promised = _promised(container, stream, len(packets), hidden, cut, end_s)
    stamps = [pts for pts, _, _ in packets]
    # VP8 stores reference pictures that are never shown as packets of their own.
    if None in stamps or len(set(stamps)) < len(stamps) or stream.codec_context.name == "vp8":
        return _index_by_decoding(path, stream.index, promised - len(packets))
    if promised > len(stamps):
        stamps = _without_gaps(packets, lost)
    stamps.sort()
    times_s = np.array(stamps, np.float64) * float(stream.time_base)
    times_s = (times_s - time_origin_s(container)).round(9)
    keys: tuple[tuple[int, int], ...] = ()
    if container.format.name.split(",")[0] in _SEEKABLE:
        keys = tuple(sorted((pts, pts if dts is None else dts) for pts, dts, key in packets if key))
    return FrameIndex(tuple(stamps), times_s, promised, keys)


def _without_gaps(packets: list[tuple], lost: list[tuple]) -> list[int]:
    """Return the time stamps of a cut-off video that come before any frame that is missing.

    Frames are stored in the order of decoding; one that is shown earlier may be stored later. No
    frame is shown before it is decoded, so none that is missing is shown before the first lost
    packet is due.
    """
    if lost and lost[0][1] is not None:
        limit = lost[0][1]
    else:
        limit = max((dts + 1 for _, dts, _ in packets if dts is not None), default=math.inf)
    return [pts for pts, _, _ in packets if pts < limit] or [min(pts for pts, _, _ in packets)]


def decode_frames(
    container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    """Yield frames in the order shown, passing over packets that cannot be decoded."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.FFmpegError:  # a damaged tail: give out what the decoder still holds
            yield from stream.codec_context.decode(None)
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        yield from frames


def _promised(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    readable: int,
    hidden: int,
    cut: int,
    end_s: float,
) -> int:
    """Return how many frames the header announces; `readable` when it does not say or agrees."""
    if container.format.name.startswith(_COUNTS_FRAMES) and stream.frames:
        return max(readable, stream.frames - hidden)
    length_s = (container.duration or 0) / av.time_base
    start_s = (container.start_time or 0) / av.time_base
    missing_s = start_s + length_s - end_s
    if states_length(container) and missing_s > max(0.5, 0.02 * length_s):
        return max(readable + max(1, cut), round(length_s * frame_rate(stream)))
    return readable + cut


def _index_by_decoding(path: str | Path, stream_index: int, missing: int) -> FrameIndex:
    """Count the frames by decoding all of them: slow, for files without usable time stamps."""
    times_s: list[float | None] = []
    with av.open(str(Path(path).expanduser().absolute())) as container:
        stream = container.streams[stream_index]
        origin_s = time_origin_s(container)
        rate = frame_rate(stream) or 1.0
        for frame in decode_frames(container, stream):
            times_s.append(None if frame.pts is None else float(frame.pts * frame.time_base))
    if not times_s:
        raise VideoError(path, "no frame of the video track can be decoded")
    if None in times_s or any(b <= a for a, b in pairwise(times_s)):
        seconds = np.arange(len(times_s), dtype=np.float64) / rate
    else:
        seconds = (np.array(times_s, np.float64) - origin_s).round(9)
    return FrameIndex(None, seconds, len(times_s) + max(0, missing))
