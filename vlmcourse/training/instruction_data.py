"""Conversations and captions from files: the world's own, those of public sets, and a user's.

These shapes of entry are read, also mixed in one JSON list:

- LLaVA's: `{"id", "video", "conversations": [{"from": "human", "value": ...}, ...]}` with any
  number of turns, and `family`, `kind` and `evidence` where the world wrote it; with "image" in the
  place of "video" it is about a picture;
- Video-ChatGPT's merged file (VideoInstruct100K): `{"q", "a", "video_id"}`;
- VideoChat's: `{"video", "QA": [{"q", "a"}, ...]}`;
- LLaVA's with several pictures and videos (several_media.py);
- MiniGPT-4's captions (`filter_cap.json`): an object whose "annotations" are
  `{"image_id", "caption"}`, the picture being `ID.jpg`.

`read_captions` reads CSVs of captions as WebVid has them. A caption becomes a conversation whose
question is the bare video or picture. `read_texts` reads conversations without media: LLaVA's shape
without "video" and "image", as published sets of instructions have it; if the first turn is from
"system", it is a description that stands where a video would.

Official: mbzuai-oryx/Video-ChatGPT@659e04b:scripts/convert_instruction_json_to_training_format.py
    turns the second shape into the first, with `<video>` after the question in every other entry,
    and names the files of features (`ID.pkl`) as videos; the last two shapes and the CSVs are read
    by DAMO-NLP-SG/Video-LLaMA@64888c0:video_llama/datasets/datasets/.
Differs: all shapes are read as they are; `ID.pkl` and `ID` find the video `ID.mp4` (or another
    ending). Files that cannot be found are told, not replaced by others at random.
"""

import csv
import json
import logging
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vlmcourse.conversation import MARKERS
from vlmcourse.errors import UserError
from vlmcourse.training.several_media import lists_media, named_media

log = logging.getLogger(__name__)

VIDEO_TOKEN, IMAGE_TOKEN = "<video>", "<image>"
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
SUFFIXES = {
    VIDEO_TOKEN: (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".gif"),
    IMAGE_TOKEN: (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"),
}
"""Endings of files by what stands for them in a question."""
SHOWN = 8
"""Problems that an error message spells out; the others are counted."""


@dataclass(frozen=True)
class Sample:
    """One conversation about one video or picture, about several, or about none.

    `turns` alternate between ("user", text) and ("assistant", text). The first holds `<video>` (or
    `<image>`, for a picture) exactly once, where the video stands; no other turn does. `video` is
    the file, of a picture too; None for language data, whose turns hold no such marker and whose
    `description` (if any) takes the video's place. `others` are further files; then the user's
    turns hold as many markers as there are files, in their order. `form` and `max_length` are those
    of the source (sources.py).
    """

    id: str
    video: Path | None
    turns: tuple[tuple[str, str], ...]
    family: str | None = None
    evidence: str | None = None
    kind: str | None = None
    form: str = "conversation"
    max_length: int | None = None
    description: str = ""
    others: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, in the order of their markers."""
        return () if self.video is None else (self.video, *self.others)

    @property
    def medium(self) -> str:
        """Return "picture", "video" or "text"."""
        if self.video is None:
            return "text"
        return "picture" if IMAGE_TOKEN in self.turns[0][1] else "video"

    @property
    def shared(self) -> Hashable:
        """What samples have in common that may stand in one row: the file, the files, or the
        description. A text without either stands alone."""
        if self.others:
            return self.files
        return self.video or self.description or self

    @property
    def plain_turns(self) -> tuple[tuple[str, str], ...]:
        """Return the turns without `<video>` or `<image>` and the line break beside it."""
        token = IMAGE_TOKEN if self.medium == "picture" else VIDEO_TOKEN
        return tuple((role, text.replace(token, "").strip()) for role, text in self.turns)


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
    """Read a JSON file of conversations about videos or pictures that lie in a folder.

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
    return _samples(path, _read_entries(path), Path(video_folder), missing)


def read_captions(
    path: str | Path, video_folder: str | Path, missing: str = "error"
) -> list[Sample]:
    """Read a CSV of captions in WebVid's form: columns `videoid` and `name`, perhaps `page_dir`.

    The file of a row is `PAGE_DIR/VIDEOID.mp4` (or another ending) in `video_folder`. Arguments,
    result and errors are those of `read_llava_json`; rows count from 0 behind the header.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            lacking = {"videoid", "name"} - set(rows.fieldnames or ())
            if lacking:
                raise InstructionDataError(path, f"lacks the columns {', '.join(sorted(lacking))}")
            entries = [_caption_entry(row) for row in rows]
    except OSError as error:
        raise InstructionDataError(path, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise InstructionDataError(path, "not a text file in UTF-8") from error
    except csv.Error as error:
        raise InstructionDataError(path, f"not a CSV: {error}") from error
    if not entries:
        raise InstructionDataError(path, "holds no entries")
    return _samples(path, entries, Path(video_folder), missing)


def read_texts(path: str | Path) -> list[Sample]:
    """Read a JSON file of conversations without media.

    Returns:
        at least one sample, in the order of the file.

    Raises:
        InstructionDataError: the file cannot be read; or an entry is malformed, names a video or a
            picture, or has a marker of one in its text.
    """
    return _samples(path, _read_entries(path), None)


def _caption_entry(row: dict[str, str | None]) -> dict:
    name = row["videoid"]
    if name and row.get("page_dir"):
        name = f"{row['page_dir']}/{name}"
    return {"video": name, "caption": row["name"], "id": row["videoid"]}


def _samples(
    path: str | Path, entries: list, folder: Path | None, missing: str = "error"
) -> list[Sample]:
    """All entries as samples; what is wrong with any of them is told at once. Without a folder they
    are texts."""
    if missing not in ("error", "skip"):
        raise ValueError(f"missing must be 'error' or 'skip', not {missing!r}")
    samples, problems, absent, skipped = [], [], set(), 0
    find_video = lru_cache(maxsize=None)(lambda name, token: _find_video(folder, name, token))
    for index, entry in enumerate(entries):
        try:
            fields = _text_fields(entry) if folder is None else _fields(index, entry)
            token = IMAGE_TOKEN if IMAGE_TOKEN in fields["turns"][0][1] else VIDEO_TOKEN
            name = fields.pop("video", None)
            named = fields.pop("media", [] if name is None else [(token, name)])
            files = [find_video(name, token) for token, name in named]
        except _EntryError as error:
            problems.append((index, str(error)))
        except _NoVideo as error:
            absent.add(str(error))
            skipped += 1
        else:
            video, others = (files[0], tuple(files[1:])) if files else (None, ())
            samples.append(Sample(video=video, others=others, **{"id": str(index)} | fields))
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
    if isinstance(entries, dict) and isinstance(entries.get("annotations"), list):
        entries = entries["annotations"]
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
    of_picture = entry.get("video") is None and ("image" in entry or "image_id" in entry)
    token, key = (IMAGE_TOKEN, "image") if of_picture else (VIDEO_TOKEN, "video")
    name = entry.get(key)
    if lists_media(entry):
        return _several_fields(entry)
    if "conversations" in entry:
        turns = _place(_turns(entry["conversations"]), token)
    elif {"q", "a", "video_id"} <= entry.keys():
        asked, name = _text(entry["q"], "'q'"), entry["video_id"]
        asked = f"{VIDEO_TOKEN}\n{asked}" if index % 2 else f"{asked}\n{VIDEO_TOKEN}"
        turns = _place([("user", asked), ("assistant", _text(entry["a"], "'a'"))], token)
    elif "QA" in entry:
        turns = _place(_rounds(entry["QA"]), token)
    elif "caption" in entry:
        turns = [("user", token), ("assistant", _text(entry["caption"], "'caption'"))]
        if name is None and isinstance(entry.get("image_id"), (str, int)):
            name, key = str(entry["image_id"]), "image_id"
    else:
        raise _EntryError(
            "neither 'conversations' nor 'q', 'a' and 'video_id', nor 'QA', nor 'caption'"
        )
    return {"video": _text(name, f"'{key}'"), "turns": tuple(turns), **_extras(entry)}


def _several_fields(entry: dict) -> dict:
    """Check one entry that lists its pictures and videos."""
    try:
        media, turns = named_media(entry, _turns(entry.get("conversations")))
    except ValueError as error:
        raise _EntryError(str(error)) from error
    turns = _place(turns, media[0][0]) if len(media) == 1 else turns
    return {"media": media, "turns": tuple(turns), **_extras(entry)}


def _text_fields(entry) -> dict:
    """Check one entry without media -> the fields of `Sample`."""
    if not isinstance(entry, dict):
        raise _EntryError(f"{_kind(entry)} instead of an object")
    if media := [key for key in ("video", "image", "video_id", "image_id") if entry.get(key)]:
        raise _EntryError(f"'{media[0]}' has no place in language data")
    talk, description = entry.get("conversations"), ""
    told = isinstance(talk, list) and talk and isinstance(talk[0], dict)
    if told and talk[0].get("from") == "system":
        description, talk = _text(talk[0].get("value"), "'value' of the system text"), talk[1:]
    turns = _turns(talk)
    for marker in MARKERS:
        if any(marker in text for _, text in turns):
            raise _EntryError(f"{marker} stands in a text without media")
    return {"turns": tuple(turns), "description": description, **_extras(entry)}


def _extras(entry: dict) -> dict[str, str]:
    """What an entry tells of itself."""
    extras = {"id": str(entry["id"])} if entry.get("id") is not None else {}
    for name in ("family", "evidence", "kind"):
        if entry.get(name) is not None:
            extras[name] = _text(entry[name], f"'{name}'")
    return extras


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


def _rounds(rounds) -> list[tuple[str, str]]:
    """Turns of an entry in VideoChat's shape."""
    if not isinstance(rounds, list) or not rounds:
        raise _EntryError("'QA' is no list of rounds")
    turns = []
    for number, one in enumerate(rounds):
        if not isinstance(one, dict):
            raise _EntryError(f"round {number} is {_kind(one)} instead of an object")
        turns.append(("user", _text(one.get("q"), f"'q' of round {number}")))
        turns.append(("assistant", _text(one.get("a"), f"'a' of round {number}")))
    return turns


def _place(turns: list[tuple[str, str]], token: str) -> list[tuple[str, str]]:
    """Make sure that `<video>` or `<image>` (some files say the other) stands once, in the first
    user turn."""
    other = VIDEO_TOKEN if token == IMAGE_TOKEN else IMAGE_TOKEN
    turns = [(role, text.replace(other, token)) for role, text in turns]
    counts = [text.count(token) for _, text in turns]
    if counts[0] > 1 or any(counts[1:]):
        raise _EntryError(f"{token} must stand once, in the first question, or nowhere")
    text = turns[0][1]
    if text == token:
        raise _EntryError("the first question is empty")
    first = text if counts[0] else f"{token}\n{text}"
    return [("user", first), *turns[1:]]


def _find_video(folder: Path, name: str, token: str) -> Path:
    """Return the file of a video or picture name, which may lack its ending or name a feature
    file."""
    path, suffixes = folder / name, SUFFIXES[token]
    stem = path.with_suffix("") if path.suffix in (".pkl", ".npy", ".pt") else path
    candidates = [path] if path.suffix.lower() in suffixes else []
    candidates += [stem.parent / (stem.name + suffix) for suffix in suffixes]
    try:
        return next(candidate for candidate in candidates if candidate.is_file())
    except (StopIteration, OSError) as error:  # OSError: a name that no file can have
        raise _NoVideo(name) from error
