"""Language data without media: descriptions of stories that no clip tells, and questions of them.

A split is a folder with `texts.json` and `manifest.json`. Descriptions have the forms that the
small world's language model was trained on (event list and storyboard), questions are all kinds it
knows, so that training a system on them shows the model nothing new: it keeps what it can. An entry
holds one question; those of one description follow each other.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vlmcourse.errors import UserError
from vlmcourse.world import language
from vlmcourse.world.conversations import write_llava_json
from vlmcourse.world.splits import SPLITS, first_stories, held_out_rule
from vlmcourse.world.stored import (
    MANIFEST,
    one_maker,
    read_manifest,
    reusable,
    sha256,
    write_manifest,
)
from vlmcourse.world.story import Story, StorySettings, sample_story

TEXTS = "texts.json"
COUNTS = {"train": 2000, "val": 200, "test": 320}
"""Descriptions of each split."""
MEDIUM, EVIDENCE = "text", "text"
FORMS = {"events": language.event_list, "storyboard": language.storyboard}
LONG_S, SHORT_S = 16, 8
CLOCK_S = 64
"""The world has words for the seconds before this one."""


@dataclass(frozen=True)
class TextSettings:
    """How descriptions are drawn; the defaults are those of the language model's own training.

    Attributes:
        questions: at most so many of each description.
        long_share: share of stories of 16 seconds (the others last 8).
        late_share: share of descriptions whose clock starts later than 0.
    """

    questions: int = 12
    long_share: float = 0.2
    late_share: float = 0.3

    def __post_init__(self):
        if self.questions < 1:
            raise UserError(f"questions must be at least 1, not {self.questions}")


@dataclass(frozen=True)
class Telling:
    """One story told in one of `FORMS` from `offset_s` on."""

    story: Story
    form: str
    offset_s: int

    @property
    def text(self) -> str:
        return FORMS[self.form](self.story, self.offset_s)


@dataclass(frozen=True)
class TextSplit:
    """A whole split of language data."""

    name: str
    path: Path
    entries: list[dict]
    manifest: dict

    @property
    def data_checksum(self) -> str:
        """One sha256 for the split, for records."""
        return self.manifest["data_checksum"]


def sample_tellings(split: str, count: int, settings: TextSettings | None = None) -> list[Telling]:
    """Sample the first descriptions of a split; a larger count only adds some at the end.

    Splits differ in seeds, scenes and held-out combinations as those of clips do.

    Raises:
        UserError: an unknown split, or a count that is no positive number.
    """
    settings, rule = settings or TextSettings(), held_out_rule(split)

    def sample(seed: int) -> Story:
        return sample_story(seed, _manner(seed, settings, rule)[0])

    tellings = []
    for story in first_stories(split, count, sample, "text"):
        _, form, offset_s = _manner(story.seed, settings, rule)
        tellings.append(Telling(story, form, offset_s))
    return tellings


def _manner(seed: int, settings: TextSettings, held_out: str) -> tuple[StorySettings, str, int]:
    """Draw how a seed's story is sampled, its form, and when its clock starts."""
    rng = np.random.default_rng([seed, 5])
    form = str(rng.choice(list(FORMS)))
    duration_s = LONG_S if rng.random() < settings.long_share else SHORT_S
    # A long storyboard of many things is longer than any the language model was trained on.
    most = 2 if duration_s == LONG_S and form == "storyboard" else 4
    story = StorySettings(
        duration_s=duration_s,
        things=(2, most),
        sounds=(0, int(rng.choice([2, 4]))),
        held_out=held_out,
    )
    late = rng.random() < settings.late_share
    return story, form, int(rng.integers(CLOCK_S - duration_s)) if late else 0


def text_entries(split: str, tellings: list[Telling], questions: int = 12) -> Iterator[dict]:
    """Yield one entry per question: the description, what is asked, the answer."""
    asked = language.balanced_questions(
        [telling.story for telling in tellings],
        SPLITS.index(split),
        questions,
        [telling.offset_s for telling in tellings],
    )
    for index, (telling, chosen) in enumerate(zip(tellings, asked, strict=True)):
        description = telling.text
        for number, question in enumerate(chosen):
            yield {
                "id": f"{split}_{index:05d}_{number:02d}",
                "conversations": [
                    {"from": "system", "value": description},
                    {"from": "human", "value": question.text},
                    {"from": "gpt", "value": question.answer},
                ],
                "family": question.family,
                "kind": question.kind,
                "evidence": EVIDENCE,
            }


def make_texts(
    root: str | Path,
    split: str,
    count: int | None = None,
    settings: TextSettings | None = None,
    force: bool = False,
) -> TextSplit:
    """Bring `root/split/texts.json` into being and return it; what is there and whole is reused.

    Args:
        count: descriptions; default `COUNTS`.
        force: make it anew whatever is there.

    Raises:
        UserError: without `force`, the folder holds texts of other settings, or more of them.
    """
    settings = settings or TextSettings()
    tellings = sample_tellings(split, COUNTS.get(split, 0) if count is None else count, settings)
    folder = Path(root) / split
    folder.mkdir(parents=True, exist_ok=True)
    with one_maker(folder):
        head = {
            "split": split,
            "count": len(tellings),
            "medium": MEDIUM,
            "settings": asdict(settings),
            "words_made_by": _made_by(),
        }
        known = reusable(folder, head, asdict(TextSettings()), force)
        if not _is_whole(folder, len(tellings), known):
            (folder / MANIFEST).unlink(missing_ok=True)
            write_llava_json(
                folder / TEXTS, list(text_entries(split, tellings, settings.questions))
            )
            seeds = [tellings[0].story.seed, tellings[-1].story.seed]
            write_manifest(folder, head, {TEXTS: sha256(folder / TEXTS)}, seeds)
    return load_texts(folder)


def _is_whole(folder: Path, count: int, known: dict[str, str]) -> bool:
    """Say whether a finished run wrote the file that this run would write."""
    if TEXTS not in known or not (folder / MANIFEST).exists():
        return False
    return sha256(folder / TEXTS) == known[TEXTS] and read_manifest(folder)["count"] == count


def _made_by() -> str:
    """Fingerprint the code that tells and asks."""
    entries = list(text_entries("train", sample_tellings("train", 12)))
    return hashlib.sha256(repr(entries).encode()).hexdigest()


def load_texts(folder: str | Path) -> TextSplit:
    """Read a split that `make_texts` finished.

    Raises:
        UserError: no manifest, or a file that differs from it.
    """
    folder = Path(folder)
    manifest, path = read_manifest(folder), folder / TEXTS
    if TEXTS not in manifest["files"] or sha256(path) != manifest["files"][TEXTS]:
        raise UserError(f"{path}: missing or damaged; run `vlmcourse world --texts` to mend it")
    entries = json.loads(path.read_text(encoding="utf-8"))
    return TextSplit(manifest["split"], path, entries, manifest)
