"""Options of trained runs that are changed when they are asked: read, checked, spread as a grid.

What a system reads of a file (frames, pixels) may be another at test than in training; what decides
the shape of its weights may not.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmcourse.errors import UserError

if TYPE_CHECKING:
    from vlmcourse.systems.base import VideoLanguageModel

SHOWN = 4
"""Most parameters that a complaint names."""


def read_options(options: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` settings, the values as YAML reads them.

    Raises:
        UserError: another form, or a name that stands there twice.
    """
    read: dict[str, Any] = {}
    for option in options:
        name, value = _parts(option, "an option is NAME=VALUE")
        if name in read:
            raise UserError(f"option {name} stands there twice")
        read[name] = _value(option, value)
    return read


def _parts(option: str, form: str) -> tuple[str, str]:
    name, equals, value = option.partition("=")
    if not (name and equals):
        raise UserError(f"{form}, not {option!r}")
    return name, value


def _value(option: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"option {option!r}: no value ({error})") from error


@dataclass(frozen=True)
class Grid:
    """All combinations of a few values of a few options.

    Attributes:
        axes: option -> its values, the slowest axis first.
    """

    axes: dict[str, tuple[Any, ...]]

    @property
    def cells(self) -> list[dict[str, Any]]:
        """Every combination as options, in reading order."""
        return [dict(zip(self.axes, values)) for values in itertools.product(*self.axes.values())]


def cell_name(cell: Mapping[str, Any]) -> str:
    """The name of a combination in the metrics of a record: `fps=0.5,video_max_pixels=1024`."""
    return ",".join(f"{name}={value_text(value)}" for name, value in cell.items())


def value_text(value: Any) -> str:
    """A value of an option as YAML would take it: `2`, `0.5`, `true`, `null`, `square`."""
    known = {True: "true", False: "false", None: "null"}
    return known[value] if value is None or isinstance(value, bool) else str(value)


def read_grid(axes: Sequence[str]) -> Grid:
    """`NAME=VALUE,VALUE,...` axes, the values as YAML reads them.

    Raises:
        UserError: another form, an axis without two different values, or a name twice.
    """
    read: dict[str, tuple[Any, ...]] = {}
    for axis in axes:
        name, values = _parts(axis, "an axis of a grid is NAME=VALUE,VALUE,...")
        found = tuple(_value(axis, f"[{values}]"))
        if len(found) < 2 or len(set(map(value_text, found))) < len(found):
            raise UserError(f"--grid {axis}: an axis has at least two values, each of them once")
        if name in read:
            raise UserError(f"--grid {name} stands there twice")
        read[name] = found
    return Grid(read)


def refuse_other_weights(
    system: str,
    path: Path | None,
    changes: Sequence[Mapping[str, Any]],
    foundations: Path | None = None,
) -> None:
    """Refuse options that ask for other weights than a run has.

    Args:
        system: a key of `systems.CONSTRUCTORS`.
        path: folder of one of its trained runs; None stands for the shipped weights.
        changes: options as they are to differ from those of its training, one set after the other.
        foundations: folder of the frozen parts instead of the shipped ones.

    Raises:
        UserError: names the options and the parameters that would have another shape, be missing or
            be new; or options that the system does not know.
    """
    from vlmcourse.systems import build
    from vlmcourse.trained import weights_folder
    from vlmcourse.training.weights import read_stage

    about = read_stage(weights_folder(system, path))
    trained = about.settings.get("model", {}).get("options") or {}
    had = _shapes(build(system, "world", "cpu", foundations, **trained))
    for change in changes:
        wants = _shapes(build(system, "world", "cpu", foundations, **{**trained, **change}))
        names = [name for name in had | wants if had.get(name) != wants.get(name)]
        if names:
            told = [f"{name} {_shape(had, name)} -> {_shape(wants, name)}" for name in names]
            more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
            raise UserError(
                f"{cell_name(change)} asks for other weights than were trained: "
                f"{', '.join(told[:SHOWN])}{more}; only what leaves the weights alone can be "
                "changed at test"
            )


def _shapes(model: "VideoLanguageModel") -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
    return str(shapes[name]) if name in shapes else "none"
