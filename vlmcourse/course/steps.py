"""What is prepared before the chapters run, as a table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One preparation: a ``vlmcourse`` command that leaves files the chapters read.

    Args:
        name: short and unique; the log is ``runs/course/logs/NAME.log``.
        title: what the reader sees while it runs.
        command: arguments of ``vlmcourse``; ``{device}`` and ``{scale}`` are filled in.
        outputs: paths from the root that exist when it is done.
        sources: patterns of the files it depends on; a change makes it run again.
        minutes: first estimate on two cores, used until a run has been measured.
        chapters: the chapters that need it (empty: all of them).
    """

    name: str
    title: str
    command: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    minutes: float = 1.0
    chapters: tuple[str, ...] = ()


def needs(number: str, step: Step) -> bool:
    """Whether a chapter needs a step."""
    return not step.chapters or number in step.chapters


STEPS: tuple[Step, ...] = (
    Step(
        name="world",
        title="clips of the small world",
        command=("world",),
        outputs=tuple(f"data/world/{split}/manifest.json" for split in ("train", "val", "test")),
        sources=("vlmcourse/world/*.py",),
        minutes=2.0,
    ),
)
