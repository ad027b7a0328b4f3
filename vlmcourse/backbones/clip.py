"""The frozen CLIP picture encoder of Video-ChatGPT and Chat-UniVi, with their preprocessing."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClipConfig:
    """Sizes of a CLIP vision tower; the defaults are ViT-L/14 at 224 px
    (openai/clip-vit-large-patch14).

    `layer` counts hidden states: -1 is the last layer's output, -2 what enters the last layer.
    """

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_layers: int = 24
    num_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    layer: int = -2


class ClipEncoder(nn.Module):
    """Patch features of one hidden layer, without the class token and without the final norm.

    Official: mbzuai-oryx/Video-ChatGPT@659e04b:scripts/save_spatio_temporal_clip_features.py
    (`hidden_states[-2][:, 1:]`). The layers behind the one that is used are never run.

    Attributes: `hidden_size`, `num_patches`, `image_size`, as in every picture encoder here.
    """

    def __init__(self, config: ClipConfig):
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModel

        self.config = config
        self.hidden_size = config.hidden_size
        self.image_size = config.image_size
        self.num_patches = (config.image_size // config.patch_size) ** 2
        self.model = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                image_size=config.image_size,
                patch_size=config.patch_size,
                hidden_act=config.hidden_act,
                layer_norm_eps=config.layer_norm_eps,
            )
        )

    def hidden_states(self, pixels: Tensor) -> list[Tensor]:
        """All hidden states up to the one that is used.

        Args:
            pixels: `[N, 3, h, w]` normalised.

        Returns:
            A list of `[N, 1 + P, D]`, class token first; entry 0 is what enters the first layer.
        """
        hidden = self.model.pre_layrnorm(self.model.embeddings(pixels))  # [N, 1 + P, D]
        states = [hidden]
        for layer in self.model.encoder.layers[
            : len(self.model.encoder.layers) + 1 + self.config.layer
        ]:
            hidden = layer(hidden, attention_mask=None)
            states.append(hidden)
        return states

    def forward(self, pixels: Tensor) -> Tensor:
        """`[N, 3, h, w]` normalised pixels to patch features `[N, P, D]`."""
        return self.hidden_states(pixels)[-1][:, 1:]

    def preprocess(self, frames: Tensor) -> Tensor:
        """Frames as decoded to pixels as the official code feeds them.

        Differs: unsaid in the paper, the released code resizes with nearest neighbour and ignores
        the aspect ratio; the CLIP processor's own resize and crop then find nothing to do.

        Args:
            frames: `[T, H, W, 3]` uint8.

        Returns:
            `[T, 3, image_size, image_size]` float32, normalised with CLIP's mean and deviation.
        """
        from vlmcourse.media.video import resize_frames

        small = resize_frames(frames, self.image_size, self.image_size, mode="nearest")
        pixels = torch.as_tensor(small).permute(0, 3, 1, 2).to(torch.float32) / 255
        mean = torch.tensor(CLIP_MEAN)[:, None, None]
        std = torch.tensor(CLIP_STD)[:, None, None]
        return (pixels - mean) / std
