"""`vlmcourse compare`: both sides on the same questions, their difference, and what it is about."""

import json
import shutil

import pytest

from vlmcourse import cli
from vlmcourse.backbones.language_model import grow_vocabulary
from vlmcourse.errors import UserError
from vlmcourse.evaluation.compare import comparison_table
from vlmcourse.evaluation.options import read_options
from vlmcourse.evaluation.runs import differing_parts, load_runs
from vlmcourse.records import read_record


@pytest.fixture(scope="module")
def command(world, foundations, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return [
        *("compare", "--split", str(world / "test"), "--cache", str(cache), "--device", "cpu"),
        *("--foundations", str(foundations)),
        *("--a-system", "video_chatgpt", "--b-system", "video_chatgpt"),
    ]


def compared(command, path, *more):
    assert cli.main([*command, *map(str, more), "--record", str(path)]) == 0
    return read_record(path)


def test_the_record_holds_both_sides_and_their_difference(command, runs, tmp_path, capsys):
    sides = ("--a", *runs[:2], "--b", runs[2], "--a-name", "two", "--b-name", "one", "--kinds")
    record = compared(command, tmp_path / "sides.json", *sides, "--about", "order")
    metrics = record["metrics"]
    assert record["seeds"] == [0, 1, 2]
    assert record["settings"]["a"]["name"] == "two"
    assert record["settings"]["pairs"] == "clips"
    for name in ("all", "order", "kind/first", "hallucination/false_yes"):
        a, b, less = (metrics[f"{side}/{name}"] for side in ("a", "b", "difference"))
        assert less["mean"] == pytest.approx(a["mean"] - b["mean"], abs=1e-5)
        assert less["low"] <= less["mean"] <= less["high"]
        assert a["n"] == 2 * b["n"] == 2 * less["n"]
    order = metrics["difference/order"]
    assert record["status"] == ("ok" if order["low"] > 0 else "negative")
    assert "A look only (runs: 1, clips: 8)" in record["note"]
    out = capsys.readouterr().out
    assert "| questions | two | one | difference |" in out
    assert "| hallucination, false yes |" in out
    assert "| first |" in out
    assert "second/" not in comparison_table(record, kinds=True)


def test_the_same_runs_are_paired_and_do_not_differ(command, runs, tmp_path):
    record = compared(command, tmp_path / "same.json", "--a", *runs[:2], "--b", *runs[:2])
    assert record["settings"]["pairs"] == "clips and runs"
    assert {record["metrics"][f"difference/{n}"]["mean"] for n in ("all", "order")} == {0.0}
    assert record["status"] == "negative"
    assert "a above b: nothing; below: nothing; no difference shown: all, " in record["note"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--about", "recall"], "--about recall: no such questions here; there are all, "),
        (["--a-given", "sounds"], "no stream 'sounds' here; it has pictures"),
        (["--clips", "0"], "--clips must be at least 1"),
    ],
)
def test_what_cannot_be_used_is_one_line(command, runs, tmp_path, options, complaint, capsys):
    path = tmp_path / "no.json"
    sides = ["--a", str(runs[0]), "--b", str(runs[1]), "--record", str(path)]
    assert cli.main([*command, *sides, *options]) == 2
    assert complaint in capsys.readouterr().err.strip().splitlines()[-1]
    assert not path.exists(), "nothing was measured"


def test_a_run_that_does_not_tell_its_system_is_named(command, runs, tmp_path, capsys):
    without = [
        word for word in command if word not in ("--a-system", "--b-system", "video_chatgpt")
    ]
    sides = ["--a", str(runs[0]), "--b", str(runs[1]), "--record", str(tmp_path / "no.json")]
    assert cli.main([*without, *sides]) == 2
    assert "name it with --a-system" in capsys.readouterr().err


def test_frozen_parts_are_the_same_but_for_added_rows(tiny_video_chatgpt):
    model, other = (tiny_video_chatgpt() for _ in range(2))
    assert differing_parts(model, other) == []
    grow_vocabulary(other.language_model, random_rows=2, mean_rows=0)
    assert differing_parts(model, other) == []
    other.language_model.get_input_embeddings().weight.data[3] += 1
    assert differing_parts(model, other) == ["language model"]
    other.vision_encoder = None
    assert differing_parts(model, other) == ["language model"]


def test_runs_of_different_options_are_not_asked_together(runs, foundations, tmp_path):
    other = tmp_path / "seed9" / "instruction_tuning"
    shutil.copytree(runs[0] / "instruction_tuning", other)
    about = json.loads((other / "stage.json").read_text())
    about |= {"settings_hash": "other"}
    about["settings"]["model"]["options"] = {"max_length": 99}
    (other / "stage.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"built with \{'max_length': 99\}, .* with none"):
        load_runs("video_chatgpt", [runs[0], other.parent], "cpu", foundations)


def test_options_are_read_as_yaml_and_change_the_system(command, runs, tmp_path):
    assert read_options(("scale=1.5", "on=false", "none=null")) == {
        "scale": 1.5, "on": False, "none": None
    }  # fmt: skip
    for wrong in ("scale", "=1"):
        with pytest.raises(UserError, match="NAME=VALUE"):
            read_options((wrong,))
    sides = ("--a", runs[0], "--a-options", "spatial_grid=2", "--b", runs[0])
    record = compared(command, tmp_path / "options.json", *sides)
    assert record["settings"]["a"]["options"] == {"spatial_grid": 2}
    assert record["settings"]["b"]["options"] == {}
    assert record["metrics"]["difference/all"]["n"] == record["metrics"]["a/all"]["n"]


def test_spans_are_compared_too(command, runs, tmp_path, capsys):
    sides = ("--a", *runs[:2], "--b", runs[2], "--grounding")
    record = compared(command, tmp_path / "spans.json", *sides)
    metrics = record["metrics"]
    for name in ("mean_iou", "recall_0.5", "parsed"):
        a, b, less = (metrics[f"{side}/{name}"] for side in ("a", "b", "difference"))
        assert less["mean"] == pytest.approx(a["mean"] - b["mean"], abs=1e-5)
        assert a["n"] == 2 * b["n"]
    assert record["settings"]["about"] == ["mean_iou"]
    assert record["status"] == ("ok" if metrics["difference/mean_iou"]["low"] > 0 else "negative")
    assert "| recall 0.7 |" in capsys.readouterr().out
    path = tmp_path / "no.json"
    asked = [*command, *map(str, sides), "--about", "order", "--record", str(path)]
    assert cli.main(asked) == 2
    assert "there are mean_iou, " in capsys.readouterr().err
