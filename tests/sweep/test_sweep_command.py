"""`vlmcourse sweep`: what is finished stays, what is killed goes on, what fails is listed."""

import signal
import time

import yaml

CELLS = {"frames_2-seed0", "frames_4-seed0", "frames_2-seed1", "frames_4-seed1"}


def wait_until(true, within_s: float = 60) -> None:
    until = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_every_cell_leaves_a_record_and_is_run_once(sweep_file, sweep, records, journal):
    path = sweep_file()
    code, said = sweep(path, "--jobs", "2")
    assert code == 0, said
    assert "the report" in said
    assert set(records()) == CELLS
    record = records()["frames_4-seed1"]
    told = record["settings"]["sweep"]
    assert told["setting"] == {"frames": 4}
    assert (told["seed"], record["seeds"], told["written"]) == (1, [1], "2026-11-23")
    assert record["metrics"]["cell/minutes"]["mean"] > 0
    assert record["command"].endswith("little.yaml --only=frames=4 --seeds=1")
    code, said = sweep(path, "--jobs", "2")
    assert code == 0
    assert "4 done" in said
    assert sorted(journal()) == sorted(CELLS), "nothing was run twice"


def test_a_killed_sweep_goes_on(sweep_file, start_sweep, sweep, records, journal):
    path = sweep_file()
    process = start_sweep(path, "--jobs", "1", slow={"frames_4-seed0": 60})
    wait_until(lambda: len(journal()) == 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = set(records())
    assert finished == {"frames_2-seed0"}
    code, said = sweep(path, "--jobs", "2")
    assert code == 0, said
    assert set(records()) == CELLS
    assert journal().count("frames_2-seed0") == 1
    assert journal().count("frames_4-seed0") == 2, "it had begun, and was begun again"


def test_control_c_stops_without_traces_and_says_how_to_go_on(
    sweep_file, start_sweep, records, journal
):
    process = start_sweep(sweep_file(), "--jobs", "2", seconds=90)
    wait_until(lambda: len(journal()) == 2)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert time.monotonic() - start < 60, "the cells were asked to stop, not waited for"
    assert "to go on: vlmcourse sweep" in said
    assert "4 to run" in said
    assert records() == {}


def test_two_sweeps_at_once_share_the_cells(sweep_file, start_sweep, records, journal):
    path = sweep_file()
    both = [start_sweep(path, "--jobs", "2", seconds=0.5) for _ in range(2)]
    for process in both:
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert "the report" in said
    assert sorted(journal()) == sorted(CELLS)
    assert set(records()) == CELLS


def test_cells_of_a_sweep_that_dies_are_taken_over(sweep_file, start_sweep, records, journal):
    path = sweep_file()
    first = start_sweep(path, "--jobs", "1", "--only", "frames=2", "--seeds", "0", seconds=60)
    wait_until(lambda: len(journal()) == 1)
    second = start_sweep(path, "--jobs", "2")
    wait_until(lambda: len(records()) == 3)
    assert second.poll() is None, "it waits for the cell of the other"
    first.kill()
    said, _ = second.communicate(timeout=120)
    assert second.returncode == 0, said
    assert set(records()) == CELLS


def test_failures_are_recorded_listed_and_tried_again_when_asked(
    sweep_file, sweep, records, journal
):
    path = sweep_file()
    wrong = {"fail": ["frames_2-seed0"], "die": ["frames_4-seed1"]}
    code, said = sweep(path, "--jobs", "2", **wrong)
    assert code == 1
    assert "the report" in said, "failed cells are over: they are counted"
    assert "frames_2-seed0 failed: ValueError: the loss is not a number (log: " in said
    assert "frames_4-seed1 failed: its process ended by signal 9" in said
    kept = records()
    assert set(kept) == CELLS
    assert [kept[name]["status"] for name in sorted(kept)] == ["failed", "ok", "ok", "failed"]
    assert kept["frames_2-seed0"]["settings"]["sweep"]["setting"] == {"frames": 2}
    assert sweep(path)[0] == 1
    assert len(journal()) == 4, "a failed cell is over"
    code, said = sweep(path, "--retry-failed")
    assert code == 0, said
    assert len(journal()) == 6
    assert {record["status"] for record in records().values()} == {"ok"}


def test_only_and_seeds_choose_and_an_incomplete_sweep_has_no_report(sweep_file, sweep, records):
    path = sweep_file()
    code, said = sweep(path, "--only", "frames=4", "--seeds", "1")
    assert code == 1
    assert set(records()) == {"frames_4-seed1"}
    assert "no report yet: 3 of 4 cells are still to be run; to look at the others: " in said
    assert f"vlmcourse sweep {path} --out=" in said
    assert "the report" not in said
    code, said = sweep(path, "--report")
    assert code == 1
    assert "no report yet: 3 of 4 cells are still to be run; this is a look" in said
    assert said.endswith("what there is\n")
    assert "--only frames=3: the values are 2, 4" in sweep(path, "--only", "frames=3")[1]
    assert "--seeds: 7 is none of 0, 1" in sweep(path, "--seeds", "7")[1]


def test_a_try_is_kept_apart(sweep_file, sweep, records, tmp_path):
    path = sweep_file()
    assert sweep(path, "--scale", "0.02", "--clips", "3")[0] == 0
    assert records() == {}
    folder = tmp_path / "w" / "scale_0.02-clips_3"
    assert len(list((folder / "records" / "little").glob("*.json"))) == 4
    assert not (tmp_path / "ablations" / "answers").exists()


def test_the_list_tells_what_is_done_and_what_has_changed(sweep_file, sweep, journal, data):
    path = sweep_file(
        axes={"frames": [2, 4, 8]},
        without=[{"combination": {"frames": 8}, "why": "too many tokens"}],
    )
    sweep(path, "--seeds", "0")
    ran = journal()
    code, said = sweep(path, "--list")
    assert code == 0
    assert "frames_2  done: seed 0; to run: seed 1" in said
    assert "4 cells (2 settings, 2 seeds): 2 done, 2 to run" in said
    assert "without frames 8: too many tokens" in said
    assert "NOTE" not in said
    content = yaml.safe_load(path.read_text())
    content["hypotheses"][0]["expect"] = "less"
    path.write_text(yaml.safe_dump(content))
    said = sweep(path, "--list")[1]
    assert "2 done" in said, "a hypothesis changes no run"
    assert "the hypotheses have changed since 2 of 4 cells were run" in said
    content["train"]["set"] = {"model.stage.steps": 3}
    path.write_text(yaml.safe_dump(content))
    assert "2 other settings, 2 to run" in sweep(path, "--list")[1].replace(
        "2 to run, 2 other settings", "2 other settings, 2 to run"
    )
    assert journal() == ran


def test_a_file_that_changes_under_way_loses_no_result(sweep_file, start_sweep, records, journal):
    path = sweep_file()
    process = start_sweep(path, "--jobs", "1", slow={"frames_2-seed0": 4})
    wait_until(lambda: journal() == ["frames_2-seed0"])
    content = yaml.safe_load(path.read_text())
    content["train"]["set"] = {"model.stage.steps": 3}
    path.write_text(yaml.safe_dump(content))
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert journal() == ["frames_2-seed0"], "the others are not run with what was not planned"
    assert "3 changed" in said
    assert "no report yet: 3 of 4 cells are still to be run" in said
    assert {name: one["status"] for name, one in records().items()} == {"frames_2-seed0": "ok"}


def test_other_data_or_lost_answers_are_run_again(sweep_file, sweep, journal, data, tmp_path):
    path = sweep_file(axes={"frames": [2]}, hypotheses=None)
    sweep(path)
    assert len(journal()) == 2
    (data / "manifest.json").write_text('{"data_checksum": "other"}')
    assert sweep(path)[0] == 0
    assert len(journal()) == 4
    (tmp_path / "ablations" / "answers" / "little" / "frames_2-seed1.json").unlink()
    assert sweep(path)[0] == 0
    assert len(journal()) == 5


def test_what_is_missing_is_said_before_anything_runs(sweep_file, sweep, records, tmp_path):
    path = sweep_file(measure=[{"split": "data/nowhere/{frames}/test"}], hypotheses=None)
    code, said = sweep(path)
    assert code == 2
    assert "data/nowhere/2/test (no such split" in said
    path = sweep_file(train={"system": "video_chatgpt", "recipe": "w{frames}"})
    assert "experiments/video_chatgpt/w2_*.yaml (no stage file)" in sweep(path)[1]
    path = sweep_file(train=None, runs=str(tmp_path / "run{frames}-{seed}"))
    assert "run2-0 (no finished run)" in sweep(path)[1]
    assert records() == {}


def test_submitit_runs_the_cells_too(sweep_file, sweep, records, journal):
    wrong = {"die": ["frames_4-seed1"]}
    code, said = sweep(sweep_file(), "--cluster", "local", "--jobs", "2", **wrong)
    assert code == 1, said
    assert sorted(journal()) == sorted(CELLS)
    statuses = {name: record["status"] for name, record in records().items()}
    assert statuses == dict.fromkeys(CELLS, "ok") | {"frames_4-seed1": "failed"}
