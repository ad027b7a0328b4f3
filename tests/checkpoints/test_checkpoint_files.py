import json
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vlmcourse.checkpoints.files import CheckpointError, load_strict, read_tensors

TENSORS = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}


def same(left, right):
    return left.keys() == right.keys() and all(left[k].equal(right[k]) for k in left)


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin", "w.pth"])
def test_one_file(tmp_path, name):
    path = tmp_path / name
    save_file(TENSORS, path) if name.endswith("s") else torch.save(TENSORS, path)
    assert same(read_tensors(path), TENSORS)


def test_a_part_of_a_file(tmp_path):
    torch.save({"model": TENSORS, "epoch": 3}, tmp_path / "w.pth")
    assert same(read_tensors(tmp_path / "w.pth", part="model"), TENSORS)
    with pytest.raises(CheckpointError, match="no part 'weights'"):
        read_tensors(tmp_path / "w.pth", part="weights")
    with pytest.raises(CheckpointError, match="not a flat dictionary"):
        read_tensors(tmp_path / "w.pth")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_folder_with_shards(tmp_path, kind):
    stem = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}[kind]
    shards = {f"1.{kind}": {"a": TENSORS["a"]}, f"2.{kind}": {"b": TENSORS["b"]}}
    for name, part in shards.items():
        (save_file if kind == "safetensors" else torch.save)(part, tmp_path / name)
    places = {key: name for name, part in shards.items() for key in part}
    index = tmp_path / f"{stem}.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert same(read_tensors(tmp_path), TENSORS)
    index.write_text(json.dumps({"weight_map": {**places, "c": f"1.{kind}"}}))
    with pytest.raises(CheckpointError, match="shards lack 1: c"):
        read_tensors(tmp_path)
    (tmp_path / f"2.{kind}").unlink()
    with pytest.raises(CheckpointError, match=f"2.{kind}: no such file"):
        read_tensors(tmp_path)
    index.write_text("{")
    with pytest.raises(CheckpointError, match="not an index"):
        read_tensors(tmp_path)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm_was_done",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Harmful()}, tmp_path / "w.bin")
    with pytest.raises(CheckpointError, match="might run code"):
        read_tensors(tmp_path / "w.bin")
    assert not (tmp_path / "harm_was_done").exists()


@pytest.mark.parametrize("name", ["w.bin", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights here", None])
def test_damaged_files_are_named(tmp_path, name, content):
    path = tmp_path / name
    if content is None:  # cut off in the middle
        save_file(TENSORS, path) if name.endswith("s") else torch.save(TENSORS, path)
        content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        read_tensors(path)


def test_what_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        read_tensors(tmp_path / "nothing.bin")
    with pytest.raises(CheckpointError, match="neither"):
        read_tensors(tmp_path)
    (tmp_path / "notes.txt").write_text("a")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        read_tensors(tmp_path / "notes.txt")


def test_strict_loading_lists_every_misfit():
    module = nn.ModuleDict({"x": nn.Linear(2, 3), "y": nn.Linear(3, 1)})
    good = {k: torch.randn_like(v) for k, v in module.state_dict().items()}
    load_strict(module, good, "here")
    assert same(dict(module.state_dict()), good)
    bad = {k: v for k, v in good.items() if k != "x.bias"}
    bad |= {"z": torch.ones(1), "y.weight": torch.ones(2, 3)}
    with pytest.raises(CheckpointError) as error:
        load_strict(module, bad, "here")
    text = str(error.value)
    assert text.startswith("here: missing 1: x.bias; left over 1: z; of another shape 1: y.weight")
    assert "(2, 3) (wanted (1, 3))" in text
    assert same(dict(module.state_dict()), good)


def test_long_lists_are_shortened():
    module = nn.Sequential(*[nn.Linear(1, 1) for _ in range(10)])
    with pytest.raises(CheckpointError, match=r"missing 20: .* and 8 more"):
        load_strict(module, {}, "here")
