"""The memory bank: the past of a video in a fixed number of entries, however long it is.

Every new frame is put behind the others. When that makes one entry too many, the two neighbours
that look most alike become one. "Alike" is asked at every token position for itself, so one entry
may stand for other frames in a corner of the picture than in its middle:

    position 0   [f0 f1] [f2]    [f3]       sizes 2 1 1
    position 1   [f0]    [f1 f2] [f3]       sizes 1 2 1

A bank is a value: functions take one and return another. Nothing is kept on a layer, so nothing
leaks from one video into the next.

Paper: MA-LMM, arXiv 2404.05726, section 3.2 (memory bank compression).
Official: boheumd/MA-LMM@ffe9fa9:lavis/models/blip2_models/blip2.py (`memory_bank_compress`).
Differs: the paper averages the two ("mean"); the released code weights them by the frames they
stand for ("weighted"), and so does the default here. Videos of a batch may end at different
frames. Likeness, sums and sizes are float32 or better. Only pairs that changed are compared anew.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

RULES = ("weighted", "mean", "fifo", "none")


@dataclass(frozen=True)
class MemoryBank:
    """Entries, the oldest first, and how many frames each of them stands for.

    Attributes:
        entries: `[B, M, N, C]`.
        sizes: `[B, M, N]` float; 0 marks a slot that a shorter video of the batch leaves empty
            (empty slots are last, and the same at all N positions).
        ragged: whether there may be empty slots.
        alike: `[B, M - 1, N]` what `neighbour_similarity` said; means nothing at an empty slot.
    """

    entries: Tensor
    sizes: Tensor
    ragged: bool = False
    alike: Tensor | None = None

    @property
    def length(self) -> int:
        """M, the slots in use by the longest video."""
        return self.entries.shape[1]

    @property
    def exists(self) -> Tensor:
        """`[B, M]` bool, True where a slot is filled."""
        return self.sizes[:, :, 0] > 0

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        kept = (self.entries, self.sizes, self.alike)
        return sum(tensor.nbytes for tensor in kept if tensor is not None)


def append(
    bank: MemoryBank | None,
    frame: Tensor,
    capacity: int | None,
    rule: str = "weighted",
    active: Tensor | None = None,
) -> MemoryBank:
    """Put a frame behind the entries, then compress until at most `capacity` are left.

    Args:
        bank: None before the first frame. It is not changed.
        frame: `[B, N, C]`, a vector for each token position.
        capacity: most entries that stay, at least 1; None keeps all.
        rule: "weighted" and "mean": the most alike neighbours become one (of equals the first);
            "fifo": the oldest entry goes; "none": all stay, whatever the capacity.
        active: `[B]` bool; who is not has no frame now and keeps what it has. None: all are.

    Raises:
        ValueError: an unknown rule, a capacity below 1, or a frame of another shape than the bank.
    """
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")
    if capacity is not None and capacity < 1:
        raise ValueError(f"a bank of {capacity} entries; it needs one at least")
    ragged = active is not None
    active = active if ragged else frame.new_ones(len(frame), dtype=torch.bool)
    if bank is None:
        here, wide = active[:, None, None], torch.promote_types(frame.dtype, torch.float32)
        sizes = here.to(wide).expand(-1, 1, frame.shape[1])
        return MemoryBank(torch.where(here[..., None], frame[:, None], 0), sizes, ragged)
    if bank.entries[:, 0].shape != frame.shape:
        told = tuple(bank.entries[:, 0].shape)
        raise ValueError(f"a frame {tuple(frame.shape)} for a bank of entries {told} [B, N, C]")
    capacity = None if rule == "none" else capacity
    while capacity is not None and bank.length > capacity:
        bank = compress(bank, rule)
    add = _in_a_new_slot if bank.length != capacity else _in_old_slots
    size = torch.ones_like(bank.sizes[:, 0])
    added = add(bank, frame, size, rule if capacity is not None else "none", active)
    return replace(added, ragged=ragged or bank.ragged)


def compress(bank: MemoryBank, rule: str = "weighted") -> MemoryBank:
    """One slot less, by a rule; a video whose last slot is empty only loses that slot.

    Raises:
        ValueError: a bank of fewer than two slots, or the rule "none".
    """
    if rule not in RULES[:3] or bank.length < 2:
        raise ValueError(f"no slot to lose by rule {rule!r} in a bank of {bank.length}")
    alike = None if bank.alike is None else bank.alike[:, :-1]
    first = replace(bank, entries=bank.entries[:, :-1], sizes=bank.sizes[:, :-1], alike=alike)
    last = (bank.entries[:, -1], bank.sizes[:, -1])
    return _in_old_slots(first, *last, rule, bank.exists[:, -1])


def neighbour_similarity(entries: Tensor) -> Tensor:
    """Cosine of every entry `[B, M, N, C]` with the next one, `[B, M - 1, N]`."""
    return _cosine(entries[:, :-1], entries[:, 1:])


@torch.no_grad()
def _cosine(a: Tensor, b: Tensor) -> Tensor:
    wide = torch.promote_types(a.dtype, torch.float32)
    return F.cosine_similarity(a.to(wide), b.to(wide), dim=-1)


def _pairs(bank: MemoryBank, frame: Tensor, active: Tensor) -> Tensor:
    """`alike [B, M, N]` of the bank with the frame behind it, where a video has one."""
    alike = neighbour_similarity(bank.entries) if bank.alike is None else bank.alike
    last = bank.exists.sum(1) - 1  # [B], -1 without any
    videos, slots = (torch.arange(n, device=frame.device) for n in bank.sizes.shape[:2])
    new = _cosine(bank.entries[videos, last], frame)  # [B, N]
    here = ((slots == last[:, None]) & active[:, None])[..., None]  # [B, M, 1]
    return torch.where(here, new[:, None], F.pad(alike, (0, 0, 0, 1)))


def _in_a_new_slot(
    bank: MemoryBank, frame: Tensor, size: Tensor, rule: str, active: Tensor
) -> MemoryBank:
    """One slot more, and the frame in every video's first empty slot."""
    entries, sizes = F.pad(bank.entries, (0, 0, 0, 0, 0, 1)), F.pad(bank.sizes, (0, 0, 0, 1))
    first = (torch.arange(len(frame), device=frame.device), bank.exists.sum(1))
    entries[first] = torch.where(active[:, None, None], frame, 0)
    sizes[first] = size * active[:, None]
    alike = _pairs(bank, frame, active) if rule in ("weighted", "mean") else None
    return MemoryBank(entries, sizes, bank.ragged, alike)


def _in_old_slots(
    bank: MemoryBank, frame: Tensor, size: Tensor, rule: str, active: Tensor
) -> MemoryBank:
    """The frame in every video's first empty slot; where there is none, one entry gives way.

    With M slots, pair i is entries i and i + 1, and the frame is entry M. Merging pair i moves what
    is behind it up by one; pair -1 drops entry 0, and pair M is none.
    """
    videos, slots, positions = (torch.arange(n, device=frame.device) for n in bank.sizes.shape)
    count, last, slots = bank.exists.sum(1), bank.length - 1, slots[:, None]  # [M, 1]
    moving = active & (count == bank.length)  # [B]
    alike = None if rule == "fifo" else _pairs(bank, frame, active)  # [B, M, N]
    pair = torch.full_like(size, -1, dtype=torch.long) if alike is None else alike.argmax(1)
    pair = torch.where(moving[:, None], pair, bank.length)  # [B, N]
    source = (slots + (slots > pair[:, None])).clamp(max=last)  # [B, M, N]
    entries, sizes = _picked(bank.entries, source), bank.sizes.gather(1, source)
    free = (videos, count.clamp(max=last))  # the last slot, where all moved up
    entries[free] = torch.where(active[:, None, None], frame, entries[free])
    sizes[free] = torch.where(active[:, None], size, sizes[free])
    if alike is None:
        return MemoryBank(entries, sizes, bank.ragged)
    at = (videos[:, None], pair.clamp(max=last), positions)  # three indices of [B, N]
    behind = (at[0], (pair + 1).clamp(max=last), positions)
    with_frame = pair == last  # [B, N]
    first, n = bank.entries[at], bank.sizes[at]
    second = torch.where(with_frame[..., None], frame, bank.entries[behind])
    m = torch.where(with_frame, size, bank.sizes[behind])
    one = torch.where(moving[:, None, None], _mean(first, second, n, m, rule), entries[at])
    entries[at], sizes[at] = one, torch.where(moving[:, None], n + m, sizes[at])
    before = (at[0], (pair - 1).clamp(0, last), positions)
    alike = alike.gather(1, slots[:-1] + (slots[:-1] >= pair[:, None]))  # [B, M - 1, N]
    for old, other in ((pair - 1, entries[before]), (pair, entries[behind])):
        alike = torch.where(slots[:-1] == old[:, None], _cosine(one, other)[:, None], alike)
    return MemoryBank(entries, sizes, bank.ragged, alike)


def _picked(values: Tensor, source: Tensor) -> Tensor:
    """Entries `[B, M, N, C]` from slots `source [B, M, N]`."""
    (batch, slots, positions), device = source.shape, source.device
    first = torch.arange(batch, device=device)[:, None, None] * slots
    rows = (first + source) * positions + torch.arange(positions, device=device)  # of [B * M * N]
    return values.reshape(-1, values.shape[-1]).index_select(0, rows.flatten()).view_as(values)


def _mean(first: Tensor, second: Tensor, n: Tensor, m: Tensor, rule: str) -> Tensor:
    """Two entries `[B, N, C]` of n and m frames `[B, N]` made one."""
    a, b = (n[..., None], m[..., None]) if rule == "weighted" else (1, 1)
    return ((a * first.to(n.dtype) + b * second.to(n.dtype)) / (a + b)).to(first.dtype)
