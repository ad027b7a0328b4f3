"""A story becomes real files: H.264 and AAC in an mp4, the narrator's lines in an .srt beside it.

The same story and settings give the same bytes on the same machine: one encoder thread, no dates.
Files appear under their name only when they are whole.
"""

import heapq
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pysubs2
from av.video.reformatter import VideoReformatter

from vlmcourse.errors import UserError
from vlmcourse.world.render import iter_frames
from vlmcourse.world.sound import render_sound
from vlmcourse.world.story import Story

LINE_S = 1.5
"""A narrator's line is shown this long."""
PART = ".part"
"""Ending of files that are still being written."""
KEYFRAME_S = 8
AUDIO_BIT_RATE = 32_000
SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class ClipFiles:
    """Where a clip was written; `subtitles` is None when nobody speaks in it."""

    video: Path
    subtitles: Path | None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path; on success it becomes `path` at one stroke, else it is removed."""
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole or not there."""
    with whole_file(path) as part:
        part.write_bytes(content)


def write_clip(
    story: Story,
    folder: str | Path,
    name: str,
    fps: float = 4,
    width: int = 64,
    height: int = 64,
    crf: int = 23,
    sound: bool = True,
) -> ClipFiles:
    """Write `name.mp4` and, if somebody speaks, `name.srt` into `folder`, which is made if needed.

    The mp4 comes last, so that a whole mp4 means a whole clip. A clip without lines has no .srt;
    one that an earlier clip of that name left behind is removed.

    Args:
        fps: frames a second; below one is allowed.
        width, height: in pixels, even numbers from 16 (H.264 halves the colour planes).
        crf: H.264 quality, 0 (lossless) to 51.
        sound: False leaves the sound track out; True writes one even if nothing sounds.

    Raises:
        UserError: a size, rate or quality that the codec cannot write.
    """
    check_format(fps, width, height, crf)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    video, subtitles = folder / f"{name}.mp4", folder / f"{name}.srt"
    text = subtitle_text(story)
    if text:
        write_bytes(subtitles, text.encode())
    else:
        subtitles.unlink(missing_ok=True)
    with whole_file(video) as part:
        _encode(part, story, fps, width, height, crf, sound)
    return ClipFiles(video, subtitles if text else None)


def check_format(fps: float, width: int, height: int, crf: int) -> None:
    """Raise a UserError if the codec cannot write such a clip."""
    if width < 16 or height < 16 or width % 2 or height % 2:
        raise UserError(f"width and height must be even and at least 16, not {width}x{height}")
    if not 0.01 <= fps <= 120:
        raise UserError(f"fps must be 0.01 to 120, not {fps}")
    if not 0 <= crf <= 51:
        raise UserError(f"crf must be 0 to 51, not {crf}")


def subtitle_text(story: Story) -> str:
    """Return the narrator's lines as the text of an .srt file, empty if there are none."""
    if not story.lines:
        return ""
    subtitles = pysubs2.SSAFile()
    for line in story.lines:
        end_s = min(line.start_s + LINE_S, story.duration_s)
        event = pysubs2.SSAEvent(line.start_s * 1000, round(end_s * 1000), story.line_text(line))
        subtitles.append(event)
    return subtitles.to_string("srt")


def _encode(
    path: Path, story: Story, fps: float, width: int, height: int, crf: int, sound: bool
) -> None:
    """Write the mp4; pictures and sound come in the order in which they are seen and heard."""
    rate = Fraction(fps).limit_denominator(1000)
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with av.open(str(path), "w", "mp4", options) as container:
        video = container.add_stream("libx264", rate=rate)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.gop_size = max(1, round(fps * KEYFRAME_S))
        video.thread_count = 1
        # mbtree reads memory that x264 never wrote when pictures are tiny: other bytes every time.
        video.options = {"crf": str(crf), "preset": "medium", "threads": "1", "mbtree": "0"}
        frames = _pictures(iter_frames(story, fps, width, height), rate)
        if sound:
            audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
            audio.bit_rate, audio.options = AUDIO_BIT_RATE, {"aac_coder": "fast"}
            frames = heapq.merge(frames, _sound(render_sound(story, SAMPLE_RATE)), key=_time_s)
        for frame in frames:
            stream = video if isinstance(frame, av.VideoFrame) else audio
            container.mux(stream.encode(frame))
        for stream in container.streams:
            container.mux(stream.encode())


def _time_s(frame: av.VideoFrame | av.AudioFrame) -> float:
    return frame.time


def _pictures(frames: Iterable[np.ndarray], rate: Fraction) -> Iterator[av.VideoFrame]:
    """Turn uint8 [H, W, 3] frames into the codec's colours; equal neighbours are turned once."""
    convert, shown, picture = VideoReformatter().reformat, None, None
    for index, pixels in enumerate(frames):
        if pixels is not shown:
            rgb = av.VideoFrame.from_ndarray(pixels, "rgb24")
            shown, picture = pixels, convert(rgb, format="yuv420p", threads=1)
        picture.pts, picture.time_base = index, 1 / rate
        yield picture


def _sound(samples: np.ndarray) -> Iterator[av.AudioFrame]:
    """Cut float32 [S] into seconds."""
    for start in range(0, len(samples), SAMPLE_RATE):
        second = samples[None, start : start + SAMPLE_RATE]
        frame = av.AudioFrame.from_ndarray(second, "fltp", "mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, start
        frame.time_base = Fraction(1, SAMPLE_RATE)
        yield frame
