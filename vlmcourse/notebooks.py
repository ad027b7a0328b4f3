"""Committed notebooks: one stable form, run whole, refused where readers should not see them.

python -m vlmcourse.notebooks normalise notebooks/*.ipynb
python -m vlmcourse.notebooks check     notebooks/*.ipynb
python -m vlmcourse.notebooks execute   notebooks/*.ipynb
"""

import argparse
import base64
import copy
import hashlib
import json
import re
import sys
from pathlib import Path

from vlmcourse.errors import UserError

MAX_NOTEBOOK_BYTES = 300_000
MAX_PNG_BYTES = 60_000
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
KERNEL_ARGUMENTS = ["--log-level=CRITICAL"]  # or kernels talk about local TCP and shutting down
KEPT_CELL_METADATA = ("jupyter", "tags")
WIDGETS = ("application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json")
VALID_ID = re.compile(r"^[a-zA-Z0-9-_]{1,64}$")
TERMINAL_CODE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class NotebookError(UserError):
    """A notebook that cannot be read, or whose run failed; names the file and the cell."""


def read_notebook(path: str | Path) -> dict:
    """Read a notebook of format 4 as plain JSON.

    Raises:
        NotebookError: missing, not JSON, or of another format.
    """
    try:
        notebook = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotebookError(f"{path}: no such notebook") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise NotebookError(f"{path}: not a notebook ({error})") from error
    if not isinstance(notebook, dict) or notebook.get("nbformat") != 4 or "cells" not in notebook:
        raise NotebookError(f"{path}: not a notebook of format 4")
    return notebook


def to_text(notebook: dict) -> str:
    """The one way a notebook is written: sorted keys, indent 1, a newline at the end."""
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def as_text(value: str | list[str]) -> str:
    """Join a notebook's multi-line value, which may be a string or a list of lines."""
    return value if isinstance(value, str) else "".join(value)


def as_lines(value: str | list[str]) -> list[str]:
    """Split a multi-line value into the list of lines (ends kept) that gives readable diffs."""
    return as_text(value).splitlines(keepends=True)


def last_state(text: str) -> str:
    """What a terminal shows in the end: no colours, each line after its last carriage return."""
    lines = TERMINAL_CODE.sub("", text).replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in lines)


def normalise_output(output: dict) -> dict | None:
    """Return one output in stable form, or None when nothing of it should stay."""
    kind = output["output_type"]
    if kind == "stream":
        text = last_state(as_text(output["text"]))
        return {"output_type": kind, "name": output["name"], "text": as_lines(text)}
    if kind in ("display_data", "execute_result"):
        data = {k: v for k, v in output["data"].items() if k not in WIDGETS}
        if any(k in WIDGETS for k in output["data"]) and set(data) <= {"text/plain"}:
            return None  # the text twin of a widget is its repr with a random id
        clean = {
            k: as_text(v).strip() if k == "image/png" else (v if "json" in k else as_lines(v))
            for k, v in data.items()
        }
        kept = {"output_type": kind, "data": clean, "metadata": {}}
        if kind == "execute_result":
            kept["execution_count"] = output.get("execution_count")
        return kept
    return output


def normalise_outputs(outputs: list[dict]) -> list[dict]:
    """Normalise a cell's outputs; neighbouring pieces of one stream become one."""
    merged: list[dict] = []
    for output in copy.deepcopy(outputs):
        before = merged[-1] if merged else {}
        same = output["output_type"] == "stream" and before.get("name") == output.get("name")
        if same and before["output_type"] == "stream":
            before["text"] = as_text(before["text"]) + as_text(output["text"])
        else:
            merged.append(output)
    kept = (normalise_output(output) for output in merged)
    return [output for output in kept if output is not None]


def cell_id(cell: dict, index: int, taken: set[str]) -> str:
    """Keep a cell's id where it is valid and unique; else derive one from its text and place."""
    own = cell.get("id", "")
    if VALID_ID.match(own) and own not in taken:
        return own
    digest = hashlib.sha256(f"{index}\n{as_text(cell['source'])}".encode()).hexdigest()
    return digest[:8] if digest[:8] not in taken else digest[:16]


def normalise(notebook: dict) -> dict:
    """Return a copy without times, durations, runner metadata, widget state and kernel noise.

    Normalising twice changes nothing; sources, tags, ids and execution counts stay.
    """
    cells, taken = [], set()
    for index, cell in enumerate(notebook["cells"]):
        metadata = {k: v for k, v in cell.get("metadata", {}).items() if k in KEPT_CELL_METADATA}
        if "tags" in metadata:
            metadata["tags"] = sorted(set(metadata["tags"]))
        clean = {
            "cell_type": cell["cell_type"],
            "id": cell_id(cell, index, taken),
            "metadata": metadata,
            "source": as_lines(as_text(cell["source"]).rstrip()),
        }
        taken.add(clean["id"])
        if cell["cell_type"] == "code":
            clean["execution_count"] = cell.get("execution_count")
            clean["outputs"] = normalise_outputs(cell.get("outputs", []))
        elif cell.get("attachments"):
            clean["attachments"] = cell["attachments"]
        cells.append(clean)
    metadata = {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def png_sizes(cell: dict) -> list[int]:
    """Sizes in bytes of the PNG pictures among a code cell's outputs."""
    found = (o["data"].get("image/png") for o in cell.get("outputs", []) if "data" in o)
    return [len(base64.b64decode(as_text(png))) for png in found if png]


def code_cells(notebook: dict) -> list[tuple[int, dict]]:
    """(number counted from 1 over all cells, cell) for every code cell that is not empty."""
    numbered = enumerate(notebook["cells"], start=1)
    return [
        (n, c) for n, c in numbered if c["cell_type"] == "code" and as_text(c["source"]).strip()
    ]


def cell_problems(number: int, cell: dict) -> list[str]:
    """What is wrong with one executed code cell.

    An error is never fit, tagged ``raises-exception`` or not: papermill stops at it. A chapter that
    shows one catches it and prints it.
    """
    where = f"cell {number}"
    found = [
        f"{where}: ends in {output['ename']}: {output['evalue']}"
        for output in cell.get("outputs", [])
        if output["output_type"] == "error"
    ]
    found += [
        f"{where}: a picture of {size / 1000:.0f} kB (at most {MAX_PNG_BYTES // 1000})"
        for size in png_sizes(cell)
        if size > MAX_PNG_BYTES
    ]
    shown = json.dumps(cell.get("outputs", []))
    if path := re.search(r"(?<![\w.:/])/(?:home|root|Users|tmp|work)/[\w./-]+", shown):
        found.append(f"{where}: the output shows a path of one machine: {path.group()}")
    return found


def problems(notebook: dict, text: str) -> list[str]:
    """Say everything that keeps a notebook from being committed.

    Args:
        notebook: as :func:`read_notebook` gives it.
        text: the file's text, to judge its size and form.

    Returns:
        One line per problem; empty when the notebook is fit to be read.
    """
    found = []
    size = len(text.encode())
    if size > MAX_NOTEBOOK_BYTES:
        found.append(f"{size / 1000:.0f} kB with outputs (at most {MAX_NOTEBOOK_BYTES // 1000})")
    cells = code_cells(notebook)
    tagged = [c for _, c in cells if "parameters" in c.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        found.append(f"{len(tagged)} cells tagged 'parameters' (exactly one is needed)")
    missing = [str(n) for n, c in cells if c.get("execution_count") is None]
    if missing:
        found.append(f"not executed: cell {', '.join(missing)}")
    elif [c["execution_count"] for _, c in cells] != list(range(1, len(cells) + 1)):
        found.append("not executed once from top to bottom in a fresh kernel")
    for number, cell in cells:
        found += cell_problems(number, cell)
    if text != to_text(normalise(notebook)):
        found.append("not normalised (python -m vlmcourse.notebooks normalise FILE)")
    return found


def execute(path: Path, cell_timeout_s: float = 1800) -> None:
    """Run a notebook in place from a fresh kernel, in its own folder, and normalise it.

    The file stays as it was when a cell fails.

    Raises:
        NotebookError: a cell failed, ran too long, or the kernel died.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = nbformat.reads(to_text(normalise(read_notebook(path))), as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook,
        timeout=cell_timeout_s,
        kernel_name=KERNELSPEC["name"],
        extra_arguments=KERNEL_ARGUMENTS,
        resources={"metadata": {"path": str(path.resolve().parent)}},
    )
    started = 0

    def remember(cell, cell_index: int) -> None:
        nonlocal started
        started = cell_index + 1

    client.on_cell_start = remember
    try:
        client.execute()
    except CellExecutionError as error:
        raise NotebookError(f"{path}: cell {started}: {error.ename}: {error.evalue}") from error
    except (CellTimeoutError, DeadKernelError) as error:
        first = str(error).strip().splitlines()[0]
        raise NotebookError(f"{path}: cell {started}: {type(error).__name__}: {first}") from error
    path.write_text(to_text(normalise(json.loads(nbformat.writes(notebook)))), encoding="utf-8")


def run(action: str, path: Path, cell_timeout_s: float) -> list[str]:
    """Do one action on one notebook; return lines of complaint (none: all is well)."""
    if action == "execute":
        execute(path, cell_timeout_s)
        return []
    notebook, text = read_notebook(path), path.read_text(encoding="utf-8")
    if action == "check":
        return [f"{path}: {problem}" for problem in problems(notebook, text)]
    clean = to_text(normalise(notebook))
    if clean == text:
        return []
    path.write_text(clean, encoding="utf-8")
    return [f"{path}: normalised"]


def main(argv: list[str] | None = None) -> int:
    """Normalise, check or execute notebooks; exit 1 when one was changed, unfit or failing."""
    parser = argparse.ArgumentParser(
        prog="python -m vlmcourse.notebooks",
        description=__doc__.splitlines()[0],
        epilog="example: python -m vlmcourse.notebooks check notebooks/*.ipynb",
    )
    parser.add_argument("action", choices=["normalise", "check", "execute"])
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--cell-timeout", type=float, default=1800, help="seconds (execute)")
    args = parser.parse_args(argv)
    complaints = []
    for path in args.notebooks:
        try:
            complaints += run(args.action, path, args.cell_timeout)
        except NotebookError as error:
            complaints.append(str(error))
    sys.stdout.write("".join(f"{line}\n" for line in complaints))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
