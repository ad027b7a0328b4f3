"""Counting the arithmetic of a step, so that recipes can be compared at equal compute."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from vlmcourse.systems.batch import Batch


def _attention(query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    gradient: Any, query: Any, key: Any, value: Any, *rest: Any, **named: Any
) -> int:
    """Scores again, then the gradients of values, weights, queries and keys: five products where
    the way forward has two."""
    return sdpa_flop_count(query, key, value) * 5 // 2


_aten = torch.ops.aten
FORMULAS = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""The fused attention of CPUs, which torch's counter does not know."""


class Arithmetic(pl.Callback):
    """Counts the floating-point operations of some steps, forward and backward: evenly spread over
    the stage, since the batches of a mixture of sources differ.

    Matrix products, convolutions and attention count (a multiplication and an addition are two);
    attention counts whole, without what a mask would save. Reading features from a cache costs
    nothing here.

    Args:
        steps: how many steps are counted; they take about twice their time. Which they are depends
            on the length of the stage alone, and a resumed run counts those that are left of them:
            a step that is counted may round otherwise in its last bits than one that is not.

    Attributes:
        gflop: of each counted step.
    """

    def __init__(self, steps: int = 16):
        self.steps = steps
        self.gflop: list[float] = []
        self._parts = 0.0

    def on_train_batch_start(self, trainer, module, batch: Batch, batch_idx: int) -> None:
        self._counter = None
        every = max(trainer.max_steps // self.steps, 1)
        number, between = divmod(trainer.global_step, every)
        if between == 0 and number < self.steps:
            self._step = trainer.global_step
            self._counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
            self._counter.__enter__()

    def on_train_batch_end(self, trainer, module, outputs, batch: Batch, batch_idx: int) -> None:
        if self._counter is None:
            return
        counter, self._counter = self._counter, None
        counter.__exit__(None, None, None)
        self._parts += counter.get_total_flops() / 1e9
        if trainer.global_step > self._step:
            self.gflop.append(self._parts)
            self._parts = 0.0

    def on_exception(self, trainer, module, exception: BaseException) -> None:
        if getattr(self, "_counter", None) is not None:
            self._counter.__exit__(None, None, None)
            self._counter = None
