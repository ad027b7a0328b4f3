"""Open a media file with PyAV, or say in one sentence why that cannot be done."""

import codecs
import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av

from vlmcourse.media.errors import MediaError, VideoError

# Containers whose header states how long the recording is; in the others ffmpeg only estimates it.
_STATES_LENGTH = ("mov", "matroska", "avi", "wav", "flv", "asf")


def check_file(path: str | Path, error: type[MediaError], *, may_be_empty: bool = False) -> Path:
    """Return the absolute path of a file that exists and holds at least one byte.

    The path is made absolute because ffmpeg takes the part of a relative name before a colon for a
    protocol.

    Raises:
        MediaError: (of the given kind) the file is missing, a folder, not a regular file, or empty.
    """
    given, path = path, Path(path).expanduser()
    try:
        if path.is_dir():
            raise error(given, "this is a folder; give the name of one file in it")
        if not path.exists():
            raise error(given, "no such file" + _hint(path))
        if path.is_file() and path.stat().st_size == 0 and not may_be_empty:
            raise error(given, "the file is empty (0 bytes); download or copy it again")
        with path.open("rb"):
            pass
    except (OSError, ValueError) as cause:
        raise error(given, f"cannot be opened ({_last_line(cause)})") from cause
    return path.absolute()


@contextmanager
def open_media(path: str | Path, error: type[MediaError]) -> Iterator[av.container.InputContainer]:
    """Open a file for reading and close it at the end of the `with` block.

    Raises:
        MediaError: (of the given kind) as in `check_file`, or the content is no media file.
    """
    absolute = check_file(path, error)
    try:
        container = av.open(str(absolute), metadata_errors="replace")
    except (av.FFmpegError, ValueError, OSError) as cause:
        raise error(path, _why_not_media(absolute, cause)) from cause
    try:
        yield container
    finally:
        container.close()


def has_tracks(path: str | Path) -> tuple[bool, bool]:
    """Whether a file has moving pictures (the cover of a song is none), and whether it has sound.

    Raises:
        MediaError: the file is missing, empty or no recording at all.
    """
    with open_media(path, VideoError) as container:
        covers = av.stream.Disposition.attached_pic
        seen = any(not stream.disposition & covers for stream in container.streams.video)
        return seen, bool(container.streams.audio)


def states_length(container: av.container.InputContainer) -> bool:
    """Say whether the container's header tells the length, so that a cut file can be recognised."""
    return container.format.name.split(",")[0] in _STATES_LENGTH


def time_origin_s(container: av.container.InputContainer) -> float:
    """Return the container's own start, which players show as time 0; never below 0, in seconds.

    Transport streams and cut recordings start at some later time stamp. A start below 0 is the
    warm-up of a sound codec and does not shift the pictures.
    """
    return max(0.0, (container.start_time or 0) / av.time_base)


def _hint(path: Path) -> str:
    if "://" in str(path) or str(path).startswith(("http:/", "https:/")):
        return "; addresses are not downloaded, save the file first"
    if not path.parent.is_dir():
        return f"; the folder {path.parent} does not exist either"
    names = [entry.name for entry in path.parent.iterdir()]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {close[0]}?" if close else f" in the folder {path.parent}"


def _why_not_media(path: Path, cause: Exception) -> str:
    with path.open("rb") as file:
        head = file.read(512)
    try:  # incremental: the 512 bytes may end inside a letter
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        text = ""
    if text and all(letter.isprintable() or letter.isspace() for letter in text):
        shown = " ".join(text.split())[:40]
        return (
            f"holds text, not a recording (it starts with {shown!r}); a download often saves a web "
            "page under the name of the file, so download it again"
        )
    if head[4:8] == b"ftyp":
        return (
            "the file is cut off or damaged: its table of contents (the 'moov' box, mostly at the "
            "end) is missing or incomplete; copy or record it again"
        )
    if isinstance(cause, EOFError):
        return "the file ends before its first frame; record or download it again"
    return f"not a recording that ffmpeg can open ({_last_line(cause)})"


def _last_line(cause: Exception) -> str:
    strerror = getattr(cause, "strerror", None)
    return strerror or str(cause).strip().split("\n")[-1]
