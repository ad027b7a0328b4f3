"""Walk folders of reference cases, run the code that covers each unit, and say what agrees.

A *unit* is a JSON file (`system`, `unit`, `config`, tables) with or without a safetensors twin that
holds `weights/<official key>`, `inputs/<name>` and `outputs/<name>`. A *check* is a function `Unit
-> list[Row]`, found in an explicit table under the name `"system/unit"`. Checks read every size
from the unit itself, so a folder made elsewhere, with other sizes, frame counts, batch sizes or
seeds, runs through the same code.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "tests" / "reference"
RELEASED_KEYS = "released_keys"
NOT_COVERED = "not covered"


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


def checks() -> dict[str, Check]:
    """All covered units by `"system/unit"`."""
    from vlmcourse.reference import table_units, video_chatgpt_units

    table: dict[str, Check] = {}
    for module in (table_units, video_chatgpt_units):
        twice = table.keys() & module.UNITS.keys()
        if twice:
            raise ValueError(f"two checks for {sorted(twice)}")
        table.update(module.UNITS)
    return table


def find_units(folder: Path) -> Iterator[Path]:
    """Every file of the reference form under `folder`, in order of path.

    A JSON object is a unit when it names one (`unit`), tells its `source`, is called
    `released_keys.json` or has a safetensors twin. A safetensors file without a JSON twin is
    yielded too, because it is damage; so is a JSON file that does not parse. Other JSON (sample
    data, say) is passed over.
    """
    for path in sorted(folder.rglob("*.json")):
        if path.stem == RELEASED_KEYS or path.with_suffix(".safetensors").exists():
            yield path
            continue
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            yield path
            continue
        if isinstance(meta, dict) and meta.keys() & {"unit", "source", "sources"}:
            yield path
    for path in sorted(folder.rglob("*.safetensors")):
        if not path.with_suffix(".json").exists():
            yield path


def read_unit(path: Path) -> Unit:
    """Read a unit and its tensors.

    Raises:
        ValueError: the JSON or the safetensors file cannot be read; the message names the file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        raise ValueError(f"{path}: tensors without a JSON description")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(meta, dict):
        raise ValueError(f"{path}: a unit is a JSON object, this is a {type(meta).__name__}")
    twin = path.with_suffix(".safetensors")
    tensors: dict[str, Tensor] = {}
    if twin.exists():
        try:
            tensors = load_file(twin)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{twin}: not readable as safetensors ({error})") from error
    return Unit(path, meta, tensors)


def run_unit(path: Path, table: dict[str, Check]) -> list[Row]:
    """All rows of one unit; what goes wrong becomes a failed row."""
    bare = Unit(path, {})
    try:
        unit = read_unit(path)
    except ValueError as error:
        return [failed_row(bare, "", "file", str(error))]
    check = table.get(f"{unit.system}/{unit.name}")
    if check is None:
        return [failed_row(unit, "", "unit", NOT_COVERED)]
    try:
        rows = list(check(unit))
    except Exception as error:  # a broken unit is a row; the others still run
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = (
            f" ({Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno})" if place else ""
        )
        text = str(error).strip().split("\n")[0]
        return [failed_row(unit, "", "unit", f"{type(error).__name__}: {text}{where}")]
    if not rows:
        return [failed_row(unit, "", "unit", "the check compared nothing")]
    left = sorted(unit.outputs.keys() - unit.outputs.read)
    return rows + [failed_row(unit, "", name, "not compared") for name in left]


def run_folders(folders: Sequence[Path]) -> list[Row]:
    """Rows of all units under all folders.

    Raises:
        FileNotFoundError: a folder does not exist.
    """
    table = checks()
    rows: list[Row] = []
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder")
        for path in find_units(folder):
            rows.extend(run_unit(path, table))
    return rows


def format_rows(rows: Sequence[Row]) -> str:
    """The table that the command prints."""
    lines = [
        f"{'':4} {'unit':46} {'case':22} {'output':34} {'shape':18} "
        f"{'max abs':>9} {'max rel':>9} {'atol':>7}  note"
    ]
    for row in rows:
        shape = "x".join(map(str, row.shape)) or "-"
        lines.append(
            f"{'ok' if row.ok else 'FAIL':4} {row.system + '/' + row.unit:46} {row.case or '-':22} "
            f"{row.output:34} {shape:18} {row.max_abs:9.2e} {row.max_rel:9.2e} {row.atol:7.0e}  "
            f"{row.note}".rstrip()
        )
    return "\n".join(lines)


def summary(rows: Sequence[Row]) -> str:
    """One line: how many rows, units, failures."""
    units = {(row.system, row.unit) for row in rows}
    bad = sum(not row.ok for row in rows)
    uncovered = sum(row.note == NOT_COVERED for row in rows)
    return (
        f"{len(rows)} rows in {len(units)} units: {len(rows) - bad} ok, {bad} failed "
        f"({uncovered} units not covered)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 when every row is ok, 1 when one is not, 2 for a wrong call."""
    parser = argparse.ArgumentParser(
        prog="python -m vlmcourse.reference",
        description="Compare our modules with the numbers of the original code.",
        epilog="example: python -m vlmcourse.reference tests/reference/video_chatgpt",
    )
    parser.add_argument("folders", nargs="*", type=Path, default=[], metavar="FOLDER")
    parser.add_argument("--failures", action="store_true", help="print rows that are not ok only")
    options = parser.parse_args(argv)
    try:
        rows = run_folders(options.folders or [DEFAULT_FOLDER])
    except FileNotFoundError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    shown = [row for row in rows if not row.ok] if options.failures else rows
    if not rows:
        sys.stderr.write("no units found\n")
        return 1
    sys.stdout.write(f"{format_rows(shown)}\n{summary(rows)}\n")
    return 0 if all(row.ok for row in rows) else 1
