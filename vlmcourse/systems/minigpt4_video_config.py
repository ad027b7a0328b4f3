"""MiniGPT4-video's settings, at both of the paper's sizes and at the world's."""

from dataclasses import dataclass

from vlmcourse.errors import UserError
from vlmcourse.systems.minigpt4_video_layout import PICTURE_REQUESTS, VIDEO_REQUESTS


@dataclass(frozen=True)
class MiniGPT4VideoConfig:
    """Settings of the system; the defaults are those of the Llama 2 model.

    Attributes:
        num_frames: frames taken from a video, at most.
        merge: neighbouring patches of a frame that become one token.
        merge_by: how: "concatenate", "mean" or "first" (parts/token_merge.py).
        image_size: side of a frame in pixels.
        layout: "llama2" and "mistral" write the same text to different language models; "world" is
            the small world's. See minigpt4_video_layout.py.
        chat_template: whether requests for captions stand in `[INST] ... [/INST]`; the first stage
            of training has none.
        subtitles: whether subtitles are read.
        subtitle_words: words of subtitles at most.
        max_context: tokens in front of an answer at most, the begin token not counted.
        lora_rank, lora_alpha, lora_dropout: of the side paths in the language model; rank 0 has
            none.
        picture_requests, video_requests: what stands in front of captions, one at random.
        official_captions: which frame gets which subtitle as the official code of "infer", "train"
            or "evaluate" decides (media/subtitle_alignment.py); None loses nothing that is said.
        official_prompt: ask questions as "chat" (inference script and demo) or as "benchmark" did,
            which is not how the model was trained; None asks as in training.
        official_cut: in training a context that is too long loses its end, with the question; at
            questions nothing is done here (`generate(context=...)` cuts the beginning). None of
            that happens without: subtitles get shorter until all fits.
        official_repeat: repeat the last frame of a short video up to `num_frames`, in training and
            in the benchmarks.
        official_padding: an answer's token that is also the padding token trains nothing.
    """

    num_frames: int = 45
    merge: int = 4
    merge_by: str = "concatenate"
    image_size: int = 224
    layout: str = "llama2"
    chat_template: bool = True
    subtitles: bool = True
    subtitle_words: int = 400
    max_context: int = 3600
    lora_rank: int = 64
    lora_alpha: float = 16
    lora_dropout: float = 0.05
    picture_requests: tuple[str, ...] = PICTURE_REQUESTS
    video_requests: tuple[str, ...] = VIDEO_REQUESTS
    official_captions: str | None = None
    official_prompt: str | None = None
    official_cut: bool = False
    official_repeat: bool = False
    official_padding: bool = False


MISTRAL_CONFIG = MiniGPT4VideoConfig(
    num_frames=90, layout="mistral", subtitle_words=800, max_context=7200
)
WORLD_CONFIG = MiniGPT4VideoConfig(
    num_frames=8,
    image_size=64,
    layout="world",
    max_context=1024,
    lora_rank=16,
    lora_alpha=16,
    lora_dropout=0.0,
    picture_requests=("what is shown ?",),
    video_requests=("describe with times ?",),
)
PAPER_CONFIGS = {"llama2": MiniGPT4VideoConfig(), "mistral": MISTRAL_CONFIG}

RELEASED_SETTINGS = {
    "llama2": {"context": 3700 + 512},
    "mistral": {"context": 7500 + 512},
}
"""Prompts at most, and room for the answer, of the released inference."""
for _settings in RELEASED_SETTINGS.values():
    _settings.update(temperature=1.0, repetition_penalty=1.5, max_new_tokens=512)


def paper_config(layout: str = "llama2") -> MiniGPT4VideoConfig:
    """The published settings that go with a language model. Raises UserError."""
    if layout not in PAPER_CONFIGS:
        raise UserError(f"the paper's layouts are {', '.join(PAPER_CONFIGS)}, not {layout!r}")
    return PAPER_CONFIGS[layout]
