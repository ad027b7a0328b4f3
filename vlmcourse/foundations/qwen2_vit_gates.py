"""The gates of the small Qwen2 vision tower: what a linear probe reads at every size."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vlmcourse.backbones.qwen2_vit import Qwen2Vit
from vlmcourse.foundations.gates import Tokens, probe_tokens, read_words
from vlmcourse.foundations.qwen2_vit import HOME, pack_media, sample_medium

GATE_SIZES = (HOME, (96, 96), (48, 48), (128, 48), (48, 128))
"""(width, height) of the pictures probed."""
AT_ONCE = 50


def qwen2_vit_gates(
    vit: Qwen2Vit, train_media: int = 2000, test_media: int = 800, seed: int = 800_000_000
) -> dict[str, list[bool]]:
    """Read words off single tokens with a linear (ridge) probe, on held-out scenes.

    A token is what the merger reads: the normalised features of 2 x 2 patches. The one under a
    thing's centre is mapped linearly to one-hot words, as in gates.py: `vision_gates`.

    Returns:
        `{"64x64/shape": [right, ...], ...}` for pictures of every size (width x height), and
        `film_64x64/...` for pairs of frames.
    """
    kinds = {f"{width}x{height}": ((width, height), False) for width, height in GATE_SIZES}
    kinds["film_{}x{}".format(*HOME)] = (HOME, True)
    result = {}
    for name, (size, film) in kinds.items():
        fitted = _tokens(vit, train_media, seed, size, film, "exclude")
        tested = _tokens(vit, test_media, seed + train_media, size, film, "require")
        for slot, right in read_words(fitted, tested).items():
            result[f"{name}/{slot}"] = right
    return result


def _tokens(
    vit: Qwen2Vit, media: int, seed: int, size: tuple[int, int], film: bool, held_out: str
) -> Tokens:
    grids, labels = [], []
    for start in range(0, media, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, media))
        rngs = (np.random.default_rng(seed + number) for number in numbers)
        frames, found = zip(*(sample_medium(rng, size, film, held_out) for rng in rngs))
        grids += merged_tokens(vit, [torch.from_numpy(f) for f in frames])
        labels += found
    return probe_tokens(grids, labels)


@torch.no_grad()
def merged_tokens(vit: Qwen2Vit, frames: list[Tensor]) -> list[Tensor]:
    """Features of media `[2, H, W, 3]`, each `[rows, columns, merge * merge * D]`, normalised."""
    merge = vit.config.merge
    patches, grids = pack_media(frames, vit.config)
    features = F.layer_norm(vit.eval()(patches, grids), (vit.hidden_size,))
    blocks = features.unflatten(0, (-1, merge**2)).flatten(1)  # [M, merge * merge * D]
    parts = blocks.split((grids.prod(1) // merge**2).tolist())
    return [part.unflatten(0, (int(h) // merge, -1)) for part, (_, h, _) in zip(parts, grids)]
