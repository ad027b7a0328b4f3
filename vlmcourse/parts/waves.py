"""Sines and cosines that tell moments apart: what positions of frames begin as, or seconds are
told with.

Paper: Attention Is All You Need, arXiv 1706.03762, section 3.5.
Differs: the slowest wave turns by one radian over the whole row, however long that is; and all
sines stand in front of all cosines.
"""

import torch
from torch import Tensor


def waves(moments: Tensor, longest: int, width: int) -> Tensor:
    """From one radian a moment down to one radian in `longest` of them.

    Args:
        moments: `[...]`, numbers of frames, or seconds.
        longest: moments of the whole row.

    Returns:
        `[..., width]`.
    """
    rates = longest ** -torch.linspace(0, 1, -(-width // 2), device=moments.device)
    angles = moments[..., None] * rates  # [..., width / 2]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[..., :width]
