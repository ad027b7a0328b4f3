"""What every system weighs and takes in at the published size, counted on its own code.

Parameters: the model is built on the meta device and each stage freezes what it freezes. Tokens: a
grey film is written as a real file and the system's own processor reads it, chooses its frames and
lays its places out. Nothing is typed in; the numbers go into a record, because a table should not
have to build nine models.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlmcourse.comparison.facts import Size, System

if TYPE_CHECKING:
    from vlmcourse.systems.base import VideoLanguageModel
    from vlmcourse.systems.processor import Processor

FILMS_S = (60, 600)
"""Lengths of the films that are read, in seconds."""
WIDTH, HEIGHT, FPS = 640, 360, 10


class NoWords:
    """Stands in for a tokenizer where only places are counted: the official vocabularies are not
    here, and words play no part in it.

    Args:
        first: id of the first token that is added.
    """

    bos_token, eos_token, pad_id = "<s>", "</s>", 0

    def __init__(self, first: int = 32_000):
        self.first, self.added = first, {}

    def __len__(self) -> int:
        return self.first + len(self.added)

    def add_tokens(self, tokens: Sequence[str]) -> list[int]:
        """Ids of tokens, new ones behind the last."""
        for token in tokens:
            self.added.setdefault(token, len(self))
        return [self.added[token] for token in tokens]

    def token_id(self, token: str) -> int:
        """Any id serves."""
        return self.added.get(token, 0)

    def strips_beside(self, token: str) -> bool:
        """No white space is looked at."""
        return False


def _processors() -> dict[str, Callable[["VideoLanguageModel"], "Processor"]]:
    """How the processor of a paper-sized model is made, by key of `systems.CONSTRUCTORS`."""
    from vlmcourse.systems.chat_univi_processor import ChatUniViProcessor
    from vlmcourse.systems.cogvlm2_processor import CogVLM2Processor
    from vlmcourse.systems.ma_lmm_processor import MaLmmProcessor
    from vlmcourse.systems.minigpt4_video_processor import MiniGPT4VideoProcessor
    from vlmcourse.systems.qwen2_vl_processor import Qwen2VLProcessor
    from vlmcourse.systems.video_chatgpt import VideoChatGPTProcessor
    from vlmcourse.systems.video_llama_processor import VideoLlamaProcessor

    def patches(model: "VideoLanguageModel") -> int:
        return model.vision_encoder.num_patches

    return {
        "video_chatgpt": lambda m: VideoChatGPTProcessor(
            NoWords(m.config.base_vocabulary), m.config, patches(m)
        ),
        "video_llama": lambda m: VideoLlamaProcessor(NoWords(), m.config),
        "minigpt4_video": lambda m: MiniGPT4VideoProcessor(NoWords(), m.config, patches(m)),
        "cogvlm2_video": lambda m: CogVLM2Processor(NoWords(), m.config),
        "qwen2_vl": lambda m: Qwen2VLProcessor(NoWords(), m.config),
        "ma_lmm": lambda m: MaLmmProcessor(NoWords(), None, m.config),
        "chat_univi": lambda m: ChatUniViProcessor(NoWords(), m.config, patches(m)),
    }


def film_counts(model: "VideoLanguageModel", system: str, film: Path) -> dict[str, int | float]:
    """What a system takes of a film.

    Returns:
        `frames` it looks at; `last_second`, at which the last of them is shown; `tokens` that hold
        pictures (marks that the connector itself gives are among them, words are not); and
        `sound_tokens`, for a system that listens.
    """
    from vlmcourse.conversation import PICTURE, SOUND, Places

    processor = _processors()[system](model)
    clip = processor.read(film)
    places = [p for p in processor.expand("video", clip) if isinstance(p, Places)]
    counts = {
        kind: sum(place.count for place in places if place.kind == kind)
        for kind in (PICTURE, SOUND)
    }
    found = {
        "frames": clip.num_frames,
        "last_second": round(float(clip.times_s.max()), 3),
        "tokens": counts[PICTURE],
    }
    return found | ({"sound_tokens": counts[SOUND]} if counts[SOUND] else {})


def parameter_counts(model: "VideoLanguageModel", stages: Sequence[str]) -> dict[str, int]:
    """`total`, and `trained/STAGE` for each of the stages (all of the paper's without any)."""
    from vlmcourse.systems.stages import set_trainable

    found = {"total": sum(p.numel() for p in model.parameters())}
    for stage in model.stages("paper"):
        if not stages or stage.name in stages:
            set_trainable(model, stage.trains)
            trains = sum(p.numel() for p in model.parameters() if p.requires_grad)
            found[f"trained/{stage.name}"] = trains
    return found


def size_counts(size: Size, films: Mapping[int, Path]) -> dict[str, int | float]:
    """Everything that is counted of one published size."""
    from vlmcourse.systems import build

    model = build(size.system, "paper", "meta", **size.options)
    found = parameter_counts(model, size.stages)
    counted = {f"parameters/{name}": value for name, value in found.items()}
    if size.system not in _processors():
        return counted
    for seconds, film in films.items():
        told = film_counts(model, size.system, film)
        counted |= {f"film_{seconds}/{name}": value for name, value in told.items()}
    return counted


def measure(
    systems: Sequence[System],
    report: Callable[[str], None] = lambda text: None,
    seconds: Sequence[int] = FILMS_S,
) -> dict[str, dict]:
    """Metrics `SYSTEM/SIZE/NAME` of every published size, for a record.

    Args:
        report: told what is being counted.
        seconds: lengths of the films.
    """
    from vlmcourse.comparison.films import write_film

    made = {}
    with tempfile.TemporaryDirectory() as folder:
        films = {
            length: write_film(Path(folder) / f"{length}.mp4", length, WIDTH, HEIGHT, FPS)
            for length in seconds
        }
        for system in systems:
            for size in system.sizes:
                report(f"{system.name} {size.name}")
                for name, value in size_counts(size, films).items():
                    unit = "s" if name.endswith("last_second") else ""
                    made[f"{system.key}/{size.name}/{name}"] = {
                        "n": 1, "mean": value, "low": None, "high": None, "unit": unit
                    }  # fmt: skip
    return made
