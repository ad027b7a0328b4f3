"""Conditions: what a question is asked with, and what each of them takes away from the system.

A system that answers above a condition uses what the condition lacks:

- `system`: all that the system is given of a clip;
- `picture_only`, `sound_only`: the trained system given one of the two;
- `majority`, `best_constant`: one constant answer a kind of question, fitted on the training
  questions or on the asked ones themselves (no constant can do better);
- `blind`: the frozen language model without any video; `no_video`: the trained system without the
  tokens of the video;
- `other_clip`: the trained system given another clip; `other_sound`: its own pictures, and the
  sound of another clip;
- `one_frame`: a film in which the middle frame stands still; `shuffled`: all frames in a wrong
  order (the sound of both stays as it was); `shuffled_sound`: stretches of sound in a wrong order;
- `text_events`, `text_storyboard`: the frozen language model told the truth in words, as a list of
  events or second by second: what a perfect connector could reach.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlmcourse.errors import UserError

if TYPE_CHECKING:
    from vlmcourse.systems.processor import Given

SYSTEM = "system"
CONTROLS = {
    "one_sense": ("picture_only", "sound_only"),
    "majority": ("majority", "best_constant"),
    "blind": ("blind", "no_video"),
    "other_clip": ("other_clip",),
    "other_sound": ("other_sound",),
    "one_frame": ("one_frame",),
    "shuffled": ("shuffled",),
    "shuffled_sound": ("shuffled_sound",),
    "oracle_text": ("text_events", "text_storyboard"),
}
"""What `--controls` takes, and the conditions that each stands for."""
CONDITIONS = (SYSTEM, *(name for names in CONTROLS.values() for name in names))
CONSTANT = ("majority", "best_constant")
FROZEN = ("blind", "text_events", "text_storyboard")
"""Conditions that ask the frozen language model, the same for all trained runs."""
TRAINED = tuple(name for name in CONDITIONS if name not in CONSTANT + FROZEN)
OWN_LAYOUT = ("picture_only", "sound_only", "other_clip", "other_sound")
"""Conditions in which other places than the system's own may stand in a row."""
BLIND = ("majority", "best_constant", "blind", "no_video", "other_clip")
"""Conditions that neither see nor hear the clip they are asked about."""

PICTURES, SOUNDS = "pictures", "sounds"
"""Streams of features; every other stream is of frames, as PICTURES is."""
EYES = frozenset({"picture", "motion", "memory"})
EARS = frozenset({"sound"})
"""The evidence of questions (`world.language.FAMILIES`) that frames hold, and that sound holds."""
LACKS = {"picture_only": EARS, "other_sound": EARS, "sound_only": EYES}
"""Conditions that lack part of the evidence (those of `BLIND` lack all of it)."""


def needed(evidence: str) -> frozenset[str]:
    """The kinds of evidence behind one name: "picture+sound" needs both."""
    return frozenset(evidence.split("+"))


def given_streams(given: "Given") -> list[str]:
    """Names of the streams that a system is given, pictures first."""
    return [name for name in (given.pictures, given.sounds) if name is not None]


def given_evidence(given: "Given") -> frozenset[str]:
    """The kinds of evidence that a system is given; nobody is given speech by these streams."""
    each = (EARS if name == SOUNDS else EYES for name in given_streams(given))
    return frozenset().union(*each)


def read_given(names: Sequence[str]) -> "Given":
    """Names of streams, as `--given` takes them, to what fills the places of pictures and of sound.

    "pictures" fills the places of pictures; every other stream fills those of sound, as
    "sound_pictures" does (frames through the sound encoder's own picture side).

    Raises:
        UserError: none, or two for the same places.
    """
    from vlmcourse.systems.processor import Given

    heard = [name for name in names if name != PICTURES]
    if not names or len(set(names)) < len(names) or len(heard) > 1:
        raise UserError(
            f"--given takes {PICTURES}, one stream for the places of sound, or both; "
            f"not {' '.join(names) or 'nothing'}"
        )
    return Given(PICTURES if PICTURES in names else None, heard[0] if heard else None)


def takes_something_away(condition: str, given: "Given") -> bool:
    """Whether a condition differs from the system for one that is given this."""
    streams = given_streams(given)
    if condition in ("one_frame", "shuffled"):
        return any(name != SOUNDS for name in streams)
    if condition == "shuffled_sound":
        return SOUNDS in streams
    if condition == "other_sound":
        return given.pictures is not None and given.sounds == SOUNDS
    return len(streams) == 2 or condition not in ("picture_only", "sound_only")


def chosen_conditions(controls: Sequence[str] | None, given: "Given") -> list[str]:
    """The system and the conditions of the controls; None takes all that take something away.

    Raises:
        UserError: a control that is unknown, or asked for and means nothing for what is given.
    """
    if unknown := [name for name in controls or () if name not in CONTROLS]:
        raise UserError(f"unknown control {unknown[0]!r}. Known: {', '.join(CONTROLS)}")
    found = [SYSTEM]
    for control in CONTROLS if controls is None else controls:
        fitting = [name for name in CONTROLS[control] if takes_something_away(name, given)]
        if not fitting and controls is not None:
            told = " and ".join(given_streams(given))
            raise UserError(f"control {control!r} takes nothing from a system given {told}")
        found += fitting
    return found
