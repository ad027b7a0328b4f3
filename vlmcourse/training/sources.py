"""Where training data comes from: a file, a folder of its videos, and what of it is used."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from vlmcourse.errors import UserError
from vlmcourse.systems.stages import TOLD_IF_SET
from vlmcourse.training.instruction_data import (
    Sample,
    read_captions,
    read_llava_json,
    read_texts,
)
from vlmcourse.training.labelled_sets import labelled_samples

ROOT = Path(__file__).resolve().parents[2]
"""Relative paths that do not exist from here are looked for in the checkout, as notebooks need
it."""
FORMS = ("conversation", "caption", "prompted_caption", "text")


@dataclass(frozen=True)
class Source:
    """Conversations or captions in one file, about videos or pictures in one folder; or texts.

    Attributes:
        json: LLaVA's, Video-ChatGPT's, VideoChat's or MiniGPT-4's form, or a CSV in WebVid's form
            (instruction_data.py).
        videos: folder of the files; None means `clips/` beside the JSON.
        evidence, kinds, families: keep only questions that need one of these ("picture", "motion",
            ...), are of one of these kinds ("when", ...) or families, where the file tells; None
            keeps all.
        missing: "error", or "skip" to leave out (with a warning that names them) videos that are
            gone.
        limit: use only the first so many videos (descriptions, of texts).
        weight: where sources have weights, every batch is drawn from one of them, with this chance
            relative to the others; None for all mixes the samples of all sources in every batch.
        form: "conversation"; or "caption", which takes the first answer of each entry as a caption
            that stands right behind its video; or "prompted_caption", with one of the system's own
            requests in front (`Processor.caption_row`); or "text", conversations without media, a
            text from "system" in the place of a video (`Processor.text_row`).
        clean_captions: simplify captions as `media.captions.clean_caption` does.
        max_length: instead of the stage's.
        annotation: the file is none of these, but one of MA-LMM's: "lvu/scene", "breakfast",
            "coin/train", "qa", "captions" or another of `labelled_sets.FORMS`.
    """

    json: Path
    videos: Path | None = None
    evidence: tuple[str, ...] | None = None
    missing: str = "error"
    limit: int | None = None
    weight: float | None = None
    form: str = "conversation"
    clean_captions: bool = False
    max_length: int | None = None
    kinds: tuple[str, ...] | None = field(default=None, metadata=TOLD_IF_SET)
    families: tuple[str, ...] | None = field(default=None, metadata=TOLD_IF_SET)
    annotation: str | None = field(default=None, metadata=TOLD_IF_SET)

    def samples(self) -> list[Sample]:
        """Read the file. Raises InstructionDataError or UserError."""
        path = located(self.json)
        if self.form not in FORMS:
            raise UserError(f"{path}: unknown form {self.form!r}; known: {', '.join(FORMS)}")
        samples, chosen = self._read(path), []
        for wanted, what in (
            (self.evidence, "evidence"),
            (self.kinds, "kind"),
            (self.families, "family"),
        ):
            if wanted is not None:
                samples = [s for s in samples if getattr(s, what) in (None, *wanted)]
                chosen.append(f"{what} {' or '.join(wanted)}")
        if self.limit is not None:
            kept = set(list(dict.fromkeys(s.shared for s in samples))[: self.limit])
            samples = [s for s in samples if s.shared in kept]
        if not samples:
            raise UserError(f"{path}: no conversation is left ({'; '.join(chosen) or 'limit 0'})")
        return [self._formed(sample) for sample in samples]

    def _read(self, path: Path) -> list[Sample]:
        if self.form == "text":
            if self.videos is not None:
                raise UserError(f"{path}: form 'text' has no videos")
            return read_texts(path)
        folder = path.parent / "clips" if self.videos is None else located(self.videos)
        if self.annotation is not None:
            return labelled_samples(path, self.annotation, folder, self.missing)
        read = read_captions if path.suffix.lower() == ".csv" else read_llava_json
        return read(path, folder, self.missing)

    def _formed(self, sample: Sample) -> Sample:
        """The sample with the form of this source."""
        if self.form == "conversation" and self.max_length is None and not self.clean_captions:
            return sample
        turns = sample.turns if self.form in ("conversation", "text") else sample.turns[:2]
        if self.clean_captions:
            from vlmcourse.media.captions import clean_caption

            turns = tuple(
                (role, clean_caption(text) if role == "assistant" else text) for role, text in turns
            )
        return replace(sample, turns=turns, form=self.form, max_length=self.max_length)

    def checksum(self) -> str:
        """One sha256 for what is read: the world's own where there is a manifest, else of the
        file."""
        path = located(self.json)
        manifest = path.parent / "manifest.json"
        if manifest.is_file():
            told = json.loads(manifest.read_text(encoding="utf-8"))
            if path.name in told.get("files", {}):
                return told["data_checksum"]
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from error


def located(path: str | Path) -> Path:
    """A path as given, or the same below the checkout where only that exists."""
    path = Path(path)
    return ROOT / path if not path.exists() and (ROOT / path).exists() else path
