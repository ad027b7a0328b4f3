"""The comparison as one self-contained HTML file, with columns to sort and rows to filter.

It reads as plain tables without its script, on a light and on a dark screen; headings are buttons
that the keyboard reaches, and tell the order of their column (`aria-sort`).
"""

import html
from collections.abc import Iterable

from vlmcourse.comparison.claims import HERE, SIDES
from vlmcourse.comparison.evidence import CONTRADICTED, VERDICTS, Judged, Measured
from vlmcourse.comparison.facts import FactError, source_link
from vlmcourse.comparison.markdown import expected_text, value_text
from vlmcourse.comparison.page_parts import SCRIPT, STYLE
from vlmcourse.comparison.table import Cell, Column, Comparison, Row

GROUPS = {
    "design": "design",
    "tokens": "tokens at paper size",
    "parameters": "parameters at paper size",
    "world": "answers in the small world",
    "cost": "cost in the small world",
    "claims": "claims and verdicts",
    "reported": "reported by papers",
}
NUMBERS = ("tokens", "parameters", "cost", "reported")
RECORDS = "experiments/*/records/"

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Seven video language models compared</title>
<style>{style}</style></head>
<body>
<header><h1>Seven video language models compared</h1>
<p>Facts come from papers and repositories (a number behind each leads to its source), sizes and
tokens are counted on this repository's own code at the published sizes, answers and costs are
measured in its small world and say nothing about the published sizes. Numbers that papers report
stand apart, and nothing of ours among them.
Made by <code>vlmcourse table --html FILE</code>.</p></header>
<main>{main}</main>
<script>{script}</script>
</body></html>
"""

NOTES = """<ul class="notes soft">
<li>A verdict is computed: <b>supported</b> if every 95 % interval lies on the expected side,
<b>contradicted</b> if one lies on the other, else <b>undecided</b>.</li>
<li>Paired: both sides answered the same questions about the same clips, drawn again together.
‡ unpaired: made of the intervals of two records as if they were independent, which is rather too
wide than too narrow.</li>
<li>† the verdict does not hold when all {count} intervals are corrected for their number
(Bonferroni).</li>
<li>Three seeds train most systems; all start from one picture encoder and one language model of the
small world, each trained with one seed.</li>
<li>° measured by others than the system's authors.</li>
</ul>"""


def render(comparison: Comparison) -> str:
    """The whole page."""
    main = "\n".join((_systems(comparison), _claims(comparison), _left_out(comparison)))
    return PAGE.format(style=STYLE, script=SCRIPT, main=main)


# ---------------------------------------------------------------- systems


def _systems(comparison: Comparison) -> str:
    used = dict.fromkeys(column.group for column in comparison.columns)
    boxes = "".join(
        f'<label><input type="checkbox" value="{group}" checked> {escape(GROUPS[group])}</label>'
        for group in used
    )
    heads = _head("system") + "".join(_column_head(column) for column in comparison.columns)
    rows = "".join(_system(row, comparison.columns) for row in comparison.rows)
    return f"""<section aria-labelledby="systems-head"><h2 id="systems-head">The systems</h2>
<form class="tools" data-filters="systems"><label>find
<input type="search" name="find"></label>
<fieldset><legend>columns</legend>{boxes}</fieldset>
<span class="soft" aria-live="polite"></span></form>
{_table("systems", "The systems: design, tokens, parameters, answers, cost, reported", heads, rows)}
</section>"""


def _system(row: Row, columns: Iterable[Column]) -> str:
    system = row.system
    links = (
        f'<a class="source" href="https://arxiv.org/abs/{system.paper}">paper</a>'
        f'<a class="source" href="https://github.com/{escape(system.code.replace("@", "/tree/"))}">'
        "code</a>"
    )
    cells = "".join(_cell(column, column.cell(row)) for column in columns)
    name = f'<th scope="row" data-sort="{escape(system.name)}">{escape(system.name)} {links}</th>'
    return f'<tr data-system="{system.key}">{name}{cells}</tr>'


def _cell(column: Column, cell: Cell) -> str:
    sort = "" if cell.sort is None else escape(str(cell.sort))
    kind = "number" if column.group in NUMBERS or column.key.startswith("world/") else "wide"
    kind = "wide" if column.key == "trained" else kind
    records = [source for source in cell.sources if _link(source) is None]
    note = "; ".join(filter(None, (cell.note, f"records: {', '.join(records)}" if records else "")))
    title = f' title="{escape(note)}"' if note else ""
    return (
        f'<td class="{kind}" data-group="{column.group}" data-sort="{sort}"{title}>'
        f"{escape(cell.text)}{_sources(cell.sources)}</td>"
    )


def _sources(sources: Iterable[str]) -> str:
    linked = [(source, link) for source in sources if (link := _link(source))]
    return "".join(
        f'<a class="source" href="{escape(link)}" title="{escape(source)}" '
        f'aria-label="source: {escape(source)}">{number}</a>'
        for number, (source, link) in enumerate(linked, 1)
    )


# ---------------------------------------------------------------- claims


def _claims(comparison: Comparison) -> str:
    names = {key: system.name for key, system in comparison.facts.systems.items()}
    heads = "".join(
        _head(text, css)
        for text, css in (
            ("system", ""), ("side", ""), ("claim", "claim"), ("who says so", ""),
            ("evidence", "evidence"), ("seeds", ""), ("verdict", ""),
        )
    )  # fmt: skip
    rows = "".join(_claim(one, names[one.claim.system]) for one in comparison.judged)
    chosen = "".join((
        _select("system", names),
        _select("side", {side: side for side in SIDES}),
        _select("verdict", {verdict: verdict for verdict in VERDICTS}),
        _select("who", {"paper": "a paper", "here": HERE}),
    ))  # fmt: skip
    count = sum(number.low is not None for one in comparison.judged for number in one.measured)
    return f"""<section aria-labelledby="claims-head"><h2 id="claims-head">Strengths and weaknesses,
each with its evidence</h2>{NOTES.format(count=count)}
<form class="tools" data-filters="claims"><label>find <input type="search" name="find"></label>
{chosen}<span class="soft" aria-live="polite"></span></form>
{_table("claims", "Claims, evidence and verdicts", heads, rows)}
</section>"""


def _claim(one: Judged, name: str) -> str:
    claim, who = one.claim, "here" if one.claim.by == HERE else "paper"
    by = escape(claim.by)
    if who == "paper":
        by = f'<a href="{source_link(claim.by)}">{by}</a>'
    runs = "—" if one.runs is None else str(one.runs)
    said = f'<p class="discussion">{escape(claim.discussion)}</p>' if claim.discussion else ""
    contra = ' class="contra"' if one.verdict == CONTRADICTED else ""
    mark = "✗ " if one.verdict == CONTRADICTED else ""
    dagger = "" if one.holds else " †"
    numbers = "".join(f"<li>{_number(number)}</li>" for number in one.measured)
    order = VERDICTS.index(one.verdict)
    return (
        f'<tr id="{claim.key}" data-system="{claim.system}" data-side="{claim.side}" '
        f'data-verdict="{one.verdict}" data-who="{who}"{contra}>'
        f'<th scope="row" data-sort="{escape(name)}">{escape(name)}</th>'
        f'<td data-sort="{claim.side}">{claim.side}</td>'
        f'<td class="claim" data-sort="{escape(claim.text.lower())}">{escape(claim.text)}{said}'
        "</td>"
        f'<td data-sort="{by if who == "here" else escape(claim.by)}">{by}</td>'
        f'<td class="evidence" data-sort="{one.measured[0].value}"><ul>{numbers}</ul></td>'
        f'<td class="number" data-sort="{"" if one.runs is None else one.runs}">{runs}</td>'
        f'<td data-sort="{order}"><span class="verdict {one.verdict}">{mark}{one.verdict}{dagger}'
        "</span></td></tr>"
    )


def _number(one: Measured) -> str:
    expected = escape(expected_text(one))
    text = f"{escape(one.evidence.label)}: <b>{escape(value_text(one))}</b>{expected}"
    records = " ".join(f"<code>{escape(record)}</code>" for record in one.records)
    title = f"{one.kind}; {one.verdict}"
    return f'<span title="{title}">{text}</span><br><span class="soft records">{records}</span>'


# ---------------------------------------------------------------- parts


def _left_out(comparison: Comparison) -> str:
    told = "".join(
        f"<li>{escape(row.system.name)}: {escape(row.system.left_out)}</li>"
        for row in comparison.rows
        if row.system.left_out
    )
    return f"""<section aria-labelledby="left-head">
<h2 id="left-head">What could not be sourced</h2>
<ul class="notes">{told}</ul>
<p class="soft">Records lie under <code>{RECORDS}</code>; each names the command that made it.</p>
</section>"""


def _table(key: str, label: str, heads: str, rows: str) -> str:
    return (
        f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0">'
        f'<table id="{key}" data-sortable><caption class="soft">{escape(label)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _head(text: str, css: str = "", group: str = "", title: str = "") -> str:
    more = f' class="{css}"' if css else ""
    more += f' data-group="{group}"' if group else ""
    more += f' title="{escape(title)}"' if title else ""
    return (
        f'<th scope="col" aria-sort="none"{more}><button type="button">{escape(text)}</button></th>'
    )


def _column_head(column: Column) -> str:
    css = "wide" if column.group == "design" or column.key in ("trained", "given") else ""
    text = f"reported: {column.head}" if column.group == "reported" else column.head
    return _head(text, css, column.group, column.about)


def _select(name: str, options: dict[str, str]) -> str:
    told = "".join(
        f'<option value="{key}">{escape(text)}</option>' for key, text in options.items()
    )
    return (
        f'<label>{name}<select name="{name}"><option value="">all</option>{told}</select></label>'
    )


def _link(source: str) -> str | None:
    try:
        return source_link(source)
    except FactError:
        return None


def escape(text: str) -> str:
    """Text that may stand in HTML and in its attributes."""
    return html.escape(text, quote=True)
