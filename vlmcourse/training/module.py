"""One stage of one system as a LightningModule: what is frozen, what trains, and how."""

import fnmatch
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from vlmcourse import systems
from vlmcourse.errors import UserError
from vlmcourse.systems.base import Loss, VideoLanguageModel
from vlmcourse.systems.batch import Batch
from vlmcourse.systems.stages import (
    Stage,
    parameter_table,
    rate_factor_of,
    set_trainable,
)
from vlmcourse.training.weights import load_weights, matching, names_matching

log = logging.getLogger(__name__)

SCHEDULES = ("cosine", "cosine_from_start", "linear", "constant", "cosine_by_epoch")


class VideoInstruction(pl.LightningModule):
    """A system in training.

    Args:
        system: name, see `systems.CONSTRUCTORS`.
        stage: what trains and with which settings.
        preset: "world" or "paper".
        seed: of the first values of what trains; together with a step's number also of what is
            random in that step (dropout), so that a resumed run repeats it.
        init_from: a finished stage's folder or weights, also of another system; its tensors are
            loaded by name and checked.
        weights: folder of the frozen parts: foundations (world; None for the usual place) or the
            downloaded official files (paper).
        fresh: give what trains new random values (official files bring trained ones); or patterns
            of names, for a stage that also trains on what such files hold.
        options: of `systems.build`: settings of the system that differ from its preset's.

    Raises:
        UserError: an unknown name; patterns that match nothing; weights that do not fit.
    """

    strict_loading = False  # checkpoints hold what trains; `on_load_checkpoint` checks it by name

    def __init__(
        self,
        system: str,
        stage: Stage,
        preset: str = "world",
        seed: int = 0,
        init_from: Path | None = None,
        weights: Path | None = None,
        fresh: bool | tuple[str, ...] = False,
        options: dict[str, Any] | None = None,
    ):
        super().__init__()
        if stage.schedule not in SCHEDULES:
            raise UserError(f"unknown schedule {stage.schedule!r}; known: {', '.join(SCHEDULES)}")
        if (stage.steps is None) == (stage.epochs is None):
            raise UserError("a stage needs either steps or epochs, and the other null")
        if stage.schedule == "cosine_by_epoch" and stage.epochs is None:
            raise UserError("the schedule cosine_by_epoch needs stage.epochs")
        self.system, self.stage, self.seed = system, stage, seed
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = _built(system, preset, weights, options or {})
        self.scale = 1.0
        """Share of the planned steps that is run; a warm-up in steps shrinks with it."""
        self.inherited: tuple[str, ...] = ()
        if init_from is not None:
            self.inherited = load_weights(self.model, init_from, stage.init_without).trains
        try:
            self.trained = set_trainable(self.model, stage.trains)
            self.rate_factors = rate_factor_of(self.model, stage.rate_factors)
        except ValueError as error:
            raise UserError(f"stage {stage.name!r}: {error}") from error
        if fresh:
            self._reset(seed, ("*",) if fresh is True else tuple(fresh))
        self.train()

    def _reset(self, seed: int, patterns: Sequence[str]) -> None:
        """New random values for every layer that trains and matches; what holds layers has the last
        word."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        for pattern in patterns:
            if not fnmatch.filter(self.trained, pattern):
                raise UserError(f"nothing that trains matches {pattern!r} of model.fresh")
        chosen = matching(self.trained, patterns)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for part in reversed(list(self.model.modules())):
                own = [names[id(p)] for p in part.parameters(recurse=False)]
                if own and own[0] in chosen and hasattr(part, "reset_parameters"):
                    part.reset_parameters()
                for adapter, low in getattr(part, "lora_A", {}).items():
                    if names[id(low.weight)] in chosen:  # a low-rank pair begins as nothing
                        part.reset_lora_parameters(adapter, True)

    def table(self) -> str:
        """What is frozen and what trains, with counts."""
        return f"stage {self.stage.name}\n{parameter_table(self.model)}"

    def weights_to_keep(self) -> tuple[tuple[str, ...], dict[str, Tensor]]:
        """Patterns and tensors that this stage or one before it trained: all that the next one
        needs."""
        patterns = tuple(dict.fromkeys((*self.inherited, *self.stage.trains)))
        parameters = dict(self.model.named_parameters())
        return patterns, {name: parameters[name] for name in names_matching(self.model, patterns)}

    def train(self, mode: bool = True) -> "VideoInstruction":
        """Training mode, but parts that are wholly frozen stay as they answer (no dropout, fixed
        norms).

        Norms over a batch keep their statistics when an encoder trains (their scales and biases
        train): the statistics are no parameters, so they would be missing in the weights of the
        stage; and frames of a few clips are too much alike to replace those of all pictures.
        """
        super().train(mode)
        for part in self.model.modules():
            parameters = list(part.parameters())
            frozen = parameters and not any(p.requires_grad for p in parameters)
            if frozen or getattr(part, "track_running_stats", False):
                part.eval()
        return self

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        part = batch_idx % self.trainer.accumulate_grad_batches
        torch.manual_seed(self.seed * 1_000_003 + self.global_step + part * 2_000_000_011)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        result = self.model(batch)
        if not result.loss.requires_grad:
            raise UserError(
                f"stage {self.stage.name!r}: nothing that trains ({', '.join(self.stage.trains)}) "
                "takes part in a batch without media"
            )
        return {"loss": result.loss, **counts(result)}

    @torch.no_grad()
    def evaluate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Loss and share of right answer tokens over batches, every token counting the same.

        Returns:
            `{"loss", "answer_accuracy", "tokens"}`; empty without batches.
        """
        loss = correct = tokens = 0.0
        was_training = self.training
        self.eval()
        try:
            for batch in batches:
                result = self.model(batch.to(self.device))
                loss += float(result.token_loss.sum())
                correct += float(result.correct.sum())
                tokens += result.num_targets
        finally:
            self.train(was_training)
        if tokens == 0:
            return {}
        return {"loss": loss / tokens, "answer_accuracy": correct / tokens, "tokens": tokens}

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW and the stage's schedule, step by step.

        Biases and scales (tensors of one axis) do not decay; matrices, position embeddings and
        query tokens do, as in the official runs. Each of `rate_factors` makes groups of its own,
        behind those that learn at the rate itself.
        """
        stage = self.stage
        chosen = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        groups = [
            {
                "params": [
                    p for n, p in chosen if self.rate_factors[n] == factor and (p.ndim > 1) is wide
                ],
                "lr": stage.learning_rate * factor,
                "weight_decay": stage.weight_decay if wide else 0.0,
            }
            for factor in dict.fromkeys((1.0, *self.rate_factors.values()))
            for wide in (True, False)
        ]
        optimiser = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=stage.learning_rate,
            betas=stage.betas,
        )
        total = self.trainer.max_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: learning_rate_factor(stage, step, total, self.scale)
        )
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {f"model.{n}": state[f"model.{n}"] for n in self.trained}

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        found, wanted = set(checkpoint["state_dict"]), {f"model.{n}" for n in self.trained}
        if found != wanted:
            raise UserError(
                f"the checkpoint is of another stage: {', '.join(sorted(found ^ wanted)[:6])}"
            )


def _built(
    system: str, preset: str, weights: Path | None, options: dict[str, Any]
) -> VideoLanguageModel:
    """A system with its frozen parts, on the CPU. Raises UserError."""
    if preset != "paper":
        return systems.build(system, preset, "cpu", weights, **options)
    from vlmcourse.checkpoints import load_released

    if weights is None:
        raise UserError("the paper preset trains from downloaded files: say model.weights=FOLDER")
    return load_released(system, weights, "cpu", torch.float32, **options)


def counts(result: Loss) -> dict[str, float]:
    """What is logged of a batch besides its loss: right and trained tokens."""
    return {"correct": result.correct.sum().detach(), "tokens": result.num_targets}


def learning_rate_factor(stage: Stage, step: int, total: int, scale: float = 1.0) -> float:
    """The share of the learning rate at a step, from 0 on: linear warm-up, then the schedule.

    Official: "cosine" is `get_cosine_schedule_with_warmup` of transformers, which the trainers of
    LLaVA and Video-ChatGPT use: the first step of a warm-up has rate 0. "cosine_from_start" is
    DAMO-NLP-SG/Video-LLaMA@64888c0:video_llama/common/optims.py. "cosine_by_epoch" is
    boheumd/MA-LMM@ffe9fa9:lavis/common/optims.py (`linear_warmup_cosine_lr`): the first epoch is
    the warm-up, cut off where the epoch ends; from then on every epoch has one rate. Differs: any
    schedule may end at `min_learning_rate`.

    Args:
        step: from 0 on.
        total: number of steps.
        scale: share of the planned steps that `total` is.
    """
    warmup = math.ceil(total * stage.warmup_ratio)
    if stage.warmup_steps is not None:
        warmup = round(stage.warmup_steps * scale)
    if stage.schedule == "cosine_by_epoch":
        return _factor_by_epoch(stage, step, total, warmup)
    if step < warmup:
        start = stage.warmup_start_rate / stage.learning_rate
        return start + (1 - start) * step / warmup
    done = step - warmup, total - warmup
    if stage.schedule == "cosine_from_start":
        done = step, total
    share = min(done[0] / max(done[1], 1), 1.0)
    lowest = stage.min_learning_rate / stage.learning_rate
    shape = {"linear": 1 - share, "constant": 1.0}
    return lowest + (1 - lowest) * shape.get(stage.schedule, 0.5 * (1 + math.cos(math.pi * share)))


def _factor_by_epoch(stage: Stage, step: int, total: int, warmup: int) -> float:
    epoch, inside = divmod(step, max(total / stage.epochs, 1.0))
    if epoch == 0:
        start = stage.warmup_start_rate / stage.learning_rate
        return min(1.0, start + (1 - start) * inside / max(warmup, 1))
    lowest = stage.min_learning_rate / stage.learning_rate
    return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * min(epoch / stage.epochs, 1.0)))
