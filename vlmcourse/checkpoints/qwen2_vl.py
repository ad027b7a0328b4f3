"""Official Qwen2-VL weights and ours, both ways, in both namings.

Official files, one folder, everything in it (names as downloaded):

    config.json, tokenizer.json, tokenizer_config.json
    model.safetensors.index.json, model-00001-of-00002.safetensors, ...

The published files say `visual.*`, `model.*` and `lm_head.weight`; for the first two the modules of
transformers 5 say `model.visual.*` and `model.language_model.*`. Both are read, and both can be
written. Tensors are the same on all sides but one: the official patch embedding is a convolution
`[D, C, 2, p, p]` that never overlaps, ours the linear layer `[D, C * 2 * p * p]` that it is.

The 2B model has one table for reading and writing words, which its files hold once.

Official: huggingface/transformers@v4.45.2 (published) and @v5.23.0 (modules):
src/transformers/models/qwen2_vl/modeling_qwen2_vl.py.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vlmcourse.backbones.language_model import LlamaSizes, rebuild_buffers
from vlmcourse.backbones.qwen2_vit import Qwen2VitConfig
from vlmcourse.backbones.tokenizers import load_tokenizer
from vlmcourse.checkpoints.files import CheckpointError, load_strict, read_tensors, refuse_unknown
from vlmcourse.checkpoints.names import renamed
from vlmcourse.systems import with_options
from vlmcourse.systems.qwen2_vl import LANGUAGE, Qwen2VL, build_paper
from vlmcourse.systems.qwen2_vl_config import PAPER_CONFIG
from vlmcourse.systems.qwen2_vl_processor import Qwen2VLProcessor

Naming = Literal["published", "modules"]

PATCHES = "vision_encoder.patch_embedding.weight"
WORDS_IN = "language_model.model.embed_tokens.weight"
WORDS_OUT = "language_model.lm_head.weight"

TOP = (
    ("visual.patch_embed.proj.weight", PATCHES),
    ("visual.merger.ln_q.", "merger.norm."),
    ("visual.merger.mlp.0.", "merger.up."),
    ("visual.merger.mlp.2.", "merger.down."),
    ("model.embed_tokens.", "language_model.model.embed_tokens."),
    ("model.layers.", "language_model.model.layers."),
    ("model.norm.", "language_model.model.norm."),
    ("lm_head.", "language_model.lm_head."),
)
"""Published and our names outside the tower's blocks; one that ends in a dot is a beginning."""

BLOCK = ("visual.blocks.", "vision_encoder.blocks.")
IN_BLOCK = (
    ("norm1.", "attention_norm."),
    ("norm2.", "mlp_norm."),
    ("attn.qkv.", "attention.qkv."),
    ("attn.proj.", "attention.dense."),
    ("mlp.fc1.", "up."),
    ("mlp.fc2.", "down."),
)
"""The same inside a block, behind its number."""

LAYERS = ((BLOCK, IN_BLOCK),)

MODULES = (("model.visual.", "visual."), ("model.language_model.", "model."))
"""Beginnings in transformers 5 and in the published files."""


# ---------------------------------------------------------------- names


def our_name(official: str) -> str:
    """Our state-dict name of an official key of either naming. Raises KeyError for an unknown
    one."""
    for module, published in MODULES:
        if official.startswith(module):
            official = published + official.removeprefix(module)
            break
    return renamed(official, 0, TOP, LAYERS)


def official_name(ours: str, naming: Naming = "published") -> str:
    """The official key of a name of ours. Raises KeyError for an unknown name."""
    name = renamed(ours, 1, TOP, LAYERS)
    for module, published in MODULES if naming == "modules" else ():
        if name.startswith(published):
            return module + name.removeprefix(published)
    return name


# ---------------------------------------------------------------- tensors


def from_official(
    tensors: Mapping[str, Tensor], source: str = "Qwen2-VL", tied: bool = False
) -> dict[str, Tensor]:
    """Official tensors, all or some and of either naming, under our names and in our shapes.

    Args:
        tensors: by official key.
        source: named in messages.
        tied: one table reads and writes words; the files then hold it once (or twice, equal).

    Raises:
        CheckpointError: lists every key of no known part; a tensor that is there under both
            namings; or a second table of a tied model that is another.
    """
    result: dict[str, Tensor] = {}
    unknown = []
    for key, tensor in tensors.items():
        try:
            name = our_name(key)
        except KeyError:
            unknown.append(key)
            continue
        if name in result:
            raise CheckpointError(f"{source}: {key} is there under both namings")
        result[name] = tensor.flatten(1) if name == PATCHES else tensor
    refuse_unknown(unknown, source)
    if tied and WORDS_IN in result:
        table, second = result[WORDS_IN], result.get(WORDS_OUT)
        if second is not None and not (second.is_meta or torch.equal(table, second)):
            raise CheckpointError(f"{source}: lm_head.weight differs from the table it is tied to")
        result[WORDS_OUT] = table
    return result


def to_official(
    tensors: Mapping[str, Tensor],
    naming: Naming = "published",
    tied: bool = False,
    vision: Qwen2VitConfig | None = None,
) -> dict[str, Tensor]:
    """Our tensors, all or some, under their official keys and in their official shapes.

    Args:
        tensors: by our name.
        naming: of the files ("published") or of the modules of transformers 5.
        tied: leave out the output table, which is the input table.
        vision: colours, frames and pixels of a patch; None means the published ones.

    Raises:
        KeyError: a name of no known part.
        ValueError: the tables of a tied model differ.
    """
    vision = vision or Qwen2VitConfig()
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == PATCHES:
            patch = (vision.temporal_patch, vision.patch_size, vision.patch_size)
            tensor = tensor.unflatten(1, (vision.in_channels, *patch))
        if tied and name == WORDS_OUT:
            table = tensors.get(WORDS_IN, tensor)
            if not (tensor.is_meta or torch.equal(table, tensor)):
                raise ValueError("a tied model cannot hold two different tables of words")
            continue
        result[official_name(name, naming)] = tensor
    return result


# ---------------------------------------------------------------- the folder


def vision_sizes(told: Mapping[str, Any]) -> Qwen2VitConfig:
    """Sizes of the tower from the `vision_config` of an official config.

    Raises:
        KeyError: a size is not told.
        ValueError: an activation or a patch that is not built.
    """
    if told.get("hidden_act", "quick_gelu") != "quick_gelu":
        raise ValueError(f"a tower with {told['hidden_act']} is not built")
    turned = told.get("rope_parameters") or {}
    if turned.get("rope_type", "axial") != "axial":
        raise ValueError(f"a tower with {turned['rope_type']} rotary embeddings is not built")
    return Qwen2VitConfig(
        depth=told["depth"],
        width=told["embed_dim"],
        heads=told["num_heads"],
        mlp_ratio=told["mlp_ratio"],
        patch_size=told["patch_size"],
        temporal_patch=told.get("temporal_patch_size", 2),
        merge=told.get("spatial_merge_size", 2),
        in_channels=told.get("in_channels", told.get("in_chans", 3)),
        rope_theta=turned.get("rope_theta", 10000.0),
        eps=told.get("layer_norm_eps", 1e-6),
    )


def language_sizes(told: Mapping[str, Any]) -> tuple[LlamaSizes, tuple[int, ...]]:
    """Sizes of the language model and its sections, from an official config: of transformers 4
    (all on top) or of 5 (in `text_config`).

    Raises:
        KeyError: a size is not told.
        ValueError: an activation, a window or a rotary embedding that is not built.
    """
    text = {**told, **told.get("text_config", {})}
    turned = {**(text.get("rope_scaling") or {}), **(text.get("rope_parameters") or {})}
    kind = turned.get("rope_type", turned.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise ValueError(f"a language model with {kind} rotary embeddings is not built")
    if text.get("hidden_act", "silu") != "silu" or text.get("use_sliding_window"):
        raise ValueError("a language model with a window, or without SiLU, is not built")
    sizes = LlamaSizes(
        vocab_size=text["vocab_size"],
        hidden_size=text["hidden_size"],
        intermediate_size=text["intermediate_size"],
        num_layers=text["num_hidden_layers"],
        num_heads=text["num_attention_heads"],
        num_key_value_heads=text["num_key_value_heads"],
        rms_norm_eps=text["rms_norm_eps"],
        rope_theta=turned.get("rope_theta") or text["rope_theta"],
        max_positions=text.get("max_position_embeddings", 32768),
        tie_embeddings=bool(told.get("tie_word_embeddings", text.get("tie_word_embeddings"))),
    )
    return sizes, tuple(turned["mrope_section"])


def read_sizes(folder: Path) -> tuple[Qwen2VitConfig, LlamaSizes, tuple[int, ...]]:
    """Sizes of tower and language model, and sections, from the `config.json` of a folder. Raises
    CheckpointError."""
    path = folder / "config.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        vision, (language, section) = vision_sizes(told["vision_config"]), language_sizes(told)
        if told["vision_config"].get("hidden_size", language.hidden_size) != language.hidden_size:
            raise ValueError("the merger's tokens are not as wide as the language model")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: not the config of a Qwen2-VL ({error!r})") from error
    return vision, language, section


def load_released(
    folder: Path,
    device: str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    **options: Any,
) -> Qwen2VL:
    """Build a model at the sizes of a folder, with its weights.

    Args:
        folder: see the head of this file.
        device, dtype: of the result.
        options: settings that differ from the released ones (`Qwen2VLConfig`).

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit; keys are listed.
    """
    vision, language, section = read_sizes(folder)
    known = [size for size, sizes in LANGUAGE.items() if sizes == language]
    released = replace(PAPER_CONFIG, patch_size=vision.patch_size)
    released = replace(released, size=known[0]) if known else released
    config = with_options(released, options)
    model = build_paper("meta", config, vision, language, section)
    ours = from_official(read_tensors(folder), str(folder), language.tie_embeddings)
    ready = {name: tensor.to(device=device, dtype=dtype) for name, tensor in ours.items()}
    load_strict(model, ready, str(folder), assign=True)
    rebuild_buffers(model, device)
    if language.tie_embeddings:
        model.language_model.tie_weights()
    model.processor = Qwen2VLProcessor(load_tokenizer(folder), model.config)
    return model.eval()
