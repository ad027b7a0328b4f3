"""A sweep file in a folder of its own, whose cells take no time (fake_cells.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent
TITLE = {"title": "Connectors", "question": "Which one?", "written": "2026-11-23"}


@pytest.fixture
def data(tmp_path):
    """A split of which nothing but its checksum is read."""
    folder = tmp_path / "data" / "test"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"data_checksum": "abc"}))
    return folder


@pytest.fixture
def sweep_file(tmp_path, data):
    """Writes a sweep file of four cells; keyword arguments change its keys, None removes one."""

    def write(**changes) -> Path:
        content = TITLE | {
            "axes": {"frames": [2, 4]},
            "seeds": [0, 1],
            "train": {"system": "video_chatgpt", "options": {"num_frames": "{frames}"}},
            "measure": [{"split": str(data), "controls": ["blind"]}],
            "hypotheses": [
                {
                    "name": "more_is_better", "claim": "more frames, better", "source": "nobody",
                    "a": {"frames": 4}, "b": {"frames": 2}, "group": "order", "expect": "greater",
                }
            ],
        }  # fmt: skip
        content = {key: v for key, v in (content | changes).items() if v is not None}
        path = tmp_path / "ablations" / "little.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return write


@pytest.fixture
def journal(tmp_path):
    """Names of the cells whose training began, in turn."""
    path = tmp_path / "journal"

    def read() -> list[str]:
        return [x.split()[0] for x in path.read_text().splitlines()] if path.exists() else []

    read.path = path
    return read


@pytest.fixture
def start_sweep(tmp_path, journal):
    """Starts `vlmcourse sweep` in a process of its own; `fake` tells its cells what to do."""
    started = []

    def start(*words, **fake) -> subprocess.Popen:
        told = {"journal": str(journal.path), **fake}
        process = subprocess.Popen(
            [
                sys.executable,
                str(HERE / "fake_sweep.py"),
                *map(str, words),
                "--out",
                tmp_path / "w",
            ],
            env={**os.environ, "FAKE": json.dumps(told)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def sweep(start_sweep):
    """Runs it to its end: exit status and what it said."""

    def run(*words, **fake) -> tuple[int, str]:
        process = start_sweep(*words, **fake)
        said, _ = process.communicate(timeout=120)
        return process.returncode, said

    return run


@pytest.fixture
def records(tmp_path):
    """Reads all records of the cells by id."""
    from vlmcourse.records import read_record

    def read() -> dict[str, dict]:
        folder = tmp_path / "ablations" / "records" / "little"
        return {path.stem: read_record(path) for path in sorted(folder.glob("*.json"))}

    return read
