"""EVA2-CLIP-E, CogVLM2's picture encoder, with the norms behind attention and MLP.

    pixels [N, 3, 224, 224] -> patches [N, 256, 1792], class token in front -> 63 layers
    x = x + norm(attention(x)); x = x + norm(MLP(x))  -> class token dropped [N, 256, 1792]

Most vision transformers normalise what enters a branch; here it is what leaves it, and there is no
norm at the end.

Paper: EVA-CLIP, arXiv 2303.15389; its use here: CogVLM2, arXiv 2408.16500, section 2.
Official: Niky-san/cogvlm2_surce@29bac8a:visual.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlmcourse.backbones.eva_clip import resize_positions
from vlmcourse.media.transforms import normalise_and_crop, normalise_frames, resize_frames


@dataclass(frozen=True)
class Eva2ClipConfig:
    """Sizes; the defaults are those of CogVLM2-Video (the image model has `image_size` 1344).

    Attributes:
        position_grid: side of the grid that the position table covers; None: that of `image_size`.
            Pictures of another size get a table that is stretched as they pass.
        fit: how frames become squares: the middle is cut out ("crop", the video model's way) or
            the aspect ratio is lost ("squash", the image model's).
    """

    image_size: int = 224
    patch_size: int = 14
    hidden_size: int = 1792
    intermediate_size: int = 15360
    num_layers: int = 63
    num_heads: int = 16
    norm_eps: float = 1e-6
    position_grid: int | None = None
    fit: Literal["crop", "squash"] = "crop"

    @property
    def grid(self) -> int:
        """Patches along a side of a picture."""
        return self.image_size // self.patch_size


class Eva2ClipAttention(nn.Module):
    """Plain self-attention; one linear layer gives queries, keys and values, all with a bias."""

    def __init__(self, config: Eva2ClipConfig):
        super().__init__()
        width, self.num_heads = config.hidden_size, config.num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.dense = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)  # [N, H, L, D / H]
        return self.dense(mixed.transpose(1, 2).flatten(2))  # [N, L, D]


class Eva2ClipLayer(nn.Module):
    """Attention, norm, add; MLP with exact GELU, norm, add."""

    def __init__(self, config: Eva2ClipConfig):
        super().__init__()
        width = config.hidden_size
        self.attention = Eva2ClipAttention(config)
        self.attention_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.up = nn.Linear(width, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, width)
        self.mlp_norm = nn.LayerNorm(width, eps=config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention_norm(self.attention(x))
        return x + self.mlp_norm(self.down(F.gelu(self.up(x))))


class Eva2ClipEncoder(nn.Module):
    """Patch features of a picture; the class token takes part and is dropped at the end.

    Differs: the official code takes pictures of one size only; here other squares pass with
    stretched positions. Its xformers attention is torch's own here.

    Attributes: `hidden_size`, `num_patches`, `image_size`.
    """

    def __init__(self, config: Eva2ClipConfig | None = None):
        super().__init__()
        self.config = config = config or Eva2ClipConfig()
        width = config.hidden_size
        self.hidden_size = width
        self.image_size = config.image_size
        self.num_patches = config.grid**2
        table = (config.position_grid or config.grid) ** 2
        self.patch_embedding = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + table, width))
        self.layers = nn.ModuleList(Eva2ClipLayer(config) for _ in range(config.num_layers))
        for parameter in self.parameters():
            if parameter.ndim > 1 and not parameter.is_meta:
                nn.init.trunc_normal_(parameter, std=0.02)

    def embed(self, pixels: Tensor) -> Tensor:
        """Class token and patches (row by row) with their positions, `[N, 1 + P, D]`.

        Raises:
            ValueError: pictures that are not square, or no whole number of patches wide.
        """
        height, width = pixels.shape[-2:]
        if height != width or height % self.config.patch_size:
            raise ValueError(
                f"pictures of {height} x {width} pixels; wanted are squares of whole patches of "
                f"{self.config.patch_size} pixels"
            )
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)  # [N, P, D]
        tokens = torch.cat([self.class_token.expand(len(pixels), -1, -1), patches], dim=1)
        return tokens + resize_positions(self.positions, tokens.shape[1])

    def _states(self, pixels: Tensor) -> Iterator[Tensor]:
        x = self.embed(pixels)
        yield x
        for layer in self.layers:
            x = layer(x)
            yield x

    def hidden_states(self, pixels: Tensor) -> list[Tensor]:
        """What enters the first layer, then every layer's output, class token included."""
        return list(self._states(pixels))

    def forward(self, pixels: Tensor) -> Tensor:
        """`[N, 3, S, S]` normalised pixels to `[N, P, D]`, row-major."""
        for x in self._states(pixels):
            tokens = x
        return tokens[:, 1:]

    def preprocess(self, frames: Tensor) -> Tensor:
        """Decoded frames `[T, H, W, 3]` uint8 to normalised pixels `[T, 3, S, S]`.

        Official: the video model normalises, then scales the short side without antialiasing and
        crops; the image model squashes the picture (bicubic, antialiased) and normalises then.
        """
        frames = torch.as_tensor(frames)
        if self.config.fit == "squash":
            frames = resize_frames(frames, self.image_size, self.image_size, "bicubic")
            return normalise_frames(frames.permute(3, 0, 1, 2)).transpose(0, 1)
        return normalise_and_crop(frames.permute(3, 0, 1, 2), self.image_size).transpose(0, 1)
