"""Video-LLaMA: a Q-Former over the frames' Q-Former tokens, another one over sound, then the LLM.

    frames -> picture encoder -> image Q-Former (both frozen): a few tokens a frame
           -> + position of the frame -> video Q-Former -> linear layer -> 32 tokens a video
    sound  -> ImageBind (frozen): one embedding for each of 8 clips
           -> + position of the clip  -> audio Q-Former -> linear layer ->  8 tokens

Paper: arXiv 2306.02858, section 2. Official: DAMO-NLP-SG/Video-LLaMA@64888c0:
video_llama/models/video_llama.py.
"""

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmcourse.backbones.eva_clip import EvaClipConfig, EvaClipEncoder
from vlmcourse.backbones.foundations import load_foundations, load_image_qformer, load_imagebind
from vlmcourse.backbones.imagebind import ImageBind, ImageBindConfig
from vlmcourse.backbones.language_model import LlamaSizes, build_llama
from vlmcourse.errors import UserError
from vlmcourse.parts.qformer import QFormer, QFormerConfig, QFormerOutput
from vlmcourse.systems.base import VideoLanguageModel
from vlmcourse.systems.batch import Batch
from vlmcourse.systems.processor import Clip
from vlmcourse.systems.stages import Stage
from vlmcourse.systems.video_llama_config import (
    RELEASED_SETTINGS,
    WORLD_CONFIG,
    VideoLlamaConfig,
)
from vlmcourse.systems.video_llama_processor import VideoLlamaProcessor
from vlmcourse.systems.video_llama_stages import PAPER_STAGES, WORLD_STAGES


class VideoLlama(VideoLanguageModel):
    """The whole system.

    Differs: clips of a batch may have different numbers of frames, which the Q-Former's mask hides;
    the released code demands one number. Its early fusion of sound into the video Q-Former is never
    called and is not here: picture and sound meet in the language model only.

    Args:
        config: settings.
        language_model, vision_encoder, processor: see the base.
        image_qformer: frozen, `tokens [N, num_image_queries, image_width]` from the encoder's; None
            for a model that is only given features.
        imagebind: frozen; None for a model that is only given features, or does not listen.
    """

    def __init__(
        self,
        config: VideoLlamaConfig,
        language_model: nn.Module,
        vision_encoder: nn.Module | None,
        processor: VideoLlamaProcessor | None,
        image_qformer: QFormer | None = None,
        imagebind: ImageBind | None = None,
    ):
        super().__init__(language_model, vision_encoder, processor)
        for what, part, found, told in (
            ("num_image_queries", image_qformer, "num_queries", config.num_image_queries),
            ("image_width", image_qformer, "hidden_size", config.image_width),
        ):
            if part is not None and getattr(part.config, found) != told:
                raise UserError(f"{what} is {getattr(part.config, found)} here, not {told}")
        if imagebind is not None and imagebind.out_width != config.sound_width:
            raise UserError(f"sound_width is {imagebind.out_width} here, not {config.sound_width}")
        self.config = config
        self.image_qformer, self.imagebind = image_qformer, imagebind
        self.begin_branches()

    def begin_branches(self) -> None:
        """Make what trains, with new random values."""
        config = self.config
        width = self.language_model.get_input_embeddings().weight.shape[1]
        self.frame_position = nn.Embedding(config.max_frames, config.image_width)
        self.video_qformer = QFormer(config.qformer(config.num_video_queries, config.image_width))
        self.llama_proj = nn.Linear(config.qformer_width, width)
        self.audio_position = nn.Embedding(config.num_sound_clips, config.sound_width)
        self.audio_qformer = QFormer(config.qformer(config.num_audio_queries, config.sound_width))
        self.audio_llama_proj = nn.Linear(config.qformer_width, width)

    # Frozen encoders

    def frozen_encoders(self) -> dict[str, nn.Module | None]:
        return {
            name: getattr(self, name) for name in ("vision_encoder", "image_qformer", "imagebind")
        }

    def encode_frames(self, pixels: Tensor, chunk: int = 32) -> Tensor:
        """Pixels `[N, 3, h, w]` to the image Q-Former's tokens `[N, Q, D]`."""
        encode, parts = super().encode_frames, pixels.split(chunk)
        trains = _trains(self.image_qformer) or _trains(self.vision_encoder)
        with nullcontext() if trains else torch.no_grad():
            return torch.cat([self.image_qformer(encode(part, chunk)).tokens for part in parts])

    def encode_sound(self, inputs: Tensor, chunk: int = 32) -> Tensor:
        """Mel clips `[N, 1, mels, steps]` or pictures `[N, 3, h, w]` to embeddings `[N, 1, D]`."""
        if self.imagebind is None:
            return super().encode_sound(inputs)
        weight = self.imagebind.audio.head.weight
        encode = self.imagebind.vision if inputs.shape[1] == 3 else self.imagebind.audio
        inputs = inputs.to(weight.device, weight.dtype)
        with nullcontext() if _trains(self.imagebind) else torch.no_grad():
            return torch.cat([encode(part) for part in inputs.split(chunk)])[:, None]

    def stream_inputs(self, clip: Clip) -> dict[str, Tensor]:
        """Of frames "pictures" and "sound_pictures" (as ImageBind's picture encoder takes them,
        which stand for sound when the audio branch is trained); and "sounds", if there are any."""
        inputs = super().stream_inputs(clip)
        if clip.sound is not None:
            inputs["sounds"] = clip.sound
        if clip.frames is not None and self.imagebind is not None:
            inputs["sound_pictures"] = self.imagebind.vision.preprocess(clip.frames)
        return inputs

    # Connectors

    def connect(
        self, features: Tensor, frame_mask: Tensor, times_s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`[V, T, P, D]` to `[V, num_video_queries, E]`."""
        read = self.read_frames(features, frame_mask)
        return _all_there(self.llama_proj(read.tokens))

    def connect_sound(
        self, features: Tensor, frame_mask: Tensor, times_s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`[V, M, 1, D]` to `[V, num_audio_queries, E]`."""
        read = self.read_sound(features, frame_mask)
        return _all_there(self.audio_llama_proj(read.tokens))

    def read_frames(self, features: Tensor, frame_mask: Tensor, **outputs: bool) -> QFormerOutput:
        """The video Q-Former over all tokens of all frames, frame after frame.

        Args:
            features: `[V, T, P, D]`.
            frame_mask: `[V, T]`.
            outputs: `output_attentions=True`: also maps `[V, H, Q, T * P]` over frames and tokens.
        """
        position = self.frame_position if self.config.frame_positions else None
        return self.video_qformer(*_placed(features, frame_mask, position, "frames"), **outputs)

    def read_sound(self, features: Tensor, frame_mask: Tensor, **outputs: bool) -> QFormerOutput:
        """The audio Q-Former over the embeddings of the clips of sound, `[V, M, 1, D]`."""
        if self.config.sound_scale is not None:
            features = F.normalize(features, dim=-1) * self.config.sound_scale
        position = self.audio_position if self.config.sound_positions else None
        return self.audio_qformer(*_placed(features, frame_mask, position, "clips"), **outputs)

    # Language model

    def embed_text(self, ids: Tensor) -> Tensor:
        """As the base; the place holders have no row of their own, so any other row stands there
        until it is replaced."""
        rows = self.language_model.get_input_embeddings().weight.shape[0]
        return super().embed_text(torch.where(ids < rows, ids, 0))

    def language_inputs(self, batch: Batch) -> dict[str, Tensor]:
        inputs = super().language_inputs(batch)
        if self.config.official_padding and batch.segments is None and batch.labels is not None:
            index = torch.arange(batch.ids.shape[1], device=batch.ids.device)
            inputs["position_ids"] = index.expand_as(batch.ids)  # hidden places count
        return inputs

    def tell_trained(self, names: Collection[str]) -> None:
        """Listen only if the audio branch is among the parameters that were trained."""
        if self.processor is not None and not any(n.startswith("audio_qformer.") for n in names):
            self.processor.given = replace(self.processor.given, sounds=None)

    @staticmethod
    def stages(preset: str) -> tuple[Stage, ...]:
        return {"paper": PAPER_STAGES, "world": WORLD_STAGES}[preset]


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _all_there(tokens: Tensor) -> tuple[Tensor, Tensor]:
    return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)


def _placed(
    features: Tensor, frame_mask: Tensor, position: nn.Embedding | None, what: str
) -> tuple[Tensor, Tensor]:
    """Features `[V, T, P, D]` plus the position of their frame: `[V, T * P, D]` and its mask."""
    count, tokens = features.shape[1:3]
    if position is not None:
        if count > position.num_embeddings:
            raise ValueError(f"{count} {what}, and only {position.num_embeddings} positions")
        features = features + position.weight[:count, None]
    return features.flatten(1, 2), frame_mask.repeat_interleave(tokens, dim=1)


def build_paper(
    device: str = "meta",
    config: VideoLlamaConfig | None = None,
    llama: LlamaSizes | None = None,
) -> VideoLlama:
    """The published sizes, without weights and without a tokenizer: EVA ViT-g, BLIP-2's Q-Former,
    ImageBind-huge and Vicuna-7B (or another LLaMA)."""
    config = config or VideoLlamaConfig()
    with torch.device(device):
        encoder = EvaClipEncoder(EvaClipConfig())
        image_qformer = QFormer(QFormerConfig(num_queries=config.num_image_queries))
        imagebind = ImageBind(ImageBindConfig()) if config.listens else None
        model = VideoLlama(
            config, build_llama(llama or LlamaSizes()), encoder, None, image_qformer, imagebind
        )
    model.answer_settings = dict(RELEASED_SETTINGS)
    return model.eval()


def build_world(
    device: str = "cpu", folder: Path | None = None, config: VideoLlamaConfig = WORLD_CONFIG
) -> VideoLlama:
    """The system on the small world's frozen parts."""
    encoder, language_model, tokenizer = load_foundations(folder)
    image_qformer, imagebind = load_image_qformer(folder), load_imagebind(folder)
    processor = VideoLlamaProcessor(tokenizer, config)
    model = VideoLlama(config, language_model, encoder, processor, image_qformer, imagebind)
    return model.to(device).eval()
