"""Every word of the world, in a fixed order: new words stand at the end, so that ids stay."""

from vlmcourse.world.language import BASE_FORM, NOTHING, SECONDS
from vlmcourse.world.story import (
    ACTIONS,
    COLOURS,
    COLUMNS,
    DIRECTIONS,
    NAMES,
    ROWS,
    SHAPES,
    SIZES,
    SOUNDS,
)


def vocabulary() -> list[str]:
    """List every word of the world, in a fixed order."""
    words = [*COLOURS, *SHAPES, *SIZES, *ROWS, *COLUMNS, *ACTIONS, *BASE_FORM.values()]
    words += [*DIRECTIONS, *SOUNDS, *NAMES, *(str(n) for n in range(SECONDS)), NOTHING, "yes", "no"]
    words += _words("scene at for sound said is called number : , . ? thing things there are")
    words += _words("shown what colour shape size where how many does do which way slide when")
    words += _words("long happens events first last before after heard who describe in detail")
    words += _words("with times video seen or both")
    return list(dict.fromkeys(words))


def _words(text: str) -> list[str]:
    return text.split()
