"""Video-LLaMA's settings, at the paper's size and at the world's."""

from dataclasses import dataclass

from vlmcourse.parts.qformer import QFormerConfig
from vlmcourse.systems.templates import CAPTION_REQUESTS
from vlmcourse.systems.video_llama_layout import (
    FRAME_TEXT,
    PICTURE_SYSTEM,
    SOUND_AND_PICTURES,
)

RELEASED_SETTINGS = {
    "temperature": 1.0, "top_p": 0.9, "max_new_tokens": 300, "context": 2000
}  # fmt: skip
"""How the released chat samples; a longer conversation loses its beginning."""


@dataclass(frozen=True)
class VideoLlamaConfig:
    """Settings of the system; the defaults are the paper's.

    Attributes:
        num_frames: frames taken from a video, at most.
        max_frames: positions that frames can have.
        num_image_queries: tokens a frame, of the frozen image Q-Former.
        num_video_queries, num_audio_queries: tokens of a video and of sound.
        num_sound_clips: clips of two seconds taken from the sound, and positions they can have.
        image_width, sound_width: width of the image Q-Former, and of ImageBind's embeddings.
        qformer_width, qformer_layers, qformer_heads, qformer_inner, qformer_dropout: of the two new
            Q-Formers.
        image_size: side of a frame in pixels.
        frame_positions, sound_positions: whether the Q-Formers are told which frame (clip of sound)
            a feature is from; without, the positions are there but unused.
        sound_scale: length given to all that the audio branch reads. None leaves ImageBind's: 20
            for sound and 1 for pictures, so that a branch trained on pictures meets sound 20 times
            as long.
        listens: whether sound tracks are read at all.
        layout: "vicuna", "llama2" or "world", see video_llama_layout.py.
        frame_text: how the language model is told the seconds of the frames; "" tells nothing, as
            the official code does for data in Chinese.
        sound_texts: around sound and video, where both are given.
        caption_requests: what stands before captions of stage 2, one at random.
        video_system, picture_system: system texts of the released chat (`official_prompt`).
        official_prompt, official_padding, official_sound, official_crop: repeat what the released
            code does at questions, with unknown characters, with overlapping clips of sound, and
            with colours out of range; see `VideoLlamaProcessor` and `media/imagebind_audio.py`.
    """

    num_frames: int = 8
    max_frames: int = 32
    num_image_queries: int = 32
    num_video_queries: int = 32
    num_audio_queries: int = 8
    num_sound_clips: int = 8
    image_width: int = 768
    sound_width: int = 1024
    qformer_width: int = 768
    qformer_layers: int = 2
    qformer_heads: int = 12
    qformer_inner: int = 3072
    qformer_dropout: float = 0.1
    image_size: int = 224
    frame_positions: bool = True
    sound_positions: bool = True
    sound_scale: float | None = None
    listens: bool = True
    layout: str = "vicuna"
    frame_text: str = FRAME_TEXT
    sound_texts: tuple[str, str, str] = SOUND_AND_PICTURES
    caption_requests: tuple[str, ...] = CAPTION_REQUESTS
    video_system: str = ""
    picture_system: str = PICTURE_SYSTEM
    official_prompt: bool = False
    official_padding: bool = False
    official_sound: bool = False
    official_crop: bool = False

    def qformer(self, queries: int, encoder_width: int) -> QFormerConfig:
        """Sizes of one of the new Q-Formers: cross-attention in every layer."""
        return QFormerConfig(
            hidden_size=self.qformer_width,
            num_layers=self.qformer_layers,
            num_heads=self.qformer_heads,
            intermediate_size=self.qformer_inner,
            encoder_width=encoder_width,
            cross_attention_freq=1,
            num_queries=queries,
            dropout=self.qformer_dropout,
        )


WORLD_CONFIG = VideoLlamaConfig(
    num_image_queries=16,
    image_width=96,
    sound_width=64,
    qformer_width=96,
    qformer_heads=4,
    qformer_inner=192,
    qformer_dropout=0.0,
    image_size=64,
    layout="world",
)
