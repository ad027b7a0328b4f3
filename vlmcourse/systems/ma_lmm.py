"""MA-LMM: frames pass one by one through an instructed Q-Former that remembers what it saw.

    frame -> picture encoder (frozen) -> norm + position of the frame
          -> Q-Former beside the question. Its queries look at the frame and at a bank of past
             frames, and attend to a bank of their own past states; then both banks take what is
             new and merge their two most similar neighbours if they are full
    after the last frame -> linear layer -> as many tokens as queries, however long the video is

Paper: arXiv 2404.05726, section 3. Official: boheumd/MA-LMM@ffe9fa9:
lavis/models/blip2_models/blip2_vicuna_instruct.py.
Differs: banks are passed in and returned (parts/memory_qformer.py), so none leaks from one video
into the next and videos of a batch may have different lengths. A frame later than the table of
positions has its last row; the official code fails there.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmcourse.backbones.eva_clip import EvaClipConfig, EvaClipEncoder
from vlmcourse.backbones.foundations import load_foundations, load_image_text_qformer
from vlmcourse.backbones.instructions import WorldInstructions, begin_from_image_qformer, fits
from vlmcourse.backbones.language_model import LlamaSizes, build_llama
from vlmcourse.parts.memory_qformer import read_apart, read_frames
from vlmcourse.parts.qformer import QFormer
from vlmcourse.parts.waves import waves
from vlmcourse.systems.base import VideoLanguageModel
from vlmcourse.systems.batch import Media
from vlmcourse.systems.ma_lmm_config import PAPER_SETTINGS, WORLD_CONFIG, MaLmmConfig
from vlmcourse.systems.ma_lmm_processor import MaLmmProcessor
from vlmcourse.systems.ma_lmm_stages import PAPER_STAGES, WORLD_STAGES
from vlmcourse.systems.results import Watched
from vlmcourse.systems.stages import Stage

VICUNA = LlamaSizes(vocab_size=32001)
"""Vicuna 7B 1.1 and `[PAD]`."""
DETACHED = {"official": True, "all": "queries", "none": True}
"""What of the past is cut off the graph, by `frame_position`."""


class MaLmm(VideoLanguageModel):
    """The whole system.

    Args:
        config: settings.
        language_model, vision_encoder, processor: see the base. The encoder's tokens come without
            a last norm: that is `vision_norm` here, which trains.
    """

    video_depends_on_question = True

    def __init__(
        self,
        config: MaLmmConfig,
        language_model: nn.Module,
        vision_encoder: nn.Module | None,
        processor: MaLmmProcessor | None,
    ):
        super().__init__(language_model, vision_encoder, processor)
        self.config = config
        width = language_model.get_input_embeddings().weight.shape[1]
        self.vision_norm = nn.LayerNorm(config.vision_width)
        self.frame_positions = nn.Embedding(config.max_frames, config.vision_width)
        if not self.frame_positions.weight.is_meta:
            zero = config.position_start == "zeros"
            count = config.max_frames
            start = 0.0 if zero else waves(torch.arange(count), count, config.vision_width)
            self.frame_positions.weight.data.copy_(torch.as_tensor(start))
        self.qformer = QFormer(config.qformer())
        self.projector = nn.Linear(config.qformer_width, width)

    # Frames

    def placed(self, features: Tensor, first: int = 0) -> Tensor:
        """What the Q-Former and the visual bank take: normalised tokens plus the frame's position.

        Args:
            features: `[V, T, P, D]` from the encoder.
            first: number of the first of these frames.

        Returns:
            the same shape. The norm is computed in float32.
        """
        norm, config = self.vision_norm, self.config
        wide = F.layer_norm(
            features.float(),
            norm.normalized_shape,
            norm.weight.float(),
            norm.bias.float(),
            norm.eps,
        )
        placed = wide.to(features.dtype)
        if config.frame_position == "none" or config.reader == "frames":
            return placed
        index = torch.arange(first, first + features.shape[1], device=features.device)
        return placed + self.frame_positions(index.clamp(max=config.max_frames - 1))[:, None]

    def read_frames(
        self,
        features: Tensor,
        frame_mask: Tensor,
        instruction: Tensor | None = None,
        instruction_mask: Tensor | None = None,
    ) -> Tensor:
        """The Q-Former's tokens `[V, N, D]` after the last frame of each video.

        Args:
            features: `[V, T, P, D]`.
            frame_mask: `[V, T]`, frames that exist stand first.
            instruction, instruction_mask: `[V, L]` words of the Q-Former, or `[V * K, L]` for K
                questions about each video in turn; None: it reads none.
        """
        config, frames = self.config, self.placed(features)
        told = {"text_ids": instruction, "text_mask": instruction_mask}
        if config.reader == "memory":
            return read_frames(
                self.qformer, frames, frame_mask, **told,
                visual_capacity=config.visual_memory, query_capacity=config.query_memory,
                rule=config.merging, detach=DETACHED[config.frame_position],
            )[0]  # fmt: skip
        if config.reader == "frames":
            rows = 1 if instruction is None else len(instruction) // len(frames)
            frames = frames.repeat_interleave(rows, dim=0)
            return read_apart(self.qformer, frames, **told)  # [V, T * Q, D]
        return self.qformer(*self._at_once(frames, frame_mask), **told).tokens

    def _at_once(self, frames: Tensor, frame_mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """What one pass of the Q-Former looks at, `[V, N, D]`, and what of it exists."""
        if self.config.reader == "all":
            return frames.flatten(1, 2), frame_mask.repeat_interleave(frames.shape[2], dim=1)
        count = frame_mask.sum(1)
        if self.config.reader == "one_frame":
            return frames[torch.arange(len(frames), device=frames.device), count - 1], None
        share = (frame_mask / count[:, None]).to(frames.dtype)  # [V, T]
        return torch.einsum("vt,vtpd->vpd", share, frames), None

    def connect(
        self,
        features: Tensor,
        frame_mask: Tensor,
        times_s: Tensor,
        instruction: Tensor | None = None,
        instruction_mask: Tensor | None = None,
        new_video: Tensor | None = None,
        tokens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`[V, T, P, D]` and instructions `[V, L]` to `[V, num_queries, E]` (with the reader
        "frames", `[V, T * num_queries, E]`).

        Args:
            new_video: `[V]` bool, False where a medium is the video in front of it once more, with
                another question: what does not depend on the question is then done once.
            tokens: `[V, num_queries, D]` of the Q-Former, which has read the frames already.
        """
        if tokens is None and instruction is not None:
            longest = max(int(instruction_mask.sum(1).max()), 1)
            told = instruction[:, :longest], instruction_mask[:, :longest]
            tokens = self._read_groups(features, frame_mask, *told, new_video)
        elif tokens is None:
            tokens = self.read_frames(features, frame_mask)
        exists = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        if self.config.reader == "frames":
            exists = frame_mask.repeat_interleave(self.config.num_queries, dim=1)
        return self.projector(tokens), exists

    def _read_groups(self, features, frame_mask, instruction, instruction_mask, new_video):
        """As `read_frames`, each video once for all of its questions. Videos with fewer questions
        than others have their last one read again, for nothing."""
        if new_video is None or bool(new_video.all()):
            return self.read_frames(features, frame_mask, instruction, instruction_mask)
        starts = new_video.nonzero()[:, 0]  # [U], U videos
        group = new_video.long().cumsum(0) - 1  # [V]
        counts = group.bincount()
        step = torch.arange(int(counts.max()), device=counts.device)
        rows = (starts[:, None] + step.minimum(counts[:, None] - 1)).flatten()  # [U * K]
        told = instruction[rows], instruction_mask[rows]
        read = self.read_frames(features[starts], frame_mask[starts], *told)  # [U * K, Q, D]
        return read[
            group * len(step) + torch.arange(len(group), device=group.device) - starts[group]
        ]

    # Questions

    def question_media(
        self, watched: Watched, questions: Sequence[str]
    ) -> tuple[Media | None, Media | None]:
        """The video once a question, each with its question as the Q-Former reads it."""
        pictures, sounds = super().question_media(watched, questions)
        if pictures is None:
            return None, sounds
        asked = [self.processor.asked(question) for question in questions]
        ids, mask = (one.to(pictures.frame_mask.device) for one in self.processor.instruct(asked))
        first = torch.arange(len(ids), device=ids.device) == 0
        extras = {"instruction": ids, "instruction_mask": mask, "new_video": first}
        return replace(pictures, extras=extras), sounds

    @staticmethod
    def stages(preset: str) -> tuple[Stage, ...]:
        return {"paper": PAPER_STAGES, "world": WORLD_STAGES}[preset]


def build_paper(
    device: str = "meta", config: MaLmmConfig | None = None, llama: LlamaSizes = VICUNA
) -> MaLmm:
    """The published sizes, without weights and without a tokenizer: EVA ViT-g, InstructBLIP's
    Q-Former and Vicuna-7B (or another LLaMA)."""
    config = config or MaLmmConfig()
    with torch.device(device):
        encoder = EvaClipEncoder(EvaClipConfig(resampling="bicubic"), normed=False)
        model = MaLmm(config, build_llama(llama), encoder, None)
    model.answer_settings = dict(PAPER_SETTINGS)
    return model.eval()


def build_world(
    device: str = "cpu", folder: Path | None = None, config: MaLmmConfig = WORLD_CONFIG
) -> MaLmm:
    """The system on the small world's frozen parts.

    The picture encoder's last norm, which is frozen elsewhere, trains here as the paper's does. The
    Q-Former begins as the image Q-Former, its words of frames with it.
    """
    encoder, language_model, tokenizer = load_foundations(folder)
    instructions = WorldInstructions(tokenizer.words())
    config = replace(config, qformer_vocabulary=len(instructions))
    processor = MaLmmProcessor(tokenizer, instructions, config)
    norm, encoder.norm = encoder.norm, nn.Identity()
    model = MaLmm(config, language_model, encoder, processor)
    model.vision_norm.load_state_dict(norm.state_dict())
    image = load_image_text_qformer(folder).qformer
    if fits(model.qformer.config, image.config):
        begin_from_image_qformer(model.qformer, image, instructions.words)
    return model.to(device).eval()
