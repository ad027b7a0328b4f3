"""A loader whose item i is the whole batch of training step i."""

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler


class _Batches(Dataset):
    def __init__(self, make: Callable[[int], Any]):
        self.make = make

    def __getitem__(self, step: int) -> Any:
        return self.make(step)


class _FromHere(Sampler):
    """The steps that are left; the length stays that of the whole run, as the trainer counts it."""

    def __init__(self, trainer):
        self.trainer = trainer

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.trainer.global_step, self.trainer.max_steps))

    def __len__(self) -> int:
        return self.trainer.max_steps


def step_loader(make: Callable[[int], Any], trainer) -> DataLoader:
    """Load `make(0), make(1), ...`; a resumed run goes on with the step it was killed in.

    Args:
        make: gives the batch of a step from the step's number alone.
        trainer: the Lightning trainer, whose `max_steps` is set.
    """
    return DataLoader(_Batches(make), batch_size=None, sampler=_FromHere(trainer))
