"""The small world's vision encoder: a convolutional stem and one transformer layer.

It has the face of every frozen picture encoder here: `preprocess(frames)`, `forward(pixels)` ->
patch features `[N, P, D]`, and `hidden_size`, `num_patches`, `image_size`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

POSITIONS = 8
"""Side of the table of positions at every size; other grids of patches interpolate it."""


@dataclass(frozen=True)
class WorldVisionConfig:
    """Sizes; one patch covers 8 x 8 pixels. Weights fit at every `image_size`."""

    hidden_size: int = 96
    num_heads: int = 4
    image_size: int = 64


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.conv(x)))


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class WorldVisionEncoder(nn.Module):
    """Frames of the small world to patch features (0.32 million parameters).

    A plain patch-8 vision transformer needed far more steps to tell shapes apart, hence the stem.
    """

    def __init__(self, config: WorldVisionConfig | None = None):
        super().__init__()
        self.config = config or WorldVisionConfig()
        width = self.config.hidden_size
        self.stem = nn.Sequential(
            _down(3, 24),
            _down(24, 48),
            _Residual(48),
            _down(48, width),
            _Residual(width),
            _Residual(width),
        )
        self.position = nn.Parameter(torch.randn(1, width, POSITIONS, POSITIONS) * 0.02)
        self.layer = nn.TransformerEncoderLayer(
            width, self.config.num_heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(width)

    @property
    def hidden_size(self) -> int:
        return self.config.hidden_size

    @property
    def image_size(self) -> int:
        return self.config.image_size

    @property
    def num_patches(self) -> int:
        return (self.config.image_size // 8) ** 2

    def preprocess(self, frames: Tensor) -> Tensor:
        """Turn `[T, H, W, 3]` uint8 frames into `[T, 3, S, S]` pixels between -1 and 1.

        Frames of another size are resized (bilinear, anti-aliased, aspect ratio ignored).
        """
        frames = torch.as_tensor(frames)
        pixels = frames.permute(0, 3, 1, 2).float() / 127.5 - 1.0
        size = self.config.image_size
        if pixels.shape[-2:] != (size, size):
            pixels = F.interpolate(
                pixels, (size, size), mode="bilinear", antialias=True, align_corners=False
            )
        return pixels

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode `[N, 3, H, W]` pixels (sides multiples of 8) to `[N, H/8 * W/8, D]`, row-major."""
        grid = self.stem(pixels)  # [N, D, H/8, W/8]
        position = self.position
        if position.shape[-2:] != grid.shape[-2:]:
            position = F.interpolate(position, grid.shape[-2:], mode="bicubic", align_corners=False)
        tokens = (grid + position).flatten(2).transpose(1, 2)  # [N, P, D]
        return self.norm(self.layer(tokens))
