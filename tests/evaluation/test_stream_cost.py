"""What an endless film costs: slopes that are found, memories that are flat, a record of it."""

import itertools

import numpy as np
import pytest

from vlmcourse import cli
from vlmcourse.evaluation import stream_cost
from vlmcourse.evaluation.stream_cost import BLOCK, Seen, Watch
from vlmcourse.records import read_record

FRAMES = 20 * BLOCK
TASKS = stream_cost.tasks_of(["bank_5", "all_frames"], FRAMES, FRAMES)


def seen(ms=0.0, kib=0.0, mib=0.0, noise=0.0):
    """A film whose every 1,000 frames add so much, from 8 ms, 100 KiB and 400 MiB on."""
    rng, number = np.random.default_rng(0), np.arange(FRAMES)
    at = stream_cost.counts(FRAMES)
    return Seen(
        8 + ms * number / 1000 + noise * rng.standard_normal(FRAMES),
        1024 * (100 + kib * number / 1000),
        400 + mib * BLOCK * np.arange(FRAMES // BLOCK) / 1000,
        dict.fromkeys(at, 400.0),
        {},
    )


def test_counts_go_up_to_the_last_frame():
    assert stream_cost.counts(10_000)[-4:] == [1000, 2000, 5000, 10_000]
    assert stream_cost.counts(400) == [1, 2, 5, 10, 20, 50, 100, 200, 400]
    assert stream_cost.counts(1) == [1]


def test_what_is_added_is_found():
    found = stream_cost.slopes(seen(ms=3.0, kib=56.0, mib=2.5), 5)
    assert found["ms"]["mean"] == pytest.approx(3.0)
    assert found["state_kib"]["mean"] == pytest.approx(56.0)
    assert found["resident_mib"]["mean"] == pytest.approx(2.5)
    noisy = stream_cost.slopes(seen(noise=2.0), 5)["ms"]
    assert noisy["low"] < 0 < noisy["high"]
    assert noisy["n"] == FRAMES // BLOCK * 9 / 10


def test_frames_before_the_bank_is_full_do_not_count():
    film = seen()
    filling = np.where(np.arange(FRAMES) < 100, 1024 * np.arange(FRAMES), 1024 * 100)
    film = Seen(film.ms, filling, film.resident_mib, film.peak_mib, {})
    assert stream_cost.slopes(film, 100)["state_kib"]["mean"] == 0
    assert stream_cost.slopes(film, 100)["state_kib"]["n"] == 18


@pytest.mark.parametrize("grows", [{"kib": 1.0}, {"mib": 5.0}, {"ms": 2.0}])
def test_a_bounded_memory_that_grows_is_told(grows):
    flat = stream_cost.stream_metrics({"bank_5": seen(), "all_frames": seen(kib=50)}, TASKS)
    assert stream_cost.judged(flat, TASKS) == ("ok", "Flat once the bank is full: bank 5.")
    bad = stream_cost.stream_metrics({"bank_5": seen(**grows), "all_frames": seen()}, TASKS)
    status, note = stream_cost.judged(bad, TASKS)
    assert status == "negative"
    assert "of bank_5" in note


def test_metrics_tell_every_count():
    metrics = stream_cost.stream_metrics({"bank_5": seen(noise=1.0)}, TASKS)
    for name in ("state_kib", "peak_mib", "ms"):
        told = [n for n in metrics if n.startswith(f"bank_5/{name}/")]
        assert told == [f"bank_5/{name}/{count}" for count in stream_cost.counts(FRAMES)]
    last = metrics[f"bank_5/ms/{FRAMES}"]
    assert last["n"] == FRAMES / 2
    assert last["low"] < last["mean"] < last["high"]


def test_the_film_never_ends_and_changes(monkeypatch):
    monkeypatch.setattr(stream_cost, "LONGEST_FILM_S", 4)
    frames = list(itertools.islice(stream_cost.endless_film(side=32), 12))
    assert frames[0].shape == (32, 32, 3)
    assert frames[0].flags.writeable
    scenes = [frame.astype(int).mean() for frame in (frames[0], frames[4], frames[8])]
    assert len(set(scenes)) == 3


def test_a_stream_is_watched_with_each_memory():
    """In this process: a bank keeps what it kept when it was full, all frames grow."""
    full, grown = (
        stream_cost.watch(Watch(stream_cost.WAYS[name], 12)) for name in ("bank_5", "all_frames")
    )
    assert len(full.ms) == 12
    assert (full.ms > 0).all()
    assert len(set(full.state_bytes[6:])) == 1
    assert (np.diff(grown.state_bytes) > 0).all()
    assert set(full.peak_mib) == {1, 2, 5, 10, 12}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--memory", "bank_7"], "unknown memory 'bank_7'"),
        (["--frames", "100"], "a slope needs 200 frames"),
    ],
)
def test_wrong_arguments_are_one_line(capsys, arguments, reason):
    assert cli.main(["timings", "--what", "stream", *arguments]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1


def test_the_command_writes_a_record_and_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stream_cost, "measure", lambda tasks, report: {"bank_5": seen()})
    path = tmp_path / "stream.json"
    told = ["--memory", "bank_5", "--frames", str(FRAMES), "--device", "cpu"]
    assert cli.main(["timings", "--what", "stream", "--record", str(path), *told]) == 0
    record = read_record(path)
    assert record["settings"]["memory"] == {"bank_5": stream_cost.WAYS["bank_5"]}
    assert record["settings"]["frames"] == {"bank_5": FRAMES}
    assert record["status"] == "ok"
    assert record["peak_mib"] == 400
    printed = capsys.readouterr().out
    assert "| bank 5 | 1,000 |" in printed
    assert "Flat once the bank is full" in printed
