"""The annotation files that MA-LMM trains and is measured on: LVU, Breakfast, COIN, questions,
captions.

All are JSON objects by sample. A sample names a video, for LVU and YouCook2 a window of it too,
and has one short answer. The forms are

    lvu/TASK                  director, genre, relationship, scene, way_speaking, writer or year
    breakfast                 one of ten breakfasts
    coin/train, coin/val      one of 180 activities; also COIN's own file, with its class names
    qa                        MSRVTT-QA, MSVD-QA, ActivityNet-QA
    captions                  MSRVTT, MSVD
    youcook2                  captions of windows

Official: boheumd/MA-LMM@ffe9fa9:lavis/datasets/datasets/*.py.
Differs: an entry that lacks something is told with its name; the official code skips some and fails
at others. The official classes of COIN always read "val" for a test, as "coin/val" does.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmcourse.errors import UserError
from vlmcourse.media.film import Window, with_window
from vlmcourse.media.sampling import ma_lmm_windows
from vlmcourse.training.instruction_data import SHOWN, SUFFIXES, InstructionDataError, Sample

log = logging.getLogger(__name__)

LVU_TASKS = ("director", "genre", "relationship", "scene", "way_speaking", "writer", "year")
LVU_HISTORY_S, LVU_STRIDE_S = 100, 20
BROKEN = {
    "breakfast": (*("P28-cam01-P28_cereals", "P27-stereo-P27_milk_ch0", "P28-cam02-P28_cereals"),),
    "coin": ("AfiVmAjfTNs", "cjwtcDKTQM8"),
}
"""Videos that the official code leaves out."""
BREAKFAST_QUESTION = "what type of breakfast is shown in the video?"
COIN_QUESTION = "what is the activity in the video?"
FORMS = (*(f"lvu/{task}" for task in LVU_TASKS), "breakfast", "coin/train", "coin/val", "qa",
         "captions", "youcook2")  # fmt: skip


@dataclass(frozen=True)
class LabelledClip:
    """One sample of such a file.

    Attributes:
        id: of the sample; that of an LVU window ends in its first second, as in `ID_20`.
        video: name of the video, without folder and ending.
        question: what is asked; "" where a caption is wanted.
        answer: "" where it is not known.
        window: first and last second, None for the whole video.
    """

    id: str
    video: str
    question: str
    answer: str
    window: Window | None = None


@dataclass(frozen=True)
class LabelledSet:
    """A file that was read.

    Attributes:
        form: of `FORMS`.
        clips: the samples, in the order of the file.
        left_out: id -> reason, of entries that the official code leaves out, too.
    """

    form: str
    clips: list[LabelledClip]
    left_out: dict[str, str]


def read_labelled(path: str | Path, form: str) -> LabelledSet:
    """Read an annotation file.

    Raises:
        UserError: an unknown form.
        InstructionDataError: the file cannot be read, entries are malformed, or none is left.
    """
    if form not in FORMS:
        raise UserError(f"unknown form {form!r} of annotations. Known: {', '.join(FORMS)}")
    name, _, part = form.partition("/")
    entries, clips, left_out, problems = _entries(path), [], {}, []
    for number, (key, entry) in enumerate(entries.items()):
        try:
            if not isinstance(entry, dict):
                raise _EntryError("no object")
            found = _READERS[name](key, entry, part)
        except _EntryError as error:
            problems.append((number, f"{key}: {error}"))
            continue
        if isinstance(found, str):
            left_out[key] = found
        else:
            clips += found
    if problems:
        told = "; ".join(reason for _, reason in problems[:SHOWN])
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise InstructionDataError(
            path,
            f"{len(problems)} of {len(entries)} entries are malformed ({told}{more})",
            problems,
        )
    if not clips:
        raise InstructionDataError(path, f"no sample of {form}")
    return LabelledSet(form, clips, left_out)


class _EntryError(Exception):
    """One entry is malformed; the text says how."""


def _entries(path: str | Path) -> dict[str, Any]:
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InstructionDataError(path, error.strerror or str(error)) from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise InstructionDataError(path, f"not JSON ({error})") from error
    if isinstance(entries, dict) and isinstance(entries.get("database"), dict):
        entries = entries["database"]
    if not isinstance(entries, dict) or not entries:
        raise InstructionDataError(path, "is no object of samples by name")
    return entries


def _value(entry: Mapping[str, Any], name: str, *kinds: type) -> Any:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise _EntryError(f"{name!r} is {'missing' if value is None else repr(value)}")
    if isinstance(value, str) and not value.strip():
        raise _EntryError(f"{name!r} is empty")
    return value.strip() if isinstance(value, str) else value


def _lvu(key: str, entry: dict, task: str) -> list[LabelledClip] | str:
    if task not in entry:
        return f"has no {task}"
    label, question = _value(entry, task, str), f"what is the {task} of the movie?"
    windows = ma_lmm_windows(_value(entry, "duration", int), LVU_HISTORY_S, LVU_STRIDE_S)
    return [LabelledClip(f"{key}_{w[0]}", key, question, label, w) for w in windows]


def _breakfast(key: str, entry: dict, _: str) -> list[LabelledClip] | str:
    if key in BROKEN["breakfast"]:
        return "left out officially, too"
    return [LabelledClip(key, key, BREAKFAST_QUESTION, _value(entry, "class_name", str))]


def _coin(key: str, entry: dict, part: str) -> list[LabelledClip] | str:
    if key in BROKEN["coin"]:
        return "left out officially, too"
    subset = {"training": "train", "testing": "val"}.get(entry.get("subset"), entry.get("subset"))
    if subset != part:
        return f"is of {subset}"
    if "class" in entry:
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", _value(entry, "class", str))
        return [LabelledClip(key, key, COIN_QUESTION, " ".join(words).lower())]
    if "num_frames_actual" not in entry:
        return "has no num_frames_actual"
    return [LabelledClip(key, key, COIN_QUESTION, _value(entry, "target", str))]


def _qa(key: str, entry: dict, _: str) -> list[LabelledClip]:
    question, answer = _value(entry, "question", str), _value(entry, "answer", str)
    return [LabelledClip(key, _value(entry, "video", str), question, answer)]


def _captions(key: str, entry: dict, _: str) -> list[LabelledClip]:
    return [LabelledClip(key, _value(entry, "video", str), "", entry.get("caption") or "")]


def _youcook2(key: str, entry: dict, _: str) -> list[LabelledClip]:
    start, end, length = (
        _value(entry, n, int, float) for n in ("start_time", "end_time", "duration")
    )
    window = (max(0, start), min(length, end))
    return [LabelledClip(key, _value(entry, "video", str), "", entry.get("caption") or "", window)]


_READERS: dict[str, Callable[[str, dict, str], list[LabelledClip] | str]] = {
    "lvu": _lvu, "breakfast": _breakfast, "coin": _coin, "qa": _qa, "captions": _captions,
    "youcook2": _youcook2,
}  # fmt: skip


# ---------------------------------------------------------------- videos


def find_videos(clips: list[LabelledClip], folder: str | Path) -> tuple[dict[str, Path], list[str]]:
    """The file of every video (or its folder of pictures), and the names of those not there."""
    found, missing = {}, []
    for name in dict.fromkeys(clip.video for clip in clips):
        stem = Path(folder) / name
        files = [stem.parent / (stem.name + suffix) for suffix in SUFFIXES["<video>"]]
        path = next((path for path in files if path.is_file()), stem if stem.is_dir() else None)
        if path is None:
            missing.append(name)
        else:
            found[name] = path
    return found, missing


def path_of(clip: LabelledClip, found: Mapping[str, Path]) -> Path:
    """The video of a sample, with its window."""
    path = found[clip.video]
    return path if clip.window is None else with_window(path, clip.window)


def labelled_samples(
    path: str | Path, form: str, folder: str | Path, missing: str = "error"
) -> list[Sample]:
    """The samples of a file as training takes them; those without an answer are left out.

    Args:
        missing: "error" or "skip", as in `read_llava_json`.

    Raises:
        InstructionDataError: see `read_labelled`; or videos are missing, or none is left.
    """
    clips = [clip for clip in read_labelled(path, form).clips if clip.answer]
    found, absent = find_videos(clips, folder)
    if absent:
        more = f" and {len(absent) - SHOWN} more" if len(absent) > SHOWN else ""
        told = f"{len(absent)} videos are not in {folder} ({', '.join(absent[:SHOWN])}{more})"
        if missing == "error" or not found:
            raise InstructionDataError(path, told, missing_videos=absent)
        log.warning("%s: left out: %s", path, told)
    return [
        Sample(
            clip.id,
            path_of(clip, found),
            (("user", f"<video>\n{clip.question}".strip()), ("assistant", clip.answer)),
        )
        for clip in clips
        if clip.video in found
    ]
