"""Splits of the world on disk: made in parallel, resumed after a kill, checked against checksums.

A split is a folder: `clips/ID.mp4` and `clips/ID.srt`, `stories.jsonl` (what happens, clip by
clip), `conversations.json` (questions), `captions.json`, and `manifest.json` with the settings and
a sha256 of every file. The manifest is written last: a folder with a manifest is whole. Until then
`progress.jsonl` lists what is finished.
"""

import argparse
import hashlib
import json
import logging
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm import tqdm

from vlmcourse.errors import UserError
from vlmcourse.world import language
from vlmcourse.world.conversations import (
    caption_entries,
    question_entries,
    read_questions,
    write_llava_json,
)
from vlmcourse.world.files import PART, check_format, write_bytes, write_clip
from vlmcourse.world.language import Question
from vlmcourse.world.render import render_frames
from vlmcourse.world.sound import render_sound
from vlmcourse.world.splits import SPLITS, sample_stories
from vlmcourse.world.stored import (
    MANIFEST,
    PROGRESS,
    checksum,
    differences,
    earlier_run,
    one_maker,
    read_manifest,
    sha256,
    verify_split,
)
from vlmcourse.world.story import Story, StorySettings, sample_story

__all__ = ["SplitSettings", "WorldSplit", "load_split", "main", "make_split", "verify_split"]

log = logging.getLogger(__name__)

DEFAULT_ROOT, LIVE_ROOT = Path("data/world"), Path("data/world_live")
DEFAULT_COUNTS = {"train": 1500, "val": 200, "test": 320}
STORIES, CONVERSATIONS, CAPTIONS = TEXTS = ("stories.jsonl", "conversations.json", "captions.json")
FORM = ("fps", "width", "height", "crf", "sound")
CHUNK_S = 64
"""Seconds of film that a worker makes before it reports."""


@dataclass(frozen=True)
class SplitSettings:
    """How the clips of a split are made; `story.held_out` is set by the split itself."""

    story: StorySettings = field(default_factory=StorySettings)
    fps: float = 4.0
    width: int = 64
    height: int = 64
    crf: int = 23
    sound: bool = True

    def __post_init__(self):
        check_format(self.fps, self.width, self.height, self.crf)


@dataclass(frozen=True)
class WorldSplit:
    """A whole split: clip `i` shows `stories[i]` and is asked `questions[i]`."""

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
    def data_checksum(self) -> str:
        """One sha256 for all files of the split, for records."""
        return self.manifest["data_checksum"]


# ---------------------------------------------------------------- making


def make_split(
    root: str | Path,
    split: str,
    count: int | None = None,
    settings: SplitSettings | None = None,
    workers: int | None = None,
    force: bool = False,
    progress: bool = True,
) -> WorldSplit:
    """Bring `root/split` into being and return it; what is there and undamaged is reused.

    It may be killed at any moment and run again. Clips that are missing or whose checksum is wrong
    are made again, and all of them when the world's own code draws or sounds differently.
    A second maker of the same folder waits for the first.

    Args:
        count: clips; default `DEFAULT_COUNTS`. A larger count than before keeps the earlier clips.
        workers: processes; default one per core.
        force: throw away what is there.

    Raises:
        UserError: without `force`, the folder holds clips of other settings, or more of them.
    """
    settings = settings or SplitSettings()
    stories = sample_stories(
        split, DEFAULT_COUNTS.get(split, 0) if count is None else count, settings.story
    )
    ids = clip_ids(split, len(stories))
    folder = Path(root) / split
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    with one_maker(folder):
        made_by = _made_by(settings.story.live_sound)
        head = {"split": split, "count": len(stories), "settings": _plain(settings), **made_by}
        known = _reusable(folder, head, force)
        missing = [
            i for i, clip in enumerate(ids) if not _is_whole(folder, clip, stories[i], known)
        ]
        told = all(sha256(folder / x) == known.get(x, "") for x in TEXTS)
        if missing or not told or not (folder / MANIFEST).exists():
            files = _keep(folder, ids, stories, known, missing, head)
            jobs = [(ids[i], stories[i]) for i in missing]
            files |= _make_clips(folder, jobs, len(ids), settings, workers, progress)
            _finish(folder, ids, stories, files, head)
    return load_split(folder)


def clip_ids(split: str, count: int) -> list[str]:
    """Return the names of a split's clips, for example `train_00042`."""
    return [f"{split}_{index:05d}" for index in range(count)]


def _plain(settings: SplitSettings) -> dict:
    """Return settings as JSON would give them back, without the field that the split decides."""
    plain = json.loads(json.dumps(asdict(settings)))
    del plain["story"]["held_out"]
    return plain


def _made_by(live_sound: bool = False) -> dict[str, str]:
    """Fingerprint what fixed stories look, sound and read like, so that no cache goes stale."""
    clips, words = hashlib.sha256(), hashlib.sha256()
    stories = [sample_story(seed, StorySettings(live_sound=live_sound)) for seed in range(12)]
    for story in stories:
        clips.update(story.to_json().encode())
        clips.update(render_frames(story, fps=1).tobytes())
        clips.update(render_sound(story).tobytes())
    asked = language.balanced_questions(stories, seed=0)
    told = [language.caption(s, style) for s in stories for style in language.CAPTION_REQUESTS]
    words.update(repr((asked, told)).encode())
    return {"clips_made_by": clips.hexdigest(), "words_made_by": words.hexdigest()}


def _reusable(folder: Path, head: dict, force: bool) -> dict[str, str]:
    """Return the sha256 of every file that an earlier run finished and this run may use.

    Raises:
        UserError: see `make_split`.
    """
    earlier, known = earlier_run(folder)
    if not earlier:
        return {}
    changes = differences(earlier.get("settings", {}), head["settings"], _plain(SplitSettings()))
    if earlier.get("count", 0) > head["count"]:
        changes.append(f"count {earlier['count']} -> {head['count']}")
    if changes and not force:
        raise UserError(
            f"{folder} was made with other settings ({'; '.join(changes)}): "
            "use --force to make it anew, or another --root"
        )
    if changes or force:
        return {}
    if earlier.get("clips_made_by") != head["clips_made_by"]:
        log.warning("%s was made by another version of the world: making it anew", folder)
        return {}
    if earlier.get("words_made_by") != head["words_made_by"]:
        return {path: sha for path, sha in known.items() if path.startswith("clips/")}
    return known


def _clip_files(clip: str, story: Story) -> list[str]:
    return [f"clips/{clip}.mp4", *([f"clips/{clip}.srt"] if story.lines else [])]


def _is_whole(folder: Path, clip: str, story: Story, known: dict[str, str]) -> bool:
    return all(
        path in known and sha256(folder / path) == known[path] for path in _clip_files(clip, story)
    )


def _keep(folder, ids, stories, known, missing, head) -> dict[str, str]:
    """Open the journal with the clips that are kept, remove all others, and return the kept."""
    redo = set(missing)
    files = {
        path: known[path]
        for i, (clip, story) in enumerate(zip(ids, stories, strict=True))
        if i not in redo
        for path in _clip_files(clip, story)
    }
    lines = [json.dumps(head), *([json.dumps(files)] if files else [])]
    write_bytes(folder / PROGRESS, ("\n".join(lines) + "\n").encode())
    (folder / MANIFEST).unlink(missing_ok=True)
    ours = re.compile(rf"{head['split']}_\d{{5,}}\.(mp4|srt)(\.\d+\{PART})?")
    for path in (folder / "clips").iterdir():
        if ours.fullmatch(path.name) and f"clips/{path.name}" not in files:
            path.unlink()
    return files


def _make_clips(folder, jobs, total, settings, workers, progress) -> dict[str, str]:
    """Make clips and note each chunk in the journal; return the sha256 of every new file."""
    step = max(1, CHUNK_S // settings.story.duration_s)
    chunks = [jobs[i : i + step] for i in range(0, len(jobs), step)]
    workers = min(workers or _cores(), len(chunks))
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
        for count, files in _work(folder, chunks, settings, workers):
            made |= files
            journal.write(json.dumps(files) + "\n")
            journal.flush()
            bar.update(count)
    return made


def _work(folder, chunks, settings, workers) -> Iterator[tuple[int, dict[str, str]]]:
    if workers <= 1:
        for chunk in chunks:
            yield len(chunk), _make_chunk(folder, chunk, settings)
        return
    # Spawned, never forked: the parent may hold threads and open video readers.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_leave_with_parent)
    try:
        waiting = {pool.submit(_make_chunk, folder, c, settings): len(c) for c in chunks}
        for done in as_completed(waiting):
            yield waiting[done], done.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"{folder}: a worker process was ended from outside (out of memory?); "
            "run again with fewer --workers, finished clips are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _make_chunk(folder: Path, chunk, settings: SplitSettings) -> dict[str, str]:
    files, form = {}, {name: getattr(settings, name) for name in FORM}
    for clip, story in chunk:
        write_clip(story, folder / "clips", clip, **form)
        files |= {path: sha256(folder / path) for path in _clip_files(clip, story)}
    return files


def _leave_with_parent() -> None:
    """End this worker when its parent is gone, even if that was killed without warning.

    Control-C is the parent's business: it stops handing out work.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch():
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _finish(folder: Path, ids, stories, files, head) -> None:
    """Write stories, words and, last of all, the manifest."""
    asked = language.balanced_questions(stories, seed=SPLITS.index(head["split"]))
    text = "\n".join(story.to_json() for story in stories) + "\n"
    write_bytes(folder / STORIES, text.encode())
    write_llava_json(folder / CONVERSATIONS, question_entries(ids, asked))
    write_llava_json(folder / CAPTIONS, caption_entries(ids, stories))
    for name in TEXTS:
        files[name] = sha256(folder / name)
    files = dict(sorted(files.items()))
    seeds = [stories[0].seed, stories[-1].seed]
    size = sum((folder / path).stat().st_size for path in files)
    manifest = {**head, "seeds": seeds, "bytes": size, "data_checksum": checksum(files)}
    write_bytes(folder / MANIFEST, json.dumps({**manifest, "files": files}, indent=1).encode())
    (folder / PROGRESS).unlink()


# ---------------------------------------------------------------- checking and reading


def load_split(folder: str | Path) -> WorldSplit:
    """Read a split that `make_split` finished; the clips themselves are not opened.

    Raises:
        UserError: no manifest, or stories or questions that differ from it.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    for name in (STORIES, CONVERSATIONS):
        if sha256(folder / name) != manifest["files"].get(name):
            raise UserError(
                f"{folder / name}: missing or damaged; run `vlmcourse world` to mend it"
            )
    lines = (folder / STORIES).read_text(encoding="utf-8").splitlines()
    stories = [Story.from_json(line) for line in lines]
    ids = clip_ids(manifest["split"], len(stories))
    questions = read_questions(folder / CONVERSATIONS, ids)
    clips = [folder / "clips" / f"{clip}.mp4" for clip in ids]
    return WorldSplit(manifest["split"], folder, ids, stories, questions, clips, manifest)


# ---------------------------------------------------------------- the command


def main(argv: list[str] | None = None) -> int:
    """Run `vlmcourse world`."""
    args = _parser().parse_args(argv)
    match = re.fullmatch(r"(\d+)x(\d+)", args.size)
    if not match:
        raise UserError(f"--size must look like 64x64 (width x height), not {args.size!r}")
    settings = SplitSettings(
        story=StorySettings(
            duration_s=args.duration,
            events=(1, min(4, args.duration // 2)),
            live_sound=args.live_sound,
        ),
        fps=args.fps,
        width=int(match[1]),
        height=int(match[2]),
        crf=args.crf,
        sound=not args.no_sound,
    )
    root = args.root or (LIVE_ROOT if args.live_sound else DEFAULT_ROOT)
    for split in SPLITS if args.split == "all" else (args.split,):
        made = make_split(root, split, args.count, settings, args.workers, args.force)
        asked = sum(map(len, made.questions))
        tqdm.write(
            f"{made.folder}: {len(made)} clips, {asked} questions, "
            f"{made.manifest['bytes'] / 1e6:.1f} MB, data checksum {made.data_checksum[:12]}"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlmcourse world",
        description="Write the procedural video world as mp4 and srt files with questions. "
        "What is there is checked and reused; a killed run goes on where it stopped.",
        epilog="example: vlmcourse world --split val --count 50 --duration 60 --size 96x54 "
        "--root data/world_long",
    )
    counts = ", ".join(f"{name} {count}" for name, count in DEFAULT_COUNTS.items())
    add = parser.add_argument
    add("--split", choices=(*SPLITS, "all"), default="all")
    add("--count", type=int, help=f"clips per split (default: {counts})")
    add("--duration", type=int, default=8, help="seconds, 4 to 600 (default: %(default)s)")
    add("--size", default="64x64", help="width x height, even numbers (default: %(default)s)")
    add("--fps", type=float, default=4.0, help="frames a second (default: %(default)s)")
    add("--crf", type=int, default=23, help="H.264 quality, 0 is lossless (default: %(default)s)")
    add("--no-sound", action="store_true", help="write no sound track")
    add("--live-sound", action="store_true", help="every event makes the sound of its action")
    add("--root", type=Path, help=f"folder (default: {DEFAULT_ROOT}, live sound: {LIVE_ROOT})")
    add("--workers", type=int, help="processes (default: one per core)")
    add("--force", action="store_true", help="throw away what is there and make it anew")
    return parser
