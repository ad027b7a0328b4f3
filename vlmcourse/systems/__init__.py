"""The systems, one file per paper, and the door to build one: `build("video_chatgpt",
preset="world")`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vlmcourse.errors import UserError

if TYPE_CHECKING:
    from vlmcourse.systems.base import VideoLanguageModel

PRESETS = ("world", "paper")


def _video_chatgpt(preset: str, device: str, foundations: Path | None) -> "VideoLanguageModel":
    from vlmcourse.systems import video_chatgpt

    if preset == "paper":
        return video_chatgpt.build_paper(device)
    return video_chatgpt.build_world(device, foundations)


CONSTRUCTORS: dict[str, Callable[[str, str, Path | None], "VideoLanguageModel"]] = {
    "video_chatgpt": _video_chatgpt,
}


def build(
    system: str, preset: str = "world", device: str = "cpu", foundations: str | Path | None = None
) -> "VideoLanguageModel":
    """Build a system.

    Args:
        system: a key of `CONSTRUCTORS`.
        preset: "world" (tiny; its frozen parts are loaded, its connector is new) or "paper" (the
            published sizes without weights; `vlmcourse.checkpoints.load_released` brings those).
        device: "meta" builds the paper's sizes without memory.
        foundations: a folder of frozen parts instead of `data/foundations`.

    Raises:
        UserError: an unknown name or preset, or missing files.
    """
    if system not in CONSTRUCTORS:
        raise UserError(f"unknown system {system!r}. Known: {', '.join(CONSTRUCTORS)}")
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}. Known: {', '.join(PRESETS)}")
    return CONSTRUCTORS[system](preset, device, None if foundations is None else Path(foundations))
