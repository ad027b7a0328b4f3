"""What happens: a story is sampled from a seed and says everything about one clip.

Things stand on a 3 x 3 grid. During an event a thing is in one visible state that a single frame
can show (`FRAME_ACTIONS`), or it slides to a neighbouring place, whose direction only time can
show. Sounds are independent of the picture, and a narrator gives things names that neither picture
nor sound tell. Events never overlap, so that "first", "when" and "what happens at" have one answer
each. With `live_sound` every event makes the sound of its action (`ACTION_SOUND`) instead: sight
and sound then tell the same, which is what binds them in one embedding space.
"""

import json
from dataclasses import asdict, dataclass, replace

import numpy as np

from vlmcourse.errors import UserError

COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SHAPES = ("circle", "square", "triangle", "star", "cross", "moon")
SIZES = ("small", "big")
ROWS = ("top", "centre", "bottom")
COLUMNS = ("left", "middle", "right")
FRAME_ACTIONS = ("jumps", "tilts", "glows", "empties", "hides")
SLIDE = "slides"
ACTIONS = (*FRAME_ACTIONS, SLIDE)
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
SOUNDS = ("bell", "buzzer", "whistle", "drum", "siren", "rattle")
ACTION_SOUND = {
    "jumps": "drum",
    "tilts": "rattle",
    "glows": "bell",
    "empties": "whistle",
    "hides": "buzzer",
    "slides": "siren",
}
"""The sound that each action makes where sound is live."""
NAMES = ("anna", "bob", "carla", "dan", "emma", "frank", "gina", "hugo")
MOST_THINGS = 5
LONGEST_EVENT_S = 3
MOST_EVENTS = 12
SHORTEST_S, LONGEST_S = 4, 600
"""Limits of a film."""
PICTURE_S = 1
"""A story of one second is a picture: one moment, which no film is as short as."""


@dataclass(frozen=True)
class Thing:
    """One object; `row` and `column` index `ROWS` and `COLUMNS` at the start of the clip."""

    colour: str
    shape: str
    size: str
    row: int
    column: int

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Event:
    """Thing number `thing` does `action` from `start_s` for `length_s` whole seconds."""

    start_s: int
    length_s: int
    thing: int
    action: str
    direction: str | None = None

    @property
    def end_s(self) -> int:
        return self.start_s + self.length_s


@dataclass(frozen=True)
class Sound:
    """A sound of one timbre, heard during the second that begins at `start_s`."""

    start_s: int
    kind: str


@dataclass(frozen=True)
class Line:
    """The narrator names a thing; shown as a subtitle from `start_s` for one and a half seconds."""

    start_s: int
    thing: int
    name: str


@dataclass(frozen=True)
class Mark:
    """A small digit in an empty place, legible from about 64 pixels a side."""

    digit: int
    row: int
    column: int


@dataclass(frozen=True)
class Scene:
    """A stretch of a film between two hard cuts, which shows other things than those before it.

    `things` of the film's things are its own, in order after those of the scenes before.
    """

    start_s: int
    seed: int
    things: int
    mark: Mark | None = None


@dataclass(frozen=True)
class Story:
    """Everything about one clip, in whole seconds; `scenes` are told if there are several."""

    seed: int
    duration_s: int
    things: tuple[Thing, ...]
    events: tuple[Event, ...]
    sounds: tuple[Sound, ...] = ()
    lines: tuple[Line, ...] = ()
    mark: Mark | None = None
    scenes: tuple[Scene, ...] = ()

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Every mark that is shown, scene by scene."""
        told = [scene.mark for scene in self.scenes] or [self.mark]
        return tuple(mark for mark in told if mark)

    @property
    def is_picture(self) -> bool:
        """Whether this is one moment, of which nothing that takes time can be asked."""
        return self.duration_s == PICTURE_S

    def event_at(self, second: int) -> Event | None:
        """Return the event that is under way during `second`, or None."""
        return next((e for e in self.events if e.start_s <= second < e.end_s), None)

    def place_at(self, thing: int, time_s: float) -> tuple[float, float]:
        """Return `(row, column)` of a thing; between two places while it slides."""
        row, column = float(self.things[thing].row), float(self.things[thing].column)
        for event in self.events:
            if event.thing == thing and event.action == SLIDE:
                done = min(max((time_s - event.start_s) / event.length_s, 0.0), 1.0)
                step = DIRECTIONS[event.direction]
                row, column = row + done * step[0], column + done * step[1]
        return row, column

    def line_text(self, line: Line) -> str:
        """Return the narrator's words of a line."""
        return f"{self.things[line.thing].name} is called {line.name}"

    def to_json(self) -> str:
        """Return the story as one line of JSON; scenes stand in it only if there are several."""
        told = {k: v for k, v in asdict(self).items() if k != "scenes" or v}
        return json.dumps(told, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "Story":
        """Read what `to_json` wrote."""
        raw = json.loads(text)
        return Story(
            seed=raw["seed"],
            duration_s=raw["duration_s"],
            things=tuple(Thing(**t) for t in raw["things"]),
            events=tuple(Event(**e) for e in raw["events"]),
            sounds=tuple(Sound(**s) for s in raw["sounds"]),
            lines=tuple(Line(**line) for line in raw["lines"]),
            mark=_mark(raw["mark"]),
            scenes=tuple(Scene(**{**s, "mark": _mark(s["mark"])}) for s in raw.get("scenes", ())),
        )


def _mark(raw: dict | None) -> Mark | None:
    return Mark(**raw) if raw else None


@dataclass(frozen=True)
class StorySettings:
    """How stories are sampled; ranges are inclusive and sampled uniformly.

    `duration_s` is one length for all stories, or a tuple of which every story draws one; a story
    too short for `events[1]` events (one in two seconds) has as many as fit.

    `held_out` is "exclude" (no combination of `is_held_out`, for training and validation) or
    "require" (at least one such event, for testing). `live_sound` lets every event make the sound
    of its action (and last one second, as sounds do); otherwise sounds are dubbed at random.
    """

    duration_s: int | tuple[int, ...] = 8
    things: tuple[int, int] = (2, 4)
    events: tuple[int, int] = (1, 4)
    sounds: tuple[int, int] = (0, 2)
    lines: tuple[int, int] = (0, 2)
    mark_probability: float = 0.5
    held_out: str = "exclude"
    live_sound: bool = False

    def __post_init__(self):
        limits = f"{SHORTEST_S} to {LONGEST_S} seconds"
        if not self.durations_s:
            raise UserError(f"duration_s must be {limits}, not an empty list")
        for duration_s in self.durations_s:
            if not SHORTEST_S <= duration_s <= LONGEST_S:
                raise UserError(f"duration_s must be {limits}, not {duration_s}")
        if self.held_out not in ("exclude", "require"):
            raise UserError(f"held_out must be 'exclude' or 'require', not {self.held_out!r}")
        if not 1 <= self.things[0] <= self.things[1] <= MOST_THINGS:
            raise UserError(f"things must lie within 1 to {MOST_THINGS}, not {self.things}")
        most = min(max(self.durations_s) // 2, MOST_EVENTS)
        if not 0 <= self.events[0] <= self.events[1] <= most:
            raise UserError(f"events must lie within 0 to {most}, not {self.events}")
        if self.events[0] > min(self.durations_s) // 2:
            raise UserError(
                f"{self.events[0]} events do not fit into {min(self.durations_s)} seconds"
            )
        if self.held_out == "require" and self.events[0] < 1:
            raise UserError("held_out='require' needs at least one event in every story")
        if not 0 <= self.sounds[0] <= self.sounds[1] <= len(SOUNDS):
            raise UserError(f"sounds must lie within 0 to {len(SOUNDS)}, not {self.sounds}")

    @classmethod
    def of_length(
        cls, duration_s: int | tuple[int, ...], live_sound: bool = False
    ) -> "StorySettings":
        """Return settings in which more happens in a longer story, as the cube root of its length.

        Up to 8 s there are 1 to 4 events, in 16 s 1 to 5, in 32 s 2 to 6, in 64 s 2 to 8; sounds
        and lines grow as slowly. So a long film differs from a short one by its length above all.
        """
        settings = cls(duration_s, events=(0, 0), live_sound=live_sound)
        shortest, longest = min(settings.durations_s), max(settings.durations_s)

        def at(length_s: int, count: int, most: int) -> int:
            return min(round(count * max(1.0, length_s / cls.duration_s) ** (1 / 3)), most)

        return replace(
            settings,
            events=(
                at(shortest, cls.events[0], shortest // 2),
                at(longest, cls.events[1], min(longest // 2, MOST_EVENTS)),
            ),
            sounds=(cls.sounds[0], at(longest, cls.sounds[1], len(SOUNDS))),
            lines=(cls.lines[0], at(longest, cls.lines[1], MOST_THINGS)),
        )

    @property
    def durations_s(self) -> tuple[int, ...]:
        """Every length that a story may have."""
        return self.duration_s if isinstance(self.duration_s, tuple) else (self.duration_s,)

    def of_one_length(self, rng: np.random.Generator) -> "StorySettings":
        """Draw one length; settings that have only one draw nothing and are returned as such."""
        if not isinstance(self.duration_s, tuple):
            return self
        duration_s = int(rng.choice(self.duration_s))
        events = (self.events[0], min(self.events[1], duration_s // 2))
        return replace(self, duration_s=duration_s, events=events)


def is_held_out(colour: str, shape: str, action: str) -> bool:
    """Say whether this combination is kept for the test split (one in nine of all combinations)."""
    index = COLOURS.index(colour) + 2 * SHAPES.index(shape) + 4 * ACTIONS.index(action)
    return index % 9 == 0


def sample_story(seed: int, settings: StorySettings | None = None) -> Story:
    """Sample one story; the same seed and settings give the same story."""
    rng = np.random.default_rng(seed)
    settings = (settings or StorySettings()).of_one_length(rng)
    count = int(rng.integers(settings.things[0], settings.things[1] + 1))
    wanted = int(rng.integers(settings.events[0], settings.events[1] + 1))
    wanted = min(wanted, count * len(FRAME_ACTIONS) + 1)  # nothing happens twice; one thing slides
    while True:
        story = _draw(rng, seed, settings, count, wanted)
        if story is not None:
            return story


def _draw(rng, seed: int, settings: StorySettings, count: int, wanted: int) -> Story | None:
    """Draw once; None when the draw breaks a rule of `settings` and has to be repeated."""
    colours = rng.permutation(len(COLOURS))[:count]
    shapes = rng.permutation(len(SHAPES))[:count]
    cells = rng.permutation(9)
    things = tuple(
        Thing(COLOURS[c], SHAPES[s], SIZES[rng.integers(2)], int(cell) // 3, int(cell) % 3)
        for c, s, cell in zip(colours, shapes, cells[:count], strict=True)
    )
    longest_s = 1 if settings.live_sound else LONGEST_EVENT_S
    events = _draw_events(rng, things, wanted, settings.duration_s, longest_s)
    if events is None:
        return None
    combinations = [
        is_held_out(things[e.thing].colour, things[e.thing].shape, e.action) for e in events
    ]
    if settings.held_out == "exclude" and any(combinations):
        return None
    if settings.held_out == "require" and not any(combinations):
        return None
    story = Story(seed, settings.duration_s, things, events)
    mark = None
    if rng.random() < settings.mark_probability:
        mark = _draw_mark(rng, story)
    return replace(
        story,
        sounds=_live_sounds(events) if settings.live_sound else _draw_sounds(rng, settings),
        lines=_draw_lines(rng, count, settings),
        mark=mark,
    )


def _draw_events(
    rng, things, wanted: int, duration_s: int, longest_s: int
) -> tuple[Event, ...] | None:
    pairs = [(t, a) for t in range(len(things)) for a in ACTIONS]
    chosen = [pairs[i] for i in rng.permutation(len(pairs))[:wanted]]
    if sum(action == SLIDE for _, action in chosen) > 1:
        return None
    lengths = [1 if a == SLIDE else int(rng.integers(1, longest_s + 1)) for _, a in chosen]
    starts = _fit(rng, lengths, duration_s)
    if starts is None:
        return None
    events = []
    for (thing, action), start, length in zip(chosen, starts, lengths, strict=True):
        direction = None
        if action == SLIDE:
            # A slide needs still seconds on both sides: time alone shows where it went.
            if start < 1 or start + 1 >= duration_s:
                return None
            free = _free_directions(things, thing)
            if not free:
                return None
            direction = free[rng.integers(len(free))]
        events.append(Event(start, length, thing, action, direction))
    return tuple(sorted(events, key=lambda e: e.start_s))


def _fit(rng, lengths: list[int], duration_s: int) -> list[int] | None:
    """Place intervals of these lengths at random without overlap; None if too long."""
    spare = duration_s - sum(lengths)
    if spare < 0:
        return None
    order = rng.permutation(len(lengths))
    gaps = np.sort(rng.integers(0, spare + 1, size=len(lengths)))
    starts, used = [0] * len(lengths), 0
    for gap, index in zip(gaps, order, strict=True):
        starts[index] = int(gap) + used
        used += lengths[index]
    return starts


def _free_directions(things, moving: int) -> list[str]:
    taken = {(t.row, t.column) for t in things}
    here = things[moving]
    return [
        name
        for name, (down, right) in DIRECTIONS.items()
        if 0 <= here.row + down < 3
        and 0 <= here.column + right < 3
        and (here.row + down, here.column + right) not in taken
    ]


def _draw_sounds(rng, settings) -> tuple[Sound, ...]:
    wanted = int(rng.integers(settings.sounds[0], settings.sounds[1] + 1))
    kinds = rng.permutation(len(SOUNDS))[:wanted]
    seconds = np.sort(rng.permutation(settings.duration_s)[:wanted])
    return tuple(Sound(int(s), SOUNDS[k]) for s, k in zip(seconds, kinds, strict=True))


def _live_sounds(events: tuple[Event, ...]) -> tuple[Sound, ...]:
    return tuple(Sound(e.start_s, ACTION_SOUND[e.action]) for e in events)


def _draw_lines(rng, count: int, settings) -> tuple[Line, ...]:
    wanted = min(int(rng.integers(settings.lines[0], settings.lines[1] + 1)), count)
    things = rng.permutation(count)[:wanted]
    names = rng.permutation(len(NAMES))[:wanted]
    seconds = np.sort(rng.permutation(settings.duration_s // 2)[:wanted]) * 2
    return tuple(
        Line(int(s), int(t), NAMES[n]) for s, t, n in zip(seconds, things, names, strict=True)
    )


def _draw_mark(rng, story: Story) -> Mark | None:
    used = {(t.row, t.column) for t in story.things}
    for index in range(len(story.things)):
        row, column = story.place_at(index, float(story.duration_s))
        used.add((round(row), round(column)))
    free = [cell for cell in range(9) if (cell // 3, cell % 3) not in used]
    if not free:
        return None
    cell = free[rng.integers(len(free))]
    return Mark(int(rng.integers(10)), cell // 3, cell % 3)
