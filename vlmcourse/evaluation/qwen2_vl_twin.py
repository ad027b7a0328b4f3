"""Qwen2-VL twice, ours and transformers' own, on the very same random weights; and rows of text,
pictures and films that both can read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlmcourse.backbones.language_model import LlamaSizes, rebuild_buffers
from vlmcourse.backbones.qwen2_vit import Qwen2VitConfig
from vlmcourse.checkpoints.files import load_strict
from vlmcourse.checkpoints.qwen2_vl import from_official
from vlmcourse.conversation import PICTURE, TEXT
from vlmcourse.errors import UserError
from vlmcourse.systems.batch import Batch, Media

if TYPE_CHECKING:
    from vlmcourse.systems.qwen2_vl import Qwen2VL

Grid = tuple[int, int, int]
"""Temporal patches, rows and columns of patches."""
PAD, START, END, IMAGE, VIDEO = range(5)
"""Ids of the twins' own little vocabulary; words follow."""
NUMBER = {"image": 1, "video": 2}
"""How transformers counts the kinds of tokens."""


@dataclass(frozen=True)
class TwinSizes:
    """Sizes of a pair, and of what it is timed on.

    Attributes:
        vision, language, section: of the models; a section counts pairs of channels.
        pictures, film: grids of patches, sides even; a film is no longer than half its longer side,
            so that the two releases' rules for positions agree.
        words: text tokens in front of and behind a medium.
        new_tokens: of an answer.
    """

    vision: Qwen2VitConfig
    language: LlamaSizes
    section: tuple[int, int, int]
    pictures: tuple[Grid, ...]
    film: Grid
    words: int = 16
    new_tokens: int = 32


TINY = TwinSizes(
    Qwen2VitConfig(depth=4, width=128, heads=4),
    LlamaSizes(1024, 256, 512, 4, 8, 2, rope_theta=1e6, max_positions=32768, tie_embeddings=True),
    (4, 6, 6),
    pictures=((1, 16, 16), (1, 32, 16), (1, 16, 40), (1, 24, 24)),
    film=(4, 16, 24),
)
SIZES = {
    "tiny": TINY,
    "small": replace(
        TINY,
        vision=Qwen2VitConfig(depth=8, width=384, heads=6),
        language=replace(
            TINY.language, vocab_size=8192, hidden_size=512, intermediate_size=1408, num_layers=8
        ),
        section=(8, 12, 12),
    ),
}
"""By name; "2B" has the published sizes (`twin_sizes`)."""
LARGE = {
    "pictures": ((1, 32, 32), (1, 64, 32), (1, 32, 96), (1, 48, 48)),
    "film": (8, 32, 48),
    "words": 64,
    "new_tokens": 64,
}


def twin_sizes(name: str) -> TwinSizes:
    """Sizes by name: "tiny", "small" or "2B". Raises UserError."""
    if name == "2B":
        from vlmcourse.systems.qwen2_vl import LANGUAGE

        return TwinSizes(Qwen2VitConfig(), LANGUAGE[name], (16, 24, 24), **LARGE)
    if name not in SIZES:
        raise UserError(f"unknown size {name!r}. Known: {', '.join([*SIZES, '2B'])}")
    return SIZES[name]


def build_theirs(
    sizes: TwinSizes, device: str, dtype: torch.dtype = torch.float32, seed: int = 0
) -> nn.Module:
    """transformers' `Qwen2VLForConditionalGeneration` with random weights, in eval mode."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    vision, language = sizes.vision, sizes.language
    config = Qwen2VLConfig(
        vision_config={
            "depth": vision.depth,
            "embed_dim": vision.width,
            "num_heads": vision.heads,
            "mlp_ratio": vision.mlp_ratio,
            "patch_size": vision.patch_size,
            "temporal_patch_size": vision.temporal_patch,
            "spatial_merge_size": vision.merge,
            "hidden_size": language.hidden_size,
        },
        text_config={
            "vocab_size": language.vocab_size,
            "hidden_size": language.hidden_size,
            "intermediate_size": language.intermediate_size,
            "num_hidden_layers": language.num_layers,
            "num_attention_heads": language.num_heads,
            "num_key_value_heads": language.num_key_value_heads,
            "rms_norm_eps": language.rms_norm_eps,
            "max_position_embeddings": language.max_positions,
            "tie_word_embeddings": language.tie_embeddings,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": language.rope_theta,
                "mrope_section": list(sizes.section),
            },
        },
        tie_word_embeddings=language.tie_embeddings,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    torch.manual_seed(seed)
    with torch.device(device):
        theirs = Qwen2VLForConditionalGeneration._from_config(
            config, dtype=dtype, attn_implementation="sdpa"
        )
    return theirs.to(device).eval()


def build_ours(sizes: TwinSizes, theirs: nn.Module) -> "Qwen2VL":
    """Our model on the same tensors: nothing is copied."""
    from vlmcourse.systems.qwen2_vl import build_paper

    tied = sizes.language.tie_embeddings
    ours = build_paper("meta", None, sizes.vision, sizes.language, sizes.section)
    with torch.no_grad():
        tensors = from_official(theirs.state_dict(), "transformers' model", tied)
    load_strict(ours, tensors, "transformers' model", assign=True)
    rebuild_buffers(ours, theirs.device)
    if tied:
        ours.language_model.tie_weights()
    return ours.eval()


@dataclass(frozen=True)
class Rows:
    """Rows of text and media, padded at the left, as each of the two takes them.

    Attributes:
        ours: for `Qwen2VL.embed` and `language_inputs`.
        theirs: keyword arguments of transformers' `forward` and `generate`.
        patches, grids: `[N, patch]` and `[V, 3]` of all media, for the towers alone.
    """

    ours: Batch
    theirs: dict[str, Tensor]
    patches: Tensor
    grids: Tensor


def make_rows(
    sizes: TwinSizes,
    media: Sequence[Sequence[Grid]],
    device: str,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Rows:
    """Rows with random words and random pixels.

    Args:
        media: of each row, the grids of its pictures and films in order.
    """
    generator = torch.Generator().manual_seed(seed)
    merge, vocabulary = sizes.vision.merge, sizes.language.vocab_size

    def words() -> list[int]:
        return torch.randint(5, vocabulary, (sizes.words,), generator=generator).tolist()

    lines: list[list[int]] = []
    for row, grids in enumerate(media):
        line = words()[: sizes.words - row % 3]  # rows of different lengths
        for t, h, w in grids:
            place = IMAGE if t == 1 else VIDEO
            line += [START, *[place] * (t * h * w // merge**2), END, *words()]
        lines.append(line)
    length = max(map(len, lines))
    ids = torch.tensor([[PAD] * (length - len(line)) + line for line in lines])
    attention = torch.tensor([[0] * (length - len(x)) + [1] * len(x) for x in lines]).bool()
    flat = [grid for grids in media for grid in grids]
    grids = torch.tensor(flat).reshape(-1, 3)
    counts = grids.prod(1)
    patches = torch.randn(int(counts.sum()), sizes.vision.patch_dim, generator=generator)
    parts = patches.split(counts.tolist())
    rows = [row for row, own in enumerate(media) for _ in own]
    patches = patches.to(device, dtype)
    return Rows(
        _our_batch(ids, attention, parts, grids, rows, merge).to(device),
        {name: value.to(device) for name, value in _their_inputs(ids, attention, flat, parts)}
        | {n: v.to(device, dtype) for n, v in _their_pixels(flat, parts)},
        patches,
        grids.to(device),
    )


def _our_batch(
    ids: Tensor,
    attention: Tensor,
    parts: Sequence[Tensor],
    grids: Tensor,
    rows: Sequence[int],
    merge: int,
) -> Batch:
    kinds = torch.where((ids == IMAGE) | (ids == VIDEO), PICTURE, TEXT) * attention
    if not parts:
        return Batch(ids, attention, kinds)
    blocks = [part.unflatten(0, (-1, merge**2)) for part in parts]  # [M, 4, patch] each
    inputs = nn.utils.rnn.pad_sequence(blocks, batch_first=True)
    mask = nn.utils.rnn.pad_sequence(
        [torch.ones(len(one), dtype=torch.bool) for one in blocks], batch_first=True
    )
    pictures = Media(
        mask, torch.zeros(mask.shape), inputs, rows=torch.tensor(rows), extras={"grid": grids}
    )
    return Batch(ids, attention, kinds, pictures=pictures)


def _their_inputs(ids: Tensor, attention: Tensor, flat: Sequence[Grid], parts: Sequence[Tensor]):
    """Names and integer tensors for transformers."""
    types = torch.zeros_like(ids)
    types[ids == IMAGE], types[ids == VIDEO] = NUMBER["image"], NUMBER["video"]
    yield "input_ids", ids
    yield "attention_mask", attention.long()
    yield "mm_token_type_ids", types * attention
    for name in NUMBER:
        own = [grid for grid in flat if (grid[0] == 1) == (name == "image")]
        if own:
            yield f"{name}_grid_thw", torch.tensor(own)


def _their_pixels(flat: Sequence[Grid], parts: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
    """Names and patches for transformers: pictures apart from films."""
    pictures = [part for part, grid in zip(parts, flat) if grid[0] == 1]
    films = [part for part, grid in zip(parts, flat) if grid[0] > 1]
    named = (("pixel_values", pictures), ("pixel_values_videos", films))
    return [(name, torch.cat(own)) for name, own in named if own]


def answer_settings(count: int) -> Any:
    """Greedy decoding of exactly so many tokens, for both."""
    from transformers import GenerationConfig

    return GenerationConfig(max_new_tokens=count, do_sample=False, pad_token_id=PAD)


@torch.no_grad()
def our_tokens(ours: "Qwen2VL", rows: Rows, count: int) -> Tensor:
    """`[B, count]` greedy tokens, as `Qwen2VL.generate` makes them."""
    batch = rows.ours
    return ours.language_model.generate(
        inputs_embeds=ours.embed(batch),
        generation_config=answer_settings(count),
        **ours.language_inputs(batch),
    )


@torch.no_grad()
def their_tokens(theirs: nn.Module, rows: Rows, count: int) -> Tensor:
    """`[B, count]` greedy tokens of transformers' model."""
    made = theirs.generate(generation_config=answer_settings(count), **rows.theirs)
    return made[:, rows.theirs["input_ids"].shape[1] :]


@torch.no_grad()
def our_features(ours: "Qwen2VL", rows: Rows) -> Tensor:
    """`[M, E]` language-model tokens of all media of the rows."""
    features = ours.vision_encoder(rows.patches, rows.grids)
    return ours.merger(features.unflatten(0, (-1, ours.config.merge**2)))


@torch.no_grad()
def their_features(theirs: nn.Module, rows: Rows) -> Tensor:
    """The same by transformers' tower."""
    return theirs.model.visual(rows.patches, grid_thw=rows.grids).pooler_output
