"""Instruction data from JSON: the world's own files, LLaVA's and Video-ChatGPT's, and a user's.

Two shapes of entry are read, also mixed in one file:

- LLaVA's: `{"id", "video", "conversations": [{"from": "human", "value": ...}, ...]}` with any
  number of turns, and `family`, `kind` and `evidence` where the world wrote it;
- Video-ChatGPT's merged file (VideoInstruct100K): `{"q", "a", "video_id"}`.

Official: mbzuai-oryx/Video-ChatGPT@659e04b:scripts/convert_instruction_json_to_training_format.py
    turns the second shape into the first, with `<video>` after the question in every other entry,
    and names the files of features (`ID.pkl`) as videos.
Differs: both shapes are read as they are; `ID.pkl` and `ID` find the video `ID.mp4` (or another
    ending).
"""

import json
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vlmcourse.errors import UserError

log = logging.getLogger(__name__)

VIDEO_TOKEN = "<video>"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".gif")
SHOWN = 8
"""Problems that an error message spells out; the others are counted."""


@dataclass(frozen=True)
class Sample:
    """One conversation about one video.

    `turns` alternate between ("user", text) and ("assistant", text). The first holds `<video>`
    exactly once, where the video stands; no other turn does.
    """

    id: str
    video: Path
    turns: tuple[tuple[str, str], ...]
    family: str | None = None
    evidence: str | None = None
    kind: str | None = None

    @property
    def plain_turns(self) -> tuple[tuple[str, str], ...]:
        """Return the turns without `<video>` and the line break beside it."""
        return tuple((role, text.replace(VIDEO_TOKEN, "").strip()) for role, text in self.turns)


class InstructionDataError(UserError):
    """A file of instruction data cannot be used as it is.

    Attributes:
        problems: (index of the entry from 0, reason), in order.
        missing_videos: names of videos that no file was found for, sorted.
    """

    def __init__(self, path, reason, problems=(), missing_videos=()):
        super().__init__(f"{path}: {reason}")
        self.problems, self.missing_videos = list(problems), list(missing_videos)


def read_llava_json(
    path: str | Path, video_folder: str | Path, missing: str = "error"
) -> list[Sample]:
    """Read a file of conversations about videos that lie in a folder.

    Every entry is looked at before an error is raised, so that one run tells all that is wrong.

    Args:
        missing: "error", or "skip" to leave out entries whose video is not there (videos of public
            sets vanish) with a warning that counts and names them.

    Returns:
        at least one sample, in the order of the file.

    Raises:
        InstructionDataError: the file cannot be read; an entry is malformed; a video is missing and
            `missing` is "error"; or no entry is left.
    """
    if missing not in ("error", "skip"):
        raise ValueError(f"missing must be 'error' or 'skip', not {missing!r}")
    folder = Path(video_folder)
    samples, problems, absent, skipped = [], [], set(), 0
    entries = _read_entries(path)
    find_video = lru_cache(maxsize=None)(lambda name: _find_video(folder, name))
    for index, entry in enumerate(entries):
        try:
            fields = _fields(index, entry)
            video = find_video(fields.pop("video"))
        except _EntryError as error:
            problems.append((index, str(error)))
        except _NoVideo as error:
            absent.add(str(error))
            skipped += 1
        else:
            samples.append(Sample(video=video, **{"id": str(index)} | fields))
    _judge(path, folder, entries, samples, problems, sorted(absent), skipped, missing)
    return samples


class _EntryError(Exception):
    """One entry is malformed; the text says how."""


class _NoVideo(Exception):
    """One entry's video is not there; the text is its name."""


def _read_entries(path: str | Path) -> list:
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InstructionDataError(path, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise InstructionDataError(path, "not a text file in UTF-8") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InstructionDataError(path, f"not JSON: {error.msg} ({where})") from error
    if not isinstance(entries, list):
        raise InstructionDataError(path, f"holds {_kind(entries)}, not a list of entries")
    if not entries:
        raise InstructionDataError(path, "holds no entries")
    return entries


def _judge(path, folder, entries, samples, problems, absent, skipped, missing) -> None:
    """Raise or warn about what was found wrong."""
    complaints = []
    if problems:
        told = "; ".join(f"entry {index}: {reason}" for index, reason in problems[:SHOWN])
        complaints.append(
            f"{len(problems)} of {len(entries)} entries are malformed ({told}{_more(problems)})"
        )
    if absent:
        told = ", ".join(absent[:SHOWN])
        complaints.append(
            f"{len(absent)} videos of {skipped} entries are not in {folder} ({told}{_more(absent)})"
        )
    if problems or (absent and (missing == "error" or not samples)):
        raise InstructionDataError(path, " and ".join(complaints), problems, absent)
    if absent:
        log.warning("%s: left out: %s", path, complaints[0])


def _more(things: list) -> str:
    return f" and {len(things) - SHOWN} more" if len(things) > SHOWN else ""


def _kind(value) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    return "null" if value is None else names.get(type(value), "a number")


def _fields(index: int, entry) -> dict:
    """Check one entry -> the fields of `Sample`, with `video` still a name."""
    if not isinstance(entry, dict):
        raise _EntryError(f"{_kind(entry)} instead of an object")
    if "conversations" in entry:
        turns, name = _turns(entry["conversations"]), entry.get("video")
        if name is None and "image" in entry:
            raise _EntryError("about a picture ('image'), not about a video")
    elif {"q", "a", "video_id"} <= entry.keys():
        asked, said = _text(entry["q"], "'q'"), _text(entry["a"], "'a'")
        asked = f"{VIDEO_TOKEN}\n{asked}" if index % 2 else f"{asked}\n{VIDEO_TOKEN}"
        turns = [("user", asked), ("assistant", said)]
        name = entry["video_id"]
    else:
        raise _EntryError("neither 'conversations' nor 'q', 'a' and 'video_id'")
    fields = {"video": _text(name, "'video'"), "turns": tuple(_place_video(turns))}
    if entry.get("id") is not None:
        fields["id"] = str(entry["id"])
    for extra in ("family", "evidence", "kind"):
        if entry.get(extra) is not None:
            fields[extra] = _text(entry[extra], f"'{extra}'")
    return fields


def _text(value, what: str) -> str:
    if value is None:
        raise _EntryError(f"{what} is missing")
    if not isinstance(value, str):
        raise _EntryError(f"{what} is {_kind(value)}, not a text")
    if not value.strip():
        raise _EntryError(f"{what} is empty")
    return value.strip()


def _turns(conversation) -> list[tuple[str, str]]:
    """Check the turns of an entry in LLaVA's shape -> (role, text) each.

    A conversation that starts with the assistant loses its first turn, as in the official code.
    """
    if not isinstance(conversation, list) or not conversation:
        raise _EntryError("'conversations' is no list of turns")
    turns = []
    for number, turn in enumerate(conversation):
        if not isinstance(turn, dict):
            raise _EntryError(f"turn {number} is {_kind(turn)} instead of an object")
        speaker = turn.get("from")
        role = ROLES.get(speaker) if isinstance(speaker, str) else None
        if role is None:
            raise _EntryError(f"turn {number} is from {speaker!r}, not from 'human' or 'gpt'")
        turns.append((role, _text(turn.get("value"), f"'value' of turn {number}")))
    turns = turns[1:] if turns[0][0] == "assistant" else turns
    if not turns or [role for role, _ in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise _EntryError("'human' and 'gpt' do not take turns, 'human' first and 'gpt' last")
    return turns


def _place_video(turns: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Make sure that `<video>` (some files say `<image>`) stands once, in the first user turn."""
    turns = [(role, text.replace("<image>", VIDEO_TOKEN)) for role, text in turns]
    counts = [text.count(VIDEO_TOKEN) for _, text in turns]
    if counts[0] > 1 or any(counts[1:]):
        raise _EntryError(f"{VIDEO_TOKEN} must stand once, in the first question, or nowhere")
    text = turns[0][1]
    if text == VIDEO_TOKEN:
        raise _EntryError("the first question is empty")
    first = text if counts[0] else f"{VIDEO_TOKEN}\n{text}"
    return [("user", first), *turns[1:]]


def _find_video(folder: Path, name: str) -> Path:
    """Return the file of a video name, which may lack its ending or name a feature file."""
    path = folder / name
    stem = path.with_suffix("") if path.suffix in (".pkl", ".npy", ".pt") else path
    candidates = [path] if path.suffix.lower() in SUFFIXES else []
    candidates += [stem.parent / (stem.name + suffix) for suffix in SUFFIXES]
    try:
        return next(candidate for candidate in candidates if candidate.is_file())
    except (StopIteration, OSError) as error:  # OSError: a name that no file can have
        raise _NoVideo(name) from error
