"""Stages from their files: what moves, what is handed over, what survives a kill."""

import csv
import multiprocessing
import os
import signal
import time

import lightning.pytorch as pl
import pytest
import torch

from vlmcourse.records import read_record
from vlmcourse.systems.processor import Given
from vlmcourse.systems.video_llama_stages import WORLD_STAGES
from vlmcourse.trained import load_trained_system
from vlmcourse.training.runner import run_stage

QUIET = {"progress": False, "device": "cpu"}


def losses(folder):
    """Every step's loss and learning rate, as they were written."""
    with open(folder / "metrics.csv", encoding="utf-8") as file:
        return [(row["step"], row["loss"], row["learning_rate"]) for row in csv.DictReader(file)]


class StopAfter(pl.Callback):
    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.steps:
            raise RuntimeError("pulled the plug")


@pytest.mark.parametrize("cached", [True, False])
def test_exactly_the_named_tensors_move(stage_file, tmp_path, cached, catch):
    config = stage_file(
        trains=["projector.*", "token_rows.weight"],
        steps=2,
        warmup_ratio=0.5,
        data={} if cached else {"cache": None},
    )
    run_stage(config, tmp_path / "out", callbacks=[catch], **QUIET)
    moved = {k for k in catch.before if not torch.equal(catch.before[k], catch.after[k])}
    assert moved == {"projector.weight", "projector.bias", "token_rows.weight"}
    rows = catch.after["token_rows.weight"] != catch.before["token_rows.weight"]
    assert bool(rows.any(dim=1).all())


def test_frozen_parts_stay_in_evaluation_mode(stage_file, tmp_path):
    modes = {}

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            modes["norm"] = module.model.vision_encoder.stem[0][1].training
            modes["projector"] = module.model.projector.training

    run_stage(stage_file(steps=1), tmp_path / "out", callbacks=[Look()], **QUIET)
    assert modes == {"norm": False, "projector": True}


@pytest.mark.parametrize("kill_at", [1, 4, 5])
def test_a_killed_run_resumes_to_the_same_losses(stage_file, tmp_path, kill_at):
    config = stage_file()
    whole = run_stage(config, tmp_path / "whole", **QUIET)
    for _ in range(1 if kill_at != 4 else 2):  # once killed, or twice at the same place
        with pytest.raises(RuntimeError, match="pulled the plug"):
            run_stage(
                config,
                tmp_path / "killed",
                checkpoint_every=2,
                callbacks=[StopAfter(kill_at)],
                **QUIET,
            )
    record = read_record(next((tmp_path / "killed" / "records").glob("*.json")))
    assert record["status"] == "failed"
    assert "pulled the plug" in record["note"]
    resumed = run_stage(config, tmp_path / "killed", checkpoint_every=2, **QUIET)
    assert losses(resumed.folder) == losses(whole.folder)
    assert len(losses(whole.folder)) == 6
    assert resumed.weights.read_bytes() == whole.weights.read_bytes()
    assert read_record(resumed.record)["status"] == "ok"


def test_resuming_behind_an_epoch_and_with_parts_of_a_batch(stage_file, tmp_path):
    """Six videos, four a step in two parts: an epoch ends within a step."""
    config = stage_file(batch_size=12, data={"accumulate": 2})
    whole = run_stage(config, tmp_path / "whole", **QUIET)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        run_stage(config, tmp_path / "k", checkpoint_every=3, callbacks=[StopAfter(4)], **QUIET)
    assert losses(run_stage(config, tmp_path / "k", **QUIET).folder) == losses(whole.folder)


def test_a_killed_mixture_with_dropout_resumes_to_the_same_losses(
    stage_file, tmp_path, world, listener, picture_file
):
    """Videos and pictures, two parts a step, and dropout in the Q-Former."""
    config = stage_file(
        trains=["video_qformer.*", "frame_position.*", "llama_proj.*"],
        batch_size=8,
        learning_rate=1e-3,
        schedule="cosine_from_start",
        warmup_steps=3,
        warmup_start_rate=1e-6,
        epochs=2,
        steps=None,
        iterations_per_epoch=4,
        data={
            "train": [
                {"json": str(world / "captions.json"), "weight": 2},
                {"json": str(picture_file), "videos": str(picture_file.parent), "weight": 1},
            ],
            "questions_per_video": 2,
            "accumulate": 2,
            "given": {"pictures": "pictures", "sounds": None},
        },
    )
    settings = {"model.system": "listener", "model.options.qformer_dropout": 0.5}
    whole = run_stage(config, tmp_path / "whole", settings, **QUIET)
    assert len(losses(whole.folder)) == 8
    for kill_at in (3, 5):
        with pytest.raises(RuntimeError, match="pulled the plug"):
            run_stage(
                config,
                tmp_path / "k",
                settings,
                checkpoint_every=2,
                callbacks=[StopAfter(kill_at)],
                **QUIET,
            )
    resumed = run_stage(config, tmp_path / "k", settings, **QUIET)
    assert losses(resumed.folder) == losses(whole.folder)
    assert resumed.weights.read_bytes() == whole.weights.read_bytes()


@pytest.mark.parametrize(
    ("stage", "given"),
    [
        ("vision_1", {"pictures": "pictures", "sounds": None}),
        ("audio_1", {"pictures": None, "sounds": "sounds"}),
        ("audio_1", {"pictures": None, "sounds": "sound_pictures"}),
    ],
)
def test_a_branch_trains_alone(stage_file, tmp_path, half_silent, listener, stage, given, catch):
    """All of the branch moves and nothing else; clips that are silent are counted."""
    branch = next(x for x in WORLD_STAGES if x.name == stage).trains
    config = stage_file(
        trains=list(branch),
        steps=2,
        data={"train": [{"json": str(half_silent)}], "given": given},
    )
    settings = {"model.system": "listener"}
    done = run_stage(config, tmp_path / "out", settings, callbacks=[catch], **QUIET)
    moved = {k for k in catch.before if not torch.equal(catch.before[k], catch.after[k])}
    parts = {name.split(".")[0] for name in branch}
    named = {k for k in catch.before if k.split(".")[0] in parts}
    without_say = {k for k in named if k.endswith("key.bias")}  # a softmax takes no notice of them
    assert named - without_say <= moved <= named
    lost = done.metrics.get("videos_without_sound", {"mean": 0})["mean"]
    assert lost == (2 if given["sounds"] == "sounds" else 0)
    loaded = load_trained_system("listener", done.folder).model
    heard = None if stage == "vision_1" else "sounds"
    assert loaded.processor.given == Given("pictures", heard)


def _train_in_a_child(config, out):
    run_stage(config, out, checkpoint_every=1, **QUIET)


def test_killed_by_the_system(stage_file, tmp_path):
    """SIGKILL in the middle leaves a checkpoint that resumes to the same losses."""
    config = stage_file(steps=30)
    child = multiprocessing.get_context("fork").Process(
        target=_train_in_a_child, args=(config, tmp_path / "killed")
    )
    child.start()
    checkpoint = tmp_path / "killed" / "alignment" / "last.ckpt"
    while not checkpoint.exists() and child.is_alive():
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "alignment" / "weights.safetensors").exists()
    whole = run_stage(config, tmp_path / "whole", **QUIET)
    resumed = run_stage(config, tmp_path / "killed", **QUIET)
    assert losses(resumed.folder) == losses(whole.folder)


def test_a_stop_from_the_keyboard_is_no_failure(stage_file, tmp_path):
    class Stop(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == 3:
                raise KeyboardInterrupt

    config, handler = stage_file(), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_stage(config, tmp_path / "o", checkpoint_every=2, callbacks=[Stop()], **QUIET)
    assert signal.getsignal(signal.SIGINT) is handler
    assert not list((tmp_path / "o" / "records").glob("*.json"))
    resumed = run_stage(config, tmp_path / "o", **QUIET)
    assert resumed.metrics["steps"]["mean"] == 6


def test_a_finished_stage_is_reused_until_something_changes(stage_file, tmp_path, caplog):
    config = stage_file()
    first = run_stage(config, tmp_path / "out", **QUIET)
    assert not first.reused
    again = run_stage(config, tmp_path / "out", **QUIET)
    assert again.reused
    assert again.metrics == first.metrics
    changed = run_stage(config, tmp_path / "out", {"model.stage.steps": 3}, **QUIET)
    assert not changed.reused
    assert "model.stage.steps 6 -> 3" in caplog.text
    assert len(losses(changed.folder)) == 3


def test_an_unfinished_run_of_other_settings_is_not_resumed(stage_file, tmp_path):
    config = stage_file()
    with pytest.raises(RuntimeError):
        run_stage(config, tmp_path / "o", checkpoint_every=1, callbacks=[StopAfter(3)], **QUIET)
    other = {"model.stage.learning_rate": 1e-4}
    anew = run_stage(config, tmp_path / "o", other, **QUIET)
    assert losses(anew.folder) == losses(run_stage(config, tmp_path / "p", other, **QUIET).folder)


def test_the_record_tells_what_was_done(stage_file, tmp_path, world):
    config = stage_file(data={"val": [{"json": str(world / "captions.json")}]})
    result = run_stage(config, tmp_path / "out", records=tmp_path / "records", **QUIET)
    record = read_record(tmp_path / "records" / "train-tiny-world-alignment-seed0.json")
    assert record["metrics"]["steps"]["mean"] == 6
    assert record["metrics"]["unreadable_videos"]["mean"] == 0
    assert record["metrics"]["val_loss"]["mean"] > 0
    assert record["settings"]["model"]["stage"]["learning_rate"] == 1e-2
    assert record["data_checksum"]
    assert "projector" in result.table
    assert str(tmp_path) not in str(record)


def test_other_seeds_see_other_batches_and_start_elsewhere(stage_file, tmp_path):
    config = stage_file()
    runs = [
        run_stage(config, tmp_path / str(seed), {"model.seed": seed}, **QUIET) for seed in (0, 1)
    ]
    assert losses(runs[0].folder)[0] != losses(runs[1].folder)[0]


def test_scale_and_epochs_count_steps(stage_file, tmp_path):
    """Eighteen captions, three videos of three a step: two steps an epoch."""
    epochs = run_stage(stage_file(steps=None, epochs=3), tmp_path / "a", **QUIET)
    assert epochs.metrics["steps"]["mean"] == 6
    scaled = run_stage(stage_file(), tmp_path / "b", scale=0.5, **QUIET)
    assert scaled.metrics["steps"]["mean"] == 3


class Precision(pl.Callback):
    def on_train_start(self, trainer, module):
        self.seen = trainer.precision, module.device.type


def test_half_precision_is_for_a_gpu(stage_file, tmp_path):
    look = Precision()
    config = stage_file(steps=1, precision="bf16-mixed")
    run_stage(config, tmp_path / "out", callbacks=[look], **QUIET)
    assert look.seen == ("32-true", "cpu")


@pytest.mark.gpu
def test_on_a_gpu(stage_file, tmp_path):
    look = Precision()
    config = stage_file(precision="bf16-mixed")
    done = run_stage(config, tmp_path / "out", callbacks=[look], progress=False, device="cuda")
    assert look.seen == ("bf16-mixed", "cuda")
    curve = [float(row[1]) for row in losses(done.folder)]
    assert curve[-1] < curve[0]


def test_overfits_one_batch(stage_file, tmp_path, world):
    """All answers of one batch can be learnt by heart when enough trains."""
    config = stage_file(
        trains=["projector.*", "language_model.*"],
        steps=80,
        batch_size=20,
        learning_rate=2e-2,
        data={
            "train": [{"json": str(world / "conversations.json"), "limit": 1}],
            "questions_per_video": 30,
        },
    )
    done = run_stage(config, tmp_path / "out", **QUIET)
    first, last = (float(losses(done.folder)[i][1]) for i in (0, -1))
    assert first > 3
    assert last < 0.3
