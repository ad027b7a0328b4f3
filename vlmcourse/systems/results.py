"""What a model gives: the loss of a batch, and a video it has seen."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmcourse.conversation import IGNORED
from vlmcourse.systems.batch import Batch, Media
from vlmcourse.systems.processor import Clip


@dataclass(frozen=True)
class Loss:
    """The loss of a batch.

    Attributes:
        loss: scalar, mean over all trained tokens of the batch; exactly 0 (with zero gradients)
            when the batch trains none.
        token_loss: `[M]` loss of every trained token, row by row.
        rows: `[M]` row of each of them.
        segments: `[M]` its segment (the question, in a packed row).
        correct: `[M]` bool, whether the most likely token is the right one.
    """

    loss: Tensor
    token_loss: Tensor
    rows: Tensor
    segments: Tensor
    correct: Tensor

    @property
    def num_targets(self) -> int:
        return self.token_loss.numel()


def loss_of(hidden: Tensor, head: Callable[[Tensor], Tensor], batch: Batch) -> Loss:
    """The loss of the trained tokens of a batch.

    Args:
        hidden: `[B, L, E]` last hidden states.
        head: the output layer; only positions that predict a trained token go through it.
    """
    hidden, targets = hidden[:, :-1], batch.labels[:, 1:]
    chosen = targets != IGNORED
    logits = head(hidden[chosen]).float()  # [M, vocabulary]
    wanted = targets[chosen]
    token_loss = F.cross_entropy(logits, wanted, reduction="none")  # [M]
    rows = chosen.nonzero()[:, 0]
    segments = torch.zeros_like(rows) if batch.segments is None else batch.segments[:, 1:][chosen]
    loss = token_loss.sum() / max(token_loss.numel(), 1)
    if token_loss.numel() == 0:
        loss = loss + 0.0 * hidden.sum()
    return Loss(loss, token_loss, rows, segments, logits.argmax(-1) == wanted)


@dataclass(frozen=True)
class Watched:
    """A video that a model has seen: its layout facts and its features, good for any question."""

    clip: Clip
    pictures: Media | None
    sounds: Media | None = None
