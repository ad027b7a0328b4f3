"""CogVLM's way from a picture's patches to tokens of a language model.

    patches [N, P, D] -> 2 x 2 convolution [N, P / 4, D] -> gated adapter [N, P / 4, E]
    -> between boi and eoi [N, P / 4 + 2, E]

Paper: CogVLM, arXiv 2311.03079, section 2.1 (an MLP adapter with SwiGLU); CogVLM2, arXiv
2408.16500, section 2 (the convolution).
Official: Niky-san/cogvlm2_surce@29bac8a:visual.py (`GLU`, `EVA2CLIPModel`).
Differs: the paper tells of a further 2 x 2 convolution for video; the released video model has this
one only.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def grid_convolution(width: int) -> nn.Conv2d:
    """The convolution that makes one token of 2 x 2 neighbours, at the vision width."""
    return nn.Conv2d(width, width, kernel_size=2, stride=2)


def convolve_grid(tokens: Tensor, conv: nn.Conv2d) -> Tensor:
    """Put patch tokens back on their square grid and convolve them.

    Args:
        tokens: `[N, P, D]`, row-major over a square grid with an even side.
        conv: from `grid_convolution`.

    Returns:
        `[N, P / 4, D]`, row-major.

    Raises:
        ValueError: P is not the square of an even number.
    """
    side = round(tokens.shape[1] ** 0.5)
    if side * side != tokens.shape[1] or side % 2:
        raise ValueError(f"{tokens.shape[1]} patches are not a square grid with an even side")
    grid = tokens.transpose(1, 2).unflatten(2, (side, side))  # [N, D, side, side]
    return conv(grid).flatten(2).transpose(1, 2)  # [N, P / 4, D]


class GatedAdapter(nn.Module):
    """A linear layer to the language width, a norm and GELU, then a gated MLP (SwiGLU).

    Args:
        vision_width: D.
        width: E of the language model.
        inner_width: inside the MLP; the official models take the language model's own.
    """

    def __init__(self, vision_width: int, width: int, inner_width: int):
        super().__init__()
        self.project = nn.Linear(vision_width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, inner_width, bias=False)
        self.up = nn.Linear(width, inner_width, bias=False)
        self.down = nn.Linear(inner_width, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """`[N, P, D]` to `[N, P, E]`."""
        x = F.gelu(self.norm(self.project(tokens)))
        return self.down(F.silu(self.gate(x)) * self.up(x))


def enclose(tokens: Tensor, boi: Tensor, eoi: Tensor) -> Tensor:
    """Put the learned begin and end of a picture around its tokens.

    Args:
        tokens: `[N, P, E]`.
        boi, eoi: `[1, 1, E]`, the same for all pictures.

    Returns:
        `[N, P + 2, E]`.
    """
    ends = (end.to(tokens.dtype).expand(len(tokens), -1, -1) for end in (boi, eoi))
    begin, end = ends
    return torch.cat([begin, tokens, end], dim=1)
