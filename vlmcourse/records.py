"""Results on disk: one JSON record per finished run, and the tables rendered from them.

python -m vlmcourse.records README.md notebooks/*.ipynb
python -m vlmcourse.records --check README.md notebooks/*.ipynb
"""

import argparse
import importlib
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlmcourse.errors import UserError
from vlmcourse.intervals import confidence_interval, metric
from vlmcourse.measure import Cost, commit, hardware
from vlmcourse.record_form import RecordError, settings_hash, validate, without_machine

__all__ = [
    "RecordError",
    "Run",
    "confidence_interval",
    "markdown_table",
    "metric",
    "read_record",
    "read_records",
    "render_between_markers",
    "write_record",
]

# ---------------------------------------------------------------- files


def write_json(path: str | Path, value: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_record(path: str | Path, record: dict) -> dict:
    """Validate a record and write it whole or not at all; see :class:`Run` for making one."""
    validate(record, path)
    write_json(path, record)
    return record


def read_record(path: str | Path) -> dict:
    """Read one record.

    Raises:
        RecordError: missing, not JSON, or not whole.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecordError(f"{path}: no such record") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecordError(f"{path}: not JSON ({error})") from error
    return validate(record, path)


def read_records(folder: str | Path) -> dict[str, dict]:
    """Read the records of a folder and of every ``records/`` folder below it, by id.

    Raises:
        RecordError: one of them is not whole, or two have the same id.
    """
    found: dict[str, dict] = {}
    paths = {*Path(folder).glob("*.json"), *Path(folder).glob("**/records/*.json")}
    for path in sorted(paths):
        record = read_record(path)
        if record["id"] in found:
            raise RecordError(f"{path}: a second record with id {record['id']!r}")
        found[record["id"]] = record
    return found


class Run:
    """Measure the code in a ``with`` block and write its record when it ends.

    A block that raises leaves a record of status ``failed`` with the error as its note, and the
    error goes on. A run stopped from the keyboard is not finished and leaves none.

    Args:
        path: where the record goes; its stem is the id.
        command: what repeats the run; paths are stored relative to ``root``.
        settings: everything that was chosen, as plain JSON values.
        seeds: the seeds used.
        data_checksum: of the data the run read.
        root: the checkout whose commit is stored.

    Attributes:
        metrics: fill it with :func:`metric` values by name.
        status: "ok"; set it to "negative" where the idea did not work.
        note: one or two sentences.
        peak_mib: set it where other processes hold the memory; else this process is measured.
    """

    def __init__(
        self,
        path: str | Path,
        command: str | Sequence[str],
        settings: Mapping,
        seeds: Sequence[int] = (),
        data_checksum: str | None = None,
        root: str | Path | None = None,
    ):
        self.path = Path(path)
        self.root = Path(root) if root else Path(__file__).resolve().parents[1]
        self.command = command if isinstance(command, str) else " ".join(command)
        self.settings, self.seeds, self.data_checksum = dict(settings), list(seeds), data_checksum
        self.metrics: dict[str, dict] = {}
        self.status, self.note = "ok", ""
        self.peak_mib: float | None = None

    def __enter__(self) -> "Run":
        self.cost = Cost().__enter__()
        return self

    def __exit__(self, kind, error, _) -> None:
        self.cost.__exit__()
        if kind is not None and not issubclass(kind, Exception):
            return
        if kind is not None:
            self.status, self.note = "failed", f"{kind.__name__}: {error}"
        write_record(self.path, self.record())

    def record(self) -> dict:
        """The record as it stands."""
        commit_id, dirty = commit(self.root)
        clean = without_machine(json.dumps(self.settings, ensure_ascii=False), self.root)
        settings = json.loads(clean)
        return {
            "id": self.path.stem,
            "command": without_machine(self.command, self.root),
            "commit": commit_id,
            "dirty": dirty,
            "settings": settings,
            "settings_hash": settings_hash(settings),
            "seeds": self.seeds,
            "data_checksum": self.data_checksum,
            "hardware": hardware(),
            "wall_s": self.cost.wall_s,
            "cpu_s": self.cost.cpu_s,
            "peak_mib": self.cost.peak_mib if self.peak_mib is None else self.peak_mib,
            "peak_gpu_mib": self.cost.peak_gpu_mib,
            "metrics": self.metrics,
            "status": self.status,
            "note": without_machine(self.note, self.root),
        }


# ---------------------------------------------------------------- tables


def number_text(value: float) -> str:
    """Three significant digits, without an exponent for numbers people meet."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
        text = f"{value:,.{digits}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.2e}"


def metric_text(value: dict) -> str:
    """``52.3 % (49.1–55.4)`` for shares, ``12.4 s (11.9–12.9)`` for the rest; a dash for none."""
    if value["mean"] is None:
        return "—"
    share = value["unit"] == "share"
    show = (lambda x: f"{100 * x:.1f}") if share else number_text
    unit = "%" if share else value["unit"]
    text = f"{show(value['mean'])} {unit}".strip()
    if value["low"] is None or value["high"] is None:
        return text
    return f"{text} ({show(value['low'])}–{show(value['high'])})"


def cell_text(record: dict | None, name: str) -> str:
    """What a table shows of one record: a metric, a field such as ``wall_s`` or ``peak_mib``, or a
    text that stands in its settings under ``told``."""
    if record is None:
        return "—"
    told = record["settings"].get("told", {})
    if name in told:
        return " ".join(str(told[name]).split()).replace("|", "\\|")
    if record["status"] == "failed":
        return "failed"
    if name in record["metrics"]:
        return metric_text(record["metrics"][name])
    value = record.get(name)
    if name in ("wall_s", "cpu_s") and value is not None:
        return f"{value / 60:.1f} min" if value >= 90 else f"{number_text(value)} s"
    if name in ("peak_mib", "peak_gpu_mib") and value is not None:
        return f"{value:,.0f} MiB"
    return "—" if value is None else str(value)


def markdown_table(
    records: Mapping[str, dict],
    rows: Mapping[str, str],
    columns: Mapping[str, str],
    corner: str = "",
    transpose: bool = False,
) -> str:
    """Render records as a Markdown table; what was not measured is a dash.

    Args:
        records: as :func:`read_records` gives them, by id.
        rows: label -> record id, or `id#PART` for a row of metrics named `PART/COLUMN`.
        columns: label -> metric name, or a field of the record (``wall_s``, ``peak_mib``, ...); ""
            stands for the metric `PART` itself.
        corner: heading of the first column.
        transpose: records across, metrics down.
    """

    def label(name: str, record_id: str) -> str:
        negative = records.get(record_id.partition("#")[0], {}).get("status") == "negative"
        return f"{name} (negative)" if negative else name

    table = [[corner, *columns]]
    for name, row in rows.items():
        record_id, _, part = row.partition("#")
        names = [f"{part}/{column}".strip("/") for column in columns.values()]
        table.append([label(name, row), *(cell_text(records.get(record_id), n) for n in names)])
    if transpose:
        table = [list(line) for line in zip(*table)]
    table.insert(1, ["---"] + ["--:"] * (len(table[0]) - 1))
    return "\n".join(f"| {' | '.join(line)} |" for line in table)


def render_between_markers(text: str, name: str, table: str) -> str:
    """Put a table between ``<!-- table:NAME -->`` and ``<!-- /table:NAME -->``.

    Raises:
        ValueError: the text does not hold exactly one such pair.
    """
    begin, end = f"<!-- table:{name} -->", f"<!-- /table:{name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"exactly one pair {begin} ... {end} is needed")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{table}\n{end}{rest.split(end)[1]}"


def read_tables(folder: str | Path) -> dict[str, str]:
    """Render every table that ``folder/tables.yaml`` describes, from the records below the folder;
    and, as `ID.NAME`, those that a record describes in its settings under ``tables``.

    A description has ``rows`` and ``columns`` and may have ``corner`` and ``transpose``; see
    :func:`markdown_table`. Or it has only ``made_by``, a module of this package with
    ``render(folder, records) -> {name: table}``.
    """
    import yaml

    path = Path(folder) / "tables.yaml"
    described = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
    records = read_records(folder)
    tables, made = {}, {}
    own = {
        f"{name}.{table}": description
        for name, record in records.items()
        for table, description in record["settings"].get("tables", {}).items()
    }
    for name, description in {**own, **(described or {})}.items():
        if isinstance(description, dict) and set(description) == {"made_by"}:
            module = description["made_by"]
            if module not in made:
                made[module] = rendered_by(module, folder, records, path)
            if name not in made[module]:
                raise RecordError(f"{path}: {module} renders no table {name!r}")
            tables[name] = made[module][name]
            continue
        try:
            tables[name] = markdown_table(records, **description)
        except TypeError as error:
            raise RecordError(f"{path}: table {name!r}: {error}") from error
    return tables


def rendered_by(
    module: str, folder: str | Path, records: Mapping[str, dict], path: Path
) -> Mapping[str, str]:
    """Tables that a module of this package makes by itself.

    Raises:
        RecordError: not a module of this package, or one that renders nothing.
    """
    if not re.fullmatch(r"vlmcourse(\.\w+)+", module):
        raise RecordError(f"{path}: made_by names a module of vlmcourse, not {module!r}")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise RecordError(f"{path}: made_by: {error}") from error
    if not hasattr(found, "render"):
        raise RecordError(f"{path}: {module} renders no tables")
    return found.render(folder, records)


def render_text(text: str, tables: Mapping[str, str], path: str | Path) -> str:
    """Render every marked table of a text.

    Raises:
        RecordError: an unknown table, or a marker without its partner.
    """
    names = re.findall(r"<!-- table:([\w.-]+) -->", text)
    if lonely := set(re.findall(r"<!-- /table:([\w.-]+) -->", text)) - set(names):
        raise RecordError(f"{path}: end marker without a beginning: {', '.join(lonely)}")
    for name in names:
        if name not in tables:
            raise RecordError(f"{path}: no table {name!r}; known: {', '.join(tables) or 'none'}")
        try:
            text = render_between_markers(text, name, tables[name])
        except ValueError as error:
            raise RecordError(f"{path}: {error}") from error
    return text


def render_file(path: Path, tables: Mapping[str, str]) -> str:
    """The text a Markdown file or notebook should have, its tables rendered from records."""
    if path.suffix != ".ipynb":
        return render_text(path.read_text(encoding="utf-8"), tables, path)
    from vlmcourse.notebooks import as_lines, as_text, read_notebook, to_text

    notebook = read_notebook(path)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = as_lines(render_text(as_text(cell["source"]), tables, path))
    return to_text(notebook)


def main(argv: list[str] | None = None) -> int:
    """Render the tables of files from records; with ``--check`` only say which differ (exit 1)."""
    parser = argparse.ArgumentParser(
        prog="python -m vlmcourse.records",
        description="Render the tables between <!-- table:NAME --> markers from the records.",
        epilog="example: python -m vlmcourse.records --check README.md notebooks/*.ipynb",
    )
    parser.add_argument("files", nargs="+", type=Path, help="Markdown files and notebooks")
    parser.add_argument(
        "--check", action="store_true", help="change nothing, exit 1 on differences"
    )
    parser.add_argument(
        "--experiments", type=Path, default=Path("experiments"), help="folder of tables.yaml"
    )
    args = parser.parse_args(argv)
    differ = 0
    try:
        tables = read_tables(args.experiments)
        for path in args.files:
            before, after = path.read_text(encoding="utf-8"), render_file(path, tables)
            if before == after:
                continue
            differ = 1
            sys.stdout.write(
                f"{path}: {'differs from the records' if args.check else 'rendered'}\n"
            )
            if not args.check:
                path.write_text(after, encoding="utf-8")
    except (UserError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return differ if args.check else 0


if __name__ == "__main__":
    sys.exit(main())
