"""Qwen2-VL's picture encoder: pictures and videos of any size, packed one behind another.

    patches [N, C * 2 * p * p] -> linear -> [N, D] -> 32 blocks -> [N, D] -> merger: 2 x 2 patches
    to one language-model token

A patch covers two frames (a picture counts as two equal ones). There is no class token and no
table of positions: queries and keys are turned by row and column. Patches see those of the same two
frames of the same medium and no others; what binds a video together is the language model. The
four patches of a merge block are neighbours in the sequence.

Paper: arXiv 2409.12191, sections 2.1 and 2.2.
Official: huggingface/transformers@v4.45.2:src/transformers/models/qwen2_vl/modeling_qwen2_vl.py.
Differs: the official code masks an N x N table, or on a GPU takes flash attention. Here patches are
sorted once by how many attend together, and each number is one batched call; half precision on a
GPU takes torch's own variable-length attention.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Qwen2VitConfig:
    """Sizes; the defaults are those of every published model, whatever its language model."""

    depth: int = 32
    width: int = 1280
    heads: int = 16
    mlp_ratio: float = 4
    patch_size: int = 14
    temporal_patch: int = 2
    merge: int = 2
    in_channels: int = 3
    rope_theta: float = 10000.0
    eps: float = 1e-6

    def __post_init__(self):
        if self.width % (4 * self.heads):
            raise ValueError(
                f"a width of {self.width} does not give {self.heads} heads whose channels fall "
                "into pairs for rows and pairs for columns"
            )

    @property
    def patch_dim(self) -> int:
        """Numbers in a patch."""
        return self.in_channels * self.temporal_patch * self.patch_size**2


def patchify(
    frames: Tensor, patch: int = 14, temporal: int = 2, merge: int = 2
) -> tuple[Tensor, Tensor]:
    """Cut frames into patches, in the official order.

    Official: transformers@v4.45.2:.../image_processing_qwen2_vl.py (`_preprocess`).
    Differs: where frames are missing to a whole temporal patch the last one is repeated, as later
    versions do; 4.45 repeats a single picture and fails for three frames or five.

    Args:
        frames: `[T, C, h, w]` normalised; sides are multiples of `patch * merge`.

    Returns:
        patches `[t * h/p * w/p, C * temporal * p * p]` in the order (t, block row, block column,
        row in the block, column in the block), each as (channel, frame, row, column); and the
        grid `[3]` int64: t, h/p, w/p.

    Raises:
        ValueError: no frames, or sides that are no multiples.
    """
    count, channels, height, width = frames.shape
    step = patch * merge
    if count == 0 or height % step or width % step or not height * width:
        raise ValueError(f"{count} frames of {height} x {width} pixels; wanted steps of {step}")
    missing = -count % temporal
    frames = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)]) if missing else frames
    grid = len(frames) // temporal, height // patch, width // patch
    cut = frames.reshape(
        *(grid[0], temporal, channels),
        *(grid[1] // merge, merge, patch),
        *(grid[2] // merge, merge, patch),
    )
    cut = cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)  # t, rows, columns, in block; C, frame, p, p
    patches = cut.reshape(grid[0] * grid[1] * grid[2], channels * temporal * patch * patch)
    return patches, torch.tensor(grid, dtype=torch.int64)


def patch_places(grids: Tensor, merge: int) -> Tensor:
    """Row and column of every patch in its frame, `[N, 2]` int64, for grids `[V, 3]`."""
    sizes = grids.prod(1)  # [V]
    medium = torch.repeat_interleave(sizes)  # [N]
    first = (sizes.cumsum(0) - sizes)[medium]
    height, width = grids[medium, 1], grids[medium, 2]
    inside = (torch.arange(len(medium), device=grids.device) - first) % (height * width)
    block = inside // merge**2
    row = block // (width // merge) * merge + inside // merge % merge
    column = block % (width // merge) * merge + inside % merge
    return torch.stack([row, column], dim=1)


def axial_angles(places: Tensor, head_dim: int, theta: float = 10000.0) -> Tensor:
    """Angles `[N, head_dim / 2]` float32 of places `[N, 2]`: half of them tell the row, half the
    column."""
    steps = torch.arange(0, head_dim // 2, 2, dtype=torch.float32, device=places.device)
    frequencies = 1.0 / theta ** (steps / (head_dim // 2))  # [head_dim / 4]
    return (places[..., None].float() * frequencies).flatten(1)


class Runs(NamedTuple):
    """Patches sorted so that those of segments of one length lie together.

    Attributes:
        cuts: (segments, length) of every stretch; all patches of a stretch are one call.
        order: `[N]`, where each sorted patch was; None: nothing had to be moved.
        bounds: `[S + 1]` int32, where segments begin and end, for attention of variable length.
    """

    cuts: tuple[tuple[int, int], ...]
    order: Tensor | None
    bounds: Tensor


def runs_of(grids: Tensor) -> Runs:
    """How to sort the patches of media `[V, 3]`; a segment is one temporal patch of one medium."""
    counts, areas = grids[:, 0].tolist(), (grids[:, 1] * grids[:, 2]).tolist()
    segments: dict[int, int] = {}
    for area, count in sorted(zip(areas, counts)):
        segments[area] = segments.get(area, 0) + count
    order = None
    if areas != sorted(areas):
        own = torch.tensor(areas, device=grids.device)
        order = own.repeat_interleave(grids.prod(1)).argsort(stable=True)
    lengths = [area for area, count in segments.items() for _ in range(count)]
    bounds = torch.tensor([0, *lengths], dtype=torch.int32, device=grids.device)
    return Runs(
        tuple((count, area) for area, count in segments.items()),
        order,
        bounds.cumsum(0, dtype=torch.int32),
    )


class Qwen2VitAttention(nn.Module):
    """Self-attention inside segments; queries and keys are turned by their places."""

    def __init__(self, config: Qwen2VitConfig):
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.dense = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], runs: Runs) -> Tensor:
        """`[N, D]` to `[N, D]`; `turn` are cosines and sines `[N, 1, 1, d / 2]`."""
        qkv = self.qkv(x).unflatten(1, (3, self.heads, -1))  # [N, 3, H, d]
        q, k = rotate(qkv[:, :2], *turn).unbind(1)  # [N, H, d] each
        return self.dense(attend(q, k, qkv[:, 2], runs).flatten(1))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel i with channel i + d/2 of `[..., d]`, in float32."""
    first, second = x.float().chunk(2, dim=-1)
    turned = (
        torch.addcmul(first * cos, second, sin, value=-1),
        torch.addcmul(second * cos, first, sin),
    )
    return torch.cat(turned, dim=-1).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, runs: Runs) -> Tensor:
    """Attention of sorted patches `[N, H, d]`, each inside its segment, to `[N, H, d]`."""
    if q.is_cuda and q.dtype in HALF and q.shape[-1] % 8 == 0 and len(runs.cuts) > 1:
        from torch.nn.attention.varlen import varlen_attn

        longest = runs.cuts[-1][1]
        return varlen_attn(q, k, v, runs.bounds, runs.bounds, longest, longest)
    mixed = []
    sizes = [count * length for count, length in runs.cuts]
    for (count, length), *parts in zip(runs.cuts, *(x.split(sizes) for x in (q, k, v))):
        parts = (part.unflatten(0, (count, length)).transpose(1, 2) for part in parts)
        result = F.scaled_dot_product_attention(*parts)  # [S, H, length, d]
        mixed.append(result.transpose(1, 2).flatten(0, 1))
    return torch.cat(mixed) if len(mixed) > 1 else mixed[0]


class Qwen2VitBlock(nn.Module):
    """Norm, attention, add; norm, MLP with the quick GELU, add."""

    def __init__(self, config: Qwen2VitConfig):
        super().__init__()
        inner = int(config.width * config.mlp_ratio)
        self.attention_norm = nn.LayerNorm(config.width, eps=config.eps)
        self.attention = Qwen2VitAttention(config)
        self.mlp_norm = nn.LayerNorm(config.width, eps=config.eps)
        self.up = nn.Linear(config.width, inner)
        self.down = nn.Linear(inner, config.width)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], runs: Runs) -> Tensor:
        x = x + self.attention(self.attention_norm(x), turn, runs)
        return x + self.down(quick_gelu(self.up(self.mlp_norm(x))))


def quick_gelu(x: Tensor) -> Tensor:
    """x times sigmoid(1.702 x), OpenAI's nearly-GELU, by way of the faster SiLU."""
    return F.silu(1.702 * x).div_(1.702)


class Qwen2Vit(nn.Module):
    """Patch features of pictures and videos of any sizes in one sequence without padding.

    Attributes: `config`, `hidden_size`.
    """

    def __init__(self, config: Qwen2VitConfig | None = None):
        super().__init__()
        self.config = config = config or Qwen2VitConfig()
        self.hidden_size = config.width
        self.patch_embedding = nn.Linear(config.patch_dim, config.width, bias=False)
        self.blocks = nn.ModuleList(Qwen2VitBlock(config) for _ in range(config.depth))
        for parameter in self.parameters():
            if parameter.ndim > 1 and not parameter.is_meta:
                nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, patches: Tensor, grids: Tensor) -> Tensor:
        """`[N, C * 2 * p * p]` patches of media with grids `[V, 3]` (`patchify`) to `[N, D]`.

        Raises:
            ValueError: the grids do not count N patches, or no whole merge blocks.
        """
        for x in self._states(patches, grids):
            last = x
        return last

    def hidden_states(self, patches: Tensor, grids: Tensor) -> list[Tensor]:
        """What enters the first block, then every block's output, in the order of the patches."""
        return list(self._states(patches, grids, every=True))

    def _states(self, patches: Tensor, grids: Tensor, every: bool = False) -> Iterator[Tensor]:
        """States in the order of the patches: the last one, or every one."""
        self._refuse_misfit(patches, grids)
        runs, turn = runs_of(grids), self._turn(grids)
        x = self.patch_embedding(patches.to(self.patch_embedding.weight.dtype))
        back = None
        if runs.order is not None:
            back = runs.order.argsort()
            x, turn = x[runs.order], tuple(part[runs.order] for part in turn)
        last = len(self.blocks)
        for number in range(last + 1):
            x = self.blocks[number - 1](x, turn, runs) if number else x
            if every or number == last:
                yield x if back is None else x[back]

    def _turn(self, grids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines `[N, 1, 1, d / 2]` in float32."""
        head_dim = self.config.width // self.config.heads
        places = patch_places(grids, self.config.merge)
        angles = axial_angles(places, head_dim, self.config.rope_theta)[:, None, None]
        return angles.cos(), angles.sin()

    def _refuse_misfit(self, patches: Tensor, grids: Tensor) -> None:
        merge, wanted = self.config.merge, int(grids.prod(1).sum())
        if len(patches) != wanted or not wanted or bool((grids[:, 1:] % merge).any()):
            raise ValueError(
                f"{len(patches)} patches for grids {grids.tolist()[:4]}, which ask for {wanted} in "
                f"blocks of {merge} x {merge}"
            )


class PatchMerger(nn.Module):
    """The connector: a norm for each patch, then an MLP over the patches of a merge block.

    Args:
        width: D of a patch.
        merge: side of a block in patches.
        out: E of a language-model token.
    """

    def __init__(self, width: int, merge: int, out: int, eps: float = 1e-6):
        super().__init__()
        inner = width * merge**2
        self.norm = nn.LayerNorm(width, eps=eps)
        self.up = nn.Linear(inner, inner)
        self.down = nn.Linear(inner, out)

    def forward(self, blocks: Tensor) -> Tensor:
        """`[..., M, merge * merge, D]` to `[..., M, E]`."""
        return self.down(F.gelu(self.up(self.norm(blocks).flatten(-2))))
