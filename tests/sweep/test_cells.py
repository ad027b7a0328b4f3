"""One cell in this process: what is asked of training and of evaluation, and what a record adds."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from vlmcourse.intervals import metric
from vlmcourse.records import Run, read_record
from vlmcourse.sweep.cells import BUSY, DONE, FAILED, Work, run_cell
from vlmcourse.sweep.places import Places, Size, State, cell_state, claimed
from vlmcourse.sweep.plan import read_plan


@pytest.fixture
def asked(monkeypatch):
    """What evaluation was called with; it answers at once."""
    from vlmcourse.evaluation import evaluation as module

    calls = []

    def evaluate(what, record, command, progress=True, answers=None):
        calls.append(what)
        answers.write_text("{}")
        with Run(record, command, {"system": what.system}, [7], "abc") as run:
            run.metrics["system/all"] = metric([0.5], "share")

    monkeypatch.setattr(module, "evaluate", evaluate)
    return calls


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """What training was called with; it is over at once."""
    from vlmcourse.training import runner, weights

    calls = []
    costs = {"train_seconds": [90], "steps": [300], "gflop_per_step": [2], "loss": [0.5]}
    metrics = {name: metric(value) for name, value in costs.items()}

    def run_stages(*words, **named):
        calls.append((*words, named))
        with Run(tmp_path / "train.json", "vlmcourse train", {}) as run:
            pass
        told = {"metrics": metrics, "record": run.path}
        names = ("first", "second")
        return [SimpleNamespace(name=n, folder=Path(f"runs/x/{n}"), **told) for n in names]

    monkeypatch.setattr(runner, "run_stages", run_stages)
    monkeypatch.setattr(weights, "read_stage", lambda path: SimpleNamespace(settings_hash="abc"))
    return calls


def work_of(path, tmp_path, **size) -> Work:
    return Work(Places(read_plan(path), Size(**size), tmp_path / "w"), "cpu")


def test_a_cell_is_trained_and_asked_as_the_plan_says(sweep_file, asked, trained, tmp_path, data):
    measures = [
        {"name": "short", "split": str(data), "families": ["order"], "clips": 9},
        {"name": "long", "split": str(data), "controls": [], "set": {"num_frames": "{frames}"}},
    ]
    path = sweep_file(
        train={"system": "video_chatgpt", "set": {"model.stage.steps": "{frames}"}},
        measure=measures,
        hypotheses=None,
    )
    work = work_of(path, tmp_path)
    cell = work.plan.cells[-1]
    assert run_cell(work, cell) == DONE
    system, recipe, seed, out, stages, overrides, device, scale, _ = trained[0]
    assert (system, recipe, seed, out, stages) == ("video_chatgpt", "world", 1, None, "all")
    assert (overrides, device, scale) == ({"model.stage.steps": 4}, "cpu", 1.0)
    short, long = asked
    assert short.runs == (Path("runs/x/second"),)
    assert (short.sources.clips, short.sources.families) == (9, ("order",))
    assert short.sources.cache == Path("data/cache"), "the shared cache"
    assert (long.controls, long.options) == ((), {"num_frames": 4})
    record = read_record(work.places.record(cell, cell.measures[0]))
    assert record["id"] == "frames_4-seed1-short"
    told = {name: value["mean"] for name, value in record["metrics"].items()}
    assert (told["train/minutes"], told["train/steps"], told["train/gflop"]) == (3, 600, 1200)
    assert "train/cpu_minutes" in told
    assert record["settings"]["trained"] == {"first": "abc", "second": "abc"}
    assert cell_state(work.places, cell) is State.DONE
    assert run_cell(work, cell) == DONE
    assert len(trained) == 1


def test_a_try_trains_in_its_own_folder_with_fewer_steps(sweep_file, asked, trained, tmp_path):
    work = work_of(sweep_file(), tmp_path, scale=0.02, clips=3)
    assert run_cell(work, work.plan.cells[0]) == DONE
    out, scale = trained[0][3], trained[0][7]
    folder = tmp_path / "w" / "scale_0.02-clips_3" / "runs" / "video_chatgpt"
    assert (out, scale) == (folder / "world-num_frames_2-seed0", 0.02)
    assert asked[0].sources.clips == 3


def test_one_measure_that_fails_leaves_the_other(sweep_file, asked, trained, tmp_path, data):
    measures = [{"name": "a", "split": str(data)}, {"name": "b", "split": str(data)}]
    work = work_of(sweep_file(measure=measures, hypotheses=None), tmp_path)
    cell = work.plan.cells[0]
    work.places.answers(cell, cell.measures[0]).mkdir(parents=True)  # cannot be written
    assert run_cell(work, cell) == FAILED
    records = [read_record(work.places.record(cell, measure)) for measure in cell.measures]
    assert [record["status"] for record in records] == ["failed", "ok"]
    assert records[0]["note"].startswith("IsADirectoryError: ")
    assert str(tmp_path) not in records[0]["note"], "no paths of one machine"


def test_a_cell_that_another_process_holds_is_left_alone(sweep_file, asked, trained, tmp_path):
    work = work_of(sweep_file(), tmp_path)
    with claimed(work.places.lock(work.plan.cells[0])):
        assert run_cell(work, work.plan.cells[0]) == BUSY
    assert trained == []
