"""Conditions: what a question is asked with, and what each of them takes away from the system.

A system that answers above a condition uses what the condition lacks:

- `system`: all that the system is given of a clip;
- `picture_only`, `sound_only`: the trained system given one of the two;
- `majority`, `best_constant`: one constant answer a kind of question, fitted on the training
  questions or on the asked ones themselves (no constant can do better);
- `blind`: the frozen language model of the foundations, without any video; `no_video`: the trained
  system without the tokens and the subtitles of the video;
- `other_clip`: the trained system given another clip; `other_sound`: its own pictures, and the
  sound of another clip;
- `one_frame`: a film in which the middle frame stands still; `shuffled`: all frames in a wrong
  order (the sound of both stays as it was); `shuffled_sound`: stretches of sound in a wrong order;
- `no_subtitles`, `shifted_subtitles`, `other_subtitles`: nothing is said; everything is said half a
  clip later; what is said comes from another clip;
- `text_events`, `text_storyboard`: the frozen language model of the foundations told the truth in
  words, as a list of events or second by second: what a perfect connector could reach;
- `told_events`, `told_storyboard`: the language model of the trained system told the same. Where it
  was frozen, these are the two before; else the difference is what training took from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmcourse.errors import UserError

if TYPE_CHECKING:
    from vlmcourse.systems.processor import Given

SYSTEM = "system"
SUBTITLES = ("no_subtitles", "shifted_subtitles", "other_subtitles")
CONTROLS = {
    "one_sense": ("picture_only", "sound_only"),
    "majority": ("majority", "best_constant"),
    "blind": ("blind", "no_video"),
    "other_clip": ("other_clip",),
    "other_sound": ("other_sound",),
    "one_frame": ("one_frame",),
    "shuffled": ("shuffled",),
    "shuffled_sound": ("shuffled_sound",),
    "subtitles": SUBTITLES,
    "oracle_text": ("text_events", "text_storyboard"),
    "retention": ("text_events", "text_storyboard", "told_events", "told_storyboard"),
}
"""What `--controls` takes, and the conditions that each stands for."""
CONDITIONS = tuple(dict.fromkeys((SYSTEM, *(x for names in CONTROLS.values() for x in names))))
CONSTANT = ("majority", "best_constant")
FROZEN = ("blind", "text_events", "text_storyboard")
"""Conditions that ask the frozen language model, the same for all trained runs."""
TRAINED = tuple(name for name in CONDITIONS if name not in CONSTANT + FROZEN)
RETENTION = {
    "events": ("told_events", "text_events"),
    "storyboard": ("told_storyboard", "text_storyboard"),
}
"""Form of the text -> the trained and the frozen language model told the truth in it."""
WITHOUT_MEDIA = ("no_video", "told_events", "told_storyboard", *FROZEN)
"""Conditions that ask with text alone."""
OWN_LAYOUT = ("picture_only", "sound_only", "other_clip", "other_sound", *SUBTITLES)
"""Conditions in which something else than the system's own layout may stand in a row."""
BLIND = ("majority", "best_constant", "blind", "no_video", "other_clip")
"""Conditions that neither see nor hear the clip they are asked about."""

PICTURES, SOUNDS = "pictures", "sounds"
"""Streams of features; every other stream is of frames, as PICTURES is."""
EYES = frozenset({"picture", "motion", "memory"})
EARS = frozenset({"sound"})
WORDS = frozenset({"speech"})
"""The evidence of questions (`world.language.FAMILIES`) that frames, sound and subtitles hold."""
LACKS = {
    "picture_only": EARS,
    "other_sound": EARS,
    "sound_only": EYES,
    "no_subtitles": WORDS,
    "other_subtitles": WORDS,
}
"""Conditions that lack part of the evidence (those of `BLIND` lack all of it)."""


@dataclass(frozen=True)
class Asked:
    """Who is asked about what, as far as it decides which conditions mean something.

    Attributes:
        given: streams that the system is given.
        subtitles: it reads what is said in the clips.
        film: the clips have several frames; a single picture has no order.
        language_trained: its language model is not the frozen one any more.
    """

    given: "Given"
    subtitles: bool = False
    film: bool = True
    language_trained: bool = False

    @property
    def streams(self) -> list[str]:
        """Names of the streams that the system is given, pictures first."""
        return given_streams(self.given)

    @property
    def evidence(self) -> frozenset[str]:
        """The kinds of evidence that the system is given."""
        return given_evidence(self.given) | (WORDS if self.subtitles else frozenset())


def needed(evidence: str) -> frozenset[str]:
    """The kinds of evidence behind one name: "picture+sound" needs both."""
    return frozenset(evidence.split("+"))


def given_streams(given: "Given") -> list[str]:
    """Names of the streams that a system is given, pictures first."""
    return [name for name in (given.pictures, given.sounds) if name is not None]


def given_evidence(given: "Given") -> frozenset[str]:
    """The kinds of evidence in the streams that a system is given; none of them holds speech."""
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


def takes_something_away(condition: str, asked: Asked) -> bool:
    """Whether a condition differs from the system (or from another condition) here."""
    given, streams = asked.given, asked.streams
    if condition in ("one_frame", "shuffled"):
        return asked.film and any(name != SOUNDS for name in streams)
    if condition == "shuffled_sound":
        return SOUNDS in streams
    if condition == "other_sound":
        return given.pictures is not None and given.sounds == SOUNDS
    if condition in SUBTITLES:
        return asked.subtitles
    if condition in ("told_events", "told_storyboard"):
        return asked.language_trained
    return len(streams) == 2 or condition not in ("picture_only", "sound_only")


def chosen_conditions(controls: Sequence[str] | None, asked: "Asked | Given") -> list[str]:
    """The system, the best constant answer (which costs nothing, and without which a guess passes
    for knowledge), and the conditions of the controls.

    Args:
        controls: names of `CONTROLS`; None takes all that take something away. "retention" may be
            named for a frozen language model, too: it then has to come out as no difference.
        asked: who is asked about what; what it is given, if nothing else matters.

    Raises:
        UserError: a control that is unknown, or asked for and means nothing here.
    """
    asked = asked if isinstance(asked, Asked) else Asked(asked)
    if unknown := [name for name in controls or () if name not in CONTROLS]:
        raise UserError(f"unknown control {unknown[0]!r}. Known: {', '.join(CONTROLS)}")
    found = [SYSTEM]
    for control in CONTROLS if controls is None else controls:
        named = controls is not None
        fitting = [name for name in CONTROLS[control] if takes_something_away(name, asked)]
        if named and control == "retention":
            fitting = list(CONTROLS[control])
        if not fitting and named:
            told = " and ".join(asked.streams) + (" and subtitles" if asked.subtitles else "")
            what = "" if asked.film else ", one at a time"
            raise UserError(f"control {control!r} takes nothing from a system given {told}{what}")
        found += fitting
    chosen = {*found, "best_constant"}
    return [name for name in CONDITIONS if name in chosen]
