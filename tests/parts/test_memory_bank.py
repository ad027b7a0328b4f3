"""The memory bank: what it holds is always a mean of what it saw, and it never holds too much."""

import pytest
import torch
from torch.testing import assert_close

from vlmcourse.evaluation.plain_memory import loop_bank
from vlmcourse.parts.memory_bank import (
    RULES,
    MemoryBank,
    append,
    compress,
    neighbour_similarity,
)
from vlmcourse.parts.merge_history import merge_history

MERGING = ("weighted", "mean")


def film(batch=2, frames=11, tokens=3, width=6, seed=0):
    """Frames that change a little from one to the next."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, frames, tokens, width, generator=generator).cumsum(1)


def fill(frames, capacity, rule="weighted", mask=None):
    """The bank after every frame."""
    bank, steps = None, []
    for t, frame in enumerate(frames.unbind(1)):
        bank = append(bank, frame, capacity, rule, None if mask is None else mask[:, t])
        steps.append(bank)
    return steps


@pytest.mark.parametrize("rule", RULES[:3])
@pytest.mark.parametrize("capacity", [1, 2, 4, 30])
def test_it_is_what_plain_loops_make(rule, capacity):
    frames = film()
    bank, plain = fill(frames, capacity, rule)[-1], loop_bank(frames, capacity, rule)
    assert_close(bank.entries, plain.entries)
    assert_close(bank.sizes, plain.sizes)


def test_capacity_is_never_exceeded_and_every_frame_is_counted():
    for t, bank in enumerate(fill(film(frames=30), 4)):
        assert bank.length == min(t + 1, 4)
        assert torch.equal(bank.sizes.sum(1), torch.full((2, 3), t + 1.0))
        assert bank.exists.all()


def test_an_entry_is_the_plain_mean_of_its_frames():
    frames = film(batch=1, frames=20)
    shown = merge_history(frames[0], 5)[-1].double()  # [M, N, T]
    weighted, mean = (fill(frames, 5, rule)[-1] for rule in MERGING)
    means = torch.einsum("mnt,tnc->mnc", shown, frames[0].double()) / shown.sum(-1, keepdim=True)
    assert_close(weighted.entries[0].double(), means, atol=1e-5, rtol=0)
    assert torch.equal(weighted.sizes[0].double(), shown.sum(-1))
    other = merge_history(frames[0], 5, "mean")[-1].double()
    plain = torch.einsum("mnt,tnc->mnc", other, frames[0].double()) / other.sum(-1, keepdim=True)
    assert (mean.entries[0] - plain).abs().max() > 0.01  # old frames fade there


def test_of_equals_the_first_pair_is_merged():
    same = torch.ones(1, 1, 2, 4).expand(1, 6, 2, 4)
    for t, bank in enumerate(fill(same, 3)):
        expected = [1.0] * (t + 1) if t < 3 else [t - 1.0, 1.0, 1.0]
        assert bank.sizes[0, :, 0].tolist() == expected
    directions = torch.eye(4)[:, None]  # all at right angles
    bank = MemoryBank(directions[None], torch.ones(1, 4, 1))
    assert compress(bank).sizes[0, :, 0].tolist() == [2.0, 1.0, 1.0]


def test_positions_merge_each_for_itself():
    corner = torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [-1, 0]])
    frames = torch.stack([corner, corner.flip(0)], 1)[None]  # [1, 4, 2, 2]
    bank = fill(frames, 3)[-1]
    assert bank.sizes[0].T.tolist() == [[2, 1, 1], [1, 1, 2]]


def test_the_oldest_goes_first_in_first_out_and_nothing_goes_without_a_rule():
    frames = film()
    fifo, everything = fill(frames, 4, "fifo")[-1], fill(frames, 4, "none")[-1]
    assert torch.equal(fifo.entries, frames[:, -4:])
    assert fifo.sizes.eq(1).all()
    assert torch.equal(everything.entries, frames)
    assert torch.equal(fill(frames, None)[-1].entries, frames)


@pytest.mark.parametrize("rule", RULES)
def test_a_batch_of_different_lengths_is_one_by_one(rule):
    lengths = [11, 1, 6, 3]
    frames = film(batch=4)
    mask = torch.arange(11) < torch.tensor(lengths)[:, None]
    whole = fill(frames.masked_fill(~mask[..., None, None], float("nan")), 4, rule, mask)[-1]
    assert whole.ragged
    for row, length in enumerate(lengths):
        alone = fill(frames[row : row + 1, :length], 4, rule)[-1]
        here, size = whole.entries[row], alone.length
        assert_close(here[:size], alone.entries[0])
        assert torch.equal(whole.sizes[row, :size], alone.sizes[0])
        assert not whole.sizes[row, size:].any()
        assert not here[size:].any()
        assert whole.exists[row].sum() == size


@pytest.mark.parametrize("rule", RULES)
def test_a_video_may_pause(rule):
    frames = film(batch=2, frames=9)
    turns = torch.tensor([[1, 0, 0, 1, 1, 0, 1, 1, 1], [0, 1, 1, 0, 1, 1, 1, 1, 1]]).bool()
    bank = fill(frames, 3, rule, turns)[-1]
    for row in range(2):
        alone = fill(frames[row : row + 1, turns[row]], 3, rule)[-1]
        assert_close(bank.entries[row, : alone.length], alone.entries[0])
        assert torch.equal(bank.sizes[row, : alone.length], alone.sizes[0])


def test_what_was_handed_in_stays_as_it_was():
    frames = film(frames=8)
    steps = fill(frames, 4)
    copies = [(bank.entries.clone(), bank.sizes.clone()) for bank in steps]
    first, second = (append(steps[5], frames[:, index], 4) for index in (6, 0))
    assert not torch.equal(first.entries, second.entries)
    again = append(steps[5], frames[:, 6], 4)
    assert torch.equal(first.entries, again.entries)
    for bank, (entries, sizes) in zip(steps, copies, strict=True):
        assert torch.equal(bank.entries, entries)
        assert torch.equal(bank.sizes, sizes)
    assert torch.equal(frames, film(frames=8))


@pytest.mark.parametrize("rule", MERGING)
def test_what_is_remembered_of_likeness_is_what_it_would_be_anew(rule):
    frames = film(batch=3, frames=14)
    for bank in fill(frames, 5, rule)[1:]:
        assert_close(bank.alike, neighbour_similarity(bank.entries))
    bank = fill(frames, 5, rule)[9]
    forgotten = MemoryBank(bank.entries, bank.sizes)
    kept, anew = append(bank, frames[:, 10], 5, rule), append(forgotten, frames[:, 10], 5, rule)
    assert torch.equal(kept.entries, anew.entries)
    assert_close(kept.alike, anew.alike)


def test_a_bank_shrinks_where_the_capacity_does():
    bank = append(fill(film(), 8)[-2], film()[:, -1], 3)
    assert bank.length == 3
    assert bank.sizes.sum(1).eq(11).all()
    mask = torch.arange(11) < torch.tensor([11, 4])[:, None]
    ragged = compress(fill(film(), 8, mask=mask)[-1])
    assert ragged.length == 7
    assert ragged.sizes.sum(1).tolist() == [[11.0] * 3, [4.0] * 3]
    assert ragged.sizes[1, :4].eq(1).all()


def test_memory_is_flat():
    bank, sizes = None, set()
    for frame in film(batch=1, frames=60).unbind(1):
        bank = append(bank, frame, 5)
        sizes.add(bank.nbytes if bank.sizes.sum() > 3 * 6 else 0)
    assert len(sizes) == 2  # 0 while it filled, and one number from then on
    storage = bank.entries.untyped_storage()
    assert storage.nbytes() == bank.entries.nbytes  # not a view of something larger


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_counts_on(dtype):
    bank = None
    for _ in range(5):
        bank = append(bank, torch.ones(1, 2, 4, dtype=dtype), 2)
    assert bank.entries.dtype == dtype
    big = MemoryBank(bank.entries, torch.full((1, 2, 2), 4096.0))
    assert append(big, torch.ones(1, 2, 4, dtype=dtype), 2).sizes.sum(1).eq(8193).all()


def test_gradients_pass_through_merging_where_they_should():
    frames = film(batch=2, frames=7, tokens=2, width=3).double()

    def total(frames):
        bank = fill(frames, 3)[-1]
        return (bank.entries * bank.sizes[..., None]).pow(2)

    assert torch.autograd.gradcheck(total, frames.requires_grad_(True))


def test_bad_calls_are_named():
    with pytest.raises(ValueError, match="unknown rule 'best'"):
        append(None, torch.ones(1, 2, 3), 4, "best")
    with pytest.raises(ValueError, match="a bank of 0 entries"):
        append(None, torch.ones(1, 2, 3), 0)
    bank = append(None, torch.ones(1, 2, 3), 4)
    with pytest.raises(ValueError, match=r"a frame \(1, 3, 3\) for a bank of entries \(1, 2, 3\)"):
        append(bank, torch.ones(1, 3, 3), 4)
    with pytest.raises(ValueError, match="no slot to lose by rule 'weighted' in a bank of 1"):
        compress(bank)
    with pytest.raises(ValueError, match="rule 'none'"):
        compress(append(bank, torch.ones(1, 2, 3), 4), "none")
