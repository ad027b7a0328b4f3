"""What accompanies a stage: its history, its checkpoint, its progress bar."""

import csv
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from vlmcourse.systems.batch import Batch
from vlmcourse.training.module import VideoInstruction

COLUMNS = (
    *("step", "loss", "answer_accuracy", "learning_rate"),
    *("conversations", "videos", "tokens", "positions", "frames", "patches", "seconds"),
)
"""A step's number (from 1), its loss and share of right answer tokens, what it learnt from, and the
seconds from the start of the stage to its end (pauses between a kill and a resumption left out).
`tokens` are those that were trained, `positions` all that went through the language model (padding
left out, what packed conversations share once); `frames` and their `patches` went through the
vision encoder, in this step or when their features were cached; frames that share patches are
one."""
VAL_COLUMNS = ("step", "loss", "answer_accuracy", "tokens")
CHECKPOINT, METRICS, VAL_METRICS = "last.ckpt", "metrics.csv", "val_metrics.csv"


class History(pl.Callback):
    """One row of `COLUMNS` a step.

    It travels in the checkpoint, so after a resumption no step is lost or counted twice (CSVLogger
    would delete the first part of the curve).
    """

    def __init__(self):
        self.rows: list[list[float]] = []
        self.val_rows: list[list[float]] = []
        self._step = 0
        self._seconds_before = 0.0
        self._parts: list[tuple[float, float, float, dict[str, int]]] = []

    def on_train_start(self, trainer: pl.Trainer, module: VideoInstruction) -> None:
        self._step = trainer.global_step
        self._started = time.perf_counter()
        self._seconds_before = self.rows[-1][-1] if self.rows else 0.0

    def on_train_batch_start(self, trainer, module, batch: Batch, batch_idx: int) -> None:
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(self, trainer, module, outputs: dict, batch: Batch, batch_idx) -> None:
        # Lightning has divided the loss by the number of parts of a step.
        loss = float(outputs["loss"].detach()) * trainer.accumulate_grad_batches
        correct, tokens = float(outputs["correct"]), outputs["tokens"]
        self._parts.append((loss, correct, tokens, _size(batch, module.model.vision_encoder)))
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        losses, rights, counts, sizes = (list(x) for x in zip(*self._parts))
        self._parts = []
        told = {
            "step": self._step,
            "loss": sum(losses) / len(losses),
            "answer_accuracy": sum(rights) / max(sum(counts), 1),
            "learning_rate": self._rate,
            "tokens": sum(counts),
            "seconds": self._seconds_before + time.perf_counter() - self._started,
            **{name: sum(size[name] for size in sizes) for name in sizes[0]},
        }
        self.rows.append([told[name] for name in COLUMNS])

    def note_validation(self, step: int, found: dict[str, float]) -> None:
        """Keep what `VideoInstruction.evaluate` gave after a step."""
        if found:
            self.val_rows.append([step, found["loss"], found["answer_accuracy"], found["tokens"]])

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": torch.tensor(self.rows, dtype=torch.float64),
            "val_rows": torch.tensor(self.val_rows, dtype=torch.float64),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"].tolist()
        self.val_rows = state_dict["val_rows"].tolist()

    def write(self, folder: Path) -> None:
        """Write `metrics.csv` and, where there was a validation, `val_metrics.csv`."""
        _write_csv(folder / METRICS, COLUMNS, self.rows)
        if self.val_rows:
            _write_csv(folder / VAL_METRICS, VAL_COLUMNS, self.val_rows)


def _size(batch: Batch, encoder: nn.Module | None) -> dict[str, int]:
    """How much a batch holds, by name of the column."""
    pictures = batch.pictures
    frames = 0 if pictures is None else int(pictures.frame_mask.sum())
    patches = frames * getattr(encoder, "num_patches", 0)
    if pictures is not None and "grid" in pictures.extras:  # of any size
        grids = pictures.extras["grid"]
        frames, patches = int(grids[:, 0].sum()), int(grids.prod(1).sum())
    conversations = batch.ids.shape[0]
    if batch.segments is not None:
        conversations = int(batch.segments.amax(1).clamp(min=1).sum())
    return {
        "conversations": conversations,
        "videos": 0 if pictures is None else len(pictures),
        "positions": int(batch.attention.sum()),
        "frames": frames,
        "patches": patches,
    }


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
    part = path.with_suffix(".part")
    with open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            writer.writerow([int(x) if float(x).is_integer() else f"{x:.6g}" for x in row])
    os.replace(part, path)


class Keeper(pl.Callback):
    """Validation, checkpoint and progress bar, in this order, after a step that asks for them.

    The checkpoint is replaced at one stroke, so there is always a whole one.

    Args:
        history: stands in front of this callback in the trainer's list.
        folder: of the stage.
        every: steps between two checkpoints.
        val_every: steps between two validations; None validates only at the end.
        progress: show a bar with the minutes left.
    """

    def __init__(
        self,
        history: History,
        folder: Path,
        every: int = 50,
        val_every: int | None = None,
        progress: bool = True,
    ):
        self.history, self.folder, self.every = history, folder, every
        self.val_every, self.progress = val_every, progress
        self._bar = None

    def on_train_start(self, trainer: pl.Trainer, module: VideoInstruction) -> None:
        from tqdm.auto import tqdm

        self._step = trainer.global_step
        self._bar = tqdm(
            total=trainer.max_steps,
            initial=self._step,
            desc=module.stage.name,
            unit="step",
            mininterval=1,
            disable=not self.progress,
        )

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx: int) -> None:
        step = trainer.global_step
        if step == self._step:
            return
        self._step = step
        last = step == trainer.max_steps
        if last or (self.val_every is not None and step % self.val_every == 0):
            self.history.note_validation(step, module.evaluate(trainer.datamodule.val_batches()))
        if last or step % self.every == 0:
            part = self.folder / f"{CHECKPOINT}.part"
            trainer.save_checkpoint(part)
            os.replace(part, self.folder / CHECKPOINT)
            self.history.write(self.folder)
        newest = self.history.rows[-1]
        self._bar.set_postfix(loss=f"{newest[1]:.3f}", right=f"{newest[2]:.1%}", refresh=False)
        self._bar.update()

    def teardown(self, trainer, module, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()
