"""The files of `vlmcourse chat`: which words name them, what is in them, what is told of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmcourse.errors import UserError

if TYPE_CHECKING:
    from vlmcourse.media.transcribe import Subtitles
    from vlmcourse.media.video import VideoInfo
    from vlmcourse.systems.base import VideoLanguageModel, Watched
    from vlmcourse.systems.processor import Clip, Given, Processor

_PICTURES = (".avif", ".bmp", ".gif", ".heic", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_VIDEOS = (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts")
_VIDEOS += (".webm", ".wmv")
_SOUNDS = (".aac", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav")
MEDIA_SUFFIXES = frozenset(_PICTURES + _VIDEOS + _SOUNDS)
"""Endings of pictures, videos and sounds: a word that ends so names a file, even a missing one."""


# ---------------------------------------------------------------- words


def split_words(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Split the words of a command into files and the questions behind them.

    The first word is a file, and so are those behind it that exist as files or look like paths of
    media.

    Raises:
        UserError: a file behind a question, or a question without quotation marks.
    """
    count = 1
    while count < len(words) and names_a_file(words[count]):
        count += 1
    questions = list(words[count:])
    for word in questions:
        if names_a_file(word):
            raise UserError(f"{word}: files stand in front of all questions")
    if len(questions) > 1 and not any(" " in question for question in questions):
        told = " ".join(questions)
        raise UserError(f'a question of several words needs quotation marks: "{told}"')
    return [Path(word) for word in words[:count]], questions


def names_a_file(word: str) -> bool:
    """Whether a word exists as a file, or looks like the path of one: by the ending of a medium, or
    by how it begins."""
    rooted = word.startswith(("/", "./", "../", "~/")) and " " not in word
    if rooted or Path(word).suffix.lower() in MEDIA_SUFFIXES:
        return True
    try:
        return Path(word).is_file()
    except OSError:  # too long for a name
        return False


def check_files(paths: Sequence[Path]) -> "list[VideoInfo | None]":
    """What each file holds; None for sound alone.

    Raises:
        MediaError: a file that cannot be opened, or whose pictures cannot be decoded.
    """
    from vlmcourse.media.opening import has_tracks
    from vlmcourse.media.video import probe_video

    return [probe_video(path) if has_tracks(path)[0] else None for path in paths]


# ---------------------------------------------------------------- watching


def watch(
    model: "VideoLanguageModel",
    paths: Sequence[Path],
    no_sound: bool = False,
    no_picture: bool = False,
    subtitles: "Subtitles | None" = None,
) -> "tuple[Watched, list[str]]":
    """Watch and hear files, and say what of them is not there.

    Args:
        paths: videos with or without sound; pictures; sound alone, for a system that listens.
        no_sound, no_picture: leave out what the system would hear, or see.
        subtitles: of the first file, from `find_subtitles`.

    Returns:
        what was watched, and notes for people.

    Raises:
        UserError: a bad file, or nothing of it is left for this system.
    """
    given = model.processor.given
    if no_picture and given.sounds is None:
        raise UserError("this system does not listen: without the picture nothing is left")
    given = replace(
        given,
        pictures=None if no_picture else given.pictures,
        sounds=None if no_sound else given.sounds,
    )
    watched = model.watch(paths, given, None if subtitles is None else subtitles.cues)
    notes = []
    for path, clip in zip(paths, watched.clip.all, strict=True):
        lost = _not_there(clip, given)
        if len(lost) == sum(name is not None for name in (given.pictures, given.sounds)):
            raise UserError(f"{path}: has no {lost[0]}, and nothing else of it was to be used")
        if lost and not (lost == ["sound track"] and clip.is_picture):
            name = "this file" if len(paths) == 1 else path
            notes.append(f"{name} has no {lost[0]}; the answers come from what there is")
    return watched, notes


def _not_there(clip: "Clip", given: "Given") -> list[str]:
    """What was to be used of a file, but is not in it."""
    wanted = {"pictures": given.pictures, "sound track": given.sounds}
    return [what for what, name in wanted.items() if name and not clip.has_stream(name)]


# ---------------------------------------------------------------- telling


def media_line(path: Path, info: "VideoInfo | None", clip: "Clip", processor: "Processor") -> str:
    """One line for people on a file: its size, how it is read, and the tokens that it costs.

    Args:
        info: what the file holds, from `check_files`.
        clip: what the system takes of it.
    """
    from vlmcourse.conversation import Places

    tokens = sum(p.count for p in processor.expand("video", clip) if isinstance(p, Places))
    if info is None or clip.frames is None:
        return f"{path}: {tokens} tokens"
    height, width = clip.frames.shape[1:3]
    what, read = "picture", f"{width} x {height}"
    if not clip.is_picture:
        what, read = f"{info.duration_s:.1f} s", f"{clip.num_frames} frames of {read}"
    return f"{path}: {what} of {info.width} x {info.height} pixels, read as {read}: {tokens} tokens"


def unlike_the_world(paths: Sequence[Path], clip: "Clip") -> list[str]:
    """A note on files that are not of the procedural world, for a system that saw nothing else, if
    there are any."""
    strange = [
        str(path)
        for path, one in zip(paths, clip.all, strict=True)
        if one.frames is not None and not looks_like_the_world(one.frames)
    ]
    which = "" if len(paths) == 1 else f"{', '.join(strange)}: "
    told = (
        f"{which}this small system has only ever seen the procedural world (coloured shapes on a "
        "dark ground); about other videos it can but guess in that world's words"
    )
    return [told] if strange else []


def looks_like_the_world(frames: Any) -> bool:
    """Guess whether frames are of the procedural world: things on a dark ground that stands still.

    Args:
        frames: `[T, H, W, 3]` uint8.
    """
    import torch

    frames = torch.as_tensor(frames).to(torch.int16)
    dark = (frames < 48).all(-1)  # [T, H, W]
    still = (frames - frames[:1]).abs().amax(-1) <= 16
    return bool((dark & still).float().mean() > 0.5)
