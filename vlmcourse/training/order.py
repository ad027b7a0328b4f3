"""Which samples stand together in which batch: pure functions of a seed and a number.

Nothing is kept between batches but what can be worked out again, so a run that was killed sees the
same batches as one that was not.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

BLOCK = 4096
"""Batches whose sources are drawn at once."""


class Order:
    """Which samples stand together at which place of an endless stream.

    A *unit* is up to `together` samples about one video. An epoch holds every sample once; its
    order comes from the seed and its number alone. A video's samples are dealt to its units as
    evenly as they go.

    Args:
        videos: video of each sample.
        together: samples of one video in a unit.
        seed: of the order; several numbers are one seed.
    """

    def __init__(self, videos: Sequence[Path], together: int, seed: int | Sequence[int]):
        groups: dict[Path, list[int]] = {}
        for index, video in enumerate(videos):
            groups.setdefault(video, []).append(index)
        self.groups = list(groups.values())
        self.together = together
        self.seed = [seed] if isinstance(seed, int) else list(seed)
        self.units_per_epoch = sum(-(-len(group) // together) for group in self.groups)
        self.unit_size = -(-len(videos) // self.units_per_epoch)
        """Samples that a unit usually has."""
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def epoch(self, number: int) -> list[list[int]]:
        """All units of one epoch, in order."""
        if self._epoch[0] != number:
            rng = np.random.default_rng([*self.seed, number])
            units = []
            for group in self.groups:
                shuffled = rng.permutation(group)
                parts = np.array_split(shuffled, -(-len(group) // self.together))
                units.extend([int(i) for i in part] for part in parts)
            self._epoch = (number, [units[i] for i in rng.permutation(len(units))])
        return self._epoch[1]

    def units(self, start: int, count: int) -> list[list[int]]:
        """`count` units from place `start` of the stream on, over the borders of epochs."""
        places = [divmod(i, self.units_per_epoch) for i in range(start, start + count)]
        return [self.epoch(epoch)[place] for epoch, place in places]


class Draws:
    """From which source each batch of a mixture comes: one source a batch, drawn by weight.

    Official: DAMO-NLP-SG/Video-LLaMA@64888c0 draws the data set of every batch at random, too.

    Args:
        weights: one a source, above 0; their sum does not matter.
        seed: of the draws.
    """

    def __init__(self, weights: Sequence[float], seed: int):
        self.shares = np.asarray(weights, dtype=np.float64) / np.sum(weights)
        self.seed = seed
        self._blocks: list[np.ndarray] = []
        self._before = [np.zeros(len(self.shares), dtype=np.int64)]  # batches before each block

    def __call__(self, index: int) -> tuple[int, int]:
        """Source of batch `index`, and how many batches before it came from the same source."""
        block, place = divmod(index, BLOCK)
        while len(self._blocks) <= block:
            rng = np.random.default_rng([self.seed, len(self._blocks), len(self.shares)])
            drawn = rng.choice(len(self.shares), size=BLOCK, p=self.shares)
            self._blocks.append(drawn)
            self._before.append(self._before[-1] + np.bincount(drawn, minlength=len(self.shares)))
        drawn = self._blocks[block]
        source = int(drawn[place])
        return source, int(self._before[block][source] + np.sum(drawn[:place] == source))
