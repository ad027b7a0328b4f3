"""Entries of training files about several pictures and videos.

Two forms, with LLaVA's turns in both: a list in the place of the one name (`"image": ["a.png",
"b.png"]`), or lists of both kinds, as the tools that tune Qwen2-VL read them (`"images": [...],
"videos": [...]`). Each marker stands for the next of its kind, in any turn of the user; without any
marker all of them stand in front of the first turn, pictures first.
"""

import re
from typing import Any

Turns = list[tuple[str, str]]
KEYS = {"<image>": ("image", "images"), "<video>": ("video", "videos")}
"""The keys of names by what stands for them in a text."""


def lists_media(entry: dict[str, Any]) -> bool:
    """Whether an entry names its pictures and videos in lists."""
    return any(isinstance(entry.get(key), list) for keys in KEYS.values() for key in keys)


def named_media(entry: dict[str, Any], turns: Turns) -> tuple[list[tuple[str, str]], Turns]:
    """The marker and the name of each medium of an entry, in the order of its turns, and the turns.

    Raises:
        ValueError: names that are no texts, none at all, or another number of markers.
    """
    names = {token: _names(entry, keys) for token, keys in KEYS.items()}
    if not any(names.values()):
        raise ValueError("the lists of pictures and videos are empty")
    asked = [text for role, text in turns if role == "user"]
    if not any(token in text for token in KEYS for text in asked):
        marks = "".join(token * len(found) for token, found in names.items())
        turns = [("user", f"{marks}\n{turns[0][1]}"), *turns[1:]]
        asked = [text for role, text in turns if role == "user"]
    for token, found in names.items():
        count = sum(text.count(token) for text in asked)
        if count != len(found):
            raise ValueError(f"{token} stands {count} times, for {len(found)} names")
    waiting = {token: iter(found) for token, found in names.items()}
    marks = re.findall("|".join(KEYS), "".join(asked))
    return [(token, next(waiting[token])) for token in marks], turns


def _names(entry: dict[str, Any], keys: tuple[str, ...]) -> list[str]:
    values = [entry[key] for key in keys if entry.get(key) is not None]
    names = [name for value in values for name in (value if isinstance(value, list) else [value])]
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{keys[0]} is named {name!r}, not by a text")
    return [name.strip() for name in names]
