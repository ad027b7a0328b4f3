"""SubRip (.srt) and WebVTT (.vtt) subtitles to a list of timed lines, and back to WebVTT.

Read strictly: a cue whose times cannot be understood is an error with the number of its line, never
a silent gap. (pysubs2, which reads many more formats, loses a spoken number at the end of a WebVTT
cue and adds the name of the next cue to it; hence a reader of our own.)
"""

import codecs
import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vlmcourse.media.errors import SubtitleError
from vlmcourse.media.opening import check_file

_SRT_TIME = r"(\d{1,3}):(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_VTT_TIME = r"(?:(\d{1,4}):)?(\d{2}):(\d{2})\.(\d{3})"
_TIMING = {
    kind: re.compile(rf"^\s*{time}\s*-->\s*{time}(?:\s+.*)?$")
    for kind, time in (("srt", _SRT_TIME), ("vtt", _VTT_TIME))
}
_LOOKS_TIMED = re.compile(r"^\s*[-\d:.,]+\s*-->|-->\s*[-\d:.,]+\s*$")
_STARTS_TIMED = re.compile(r"^\s*\d{1,3}:\d{2}:\d{2}\D")
_NUMBER = re.compile(r"^\s*\d+\s*$")
_TAG = re.compile(r"</?(?:[a-zA-Z][^<>]*|\d[\d:.]*)?>")  # <i>, </v>, <c.name>, <00:00:01.000>
_STYLE = re.compile(r"\{\\[^{}]*\}")  # {\an8}


@dataclass(frozen=True)
class Cue:
    """One timed line of text.

    Attributes:
        start_s: when it appears, in seconds.
        end_s: when it disappears, never before `start_s`.
        text: what is said, without markup; line breaks inside the cue are kept.
    """

    start_s: float
    end_s: float
    text: str


def read_subtitles(path: str | Path, *, encoding: str | None = None) -> list[Cue]:
    """Read a subtitle file.

    HTML entities (`&amp;`) become letters, tags and style codes are dropped, cues without text are
    left out.

    Args:
        path: a .srt or .vtt file; the first line tells which it is, not the name.
        encoding: of the letters; None means UTF-8, or UTF-16 where the file starts with its mark.

    Returns:
        Cues in order of their start; an empty list for a file in which nothing is said.

    Raises:
        SubtitleError: missing file, letters in another encoding, no subtitles in it, times that
            cannot be read, or a cue that ends before it starts.
    """
    lines = _read_text(path, encoding).split("\n")
    if not any(line.strip() for line in lines):
        return []
    kind = "vtt" if lines[0].startswith("WEBVTT") else "srt"
    cues = list(_cues(path, lines, kind))
    if not cues and kind == "srt":
        raise SubtitleError(
            path, "holds no subtitles; expected lines such as 00:00:01,000 --> 00:00:02,500"
        )
    spoken = [cue for cue in cues if cue.text]
    return sorted(spoken, key=lambda cue: (cue.start_s, cue.end_s))


def vtt_text(cues: Iterable[Cue], note: str = "") -> str:
    """Cues as a WebVTT file that `read_subtitles` reads back, to the millisecond.

    Args:
        note: lines for a comment at the head of the file, which readers pass over.
    """
    blocks = ["WEBVTT"]
    if note:
        blocks.append(f"NOTE\n{note}")
    for cue in cues:
        lines = (line for line in cue.text.split("\n") if line.strip())  # an empty one ends a cue
        text = html.escape("\n".join(lines), quote=False)
        blocks.append(f"{_vtt_time(cue.start_s)} --> {_vtt_time(cue.end_s)}\n{text}")
    return "\n\n".join(blocks) + "\n"


def _vtt_time(seconds: float) -> str:
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}.{thousandths:03}"


def _cues(path: str | Path, lines: list[str], kind: str) -> Iterator[Cue]:
    """Yield the cues of a file in its own order, those without text too."""
    timings = {
        number: match for number, line in enumerate(lines) if (match := _TIMING[kind].match(line))
    }
    for number, line in enumerate(lines):
        numbered = number > 0 and _NUMBER.match(lines[number - 1])
        if number not in timings and (
            _LOOKS_TIMED.search(line) or (numbered and _STARTS_TIMED.match(line))
        ):
            example = (
                "00:00:01,000 --> 00:00:02,500" if kind == "srt" else "00:01.000 --> 00:02.500"
            )
            raise SubtitleError(
                path,
                f"line {number + 1} has times that cannot be read: {line.strip()[:60]!r}; "
                f"write them as {example}",
            )
    starts = [*timings, len(lines)]
    for (number, match), following in zip(timings.items(), starts[1:]):
        body = lines[number + 1 : following]
        if kind == "vtt":  # an empty line ends a cue; the name of the next one may follow it
            ends = (place for place, line in enumerate(body) if not line.strip())
            body = body[: next(ends, len(body))]
        elif following < len(lines) and body and _NUMBER.match(body[-1]):
            body = body[:-1]  # the number of the next cue
        start_s, end_s = _seconds(match.groups()[:4]), _seconds(match.groups()[4:])
        if end_s < start_s:
            raise SubtitleError(
                path,
                f"the cue at line {number + 1} ends at {end_s:.3f} s, before it starts at "
                f"{start_s:.3f} s; mend its times",
            )
        yield Cue(start_s, end_s, _plain(body))


def _seconds(parts: tuple[str | None, ...]) -> float:
    """Turn hours, minutes, seconds and a decimal fraction, as written, into seconds."""
    hours, minutes, seconds, fraction = parts
    whole = (int(hours or 0) * 60 + int(minutes)) * 60 + int(seconds)
    return (whole * 1000 + int(fraction.ljust(3, "0"))) / 1000


def _plain(lines: list[str]) -> str:
    """Drop markup, then turn entities into letters: an escaped `&lt;b&gt;` stays as text."""
    text = "\n".join(lines).replace("\\N", "\n").replace("\\h", " ")
    text = html.unescape(_STYLE.sub("", _TAG.sub("", text)))
    kept = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in kept if line)


def _read_text(path: str | Path, encoding: str | None) -> str:
    data = check_file(path, SubtitleError, may_be_empty=True).read_bytes()
    if encoding is None:
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        encoding = "utf-16" if wide else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except LookupError as cause:
        raise ValueError(f"unknown encoding {encoding!r}") from cause
    except UnicodeDecodeError as cause:
        line = data[: cause.start].count(b"\n") + 1
        raise SubtitleError(
            path,
            f"line {line} is not {encoding.removesuffix('-sig').upper()} text; save the file as "
            "UTF-8, or name its encoding, for example encoding='cp1252'",
        ) from cause
    return text.replace("\r\n", "\n").replace("\r", "\n")
