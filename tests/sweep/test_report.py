"""The end of a sweep: a record that holds, tables that tell all, a figure that fits."""

import io
import re
from pathlib import Path

import pytest
from made_up_sweep import MadeUpCells, MadeUpPlan, hypothesis, made_up_questions
from PIL import Image

from vlmcourse.errors import UserError
from vlmcourse.record_form import settings_hash, validate
from vlmcourse.records import read_record, read_tables, write_record
from vlmcourse.sweep.cli import write_look, write_up
from vlmcourse.sweep.picture import numeric_axis, sweep_panels, told_groups
from vlmcourse.sweep.places import Places, key_of
from vlmcourse.sweep.plan import Measure, Setting, read_plan
from vlmcourse.sweep.report import spent_minutes, sweep_tables, write_report
from vlmcourse.sweep.results import SettingResult

AXES = {"connector": ["pooling", "qformer"], "tokens": [8, 32, 128]}  # two names: no pairs
SETTINGS = [
    Setting(f"connector_{name}-tokens_{tokens}", {"connector": name, "tokens": tokens})
    for name in AXES["connector"]
    for tokens in AXES["tokens"]
]
CLAIMS = (
    hypothesis("more", {"connector": "qformer"}, {"connector": "pooling"}),
    hypothesis("sees", {"connector": "qformer"}, control="blind", group="order"),
    hypothesis("lost", {"tokens": 128}, {"tokens": 8}, where={"connector": "pooling"}),
)
PLAN = MadeUpPlan("made_up", AXES, SETTINGS, CLAIMS, seeds=(0, 1, 2))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A sweep of 18 cells: one failed, one is missing; its record, and the folder of all files."""
    folder = tmp_path_factory.mktemp("sweep")
    made, cells = MadeUpCells(folder, made_up_questions(30)), []
    for number, setting in enumerate(SETTINGS):
        for seed in PLAN.seeds:
            if (number, seed) == (5, 2):
                cells.append(made.fail(setting.name, seed))
            elif (number, seed) == (0, 1):
                cells.append(made.cell(setting.name, seed))
            else:
                before = "other" if number == 1 else PLAN.hypotheses_hash
                cells.append(made.finish(setting.name, seed, 0.2 * number - 0.4, before))
    record = write_report(
        PLAN,
        cells,
        folder / "records" / "made_up.json",
        ["vlmcourse", "sweep", "made_up.yaml"],
        folder / "figures" / "made_up.png",
        folder / "made_up.md",
    )
    return record, folder


def test_the_record_holds_settings_costs_and_hypotheses(report):
    record, folder = report
    assert read_record(folder / "records" / "made_up.json") == record
    validate(record, "made_up")
    metrics = record["metrics"]
    for setting in SETTINGS:
        assert {f"{setting.name}/{name}" for name in ("all", "order", "runs", "shuffled/all")} <= {
            *metrics
        }
        assert metrics[f"{setting.name}/tokens/video"]["mean"] == 8
    one = metrics["connector_qformer-tokens_8/order"]
    assert len(one["values"]) == 3
    assert one["low"] < one["mean"] < one["high"]
    assert "blind/order" in metrics, "it is the same for all settings"
    assert "connector_qformer-tokens_8/blind/all" not in metrics
    assert metrics["minutes"]["mean"] == pytest.approx(16 * 0.5)
    assert metrics["cpu_minutes"]["mean"] == pytest.approx(16 * 0.25, abs=0.2), "and the asking"
    assert metrics["cpu_minutes"]["n"] == 16
    told = record["settings"]["told"]
    assert told["runs"] == "16 of 18, 3 seeds"
    assert sum(int(x) for x in re.findall(r"\d+", told["verdicts"])) == len(CLAIMS)
    assert metrics["hypothesis/sees"]["low"] > 0
    assert metrics["hypothesis/sees/p"]["mean"] <= 0.05
    assert record["seeds"] == [0, 1, 2]
    assert record["data_checksum"] == "checksum"
    assert record["settings"]["hypotheses"]["more"]["source"] == CLAIMS[0].source


def test_failed_and_missing_runs_are_never_dropped(report):
    record, _ = report
    metrics = record["metrics"]
    failed, missing = "connector_qformer-tokens_128", "connector_pooling-tokens_8"
    for name in (failed, missing):
        assert (metrics[f"{name}/runs"]["n"], metrics[f"{name}/runs"]["mean"]) == (3, 2)
    assert metrics[f"{failed}/all"]["n"] == 2 * 179
    assert record["note"].startswith("Not finished: 1 of 18 runs are missing. ")
    assert "Runs that failed: 1 of 18." in record["note"]
    assert record["settings"]["title"].endswith("(not finished: 1 runs are missing)")
    table = sweep_tables(record)
    assert "| connector_qformer-tokens_128, seed 2 | ValueError: no \\| loss |" in table
    assert "| qformer, tokens 128 | 2 of 3 |" in table


def test_the_verdicts_stand_in_note_and_table(report):
    record, folder = report
    assert " Supported: " in record["note"]
    assert "Not decided: more, lost." in record["note"]
    assert "Corrected over all 3 hypotheses (Holm)." in record["note"]
    lines = sweep_tables(record).splitlines()
    (lost,) = [line for line in lines if line.startswith("| lost: what lost says |")]
    assert "tokens 128 − tokens 8, pooling (all) | greater | — | — |" in lost
    assert "| 5 of 6 (1 missing) | not decided | runs are missing: connector_pooling" in lost
    (sees,) = [line for line in lines if line.startswith("| sees: ")]
    assert "qformer − blind (order)" in sees
    assert "| 8 of 9 (1 failed) | supported | 1 of 9 runs failed |" in sees
    assert sweep_tables(record) in (folder / "made_up.md").read_text()


def test_hypotheses_that_were_changed_after_runs_are_told(report):
    assert "THE HYPOTHESES WERE CHANGED after 3 of these runs" in report[0]["note"]


def test_readme_can_show_the_tables(report):
    record, folder = report
    tables = read_tables(folder)
    assert set(tables) == {"made_up.settings", "made_up.hypotheses", "made_up.failed"}
    assert tables["made_up.settings"] in sweep_tables(record)


def test_the_figure_is_a_picture_of_readable_size(report):
    path = report[1] / "figures" / "made_up.png"
    assert path.stat().st_size < 60_000
    width, height = Image.open(io.BytesIO(path.read_bytes())).size
    assert width > 500
    assert height > 250


def test_the_figure_has_a_line_a_connector_over_tokens(report):
    record, _ = report
    assert numeric_axis(AXES) == "tokens"
    assert told_groups(record, "probes", 3) == ["all", "order", "appearance"]
    panels, chance = sweep_panels(record, "probes", ["all"], "tokens")
    assert list(panels["all"]) == ["pooling", "qformer"]
    assert list(panels["all"]["qformer"]) == [8, 32, 128]
    assert panels["all"]["qformer"][8] == record["metrics"]["connector_qformer-tokens_8/all"]
    assert chance["all"] == record["metrics"]["best_constant/all"]


def test_several_measures_stand_apart(tmp_path):
    settings, cells = SETTINGS[:2], []
    measures = (Measure("near"), Measure("far"))
    for measure in measures:
        made = MadeUpCells(tmp_path, made_up_questions(20), measure=measure.name)
        cells += [made.finish(x.name, seed, 0.5) for x in settings for seed in (0, 1)]
    claim = hypothesis("far", {"tokens": 32}, {"tokens": 8}, measure="far")
    axes = {"connector": ["pooling"], "tokens": [8, 32]}
    plan = MadeUpPlan("two", axes, settings, (claim,), (0, 1), measures)
    record = write_report(plan, cells, tmp_path / "two.json", ["vlmcourse"])
    assert {"near/connector_pooling-tokens_8/all", "far/best_constant/all"} <= {*record["metrics"]}
    assert list(record["settings"]["tables"]) == ["near", "far", "hypotheses"]
    assert record["metrics"]["hypothesis/far"]["n"] > 0


SWEEP = """
title: Frames
question: How many frames?
written: 2026-11-01
axes: {frames: [1, 8]}
seeds: [0, 1]
runs: "runs/video_chatgpt/world-seed{seed}"
measure: [{data: data/world, set: {num_frames: "{frames}"}}]
hypotheses:
  - {name: more, claim: more is more, source: a paper, a: {frames: 8}, b: {frames: 1}, group: order,
     expect: greater}
"""


def test_the_command_reports_what_its_cells_left(tmp_path, capsys):
    path = tmp_path / "frames.yaml"
    path.write_text(SWEEP)
    places = Places(read_plan(path), work=tmp_path / "work")
    named = {(cell.setting.name, cell.seed): cell for cell in places.plan.cells}

    def paths(setting, seed):
        cell = named[setting, seed]
        return tuple(f(cell, cell.measures[0]) for f in (places.record, places.answers))

    made = MadeUpCells(tmp_path, made_up_questions(30), weights="run-{seed}", paths=paths)
    for setting, seed in named:
        made.finish(setting, seed, 0.2 if setting == "frames_1" else 1.2)
    write_up(places, ["vlmcourse", "sweep", str(path)])
    record = read_record(places.summary)
    assert record["id"] == "frames"
    assert str(tmp_path) not in places.summary.read_text()
    assert "| more: more is more |" in capsys.readouterr().out
    assert places.figure.stat().st_size > 1000
    assert places.table.exists()


def test_a_look_at_a_sweep_that_is_not_over_is_kept_apart(tmp_path, capsys):
    """Of four cells one is missing and one was made with other settings."""
    (tmp_path / "data" / "test").mkdir(parents=True)
    (tmp_path / "data" / "test" / "manifest.json").write_text('{"data_checksum": "checksum"}')
    path = tmp_path / "frames.yaml"
    path.write_text(SWEEP.replace("data/world", str(tmp_path / "data")))
    places = Places(read_plan(path), work=tmp_path / "work")
    made = MadeUpCells(tmp_path, made_up_questions(30), weights="run-{seed}")
    for cell in places.plan.cells[:3]:
        paths = (places.record(cell, cell.measures[0]), places.answers(cell, cell.measures[0]))
        made.paths = lambda setting, seed, paths=paths: paths
        made.finish(cell.setting.name, cell.seed, 0.5)
        record, seed_0 = read_record(paths[0]), cell.seed == 0
        key = key_of(cell, cell.measures[0], places.size) if seed_0 else "of another plan"
        record["settings"]["sweep"] = {"key": key, "hypotheses": "another"}
        write_record(paths[0], record | {"settings_hash": settings_hash(record["settings"])})
    before = {*tmp_path.rglob("*")} - {*(tmp_path / "work").rglob("*")}
    write_look(places, ["vlmcourse", "sweep", str(path), "--report"])
    assert {*tmp_path.rglob("*")} - {*(tmp_path / "work").rglob("*")} == before | {
        tmp_path / "work"
    }
    record = read_record(places.look / "frames.json")
    assert record["note"].startswith("Not finished: 2 of 4 runs are missing. Not decided: more.")
    assert "CHANGED after 2 of these runs" in record["note"]
    assert record["metrics"]["frames_1/all"]["mean"] > 0
    said = capsys.readouterr().out
    assert "| frames 1 | 1 of 2 |" in said
    assert "Not finished" in (places.look / "frames.md").read_text()
    assert (places.look / "frames.png").exists()


def test_a_sweep_of_which_all_failed_still_leaves_a_record(tmp_path):
    made = MadeUpCells(tmp_path)
    cells = [made.fail(x.name, seed) for x in SETTINGS for seed in PLAN.seeds]
    figure = tmp_path / "no.png"
    record = write_report(PLAN, cells, tmp_path / "made_up.json", ["vlmcourse"], figure)
    assert record["status"] == "failed"
    assert "Not decided: more, sees, lost." in record["note"]
    assert "connector_pooling-tokens_8, seed 0 | ValueError: no \\| loss |" in sweep_tables(record)
    assert not figure.exists()
    with pytest.raises(UserError, match="nothing to report"):
        write_report(PLAN, [], Path("no.json"), [])


def cell_record(cpu_s, **minutes):
    metrics = {name.replace("_", "/", 1): {"mean": value} for name, value in minutes.items()}
    return {"cpu_s": cpu_s, "metrics": metrics}


def test_a_training_asked_twice_is_counted_once():
    asked = {0: cell_record(60.0, train_minutes=3.0, train_cpu_minutes=2.5)}
    twice = [SettingResult("one", measure, records=asked) for measure in ("trained", "longer")]
    assert spent_minutes(twice)["cpu_minutes"]["mean"] == 2.5 + 1 + 1


def test_no_total_where_a_training_does_not_tell():
    untold = {0: cell_record(60.0, cell_minutes=4.0, train_minutes=3.0)}
    told = spent_minutes([SettingResult("one", "probes", records=untold)])
    assert set(told) == {"minutes"}
