"""What a Q-Former with memory keeps of a video between two frames, and how attention reads it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from vlmcourse.parts.memory_bank import MemoryBank, append
from vlmcourse.parts.qformer import QFormerOutput


@dataclass(frozen=True)
class MemoryState:
    """All that is kept of the frames so far.

    Attributes:
        visual: frames as cross-attention reads them; None is no bank.
        queries: for each layer, what went into its self-attention: queries and words. The first
            layer's entries are all alike, since no frame has been read there.
        frames_seen: `[B]` int64.
    """

    visual: MemoryBank | None
    queries: tuple[MemoryBank | None, ...]
    frames_seen: Tensor

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return sum(bank.nbytes for bank in (self.visual, *self.queries) if bank is not None)


def remember(
    state: MemoryState | None,
    frame: Tensor,
    out: QFormerOutput,
    capacities: tuple[int | None, int | None],
    rule: str = "weighted",
    active: Tensor | None = None,
    detach: bool | str = True,
) -> MemoryState:
    """The second half of `step`: the state with this frame and what every layer was given."""
    if detach not in (True, False, "queries"):
        raise ValueError(f"detach is True, False or 'queries', not {detach!r}")
    inputs = out.hidden_states[:-1]
    new = torch.ones(len(frame), dtype=torch.long, device=frame.device)
    new = new if active is None else active.long()
    visual, queries = (None, ()) if state is None else (state.visual, state.queries)
    queries = queries or (None,) * len(inputs)
    if capacities[0] != 0:
        seen = frame.detach() if detach is True else frame
        visual = append(visual, seen, capacities[0], rule, active)
    if capacities[1] != 0:
        rows = len(inputs[0]) // len(frame)
        active = active if active is None or rows == 1 else active.repeat_interleave(rows)
        queries = tuple(
            append(bank, given.detach() if detach else given, capacities[1], rule, active)
            for bank, given in zip(queries, inputs, strict=True)
        )
    return MemoryState(visual, queries, new if state is None else state.frames_seen + new)


def with_memory(new: Tensor, bank: MemoryBank | None) -> Tensor:
    """All entries, then `new [B, S, C]`: `[B, (M + 1) * S, C]`."""
    if bank is None:
        return new
    told, mine = bank.sizes[:, 0].shape, new.shape[:2]
    if told != mine:
        raise ValueError(f"{tuple(mine)} videos and tokens, but a memory of {tuple(told)}")
    return torch.cat([bank.entries.flatten(1, 2), new], 1)


def visible_tokens(
    new: Tensor, bank: MemoryBank | None, mask: Tensor | None = None
) -> Tensor | None:
    """What may be read: no token that `mask [B, S]` hides, now or then, and no empty slot.

    Returns bool `[B, 1, 1, (M + 1) * S]`, or None where that is everything.
    """
    ragged = bank is not None and bank.ragged
    if mask is None and not ragged:
        return None
    mask = torch.ones_like(new[..., 0], dtype=torch.bool) if mask is None else mask
    if bank is not None:
        slots = torch.ones_like(mask[:, :1]).expand(-1, bank.length + 1)  # [B, M + 1]
        slots = torch.cat([bank.exists, slots[:, :1]], 1)
        mask = (slots[:, :, None] & mask[:, None]).flatten(1)
    return mask[:, None, None]
