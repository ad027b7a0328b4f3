"""Which frames each entry of a memory bank stands for, frame by frame: the bank as a film."""

import torch
from torch import Tensor

from vlmcourse.parts.memory_bank import append, neighbour_similarity


@torch.no_grad()
def merge_history(frames: Tensor, capacity: int | None, rule: str = "weighted") -> Tensor:
    """Which frames every slot stands for, after every frame of one video (for figures).

    Args:
        frames: `[T, N, C]`.
        capacity, rule: as in `append`.

    Returns:
        Bool `[T, M, N, T]`: after frame t, does slot m at position n stand for frame f? M is the
        most slots in use; a slot that is not in use stands for none.
    """
    count, positions = frames.shape[:2]
    most = count if capacity is None or rule == "none" else min(capacity, count)
    bank, shown = None, torch.zeros(0, positions, count, dtype=torch.bool, device=frames.device)
    steps = shown.new_zeros(count, most, positions, count)
    for t, frame in enumerate(frames):
        own = shown.new_zeros(1, positions, count)
        own[..., t] = True
        shown = torch.cat([shown, own])  # [M + 1, N, T]
        if len(shown) > most:
            longer = append(bank, frame[None], None)
            pair = neighbour_similarity(longer.entries)[0].argmax(0)  # [N]
            pair = torch.full_like(pair, -1) if rule == "fifo" else pair
            slots = torch.arange(most, device=pair.device)[:, None]
            both = shown[:-1] | shown[1:]
            moved = torch.where((slots < pair)[..., None], shown[:-1], shown[1:])
            shown = torch.where((slots == pair)[..., None], both, moved)
        bank = append(bank, frame[None], most, rule)
        steps[t, : len(shown)] = shown
    return steps
