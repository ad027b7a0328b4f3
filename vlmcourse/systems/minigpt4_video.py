"""MiniGPT4-video: patches merged by fours, one linear layer, and what is said between the frames.

    frames -> picture encoder (frozen): 256 patches -> 4 neighbours become one -> linear layer
           -> 64 tokens a frame, with the subtitles between them -> language model with LoRA

Paper: arXiv 2404.03413, section 3. Official: Vision-CAIR/MiniGPT4-video@ecabd7a:
minigpt4/models/mini_gpt4_llama_v2.py.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vlmcourse.backbones.eva_clip import EvaClipConfig, EvaClipEncoder
from vlmcourse.backbones.foundations import load_foundations
from vlmcourse.backbones.language_model import (
    LLAMA2_SIZES,
    MISTRAL_SIZES,
    LlamaSizes,
    build_llama,
    build_mistral,
)
from vlmcourse.conversation import PICTURE
from vlmcourse.media.transforms import IMAGENET_MEAN, IMAGENET_STD
from vlmcourse.parts.lora import add_lora
from vlmcourse.parts.token_merge import merge_neighbours, merged_width
from vlmcourse.systems.base import VideoLanguageModel
from vlmcourse.systems.batch import Batch
from vlmcourse.systems.minigpt4_video_config import (
    RELEASED_SETTINGS,
    WORLD_CONFIG,
    MiniGPT4VideoConfig,
    paper_config,
)
from vlmcourse.systems.minigpt4_video_processor import MiniGPT4VideoProcessor
from vlmcourse.systems.minigpt4_video_stages import MISTRAL_STAGES, PAPER_STAGES, WORLD_STAGES
from vlmcourse.systems.stages import Stage

__all__ = ["WORLD_CONFIG", "MiniGPT4Video", "build_paper", "build_world", "paper_config"]

EYES = EvaClipConfig(mean=IMAGENET_MEAN, std=IMAGENET_STD, resampling="bicubic")
"""EVA ViT-g. Its pictures are normalised with ImageNet's colours, not with those it was trained on;
and its `ln_vision` stays as it is made, for the official code loads none."""


class MiniGPT4Video(VideoLanguageModel):
    """The whole system.

    Differs: the paper's first stage trains the linear layer alone; in the released code LoRA is on
    and trains in every stage, as it does in `stages`. `linear_first` gives those of the paper.

    Args:
        config: settings.
        language_model: a causal LM without side paths; it gets them here.
        vision_encoder, processor: see the base.
        vision_width: D, needed when there is no encoder.
    """

    def __init__(
        self,
        config: MiniGPT4VideoConfig,
        language_model: nn.Module,
        vision_encoder: nn.Module | None,
        processor: MiniGPT4VideoProcessor | None,
        vision_width: int | None = None,
    ):
        lora = config.lora_rank, config.lora_alpha, config.lora_dropout
        super().__init__(add_lora(language_model, *lora), vision_encoder, processor)
        self.config = config
        merged = merged_width(
            vision_width or vision_encoder.hidden_size, config.merge, config.merge_by
        )
        self.llama_proj = nn.Linear(merged, language_model.get_input_embeddings().weight.shape[1])

    def encode_frames(self, pixels: Tensor, chunk: int = 32) -> Tensor:
        """Patches `[N, P, D]`, without the class token of encoders that have one."""
        return super().encode_frames(pixels, chunk)[:, -self.vision_encoder.num_patches :]

    def connect(
        self,
        features: Tensor,
        frame_mask: Tensor,
        times_s: Tensor,
        places: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`[V, T, P, D]` to `[V, T * P / merge, E]`, frame after frame.

        Args:
            places: `[V]`, only the first so many tokens of a medium have a place (`official_cut`).
        """
        merged = merge_neighbours(features, self.config.merge, self.config.merge_by)
        tokens = self.llama_proj(merged.to(self.llama_proj.weight.dtype))  # [V, T, P / merge, E]
        mask = frame_mask.repeat_interleave(tokens.shape[2], dim=1)  # [V, T * P / merge]
        if places is not None:
            mask = mask & (mask.cumsum(1) <= places[:, None])
        return tokens.flatten(1, 2), mask

    def embed(self, batch: Batch) -> Tensor:
        """As the base; with `official_cut` a row may have lost the places of its last pictures."""
        pictures = batch.pictures
        if not self.config.official_cut or pictures is None:
            return super().embed(batch)
        ready = pictures.features
        patches = self.vision_encoder.num_patches if ready is None else ready.shape[2]
        each = patches // self.config.merge * pictures.frame_mask.sum(1)  # [V] tokens
        left = (batch.kinds == PICTURE).sum(1)  # [B] places of the row that are not yet filled
        rows = range(len(each)) if pictures.rows is None else pictures.rows.tolist()
        places = torch.zeros_like(each)
        for medium, row in enumerate(rows):
            places[medium] = torch.minimum(each[medium], left[row])
            left[row] -= places[medium]
        media = replace(pictures, extras={**pictures.extras, "places": places})
        return super().embed(replace(batch, pictures=media))

    @staticmethod
    def stages(preset: str) -> tuple[Stage, ...]:
        """Of "paper" (with Llama 2), "mistral" or "world"."""
        return {"paper": PAPER_STAGES, "mistral": MISTRAL_STAGES, "world": WORLD_STAGES}[preset]


def build_paper(
    device: str = "meta",
    config: MiniGPT4VideoConfig | None = None,
    sizes: LlamaSizes | None = None,
) -> MiniGPT4Video:
    """The published sizes, EVA ViT-g and Llama 2 7B or Mistral 7B (or another of that family),
    without weights and without a tokenizer."""
    config = config or paper_config()
    with torch.device(device):
        if config.layout == "mistral":
            language_model = build_mistral(sizes or MISTRAL_SIZES)
        else:
            language_model = build_llama(sizes or LLAMA2_SIZES)
        model = MiniGPT4Video(config, language_model, EvaClipEncoder(EYES), None)
    model.answer_settings = dict(RELEASED_SETTINGS[config.layout])
    return model.eval()


def build_world(
    device: str = "cpu", folder: Path | None = None, config: MiniGPT4VideoConfig = WORLD_CONFIG
) -> MiniGPT4Video:
    """The system on the small world's frozen parts; LoRA trains inside its language model."""
    encoder, language_model, tokenizer = load_foundations(folder)
    processor = MiniGPT4VideoProcessor(tokenizer, config, encoder.num_patches)
    return MiniGPT4Video(config, language_model, encoder, processor).to(device).eval()
