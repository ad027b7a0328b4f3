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
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from vlmcourse.reference import (
    blip2_qformer_units,
    chat_univi_system_units,
    chat_univi_units,
    cogvlm2_system_units,
    cogvlm2_units,
    eva_vit_units,
    imagebind_units,
    ma_lmm_units,
    minigpt4_video_units,
    qwen2_vl_units,
    table_units,
    video_chatgpt_units,
    video_llama_units,
)
from vlmcourse.reference.rows import (
    Check,
    Row,
    Unit,
    failed_row,
)

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "tests" / "reference"
RELEASED_KEYS = "released_keys"
NOT_COVERED = "not covered"


def checks() -> dict[str, Check]:
    """All covered units by `"system/unit"`."""
    table: dict[str, Check] = {}
    for module in (
        blip2_qformer_units,
        chat_univi_system_units,
        chat_univi_units,
        cogvlm2_system_units,
        cogvlm2_units,
        eva_vit_units,
        imagebind_units,
        ma_lmm_units,
        minigpt4_video_units,
        qwen2_vl_units,
        table_units,
        video_chatgpt_units,
        video_llama_units,
    ):
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
