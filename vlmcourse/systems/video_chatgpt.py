"""Video-ChatGPT: frames averaged over space and over time, then one linear layer, then the LLM.

Paper: arXiv 2306.05424, section 3. Official: mbzuai-oryx/Video-ChatGPT@659e04b.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vlmcourse.backbones.clip import ClipConfig, ClipEncoder
from vlmcourse.backbones.foundations import load_foundations
from vlmcourse.backbones.language_model import LlamaSizes, build_llama, grow_vocabulary
from vlmcourse.backbones.tokenizers import Tokenizer
from vlmcourse.conversation import PICTURE, Piece, Places, Special, Template
from vlmcourse.errors import UserError
from vlmcourse.parts.pooling import spatio_temporal_pooling
from vlmcourse.parts.token_rows import TokenRows
from vlmcourse.systems.base import VideoLanguageModel
from vlmcourse.systems.processor import Clip, Processor, frames_tensor
from vlmcourse.systems.stages import Stage
from vlmcourse.systems.templates import VICUNA_TEMPLATE, VIDEO_CHATGPT_TEMPLATE, WORLD_TEMPLATE

VIDEO_TOKENS = ("<vid_patch>", "<vid_start>", "<vid_end>")
"""Added to the vocabulary in this order: the place holder, and the two marks around a video."""


@dataclass(frozen=True)
class VideoChatGPTConfig:
    """Settings of the system; the defaults are the paper's.

    Attributes:
        num_frames: frames taken from a video, at most.
        num_temporal: temporal tokens; shorter videos are filled up with zero rows.
        spatial_grid: side to which the spatial tokens are averaged; None keeps one a patch.
        base_vocabulary: rows of the language model before the three video tokens.
        template, answer_template: of training and of questions.
        video_last: ask with the question in front of the video, as the official inference does.
        max_length: longest training row.
    """

    num_frames: int = 100
    num_temporal: int = 100
    spatial_grid: int | None = None
    base_vocabulary: int = 32003
    template: Template = VICUNA_TEMPLATE
    answer_template: Template = VIDEO_CHATGPT_TEMPLATE
    video_last: bool = True
    max_length: int = 2048

    @property
    def token_ids(self) -> tuple[int, int, int]:
        """Ids of `VIDEO_TOKENS`."""
        base = self.base_vocabulary
        return base, base + 1, base + 2


WORLD_CONFIG = VideoChatGPTConfig(
    num_frames=8,
    num_temporal=8,
    template=WORLD_TEMPLATE,
    answer_template=WORLD_TEMPLATE,
    video_last=False,
    max_length=512,
)
"""8 temporal and 64 spatial tokens."""

PAPER_STAGES = (
    Stage(
        name="alignment",
        trains=("projector.*",),
        data="image-caption pairs (LLaVA's CC3M-595K)",
        learning_rate=2e-3,
        batch_size=128,
        epochs=1,
        precision="bf16-mixed",
        max_length=2048,
        source="LLaVA, arXiv 2304.08485; Video-ChatGPT starts from the projector this stage made",
    ),
    Stage(
        name="instruction_tuning",
        trains=("projector.*", "token_rows.weight"),
        data="VideoInstruct100K",
        init_from="alignment",
        learning_rate=2e-5,
        batch_size=32,
        epochs=3,
        precision="bf16-mixed",
        max_length=2048,
        source="docs/train_video_chatgpt.md",
    ),
)

WORLD_STAGES = (
    replace(
        PAPER_STAGES[0], data="world captions", learning_rate=3e-3, batch_size=48, epochs=None,
        steps=300, precision="32-true", max_length=None,
        source="tried in the small world, not tuned",
    ),
    replace(
        PAPER_STAGES[1], data="world questions", learning_rate=3e-3, batch_size=180, epochs=None,
        steps=600, precision="32-true", max_length=None,
        source="tried in the small world, not tuned",
    ),
)  # fmt: skip


class VideoChatGPTProcessor(Processor):
    """Files to frames and conversations to rows, as Video-ChatGPT does.

    A picture is a video of one frame.
    """

    layout_only = (
        *("num_temporal", "spatial_grid", "base_vocabulary", "video_last", "max_length"),
        "num_patches",
    )

    def __init__(self, tokenizer: Tokenizer, config: VideoChatGPTConfig, num_patches: int):
        super().__init__(tokenizer, config.template, config.answer_template, config.video_last)
        self.config = config
        self.num_patches = num_patches
        got = tuple(tokenizer.add_tokens(VIDEO_TOKENS))
        if got != config.token_ids:
            raise UserError(
                f"the tokenizer gives the video tokens the ids {got}, not {config.token_ids}"
            )

    def read(self, path: str | Path) -> Clip:
        from vlmcourse.media.sampling import video_chatgpt_indices
        from vlmcourse.media.video import probe_video, read_frames

        info = probe_video(path)
        frames = read_frames(path, video_chatgpt_indices(info.num_frames, self.config.num_frames))
        times = torch.as_tensor(frames.times_s, dtype=torch.float32)
        return Clip(times, frames_tensor(frames.pixels), info.duration_s)

    def num_tokens(self, num_frames: int) -> int:
        """Video tokens of a clip: one a frame (at least `num_temporal`) and the spatial ones."""
        grid = self.config.spatial_grid
        spatial = self.num_patches if grid is None else grid * grid
        return max(num_frames, self.config.num_temporal) + spatial

    def expand(self, kind: str, clip: Clip) -> Sequence[Piece]:
        if kind not in ("video", "picture"):
            return super().expand(kind, clip)
        patch, start, end = VIDEO_TOKENS
        places = Places(PICTURE, self.num_tokens(clip.num_frames), patch)
        return Special(start), places, Special(end)


class VideoChatGPT(VideoLanguageModel):
    """The whole system.

    Differs: the paper says that only the linear layer trains; the released code also trains the
    embeddings of `<vid_start>` and `<vid_end>`, here `token_rows`.

    Args:
        config: settings; `base_vocabulary + 3` must be the language model's number of rows.
        language_model, vision_encoder, processor: see the base.
        vision_width: D, needed when there is no encoder.
    """

    def __init__(
        self,
        config: VideoChatGPTConfig,
        language_model: nn.Module,
        vision_encoder: nn.Module | None,
        processor: VideoChatGPTProcessor | None,
        vision_width: int | None = None,
    ):
        super().__init__(language_model, vision_encoder, processor)
        table = language_model.get_input_embeddings().weight
        if table.shape[0] != config.base_vocabulary + len(VIDEO_TOKENS):
            raise ValueError(
                f"{table.shape[0]} rows, not {config.base_vocabulary} + 3 video tokens"
            )
        self.config = config
        width = vision_width or vision_encoder.hidden_size
        self.projector = nn.Linear(width, table.shape[1])
        self.token_rows = TokenRows(config.token_ids[1:], table.shape[1])
        if not table.is_meta:
            self.token_rows.read_from(table)

    def embed_text(self, ids: Tensor) -> Tensor:
        return self.token_rows(ids, super().embed_text(ids))

    def connect(
        self,
        features: Tensor | None,
        frame_mask: Tensor,
        times_s: Tensor,
        pooled: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Pool and project; time stamps play no part.

        `pooled` `[V, N, D]` takes the place of features when pooling was done before, which is what
        the official training files hold.
        """
        if pooled is None:
            pooled, mask = spatio_temporal_pooling(
                features, frame_mask, self.config.num_temporal, self.config.spatial_grid
            )
        else:
            mask = torch.ones(pooled.shape[:2], dtype=torch.bool, device=pooled.device)
        return self.projector(pooled.to(self.projector.weight.dtype)), mask

    @staticmethod
    def stages(preset: str) -> tuple[Stage, ...]:
        return {"paper": PAPER_STAGES, "world": WORLD_STAGES}[preset]


def build_paper(device: str = "meta", config: VideoChatGPTConfig | None = None) -> VideoChatGPT:
    """The published sizes, CLIP ViT-L/14 and LLaMA-7B, without weights and without a tokenizer."""
    config = config or VideoChatGPTConfig()
    with torch.device(device):
        encoder = ClipEncoder(ClipConfig())
        llama = build_llama(LlamaSizes(vocab_size=config.base_vocabulary + len(VIDEO_TOKENS)))
        return VideoChatGPT(config, llama, encoder, None).eval()


def build_world(
    device: str = "cpu", folder: Path | None = None, config: VideoChatGPTConfig = WORLD_CONFIG
) -> VideoChatGPT:
    """The system on the small world's frozen parts, which say what `config.base_vocabulary` is."""
    encoder, language_model, tokenizer = load_foundations(folder)
    config = replace(config, base_vocabulary=len(tokenizer))
    grow_vocabulary(language_model, random_rows=1, mean_rows=2)
    processor = VideoChatGPTProcessor(tokenizer, config, encoder.num_patches)
    return VideoChatGPT(config, language_model, encoder, processor).to(device).eval()
