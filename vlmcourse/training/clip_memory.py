"""Decoded clips in memory, for encoders that train and must look at every frame anew."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from vlmcourse.systems.processor import Clip

MIB = 2**20


class ClipMemory:
    """Clips as they were read; what was asked longest ago is forgotten first.

    Frames are kept as decoded bytes: a twelfth of what an encoder takes.

    Args:
        mib: all clips together take at most so much memory; 0 keeps none.
    """

    def __init__(self, mib: float):
        self.room = mib * MIB
        self.taken = 0
        self._clips: OrderedDict[Path, Clip] = OrderedDict()

    def __len__(self) -> int:
        return len(self._clips)

    def get(self, video: Path, read: Callable[[Path], Clip]) -> Clip:
        """The clip of a file, read only if it is not here."""
        if video in self._clips:
            self._clips.move_to_end(video)
            return self._clips[video]
        clip = read(video)
        if size_of(clip) <= self.room:
            self._clips[video] = clip
            self.taken += size_of(clip)
        while self.taken > self.room:
            self.taken -= size_of(self._clips.popitem(last=False)[1])
        return clip


def size_of(clip: Clip) -> int:
    """Bytes of a clip's tensors."""
    return sum(value.nbytes for value in vars(clip).values() if isinstance(value, Tensor))
