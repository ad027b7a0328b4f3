"""`vlmcourse evaluate`: one command, one record, one table; what cannot be used is one line."""

import json

import pytest

from vlmcourse import cli
from vlmcourse.evaluation.answer_bits import load_answers
from vlmcourse.records import read_record


@pytest.fixture(scope="module")
def command(world, runs, foundations, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return [
        *("evaluate", "--system", "video_chatgpt", "--runs", *map(str, runs)),
        *("--split", str(world / "test"), "--cache", str(cache)),
        *("--foundations", str(foundations), "--device", "cpu"),
    ]


def test_the_record_holds_all_conditions_seeds_and_intervals(command, world, tmp_path, capsys):
    path = tmp_path / "probes.json"
    assert cli.main([*command, "--record", str(path), "--permutations", "2", "--kinds"]) == 0
    record = read_record(path)
    assert record["seeds"] == [0, 1, 2]
    assert record["settings"]["clips"] == 8
    manifest = json.loads((world / "test" / "manifest.json").read_text())
    assert record["data_checksum"] == manifest["data_checksum"]
    system = record["metrics"]["system/all"]
    assert len(system["values"]) == 3
    assert system["low"] < system["mean"] < system["high"]
    assert system["n"] == 3 * record["metrics"]["blind/all"]["n"]
    assert record["settings"]["given"] == ["pictures"]
    assert record["metrics"]["system/hallucination/false_yes"]["n"] > 0
    seconds = [name for name in record["metrics"] if "/second/" in name]
    assert {name.split("/")[2] for name in seconds} == {"when"}, "it does not hear"
    assert "A look only (runs: 3, clips: 8)" in record["note"]
    assert str(path.parent) not in path.read_text()
    out = capsys.readouterr().out
    assert "| appearance | picture |" in out
    assert "| first |" in out


def test_controls_can_be_chosen(command, tmp_path):
    path = tmp_path / "few.json"
    options = ["--controls", "blind", "--clips", "3", "--record", str(path)]
    assert cli.main([*command, *options]) == 0
    record = read_record(path)
    assert record["settings"]["conditions"] == ["system", "best_constant", "blind", "no_video"]
    assert record["settings"]["clips"] == 3
    assert "shuffled/all" not in record["metrics"]


def test_families_can_be_chosen(command, tmp_path):
    path = tmp_path / "order.json"
    options = ["--controls", "--families", "order", "place", "--record", str(path)]
    assert cli.main([*command, *options]) == 0
    record = read_record(path)
    assert record["settings"]["families"] == ["order", "place"]
    assert set(record["settings"]["asked"]) <= {"first", "last", "before", "after", "where"}
    assert {"system/order", "system/place"} <= set(record["metrics"])
    assert record["metrics"]["system/appearance"]["n"] == 0


def test_the_answers_give_the_means_of_the_record_again(command, tmp_path):
    path, kept = tmp_path / "few.json", tmp_path / "few-answers.json"
    options = ["--controls", "blind", "shuffled", "--record", str(path), "--answers", str(kept)]
    assert cli.main([*command, *options]) == 0
    record, answers = read_record(path), load_answers(kept)
    assert answers.seeds == (0, 1, 2)
    assert answers.data_checksum == record["data_checksum"]
    assert list(answers.right) == record["settings"]["conditions"]
    for name in ("system/all", "system/order", "blind/all", "shuffled/kind/first"):
        condition, group = name.split("/", 1)
        said, chosen = answers.values(group, condition)
        assert said[:, chosen].mean() == pytest.approx(record["metrics"][name]["mean"], abs=1e-5)
    rate = "hallucination/false_yes"
    said, chosen = answers.values(rate)
    assert said[:, chosen].mean() == pytest.approx(record["metrics"][f"system/{rate}"]["mean"])
    assert str(tmp_path) not in kept.read_text()


def test_answers_are_those_to_questions(command, tmp_path, capsys):
    options = ["--grounding", "--answers", str(tmp_path / "a.json")]
    assert cli.main([*command, *options]) == 2
    assert "--answers keeps what was answered to questions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--runs", "nowhere", "nowhere: no such file or folder"),
        ("--split", "nowhere", "nowhere/manifest.json: no such file"),
        ("--system", "video_chatgtp", "unknown system 'video_chatgtp'"),
        ("--permutations", "0", "must be at least 1"),
        ("--device", "tpu", "unknown device 'tpu'"),
        ("--given", "sounds", "no stream 'sounds' here; it has pictures"),
        ("--controls", "other_sound", "takes nothing from a system given pictures"),
    ],
)
def test_what_cannot_be_used_is_one_line(command, tmp_path, option, value, complaint, capsys):
    path = tmp_path / "no.json"
    assert cli.main([*command, "--record", str(path), option, value]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert errors[-1].startswith("error: ")
    assert complaint in errors[-1]
    assert not path.exists(), "nothing was measured"


def test_a_run_counts_once(command, runs, tmp_path, capsys):
    record = ["--record", str(tmp_path / "no.json")]
    assert cli.main([*command, *record, "--runs", str(runs[0]), str(runs[0])]) == 2
    assert "the same run stands twice" in capsys.readouterr().err
