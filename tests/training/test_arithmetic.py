"""The count of a step's arithmetic, against products counted by hand."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from vlmcourse.training.arithmetic import Arithmetic


def steps(callback, parts, run, start=0):
    """Train as the trainer would: `parts` batches a step, six steps, or those from `start` on."""
    trainer = SimpleNamespace(global_step=start, max_steps=6)
    for number in range((6 - start) * parts):
        callback.on_train_batch_start(trainer, None, None, number)
        run()
        trainer.global_step += (number + 1) % parts == 0
        callback.on_train_batch_end(trainer, None, {}, None, number)


@pytest.mark.parametrize("parts", [1, 2])
def test_products_forward_and_backward_count_and_parts_of_a_step_add_up(parts):
    layer, inputs = torch.nn.Linear(8, 16), torch.randn(4, 8)
    counted = Arithmetic(steps=2)
    steps(counted, parts, lambda: layer(inputs).sum().backward())
    one = 2 * 4 * 8 * 16  # and as much for the gradient of the weights
    assert counted.gflop == [pytest.approx(parts * 2 * one / 1e9)] * 2


def test_counted_steps_are_spread_over_the_stage():
    layer = torch.nn.Linear(8, 16)
    sizes = iter((1, 10, 2, 20, 3, 30))
    counted = Arithmetic(steps=3)
    steps(counted, 1, lambda: layer(torch.randn(next(sizes), 8)).sum().backward())
    one = 2 * 2 * 8 * 16 / 1e9
    assert counted.gflop == [pytest.approx(rows * one) for rows in (1, 2, 3)]


@pytest.mark.parametrize(("start", "left"), [(0, [0, 2, 4]), (1, [2, 4]), (4, [4]), (5, [])])
def test_a_resumed_run_counts_the_steps_that_a_whole_one_would(start, left):
    """Others would round otherwise, and the weights would differ in their last bits."""
    layer, counted = torch.nn.Linear(8, 16), Arithmetic(steps=3)
    sizes = iter(range(1 + start, 7))
    steps(counted, 1, lambda: layer(torch.randn(next(sizes), 8)).sum().backward(), start)
    one = 2 * 2 * 8 * 16 / 1e9
    assert counted.gflop == [pytest.approx((1 + step) * one) for step in left]


def test_fused_attention_counts_on_a_cpu():
    rows, heads, length, width = 1, 2, 32, 16
    q, k, v = (torch.randn(rows, heads, length, width, requires_grad=True) for _ in range(3))
    counted = Arithmetic(steps=1)
    steps(counted, 1, lambda: F.scaled_dot_product_attention(q, k, v).sum().backward())
    product = 2 * rows * heads * length * length * width
    assert counted.gflop == [pytest.approx(7 * product / 1e9)]


def test_a_failed_step_leaves_no_counter_behind():
    counted = Arithmetic()
    counted.on_train_batch_start(SimpleNamespace(global_step=0, max_steps=6), None, None, 0)
    counted.on_exception(None, None, RuntimeError("out of memory"))
    before = counted._parts
    torch.randn(4, 8) @ torch.randn(8, 4)
    assert (counted._parts, counted._counter) == (before, None)
    assert not torch.utils._python_dispatch._get_current_dispatch_mode_stack()


def test_a_stop_behind_a_counted_step_stays_what_it_is():
    """The counter is gone by then; it must not raise in the place of what stopped the run."""
    counted, trainer = Arithmetic(), SimpleNamespace(global_step=0, max_steps=6)
    counted.on_train_batch_start(trainer, None, None, 0)
    trainer.global_step = 1
    counted.on_train_batch_end(trainer, None, {}, None, 0)
    counted.on_exception(trainer, None, KeyboardInterrupt())
    assert len(counted.gflop) == 1
