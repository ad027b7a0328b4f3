"""The page: one file that fetches nothing, whose columns sort and whose rows filter."""

import json
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from vlmcourse.comparison import page
from vlmcourse.comparison.page_parts import SCRIPT

VOID = {"meta", "input", "br", "link", "img"}


class Tree(HTMLParser):
    """Tags as they open and close; complains about what is not nested."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag, **wanted):
        return [
            attrs
            for name, attrs, _ in self.tags
            if name == tag and all(attrs.get(k) == v for k, v in wanted.items())
        ]


@pytest.fixture(scope="module")
def text(comparison):
    return page.render(comparison)


@pytest.fixture(scope="module")
def tree(text):
    made = Tree()
    made.feed(text)
    made.close()
    return made


def test_tags_are_nested_and_ids_are_unique(tree):
    assert tree.open == []
    ids = [attrs["id"] for _, attrs, _ in tree.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert tree.all("html", lang="en")


def test_nothing_is_fetched(tree, text):
    assert not any("src" in attrs for _, attrs, _ in tree.tags)
    assert not tree.all("link")
    assert not tree.all("img")
    for word in ("@import", "url(", "fetch(", "XMLHttpRequest", "import("):
        assert word not in text


def test_every_heading_can_be_sorted_by_keyboard(tree, comparison):
    heads = [attrs for tag, attrs, inside in tree.tags if tag == "th" and "thead" in inside]
    assert len(heads) == 1 + len(comparison.columns) + 7
    assert all(attrs["aria-sort"] == "none" for attrs in heads)
    assert all(attrs["scope"] == "col" for attrs in heads)
    buttons = [attrs for tag, attrs, inside in tree.tags if tag == "button" and "th" in inside]
    assert len(buttons) == len(heads)
    assert all(attrs["type"] == "button" for attrs in buttons)


def test_every_cell_says_what_it_sorts_by(tree, comparison):
    cells = [attrs for tag, attrs, inside in tree.tags if tag in ("td", "th") and "tbody" in inside]
    assert len(cells) == len(comparison.rows) * (1 + len(comparison.columns)) + 7 * len(
        comparison.judged
    )
    assert all("data-sort" in attrs for attrs in cells)


def test_tables_scroll_by_keyboard_and_are_named(tree):
    regions = tree.all("div", role="region")
    assert len(regions) == 2
    assert all(attrs["tabindex"] == "0" and attrs["aria-label"] for attrs in regions)
    assert len(tree.all("span", **{"aria-live": "polite"})) == 2


def test_filters_know_the_values_of_the_rows(tree, comparison):
    values = {attrs["value"] for attrs in tree.all("option")}
    rows = [attrs for attrs in tree.all("tr") if "data-verdict" in attrs]
    assert len(rows) == len(comparison.judged)
    for attrs in rows:
        for name in ("data-system", "data-side", "data-verdict", "data-who"):
            assert attrs[name] in values
    groups = {attrs["value"] for attrs in tree.all("input", type="checkbox")}
    assert groups == {column.group for column in comparison.columns}


def test_contradictions_are_marked_in_words_too(tree, text, comparison):
    marked = [attrs for attrs in tree.all("tr") if attrs.get("class") == "contra"]
    count = sum(one.verdict == "contradicted" for one in comparison.judged)
    assert len(marked) == count
    assert text.count("✗ contradicted") == count


def test_sources_are_links(tree, comparison):
    links = {attrs["href"] for attrs in tree.all("a")}
    assert all(link.startswith(("https://arxiv.org/", "https://github.com/")) for link in links)
    for row in comparison.rows:
        for fact in row.system.facts.values():
            assert any(attrs.get("title") == fact.source[0] for attrs in tree.all("a"))


def test_text_cannot_break_out():
    assert page.escape('<b a="1">&') == "&lt;b a=&quot;1&quot;&gt;&amp;"


# ---- the script


def run_script(code):
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here")
    code = f"{SCRIPT}\nconsole.log(JSON.stringify((() => {{ {code} }})()));"
    done = subprocess.run([node, "-e", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_rows_sort_by_number_with_gaps_at_the_end():
    code = """
    const rows = [["356"], ["32"], [""], ["17940"], ["32"]].map((x, i) => ({ v: x[0], i }));
    const of = (row) => row.v;
    return ["ascending", "descending"].map((d) => sortedRows(rows, of, d).map((r) => r.i));
    """
    assert run_script(code) == [[1, 4, 0, 3, 2], [3, 0, 1, 4, 2]]


def test_words_sort_as_words():
    code = """
    const rows = ["vicuna", "llama", "qwen"].map((v) => ({ v }));
    return sortedRows(rows, (row) => row.v, "ascending").map((row) => row.v);
    """
    assert run_script(code) == ["llama", "qwen", "vicuna"]


def test_rows_match_choices_and_all_words():
    code = """
    const data = { system: "qwen2_vl", side: "strength", text: "Positions on three Axes" };
    return [
      matches(data, { system: "", side: "" }, ""),
      matches(data, { system: "qwen2_vl", side: "" }, "axes three"),
      matches(data, { system: "qwen2_vl", side: "weakness" }, ""),
      matches(data, { system: "", side: "" }, "axes four"),
    ];
    """
    assert run_script(code) == [True, True, False, False]


def test_a_click_sorts_and_a_choice_filters():
    """The whole of `setUp` on a stand-in for a document: one table, one form."""
    code = """
    function node(attrs, more) {
      const heard = {};
      return Object.assign({
        attrs, heard, hidden: false, dataset: {}, textContent: "",
        getAttribute: (n) => attrs[n] === undefined ? null : attrs[n],
        setAttribute: (n, v) => { attrs[n] = v; },
        addEventListener: (n, f) => { heard[n] = f; },
        querySelector: () => null, querySelectorAll: () => [],
      }, more);
    }
    const button = node({});
    const head = node({ "aria-sort": "none" }, { querySelector: () => button });
    const rows = ["3", "1", "2"].map((v) => node({}, {
      cells: [node({ "data-sort": v })], dataset: { side: v === "1" ? "weakness" : "strength" },
      textContent: "row " + v,
    }));
    const body = { rows: rows.slice(), appendChild(row) {
      this.rows.splice(this.rows.indexOf(row), 1); this.rows.push(row); } };
    const table = node({}, { tHead: { rows: [{ cells: [head] }] }, tBodies: [body] });
    const told = node({}), select = node({}, { name: "side", value: "" });
    const form = node({ "data-filters": "t" }, {
      querySelector: (q) => q === "[aria-live]" ? told : null,
      querySelectorAll: (q) => q === "select" ? [select] : [],
    });
    setUp({
      querySelectorAll: (q) => q.startsWith("table") ? [table] : [form],
      getElementById: () => table,
    });
    const order = () => body.rows.map((row) => row.cells[0].attrs["data-sort"]).join("");
    const seen = [order(), told.textContent];
    button.heard.click(); seen.push(order(), head.attrs["aria-sort"]);
    button.heard.click(); seen.push(order(), head.attrs["aria-sort"]);
    select.value = "weakness"; form.heard.input();
    seen.push(told.textContent, body.rows.filter((row) => !row.hidden).length);
    return seen;
    """
    wanted = ["312", "3 of 3 shown", "123", "ascending", "321", "descending", "1 of 3 shown", 1]
    assert run_script(code) == wanted
