"""Options changed at test: `--set`, `--grid` tell what was asked, and never touch the weights."""

import json

import numpy as np
import pytest

from vlmcourse import cli
from vlmcourse.errors import UserError
from vlmcourse.evaluation import grid as grids
from vlmcourse.evaluation import probes
from vlmcourse.evaluation.grid import Cell, cell_name, grid_cells, grid_table, heat_values
from vlmcourse.evaluation.options import Grid, read_grid, refuse_other_weights
from vlmcourse.figures.heat import heat_map
from vlmcourse.records import read_record


@pytest.fixture(scope="module")
def command(world, runs, foundations, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return [
        *("evaluate", "--system", "video_chatgpt", "--runs", *map(str, runs[:2])),
        *("--split", str(world / "test"), "--cache", str(cache)),
        *("--foundations", str(foundations), "--device", "cpu"),
    ]


def evaluated(command, path, *more):
    assert cli.main([*command, *map(str, more), "--record", str(path)]) == 0
    return read_record(path)


def test_what_is_set_stands_in_the_record_and_changes_the_tokens(command, tmp_path):
    blind = ("--controls", "blind")
    plain = evaluated(command, tmp_path / "plain.json", *blind)
    record = evaluated(command, tmp_path / "set.json", *blind, "--set", "spatial_grid=2")
    assert record["settings"]["set"] == {"spatial_grid": 2}
    assert record["settings"]["options"]["spatial_grid"] == 2
    assert "set" not in plain["settings"]
    assert plain["metrics"]["tokens/places"]["mean"] == 8 + 64
    assert record["metrics"]["tokens/places"]["mean"] == 8 + 4
    assert record["settings"]["weights"] == plain["settings"]["weights"]
    assert record["metrics"]["blind/all"] == plain["metrics"]["blind/all"], "it sees nothing"


def test_another_reading_of_the_files_has_features_of_its_own(command, tmp_path):
    options = ("--controls", "--cache", tmp_path / "cache", "--set", "num_frames=4")
    evaluated(command, tmp_path / "four.json", *options)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    evaluated(command, tmp_path / "again.json", *options)
    assert len(list((tmp_path / "cache").iterdir())) == 1
    evaluated(command, tmp_path / "eight.json", *options[:-2])
    assert len(list((tmp_path / "cache").iterdir())) == 2
    spans = evaluated(command, tmp_path / "spans.json", "--grounding", *options[1:])
    assert spans["settings"]["set"] == {"num_frames": 4}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--set", "frames=4"], "unknown option frames. Known: num_frames, "),
        (["--set", "num_frames=some"], "option num_frames takes int, not 'some'"),
        (["--set", "num_frames"], "an option is NAME=VALUE, not 'num_frames'"),
        (["--set", "num_frames=4", "--set", "num_frames=5"], "num_frames stands there twice"),
        (["--grid", "num_frames=4"], "an axis has at least two values"),
        (["--grid", "num_frames=4,4"], "each of them once"),
        (["--grid", "num_frames=4,some"], "option num_frames takes int, not 'some'"),
        (
            ["--grid", "num_frames=4,8", "--set", "num_frames=2"],
            "num_frames stands in --set and in --grid",
        ),
        (["--grid", "num_frames=4,8", "--grounding"], "--grid asks the questions without controls"),
    ],
)
def test_what_cannot_be_set_is_one_line(command, tmp_path, options, complaint, capsys):
    path = tmp_path / "no.json"
    assert cli.main([*command, *options, "--record", str(path)]) == 2
    assert complaint in capsys.readouterr().err.strip().splitlines()[-1]
    assert not path.exists()


def test_other_weights_are_refused(foundations):
    with pytest.raises(UserError, match=r"num_video_queries=8 asks for other weights .*queries \("):
        refuse_other_weights("video_llama", None, [{"num_video_queries": 8}])
    with pytest.raises(UserError, match=r"experts=true asks for .* none -> .* and 24 more; only"):
        refuse_other_weights("cogvlm2_video", None, [{"num_frames": 4}, {"experts": True}])
    refuse_other_weights("cogvlm2_video", None, [{"num_frames": 4, "image_size": 96}])


def test_a_grid_is_all_combinations():
    grid = read_grid(["fps=0.5,1", "resize=dynamic,square"])
    assert [cell_name(cell) for cell in grid.cells] == [
        "fps=0.5,resize=dynamic", "fps=0.5,resize=square", "fps=1,resize=dynamic",
        "fps=1,resize=square",
    ]  # fmt: skip
    assert cell_name({"a": True, "b": None}) == "a=true,b=null"


GRID = ("--grid", "num_frames=2,8", "--grid", "spatial_grid=2,null")


@pytest.fixture(scope="module")
def grid_record(command, tmp_path_factory):
    return evaluated(command, tmp_path_factory.mktemp("grid") / "grid.json", *GRID)


def test_every_cell_is_what_set_gives(command, grid_record, tmp_path):
    options = ("--controls", "--set", "num_frames=2", "--set", "spatial_grid=2")
    alone = evaluated(command, tmp_path / "alone.json", *options)["metrics"]
    metrics = grid_record["metrics"]
    name = "num_frames=2,spatial_grid=2"
    for group in ("all", "order", "appearance"):
        assert metrics[f"{name}/{group}"] == alone[f"system/{group}"]
        assert metrics[f"best_constant/{group}"] == alone[f"best_constant/{group}"]
    assert metrics[f"{name}/tokens/video"] == alone["tokens/video"]
    assert metrics["parameters/trained"] == alone["parameters/trained"]


def test_the_record_tells_all_cells_and_what_each_costs(grid_record):
    assert grid_record["settings"]["grid"] == {"num_frames": [2, 8], "spatial_grid": [2, None]}
    tokens = grid_cells(grid_record, "tokens/places")
    assert [value["mean"] for value in tokens.values()] == [12, 72, 12, 72]
    trained, metrics = "num_frames=8,spatial_grid=null", grid_record["metrics"]
    assert f"{trained}/gain_over_as_trained/all" not in metrics
    for name, value in grid_cells(grid_record).items():
        if name != trained:
            gain = metrics[f"{name}/gain_over_as_trained/all"]
            less = value["mean"] - metrics[f"{trained}/all"]["mean"]
            assert gain["mean"] == pytest.approx(less, abs=1e-5)
            assert gain["low"] <= gain["mean"] <= gain["high"]
    assert grid_record["note"].startswith("Best of all questions: num_frames=")
    table = grid_table(grid_record).splitlines()
    assert table[0].startswith("| num_frames | spatial_grid | tokens a clip | all |")
    assert len(table) == 2 + 4


def test_a_stopped_grid_goes_on_with_the_cells_it_has(command, grid_record, tmp_path, monkeypatch):
    path, saved = tmp_path / "grid.json", []
    save = Cell.save

    def stop_at_the_third(self, where):
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(where)
        save(self, where)

    monkeypatch.setattr(Cell, "save", stop_at_the_third)
    assert cli.main([*command, *GRID, "--record", str(path)]) == 130
    assert not path.exists(), "a record is whole or not there"
    assert len(list((tmp_path / "grid.cells").iterdir())) == 2
    saved[1].write_bytes(b"damaged")
    monkeypatch.setattr(Cell, "save", save)
    asked = []
    ask_all = probes.ask_all
    monkeypatch.setattr(probes, "ask_all", lambda *a, **k: asked.append(1) or ask_all(*a, **k))
    record = evaluated(command, path, *GRID)
    without = {n: v for n, v in record["metrics"].items() if not n.endswith("/seconds")}
    assert without == {
        n: v for n, v in grid_record["metrics"].items() if not n.endswith("/seconds")
    }
    assert len(asked) == 3
    assert "Cells kept from an earlier start: 1" in record["note"]
    assert not (tmp_path / "grid.cells").exists()


def test_cells_of_other_runs_are_not_taken(tmp_path):
    cell = Cell(np.ones((1, 3)), {"tokens/video": {"mean": 4}}, 1.5, "abc")
    kept = grids._Kept(tmp_path / "grid.json", {"weights": ["a"], "grid": 1}, "abc")
    kept.keep({"fps": 1}, cell)
    found = grids._Kept(tmp_path / "grid.json", {"weights": ["a"], "grid": 2}, "def")
    back = found.find({"fps": 1})
    assert np.array_equal(back.right, cell.right)
    assert back.costs == cell.costs
    assert found.note == " Cells kept from an earlier start: 1, at commit abc."
    other = grids._Kept(tmp_path / "grid.json", {"weights": ["b"], "grid": 1}, "abc")
    assert other.find({"fps": 1}) is None
    assert other.note == ""


def test_a_grid_record_can_be_read_without_the_runs(grid_record):
    assert grids.grid_of(json.loads(json.dumps(grid_record))) == Grid(
        {"num_frames": (2, 8), "spatial_grid": (2, None)}
    )


def test_a_map_can_be_drawn_of_two_axes(grid_record):
    values = heat_values(grid_record, ["all", "order", "recall"])
    assert list(values["panels"]) == ["all", "order"], "recall is not asked here"
    assert values["rows"] == ["2", "8"]
    assert values["columns"] == ["2", "null"]
    assert values["row_label"] == "num frames"
    table = values["panels"]["order"]
    assert table[1][0] == grid_record["metrics"]["num_frames=8,spatial_grid=2/order"]
    assert [line[1] for line in values["tokens"]] == [74, 74]  # two marks beside the 72 places
    assert heat_map(**values)
    one = {**grid_record, "settings": {"grid": {"num_frames": [2, 8]}}}
    with pytest.raises(UserError, match="two axes, not num_frames"):
        heat_values(one, ["all"])
