"""Which subtitle file belongs to a clip: the one beside it, by its name."""

import os
import re
from pathlib import Path

SUFFIXES = (".srt", ".vtt")
TRANSCRIPT = ".whisper.vtt"
"""Ending of a transcript that we made (media/transcribe.py); never taken for given subtitles."""

_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:-\w+)?")  # en, eng, pt-BR


def find_subtitles(video: str | Path) -> Path | None:
    """Return the subtitle file beside a clip.

    The first that exists of `STEM.srt`, `STEM.vtt`, `STEM.en.vtt`, `STEM.en.srt`, other kinds of
    English (`STEM.en-GB.vtt`, `STEM.eng.srt`), other languages; the last two in the order of their
    names. A transcript of ours (`STEM.whisper.vtt`) is none of them.

    Args:
        video: the clip; it need not exist.

    Returns:
        A file, or None.
    """
    video = Path(video).expanduser()
    for ending in (".srt", ".vtt", ".en.vtt", ".en.srt"):
        file = video.with_name(video.stem + ending)
        if file.is_file():
            return file
    if not video.parent.is_dir():
        return None
    start = video.stem + "."
    names = (name for name in os.listdir(video.parent) if name.startswith(start))
    tagged = sorted((order, name) for name in names if (order := _order(name[len(start) :])))
    files = (video.with_name(name) for _, name in tagged)
    return next((file for file in files if file.is_file()), None)


def _order(tag: str) -> int:
    """Place of `en-GB.vtt` and the like among the languages, 1 or 2; 0 for no subtitle file."""
    language, dot, kind = tag.partition(".")
    if not (_LANGUAGE.fullmatch(language) and dot + kind in SUFFIXES):
        return 0
    return 1 if language.lower().startswith("en") else 2
