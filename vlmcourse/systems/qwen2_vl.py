"""Qwen2-VL: pictures and videos at any size, and positions in time, height and width.

    picture or frames of any size -> patches of two frames -> ViT (2-D RoPE) -> 2 x 2 patches, one
    token -> Qwen2, whose positions count time, rows and columns (M-RoPE)

A picture costs tokens by its area. All media of a batch go through the vision tower as one
sequence without padding. The language model is an ordinary one: only its rotary embedding reads
three positions a token instead of one.

Paper: arXiv 2409.12191. Official: huggingface/transformers@v4.45.2:src/transformers/models/qwen2_vl
(the model), QwenLM/Qwen2-VL@35ba6e1 (files to frames).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vlmcourse.backbones.foundations import FOUNDATIONS, load_qwen2_vit
from vlmcourse.backbones.language_model import LlamaSizes, build_qwen2, load_language_model
from vlmcourse.backbones.qwen2_vit import PatchMerger, Qwen2Vit, Qwen2VitConfig, patchify
from vlmcourse.backbones.tokenizers import load_tokenizer
from vlmcourse.errors import UserError
from vlmcourse.media.transforms import normalise_frames
from vlmcourse.parts.mrope import mrope_positions, use_mrope
from vlmcourse.systems.base import VideoLanguageModel
from vlmcourse.systems.batch import Batch, Media
from vlmcourse.systems.processor import Clip
from vlmcourse.systems.qwen2_vl_config import (
    PAPER_CONFIG,
    RELEASED_SETTINGS,
    WORLD_CONFIG,
    Qwen2VLConfig,
)
from vlmcourse.systems.qwen2_vl_processor import Qwen2VLProcessor
from vlmcourse.systems.qwen2_vl_stages import PAPER_STAGES, WORLD_STAGES
from vlmcourse.systems.stages import Stage

AT_ONCE = 32768
"""Patches that go through the vision tower at once where it does not train."""

PATCHES = {"patch_size": "patch_size", "merge": "merge", "temporal": "temporal_patch"}
"""Settings that the vision tower knows too, and what it calls them."""

LANGUAGE = {
    "2B": LlamaSizes(
        vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_layers=28, num_heads=12,
        num_key_value_heads=2, rope_theta=1e6, max_positions=32768, tie_embeddings=True,
    ),
    "7B": LlamaSizes(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_layers=28, num_heads=28,
        num_key_value_heads=4, rope_theta=1e6, max_positions=32768,
    ),
    "72B": LlamaSizes(
        vocab_size=152064, hidden_size=8192, intermediate_size=29568, num_layers=80, num_heads=64,
        num_key_value_heads=8, rope_theta=1e6, max_positions=32768,
    ),
}  # fmt: skip
"""Qwen2's published sizes; the vision tower is the same for all."""


class Qwen2VL(VideoLanguageModel):
    """The whole system.

    Media count tokens where others count frames: a token's four patches lie together, `inputs`
    `[V, M, 4, patch]` and features `[V, M, 4, D]`, and every medium has its grid.

    Args:
        config: settings.
        language_model: a Qwen2 or a Llama; with positions "mrope" its rotary embedding is swapped.
        vision_encoder: may train.
        processor: see the base.
        section: channels of a head that turn by time, row and column, in pairs; None: as in the
            published models, a quarter by time and the rest half by half.
    """

    def __init__(
        self,
        config: Qwen2VLConfig,
        language_model: nn.Module,
        vision_encoder: Qwen2Vit,
        processor: Qwen2VLProcessor | None,
        section: tuple[int, int, int] | None = None,
    ):
        _refuse_other_patches(config, vision_encoder.config)
        if config.positions == "mrope":
            heads = language_model.config.num_attention_heads
            head_dim = getattr(language_model.config, "head_dim", None)
            head_dim = head_dim or language_model.config.hidden_size // heads
            language_model = use_mrope(language_model, section or section_of(head_dim))
        super().__init__(language_model, vision_encoder, processor)
        self.config = config
        table = language_model.get_input_embeddings().weight
        like = {"device": table.device, "dtype": table.dtype}
        width = table.shape[1]
        self.merger = PatchMerger(vision_encoder.hidden_size, config.merge, width).to(**like)
        if config.positions == "time_embedding":
            self.time_embedding = nn.Embedding(config.time_rows, width, **like)
            if not table.is_meta:
                nn.init.zeros_(self.time_embedding.weight)

    # Pictures and frames

    def stream_inputs(self, clip: Clip) -> dict[str, Tensor]:
        """The patches of every token, `[M, 4, patch]`, by the name "pictures"."""
        if clip.frames is None:
            return {}
        config = self.config
        frames = normalise_frames(clip.frames.permute(3, 0, 1, 2)).transpose(0, 1)  # [T, 3, h, w]
        patches, _ = patchify(frames, config.patch_size, config.temporal, config.merge)
        return {"pictures": patches.unflatten(0, (-1, config.merge**2))}

    def stream_times_s(self, name: str, clip: Clip) -> Tensor:
        """Seconds `[M]` of tokens: those of the first of their frames."""
        seconds = clip.times_s[:: self.config.temporal]
        each = int(clip.grid[1] * clip.grid[2]) // self.config.merge**2
        return seconds.repeat_interleave(each)

    def stream_extras(self, name: str, clip: Clip) -> dict[str, Tensor]:
        return {"grid": clip.grid[None]}

    def encode_stream(self, name: str, inputs: Tensor, clip: Clip) -> Tensor:
        return self.encode_patches(inputs, clip.grid[None])

    def encode_patches(self, patches: Tensor, grids: Tensor) -> Tensor:
        """Features of media one behind another, `[sum of M, 4, patch]` to `[sum of M, 4, D]`; on
        the graph, and all at once, only if the vision tower trains.

        Args:
            grids: `[V, 3]`.
        """
        tower, first = self.vision_encoder, next(self.vision_encoder.parameters())
        patches, grids = patches.flatten(0, 1).to(first.device, first.dtype), grids.to(first.device)
        if torch.is_grad_enabled() and any(p.requires_grad for p in tower.parameters()):
            features = tower(patches, grids)  # [N, D]
        else:
            with torch.no_grad():
                features = torch.cat([tower(*part) for part in portions(patches, grids)])
        return features.unflatten(0, (-1, self.config.merge**2))

    def _features(self, media: Media, encode: Callable[[Tensor], Tensor]) -> Tensor | None:
        """As the base; all media of the batch are one sequence, without padding."""

        def packed(patches: Tensor) -> Tensor:
            return self.encode_patches(patches, media.extras["grid"])

        return super()._features(media, packed)

    def connect(
        self, features: Tensor, frame_mask: Tensor, times_s: Tensor, grid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`[V, M, 4, D]` to `[V, M, E]`; times play no part, the order of frames does."""
        merged = self.merger(features[frame_mask])  # [sum of M, E]
        if self.config.positions == "time_embedding":
            numbers = torch.cat([self._times(*one) for one in grid.tolist()])  # [sum of M]
            merged = merged + self.time_embedding(numbers.to(merged.device))
        tokens = merged.new_zeros(*frame_mask.shape, merged.shape[-1])
        tokens[frame_mask] = merged
        return tokens, frame_mask

    def language_inputs(self, batch: Batch) -> dict[str, Tensor]:
        """As the base; with M-RoPE positions are `[3, B, L]`."""
        inputs = super().language_inputs(batch)
        if self.config.positions == "mrope":
            media = batch.pictures
            grids = batch.ids.new_zeros(0, 3) if media is None else media.extras["grid"]
            inputs["position_ids"] = mrope_positions(
                batch.kinds, grids, batch.attention, batch.segments, merge=self.config.merge
            )
        return inputs

    def _times(self, steps: int, rows: int, columns: int) -> Tensor:
        """The number of the time step of each token `[M]` of a grid."""
        numbers = torch.arange(steps).clamp(max=self.config.time_rows - 1)
        return numbers.repeat_interleave(rows * columns // self.config.merge**2)

    @staticmethod
    def stages(preset: str) -> Sequence[Stage]:
        """All stages, recipe after recipe; see qwen2_vl_stages.py."""
        recipes = {"paper": PAPER_STAGES, "world": WORLD_STAGES}[preset].values()
        return tuple(stage for stages in recipes for stage in stages)


def section_of(head_dim: int) -> tuple[int, int, int]:
    """How many of a head's pairs of channels turn by time, row and column: a quarter, and half of
    the rest each (16, 24 and 24 of the published 64)."""
    pairs = head_dim // 2
    rows = (pairs - pairs // 4) // 2
    return pairs - 2 * rows, rows, rows


def _refuse_other_patches(config: Qwen2VLConfig, tower: Qwen2VitConfig) -> None:
    """Raise UserError where settings ask for other patches than the vision tower takes."""
    for ours, theirs in PATCHES.items():
        wanted, there = getattr(config, ours), getattr(tower, theirs)
        if wanted != there:
            raise UserError(f"{ours} is {wanted}, but the vision tower was made for {there}")


def portions(
    patches: Tensor, grids: Tensor, most: int = AT_ONCE
) -> Iterator[tuple[Tensor, Tensor]]:
    """Patches `[N, patch]` and their grids `[V, 3]` in portions of about `most` patches. Nothing
    looks across temporal patches, so a medium may be cut between them."""
    if len(patches) <= most:
        yield patches, grids
        return
    grids = grids.repeat_interleave(grids[:, 0], dim=0)
    grids[:, 0] = 1
    sizes = grids.prod(1)
    numbers = (sizes.cumsum(0) - sizes) // most
    for number in numbers.unique():
        own = numbers == number
        part, patches = patches.tensor_split([int(sizes[own].sum())])
        yield part, grids[own]


def build_paper(
    device: str = "meta",
    config: Qwen2VLConfig | None = None,
    vision: Qwen2VitConfig | None = None,
    language: LlamaSizes | None = None,
    section: tuple[int, int, int] | None = None,
) -> Qwen2VL:
    """A published size (`config.size`), without weights and without a tokenizer.

    Args:
        vision, language, section: other sizes; the config takes over a vision tower's patches.
    """
    config = config or PAPER_CONFIG
    if vision is not None:
        config = replace(config, **{name: getattr(vision, told) for name, told in PATCHES.items()})
    with torch.device(device):
        language_model = build_qwen2(language or LANGUAGE[config.size])
        model = Qwen2VL(config, language_model, Qwen2Vit(vision), None, section)
    model.answer_settings = dict(RELEASED_SETTINGS)
    return model.eval()


def build_world(
    device: str = "cpu", folder: Path | None = None, config: Qwen2VLConfig = WORLD_CONFIG
) -> Qwen2VL:
    """The system on the small world's foundations, which may train further."""
    language = (folder or FOUNDATIONS) / "language_model"
    processor = Qwen2VLProcessor(load_tokenizer(language), config)
    model = Qwen2VL(config, load_language_model(language), load_qwen2_vit(folder), processor)
    return model.to(device).eval()
