"""What a split's folder remembers of itself: checksums, the journal of a run, the maker's lock.

A folder with a manifest is whole: that is written last. Until then `progress.jsonl` lists what is
finished.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vlmcourse.errors import UserError
from vlmcourse.world.files import write_bytes

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


def reusable(folder: Path, head: dict, default: dict, force: bool) -> dict[str, str]:
    """Return the sha256 of every file that an earlier run finished and this run may use.

    Args:
        head: what this run says of itself: "count", "settings", and fingerprints of the world's
            code, "words_made_by" and, where there are clips, "clips_made_by". Other words leave
            the clips alone.
        default: today's default of the settings.
        force: use nothing of what is there.

    Raises:
        UserError: without `force`, the folder was made with other settings, or holds more.
    """
    earlier, known = earlier_run(folder)
    if not earlier:
        return {}
    changes = differences(_what(earlier), _what(head), {**_what(head), **default})
    if earlier.get("count", 0) > head["count"]:
        changes.append(f"count {earlier['count']} -> {head['count']}")
    if changes and not force:
        raise UserError(
            f"{folder} was made with other settings ({'; '.join(changes)}): "
            "use --force to make it anew, or another --root"
        )
    if changes or force:
        return {}
    if earlier.get("clips_made_by") != head.get("clips_made_by"):
        log.warning("%s was made by another version of the world: making it anew", folder)
        return {}
    if earlier.get("words_made_by") != head["words_made_by"]:
        return {path: sha for path, sha in known.items() if path.startswith("clips/")}
    return known


def _what(head: dict) -> dict:
    """Return what is compared: the settings, and what kind of files they are for."""
    return {"medium": head.get("medium", "video"), **head.get("settings", {})}


def write_manifest(folder: Path, head: dict, files: dict[str, str], seeds: list[int]) -> None:
    """Write the manifest of these files, which are whole, and end the journal."""
    files = dict(sorted(files.items()))
    size = sum((folder / path).stat().st_size for path in files)
    manifest = {**head, "seeds": seeds, "bytes": size, "data_checksum": checksum(files)}
    write_bytes(folder / MANIFEST, json.dumps({**manifest, "files": files}, indent=1).encode())
    (folder / PROGRESS).unlink(missing_ok=True)


def differences(before: dict, now: dict, default: dict) -> list[str]:
    """Compare two nested settings -> lines like `story.duration_s 8 -> 60`.

    A setting that did not exist `before` had today's default, unless it is not told `now` either.
    """
    new = _flat(now)
    old = {key: value for key, value in _flat(default).items() if key in new} | _flat(before)
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
