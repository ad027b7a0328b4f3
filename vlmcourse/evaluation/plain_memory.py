"""The memory bank once more, as plain loops: the yardstick of its numbers and of its speed.

Slow on purpose and with nothing clever in it: every video, every token position and every pair of
neighbours has its turn. `vlmcourse timings --what memory_bank` runs it beside the real one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vlmcourse.evaluation.loop_timings import Work
from vlmcourse.parts.memory_bank import MemoryBank, append
from vlmcourse.parts.memory_qformer import read_frames
from vlmcourse.parts.qformer import QFormer, QFormerConfig

AIM = {"visual_bank": 2.0, "query_bank": 2.0}
"""How many times faster than the loops each should be."""


@dataclass(frozen=True)
class BankSizes:
    """Of what is timed.

    Attributes:
        videos, frames: how many, and of how many frames each.
        capacity: entries of a bank.
        patches, vision_width: of a frame.
        words: of the instruction.
        former: the Q-Former.
        reads: whether reading with the Q-Former is timed too (only where it is small).
    """

    videos: int
    frames: int
    capacity: int
    patches: int
    vision_width: int
    words: int
    former: QFormerConfig
    reads: bool = True


SIZES = {
    "tiny": BankSizes(8, 32, 10, 64, 96, 12, QFormerConfig(96, 4, 4, 192, 96, vocab_size=60)),
    "paper": BankSizes(8, 100, 20, 32, 1408, 12, QFormerConfig(vocab_size=30523), reads=False),
}
"""As in the small world; and as published, but an eighth of a frame's 257 tokens, for the time of
loops is in proportion to them."""


def loop_bank(frames: Tensor, capacity: int, rule: str = "weighted") -> MemoryBank:
    """What `append` leaves of frames `[B, T, N, C]` that come one by one, by loops."""
    lists = [
        [_one_position(video[:, n], capacity, rule) for n in range(video.shape[1])]
        for video in frames
    ]
    entries = torch.stack([torch.stack([e for e, _ in video], 1) for video in lists])
    sizes = torch.stack([torch.stack([s for _, s in video], 1) for video in lists])
    return MemoryBank(entries, sizes)


def _one_position(vectors: Tensor, capacity: int, rule: str) -> tuple[Tensor, Tensor]:
    """Entries `[M, C]` and sizes `[M]` of one token position of one video, `[T, C]`."""
    entries: list[Tensor] = []
    sizes: list[int] = []
    for vector in vectors:
        entries.append(vector)
        sizes.append(1)
        if len(entries) <= capacity:
            continue
        if rule == "fifo":
            del entries[0], sizes[0]
            continue
        best, most = 0, -2.0
        for t in range(len(entries) - 1):
            alike = float(torch.cosine_similarity(entries[t], entries[t + 1], dim=0))
            if alike > most:
                best, most = t, alike
        n, m = (sizes[best], sizes[best + 1]) if rule == "weighted" else (1, 1)
        entries[best] = (n * entries[best] + m * entries[best + 1]) / (n + m)
        sizes[best] += sizes[best + 1]
        del entries[best + 1], sizes[best + 1]
    return torch.stack(entries), torch.tensor(sizes, dtype=torch.float32)


def fill(frames: Tensor, capacity: int, rule: str = "weighted") -> MemoryBank:
    """The same by the real bank, all videos at once."""
    bank = None
    for frame in frames.unbind(1):
        bank = append(bank, frame, capacity, rule)
    return bank


def works(size: str, device: str, seed: int = 0) -> dict[str, Work]:
    """What is timed: both banks against loops; all videos at once against one after the other.

    Args:
        size: of `SIZES`.
        device: "cpu" or "cuda".
    """
    told = SIZES[size]
    generator = torch.Generator().manual_seed(seed)

    def walk(tokens: int, width: int) -> Tensor:
        """Frames that change little from one to the next, as a film's."""
        steps = torch.randn(told.videos, told.frames, tokens, width, generator=generator)
        return steps.cumsum(1).to(device)

    frames = walk(told.patches, told.vision_width)
    states = walk(told.former.num_queries + told.words, told.former.hidden_size)
    found = {
        f"{name}_bank": Work(_tensors(fill, x, told), _tensors(loop_bank, x, told))
        for name, x in (("visual", frames), ("query", states))
    }
    found["visual_bank_one_by_one"] = Work(
        found["visual_bank"].ours, lambda: _one_by_one(fill, frames, told.capacity)
    )
    if not told.reads:
        return found
    torch.manual_seed(seed)
    reader = _reader(QFormer(told.former).to(device).eval(), told, generator, device)
    found["qformer_one_by_one"] = Work(
        lambda: (reader(frames, 0, told.videos),),
        lambda: (torch.cat([reader(frames, i, i + 1) for i in range(told.videos)]),),
    )
    return found


def _tensors(
    make: Callable[..., MemoryBank], frames: Tensor, told: BankSizes
) -> Callable[[], tuple[Tensor, ...]]:
    def work() -> tuple[Tensor, ...]:
        bank = make(frames, told.capacity)
        return bank.entries, bank.sizes.to(bank.entries.device)

    return work


def _one_by_one(
    make: Callable[..., MemoryBank], frames: Tensor, capacity: int
) -> tuple[Tensor, ...]:
    banks = [make(video[None], capacity) for video in frames]
    return torch.cat([b.entries for b in banks]), torch.cat([b.sizes for b in banks])


def _reader(
    former: QFormer, told: BankSizes, generator: torch.Generator, device: str
) -> Callable[[Tensor, int, int], Tensor]:
    ids = torch.randint(1, told.former.vocab_size, (told.videos, told.words), generator=generator)
    ids = ids.to(device)

    @torch.inference_mode()
    def read(frames: Tensor, first: int, end: int) -> Tensor:
        tokens, _ = read_frames(
            former, frames[first:end], text_ids=ids[first:end],
            visual_capacity=told.capacity, query_capacity=told.capacity,
        )  # fmt: skip
        return tokens

    return read
