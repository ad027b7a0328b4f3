"""The comparison as data: plain values for JSON, and pandas DataFrames for notebooks.

from vlmcourse.comparison import load
from vlmcourse.comparison.frames import claims_frame, systems_frame

comparison = load()
systems_frame(comparison, "tokens")
"""

from typing import TYPE_CHECKING

from vlmcourse.comparison.evidence import Judged
from vlmcourse.comparison.facts import FactError, source_link
from vlmcourse.comparison.markdown import value_text
from vlmcourse.comparison.table import Cell, Comparison

if TYPE_CHECKING:
    import pandas as pd


def as_data(comparison: Comparison) -> dict:
    """Everything as plain values: `columns`, `systems` and `claims`."""
    return {
        "columns": [
            {"key": c.key, "head": c.head, "group": c.group, "about": c.about}
            for c in comparison.columns
        ],
        "systems": [
            {
                "key": row.system.key,
                "name": row.system.name,
                "paper": f"https://arxiv.org/abs/{row.system.paper}",
                "code": row.system.code,
                "left_out": row.system.left_out,
                "claims": row.verdicts(),
                "cells": {c.key: _cell(c.cell(row)) for c in comparison.columns},
            }
            for row in comparison.rows
        ],
        "claims": [_claim(one) for one in comparison.judged],
    }


def systems_frame(comparison: Comparison, *groups: str, values: bool = False) -> "pd.DataFrame":
    """One row a system, one column a property.

    Args:
        groups: of columns ("design", "tokens", "parameters", "world", "cost", "reported"); all
            without any.
        values: what they are sorted by (numbers) in the place of texts.
    """
    import pandas as pd

    columns = [c for c in comparison.columns if not groups or c.group in groups]
    rows = {}
    for row in comparison.rows:
        cells = {c.head: c.cell(row) for c in columns}
        rows[row.system.name] = {
            head: cell.sort if values else cell.text for head, cell in cells.items()
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def claims_frame(comparison: Comparison, system: str | None = None) -> "pd.DataFrame":
    """One row for every number of every claim.

    Args:
        system: key of one; all without.
    """
    import pandas as pd

    lines = []
    for one in comparison.judged:
        if system not in (None, one.claim.system):
            continue
        for number in one.measured:
            lines.append({
                "system": comparison.facts.systems[one.claim.system].name,
                "side": one.claim.side, "claim": one.claim.text, "by": one.claim.by,
                "evidence": number.evidence.label, "value": number.value, "low": number.low,
                "high": number.high, "unit": number.unit, "kind": number.kind,
                "expected": number.evidence.expect, "than": number.evidence.than,
                "seeds": number.runs, "records": ", ".join(number.records),
                "number": number.verdict, "verdict": one.verdict, "holds": one.holds,
            })  # fmt: skip
    return pd.DataFrame(lines)


def _cell(cell: Cell) -> dict:
    return {"text": cell.text, "value": cell.sort, "sources": list(cell.sources), "note": cell.note}


def _claim(one: Judged) -> dict:
    claim = one.claim
    return {
        "key": claim.key, "system": claim.system, "side": claim.side, "text": claim.text,
        "by": claim.by, "link": _link(claim.by), "verdict": one.verdict, "holds": one.holds,
        "seeds": one.runs, "discussion": claim.discussion,
        "evidence": [
            {
                "label": m.evidence.label, "text": value_text(m), "value": m.value, "low": m.low,
                "high": m.high, "unit": m.unit, "kind": m.kind, "seeds": m.runs,
                "records": list(m.records), "expect": m.evidence.expect,
                "than": m.evidence.than, "margin": m.evidence.margin, "verdict": m.verdict,
            }
            for m in one.measured
        ],
    }  # fmt: skip


def _link(source: str) -> str | None:
    try:
        return source_link(source)
    except FactError:
        return None
