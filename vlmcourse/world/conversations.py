"""Questions and captions as the JSON that real instruction data uses (LLaVA, Video-ChatGPT).

A file is a list of entries `{"id", "video", "conversations": [{"from": "human", "value": ...},
{"from": "gpt", "value": ...}]}`, with "image" in the place of "video" for pictures; `family`,
`kind` and `evidence` are extra, others ignore them. `vlmcourse.training.instruction_data` reads it
back, and a user's own files too.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from vlmcourse.errors import UserError
from vlmcourse.world.files import write_bytes
from vlmcourse.world.language import CAPTION_REQUESTS, Question, caption, has_words
from vlmcourse.world.story import Story


@dataclass(frozen=True)
class Medium:
    """What the files of a split are.

    Attributes:
        key: names the file in an entry; `<KEY>` stands for it in a question.
        suffix: ending of the files.
        captions: the styles of captions that suit it, each with the evidence it needs.
    """

    key: str
    suffix: str
    captions: dict[str, str]

    @property
    def token(self) -> str:
        return f"<{self.key}>"


VIDEO = Medium(
    "video",
    ".mp4",
    {"short": "picture", "detailed": "motion", "timed": "motion", "heard": "sound"},
)
PICTURE = Medium("image", ".png", {"short": "picture", "detailed": "picture"})
MEDIA = {medium.key: medium for medium in (VIDEO, PICTURE)}


def llava_entry(
    entry_id: str, file: str, question: str, answer: str, medium: Medium = VIDEO, **more: str
) -> dict:
    """Return one question about one file as an entry; the file stands before the question."""
    turns = [
        {"from": "human", "value": f"{medium.token}\n{question}"},
        {"from": "gpt", "value": answer},
    ]
    return {"id": entry_id, medium.key: file, "conversations": turns, **more}


def question_entries(
    ids: list[str], questions: list[list[Question]], medium: Medium = VIDEO
) -> list[dict]:
    """Return one entry per question; clip `x` is `x.mp4`, its questions are `x_00`, `x_01` ..."""
    return [
        llava_entry(
            f"{clip}_{number:02d}",
            f"{clip}{medium.suffix}",
            question.text,
            question.answer,
            medium,
            family=question.family,
            kind=question.kind,
            evidence=question.evidence,
        )
        for clip, asked in zip(ids, questions, strict=True)
        for number, question in enumerate(asked)
    ]


def caption_entries(ids: list[str], stories: list[Story], medium: Medium = VIDEO) -> list[dict]:
    """Return an entry per clip and caption style, for stages that align before they instruct.

    A style gives no entry where it has nothing to tell (times of no events), or seconds to tell
    for which there is no word.
    """
    return [
        llava_entry(
            f"{clip}_{style}",
            f"{clip}{medium.suffix}",
            CAPTION_REQUESTS[style],
            text,
            medium,
            family="caption",
            kind=style,
            evidence=evidence,
        )
        for clip, story in zip(ids, stories, strict=True)
        for style, evidence in medium.captions.items()
        if (text := caption(story, style)) and has_words(text)
    ]


def write_llava_json(path: str | Path, entries: list[dict]) -> None:
    """Write entries as one JSON list, an entry a line; the file appears only when it is whole."""
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    write_bytes(Path(path), f"[\n{lines}\n]\n".encode())


def read_questions(
    path: str | Path, ids: list[str], medium: Medium = VIDEO
) -> list[list[Question]]:
    """Read back what `question_entries` gave -> for each clip its questions.

    Raises:
        UserError: the file is not one that this package wrote for these clips.
    """
    by_clip: dict[str, list[Question]] = {clip: [] for clip in ids}
    try:
        for entry in json.loads(Path(path).read_text(encoding="utf-8")):
            asked, said = (turn["value"] for turn in entry["conversations"])
            text = asked.removeprefix(f"{medium.token}\n")
            question = Question(text, said, entry["kind"], entry["family"])
            by_clip[entry[medium.key].removesuffix(medium.suffix)].append(question)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no question file of the world ({error!r})") from error
    return [by_clip[clip] for clip in ids]
