"""What a model gives: the loss of a batch, and a video it has seen."""

from dataclasses import dataclass

from torch import Tensor

from vlmcourse.systems.batch import Media
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


@dataclass(frozen=True)
class Watched:
    """A video that a model has seen: its layout facts and its features, good for any question."""

    clip: Clip
    pictures: Media | None
    sounds: Media | None = None
