"""Which frames each slot stands for: every frame in one slot, in order, as the bank counts them."""

import pytest
import torch

from vlmcourse.parts.memory_bank import append
from vlmcourse.parts.merge_history import merge_history


@pytest.mark.parametrize(("rule", "capacity"), [("weighted", 4), ("mean", 3), ("weighted", 1)])
def test_every_frame_seen_is_in_one_slot_and_slots_follow_each_other(rule, capacity):
    frames = torch.randn(10, 3, 5, generator=torch.Generator().manual_seed(1)).cumsum(0)
    history = merge_history(frames, capacity, rule)
    assert history.shape == (10, capacity, 3, 10)
    bank = None
    for t, frame in enumerate(frames):
        bank = append(bank, frame[None], capacity, rule)
        seen = history[t].sum(0)  # [N, T]
        assert torch.equal(seen, (torch.arange(10) <= t).expand(3, 10).long())
        assert torch.equal(history[t, : bank.length].sum(-1), bank.sizes[0].long())
        assert not history[t, bank.length :].any()
        slot_of = history[t].long().argmax(0)[:, : t + 1]  # [N, t + 1]
        assert (slot_of.diff(dim=1) >= 0).all()


def test_it_tells_of_the_other_rules_too():
    frames = torch.randn(6, 2, 4, generator=torch.Generator().manual_seed(1))
    fifo = merge_history(frames, 2, "fifo")
    assert torch.equal(fifo[-1, 0, 0], torch.arange(6) == 4)
    assert torch.equal(fifo[-1, 1, 0], torch.arange(6) == 5)
    for capacity, rule in ((2, "none"), (None, "weighted")):
        everything = merge_history(frames, capacity, rule)
        assert torch.equal(everything[-1, :, 1], torch.eye(6, dtype=torch.bool))
