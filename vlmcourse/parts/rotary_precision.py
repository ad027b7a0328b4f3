"""What half precision does to rotary positions: CogVLM2's tables as the released models had them.

A rotary angle is position times frequency. transformers computes it in float32 whatever the type of
the model; CogVLM2's code in the type of its stored frequencies. In bfloat16, which has 8 bits of
precision, positions above 256 then collapse onto multiples of 2, above 512 of 4, above 1024 of 8.

Official: Niky-san/cogvlm2_surce@29bac8a:util.py (`FastRotaryEmbedding`, pos_idx_in_fp32=False).
Differs: our models keep the exact angles; `StoredRotary` shows the official ones.
"""

import torch
from torch import Tensor, nn


def inverse_frequencies(
    head_dim: int, base: float, dtype: torch.dtype = torch.float32, built_in: bool = False
) -> Tensor:
    """The frequencies of the pairs of a head.

    Args:
        head_dim: d.
        base: of the geometric series, 500000 for Llama 3.
        dtype: of the result.
        built_in: compute in `dtype` too, as a model does that is built while this is torch's
            default; else float32 numbers are rounded once.

    Returns:
        `[d / 2]`, falling from 1.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=dtype if built_in else torch.float32) / head_dim
    return (1.0 / base**exponents).to(dtype)


def rotary_angles(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions times frequencies, all in the type of the frequencies.

    Args:
        positions: `[...]` int.
        frequencies: `[d / 2]`.

    Returns:
        two times `[..., d / 2]`.
    """
    angles = positions.to(frequencies.dtype)[..., None] * frequencies
    return angles.cos(), angles.sin()


class StoredRotary(nn.Module):
    """Takes the place of a Llama's `model.rotary_emb` and computes in its frequencies' type.

    Args:
        frequencies: `[d / 2]`, those of a checkpoint (`...rotary_emb.inv_freq`) for instance. They
            keep their type when the model around is cast.
    """

    def __init__(self, frequencies: Tensor):
        super().__init__()
        self.dtype = frequencies.dtype
        self.register_buffer("inv_freq", frequencies.clone(), persistent=False)

    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Tables `[B, L, d]` in the type of `x` for positions `[B, L]`."""
        cos, sin = rotary_angles(position_ids, self.inv_freq.to(x.device, self.dtype))
        return torch.cat([cos, cos], -1).to(x.dtype), torch.cat([sin, sin], -1).to(x.dtype)
