"""EVA-CLIP's ViT-g, the frozen picture encoder of BLIP-2, Video-LLaMA, MiniGPT4-video and MA-LMM.

    pixels [N, 3, 224, 224] -> patches [N, 256, 1408] -> class token first [N, 257, 1408]
    -> 39 blocks -> tokens -> ln_vision -> what a Q-Former reads

Paper: EVA-CLIP, arXiv 2303.15389; its use here: BLIP-2, arXiv 2301.12597, section 3.1.
Official: salesforce/LAVIS@506965b:lavis/models/eva_vit.py;
DAMO-NLP-SG/Video-LLaMA@64888c0:video_llama/models/blip2.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlmcourse.media.transforms import (
    CLIP_MEAN,
    CLIP_STD,
    Resampling,
    normalise_frames,
    resize_frames,
)


@dataclass(frozen=True)
class EvaClipConfig:
    """Sizes of the encoder; the defaults are those of BLIP-2.

    EVA-CLIP's own ViT-g has 40 blocks; BLIP-2 leaves the last one out, hence 39. `norm_eps` is that
    of the blocks, `vision_norm_eps` that of `ln_vision`. `mean`, `std` and `resampling` are what is
    done to a picture before the encoder sees it.
    """

    image_size: int = 224
    patch_size: int = 14
    hidden_size: int = 1408
    num_layers: int = 39
    num_heads: int = 16
    mlp_ratio: float = 4.3637
    norm_eps: float = 1e-6
    vision_norm_eps: float = 1e-5
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    resampling: Resampling = "bilinear"

    @property
    def intermediate_size(self) -> int:
        """Width inside an MLP, cut to a whole number: 6144 at full size, not 4 * 1408."""
        return int(self.hidden_size * self.mlp_ratio)


class EvaAttention(nn.Module):
    """Self-attention whose queries and values have a bias and whose keys have none.

    A bias on the keys would add the same to all scores of a query, and softmax would not notice.
    """

    def __init__(self, config: EvaClipConfig):
        super().__init__()
        width, self.num_heads = config.hidden_size, config.num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])  # [3D]
        qkv = F.linear(x, self.qkv.weight, bias)  # [N, L, 3D]
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [N, H, L, .]
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))  # [N, H, L, D / H] -> [N, L, D]


class EvaBlock(nn.Module):
    """Norm, attention, add; norm, MLP with exact GELU, add."""

    def __init__(self, config: EvaClipConfig):
        super().__init__()
        width = config.hidden_size
        self.norm1 = nn.LayerNorm(width, eps=config.norm_eps)
        self.attention = EvaAttention(config)
        self.norm2 = nn.LayerNorm(width, eps=config.norm_eps)
        self.up = nn.Linear(width, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class EvaClipEncoder(nn.Module):
    """All tokens of a picture, class token first, normalised by BLIP-2's `ln_vision`.

    Differs: no drop path (every released config sets it to zero).

    Args:
        normed: have `ln_vision`; without, tokens are those of the last block, for a system that
            keeps the norm itself because it trains.

    Attributes: `hidden_size`, `num_patches` (class token not counted), `num_tokens` (counted),
    `image_size`.
    """

    def __init__(self, config: EvaClipConfig | None = None, normed: bool = True):
        super().__init__()
        self.config = config = config or EvaClipConfig()
        grid, width = config.image_size // config.patch_size, config.hidden_size
        self.hidden_size = width
        self.image_size = config.image_size
        self.num_patches = grid * grid
        self.num_tokens = 1 + grid * grid
        self.patch_embedding = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, self.num_tokens, width))
        self.blocks = nn.ModuleList(EvaBlock(config) for _ in range(config.num_layers))
        self.ln_vision = nn.LayerNorm(width, eps=config.vision_norm_eps) if normed else None
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)

    def embed(self, pixels: Tensor) -> Tensor:
        """Class token and patches (row by row) with their positions, `[N, 1 + P, D]`."""
        if pixels.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"pictures of {tuple(pixels.shape[-2:])} pixels for an encoder of "
                f"{self.image_size} x {self.image_size}"
            )
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)  # [N, P, D]
        class_token = self.class_token.expand(len(pixels), -1, -1)
        return torch.cat([class_token, patches], dim=1) + self.positions

    def _states(self, pixels: Tensor) -> Iterator[Tensor]:
        x = self.embed(pixels)
        yield x
        for block in self.blocks:
            x = block(x)
            yield x

    def hidden_states(self, pixels: Tensor) -> list[Tensor]:
        """What enters the first block, then every block's output; `num_layers + 1` of them."""
        return list(self._states(pixels))

    def forward(self, pixels: Tensor, raw: bool = False) -> Tensor:
        """`[N, 3, h, w]` normalised pixels to `[N, 1 + P, D]`.

        Args:
            pixels: `h` and `w` are `image_size`.
            raw: leave `ln_vision` out: the last block's output as it is.
        """
        for x in self._states(pixels):
            tokens = x
        return tokens if raw or self.ln_vision is None else self.normalise(tokens)

    def normalise(self, tokens: Tensor) -> Tensor:
        """`ln_vision`, computed in float32 whatever the type of the tokens."""
        norm = self.ln_vision
        wide = F.layer_norm(
            tokens.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps
        )
        return wide.to(tokens.dtype)

    def preprocess(self, frames: Tensor) -> Tensor:
        """Decoded frames `[T, H, W, 3]` uint8 to normalised pixels `[T, 3, S, S]`.

        Differs: the official code lets decord resize while it decodes (aspect ratio lost); our
        bilinear resize with antialiasing was 1.1 and 1.2 grey levels of 255 away on two real clips.
        """
        config, size = self.config, self.image_size
        small = torch.as_tensor(resize_frames(frames, size, size, config.resampling))
        colours = small.permute(3, 0, 1, 2)
        return normalise_frames(colours, config.mean, config.std).transpose(0, 1)  # [T, 3, S, S]


def resize_positions(positions: Tensor, num_tokens: int) -> Tensor:
    """Stretch the learned positions over another square grid of patches (bicubic).

    Done once, when weights are loaded for pictures of another size.

    Args:
        positions: `[1, 1 + P, D]`, the class token's first; that one stays as it is.
        num_tokens: 1 + number of patches wanted.

    Raises:
        ValueError: one of the numbers of patches is no square.
    """
    old, new = (round((count - 1) ** 0.5) for count in (positions.shape[1], num_tokens))
    if old * old + 1 != positions.shape[1] or new * new + 1 != num_tokens:
        raise ValueError(f"{positions.shape[1] - 1} or {num_tokens - 1} patches are no square")
    if old == new:
        return positions
    grid = positions[:, 1:].unflatten(1, (old, old)).permute(0, 3, 1, 2)  # [1, D, old, old]
    grid = F.interpolate(grid.float(), (new, new), mode="bicubic", align_corners=False)
    grid = grid.to(positions.dtype).flatten(2).transpose(1, 2)  # [1, new * new, D]
    return torch.cat([positions[:, :1], grid], dim=1)
