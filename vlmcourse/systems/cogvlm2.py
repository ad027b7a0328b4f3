"""CogVLM2: a large picture encoder, four patches to a token, and (for pictures) visual experts.

    frames -> picture encoder -> 2 x 2 convolution -> gated adapter -> between marks: 66 tokens
    (66 tokens, "0", 66 tokens, "1", ..., question, answer) -> Llama 3; inside a frame all tokens
    share one position

One class is two systems: "cogvlm2", the image model, whose language model has experts in every
layer; and "cogvlm2_video", whose released form has none and tells the time of each frame by a
counter behind it. Everything may train, the picture encoder too.

Paper: arXiv 2408.16500. Official: Niky-san/cogvlm2_surce@29bac8a:modeling_cogvlm.py, visual.py (the
image model); csbhr/Vivid-VR@38c736a:VRDiT/cogvlm2-llama3-caption/modeling_cogvlm.py (video).
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vlmcourse.backbones.eva2_clip_e import Eva2ClipConfig, Eva2ClipEncoder
from vlmcourse.backbones.foundations import load_foundations
from vlmcourse.backbones.language_model import LlamaSizes, build_llama
from vlmcourse.parts.gated_adapter import GatedAdapter, convolve_grid, enclose, grid_convolution
from vlmcourse.parts.shared_positions import shared_positions
from vlmcourse.parts.visual_expert import add_visual_experts, expert_mask
from vlmcourse.systems.base import VideoLanguageModel
from vlmcourse.systems.batch import Batch
from vlmcourse.systems.cogvlm2_config import (
    RELEASED_SETTINGS,
    WORLD_IMAGE_CONFIG,
    CogVLM2Config,
)
from vlmcourse.systems.cogvlm2_processor import CogVLM2Processor
from vlmcourse.systems.cogvlm2_stages import PAPER_STAGES, WORLD_STAGES
from vlmcourse.systems.stages import Stage

LLAMA3 = LlamaSizes(
    vocab_size=128256,
    intermediate_size=14336,
    num_key_value_heads=8,
    rms_norm_eps=1e-5,
    rope_theta=500000.0,
    max_positions=8192,
)


class CogVLM2(VideoLanguageModel):
    """The whole system, for pictures or for video.

    Differs: several videos may stand in a batch, padded or packed; the official video code looks at
    the first one alone and ignores the others.

    Args:
        config: settings.
        language_model: a Llama without experts; with `config.experts` it gets some that begin as
            copies of its own weights (on the meta device they wait for values).
        vision_encoder, processor: see the base; the encoder may train.
    """

    def __init__(
        self,
        config: CogVLM2Config,
        language_model: nn.Module,
        vision_encoder: nn.Module,
        processor: CogVLM2Processor | None,
    ):
        if config.experts:
            on_meta = language_model.get_input_embeddings().weight.is_meta
            language_model = add_visual_experts(language_model, copy=not on_meta)
        super().__init__(language_model, vision_encoder, processor)
        self.config = config
        self.begin_connector()

    def begin_connector(self) -> None:
        """Make the connector anew: random values, and marks of zeros as in the official code."""
        table = self.language_model.get_input_embeddings().weight
        like = {"device": table.device, "dtype": table.dtype}
        seen, width = self.vision_encoder.hidden_size, table.shape[1]
        self.conv = grid_convolution(seen).to(**like)
        self.adapter = GatedAdapter(seen, width, self.config.adapter_width).to(**like)
        self.boi = nn.Parameter(torch.zeros(1, 1, width, **like))
        self.eoi = nn.Parameter(torch.zeros(1, 1, width, **like))

    def connect(
        self, features: Tensor, frame_mask: Tensor, times_s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`[V, T, P, D]` to `[V, T * (P / 4 + 2), E]`, frame after frame.

        Times play no part: they are told as text.
        """
        frames = features.flatten(0, 1)  # [V * T, P, D]
        tokens = enclose(self.adapter(convolve_grid(frames, self.conv)), self.boi, self.eoi)
        count = tokens.shape[1]
        tokens = tokens.unflatten(0, frame_mask.shape).flatten(1, 2)  # [V, T * (P / 4 + 2), E]
        return tokens, frame_mask.repeat_interleave(count, dim=1)

    def language_inputs(self, batch: Batch) -> dict[str, Tensor]:
        """As the base, with shared positions and, for a model with experts, whose tokens are
        theirs."""
        inputs = super().language_inputs(batch)
        if self.config.positions == "shared":
            inputs["position_ids"] = shared_positions(batch.kinds, batch.attention, batch.segments)
        if self.config.experts:
            inputs["expert_mask"] = expert_mask(batch.kinds)
        return inputs

    @staticmethod
    def stages(preset: str) -> Sequence[Stage]:
        """All stages of both systems, recipe after recipe; see cogvlm2_stages.py."""
        if preset == "paper":
            return tuple(stage for stages in PAPER_STAGES.values() for stage in stages)
        recipes = [stages for found in WORLD_STAGES.values() for stages in found.values()]
        return tuple(stage for stages in recipes for stage in stages)


def build_paper(
    device: str = "meta",
    config: CogVLM2Config | None = None,
    vision: Eva2ClipConfig | None = None,
    llama: LlamaSizes | None = None,
) -> CogVLM2:
    """The published sizes, EVA2-CLIP-E and Llama-3-8B, without weights and without a tokenizer.

    Args:
        config: None means the video model's.
        vision, llama: other sizes.
    """
    config = config or CogVLM2Config()
    vision = vision or Eva2ClipConfig()
    told = ("image_size", "patch_size", "position_grid", "fit")
    vision = replace(vision, **{name: getattr(config, name) for name in told})
    with torch.device(device):
        model = CogVLM2(config, build_llama(llama or LLAMA3), Eva2ClipEncoder(vision), None)
    model.answer_settings = dict(RELEASED_SETTINGS)
    return model.eval()


def build_world(
    device: str = "cpu", folder: Path | None = None, config: CogVLM2Config = WORLD_IMAGE_CONFIG
) -> CogVLM2:
    """The system on the small world's foundations, which may train further."""
    encoder, language_model, tokenizer = load_foundations(folder, config.image_size)
    processor = CogVLM2Processor(tokenizer, config)
    return CogVLM2(config, language_model, encoder, processor).to(device).eval()
