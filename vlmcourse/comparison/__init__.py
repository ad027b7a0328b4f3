"""The comparison table of the seven systems: facts with sources, sizes and tokens that are counted,
claims with the runs that support or contradict them, costs, and what papers report.

`vlmcourse table` renders it (cli.py); the tables of README files come from `render`, which
`vlmcourse/records.py` calls where `experiments/tables.yaml` says so.
"""

from collections.abc import Mapping
from pathlib import Path

__all__ = ["load", "main", "render"]


def load(experiments: str | Path = "experiments", records: Mapping[str, dict] | None = None):
    """Read and judge everything; see `table.load`."""
    from vlmcourse.comparison.table import load

    return load(experiments, records)


def render(experiments: str | Path, records: Mapping[str, dict]) -> dict[str, str]:
    """Markdown tables by the names of their markers.

    Args:
        experiments: folder of facts, claims and records.
        records: by id.
    """
    from vlmcourse.comparison.markdown import TABLES

    comparison = load(experiments, records)
    return {name: table(comparison) for name, table in TABLES.items()}


def main(argv: list[str] | None = None) -> int:
    """`vlmcourse table`."""
    from vlmcourse.comparison.cli import main

    return main(argv)
