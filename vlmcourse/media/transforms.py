"""Frames as numbers for a vision encoder: resizing, cropping, normalising."""

import math
import random
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


Resampling = Literal["nearest", "bilinear", "bicubic"]
_AT_A_TIME = 16  # frames resized at a time, which bounds the memory


def resize_frames(
    pixels: np.ndarray | Tensor,
    height: int,
    width: int,
    mode: Resampling = "bilinear",
    *,
    antialias: bool = True,
) -> np.ndarray | Tensor:
    """Resize frames to exactly `height` x `width`; the aspect ratio is the caller's business.

    The one resizer of the course. Sample points are pixel centres (`align_corners=False`); results
    are rounded to the nearest integer and limited to 0..255.

    Args:
        pixels: `[T, H, W, 3]` uint8, NumPy or torch.
        height: rows of the result, at least 1.
        width: columns of the result, at least 1.
        mode: "nearest" (torch's: source row = floor(row * H / height)), "bilinear" or "bicubic".
        antialias: widen the filter when shrinking, as Pillow does; without it fine detail flickers.
            Not used by "nearest".

    Returns:
        `[T, height, width, 3]` uint8 of the kind that was given.
    """
    if mode not in ("nearest", "bilinear", "bicubic"):
        raise ValueError(f"mode must be 'nearest', 'bilinear' or 'bicubic', not {mode!r}")
    given = isinstance(pixels, Tensor)
    tensor = pixels if given else torch.from_numpy(np.ascontiguousarray(pixels))
    if tensor.ndim != 4 or tensor.shape[-1] != 3 or tensor.dtype != torch.uint8:
        raise ValueError(f"expected uint8 [T, H, W, 3], got {tensor.dtype} {tuple(tensor.shape)}")
    result = tensor
    if tensor.shape[1:3] != (height, width):
        result = tensor.new_empty((len(tensor), height, width, 3))
        options = {} if mode == "nearest" else {"align_corners": False, "antialias": antialias}
        for start in range(0, len(tensor), _AT_A_TIME):
            part = tensor[start : start + _AT_A_TIME].permute(0, 3, 1, 2)  # [t, 3, H, W]
            part = part if mode == "nearest" else part.float()
            part = interpolate(part, size=(height, width), mode=mode, **options)
            if mode != "nearest":
                part = part.round().clamp(0, 255).to(torch.uint8)
            result[start : start + _AT_A_TIME] = part.permute(0, 2, 3, 1)  # [t, height, width, 3]
    return result if given else result.numpy()


def normalise_frames(
    frames: Tensor,
    mean: tuple[float, ...] = CLIP_MEAN,
    std: tuple[float, ...] = CLIP_STD,
) -> Tensor:
    """Scale 0..255 to 0..1, subtract the mean colour and divide by the spread.

    Official: DAMO-NLP-SG/Video-LLaMA@64888c0:video_llama/processors/video_processor.py (evaluation:
    the decoder has already resized, nothing else happens).

    Args:
        frames: `[3, T, H, W]` integers 0..255.
        mean: one number a colour.
        std: one number a colour.

    Returns:
        `[3, T, H, W]` float32.
    """
    shape = (3, 1, 1, 1)
    values = frames.float() / 255
    return (values - values.new_tensor(mean).view(shape)) / values.new_tensor(std).view(shape)


def normalise_and_crop(
    frames: Tensor,
    size: int,
    mean: tuple[float, ...] = CLIP_MEAN,
    std: tuple[float, ...] = CLIP_STD,
) -> Tensor:
    """Normalise, scale the short side to `size`, and keep the square in the middle.

    Bilinear without antialiasing, so fine detail flickers where frames shrink. The long side is
    rounded down; half a pixel of the cut is rounded to the even number, as Python does.

    Official: csbhr/Vivid-VR@38c736a:VRDiT/cogvlm2-llama3-caption/modeling_cogvlm.py
    (CogVLM2-Video's `build_conversation_input_ids`).

    Args:
        frames: `[3, T, H, W]` integers 0..255.
        size: rows and columns of the result.
        mean, std: one number a colour.

    Returns:
        `[3, T, size, size]` float32.
    """
    height, width = frames.shape[-2:]
    if width < height:
        rows, columns = math.floor(height / width * size), size
    else:
        rows, columns = size, math.floor(width / height * size)
    top, left = round((rows - size) / 2), round((columns - size) / 2)
    squares = []
    for part in frames.split(_AT_A_TIME, dim=1):
        part = normalise_frames(part, mean, std)
        part = interpolate(part, (rows, columns), mode="bilinear", align_corners=False)
        squares.append(part[..., top : top + size, left : left + size])
    return torch.cat(squares, dim=1)


def square_of_the_middle(frames: Tensor, size: int) -> Tensor:
    """Scale the short side to `size` by Pillow's bicubic filter, and keep the square in the middle.

    The long side is rounded down, and so is half of what is cut away.

    Official: openai/CLIP's own preprocessing as `CLIPImageProcessor` of transformers 4.31 has it,
    which PKU-YuanGroup/Chat-UniVi@ec0b3db:ChatUniVi/model/dataloader.py uses for frames too.

    Args:
        frames: `[T, H, W, 3]` uint8.
        size: rows and columns of the result.

    Returns:
        `[T, size, size, 3]` uint8.
    """
    from PIL import Image

    height, width = frames.shape[1:3]
    short = min(height, width)
    rows, columns = (
        size if side == short else int(size * side / short) for side in (height, width)
    )
    top, left = (rows - size) // 2, (columns - size) // 2
    result = frames.new_empty(len(frames), size, size, 3)
    for number, frame in enumerate(frames.numpy()):
        scaled = frame
        if (height, width) != (rows, columns):
            picture = Image.fromarray(frame)
            scaled = np.array(picture.resize((columns, rows), Image.Resampling.BICUBIC))
        result[number] = torch.from_numpy(scaled[top : top + size, left : left + size])
    return result


def crop_and_resize(frames: Tensor, box: tuple[int, int, int, int], size: int) -> Tensor:
    """Cut one box out of all frames and make it square, bicubic, without antialiasing.

    Official: DAMO-NLP-SG/Video-LLaMA@64888c0:video_llama/processors/functional_video.py; MA-LMM
    uses the same function.

    Args:
        frames: `[3, T, H, W]` integers 0..255.
        box: top, left, height, width in pixels.
        size: rows and columns of the result.

    Returns:
        `[3, T, size, size]` float32; bicubic weights can push values out of 0..255.
    """
    top, left, height, width = box
    cut = frames[..., top : top + height, left : left + width].float()
    return interpolate(cut, size=(size, size), mode="bicubic", align_corners=False)


def to_uint8(frames: Tensor, *, official: bool = False) -> Tensor:
    """Bring resized frames back to whole numbers 0..255, cutting the fraction.

    Official: DAMO-NLP-SG/Video-LLaMA@64888c0:video_llama/processors/transforms_video.py.
    Differs: values outside the range are limited to it. The official cast lets them wrap around
    (258 becomes 2, -3 becomes 253: specks at sharp edges); `official=True` shows that.

    Args:
        frames: any shape, float.
        official: wrap instead of limit.

    Returns:
        uint8 of the same shape.
    """
    whole = frames.trunc()
    whole = whole.remainder(256) if official else whole.clamp(0, 255)
    return whole.to(torch.uint8)


def random_crop_box(
    height: int,
    width: int,
    rng: random.Random,
    *,
    scale: tuple[float, float] = (0.5, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """Draw the box of a random resized crop; one box serves all frames of a clip.

    Args:
        height: rows of the frame.
        width: columns of the frame.
        rng: where chance comes from.
        scale: share of the picture's area, from and to.
        ratio: width over height, from and to; drawn evenly in its logarithm.

    Returns:
        top, left, height, width; the largest middle box within `ratio` when ten draws do not fit.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < rows <= height and 0 < columns <= width:
            return rng.randint(0, height - rows), rng.randint(0, width - columns), rows, columns
    rows = min(height, round(width / min(max(width / height, ratio[0]), ratio[1])))
    columns = min(width, round(rows * min(max(width / height, ratio[0]), ratio[1])))
    return (height - rows) // 2, (width - columns) // 2, rows, columns
