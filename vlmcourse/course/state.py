"""What the course knows of its chapters, and what it remembers of a finished run."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from vlmcourse import notebooks
from vlmcourse.errors import UserError

DEFAULT_MINUTES = 2.0


@dataclass
class Done:
    """What is remembered of a finished step or chapter (``state.json``)."""

    status: str = "not run"  # ok | failed | not run
    minutes: float = 0.0
    peak_mib: float = 0.0
    key: str = ""
    error: str = ""
    reused: bool = False
    title: str = ""
    figures: list[str] = field(default_factory=list)


def find_chapters(root: Path) -> dict[str, Path]:
    """All chapters by number ("00", "01", ...), in order."""
    found = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    return {path.name[:2]: path for path in found}


def choose(wanted: str | None, known: dict[str, Path]) -> dict[str, Path]:
    """Pick chapters by number or name; None or empty picks all.

    Raises:
        UserError: a name that is none of the known chapters.
    """
    chosen = {}
    for word in re.split(r"[,\s]+", (wanted or "").strip()):
        if not word:
            continue
        number = word.removesuffix(".ipynb")[:2].zfill(2)
        path = known.get(number)
        if path is None or (not word.isdigit() and word.removesuffix(".ipynb") != path.stem):
            listed = ", ".join(p.stem for p in known.values()) or "none"
            raise UserError(f"unknown chapter {word!r}; known: {listed}")
        chosen[number] = path
    return dict(sorted(chosen.items())) or known


def digest(*parts: object) -> str:
    """A short hash of settings and texts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def files_digest(root: Path, patterns: tuple[str, ...]) -> str:
    """A hash over names and contents of all files matching the patterns."""
    whole = hashlib.sha256()
    for path in sorted({p for pattern in patterns for p in root.glob(pattern) if p.is_file()}):
        whole.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()[:16]


def title_of(notebook: dict) -> str:
    """The first heading of a chapter."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            heading = re.search(r"^#\s+(.+)$", notebooks.as_text(cell["source"]), re.MULTILINE)
            if heading:
                return heading.group(1).strip()
    return "untitled"


def card_minutes(notebook: dict) -> float:
    """The minutes a chapter's card states for the CPU ("CPU ... 2.5 min"), else a guess."""
    for cell in notebook["cells"][:3]:
        text = notebooks.as_text(cell["source"])
        found = re.search(r"(\d+(?:\.\d+)?)\s*min[^\n,;|]{0,30}CPU", text)
        found = found or re.search(r"CPU[^\n]{0,60}?(\d+(?:\.\d+)?)\s*min", text)
        if found and cell["cell_type"] == "markdown":
            return float(found.group(1))
    return DEFAULT_MINUTES
