"""Chat-UniVi: patches that look alike become one token, frames that look alike become one event.

    picture  -> CLIP -> 256 patches -> 64, 32, 16 tokens (density peaks) -> one linear layer
    video    -> frames -> events -> of each event 64, 32, 16 tokens     -> the same layer

Pictures and videos go one way: a video costs as much as a picture for each of its events. Merging
has no weights; what trains is the linear layer, and later the whole language model.

Paper: arXiv 2311.08046. Official: PKU-YuanGroup/Chat-UniVi@ec0b3db:ChatUniVi/model/arch.py,
ChatUniVi/model/cluster.py.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vlmcourse.backbones.clip import ClipConfig, ClipEncoder
from vlmcourse.backbones.foundations import load_foundations
from vlmcourse.backbones.language_model import LLAMA2_SIZES, LlamaSizes, build_llama
from vlmcourse.parts.cluster_rules import Noise, seeded_noise
from vlmcourse.parts.event_merging import MergedVideos, merge_videos
from vlmcourse.systems.base import VideoLanguageModel
from vlmcourse.systems.chat_univi_config import (
    PAPER_CONFIG,
    RELEASED_SETTINGS,
    VIDEO_FROM,
    WORLD_CONFIG,
    ChatUniViConfig,
)
from vlmcourse.systems.chat_univi_processor import ChatUniViProcessor
from vlmcourse.systems.chat_univi_stages import PAPER_STAGES, WORLD_STAGES
from vlmcourse.systems.stages import Stage

LANGUAGE = {
    "7B": LLAMA2_SIZES,
    "13B": LlamaSizes(
        hidden_size=5120, intermediate_size=13824, num_layers=40, num_heads=40,
        rms_norm_eps=1e-5, max_positions=4096,
    ),
}  # fmt: skip
"""Vicuna v1.5, a Llama 2."""


class ChatUniVi(VideoLanguageModel):
    """The whole system.

    Differs: (1) `clustering="exact"` is the default: the same video gives the same events every
    time. (2) A row without a picture brings none; the official code sends a black one through the
    encoder and adds the projector's answer times 0, so that several machines stay in step.

    Args:
        config: settings.
        language_model, vision_encoder, processor: see the base.
        vision_width: D, needed when there is no encoder.
    """

    def __init__(
        self,
        config: ChatUniViConfig,
        language_model: nn.Module,
        vision_encoder: nn.Module | None,
        processor: ChatUniViProcessor | None,
        vision_width: int | None = None,
    ):
        super().__init__(language_model, vision_encoder, processor)
        self.config = config
        table = language_model.get_input_embeddings().weight
        like = {"device": table.device, "dtype": table.dtype}
        self.projector = nn.Linear(
            vision_width or vision_encoder.hidden_size, table.shape[1], **like
        )

    def connect(
        self, features: Tensor, frame_mask: Tensor, times_s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Merge and project, `[V, T, P, D]` to `[V, N, E]`; times play no part, the order does."""
        merged = self.merge(features, frame_mask)
        return self.projector(merged.tokens.to(self.projector.weight.dtype)), merged.mask

    def merge(
        self, features: Tensor, frame_mask: Tensor, noise: Sequence[Noise] | None = None
    ) -> MergedVideos:
        """Merge the patches of pictures and videos, each as it would be alone.

        Args:
            features: `[V, T, P, D]`.
            frame_mask: `[V, T]`, frames that exist stand first; one or two are so many pictures.
            noise: of the official rule, one source a video; None draws as the settings say.
        """
        config = self.config
        if noise is None and config.clustering == "official":
            noise = [self._source() for _ in features]
        return merge_videos(
            features,
            frame_mask,
            config.spatial_rates,
            config.spatial_ks[: len(config.spatial_rates)],
            config.temporal_rate,
            config.temporal_k,
            merging=config.merging,
            temporal=config.temporal,
            rule=config.clustering,
            seed=config.noise_seed or 0,
            noise=noise,
            pictures=VIDEO_FROM - 1,
        )

    def _source(self) -> Noise:
        """Noise of the official rule: in training from torch's own numbers, which the stage seeds;
        in answering the same for every video, unless the settings want it anew."""
        if self.training or self.config.noise_seed is None:
            return torch.rand
        return seeded_noise(self.config.noise_seed)

    @staticmethod
    def stages(preset: str) -> Sequence[Stage]:
        """All stages, recipe after recipe; see chat_univi_stages.py."""
        recipes = {"paper": PAPER_STAGES, "world": WORLD_STAGES}[preset].values()
        return tuple(stage for stages in recipes for stage in stages)


def build_paper(
    device: str = "meta",
    config: ChatUniViConfig | None = None,
    vision: ClipConfig | None = None,
    llama: LlamaSizes | None = None,
) -> ChatUniVi:
    """A published size, CLIP ViT-L/14 and Vicuna, without weights and without a tokenizer.

    Args:
        vision, llama: other sizes.
    """
    config = config or PAPER_CONFIG
    with torch.device(device):
        encoder = ClipEncoder(vision or ClipConfig(image_size=config.image_size))
        language_model = build_llama(llama or LANGUAGE[config.size])
        model = ChatUniVi(config, language_model, encoder, None)
    model.answer_settings = dict(RELEASED_SETTINGS)
    return model.eval()


def build_world(
    device: str = "cpu", folder: Path | None = None, config: ChatUniViConfig = WORLD_CONFIG
) -> ChatUniVi:
    """The system on the small world's foundations; its language model may train further."""
    encoder, language_model, tokenizer = load_foundations(folder, config.image_size)
    processor = ChatUniViProcessor(tokenizer, config, encoder.num_patches)
    return ChatUniVi(config, language_model, encoder, processor).to(device).eval()
