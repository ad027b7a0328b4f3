"""Style and script of the page: light and dark, columns to sort, rows to filter."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #566172; --paper: #fbfaf7; --card: #fff;
  --line: #dcd8cf; --link: #0b5c9c; --good: #0f6a43; --bad: #a82018; --open: #6f5200;
  --good-bg: #e3f3ea; --bad-bg: #fbe6e3; --open-bg: #f8eed0; --head: #f1eee6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e4de; --soft: #a5acb8; --paper: #15181d;
  --card: #1c2026; --line: #363c46; --link: #86bff0; --good: #74d8a8; --bad: #ff9d93;
  --open: #e8c766; --good-bg: #17352a; --bad-bg: #43211f; --open-bg: #3b3218; --head: #242a32; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .3rem; }
p, .notes li { max-width: 52rem; } a { color: var(--link); } .soft { color: var(--soft); }
.tools { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: end; margin: .7rem 0; }
.tools label, .tools fieldset { font-size: .88rem; color: var(--soft); }
.tools fieldset { border: 0; margin: 0; padding: 0; display: flex; flex-wrap: wrap;
  gap: .2rem .8rem; }
.tools legend { float: left; margin-right: .8rem; padding: 0; }
.tools input[type=search], .tools select { display: block; font: inherit; color: var(--ink);
  background: var(--card); border: 1px solid var(--line); border-radius: .3rem;
  padding: .25rem .5rem; }
.scroll { overflow: auto; max-height: 85vh; border: 1px solid var(--line); border-radius: .5rem;
  background: var(--card); }
caption { text-align: left; padding: .4rem .6rem; }
table { border-collapse: separate; border-spacing: 0; font-size: .88rem; }
th, td { padding: .4rem .6rem; text-align: left; vertical-align: top; min-width: 5rem;
  border-bottom: 1px solid var(--line); }
thead th { position: sticky; top: 0; z-index: 2; background: var(--head); padding: 0; }
tbody th { position: sticky; left: 0; z-index: 1; background: var(--card); white-space: nowrap; }
thead th:first-child { left: 0; z-index: 3; }
thead button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0;
  padding: .4rem .6rem; width: 100%; text-align: left; cursor: pointer; white-space: nowrap; }
thead button::after { content: " \\2195"; color: var(--soft); }
th[aria-sort=ascending] button::after { content: " \\2191"; color: var(--ink); }
th[aria-sort=descending] button::after { content: " \\2193"; color: var(--ink); }
:focus-visible { outline: 3px solid var(--link); outline-offset: -2px; }
.wide { min-width: 15rem; } .claim { min-width: 18rem; } .evidence { min-width: 21rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.source { font-size: .75rem; vertical-align: super; margin-left: .15rem; }
.verdict { border-radius: .8rem; padding: .1rem .6rem; font-weight: 600; white-space: nowrap; }
.supported { color: var(--good); background: var(--good-bg); }
.contradicted { color: var(--bad); background: var(--bad-bg); }
.undecided { color: var(--open); background: var(--open-bg); }
tr.contra > * { box-shadow: inset 0 2px 0 var(--bad), inset 0 -1px 0 var(--bad); }
.evidence ul { margin: 0; padding-left: 1rem; }
.records code { font-size: .72rem; overflow-wrap: anywhere; margin-right: .5rem; }
.discussion { color: var(--soft); margin: .3rem 0 0; }
@media (max-width: 40rem) { body { padding: 1rem .6rem 3rem; }
  tbody th { white-space: normal; min-width: 6.5rem; max-width: 7rem; } .wide { min-width: 11rem; }
  .claim, .evidence { min-width: 14rem; } }
[hidden] { display: none !important; }
@media print { .tools { display: none; } .scroll { max-height: none; overflow: visible; } }
"""

SCRIPT = """
"use strict";
function compareValues(a, b) {
  const none = (value) => value === null || value === "";
  if (none(a) || none(b)) return none(a) - none(b);
  const x = Number(a), y = Number(b);
  if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
  return String(a).localeCompare(String(b));
}
function sortedRows(rows, valueOf, direction) {
  const empty = (row) => valueOf(row) === null || valueOf(row) === "";
  return rows.map((row, place) => ({ row, place })).sort((p, q) => {
    if (empty(p.row) !== empty(q.row)) return empty(p.row) ? 1 : -1;  // gaps stay at the end
    const order = compareValues(valueOf(p.row), valueOf(q.row));
    return (direction === "descending" ? -order : order) || p.place - q.place;
  }).map((item) => item.row);
}
function matches(data, wanted, text) {
  for (const name of Object.keys(wanted)) {
    if (wanted[name] && data[name] !== wanted[name]) return false;
  }
  const words = text.toLowerCase().split(/\\s+/).filter(Boolean);
  const hay = data.text.toLowerCase();
  return words.every((word) => hay.includes(word));
}
function setUp(document) {
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const direction =
          head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", direction);
        const body = table.tBodies[0];
        const valueOf = (row) => row.cells[column].getAttribute("data-sort");
        for (const row of sortedRows(Array.from(body.rows), valueOf, direction)) {
          body.appendChild(row);
        }
      });
    });
  }
  for (const form of document.querySelectorAll("form[data-filters]")) {
    const table = document.getElementById(form.getAttribute("data-filters"));
    const told = form.querySelector("[aria-live]");
    const apply = () => {
      const wanted = {};
      for (const select of form.querySelectorAll("select")) wanted[select.name] = select.value;
      const search = form.querySelector("input[type=search]");
      const rows = Array.from(table.tBodies[0].rows);
      let shown = 0;
      for (const row of rows) {
        const data = Object.assign({}, row.dataset, { text: row.textContent });
        row.hidden = !matches(data, wanted, search ? search.value : "");
        shown += row.hidden ? 0 : 1;
      }
      told.textContent = shown + " of " + rows.length + " shown";
    };
    const toggle = () => {
      for (const box of form.querySelectorAll("input[type=checkbox]")) {
        for (const cell of table.querySelectorAll('[data-group="' + box.value + '"]')) {
          cell.hidden = !box.checked;
        }
      }
    };
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", () => { apply(); toggle(); });
    apply();
    toggle();
  }
}
if (typeof document !== "undefined") setUp(document);
"""
