"""`vlmcourse table`, its Markdown, its data, and its way into README files."""

import functools
import json

import pytest
import yaml

from vlmcourse import cli, comparison, records
from vlmcourse.comparison import frames, markdown, pairs
from vlmcourse.comparison.choice import JOBS
from vlmcourse.comparison.pairs import Paired
from vlmcourse.records import RecordError


@pytest.fixture
def at_root(monkeypatch):
    from pathlib import Path

    monkeypatch.chdir(Path(__file__).resolve().parents[2])


def test_the_command_writes_a_page_data_and_markdown(at_root, tmp_path, capsys):
    page, data = tmp_path / "new" / "table.html", tmp_path / "table.json"
    assert cli.main(["table", "--html", str(page), "--json", str(data), "--markdown"]) == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    told = json.loads(data.read_text(encoding="utf-8"))
    assert [one["key"] for one in told["systems"]][:2] == ["video_llama", "video_chatgpt"]
    assert {one["verdict"] for one in told["claims"]} >= {"supported", "contradicted"}
    out = capsys.readouterr().out
    assert "| seven systems | Video-LLaMA |" in out
    assert str(page) in out


def test_a_folder_without_facts_is_one_clear_line(tmp_path, capsys):
    assert cli.main(["table", "--experiments", str(tmp_path)]) == 2
    assert "systems.yaml: No such file" in capsys.readouterr().err


# ---- Markdown


@pytest.mark.parametrize("name", list(markdown.TABLES))
def test_tables_are_whole(comparison, name):
    lines = markdown.TABLES[name](comparison).splitlines()
    widths = {line.count(" | ") for line in lines[2:]} | {lines[0].count(" | ")}
    assert len(widths) == 1
    assert len(lines) > 3


def test_ours_and_theirs_never_share_a_table(comparison):
    ours, theirs = markdown.main_table(comparison), markdown.reported_table(comparison)
    assert "MVBench" in theirs
    assert "MVBench" not in ours
    assert "small world" in ours
    assert "small world" not in theirs


def test_the_second_table_of_claims_holds_papers_alone(comparison):
    table = markdown.contradicted_table(comparison)
    assert "measured here" not in table
    assert table.count("**contradicted**") == sum(
        one.verdict == "contradicted" and one.claim.by != "measured here"
        for one in comparison.judged
    )


def test_numbers_are_told_with_sign_unit_and_kind(comparison):
    texts = {
        (one.claim.key, number.evidence.label): markdown.value_text(number)
        for one in comparison.judged
        for number in one.measured
    }
    paired = texts["video-llama-temporal", "order: positions less none"]
    assert paired.startswith("+39.0 points (33.1 to 44.3)")
    between = texts["ma-lmm-beats-video-llama", "order: the same"]
    assert between.startswith("−")
    assert not between.endswith("‡"), "systems answered the same questions"
    assert texts["ma-lmm-query-bank", "all: both banks less no query bank"].endswith(" ‡")
    assert texts["qwen2-many-tokens", "tokens of ten minutes"] == "46,080"


# ---- data


def test_frames_hold_numbers_and_texts(comparison):
    texts = frames.systems_frame(comparison, "tokens")
    numbers = frames.systems_frame(comparison, "tokens", values=True)
    assert texts.index[0] == "Video-LLaMA"
    assert texts.loc["Video-LLaMA", "tokens of a minute"] == "32 + 8 of sound"
    assert numbers.loc["Qwen2-VL", "tokens of a minute"] == 17_940
    assert numbers["tokens of a minute"].idxmax() == "Qwen2-VL"
    claims = frames.claims_frame(comparison)
    assert len(claims) == sum(len(one.measured) for one in comparison.judged)
    assert set(frames.claims_frame(comparison, "ma_lmm")["system"]) == {"MA-LMM"}


# ---- the way into README files


def test_records_render_what_a_module_makes(tmp_path, monkeypatch, capsys):
    (tmp_path / "tables.yaml").write_text("mine: {made_by: vlmcourse.comparison}\n")
    monkeypatch.setattr(comparison, "render", lambda folder, found: {"mine": "| made |"})
    readme = tmp_path / "README.md"
    readme.write_text("<!-- table:mine -->\nold\n<!-- /table:mine -->\n")
    assert records.main(["--experiments", str(tmp_path), str(readme)]) == 0
    assert "| made |" in readme.read_text()


@pytest.mark.parametrize(
    ("made_by", "complaint"),
    [
        ("os.path", "names a module of vlmcourse, not 'os.path'"),
        ("vlmcourse.nothing", "No module named"),
        ("vlmcourse.errors", "renders no tables"),
        ("vlmcourse.comparison", "renders no table 'mine'"),
    ],
)
def test_what_cannot_be_made_is_named(tmp_path, monkeypatch, made_by, complaint):
    monkeypatch.setattr(comparison, "render", lambda folder, found: {})
    (tmp_path / "tables.yaml").write_text(yaml.safe_dump({"mine": {"made_by": made_by}}))
    with pytest.raises(RecordError, match=complaint):
        records.read_tables(tmp_path)


# ---- pairs of systems


def test_pairs_are_measured_from_the_kept_answers(at_root, tmp_path, monkeypatch, comparison):
    """The committed answers, few draws: the record says what the committed one says."""
    quick = functools.partial(pairs.measure, draws=300)
    monkeypatch.setattr(pairs, "measure", quick)
    path = tmp_path / "pairs.json"
    assert cli.main(["table", "--measure", "pairs", "--record", str(path)]) == 0
    made, kept = records.read_record(path), comparison.rows[0].records["comparison-pairs"]
    assert made["settings"] == kept["settings"]
    assert made["seeds"] == [0, 1, 2]
    assert made["data_checksum"] == kept["data_checksum"]
    assert made["metrics"].keys() == kept["metrics"].keys()
    for name, one in kept["metrics"].items():
        assert made["metrics"][name]["mean"] == one["mean"], name


def test_pairs_agree_with_the_records_of_the_systems(comparison):
    paired = Paired.of(comparison.rows[0].records["comparison-pairs"])
    for row in comparison.rows:
        for group in ("all", "order", "detail"):
            assert paired.mean(row.system.key, group)["mean"] == row.score(group)["mean"]


def test_every_job_has_a_line(comparison):
    lines = markdown.TABLES["comparison_jobs"](comparison).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == list(JOBS)
    assert all(line.count("**") == 2 for line in lines[2:])


def test_every_claim_names_its_records(comparison):
    lines = markdown.claims_table(comparison).splitlines()[2:]
    for line, one in zip(lines, comparison.judged, strict=True):
        for number in one.measured:
            assert all(f"`{record}`" in line for record in number.records)
