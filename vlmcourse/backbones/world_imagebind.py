"""The small world's ImageBind: the paper's sound encoder, made small, and a head on frozen patches.

The sound encoder is `ImageBindAudio` itself at other sizes. The picture encoder is the world's
frozen one with a class token that reads its patches; it has the face of `ImageBindVision`.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from vlmcourse.backbones.imagebind import ImageBind, ImageBindAudioConfig, ImageBindEncoder
from vlmcourse.backbones.world_vision import WorldVisionEncoder


def _small_audio() -> ImageBindAudioConfig:
    return ImageBindAudioConfig(
        patch_stride=16, hidden_size=64, num_layers=2, num_heads=4, out_width=64, drop_path=0.0
    )


@dataclass(frozen=True)
class WorldImageBindVisionConfig:
    """Sizes of the head; `hidden_size` is that of the frozen encoder's patches."""

    hidden_size: int = 96
    num_layers: int = 1
    num_heads: int = 4
    mlp_ratio: float = 2.0
    out_width: int = 64
    bias_kv: bool = False
    drop_path: float = 0.0
    layer_norm_eps: float = 1e-6


@dataclass(frozen=True)
class WorldImageBindConfig:
    """Both encoders of the small world; patches of sound are 16 x 16 and do not overlap."""

    audio: ImageBindAudioConfig = field(default_factory=_small_audio)
    vision: WorldImageBindVisionConfig = field(default_factory=WorldImageBindVisionConfig)


class WorldImageBindVision(ImageBindEncoder):
    """Frames of the small world to one embedding each, of length 1, in the space of its sounds.

    Paper: ImageBind, arXiv 2305.05665, section 3: the picture encoder is frozen, and the sounds
    are trained towards its embeddings.
    Differs: ImageBind's frozen encoder was trained by contrast with text and gives one embedding by
    itself. The world's gives patches only, so a small head on top is trained together with sound.

    Attributes: `encoder` (frozen, always in eval mode), `image_size`, `num_patches`, `out_width`.
    """

    def __init__(self, encoder: WorldVisionEncoder, config: WorldImageBindVisionConfig):
        if config.hidden_size != encoder.hidden_size:
            raise ValueError(
                f"the head reads patches of width {config.hidden_size}, "
                f"the encoder gives {encoder.hidden_size}"
            )
        super().__init__(config, encoder.num_patches)
        self.encoder = encoder.requires_grad_(False).eval()
        self.image_size = encoder.image_size

    def train(self, mode: bool = True) -> "WorldImageBindVision":
        """Set the head's mode; the encoder's batch statistics stay what they are."""
        super().train(mode)
        self.encoder.eval()
        return self

    def patch_tokens(self, inputs: Tensor) -> Tensor:
        """`[N, 3, S, S]` to the frozen encoder's `[N, P, D]`."""
        with torch.no_grad():
            return self.encoder(inputs)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels `[N, 3, S, S]` between -1 and 1 to embeddings `[N, E]` of length 1."""
        return F.normalize(self.projected(pixels), dim=-1)

    def preprocess(self, frames: Tensor) -> Tensor:
        """Frames `[T, H, W, 3]` uint8 to pixels `[T, 3, S, S]`."""
        return self.encoder.preprocess(frames)


def build_world_imagebind(
    encoder: WorldVisionEncoder, config: WorldImageBindConfig | None = None
) -> ImageBind:
    """Build an untrained ImageBind of the small world around its frozen picture encoder."""
    config = config or WorldImageBindConfig()
    return ImageBind(config, WorldImageBindVision(encoder, config.vision))
