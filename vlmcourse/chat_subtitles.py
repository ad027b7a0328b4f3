"""Which subtitles `vlmcourse chat` gives to a system that reads them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vlmcourse.errors import UserError

if TYPE_CHECKING:
    from vlmcourse.media.transcribe import Subtitles, Transcriber
    from vlmcourse.systems.base import VideoLanguageModel


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --subtitles, --no-subtitles, --transcribe and --language."""
    said = parser.add_mutually_exclusive_group()
    said.add_argument("--subtitles", type=Path, metavar="FILE", help="a .srt or .vtt file; "
        "default: the one beside the clip, if there is one")  # fmt: skip
    said.add_argument("--no-subtitles", action="store_true", help="read none")
    said.add_argument("--transcribe", type=Path, metavar="WHISPER_FOLDER", help="if the clip has "
        "no subtitles, listen with the Whisper in this folder (nothing is downloaded)")  # fmt: skip
    parser.add_argument("--language", default="en", metavar="CODE", help="spoken in the clip, for "
        "--transcribe; auto lets the model guess; default: %(default)s")  # fmt: skip


def check_options(args: argparse.Namespace, device: str) -> "Transcriber | None":
    """Check the files that the options name; return who listens, if anybody shall.

    Raises:
        UserError: a file that cannot be read or is missing, or options that contradict each other.
    """
    if args.subtitles is not None:
        from vlmcourse.media.subtitles import read_subtitles

        read_subtitles(args.subtitles)
    if args.transcribe is None:
        return None
    if args.no_sound:
        raise UserError("--transcribe listens to the file: leave out --no-sound")
    from vlmcourse.media.transcribe import open_transcriber

    language = None if args.language == "auto" else args.language
    return open_transcriber(args.transcribe, language, device)


def find_subtitles(
    model: "VideoLanguageModel",
    path: Path,
    file: Path | None = None,
    without: bool = False,
    transcriber: "Transcriber | None" = None,
) -> "Subtitles | None":
    """The subtitles that a system gets with a clip; None if it reads none.

    Args:
        file: take these.
        without: take none.
        transcriber: listens where there are none.

    Raises:
        UserError: something was asked of a system that reads no subtitles, or a bad file.
    """
    from vlmcourse.media.transcribe import Subtitles, find_cues

    if model.processor.reads_subtitles:
        return Subtitles() if without else find_cues(path, file, transcriber)
    if file or without or transcriber:
        options = "--subtitles, --no-subtitles and --transcribe"
        raise UserError(f"this system does not read subtitles: leave out {options}")
    return None


def subtitles_line(found: "Subtitles", length_s: float, without: bool = False) -> str:
    """One line for people on which subtitles are used.

    Args:
        length_s: of the clip.
        without: none were wanted.
    """
    count = f"{len(found.cues)} cue{'s' * (len(found.cues) != 1)}"
    if found.cues and all(cue.start_s > length_s for cue in found.cues):
        count += f", none of them within the clip's {length_s:.1f} s"
    kept = "not kept" if found.file is None else f"kept in {found.file}"
    lines = {
        "given": f"{found.file} ({count})",
        "beside": f"{found.file} ({count})",
        "transcript": f"{found.file} ({count}, transcribed earlier)",
        "transcribed": f"transcribed now ({count}, {kept})",
        "none": "none, as asked" if without else "none; the answers come from the pictures alone",
    }
    return f"subtitles: {lines[found.origin]}"
