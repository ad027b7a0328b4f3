"""The course on one page: ``index.html``, each chapter as a page, their figures as files.

Every page stands alone: its own style for light and dark, formulas as pictures, nothing fetched.
"""

import base64
import functools
import html
import io
import json
import re
from pathlib import Path

from vlmcourse import notebooks
from vlmcourse.course.state import Done

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5b6675; --paper: #fbfaf7; --card: #fff;
  --line: #dedbd3; --link: #0b62a5; --ok: #14724a; --bad: #b3261e; --wait: #7a5b00;
  --code: #f3f1ec; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e4de; --soft: #a3a9b3; --paper: #15181d;
  --card: #1d2127; --line: #343a43; --link: #7cb8ec; --ok: #5fcf9b; --bad: #ff8a80; --wait: #e5c05b;
  --code: #262b32; } .formula { filter: invert(1) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; } h2 { margin-top: 2.2rem; }
a { color: var(--link); } p { max-width: 46rem; } .soft { color: var(--soft); }
.chapter { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: 1rem 1.2rem; margin: 1rem 0; }
.chapter h2 { margin: 0; font-size: 1.15rem; } .number { color: var(--soft); margin-right: .5rem; }
.facts { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; margin: .4rem 0 0; color: var(--soft); }
.status { font-weight: 600; } .ok { color: var(--ok); } .failed { color: var(--bad); }
.waiting { color: var(--wait); }
.error { margin: .6rem 0 0; padding: .5rem .7rem; background: var(--code); overflow-wrap: anywhere;
  border-left: 3px solid var(--bad); font: .88rem/1.5 ui-monospace, monospace; }
.figures { display: flex; flex-wrap: wrap; gap: .5rem; margin-top: .8rem; }
.figures img { height: 7.5rem; max-width: 100%; object-fit: contain; background: #fff;
  border: 1px solid var(--line); border-radius: .3rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
table, tr { border: 0; }
td, th { padding: .3rem .8rem .3rem 0; text-align: left; border: 0;
  border-bottom: 1px solid var(--line); }
pre { margin: 0; padding: .7rem .9rem; overflow-x: auto; font: .86rem/1.5 ui-monospace, monospace; }
code { font-family: ui-monospace, monospace; background: var(--code); border-radius: .2rem; }
"""

CHAPTER_STYLE = """
.cell { margin: 1rem 0; }
.jp-InputPrompt, .jp-OutputPrompt, .prompt, .anchor-link { display: none; }
.highlight { background: var(--code); border-radius: .4rem; }
.output_area img, .jp-OutputArea img { max-width: 100%; background: #fff; border-radius: .3rem; }
.output_area pre, .jp-OutputArea pre { border-left: 3px solid var(--line); }
.formula { vertical-align: middle; } summary { cursor: pointer; color: var(--link); }
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style></head>
<body>
{body}
</body></html>
"""

FORMULA = re.compile(r"(?<![\\$`])(\$\$?)(?![\s$])((?:[^$\\`]|\\.)+?)(?<!\s)\1(?!\d)", re.DOTALL)
CODE_SPAN = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)


def formula_image(tex: str) -> str | None:
    """Draw one formula as an inline SVG picture; None where matplotlib cannot read it."""
    from matplotlib import font_manager, mathtext

    buffer = io.BytesIO()
    size = font_manager.FontProperties(size=12)
    try:
        mathtext.math_to_image(f"${tex.strip()}$", buffer, prop=size, dpi=72, format="svg")
    except ValueError:
        return None
    drawn = re.sub(rb"<metadata>.*?</metadata>", b"", buffer.getvalue(), flags=re.DOTALL)
    picture = base64.b64encode(drawn.replace(b"fill: #ffffff", b"fill: none")).decode()
    alt = html.escape(tex.strip(), quote=True)
    return f'<img class="formula" alt="{alt}" src="data:image/svg+xml;base64,{picture}">'


def draw_formulas(text: str) -> str:
    """Replace ``$...$`` and ``$$...$$`` in Markdown by pictures, except inside code."""

    def draw(found: re.Match) -> str:
        picture = formula_image(re.sub(r"\s+", " ", found.group(2)))
        if picture is None:
            return found.group()
        return f"\n\n{picture}\n\n" if found.group(1) == "$$" else picture

    pieces = CODE_SPAN.split(text)
    return "".join(p if i % 2 else FORMULA.sub(draw, p) for i, p in enumerate(pieces))


@functools.cache
def code_style() -> str:
    """Colours of code for light and dark."""
    from pygments.formatters import HtmlFormatter

    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    plain = ".highlight, .highlight pre { background: var(--code); }"
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{plain}"


def inline_pictures(page: str, folder: Path) -> str:
    """Put picture files that a chapter's text names (relative to ``folder``) into the page."""

    def inline(found: re.Match) -> str:
        path = folder / html.unescape(found.group(2))
        kind = {".png": "png", ".jpg": "jpeg", ".svg": "svg+xml"}.get(path.suffix.lower())
        if kind is None or not path.is_file():
            return found.group()
        picture = base64.b64encode(path.read_bytes()).decode()
        return f'{found.group(1)}"data:image/{kind};base64,{picture}"'

    return re.sub(r'(<img[^>]*?\ssrc=)"(?!data:)([^"]+)"', inline, page)


def chapter_page(notebook: dict, title: str, folder: Path) -> str:
    """One executed chapter as an HTML page with its pictures inside."""
    import nbformat
    from nbconvert import HTMLExporter

    book = nbformat.reads(json.dumps(notebook), as_version=4)
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = draw_formulas(cell.source)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(book)
    body = inline_pictures(body, folder)
    body = f'<p><a href="index.html">The course</a></p>\n{body}'
    style = STYLE + CHAPTER_STYLE + code_style()
    return PAGE.format(title=html.escape(title), style=style, body=body)


def publish(output: Path, source: Path, title: str) -> list[str]:
    """Write a chapter's page and figures beside its executed copy.

    Args:
        output: folder of the run, which holds the executed copy.
        source: the chapter's notebook.
        title: of the page.

    Returns:
        The figures' paths from ``output``; empty when there is no executed copy.
    """
    stem, executed = source.stem, output / source.name
    folder = output / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{stem}_*.png"):
        old.unlink()
    page = output / f"{stem}.html"
    page.unlink(missing_ok=True)
    if not executed.exists():
        return []
    notebook = notebooks.read_notebook(executed)
    figures = []
    for cell in notebook["cells"]:
        for out in cell.get("outputs", []):
            if png := out.get("data", {}).get("image/png"):
                name = f"figures/{stem}_{len(figures) + 1}.png"
                (output / name).write_bytes(base64.b64decode(notebooks.as_text(png)))
                figures.append(name)
    page.write_text(chapter_page(notebook, title, source.parent), encoding="utf-8")
    return figures


def status_html(done: Done) -> str:
    """The status as one coloured word."""
    kind = done.status if done.status in ("ok", "failed") else "waiting"
    return f'<span class="status {kind}">{html.escape(done.status)}</span>'


def chapter_html(output: Path, number: str, path: Path, done: Done) -> str:
    """One chapter's card."""
    title = html.escape(re.sub(rf"^{number}\W+", "", done.title) or path.stem)
    facts = [status_html(done)]
    if done.minutes:
        facts += [f"{done.minutes:.1f} min", f"{done.peak_mib:,.0f} MiB at most"]
    if (output / f"{path.stem}.html").exists():
        title = f'<a href="{path.stem}.html">{title}</a>'
        facts.append(f'<a href="{path.name}">notebook</a>')
    parts = [f'<h2><span class="number">{number}</span>{title}</h2>']
    parts.append(f'<div class="facts">{"".join(f"<span>{fact}</span>" for fact in facts)}</div>')
    if done.error:
        parts.append(f'<div class="error">{html.escape(done.error)}</div>')
    shown = "".join(
        f'<a href="{name}"><img src="{name}" alt="figure {index} of chapter {number}"></a>'
        for index, name in enumerate(done.figures, start=1)
    )
    parts.append(f'<div class="figures">{shown}</div>' if shown else "")
    return f'<article class="chapter">{"".join(parts)}</article>'


def write_index(output: Path, known: dict[str, Path], done: dict[str, Done], steps) -> Path:
    """Write ``index.html`` over all known chapters and the preparations; return its path.

    Args:
        output: folder of the run.
        known: every chapter's notebook by number.
        done: results by chapter number and by ``"step NAME"``.
        steps: the preparations.
    """
    results = {number: done.get(number, Done()) for number in known}
    good = sum(result.status == "ok" for result in results.values())
    minutes = sum(result.minutes for result in results.values())
    cards = [chapter_html(output, n, known[n], result) for n, result in results.items()]
    rows = []
    for step in steps:
        result = done.get(f"step {step.name}", Done())
        spent = f"{result.minutes:.1f} min</td><td>{result.peak_mib:,.0f} MiB"
        log = f"logs/{step.name}.log"
        link = f'<a href="{log}">log</a>' if (output / log).exists() else ""
        cells = [html.escape(step.title), status_html(result), spent, link]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    body = [
        "<h1>Video language models: the course</h1>",
        f'<p class="soft">{good} of {len(known)} chapters ran from top to bottom, '
        f"{minutes:.1f} minutes in all. Minutes and peak memory were measured on this run.</p>",
        *cards,
    ]
    if rows:
        body += ["<h2>Prepared before</h2>", "<table>", *rows, "</table>"]
    page = PAGE.format(title="vlmcourse", style=STYLE, body="\n".join(body))
    path = output / "index.html"
    path.write_text(page, encoding="utf-8")
    return path
