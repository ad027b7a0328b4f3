"""What a record must hold, and what it must not tell about the machine it was made on."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

from vlmcourse.errors import UserError

STATUSES = ("ok", "negative", "failed")
FIELDS = {
    "id": str,
    "command": str,
    "commit": str,
    "dirty": bool,
    "settings": dict,
    "settings_hash": str,
    "seeds": list,
    "data_checksum": (str, type(None)),
    "hardware": dict,
    "wall_s": (int, float),
    "cpu_s": (int, float),
    "peak_mib": (int, float),
    "peak_gpu_mib": (int, float, type(None)),
    "metrics": dict,
    "status": str,
    "note": str,
}
METRIC_FIELDS = {
    "n": int,
    "mean": (int, float, type(None)),
    "low": (int, float, type(None)),
    "high": (int, float, type(None)),
    "unit": str,
}
HARDWARE_FIELDS = ("cpu", "cores", "memory_gib", "gpu", "torch", "threads")
MACHINE_PATH = re.compile(r"(?<![\w.:/~-])(?:/(?:[\w.+-]+/)+[\w.+-]*|~/[\w./+-]+|[A-Z]:\\[\w\\.]+)")


class RecordError(UserError):
    """A record that cannot be read or may not be written; names the file and the field."""


def settings_hash(settings: Mapping) -> str:
    """A short hash of settings, the same in whatever order they are given."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def without_machine(text: str, root: str | Path) -> str:
    """Make the paths in a text relative to the root; of others keep the last part."""
    text = text.replace(f"{Path(root)}/", "").replace(str(Path(root)), ".")
    return MACHINE_PATH.sub(lambda found: re.split(r"[/\\]", found.group())[-1] or "DIR", text)


def validate(record: object, path: str | Path) -> dict:
    """Return the record if it is whole.

    Raises:
        RecordError: what is missing, unknown, of the wrong kind, or tells a machine's path.
    """

    def refuse(why: str):
        raise RecordError(f"{path}: {why}")

    if not isinstance(record, dict):
        refuse("not a record (a JSON object is needed)")
    for name in [*(FIELDS.keys() - record.keys()), *(record.keys() - FIELDS.keys())]:
        refuse(f"field {name!r} is {'missing' if name in FIELDS else 'unknown'}")
    for name, kind in FIELDS.items():
        wrong = isinstance(record[name], bool) and kind is not bool
        if wrong or not isinstance(record[name], kind):
            refuse(f"field {name!r} is {record[name]!r}")
    if record["status"] not in STATUSES:
        refuse(f"status {record['status']!r} is none of {', '.join(STATUSES)}")
    if not re.fullmatch(r"[\w.-]+", record["id"]):
        refuse(f"id {record['id']!r} may hold letters, digits, '_', '-' and '.' only")
    if missing := [name for name in HARDWARE_FIELDS if name not in record["hardware"]]:
        refuse(f"hardware lacks {', '.join(missing)}")
    if record["settings_hash"] != settings_hash(record["settings"]):
        refuse("settings_hash does not belong to the settings")
    for name, value in record["metrics"].items():
        validate_metric(name, value, refuse)
    for name in ("command", "settings", "note"):
        found = MACHINE_PATH.search(json.dumps(record[name], ensure_ascii=False))
        if found:
            refuse(f"{name} tells a path of one machine: {found.group()}")
    return record


def validate_metric(name: str, value: object, refuse) -> None:
    """Refuse a metric that lacks a field, or whose mean lies outside its interval."""
    if not isinstance(value, dict):
        refuse(f"metric {name!r} is {value!r}")
    for key, kind in METRIC_FIELDS.items():
        if key not in value:
            refuse(f"metric {name!r} lacks {key!r}")
        if isinstance(value[key], bool) or not isinstance(value[key], kind):
            refuse(f"metric {name!r}: {key} is {value[key]!r}")
    if unknown := value.keys() - METRIC_FIELDS.keys() - {"values"}:
        refuse(f"metric {name!r}: unknown {', '.join(sorted(unknown))}")
    low, mean, high = value["low"], value["mean"], value["high"]
    if None not in (low, mean, high) and not low - 1e-6 <= mean <= high + 1e-6:
        refuse(f"metric {name!r}: mean {mean} lies outside {low} to {high}")
