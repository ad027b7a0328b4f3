"""A unit of reference cases as read from disk, and the rows that say how ours compares."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Outputs(dict[str, Tensor]):
    """The official outputs of a unit; it remembers which of them were looked at."""

    def __init__(self, tensors: dict[str, Tensor]):
        super().__init__(tensors)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Tensor | None = None) -> Tensor | None:
        self.read.add(name)
        return super().get(name, default)

    def items(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, self[name]) for name in self)

    def values(self) -> Iterator[Tensor]:
        return (self[name] for name in self)


@dataclass(frozen=True)
class Unit:
    """One unit as read from disk.

    Attributes:
        path: the JSON file; files that belong to it (a tokenizer, say) stand beside it.
        meta: the JSON object.
        tensors: every tensor of the safetensors twin under its full name; empty without a twin.
    """

    path: Path
    meta: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @property
    def system(self) -> str:
        return str(self.meta.get("system") or self.path.resolve().parent.name)

    @property
    def name(self) -> str:
        return str(self.meta.get("unit") or self.path.stem)

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose name starts with `prefix/`, under the rest of their name."""
        head = prefix.rstrip("/") + "/"
        return {k[len(head) :]: v for k, v in self.tensors.items() if k.startswith(head)}

    @property
    def weights(self) -> dict[str, Tensor]:
        return self.group("weights")

    @property
    def inputs(self) -> dict[str, Tensor]:
        return self.group("inputs")

    @cached_property
    def outputs(self) -> Outputs:
        return Outputs(self.group("outputs"))


@dataclass(frozen=True)
class Row:
    """One compared output; the three numbers are NaN where nothing could be measured."""

    system: str
    unit: str
    case: str
    output: str
    shape: tuple[int, ...]
    max_abs: float
    max_rel: float
    atol: float
    ok: bool
    note: str = ""


Check = Callable[[Unit], Iterable[Row]]


def failed_row(unit: Unit, case: str, output: str, note: str) -> Row:
    """A row for something that could not be compared."""
    nan = float("nan")
    return Row(unit.system, unit.name, case, output, (), nan, nan, nan, False, note)


def compare_tensors(
    unit: Unit, case: str, output: str, ours: Tensor, expected: Tensor, atol: float = 1e-5
) -> Row:
    """Compare two tensors element by element.

    Args:
        unit: the unit the row belongs to.
        case: name of the case inside the unit, "" where it has one only.
        output: name of the output.
        ours: our tensor; moved to the CPU in float64 for the comparison.
        expected: the official numbers.
        atol: largest absolute difference allowed. Integers and booleans must be equal.

    Returns:
        A row; not ok when shapes differ, a number is not finite on one side only, or the difference
        exceeds `atol`. `max_rel` is the largest difference over the largest expected magnitude.
    """
    shape = tuple(expected.shape)
    row = Row(unit.system, unit.name, case, output, shape, 0.0, 0.0, atol, True)
    if tuple(ours.shape) != shape:
        return replace(failed_row(unit, case, output, f"shape {tuple(ours.shape)}, not {shape}"))
    if expected.numel() == 0:
        return row
    exact = not (expected.is_floating_point() or expected.is_complex())
    a, b = ours.detach().cpu().to(torch.float64), expected.detach().cpu().to(torch.float64)
    same = (a == b) | (a.isnan() & b.isnan())  # equal infinities and NaN on both sides agree
    difference = torch.where(same, 0.0, (a - b).abs())
    if difference.isnan().any() or difference.isinf().any():
        return replace(row, max_abs=float("nan"), max_rel=float("nan"), ok=False, note="not finite")
    max_abs = float(difference.max())
    finite = b[b.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    max_rel = max_abs / scale if scale > 0 else max_abs
    limit = 0.0 if exact else atol
    return replace(row, max_abs=max_abs, max_rel=max_rel, atol=limit, ok=max_abs <= limit)


def compare_values(unit: Unit, case: str, output: str, ours: Any, expected: Any) -> Row:
    """Compare plain values (numbers, strings, lists, dictionaries); they must be equal.

    Returns:
        A row whose note shows both sides, shortened, when they differ.
    """
    ok = bool(ours == expected)
    note = "" if ok else f"ours {_short(ours)}, expected {_short(expected)}"
    shape = (len(expected),) if isinstance(expected, list | tuple | dict) else ()
    worst = 0.0 if ok else float("nan")
    return Row(unit.system, unit.name, case, output, shape, worst, worst, 0.0, ok, note)


def _short(value: Any, width: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= width else text[: width - 3] + "..."
