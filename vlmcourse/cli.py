"""The door: ``vlmcourse NAME ...`` finds the command and calls it, importing nothing else."""

import difflib
import importlib
import sys

from vlmcourse import __version__
from vlmcourse.errors import UserError

COMMANDS: dict[str, tuple[str, str]] = {
    "course": ("vlmcourse.course:main", "prepare everything and run the chapters headlessly"),
    "world": ("vlmcourse.world.command:main", "write the procedural video world as media files"),
    "foundations": ("vlmcourse.foundations.cli:main", "rebuild the small frozen backbones"),
    "train": ("vlmcourse.training.cli:main", "train one stage of a system"),
    "evaluate": ("vlmcourse.evaluation.cli:main", "measure systems on their probes"),
    "sweep": ("vlmcourse.sweep.cli:main", "run a grid of runs and judge its hypotheses"),
    "compare": ("vlmcourse.evaluation.compare:main", "measure two systems against each other"),
    "classify": (
        "vlmcourse.evaluation.classification:main",
        "exact matches on LVU, Breakfast, COIN and sets of short answers",
    ),
    "table": ("vlmcourse.comparison:main", "render the comparison of the systems"),
    "timings": ("vlmcourse.evaluation.timings:main", "measure speeds on this machine"),
    "chat": ("vlmcourse.chat:main", "ask a system about a video file"),
    "reference": ("vlmcourse.reference.__main__:main", "compare our modules with reference cases"),
}

EXAMPLE = 'vlmcourse chat --system video_chatgpt CLIP.mp4 "what happens first?"'


def usage() -> str:
    """Return the text of ``vlmcourse --help``: every command with one line, and an example."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: vlmcourse NAME [options]",
            "",
            "Video language models: a course, a package, a small world to train in.",
            "",
            "commands:",
            *lines,
            "",
            "`vlmcourse NAME --help` tells more about one of them.",
            f"example: {EXAMPLE}",
        ]
    )


def find_command(name: str):
    """Import and return the function behind a command name.

    Raises:
        UserError: no such command; the message holds the nearest name.
    """
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown command {name!r}.{hint} Known: {', '.join(COMMANDS)}")
    module, function = COMMANDS[name][0].split(":")
    return getattr(importlib.import_module(module), function)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    0: done; 1: it ran and something in it failed; 2: what the user gave cannot be used
    (one line on standard error); 130: stopped from the keyboard.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        print(f"vlmcourse {__version__}")
        return 0
    try:
        return find_command(argv[0])(argv[1:]) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
