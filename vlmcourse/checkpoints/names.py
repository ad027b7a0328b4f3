"""Names of parameters on two sides, official and ours, from one table for both ways."""

from collections.abc import Sequence

Pairs = Sequence[tuple[str, str]]
"""Official and our names; one that ends in a dot is a beginning."""

Layers = Sequence[tuple[tuple[str, str], Pairs]]
"""For each stack of layers: what stands in front of a layer's number on the two sides, and the
names behind it."""


def renamed(name: str, side: int, top: Pairs, layers: Layers) -> str:
    """A name of one side on the other side.

    Args:
        side: that of `name`; 0 official, 1 ours.
        top: names outside the layers.

    Raises:
        KeyError: no pair has the name.
    """
    for heads, names in layers:
        if name.startswith(heads[side]):
            number, _, rest = name.removeprefix(heads[side]).partition(".")
            if not number.isdecimal():
                raise KeyError(name)
            return f"{heads[1 - side]}{number}.{_swapped(rest, names, side, name)}"
    return _swapped(name, top, side, name)


def _swapped(name: str, pairs: Pairs, side: int, whole: str) -> str:
    for pair in pairs:
        old, new = pair[side], pair[1 - side]
        if name == old or (old.endswith(".") and name.startswith(old)):
            return new + name.removeprefix(old)
    raise KeyError(whole)
