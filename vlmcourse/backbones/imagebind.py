"""ImageBind's sound and picture encoders: a sound and a picture of it land near each other.

Six kinds of input were trained against pictures; here are the two that Video-LLaMA uses. Each
encoder cuts its input into patches, puts a class token in front, runs a vision transformer, and
turns the class token alone into one vector of a space that both share.

    sound   [N, 1, 128, 204] -> patches [N, 228, 768] -> class token -> [N, 1024], length 20
    picture [N, 3, 224, 224] -> patches [N, 256, 1280] -> class token -> [N, 1024], length 1

Paper: ImageBind, arXiv 2305.05665, section 3.
Official: DAMO-NLP-SG/Video-LLaMA@64888c0:video_llama/models/ImageBind/models (a copy of
facebookresearch/ImageBind@53680b0:imagebind/models with `get_audio_feature` added).
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_SCALE = 100.0
"""The released code never multiplies an embedding by more."""


@dataclass(frozen=True)
class ImageBindAudioConfig:
    """Sizes of the sound encoder; the defaults are imagebind_huge.

    A mel clip has `num_mels` bands and `num_steps` moments (10 ms each). Patches of `patch_size`
    overlap, because the next one starts `patch_stride` further. `logit_scale` is the length of an
    embedding. `bias_kv` gives every attention one more key and value, the same for all inputs.
    `drop_path` is the chance, in training, that the last block is skipped; earlier blocks less.
    """

    num_mels: int = 128
    num_steps: int = 204
    patch_size: int = 16
    patch_stride: int = 10
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    out_width: int = 1024
    logit_scale: float = 20.0
    bias_kv: bool = True
    drop_path: float = 0.1
    layer_norm_eps: float = 1e-6
    patch_norm_eps: float = 1e-5


@dataclass(frozen=True)
class ImageBindVisionConfig:
    """Sizes of the picture encoder; the defaults are imagebind_huge.

    A picture is shown as `temporal_kernel` equal frames, since the encoder also reads short videos.
    """

    image_size: int = 224
    patch_size: int = 14
    temporal_kernel: int = 2
    hidden_size: int = 1280
    num_layers: int = 32
    num_heads: int = 16
    mlp_ratio: float = 4.0
    out_width: int = 1024
    bias_kv: bool = False
    drop_path: float = 0.0
    layer_norm_eps: float = 1e-6


@dataclass(frozen=True)
class ImageBindConfig:
    """Both encoders; their `out_width` must agree."""

    audio: ImageBindAudioConfig = field(default_factory=ImageBindAudioConfig)
    vision: ImageBindVisionConfig = field(default_factory=ImageBindVisionConfig)


def drop_path(update: Tensor, rate: float, training: bool) -> Tensor:
    """Leave the update of a residual block out for some inputs of a batch.

    Args:
        update: `[N, L, D]`.
        rate: chance of leaving it out; the rest grows by 1 / (1 - rate), so that the mean stays.
        training: False returns the update as it is.
    """
    if not training or rate == 0.0:
        return update
    kept = torch.rand(update.shape[0], 1, 1, device=update.device) >= rate  # [N, 1, 1]
    return update * kept / (1 - rate)


class Block(nn.Module):
    """Attention and MLP, each with its norm before it and added to what came in."""

    def __init__(self, config: ImageBindAudioConfig | ImageBindVisionConfig, drop: float):
        super().__init__()
        width, inner = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = nn.MultiheadAttention(
            width, config.num_heads, add_bias_kv=config.bias_kv, batch_first=True
        )
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp_in = nn.Linear(width, inner)
        self.mlp_out = nn.Linear(inner, width)
        self.drop = drop

    def forward(self, tokens: Tensor) -> Tensor:
        """`[N, L, D]` to `[N, L, D]`; with `bias_kv` attention reads L + 1 keys."""
        normed = self.norm1(tokens)
        attended, _ = self.attention(normed, normed, normed, need_weights=False)
        tokens = tokens + drop_path(attended, self.drop, self.training)
        changed = self.mlp_out(F.gelu(self.mlp_in(self.norm2(tokens))))
        return tokens + drop_path(changed, self.drop, self.training)


class ImageBindEncoder(nn.Module):
    """What both encoders share; a subclass cuts its input into patch tokens and scales the end.

    Attributes: `hidden_size` (D), `num_patches` (P), `out_width` (E).
    """

    def __init__(self, config: ImageBindAudioConfig | ImageBindVisionConfig, num_patches: int):
        super().__init__()
        width, count = config.hidden_size, config.num_layers
        self.config = config
        self.hidden_size, self.num_patches, self.out_width = width, num_patches, config.out_width
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + num_patches, width))
        self.pre_norm: nn.Module = nn.Identity()
        rates = [config.drop_path * i / max(count - 1, 1) for i in range(count)]
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)
        self.head_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.head = nn.Linear(width, config.out_width, bias=False)

    def patch_tokens(self, inputs: Tensor) -> Tensor:
        """One encoder's input to patch tokens `[N, P, D]`."""
        raise TypeError(f"{type(self).__name__} does not say how it cuts patches")

    def tokens_in(self, inputs: Tensor) -> Tensor:
        """Class token, then patches, plus their positions: `[N, 1 + P, D]`."""
        patches = self.patch_tokens(inputs)  # [N, P, D]
        first = self.class_token.expand(len(patches), -1, -1)  # [N, 1, D]
        return torch.cat([first, patches], dim=1) + self.positions

    def hidden_states(self, inputs: Tensor) -> list[Tensor]:
        """What enters the first block and what leaves each: `num_layers + 1` of `[N, 1 + P, D]`."""
        states = [self.pre_norm(self.tokens_in(inputs))]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states

    def trunk(self, inputs: Tensor) -> Tensor:
        """All tokens after the last block, which no norm follows: `[N, 1 + P, D]`."""
        tokens = self.pre_norm(self.tokens_in(inputs))
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def feature(self, inputs: Tensor) -> Tensor:
        """The class token after the head's norm: `[N, D]`."""
        return self.head_norm(self.trunk(inputs)[:, 0])

    def projected(self, inputs: Tensor) -> Tensor:
        """`feature` in the shared space, of any length: `[N, E]`."""
        return self.head(self.feature(inputs))


class ImageBindAudio(ImageBindEncoder):
    """Mel clips to one embedding each.

    Differs: nothing. Unsaid in Video-LLaMA's paper: the released encoder makes embeddings of length
    20 (`log_logit_scale`, a buffer of the checkpoint), those of pictures have length 1. A model
    that was shown pictures and then hears sound meets vectors 20 times longer.

    Attributes: `grid`, the patches along (mel bands, moments).
    """

    def __init__(self, config: ImageBindAudioConfig | None = None):
        config = config or ImageBindAudioConfig()
        rows, columns = (
            (side - config.patch_size) // config.patch_stride + 1
            for side in (config.num_mels, config.num_steps)
        )
        if min(rows, columns) < 1:
            raise ValueError(
                f"a clip of {config.num_mels} x {config.num_steps} is smaller than a patch"
            )
        super().__init__(config, rows * columns)
        self.grid = (rows, columns)
        width = config.hidden_size
        self.patches = nn.Conv2d(1, width, config.patch_size, config.patch_stride, bias=False)
        self.patch_norm = nn.LayerNorm(width, eps=config.patch_norm_eps)
        self.register_buffer("log_logit_scale", torch.tensor(math.log(config.logit_scale)))

    @property
    def scale(self) -> Tensor:
        """Length of an embedding, 20 in the released encoder."""
        return self.log_logit_scale.exp().clamp(max=MAX_SCALE)

    def patch_tokens(self, inputs: Tensor) -> Tensor:
        """`[N, 1, mels, steps]` to `[N, P, D]`, low bands first, each from its first moment on."""
        wanted = (1, self.config.num_mels, self.config.num_steps)
        if inputs.ndim != 4 or tuple(inputs.shape[1:]) != wanted:
            raise ValueError(f"expected mel clips [N, {wanted}], got {tuple(inputs.shape)}")
        grid = self.patches(inputs)  # [N, D, rows, columns]
        return self.patch_norm(grid.flatten(2).transpose(1, 2))

    def forward(self, mel: Tensor) -> Tensor:
        """Normalised mel clips `[N, 1, mels, steps]` to embeddings `[N, E]` of length `scale`."""
        return F.normalize(self.projected(mel), dim=-1) * self.scale


class ImageBindVision(ImageBindEncoder):
    """Pictures to one embedding each, of length 1.

    Attributes: `image_size`.
    """

    def __init__(self, config: ImageBindVisionConfig | None = None):
        config = config or ImageBindVisionConfig()
        super().__init__(config, (config.image_size // config.patch_size) ** 2)
        self.image_size = config.image_size
        kernel = (config.temporal_kernel, config.patch_size, config.patch_size)
        self.patches = nn.Conv3d(3, config.hidden_size, kernel, stride=kernel, bias=False)
        self.pre_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def patch_tokens(self, inputs: Tensor) -> Tensor:
        """`[N, 3, h, w]` to `[N, P, D]`, row by row; each picture is shown as equal frames."""
        wanted = (3, self.image_size, self.image_size)
        if inputs.ndim != 4 or tuple(inputs.shape[1:]) != wanted:
            raise ValueError(f"expected pictures [N, {wanted}], got {tuple(inputs.shape)}")
        frames = inputs[:, :, None].expand(-1, -1, self.config.temporal_kernel, -1, -1)
        grid = self.patches(frames)  # [N, D, 1, h/p, w/p]
        return grid.flatten(2).transpose(1, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised pictures `[N, 3, h, w]` to embeddings `[N, E]` of length 1."""
        return F.normalize(self.projected(pixels), dim=-1)

    def preprocess(self, frames: Tensor) -> Tensor:
        """Frames as decoded to pixels as Video-LLaMA feeds them: the whole picture made square.

        Differs: ImageBind's own examples keep the aspect ratio and crop the middle.

        Args:
            frames: `[T, H, W, 3]` uint8.

        Returns:
            `[T, 3, image_size, image_size]` float32, normalised with CLIP's mean and deviation.
        """
        from vlmcourse.media.transforms import normalise_frames, resize_frames

        small = resize_frames(
            torch.as_tensor(frames), self.image_size, self.image_size, mode="bicubic"
        )
        return normalise_frames(small.permute(3, 0, 1, 2)).transpose(0, 1)  # [T, 3, S, S]


class ImageBind(nn.Module):
    """Both encoders and the space they share.

    Args:
        config: sizes; anything with `audio` and `vision`.
        vision: a picture encoder with the face of `ImageBindVision`, to be used in its place.

    Attributes: `audio`, `vision`, `out_width` (E).
    """

    def __init__(self, config: ImageBindConfig | None = None, vision: nn.Module | None = None):
        super().__init__()
        self.config = config or ImageBindConfig()
        if self.config.audio.out_width != self.config.vision.out_width:
            raise ValueError(
                f"sound has {self.config.audio.out_width} numbers, pictures have "
                f"{self.config.vision.out_width}; one space needs one width"
            )
        self.audio = ImageBindAudio(self.config.audio)
        self.vision = ImageBindVision(self.config.vision) if vision is None else vision
        self.out_width = self.config.audio.out_width

    def embed_sound(self, mels: Tensor) -> Tensor:
        """Mel clips `[..., 1, mels, steps]` to embeddings `[..., E]` of length 20."""
        return _any_axes(self.audio, mels)

    def embed_pictures(self, pixels: Tensor) -> Tensor:
        """Pictures `[..., 3, h, w]` to embeddings `[..., E]` of length 1."""
        return _any_axes(self.vision, pixels)


def _any_axes(encoder: ImageBindEncoder, inputs: Tensor) -> Tensor:
    """`[..., C, h, w]` to `[..., E]`: all leading axes become one on the way."""
    leading = inputs.shape[:-3]
    flat = inputs.reshape(math.prod(leading), *inputs.shape[-3:])
    return encoder(flat).reshape(*leading, encoder.out_width)
