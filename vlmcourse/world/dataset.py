"""Splits of the world on disk: made in parallel, resumed after a kill, checked against checksums.

A split is a folder: `clips/ID.mp4` and `clips/ID.srt` (or `clips/ID.png` where the clips are
pictures), `stories.jsonl` (what happens, clip by clip), `conversations.json` (questions),
`captions.json`, and `manifest.json` with the settings and a sha256 of every file. The manifest is
written last: a folder with a manifest is whole. Until then `progress.jsonl` lists what is finished.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from vlmcourse.errors import UserError
from vlmcourse.world.conversations import (
    MEDIA,
    caption_entries,
    question_entries,
    read_questions,
    write_llava_json,
)
from vlmcourse.world.files import PART, write_bytes
from vlmcourse.world.films import SplitSettings
from vlmcourse.world.language import Question
from vlmcourse.world.pictures import PictureSettings
from vlmcourse.world.splits import SPLITS
from vlmcourse.world.stored import (
    MANIFEST,
    PROGRESS,
    one_maker,
    read_manifest,
    reusable,
    sha256,
    verify_split,
    write_manifest,
)
from vlmcourse.world.story import Story
from vlmcourse.world.workers import work_off

__all__ = [
    "PictureSettings",
    "SplitSettings",
    "WorldSplit",
    "load_split",
    "make_split",
    "verify_split",
]

STORIES, CONVERSATIONS, CAPTIONS = TEXTS = ("stories.jsonl", "conversations.json", "captions.json")


@dataclass(frozen=True)
class WorldSplit:
    """A whole split: clip `i` (a film or a picture) shows `stories[i]`, is asked `questions[i]`."""

    name: str
    folder: Path
    ids: list[str]
    stories: list[Story]
    questions: list[list[Question]]
    clips: list[Path]
    manifest: dict

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sizes(self) -> list[tuple[int, int]] | None:
        """Width and height of every picture of a split of many sizes; else None."""
        told = self.manifest.get("sizes")
        return told and [tuple(map(int, told[clip].split("x"))) for clip in self.ids]

    @property
    def data_checksum(self) -> str:
        """One sha256 for all files of the split, for records."""
        return self.manifest["data_checksum"]


# ---------------------------------------------------------------- making


def make_split(
    root: str | Path,
    split: str,
    count: int | None = None,
    settings: SplitSettings | PictureSettings | None = None,
    workers: int | None = None,
    force: bool = False,
    progress: bool = True,
) -> WorldSplit:
    """Bring `root/split` into being and return it; what is there and undamaged is reused.

    It may be killed at any moment and run again. Clips that are missing or whose checksum is wrong
    are made again, and all of them when the world's own code draws or sounds differently.
    A second maker of the same folder waits for the first.

    Args:
        count: clips; default `settings.counts`. A larger count than before keeps the earlier clips.
        settings: of films, or of pictures.
        workers: processes; default one per core.
        force: throw away what is there.

    Raises:
        UserError: without `force`, the folder holds clips of other settings, or more of them.
    """
    settings = settings or SplitSettings()
    stories = settings.sample(split, settings.counts.get(split, 0) if count is None else count)
    ids = clip_ids(split, len(stories))
    folder = Path(root) / split
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    with one_maker(folder):
        head = _head(split, ids, stories, settings)
        known = reusable(folder, head, _plain(type(settings)()), force)
        kept, jobs = {}, []
        for clip, story in zip(ids, stories, strict=True):
            paths = settings.files(clip, story)
            if all(path in known and sha256(folder / path) == known[path] for path in paths):
                kept |= {path: known[path] for path in paths}
            else:
                jobs.append((clip, story))
        told = all(sha256(folder / x) == known.get(x, "") for x in TEXTS)
        if jobs or not told or not (folder / MANIFEST).exists():
            _keep(folder, kept, head)
            files = kept | _make_clips(folder, jobs, len(ids), settings, workers, progress)
            _finish(folder, ids, stories, files, head, settings)
    return load_split(folder)


def clip_ids(split: str, count: int) -> list[str]:
    """Return the names of a split's clips, for example `train_00042`."""
    return [f"{split}_{index:05d}" for index in range(count)]


def _head(split: str, ids: list[str], stories: list[Story], settings) -> dict:
    """Return what a folder says of itself; films, which came first, do not name their medium."""
    medium = {} if settings.medium.key == "video" else {"medium": settings.medium.key}
    told = {"split": split, "count": len(ids), **medium, "settings": _told(settings)}
    if settings.sizes is not None:
        sizes = ["x".join(map(str, settings.size_of(story))) for story in stories]
        told["sizes"] = dict(zip(ids, sizes, strict=True))
    return told | settings.made_by()


def _told(settings) -> dict:
    """Return settings as a manifest tells them: one size, or several; scenes if there are any."""
    unsaid = [] if settings.sizes is None else ["width", "height"]
    unsaid += [name for name in ("sizes", "scenes") if getattr(settings, name, None) is None]
    return {name: value for name, value in _plain(settings).items() if name not in unsaid}


def _plain(settings) -> dict:
    """Return settings as JSON would give them back, without the field that the split decides."""
    plain = json.loads(json.dumps(asdict(settings)))
    del plain["story"]["held_out"]
    return plain


def _keep(folder: Path, files: dict[str, str], head: dict) -> None:
    """Open the journal with the files that are kept, and remove all other clips."""
    lines = [json.dumps(head), *([json.dumps(files)] if files else [])]
    write_bytes(folder / PROGRESS, ("\n".join(lines) + "\n").encode())
    (folder / MANIFEST).unlink(missing_ok=True)
    ours = re.compile(rf"{head['split']}_\d{{5,}}\.(mp4|srt|png)(\.\d+\{PART})?")
    for path in (folder / "clips").iterdir():
        if ours.fullmatch(path.name) and f"clips/{path.name}" not in files:
            path.unlink()


def _make_clips(folder, jobs, total, settings, workers, progress) -> dict[str, str]:
    """Make clips and note each chunk in the journal; return the sha256 of every new file."""
    chunks = [jobs[i : i + settings.chunk] for i in range(0, len(jobs), settings.chunk)]
    made: dict[str, str] = {}
    with (
        open(folder / PROGRESS, "a", encoding="utf-8") as journal,
        tqdm(
            total=total,
            initial=total - len(jobs),
            desc=f"world {folder.name}",
            unit="clip",
            disable=not progress,
        ) as bar,
    ):
        for count, files in work_off(_make_chunk, chunks, workers, folder, settings):
            made |= files
            journal.write(json.dumps(files) + "\n")
            journal.flush()
            bar.update(count)
    return made


def _make_chunk(chunk: list[tuple[str, Story]], folder: Path, settings) -> dict[str, str]:
    files = {}
    for clip, story in chunk:
        settings.write(story, folder, clip)
        files |= {path: sha256(folder / path) for path in settings.files(clip, story)}
    return files


def _finish(folder: Path, ids, stories, files, head, settings) -> None:
    """Write stories, words and, last of all, the manifest."""
    medium = settings.medium
    asked = settings.ask(stories, SPLITS.index(head["split"]))
    text = "\n".join(story.to_json() for story in stories) + "\n"
    write_bytes(folder / STORIES, text.encode())
    write_llava_json(folder / CONVERSATIONS, question_entries(ids, asked, medium))
    write_llava_json(folder / CAPTIONS, caption_entries(ids, stories, medium))
    files |= {name: sha256(folder / name) for name in TEXTS}
    write_manifest(folder, head, files, seeds=[stories[0].seed, stories[-1].seed])


# ---------------------------------------------------------------- checking and reading


def load_split(folder: str | Path) -> WorldSplit:
    """Read a split that `make_split` finished; the clips themselves are not opened.

    Raises:
        UserError: no manifest, or stories or questions that differ from it.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    medium = MEDIA.get(manifest.get("medium", "video"))
    if medium is None:
        raise UserError(f"{folder} holds no clips: {manifest['medium']}")
    for name in (STORIES, CONVERSATIONS):
        if sha256(folder / name) != manifest["files"].get(name):
            raise UserError(
                f"{folder / name}: missing or damaged; run `vlmcourse world` to mend it"
            )
    lines = (folder / STORIES).read_text(encoding="utf-8").splitlines()
    stories = [Story.from_json(line) for line in lines]
    ids = clip_ids(manifest["split"], len(stories))
    questions = read_questions(folder / CONVERSATIONS, ids, medium)
    clips = [folder / "clips" / f"{clip}{medium.suffix}" for clip in ids]
    return WorldSplit(manifest["split"], folder, ids, stories, questions, clips, manifest)
