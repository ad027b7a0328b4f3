"""How fast the trained small systems answer, beside each other.

Every system watches the same clips from their files and answers the same questions of each at once.
What counts is processor time on one thread, and systems take turns clip by clip, so that other work
on the machine disturbs all of them alike and none of them much.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vlmcourse.comparison.facts import FactError, System
from vlmcourse.intervals import metric

CLIPS, QUESTIONS = 64, 8
MAX_NEW_TOKENS = 16


def measure(
    systems: Sequence[System],
    split: Path,
    clips: int = CLIPS,
    questions: int = QUESTIONS,
    report: Callable[[str], None] = lambda text: None,
) -> tuple[dict[str, dict], str, dict[str, str]]:
    """Answers per second of processor time, files opened and encoded anew for every clip.

    Args:
        split: a folder of clips and questions, `data/world/test`.
        clips, questions: how many clips, and questions of each.
        report: told what is being measured.

    Returns:
        metrics `SYSTEM/answers_per_s` (an interval over clips) and `SYSTEM/first_s` (seconds of one
        question from the file on); the checksum of the clips; and which weights were asked.

    Raises:
        FactError: fewer clips than asked for.
    """
    from vlmcourse.trained import load_trained_system
    from vlmcourse.world.dataset import load_split

    loaded = load_split(split)
    if len(loaded) < clips:
        raise FactError(f"{split}: {len(loaded)} clips, not {clips}")
    films = loaded.clips[: clips + 1]
    asked = [[one.text for one in x[:questions]] for x in loaded.questions[: clips + 1]]
    found = {}
    for system in systems:
        report(f"loading {system.name}")
        name = system.world.speed
        options = name.removeprefix(system.key)
        folder = None if not options else _shipped(name)
        found[system.key] = load_trained_system(system.key, folder)
    seconds: dict[str, list[tuple[float, float, int]]] = {key: [] for key in found}
    for number, (film, texts) in enumerate(zip(films, asked)):
        report(f"clip {number + 1} of {len(films)}")
        for key in _in_turn(list(found), number):
            taken = _answers(found[key].model, film, texts)
            if number:  # the first clip warms up
                seconds[key].append((*taken, len(texts)))
    weights = {key: one.settings_hash for key, one in found.items()}
    return _metrics(seconds), loaded.data_checksum, weights


def _answers(model, film: Path, texts: Sequence[str]) -> tuple[float, float]:
    """Processor seconds of one question from the file on, and of all of them at once."""
    start = time.process_time()
    model.answer(model.watch(film), texts[:1], max_new_tokens=MAX_NEW_TOKENS)
    first = time.process_time() - start
    start = time.process_time()
    model.answer(model.watch(film), texts, max_new_tokens=MAX_NEW_TOKENS)
    return first, time.process_time() - start


def _metrics(seconds: Mapping[str, Sequence[tuple[float, float, int]]]) -> dict[str, dict]:
    made = {}
    for key, taken in seconds.items():
        made[f"{key}/answers_per_s"] = metric([count / all_s for _, all_s, count in taken], "1/s")
        made[f"{key}/first_s"] = metric([first for first, _, _ in taken], "s")
    return made


def _in_turn(names: list[str], number: int) -> list[str]:
    """The same names, another one first each time."""
    place = number % len(names)
    return names[place:] + names[:place]


def _shipped(name: str) -> Path:
    from vlmcourse.trained import SHIPPED

    return SHIPPED / name
