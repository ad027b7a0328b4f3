"""Films of several scenes: stories told one after the other, with hard cuts between them.

Every scene has a story of its own, of things that no other scene of the film shows. Joined they are
one story again, so that whatever is asked of a film is asked of all of its scenes: what happens
first happens in the first one.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from vlmcourse.world.story import Scene, Story


def join(stories: Sequence[Story]) -> Story:
    """Tell stories one after the other as one film; a single one is returned as it is.

    Raises:
        ValueError: no story, a story that has scenes already, or a thing that two of them show.
    """
    if not stories or any(story.scenes for story in stories):
        raise ValueError("a film is joined of at least one story, each without cuts")
    if len(stories) == 1:
        return stories[0]
    if not distinct(stories):
        raise ValueError("no thing may be shown in two scenes of a film")
    things, events, sounds, lines, scenes, start_s = [], [], [], [], [], 0
    for story in stories:
        before = len(things)
        scenes.append(Scene(start_s, story.seed, len(story.things), story.mark))
        things += story.things
        events += [
            replace(e, start_s=e.start_s + start_s, thing=e.thing + before) for e in story.events
        ]
        sounds += [replace(s, start_s=s.start_s + start_s) for s in story.sounds]
        lines += [
            replace(x, start_s=x.start_s + start_s, thing=x.thing + before) for x in story.lines
        ]
        start_s += story.duration_s
    parts = map(tuple, (things, events, sounds, lines))
    return Story(stories[0].seed, start_s, *parts, scenes=tuple(scenes))


def distinct(stories: Sequence[Story]) -> bool:
    """Whether no thing, told by colour and shape, is shown by two of these stories."""
    names = [thing.name for story in stories for thing in story.things]
    return len(set(names)) == len(names)


def cut(story: Story) -> list[tuple[int, Story]]:
    """Every scene as a story of its own, with the second at which it begins."""
    if not story.scenes:
        return [(0, story)]
    return list(_parts(story))


def _parts(story: Story) -> Iterator[tuple[int, Story]]:
    before = 0
    for scene, end_s in zip(story.scenes, scene_borders(story)[1:], strict=True):
        start_s, last = scene.start_s, before + scene.things

        def here(told, start_s=start_s, end_s=end_s):
            return [replace(x, start_s=x.start_s - start_s) for x in told
                    if start_s <= x.start_s < end_s]  # fmt: skip

        yield (
            start_s,
            Story(
                scene.seed,
                end_s - start_s,
                story.things[before:last],
                tuple(replace(e, thing=e.thing - before) for e in here(story.events)),
                tuple(here(story.sounds)),
                tuple(replace(x, thing=x.thing - before) for x in here(story.lines)),
                scene.mark,
            ),
        )
        before = last


def scene_borders(story: Story) -> list[int]:
    """Seconds at which scenes begin, the first one's 0 too, and at last the film's end."""
    return [*([scene.start_s for scene in story.scenes] or [0]), story.duration_s]


def scene_of(story: Story, times_s: Iterable[float]) -> list[int]:
    """Number of the scene that is shown at each of some times; a time beyond the end counts to the
    last scene."""
    starts = scene_borders(story)[:-1]
    return [max(0, bisect_right(starts, time_s) - 1) for time_s in times_s]
