"""Records: measured, written whole or not at all, refused when not whole, rendered as tables."""

import json
import math
import threading

import numpy as np
import pytest

from vlmcourse import measure, records
from vlmcourse.record_form import settings_hash, without_machine
from vlmcourse.records import RecordError, Run, metric


def write(tmp_path, name="a", body=lambda run: None, **settings):
    path = tmp_path / "records" / f"{name}.json"
    with Run(path, "vlmcourse evaluate", settings, seeds=[0, 1], data_checksum="ab12") as run:
        body(run)
    return path


def changed(path, **fields):
    record = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in record.items() if v is not ...}))
    return path


# ---- measuring


def test_a_run_is_measured(tmp_path):
    def body(run):
        block = np.ones(64 * 2**17)  # 64 MiB
        run.metrics["sum"] = metric([block.sum() for _ in range(20)], "ones", kind="seeds")

    before = measure.peak_rss_mib()
    record = records.read_record(write(tmp_path, body=body, steps=3))
    assert record["id"] == "a"
    assert record["status"] == "ok"
    assert record["settings"] == {"steps": 3}
    assert record["seeds"] == [0, 1]
    assert record["data_checksum"] == "ab12"
    assert record["wall_s"] > 0
    assert record["cpu_s"] > 0
    assert record["peak_mib"] > 64
    assert record["peak_mib"] < before + 2000
    assert record["metrics"]["sum"]["mean"] == pytest.approx(64 * 2**17, rel=1e-5)
    assert set(record["hardware"]) >= {"cpu", "cores", "memory_gib", "gpu", "torch", "threads"}
    assert record["hardware"]["cores"] >= 1


def test_the_peak_is_of_the_block_not_of_the_past():
    np.ones(200 * 2**17).sum()  # 200 MiB, freed at once
    past = measure.peak_rss_mib()
    with measure.Cost() as cost:
        pass
    if measure.Path("/proc/self/clear_refs").exists():
        assert cost.peak_mib < past - 100


def test_a_failing_run_leaves_a_record_and_its_error(tmp_path):
    with pytest.raises(ValueError, match="no clips"):
        write(tmp_path, body=lambda run: (_ for _ in ()).throw(ValueError("no clips in /data/x/y")))
    record = records.read_record(tmp_path / "records" / "a.json")
    assert record["status"] == "failed"
    assert record["note"] == "ValueError: no clips in y"


def test_a_stopped_run_leaves_none(tmp_path):
    def stop(run):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, body=stop)
    assert not (tmp_path / "records" / "a.json").exists()


def test_commit_and_dirty(tmp_path):
    import subprocess

    def git(*words):
        subprocess.run(["git", "-C", tmp_path, *words], check=True, capture_output=True)

    assert measure.commit(tmp_path / "none") == ("unknown", False)
    git("init", "-q")
    assert measure.commit(tmp_path)[0] == "unknown"
    (tmp_path / "a.txt").write_text("1")
    git("add", "a.txt")
    git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "first")
    commit_id, dirty = measure.commit(tmp_path)
    assert len(commit_id) == 40
    assert not dirty
    (tmp_path / "a.txt").write_text("2")
    assert measure.commit(tmp_path) == (commit_id, True)


def test_a_tree_of_processes_is_watched():
    import subprocess
    import sys

    code = "import time; block = bytearray(100 * 2**20); time.sleep(0.6)"
    with measure.TreePeak(every_s=0.02) as peak:
        subprocess.run([sys.executable, "-c", code], check=True)
    # Just forked, the child still counts the pages of this process as its own.
    assert 100 < peak.mib < 300 + measure.peak_rss_mib()


# ---- no machine in a record


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("read /repo/data/world/a.mp4", "read data/world/a.mp4"),
        ("read /home/somebody/clips/a b.mp4", "read a b.mp4"),
        ("~/clips/a.mp4 and/or clips/s at 3/4", "a.mp4 and/or clips/s at 3/4"),
        ("C:\\Users\\me\\a.mp4", "a.mp4"),
    ],
)
def test_paths_become_relative(text, clean):
    assert without_machine(text, "/repo") == clean


def test_settings_and_command_are_cleaned(tmp_path):
    path = tmp_path / "records" / "a.json"
    with Run(
        path, ["vlmcourse", "train", f"{tmp_path}/s.yaml"], {"data": f"{tmp_path}/d"}, root=tmp_path
    ):
        pass
    record = records.read_record(path)
    assert record["command"] == "vlmcourse train s.yaml"
    assert record["settings"] == {"data": "d"}


# ---- whole or refused


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"status": "fine"}, "status 'fine' is none of ok, negative, failed"),
        ({"seeds": ...}, "field 'seeds' is missing"),
        ({"colour": 1}, "field 'colour' is unknown"),
        ({"wall_s": "3"}, "field 'wall_s' is '3'"),
        ({"wall_s": True}, "field 'wall_s' is True"),
        ({"id": "a/b"}, "id 'a/b' may hold"),
        ({"settings": {"steps": 4}}, "settings_hash does not belong"),
        ({"hardware": {"cpu": "x"}}, "hardware lacks cores"),
        (
            {"note": "see /home/you/a.mp4"},
            "note tells a path of one machine: /home/you/a.mp4",
        ),
        ({"metrics": {"a": {"n": 1}}}, "metric 'a' lacks 'mean'"),
        ({"metrics": {"a": 0.5}}, "metric 'a' is 0.5"),
        (
            {"metrics": {"a": {"n": 2, "mean": 1, "low": 2, "high": 3, "unit": ""}}},
            "mean 1 lies outside 2 to 3",
        ),
        (
            {"metrics": {"a": {"n": 2, "mean": 2, "low": 2, "high": 3, "unit": "", "sd": 1}}},
            "metric 'a': unknown sd",
        ),
    ],
)
def test_what_is_not_whole_is_refused_by_name(tmp_path, fields, complaint):
    path = changed(write(tmp_path, steps=3), **fields)
    with pytest.raises(RecordError) as refused:
        records.read_record(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert complaint in str(refused.value)


@pytest.mark.parametrize(("text", "why"), [("{", "not JSON"), ("[]", "not a record")])
def test_damaged_files_are_named(tmp_path, text, why):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(RecordError, match=rf"x\.json: {why}"):
        records.read_record(tmp_path / "x.json")
    with pytest.raises(RecordError, match="no such record"):
        records.read_record(tmp_path / "y.json")


def test_settings_hash_ignores_order_only():
    assert settings_hash({"a": 1, "b": 2}) == settings_hash({"b": 2, "a": 1})
    assert settings_hash({"a": 1}) != settings_hash({"a": 2})


def test_reading_a_folder(tmp_path):
    write(tmp_path / "system_b", "b")
    write(tmp_path / "system_a", "a")
    (tmp_path / "system_a" / "other.json").write_text("not a record")
    assert list(records.read_records(tmp_path)) == ["a", "b"]
    write(tmp_path / "system_b", "a")
    with pytest.raises(RecordError, match="a second record with id 'a'"):
        records.read_records(tmp_path)


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    records.write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="JSON"):
        records.write_json(path, {"new": math.nan})
    with pytest.raises(TypeError):
        records.write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path, stop, seen = tmp_path / "a.json", threading.Event(), []
    records.write_json(path, [0] * 5000)

    def read():
        while not stop.is_set():
            seen.append(len(json.loads(path.read_text())))

    reader = threading.Thread(target=read)
    reader.start()
    for value in range(60):
        records.write_json(path, [value] * 5000)
    stop.set()
    reader.join()
    assert set(seen) == {5000}


# ---- tables


def two(tmp_path):
    def good(run):
        run.metrics["acc"] = metric([1.0] * 60 + [0.0] * 40, "share")
        run.metrics["speed"] = metric([1234.5, 1250.0], "clips/s", kind="seeds")

    def bad(run):
        run.metrics["acc"] = metric([0.25], "share")
        run.status = "negative"

    write(tmp_path, "pooling", good)
    write(tmp_path, "blind", bad)
    with pytest.raises(ValueError, match="broke"):
        write(tmp_path, "broken", lambda run: (_ for _ in ()).throw(ValueError("broke")))
    return records.read_records(tmp_path)


def test_a_table_of_records(tmp_path):
    rows = {"Pooling": "pooling", "Blind": "blind", "Broken": "broken", "Later": "later"}
    columns = {"accuracy": "acc", "speed": "speed"}
    table = records.markdown_table(two(tmp_path), rows, columns, corner="System").splitlines()
    assert table[0] == "| System | accuracy | speed |"
    assert table[1] == "| --- | --: | --: |"
    assert table[2].startswith("| Pooling | 60.0 % (51.0–69.0) | 1,242 clips/s (")
    assert table[3] == "| Blind (negative) | 25.0 % | — |"
    assert table[4] == "| Broken | failed | failed |"
    assert table[5] == "| Later | — | — |"
    across = records.markdown_table(two(tmp_path), rows, columns, transpose=True).splitlines()
    assert across[0] == "|  | Pooling | Blind (negative) | Broken | Later |"
    assert across[3].startswith("| speed | 1,242 clips/s")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.0123"), (3.0, "3"), (56.78, "56.8"), (1e7, "1.00e+07"), (-2.5, "-2.5")],
)
def test_numbers_are_short(value, text):
    assert records.number_text(value) == text


def test_fields_have_units(tmp_path):
    record = two(tmp_path)["pooling"] | {"wall_s": 600.0, "peak_mib": 1234.5}
    assert records.cell_text(record, "wall_s") == "10.0 min"
    assert records.cell_text(record, "peak_mib") == "1,234 MiB"
    assert records.cell_text(record, "peak_gpu_mib") == "—"
    assert records.cell_text(record | {"wall_s": 12.34}, "wall_s") == "12.3 s"


def test_markers():
    text = "before\n<!-- table:a -->\nold\n<!-- /table:a -->\nafter\n"
    new = records.render_between_markers(text, "a", "| new |")
    assert new == "before\n<!-- table:a -->\n| new |\n<!-- /table:a -->\nafter\n"
    assert records.render_between_markers(new, "a", "| new |") == new
    for wrong in ("no markers", text + text, "<!-- /table:a --><!-- table:a -->"):
        with pytest.raises(ValueError, match="exactly one pair"):
            records.render_between_markers(wrong, "a", "")


TABLES = """
probes:
  corner: System
  rows: {Pooling: pooling}
  columns: {accuracy: acc}
"""


@pytest.fixture
def experiments(tmp_path):
    two(tmp_path / "experiments" / "video_chatgpt")
    (tmp_path / "experiments" / "tables.yaml").write_text(TABLES)
    return tmp_path / "experiments"


def test_the_command_renders_and_checks(tmp_path, experiments, capsys):
    readme = tmp_path / "README.md"
    readme.write_text("# Hello\n<!-- table:probes -->\n<!-- /table:probes -->\n")
    book = tmp_path / "a.ipynb"
    cell = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": readme.read_text()}
    book.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4}))
    words = ["--experiments", str(experiments), str(readme), str(book)]
    assert records.main(["--check", *words]) == 1
    assert "README.md: differs from the records" in capsys.readouterr().out
    assert records.main(words) == 0
    assert records.main(["--check", *words]) == 0
    for path in (readme, book):
        assert "| Pooling | 60.0 % (51.0–69.0) |" in path.read_text()
    readme.write_text(readme.read_text().replace("60.0", "99.0"))
    assert records.main(["--check", *words]) == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<!-- table:none -->\n<!-- /table:none -->", "no table 'none'; known: probes"),
        ("<!-- table:probes -->", "exactly one pair"),
        ("<!-- /table:probes -->", "end marker without a beginning"),
    ],
)
def test_the_command_names_what_is_wrong(tmp_path, experiments, capsys, text, complaint):
    (tmp_path / "README.md").write_text(text)
    words = ["--experiments", str(experiments), str(tmp_path / "README.md")]
    assert records.main(words) == 2
    assert complaint in capsys.readouterr().err


def test_a_misspelt_description_is_named(tmp_path, experiments, capsys):
    (experiments / "tables.yaml").write_text(TABLES.replace("corner", "croner"))
    (tmp_path / "README.md").write_text("")
    assert records.main(["--experiments", str(experiments), str(tmp_path / "README.md")]) == 2
    assert "table 'probes'" in capsys.readouterr().err


# ---- what is committed


def test_committed_records_are_whole_and_tables_rendered(capsys):
    root = measure.Path(__file__).resolve().parents[1]
    records.read_records(root / "experiments")
    files = [root / "README.md"]
    files += sorted([*root.glob("experiments/*/README.md"), *root.glob("notebooks/*.ipynb")])
    words = ["--check", "--experiments", str(root / "experiments"), *map(str, files)]
    assert records.main(words) == 0, capsys.readouterr()
