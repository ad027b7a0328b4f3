"""What a split's folder remembers of itself: checksums, the journal of a run, the maker's lock."""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlmcourse.errors import UserError

log = logging.getLogger(__name__)

MANIFEST, PROGRESS, LOCK = "manifest.json", "progress.jsonl", ".lock"


def sha256(path: Path) -> str | None:
    """Return a file's sha256, None if there is no such file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def checksum(files: dict[str, str]) -> str:
    """Return the sha256 of what `sha256sum` would print for these files, sorted by path."""
    listing = "".join(f"{sha}  {path}\n" for path, sha in sorted(files.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def read_manifest(folder: str | Path) -> dict:
    """Read a split's manifest.

    Raises:
        UserError: there is none (the split was never finished), or it is damaged.
    """
    path = Path(folder) / MANIFEST
    remedy = "make the split with `vlmcourse world`"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        sound = checksum(manifest["files"]) == manifest["data_checksum"]
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {remedy}") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise UserError(f"{path}: damaged; {remedy}")
    return manifest


def verify_split(folder: str | Path) -> dict[str, str]:
    """Compare every file of a split with its checksum; `make_split` mends what this names.

    Returns:
        relative path -> "missing" or "changed"; empty if all is well.

    Raises:
        UserError: no manifest, or a damaged one.
    """
    damage = {}
    for path, sha in read_manifest(folder)["files"].items():
        found = sha256(Path(folder) / path)
        if found != sha:
            damage[path] = "missing" if found is None else "changed"
    return damage


def earlier_run(folder: Path) -> tuple[dict | None, dict[str, str]]:
    """Return what a run in this folder said about itself, and the sha256 of the files it finished.

    It is a finished run's manifest, else an unfinished run's journal, else `(None, {})`.
    """
    try:
        manifest = read_manifest(folder)
        return manifest, manifest["files"]
    except UserError as error:
        if (folder / MANIFEST).exists():
            log.warning("%s", error)
    try:
        lines = (folder / PROGRESS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None, {}
    head, known = None, {}
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            break  # the line that was being written when the run was killed
        if head is None:
            head = entry
        else:
            known |= entry
    return head, known


def differences(before: dict, now: dict, default: dict) -> list[str]:
    """Compare two nested settings -> lines like `story.duration_s 8 -> 60`.

    A setting that did not exist `before` had today's default.
    """
    old, new = {**_flat(default), **_flat(before)}, _flat(now)
    keys = sorted({*old, *new})
    return [f"{k} {old.get(k)} -> {new.get(k)}" for k in keys if old.get(k) != new.get(k)]


def _flat(settings: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


@contextmanager
def one_maker(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which a killed process loses by itself; none on systems without."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(folder / LOCK, "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("%s is being made by another process: waiting for it", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
