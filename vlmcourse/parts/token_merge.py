"""Token merging: k neighbouring patch tokens of a frame become one, before the language model.

Paper: MiniGPT4-video, arXiv 2404.03413, section 3: every four adjacent tokens become one.
Official: Vision-CAIR/MiniGPT4-video@ecabd7a:minigpt4/models/mini_gpt4_llama_v2.py (`encode_img`).
Differs: "adjacent" there is adjacent in reading order: four patches of one row of the picture, side
by side, not a square of two by two. So it is here.
"""

from torch import Tensor

WAYS = ("concatenate", "mean", "first")


def merge_neighbours(tokens: Tensor, count: int, by: str = "concatenate") -> Tensor:
    """Make one token of every `count` tokens that follow each other.

    Concatenating keeps everything and leaves it to the next linear layer what to forget; the other
    two give as many tokens and keep less, which shows what the concatenation is worth.

    Args:
        tokens: `[..., P, D]`, the patches of a frame row by row.
        count: tokens that become one; 1 leaves them as they are.
        by: "concatenate" (the first token's channels first), "mean" of them, or "first", which
            drops all but the first of them.

    Returns:
        `[..., P / count, D']`, D' as `merged_width` says.

    Raises:
        ValueError: P is no multiple of `count`, or an unknown way.
    """
    patches, width = tokens.shape[-2:]
    if count < 1 or patches % count:
        raise ValueError(f"{patches} tokens do not fall into groups of {count}")
    merged_width(width, count, by)
    groups = tokens.unflatten(-2, (patches // count, count))  # [..., P / count, count, D]
    if by == "mean":
        return groups.mean(-2)
    if by == "first":
        return groups[..., 0, :]
    return groups.flatten(-2)  # [..., P / count, count * D]


def merged_width(width: int, count: int, by: str = "concatenate") -> int:
    """Channels of a merged token. Raises ValueError for an unknown way."""
    if by not in WAYS:
        raise ValueError(f"unknown way to merge {by!r}; known: {', '.join(WAYS)}")
    return width * count if by == "concatenate" else width
