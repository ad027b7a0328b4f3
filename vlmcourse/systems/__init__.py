"""The systems, one file per paper, and the door to build one: `build("video_chatgpt",
preset="world")`.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from vlmcourse.errors import UserError

if TYPE_CHECKING:
    from vlmcourse.systems.base import VideoLanguageModel

PRESETS = ("world", "paper")


def with_options(config: Any, options: dict[str, Any]) -> Any:
    """A system's settings with some fields changed by name.

    Raises:
        UserError: there is no such field (the message names those there are), or it takes no such
            value.
    """
    known = [field.name for field in fields(config)]
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise UserError(f"unknown option {', '.join(unknown)}. Known: {', '.join(known)}")
    hints = get_type_hints(type(config))
    for name, value in options.items():
        _refuse_other_type(name, value, hints[name])
    return replace(config, **options)


PLAIN = (bool, int, float, str, type(None))


def _refuse_other_type(name: str, value: Any, hint: Any) -> None:
    """Refuse a value of another type, where the type is a plain one or one of several such."""
    allowed = get_args(hint) or (hint,)
    fits = type(value) in allowed or (type(value) is int and float in allowed)
    if set(allowed) <= set(PLAIN) and not fits:
        told = " or ".join("none" if one is type(None) else one.__name__ for one in allowed)
        raise UserError(f"option {name} takes {told}, not {value!r}")


def _video_chatgpt(
    preset: str, device: str, foundations: Path | None, **options: Any
) -> "VideoLanguageModel":
    from vlmcourse.systems import video_chatgpt as system

    if preset == "paper":
        return system.build_paper(device, with_options(system.VideoChatGPTConfig(), options))
    return system.build_world(device, foundations, with_options(system.WORLD_CONFIG, options))


def _video_llama(
    preset: str, device: str, foundations: Path | None, **options: Any
) -> "VideoLanguageModel":
    from vlmcourse.systems import video_llama as system

    if preset == "paper":
        return system.build_paper(device, with_options(system.VideoLlamaConfig(), options))
    return system.build_world(device, foundations, with_options(system.WORLD_CONFIG, options))


def _cogvlm2(
    preset: str, device: str, foundations: Path | None, **options: Any
) -> "VideoLanguageModel":
    from vlmcourse.systems import cogvlm2 as system
    from vlmcourse.systems.cogvlm2_config import IMAGE_CONFIG, WORLD_IMAGE_CONFIG

    if preset == "paper":
        return system.build_paper(device, with_options(IMAGE_CONFIG, options))
    return system.build_world(device, foundations, with_options(WORLD_IMAGE_CONFIG, options))


def _cogvlm2_video(
    preset: str, device: str, foundations: Path | None, **options: Any
) -> "VideoLanguageModel":
    from vlmcourse.systems import cogvlm2 as system
    from vlmcourse.systems.cogvlm2_config import VIDEO_CONFIG, WORLD_VIDEO_CONFIG

    if preset == "paper":
        return system.build_paper(device, with_options(VIDEO_CONFIG, options))
    return system.build_world(device, foundations, with_options(WORLD_VIDEO_CONFIG, options))


def _minigpt4_video(
    preset: str, device: str, foundations: Path | None, **options: Any
) -> "VideoLanguageModel":
    from vlmcourse.systems import minigpt4_video as system

    if preset == "paper":
        config = system.paper_config(options.get("layout", "llama2"))
        return system.build_paper(device, with_options(config, options))
    return system.build_world(device, foundations, with_options(system.WORLD_CONFIG, options))


def _qwen2_vl(
    preset: str, device: str, foundations: Path | None, **options: Any
) -> "VideoLanguageModel":
    from vlmcourse.systems import qwen2_vl as system

    if preset == "paper":
        return system.build_paper(device, with_options(system.PAPER_CONFIG, options))
    return system.build_world(device, foundations, with_options(system.WORLD_CONFIG, options))


def _ma_lmm(
    preset: str, device: str, foundations: Path | None, **options: Any
) -> "VideoLanguageModel":
    from vlmcourse.systems import ma_lmm as system

    if preset == "paper":
        return system.build_paper(device, with_options(system.MaLmmConfig(), options))
    return system.build_world(device, foundations, with_options(system.WORLD_CONFIG, options))


def _chat_univi(
    preset: str, device: str, foundations: Path | None, **options: Any
) -> "VideoLanguageModel":
    from vlmcourse.systems import chat_univi as system

    if preset == "paper":
        return system.build_paper(device, with_options(system.PAPER_CONFIG, options))
    return system.build_world(device, foundations, with_options(system.WORLD_CONFIG, options))


def _connectors(
    preset: str, device: str, foundations: Path | None, **options: Any
) -> "VideoLanguageModel":
    from vlmcourse.systems import connectors as system

    system.refuse_paper(preset)
    return system.build_world(device, foundations, with_options(system.WORLD_CONFIG, options))


CONSTRUCTORS: dict[str, Callable[..., "VideoLanguageModel"]] = {
    "video_chatgpt": _video_chatgpt,
    "video_llama": _video_llama,
    "cogvlm2": _cogvlm2,
    "cogvlm2_video": _cogvlm2_video,
    "minigpt4_video": _minigpt4_video,
    "qwen2_vl": _qwen2_vl,
    "chat_univi": _chat_univi,
    "ma_lmm": _ma_lmm,
    "connectors": _connectors,
}
"""The papers' systems, and the study of their connectors."""


def build(
    system: str,
    preset: str = "world",
    device: str = "cpu",
    foundations: str | Path | None = None,
    **options: Any,
) -> "VideoLanguageModel":
    """Build a system.

    Args:
        system: a key of `CONSTRUCTORS`.
        preset: "world" (tiny; its frozen parts are loaded, its connector is new) or "paper" (the
            published sizes without weights; `vlmcourse.checkpoints.load_released` brings those).
        device: "meta" builds the paper's sizes without memory.
        foundations: a folder of frozen parts instead of `data/foundations`.
        options: fields of the system's settings (`VideoLlamaConfig`, say) and their values.

    Raises:
        UserError: an unknown name, preset or option, or missing files.
    """
    if system not in CONSTRUCTORS:
        raise UserError(f"unknown system {system!r}. Known: {', '.join(CONSTRUCTORS)}")
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}. Known: {', '.join(PRESETS)}")
    folder = None if foundations is None else Path(foundations)
    return CONSTRUCTORS[system](preset, device, folder, **options)
