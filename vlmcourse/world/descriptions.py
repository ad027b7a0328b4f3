"""What is said about a story: descriptions second by second or event by event, and captions.

Words are terse and without articles, as in the questions (language.py). Every function here is
exact: it reads the story, not pixels.
"""

from dataclasses import dataclass, replace

from vlmcourse.world.scenes import cut
from vlmcourse.world.story import COLUMNS, ROWS, SLIDE, Event, Story

NOTHING = "nothing"


def place_words(row: float, column: float) -> str:
    """Name a place; between two places the nearer one (a slide's start at its middle)."""
    return f"{ROWS[round(row)]} {COLUMNS[round(column)]}"


def event_words(story: Story, event: Event) -> str:
    """Say who does what, for example `red circle glows`."""
    return f"{story.things[event.thing].name} {event.action}"


def scene_words(story: Story) -> list[str]:
    """Describe every thing (and every mark) as it stands at the start, one clause each."""
    things = [f"{t.size} {t.name} {place_words(t.row, t.column)}" for t in story.things]
    marks = [f"number {m.digit} {place_words(m.row, m.column)}" for m in story.marks]
    return things + marks


def event_list(story: Story, offset_s: int = 0) -> str:
    """Describe the whole clip as a scene and a list of events, sounds and spoken lines with times;
    a film of several scenes as one such list after the other.

    Args:
        offset_s: added to every time, for clips that are cut out of a longer film.
    """
    if story.scenes:
        return " ".join(event_list(one, offset_s + start_s) for start_s, one in cut(story))
    parts = ["scene : " + " , ".join(scene_words(story)) + " ."]
    for e in story.events:
        way = f" {e.direction}" if e.direction else ""
        parts.append(f"at {e.start_s + offset_s} {event_words(story, e)}{way} for {e.length_s} .")
    parts += [f"sound {s.kind} at {s.start_s + offset_s} ." for s in story.sounds]
    parts += [f"said : {story.line_text(line)} ." for line in story.lines]
    return " ".join(parts)


@dataclass(frozen=True)
class Moment:
    """One second as a list of clauses: `seen` for things and mark, `heard`, and `said`."""

    second: int
    seen: tuple[str, ...]
    heard: tuple[str, ...]
    said: tuple[str, ...]


def moments(story: Story) -> list[Moment]:
    """Describe the clip second by second, as one frame a second would show it.

    A clause names size, colour, shape, place and, during an event, the visible state. A slide
    shows as `slides` at its start place; the direction is told by the later seconds alone.
    """
    if story.scenes:
        return [
            replace(moment, second=start_s + moment.second)
            for start_s, one in cut(story)
            for moment in moments(one)
        ]
    result = []
    for second in range(story.duration_s):
        now = story.event_at(second)
        seen = []
        for index, t in enumerate(story.things):
            sliding = now is not None and now.thing == index and now.action == SLIDE
            row, column = story.place_at(index, now.start_s if sliding else second + 0.5)
            state = f" {now.action}" if now is not None and now.thing == index else ""
            seen.append(f"{t.size} {t.name} {place_words(row, column)}{state}")
        if story.mark:
            m = story.mark
            seen.append(f"number {m.digit} {place_words(m.row, m.column)}")
        result.append(
            Moment(
                second,
                tuple(seen),
                tuple(f"sound {s.kind}" for s in story.sounds if s.start_s == second),
                tuple(story.line_text(x) for x in story.lines if x.start_s == second),
            )
        )
    return result


def storyboard(story: Story, offset_s: int = 0) -> str:
    """Describe the clip frame by frame: `0 : small red circle top left , ... . 1 : ...`."""
    parts = []
    for m in moments(story):
        parts.append(f"{m.second + offset_s} : " + " , ".join(m.seen) + " .")
        parts += [f"{text} ." for text in m.heard]
        parts += [f"said : {text} ." for text in m.said]
    return " ".join(parts)


CAPTION_REQUESTS = {
    "short": "what is shown ?",
    "detailed": "describe in detail ?",
    "timed": "describe with times ?",
    "heard": "what is heard ?",
}


def caption(story: Story, style: str = "short", offset_s: int = 0) -> str:
    """Caption a clip in one of the styles of `CAPTION_REQUESTS`; `offset_s` as in `event_list`."""
    if style == "short":
        return " , ".join(t.name for t in story.things)
    if style == "detailed":
        return " . ".join(
            [" , ".join(scene_words(story)), *(event_words(story, e) for e in story.events)]
        )
    if style == "timed":
        return " . ".join(
            f"at {e.start_s + offset_s} {event_words(story, e)} for {e.length_s}"
            for e in story.events
        )
    if style == "heard":
        heard = [f"{s.kind} at {s.start_s + offset_s}" for s in story.sounds]
        return " , ".join(heard) or NOTHING
    raise ValueError(f"unknown caption style {style!r}; known: {', '.join(CAPTION_REQUESTS)}")
