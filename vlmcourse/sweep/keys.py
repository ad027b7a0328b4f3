"""Reading a sweep file: keys and values that are refused by name, and placeholders like {axis}."""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmcourse.errors import UserError
from vlmcourse.evaluation.options import value_text

PLACE = re.compile(r"\{([\w.]+)\}")
LOOK_UP = {"file", "key"}
"""Keys of a mapping that stands for a value in a JSON file."""
ROOT = Path(__file__).resolve().parents[2]


def located(path: str | Path) -> Path:
    """A path as it is given, or in the checkout if it exists there alone."""
    path = Path(path)
    inside = ROOT / path
    return inside if not path.exists() and inside.exists() else path


class PlanError(UserError):
    """A sweep file that cannot be used; names the file, the key and the reason."""


@dataclass(frozen=True)
class Part:
    """A mapping of a sweep file, and where it stands; every getter names both when it refuses.

    Attributes:
        path: of the file.
        where: dotted name of the mapping, "" for the whole file.
        values: the mapping itself.
    """

    path: Path
    where: str
    values: Mapping[str, Any]

    def refuse(self, key: Any, why: str):
        """Raise PlanError with file, key and reason."""
        where = ".".join(filter(None, (self.where, str(key))))
        raise PlanError(f"{self.path}: {where or 'the file'}: {why}")

    def only(self, known: Iterable[str], needed: Iterable[str] = ()) -> "Part":
        """This part, if it has no unknown key and lacks no needed one."""
        known = list(known)
        for key in self.values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
                self.refuse(key, f"unknown key; {hint}")
        for key in needed:
            if self.values.get(key) in (None, ""):
                self.refuse(key, "is missing")
        return self

    def part(self, key: Any) -> "Part":
        """The mapping under a key; an empty one where there is none."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, dict):
            self.refuse(key, f"a mapping is needed, not {value!r}")
        return Part(self.path, ".".join(filter(None, (self.where, str(key)))), value or {})

    def parts(self, key: str) -> list["Part"]:
        """The mappings in the list under a key."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            self.refuse(key, f"a list is needed, not {value!r}")
        found = []
        for number, item in enumerate(value or []):
            if not isinstance(item, dict):
                self.refuse(f"{key}[{number}]", f"a mapping is needed, not {item!r}")
            where = ".".join(filter(None, (self.where, key)))
            name = item.get("name")
            mark = name if isinstance(name, str) else number
            found.append(Part(self.path, f"{where}[{mark}]", item))
        return found

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """A value of one of these types; the default where there is none."""
        value = self.values.get(key)
        if value is None:
            return default
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if type(value) not in kinds and not (type(value) is int and float in kinds):
            names = {str: "text", int: "a whole number", float: "a number", list: "a list"}
            told = " or ".join(names.get(one, one.__name__) for one in kinds)
            self.refuse(key, f"{told} is needed, not {value!r}{_unquoted(value)}")
        return value

    def words(self, key: str, known: Sequence[str] | None = None) -> tuple[str, ...] | None:
        """A list of words, of those that are known; None where there is none."""
        value = self.get(key, list)
        if value is None:
            return None
        for word in value:
            if not isinstance(word, str):
                self.refuse(key, f"a list of words is needed, not {value!r}{_unquoted(word)}")
            if known is not None and word not in known:
                self.refuse(key, f"unknown {word!r}; known: {', '.join(known)}")
        if len(set(value)) < len(value):
            self.refuse(key, f"a word stands there twice: {value!r}")
        return tuple(value)


def _unquoted(value: Any) -> str:
    """A hint where {axis} was written without quotes, which YAML reads as a mapping."""
    if isinstance(value, dict) and list(value.values()) == [None]:
        return f' (write "{{{next(iter(value))}}}" with quotes)'
    return ""


# ---------------------------------------------------------------- placeholders


def placeholders(value: Any) -> set[str]:
    """Names in braces, in texts at any depth."""
    if isinstance(value, str):
        return set(PLACE.findall(value))
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        return set().union(*map(placeholders, value))
    return set()


def filled(value: Any, values: Mapping[str, Any], refuse: Callable[[str], None]) -> Any:
    """A copy in which every placeholder has its value: a text that is nothing but one becomes the
    value itself, with its type; inside a text stands what YAML would write. In a list, one whose
    value is a list stands for all of its items.

    Args:
        values: by name; of a named combination of settings also `axis.key`.
        refuse: called with the reason where a name has no value.
    """
    if isinstance(value, dict):
        return {
            filled(key, values, refuse): filled(item, values, refuse) for key, item in value.items()
        }
    if isinstance(value, list):
        found = []
        for item in value:
            made = filled(item, values, refuse)
            found += made if isinstance(item, str) and isinstance(made, list) else [made]
        return found
    if not isinstance(value, str):
        return value
    for name in PLACE.findall(value):
        if name not in values:
            refuse(f"{{{name}}} has no value; known: {', '.join(sorted(values))}")
    whole = PLACE.fullmatch(value)
    if whole:
        return values[whole[1]]
    return PLACE.sub(lambda found: value_text(values[found[1]]), value)


def looked_up(value: Any, refuse: Callable[[str], None]) -> Any:
    """A copy in which every mapping of `file` and `key` is the value that the JSON file holds under
    the dotted key: a table that another command has measured.

    Args:
        refuse: called with the reason where there is none.
    """
    if isinstance(value, list):
        return [looked_up(item, refuse) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) != LOOK_UP:
        return {key: looked_up(item, refuse) for key, item in value.items()}
    try:
        found = json.loads(located(value["file"]).read_text(encoding="utf-8"))
    except (OSError, TypeError, ValueError) as error:
        return refuse(f"{value['file']}: cannot be read ({error})")
    for name in str(value["key"]).split("."):
        if not isinstance(found, dict) or name not in found:
            return refuse(f"{value['file']}: no {value['key']}")
        found = found[name]
    return found
