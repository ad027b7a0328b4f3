"""The comparison as Markdown tables, for README files and notebooks."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from vlmcourse.comparison.choice import jobs_table
from vlmcourse.comparison.claims import HERE
from vlmcourse.comparison.coverage import abilities_table, lengths_table
from vlmcourse.comparison.evidence import CONTRADICTED, COUNTED, UNDECIDED, Judged, Measured
from vlmcourse.comparison.facts import FactError, source_link
from vlmcourse.comparison.table import Cell, Column, Comparison
from vlmcourse.records import number_text

GROUPS = {
    "tokens": "paper size: ",
    "parameters": "paper size: ",
    "world": "small world: ",
    "cost": "small world: ",
    "claims": "small world: ",
}
"""What stands in front of the names of some columns, by group."""
MARKS = {"strength": "+", "weakness": "−"}
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def main_table(comparison: Comparison) -> str:
    """Properties down, systems across; what papers report stands in `reported_table`."""
    columns = [one for one in comparison.columns if one.group != "reported"]
    return _transposed(comparison, columns, "seven systems", GROUPS)


def group_table(*groups: str, corner: str) -> Callable[[Comparison], str]:
    """What renders the properties of some groups alone."""

    def table(comparison: Comparison) -> str:
        columns = [one for one in comparison.columns if one.group in groups]
        return _transposed(comparison, columns, corner)

    return table


def reported_table(comparison: Comparison) -> str:
    """What papers report, benchmarks down; nothing of ours stands here."""
    columns = [
        one
        for one in comparison.columns
        if one.group == "reported"
        and any(one.cell(row).sort is not None for row in comparison.rows)
    ]
    return _transposed(comparison, columns, "reported by papers, ° by others than its own")


def claims_table(comparison: Comparison) -> str:
    """Every claim with its numbers and its verdict."""
    lines = [["system", "", "claim", "who says so", "evidence", "records", "seeds", "verdict"]]
    lines.append(["---", "---", "---", "---", "---", "---", "--:", "---"])
    names = {key: system.name for key, system in comparison.facts.systems.items()}
    lines += [[names[one.claim.system], *_claim(one)] for one in comparison.judged]
    return _joined(lines)


def contradicted_table(comparison: Comparison) -> str:
    """Claims of papers that our runs contradict or leave open, each with a sentence."""
    told = [
        one
        for one in comparison.judged
        if one.claim.by != HERE and one.verdict in (CONTRADICTED, UNDECIDED)
    ]
    lines = [
        [
            "system",
            "the paper's claim",
            "measured in the small world",
            "verdict",
            "what we make of it",
        ]
    ]
    lines.append(["---"] * 5)
    names = {key: system.name for key, system in comparison.facts.systems.items()}
    for one in sorted(told, key=lambda one: one.verdict != CONTRADICTED):
        claim = one.claim
        text = f"{claim.text} ({_by(claim.by)})"
        lines.append(
            [names[claim.system], text, _evidence(one), _verdict(one), claim.discussion or "—"]
        )
    return _joined(lines)


def everything(comparison: Comparison) -> str:
    """All tables, with headings."""
    parts = (
        ("The systems", main_table),
        ("What papers report", reported_table),
        ("Claims", claims_table),
        ("Claims of papers that our runs contradict or leave open", contradicted_table),
    )
    return "\n\n".join(f"## {head}\n\n{table(comparison)}" for head, table in parts)


TABLES = {
    "comparison": main_table,
    "comparison_design": group_table("design", corner="from papers and repositories"),
    "comparison_tokens": group_table("tokens", "parameters", corner="counted at the paper's size"),
    "comparison_world": group_table("world", "cost", "claims", corner="in the small world"),
    "comparison_reported": reported_table,
    "comparison_claims": claims_table,
    "comparison_contradicted": contradicted_table,
    "comparison_jobs": jobs_table,
    "comparison_abilities": abilities_table,
    "comparison_lengths": lengths_table,
}
"""Name between markers -> what renders it."""


# ---------------------------------------------------------------- parts


def _transposed(
    comparison: Comparison,
    columns: Sequence[Column],
    corner: str,
    groups: Mapping[str, str] = MappingProxyType({}),
) -> str:
    lines = [[corner, *(row.system.name for row in comparison.rows)]]
    lines.append(["---"] * len(lines[0]))
    for column in columns:
        head = f"{groups.get(column.group, '')}{column.head}"
        lines.append([head, *(_cell(column.cell(row)) for row in comparison.rows)])
    return _joined(lines)


def _cell(cell: Cell) -> str:
    """The text, with a link for each source of a fact or of a reported number."""
    links = []
    for source in cell.sources:
        try:
            links.append(source_link(source))
        except FactError:
            continue  # a record; tables name those in their heading
    marks = [f"[{str(i).translate(SUPERSCRIPTS)}]({link})" for i, link in enumerate(links, 1)]
    return " ".join([cell.text, *marks])


def _claim(one: Judged) -> list[str]:
    claim = one.claim
    runs = "—" if one.runs is None else str(one.runs)
    used = dict.fromkeys(record for number in one.measured for record in number.records)
    records = "<br>".join(f"`{record}`" for record in used)
    return [
        MARKS[claim.side], claim.text, _by(claim.by), _evidence(one), records, runs, _verdict(one)
    ]  # fmt: skip


def _by(by: str) -> str:
    return by if by == HERE else f"[{by}]({source_link(by)})"


def _evidence(one: Judged) -> str:
    return "<br>".join(
        f"{m.evidence.label}: {value_text(m)}{expected_text(m)}" for m in one.measured
    )


def _verdict(one: Judged) -> str:
    text = f"**{one.verdict}**" if one.verdict == CONTRADICTED else one.verdict
    return text if one.holds else f"{text} †"


def value_text(one: Measured) -> str:
    """`+38.9 (33.1–44.3)` points for differences of shares, with `‡` if they are unpaired."""
    share, difference = one.unit == "share", one.kind in ("paired", "unpaired")
    scale = 100 if share else 1

    def show(value: float, sign: bool = False) -> str:
        text = f"{abs(scale * value):.1f}" if share else number_text(abs(value))
        mark = "−" if value < 0 and text.strip("0.") else "+" if sign else ""
        return mark + text

    unit = {"share": " points" if difference else " %"}.get(one.unit, f" {one.unit}".rstrip())
    if one.kind == COUNTED:
        sign = one.evidence.b is not None
        text = f"{abs(one.value):,.0f}"
        mark = "−" if one.value < 0 else "+" if sign and one.value else ""
        return f"{mark}{text}{unit}"
    text = f"{show(one.value, difference)}{unit} ({show(one.low)} to {show(one.high)})"
    return f"{text} ‡" if one.kind == "unpaired" else text


def expected_text(one: Measured) -> str:
    """What was expected, where it is not plainly a difference above or below 0."""
    wanted, share = one.evidence, one.unit == "share"
    scale, sign = (100, "%" if one.kind == "single" else "points") if share else (1, one.unit)
    if wanted.expect == "equal" and one.kind == COUNTED:
        return f", expected {wanted.than:,.12g} {sign}".rstrip()
    if wanted.expect == "equal":
        return f", expected within ±{scale * wanted.margin:g} {sign}".rstrip()
    if wanted.than == 0:
        return ""
    side = "above" if wanted.expect == "greater" else "below"
    return f", expected {side} {scale * wanted.than:,.12g} {sign}".rstrip()


def _joined(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
