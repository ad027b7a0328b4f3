"""Facts: each has a source that says where to look, and what lacks one is refused."""

import pytest
import yaml

from vlmcourse.comparison import facts
from vlmcourse.comparison.facts import FactError, read_facts, source_link

NAMES = [
    "Video-LLaMA", "Video-ChatGPT", "MiniGPT4-video", "CogVLM2-Video", "Qwen2-VL", "MA-LMM",
    "Chat-UniVi",
]  # fmt: skip


def test_the_seven_systems_stand_with_sources(comparison):
    assert [row.system.name for row in comparison.rows] == NAMES
    for row in comparison.rows:
        assert set(row.system.facts) == set(facts.FACTS)
        for fact in row.system.facts.values():
            assert fact.text
            assert fact.source
            assert all(source_link(one).startswith("https://") for one in fact.source)
        for told in row.system.reported.values():
            assert source_link(told.source)


def test_a_number_of_others_is_marked_and_a_missing_one_is_a_dash(comparison):
    rows = {row.system.key: row for row in comparison.rows}
    columns = {column.key: column for column in comparison.columns}
    assert columns["reported/mvbench"].cell(rows["video_llama"]).text == "34.1°"
    assert columns["reported/mvbench"].cell(rows["qwen2_vl"]).text == "67.0"
    nothing = columns["reported/mvbench"].cell(rows["ma_lmm"])
    assert (nothing.text, nothing.sort) == ("—", None)
    assert all(told.by == "others" for told in rows["video_llama"].system.reported.values())


@pytest.mark.parametrize(
    ("source", "link"),
    [
        ("arXiv 2404.05726, Table 2", "https://arxiv.org/abs/2404.05726"),
        ("arXiv 2409.12191v2, section 3.3.2", "https://arxiv.org/abs/2409.12191v2"),
        ("arXiv 2311.08046, abstract", "https://arxiv.org/abs/2311.08046"),
        ("a/b-c@0123abc:x/y.md", "https://github.com/a/b-c/blob/0123abc/x/y.md"),
    ],
)
def test_a_source_becomes_a_link(source, link):
    assert source_link(source) == link


@pytest.mark.parametrize(
    "source", ["arXiv 2404.05726", "memory", "", "a/b@main:x", "a/b:x", "https://example.org"]
)
def test_a_source_that_says_too_little_is_refused(source):
    with pytest.raises(FactError, match="is neither"):
        source_link(source)


def changed(tmp_path, comparison, change):
    """The committed facts of one system, changed, in a folder."""
    read = yaml.safe_load((COMMITTED / "systems.yaml").read_text(encoding="utf-8"))
    read["systems"] = {"chat_univi": read["systems"]["chat_univi"]}
    change(read["systems"]["chat_univi"], read)
    (tmp_path / "systems.yaml").write_text(yaml.safe_dump(read), encoding="utf-8")
    return tmp_path


COMMITTED = facts.Path(__file__).resolve().parents[2] / "experiments" / "comparison"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s, _: s["facts"]["encoder"].update(source=[]), "encoder: no source"),
        (lambda s, _: s["facts"]["data"].update(source=["recalled"]), "is neither"),
        (lambda s, _: s["facts"].pop("generator"), "'generator'"),
        (lambda s, _: s["facts"].update(colour=s["facts"]["data"]), "unknown facts colour"),
        (lambda s, _: s["reported"]["vcg"].pop("source"), "'source'"),
        (lambda s, _: s["reported"]["tgif"].update(by="me"), "by is one of own, others"),
        (lambda s, _: s["reported"].update(iq=s["reported"]["tgif"]), "unknown benchmarks iq"),
        (lambda s, _: s["world"].update(colour=1), "colour"),
        (lambda _, r: r["benchmarks"]["coin"].pop("unit"), "unit"),
        (lambda s, _: s["abilities"].update(smell=["arXiv 2311.08046, abstract"]), "smell"),
        (lambda s, _: s["abilities"].update(sound=[]), "sound: no source"),
    ],
)
def test_what_is_not_whole_is_refused_by_name(tmp_path, comparison, change, complaint):
    with pytest.raises(FactError) as refused:
        read_facts(changed(tmp_path, comparison, change))
    assert "systems.yaml" in str(refused.value)
    assert complaint in str(refused.value)


def test_a_mean_of_aspects_is_computed(tmp_path, comparison):
    def change(system, _):
        system["reported"]["vcg"] |= {"aspects": [40, 60], "divide": 20}

    read = read_facts(changed(tmp_path, comparison, change))
    assert read.systems["chat_univi"].reported["vcg"].value == 2.5


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "No such file"),
        ("a: [", "not YAML"),
        ("- 1", "not a mapping"),
        ("a: 1\na: 2", "'a' stands there twice"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, why):
    if text is not None:
        (tmp_path / "systems.yaml").write_text(text)
    with pytest.raises(FactError, match=why):
        read_facts(tmp_path)


def test_abilities_are_claimed_with_sources(comparison):
    claimed = {row.system.key: row.system.abilities for row in comparison.rows}
    assert set(claimed["video_llama"]) == {"sound"}
    assert set(claimed["minigpt4_video"]) == {"speech"}
    for abilities in claimed.values():
        assert abilities.keys() <= comparison.facts.abilities.keys()
        assert all(source_link(one) for sources in abilities.values() for one in sources)
