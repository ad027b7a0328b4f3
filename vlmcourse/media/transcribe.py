"""The subtitles of a clip: a file that is given, the one beside it, or what a model hears.

Official: Vision-CAIR/MiniGPT4-video@ecabd7a:minigpt4_video_inference.py writes what Whisper hears
to a .vtt and takes that again the next time, whatever the clip then is; a clip without sound, and
one whose subtitles are switched off, stop the script.
Differs: no sound and no subtitles are normal; a transcript says which model made it and from which
sound, and is made anew when either has changed.
"""

import hashlib
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import av
import numpy as np

from vlmcourse.media.audio import has_audio, read_audio
from vlmcourse.media.errors import AudioError, SubtitleError
from vlmcourse.media.opening import open_media
from vlmcourse.media.subtitles import Cue, read_subtitles, vtt_text
from vlmcourse.media.subtitles_beside import TRANSCRIPT, find_subtitles
from vlmcourse.media.whisper import (
    RATE,
    FasterWhisperTranscriber,
    WhisperTranscriber,
    open_transcriber,
)

__all__ = [
    "FasterWhisperTranscriber",
    "Subtitles",
    "Transcriber",
    "WhisperTranscriber",
    "find_cues",
    "open_transcriber",
    "sound_hash",
    "subtitles_of",
]

_MODEL, _SOUND = "transcribed by: ", "sound sha256: "

log = logging.getLogger(__name__)


class Transcriber(Protocol):
    """Turns speech into timed lines.

    Attributes:
        name: of the model and its settings, one line; another name makes transcripts anew.
    """

    name: str

    def transcribe(self, samples: np.ndarray) -> list[Cue]:
        """What is said in `[S]` float32 samples, mono, 16,000 a second; cues in order."""


@dataclass(frozen=True)
class Subtitles:
    """What is said in a clip, and how that is known.

    Attributes:
        cues: in order.
        origin: "given", "beside" (a file of that name), "transcript" (made earlier), "transcribed"
            (made now) or "none".
        file: where they stand; None if nowhere.
    """

    cues: tuple[Cue, ...] = ()
    origin: str = "none"
    file: Path | None = None


def subtitles_of(
    video: str | Path,
    subtitles: str | Path | None = None,
    transcriber: Transcriber | None = None,
    cache: bool | Path = True,
) -> tuple[Cue, ...]:
    """What is said in a clip, as `find_cues` finds it; () where nothing is said or known."""
    return find_cues(video, subtitles, transcriber, cache).cues


def find_cues(
    video: str | Path,
    subtitles: str | Path | None = None,
    transcriber: Transcriber | None = None,
    cache: bool | Path = True,
) -> Subtitles:
    """Find what is said in a clip.

    The first of: the given file; the file beside the clip (`find_subtitles`); a transcript made
    earlier; a transcript made now, which is kept for the next time as `STEM.whisper.vtt`.

    Args:
        video: a clip, a sound file, or a picture.
        subtitles: a .srt or .vtt file.
        transcriber: listens if there is no file. Without one, an earlier transcript counts
            whichever model made it.
        cache: keep transcripts beside the clip, or in the user's cache folder
            (`$XDG_CACHE_HOME/vlmcourse/transcripts`) where that cannot be written; a folder: keep
            them there; False: neither read nor write any.

    Returns:
        No cues where the clip has no sound track, or nothing is known of what is said.

    Raises:
        SubtitleError: a subtitle file that cannot be read.
        AudioError: a sound track that cannot be decoded.
    """
    video = Path(video).expanduser()
    for origin, file in (("given", subtitles), ("beside", find_subtitles(video))):
        if file is not None:
            return Subtitles(tuple(read_subtitles(file)), origin, Path(file))
    places = _places(video, cache)
    for place in places:
        if place.is_file():
            kept = _kept(place, video, transcriber)
            if kept is not None:
                return Subtitles(kept, "transcript", place)
    if transcriber is None or not has_audio(video):
        return Subtitles()
    samples = read_audio(video, RATE).samples[0]  # [S]
    cues = tuple(transcriber.transcribe(samples)) if np.any(samples) else ()
    note = f"{_MODEL}{_in_a_note(transcriber.name)}\n{_SOUND}{sound_hash(video)}"
    return Subtitles(cues, "transcribed", _keep(places, vtt_text(cues, note), video))


def sound_hash(path: str | Path) -> str:
    """SHA-256 of the first sound track as it is stored, packet by packet; "" without one.

    Nothing is decoded, so another build of the decoder changes nothing.

    Raises:
        AudioError: the file is missing, empty or no recording at all.
    """
    with open_media(path, AudioError) as container:
        stream = next(iter(container.streams.audio), None)
        if stream is None:
            return ""
        digest = hashlib.sha256(f"{stream.codec_context.name} {stream.rate}".encode())
        try:
            for packet in container.demux(stream):
                digest.update(bytes(packet))
        except av.FFmpegError as cause:
            digest.update(f"cut off: {type(cause).__name__}".encode())
        return digest.hexdigest()


# ---------------------------------------------------------------- transcripts that are kept


def _places(video: Path, cache: bool | Path) -> list[Path]:
    """Where a transcript of a clip may stand, the best place first."""
    if cache is False:
        return []
    who = hashlib.sha256(str(video.absolute()).encode()).hexdigest()[:16]
    elsewhere = f"{video.stem}.{who}{TRANSCRIPT}"  # clips of many folders share one there
    if cache is not True:
        return [Path(cache).expanduser() / elsewhere]
    beside = video.with_name(video.stem + TRANSCRIPT)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return [beside, Path(base) / "vlmcourse" / "transcripts" / elsewhere]


def _kept(place: Path, video: Path, transcriber: Transcriber | None) -> tuple[Cue, ...] | None:
    """The cues of an earlier transcript; None if it no longer counts.

    A file without our note is somebody's own and is taken as it is.

    Raises:
        SubtitleError: somebody's own file cannot be read.
    """
    note = _note(place)
    if _SOUND in note and note[_SOUND] != sound_hash(video):
        log.warning("%s: not used, it was made from another sound", place)
        return None
    if _MODEL in note and transcriber and note[_MODEL] != _in_a_note(transcriber.name):
        log.info("%s: made by %s, now asked of %s", place, note[_MODEL], transcriber.name)
        return None
    try:
        return tuple(read_subtitles(place))
    except SubtitleError as cause:
        if not note:
            raise
        log.warning("%s; not used", cause)
        return None


def _note(place: Path) -> dict[str, str]:
    """The lines of our note at the head of a file, by their beginnings."""
    with place.open("rb") as file:
        head = file.read(2000).decode("utf-8", "replace").split("\n\n")
    lines = head[1].splitlines() if len(head) > 1 and head[1].startswith("NOTE\n") else []
    starts = ((start, line) for start in (_MODEL, _SOUND) for line in lines)
    return {start: line.removeprefix(start) for start, line in starts if line.startswith(start)}


def _keep(places: list[Path], text: str, video: Path) -> Path | None:
    """Write a transcript to the first place that takes it; None (and a warning) if none does."""
    reasons = []
    for place in places:
        try:
            if place.parent != video.parent:
                place.parent.mkdir(parents=True, exist_ok=True)
            _write(place, text)
        except OSError as cause:
            reasons.append(f"{place}: {cause.strerror or cause}")
            continue
        return place
    if reasons:
        log.warning("the transcript of %s was not kept (%s)", video, "; ".join(reasons))
    return None


def _write(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _in_a_note(name: str) -> str:
    """A name as it may stand in a comment of WebVTT: one line, without an arrow."""
    return " ".join(name.split()).replace("-->", "->")
