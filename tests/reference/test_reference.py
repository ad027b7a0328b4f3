"""The fidelity command: green on the units we carry, and red when anything is off."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlmcourse.reference.rows import Unit, compare_tensors, compare_values
from vlmcourse.reference.runner import NOT_COVERED, checks, find_units, main, run_folders

HERE = Path(__file__).parent
UNIT = Unit(Path("x/unit.json"), {"system": "s", "unit": "u"})


def test_every_unit_we_carry_agrees(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert "0 failed" in printed.splitlines()[-1]
    assert "FAIL" not in printed


def test_the_units_of_video_chatgpt_are_all_here():
    names = {path.stem for path in find_units(HERE / "video_chatgpt")}
    assert names == {
        "frame_indices",
        "released_keys",
        "spatio_temporal_pooling",
        "video_chatgpt_labels",
        "video_chatgpt_loss",
        "video_chatgpt_trainable_rows",
    }
    assert {f"video_chatgpt/{name}" for name in names} <= checks().keys()


@pytest.fixture
def copied(tmp_path):
    """A function that copies units of Video-ChatGPT to a fresh folder."""

    def copy(*names):
        folder = tmp_path / "cases"
        folder.mkdir()
        for name in (*names, "tiny_tokenizer"):
            for path in (HERE / "video_chatgpt").glob(f"{name}.*"):
                shutil.copy(path, folder)
        return folder

    return copy


TENSOR_UNITS = ["spatio_temporal_pooling", "video_chatgpt_loss", "video_chatgpt_trainable_rows"]


@pytest.mark.parametrize("name", TENSOR_UNITS)
def test_changed_weights_or_inputs_fail(copied, name):
    folder = copied(name)
    path = folder / f"{name}.safetensors"
    tensors = load_file(path)
    key = {
        "spatio_temporal_pooling": "weights/vision_model.encoder.layers.0.mlp.fc1.weight",
        "video_chatgpt_loss": "weights/model.mm_projector.weight",
        "video_chatgpt_trainable_rows": "inputs/video_spatio_temporal_features",
    }[name]
    tensors[key] = tensors[key] * 1.01
    save_file(tensors, path)
    rows = run_folders([folder])
    assert any(not row.ok for row in rows)
    assert main([str(folder)]) == 1


def test_every_single_output_is_compared(copied):
    folder = copied(*TENSOR_UNITS, "video_chatgpt_labels")
    for path in sorted(folder.glob("*.safetensors")):
        tensors = load_file(path)
        for name in [name for name in tensors if name.startswith("outputs/")]:
            value = tensors[name]
            changed = dict(tensors)
            changed[name] = value + 1 if not value.is_floating_point() else value + 0.01
            save_file(changed, path)
            failed = [row for row in run_folders([folder]) if not row.ok]
            assert failed, f"{path.stem}: {name} may be anything"
        save_file(tensors, path)


def test_an_output_that_nobody_compares_fails(copied):
    folder = copied("video_chatgpt_loss")
    path = folder / "video_chatgpt_loss.safetensors"
    save_file(load_file(path) | {"outputs/new_thing": torch.ones(2)}, path)
    failed = [row for row in run_folders([folder]) if not row.ok]
    assert [(row.output, row.note) for row in failed] == [("new_thing", "not compared")]


def test_an_unknown_unit_is_a_row(tmp_path, capsys):
    (tmp_path / "new.json").write_text(json.dumps({"system": "video_chatgpt", "unit": "new"}))
    assert main([str(tmp_path)]) == 1
    assert NOT_COVERED in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"\x00\xff\x00\xff\x00\xff\x00\xff\x00"])
def test_a_damaged_file_is_a_named_row_and_the_others_still_run(copied, suffix, content):
    folder = copied("video_chatgpt_loss", "video_chatgpt_trainable_rows")
    (folder / f"video_chatgpt_loss{suffix}").write_bytes(content)
    rows = run_folders([folder])
    failed = [row for row in rows if not row.ok]
    assert len(failed) == 1
    assert f"video_chatgpt_loss{suffix}" in failed[0].note
    assert sum(row.unit == "video_chatgpt_trainable_rows" for row in rows) > 5


def test_a_missing_table_is_a_row_not_a_traceback(copied):
    folder = copied("video_chatgpt_loss")
    path = folder / "video_chatgpt_loss.json"
    meta = json.loads(path.read_text())
    del meta["config"]["llama"]
    path.write_text(json.dumps(meta))
    (row,) = run_folders([folder])
    assert not row.ok
    assert "KeyError: 'llama'" in row.note


def test_released_keys_of_another_shape_fail(copied):
    folder = copied("released_keys")
    path = folder / "released_keys.json"
    meta = json.loads(path.read_text())
    meta["released_checkpoint"]["keys"]["model.mm_projector.bias"] = [4097]
    path.write_text(json.dumps(meta))
    assert any(not row.ok for row in run_folders([folder]))
    meta["released_checkpoint"]["keys"] = {"other.weight": [1]}
    path.write_text(json.dumps(meta))
    assert any(not row.ok for row in run_folders([folder]))


def test_sample_data_is_passed_over_and_lone_tensors_are_not(tmp_path):
    (tmp_path / "sample.json").write_text(json.dumps([{"question": "?"}]))
    (tmp_path / "settings.json").write_text(json.dumps({"a": 1}))
    assert list(find_units(tmp_path)) == []
    assert main([str(tmp_path)]) == 1  # nothing found is no success
    save_file({"a": torch.ones(1)}, tmp_path / "lone.safetensors")
    (row,) = run_folders([tmp_path])
    assert "without a JSON" in row.note


def test_a_folder_that_is_not_there(tmp_path, capsys):
    assert main([str(tmp_path / "nothing")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_failures_only(copied, capsys):
    folder = copied("video_chatgpt_labels")
    (folder / "odd.json").write_text(json.dumps({"unit": "odd"}))
    assert main(["--failures", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("ok") for line in lines) == 0
    assert "1 failed (1 units not covered)" in lines[-1]


def test_comparing_tensors():
    base = torch.tensor([1.0, -4.0])
    near = compare_tensors(UNIT, "c", "o", base + 5e-6, base)
    assert near.ok
    assert near.max_abs == pytest.approx(5e-6, rel=0.1)
    assert near.max_rel == pytest.approx(5e-6 / 4, rel=0.1)
    assert not compare_tensors(UNIT, "c", "o", base + 5e-5, base).ok
    assert "shape" in compare_tensors(UNIT, "c", "o", base[:1], base).note
    whole = torch.tensor([1, 2])
    assert compare_tensors(UNIT, "c", "o", whole, whole).ok
    assert not compare_tensors(UNIT, "c", "o", whole + 1, whole, atol=5).ok
    bad = torch.tensor([float("nan"), 1.0])
    assert compare_tensors(UNIT, "c", "o", bad, bad).ok
    assert not compare_tensors(UNIT, "c", "o", bad, base).ok
    infinite = torch.tensor([float("inf"), 1.0])
    assert compare_tensors(UNIT, "c", "o", infinite, infinite).ok
    assert not compare_tensors(UNIT, "c", "o", -infinite, infinite).ok


def test_comparing_values():
    assert compare_values(UNIT, "c", "o", [1, "a"], [1, "a"]).ok
    row = compare_values(UNIT, "c", "o", {"a": 1}, {"a": 2})
    assert not row.ok
    assert "ours {'a': 1}, expected {'a': 2}" in row.note
