"""Official checkpoint files to our modules and back, one key map per system.

`load_released(system, folder)` builds a system at the paper's size with its official weights.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmcourse.errors import UserError

if TYPE_CHECKING:
    import torch

    from vlmcourse.systems.base import VideoLanguageModel


def _video_chatgpt(
    folder: Path, device: str, dtype: "torch.dtype", **options: Any
) -> "VideoLanguageModel":
    from vlmcourse.checkpoints import video_chatgpt

    return video_chatgpt.load_released(folder, device, dtype, **options)


def _video_llama(
    folder: Path, device: str, dtype: "torch.dtype", **options: Any
) -> "VideoLanguageModel":
    from vlmcourse.checkpoints import video_llama

    return video_llama.load_released(folder, device, dtype, **options)


def _cogvlm2(
    folder: Path, device: str, dtype: "torch.dtype", **options: Any
) -> "VideoLanguageModel":
    from vlmcourse.checkpoints import cogvlm2

    return cogvlm2.load_released(folder, device, dtype, kind="image", **options)


def _cogvlm2_video(
    folder: Path, device: str, dtype: "torch.dtype", **options: Any
) -> "VideoLanguageModel":
    from vlmcourse.checkpoints import cogvlm2

    return cogvlm2.load_released(folder, device, dtype, kind="video", **options)


def _minigpt4_video(
    folder: Path, device: str, dtype: "torch.dtype", **options: Any
) -> "VideoLanguageModel":
    from vlmcourse.checkpoints import minigpt4_video

    return minigpt4_video.load_released(folder, device, dtype, **options)


def _qwen2_vl(
    folder: Path, device: str, dtype: "torch.dtype", **options: Any
) -> "VideoLanguageModel":
    from vlmcourse.checkpoints import qwen2_vl

    return qwen2_vl.load_released(folder, device, dtype, **options)


def _chat_univi(
    folder: Path, device: str, dtype: "torch.dtype", **options: Any
) -> "VideoLanguageModel":
    from vlmcourse.checkpoints import chat_univi

    return chat_univi.load_released(folder, device, dtype, **options)


def _ma_lmm(
    folder: Path, device: str, dtype: "torch.dtype", **options: Any
) -> "VideoLanguageModel":
    from vlmcourse.checkpoints import ma_lmm

    return ma_lmm.load_released(folder, device, dtype, **options)


LOADERS: dict[str, Callable[..., "VideoLanguageModel"]] = {
    "video_chatgpt": _video_chatgpt,
    "video_llama": _video_llama,
    "minigpt4_video": _minigpt4_video,
    "cogvlm2": _cogvlm2,
    "cogvlm2_video": _cogvlm2_video,
    "qwen2_vl": _qwen2_vl,
    "ma_lmm": _ma_lmm,
    "chat_univi": _chat_univi,
}


WIDE_RANGE = ("qwen2_vl", "chat_univi")
"""Systems published in bfloat16, whose numbers may leave the range of float16."""


def load_released(
    system: str,
    folder: str | Path,
    device: str = "cpu",
    dtype: "torch.dtype | None" = None,
    **options: Any,
) -> "VideoLanguageModel":
    """Build a system at the paper's size with its official weights.

    Args:
        system: a key of `LOADERS`.
        folder: holds the downloaded files; the module of each system says which.
        device: where to put it.
        dtype: None takes half precision on a GPU and float32 elsewhere.
        options: settings of the system that differ from the paper's (`systems.build`).

    Raises:
        UserError: an unknown system, or a file that is missing, damaged or of another model.
    """
    import torch

    if system not in LOADERS:
        raise UserError(f"no released weights known for {system!r}. Known: {', '.join(LOADERS)}")
    if dtype is None:
        half = torch.bfloat16 if system in WIDE_RANGE else torch.float16
        dtype = half if str(device).startswith("cuda") else torch.float32
    return LOADERS[system](Path(folder), device, dtype, **options)
