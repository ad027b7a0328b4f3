"""Spatio-temporal pooling: a video's patch features become a few means over space and over time.

Paper: Video-ChatGPT, arXiv 2306.05424, section 3.1.
Official: mbzuai-oryx/Video-ChatGPT@659e04b: scripts/save_spatio_temporal_clip_features.py for
training, video_chatgpt/inference.py for answering.
"""

import torch
from torch import Tensor


def spatio_temporal_pooling(
    features: Tensor,
    frame_mask: Tensor | None = None,
    num_temporal: int = 100,
    spatial_grid: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Average every frame over its patches and every patch over the frames, one after the other.

    A *temporal* token says what one frame shows and forgets where; a *spatial* token says what one
    place shows and forgets when. Nothing that needs both survives.

    Differs: the official code handles one video at a time; here the videos of a batch may have
    different numbers of frames.

    Padding is part of the method: below `num_temporal` frames, zero rows fill the temporal tokens
    up, and they are real tokens to the language model (after a linear layer each is its bias).
    Nothing is cut above `num_temporal` frames. The spatial mean runs over the frames that exist.

    Args:
        features: `[B, T, P, D]` patch features, row-major over a frame's grid.
        frame_mask: `[B, T]` bool, True where a frame exists (those come first); None: all exist.
        num_temporal: temporal tokens at least (0 adds no padding).
        spatial_grid: side of the grid the spatial tokens are averaged to; None keeps P of them.

    Returns:
        tokens `[B, N, D]` and mask `[B, N]` bool with N = max(T, num_temporal) + spatial tokens:
        temporal tokens in order of time, then spatial tokens in row-major order. The mask is False
        only on temporal rows of a video that is shorter than the longest one of a batch with T >
        `num_temporal`.

    Raises:
        ValueError: a video without frames, or P that is no square multiple of `spatial_grid`.
    """
    num_frames = features.shape[1]
    if frame_mask is None:
        frame_mask = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
    counts = frame_mask.sum(1)  # [B]
    if num_frames == 0 or (counts.device.type != "meta" and bool((counts == 0).any())):
        raise ValueError("a video without frames cannot be pooled")
    present = frame_mask[:, :, None, None]  # [B, T, 1, 1]
    features = torch.where(present, features, 0)
    temporal = features.mean(2)  # [B, T, D]
    spatial = features.sum(1) / counts[:, None, None].to(features.dtype)  # [B, P, D]
    if spatial_grid is not None:
        spatial = average_grid(spatial, spatial_grid)
    missing = max(num_temporal - num_frames, 0)
    temporal = torch.nn.functional.pad(temporal, (0, 0, 0, missing))  # [B, max(T, num_temporal), D]
    tokens = torch.cat([temporal, spatial], dim=1)  # [B, N, D]
    index = torch.arange(temporal.shape[1], device=features.device)
    real = index[None] < counts.clamp(min=num_temporal)[:, None]  # [B, max(T, num_temporal)]
    mask = torch.cat([real, real.new_ones(spatial.shape[:2])], dim=1)  # [B, N]
    return tokens, mask


def average_grid(tokens: Tensor, grid: int) -> Tensor:
    """Average square blocks of a square grid of tokens.

    Args:
        tokens: `[B, P, D]`, row-major over a square grid.
        grid: side of the result.

    Returns:
        `[B, grid * grid, D]`.

    Raises:
        ValueError: P is not the square of a multiple of `grid`.
    """
    batch, count, width = tokens.shape
    side = round(count**0.5)
    if side * side != count or side % grid:
        raise ValueError(f"{count} tokens do not fall into a {grid} x {grid} grid of equal blocks")
    block = side // grid
    blocks = tokens.reshape(batch, grid, block, grid, block, width)
    return blocks.mean((2, 4)).reshape(batch, grid * grid, width)  # [B, grid^2, D]


def pooled_as_training_files(features: Tensor, num_temporal: int = 100) -> Tensor:
    """Pool one video as the official training files were: float16 features, NumPy means.

    Official: scripts/save_spatio_temporal_clip_features.py. The released projector was trained on
    such files, so this is what its inputs looked like, rounding included.

    Args:
        features: `[T, P, D]` on the CPU, any float type; rounded to float16 first.

    Returns:
        `[max(T, num_temporal) + P, D]` float16.
    """
    import numpy as np

    frames = features.to(torch.float16).numpy()
    temporal, spatial = frames.mean(axis=1), frames.mean(axis=0)
    missing = max(num_temporal - len(temporal), 0)
    temporal = np.pad(temporal, ((0, missing), (0, 0)))
    return torch.from_numpy(np.concatenate([temporal, spatial]))


def pooled_as_inference(features: Tensor, num_temporal: int = 100) -> Tensor:
    """Pool one video as the official inference does: means in the features' own type, then float16.

    Official: video_chatgpt/inference.py, `get_spatio_temporal_features_torch`.

    Args:
        features: `[T, P, D]`.

    Returns:
        `[max(T, num_temporal) + P, D]` float16.
    """
    tokens, _ = spatio_temporal_pooling(features[None], num_temporal=num_temporal)
    return tokens[0].to(torch.float16)
