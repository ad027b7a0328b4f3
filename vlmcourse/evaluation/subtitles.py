"""What is said at another time, or in another clip: subtitles for conditions that lack their own.

A system must use *when* something is said to be hurt by a shift, and *what* is said to be hurt by
the words of another clip.
"""

from collections.abc import Sequence
from dataclasses import replace

from vlmcourse.media.subtitles import Cue
from vlmcourse.systems.processor import Clip


def shifted_cues(cues: Sequence[Cue], duration_s: float) -> tuple[Cue, ...]:
    """Say everything half a clip later; what would come behind the end comes at the beginning.

    A cue that now reaches over the end is cut there, so no cue is said twice.

    Args:
        cues: in any order; those that begin at or behind the end count from the beginning, too.
        duration_s: of the clip, above 0 if there are cues.

    Returns:
        as many cues, in order of their start.
    """
    if cues and duration_s <= 0:
        raise ValueError(f"a clip of {duration_s} s has no half to shift its subtitles by")
    moved = []
    for cue in cues:
        start_s = (cue.start_s + duration_s / 2) % duration_s
        end_s = min(start_s + cue.end_s - cue.start_s, duration_s)
        moved.append(Cue(start_s, end_s, cue.text))
    return tuple(sorted(moved, key=lambda cue: (cue.start_s, cue.end_s)))


def cues_within(cues: Sequence[Cue], duration_s: float) -> tuple[Cue, ...]:
    """The cues that begin within a clip of this length, cut at its end."""
    kept = (cue for cue in cues if cue.start_s < duration_s)
    return tuple(Cue(cue.start_s, min(cue.end_s, duration_s), cue.text) for cue in kept)


def with_other_cues(clips: Sequence[Clip]) -> list[Clip]:
    """Every clip with the subtitles of another one, about half the list away.

    Clips without subtitles lend none, as long as another one has some.
    """
    count = len(clips)
    lenders = []
    for index in range(count):
        others = [(index + count // 2 + step) % count for step in range(count)]
        others = [other for other in others if other != index]
        telling = [other for other in others if clips[other].cues]
        lenders.append(next(iter(telling or others), None))
    return [
        replace(clip, cues=() if other is None else cues_within(clips[other].cues, clip.duration_s))
        for clip, other in zip(clips, lenders, strict=True)
    ]


def with_changed_cues(clips: Sequence[Clip], condition: str) -> list[Clip]:
    """Clips as a condition of `conditions.SUBTITLES` shows them."""
    if condition == "no_subtitles":
        return [replace(clip, cues=()) for clip in clips]
    if condition == "shifted_subtitles":
        return [replace(clip, cues=shifted_cues(clip.cues, clip.duration_s)) for clip in clips]
    if condition == "other_subtitles":
        return with_other_cues(clips)
    raise ValueError(f"condition {condition!r} changes no subtitles")
