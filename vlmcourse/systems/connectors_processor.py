"""The connector study's processor: N places for a film, whatever the connector."""

from collections.abc import Sequence
from pathlib import Path

import torch

from vlmcourse.backbones.tokenizers import Tokenizer
from vlmcourse.conversation import PICTURE, Piece, Places
from vlmcourse.systems.connectors_config import ConnectorsConfig
from vlmcourse.systems.processor import Clip, Processor, frames_tensor
from vlmcourse.systems.templates import WORLD_TEMPLATE

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
PLACE = "<pad>"
"""The token that stands at places of a film, which nobody sees."""


class ConnectorsProcessor(Processor):
    """Files to frames in even steps, and conversations to rows in the small world's words.

    No setting but `num_frames` changes what is read, so all connectors share one feature cache.
    """

    layout_only = ("connector", "tokens", "time", "start", "parameters")

    def __init__(self, tokenizer: Tokenizer, config: ConnectorsConfig):
        super().__init__(tokenizer, WORLD_TEMPLATE)
        self.config = config

    def read(self, path: str | Path) -> Clip:
        """Read frames from the middles of `num_frames` equal parts of a video; or a picture.

        Raises:
            MediaError: a bad file.
        """
        from vlmcourse.media.sampling import uniform_indices
        from vlmcourse.media.video import probe_video, read_frames

        if Path(path).suffix.lower() in PICTURE_SUFFIXES:
            return Clip(torch.zeros(1), frames_tensor(read_frames(path, [0]).pixels))
        info = probe_video(path)
        frames = read_frames(path, uniform_indices(info.num_frames, self.config.num_frames))
        times = torch.as_tensor(frames.times_s, dtype=torch.float32)
        return Clip(times, frames_tensor(frames.pixels), info.duration_s)

    def expand(self, kind: str, clip: Clip) -> Sequence[Piece]:
        if kind not in ("video", "picture"):
            return super().expand(kind, clip)
        if not clip.has_stream(clip.given.pictures):
            return ()
        return (Places(PICTURE, self.config.tokens, PLACE),)
