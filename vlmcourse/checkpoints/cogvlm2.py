"""Official CogVLM2 weights and ours, both ways: the image model (19B) and the video model (12B).

Official files, one folder, everything in it (names as downloaded):

    config.json, tokenizer.json, tokenizer_config.json
    model.safetensors.index.json, model-00001-of-00006.safetensors, ...

Both models hold the language model too. The image model's has experts; the video model's has none,
though its keys keep the prefix `language_expert_`. One official matrix gives queries, keys and
values; a transformers Llama has three, so it is cut (rows: all heads' queries, then the key-value
heads' keys, then their values). The expert's stays whole, as in `parts/visual_expert.py`.

Official: Niky-san/cogvlm2_surce@29bac8a:modeling_cogvlm.py, visual.py, and the index of the shards.
Differs: (1) `rotary_emb.inv_freq`, which the shards hold for every layer, must be the frequencies
of base 500000 (a number of the official code; no config tells it) and is then left out: our angles
are exact, unless `official_rotary` is asked for. (2) Our norms round to half precision before their
weight is multiplied, the official ones after; in float32 there is no difference.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmcourse.backbones.eva2_clip_e import Eva2ClipConfig
from vlmcourse.backbones.eva_clip import resize_positions
from vlmcourse.backbones.language_model import LlamaSizes, rebuild_buffers
from vlmcourse.backbones.tokenizers import load_tokenizer
from vlmcourse.checkpoints.files import CheckpointError, load_strict, read_tensors, refuse_unknown
from vlmcourse.checkpoints.names import renamed
from vlmcourse.parts.rotary_precision import StoredRotary, inverse_frequencies
from vlmcourse.parts.visual_expert import add_visual_experts
from vlmcourse.systems import with_options
from vlmcourse.systems.cogvlm2 import CogVLM2, build_paper
from vlmcourse.systems.cogvlm2_config import IMAGE_CONFIG, VIDEO_CONFIG, CogVLM2Config
from vlmcourse.systems.cogvlm2_processor import CogVLM2Processor

ROPE_BASE = 500000.0
POSITIONS, CLASS_TOKEN = "vision_encoder.positions", "vision_encoder.class_token"

TOP = (
    ("model.vision.patch_embedding.proj.", "vision_encoder.patch_embedding."),
    ("model.vision.patch_embedding.cls_embedding", CLASS_TOKEN),
    ("model.vision.patch_embedding.position_embedding.weight", POSITIONS),
    ("model.vision.conv.", "conv."),
    ("model.vision.linear_proj.linear_proj.", "adapter.project."),
    ("model.vision.linear_proj.norm1.", "adapter.norm."),
    ("model.vision.linear_proj.gate_proj.", "adapter.gate."),
    ("model.vision.linear_proj.dense_h_to_4h.", "adapter.up."),
    ("model.vision.linear_proj.dense_4h_to_h.", "adapter.down."),
    ("model.vision.boi", "boi"),
    ("model.vision.eoi", "eoi"),
    ("model.embed_tokens.", "language_model.model.embed_tokens."),
    ("model.norm.", "language_model.model.norm."),
    ("lm_head.", "language_model.lm_head."),
)
"""Official and our names outside the layers; one that ends in a dot is a beginning."""

VISION_LAYER = ("model.vision.transformer.layers.", "vision_encoder.layers.")
VISION_NAMES = (
    ("attention.query_key_value.", "attention.qkv."),
    ("attention.dense.", "attention.dense."),
    ("input_layernorm.", "attention_norm."),
    ("post_attention_layernorm.", "mlp_norm."),
    ("mlp.fc1.", "up."),
    ("mlp.fc2.", "down."),
)
DECODER_LAYER = ("model.layers.", "language_model.model.layers.")
DECODER_NAMES = (
    ("self_attn.language_expert_dense.", "self_attn.o_proj."),
    ("self_attn.vision_expert_query_key_value.", "self_attn.vision_expert_query_key_value."),
    ("self_attn.vision_expert_dense.", "self_attn.vision_expert_dense."),
    ("mlp.language_mlp.", "mlp."),
    ("mlp.vision_mlp.", "vision_expert_mlp."),
    ("input_layernorm.", "input_layernorm."),
    ("post_attention_layernorm.", "post_attention_layernorm."),
)
"""The same inside a layer, behind its number."""

LAYERS = ((VISION_LAYER, VISION_NAMES), (DECODER_LAYER, DECODER_NAMES))

FUSED = re.compile(r"model\.layers\.(\d+)\.self_attn\.language_expert_query_key_value\.weight")
SPLIT = re.compile(r"language_model\.model\.layers\.(\d+)\.self_attn\.([qkv])_proj\.weight")
FREQUENCIES = re.compile(r"model\.layers\.(\d+)\.self_attn\.rotary_emb\.inv_freq")


# ---------------------------------------------------------------- names


def our_names(official: str) -> tuple[str, ...]:
    """Our state-dict names of an official key: three for the fused matrix of a decoder layer, none
    for stored frequencies, else one. Raises KeyError for a key of no known part."""
    if FREQUENCIES.fullmatch(official):
        return ()
    fused = FUSED.fullmatch(official)
    if fused:
        layer = f"{DECODER_LAYER[1]}{fused[1]}.self_attn"
        return tuple(f"{layer}.{part}_proj.weight" for part in "qkv")
    return (renamed(official, 0, TOP, LAYERS),)


def official_name(ours: str) -> str:
    """The official key that holds a tensor of ours. Raises KeyError for an unknown name."""
    split = SPLIT.fullmatch(ours)
    if split:
        return f"{DECODER_LAYER[0]}{split[1]}.self_attn.language_expert_query_key_value.weight"
    return renamed(ours, 1, TOP, LAYERS)


# ---------------------------------------------------------------- tensors


def from_official(
    tensors: Mapping[str, Tensor],
    source: str = "CogVLM2",
    vision: Eva2ClipConfig | None = None,
) -> dict[str, Tensor]:
    """Official tensors, all or some, under our names and in our shapes.

    Args:
        tensors: by official key.
        source: named in messages.
        vision: stretch the position table to this encoder's pictures; None keeps it.

    Raises:
        CheckpointError: lists every key of no known part; or a matrix that cannot be cut, a table
            of no square, frequencies of another base.
    """
    result: dict[str, Tensor] = {}
    unknown = []
    for key, tensor in tensors.items():
        try:
            names = our_names(key)
        except KeyError:
            unknown.append(key)
            continue
        if not names:
            _check_frequencies(tensor, f"{source}: {key}")
        parts = _cut(tensor, f"{source}: {key}") if len(names) == 3 else (tensor,)
        result.update(zip(names, parts))
    refuse_unknown(unknown, source)
    for name in {POSITIONS, CLASS_TOKEN} & result.keys():
        result[name] = result[name].reshape(1, -1, result[name].shape[-1])  # [1, rows, D]
    if vision is not None and POSITIONS in result:
        side = vision.position_grid or vision.grid
        try:
            result[POSITIONS] = resize_positions(result[POSITIONS], 1 + side * side)
        except ValueError as error:
            raise CheckpointError(f"{source}: the position table: {error}") from error
    return result


def to_official(
    tensors: Mapping[str, Tensor], frequencies: Tensor | None = None
) -> dict[str, Tensor]:
    """Our tensors, all or some, under their official keys and in their official shapes.

    Args:
        tensors: by our name.
        frequencies: `[d / 2]`, stored for every decoder layer as the official code wants it
            (`inverse_frequencies(128, 500000.0, torch.bfloat16)`); None stores none.

    Raises:
        KeyError: a name of no known part, or queries, keys or values without the other two.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        key = official_name(name)
        if FUSED.fullmatch(key):
            if key not in result:
                result[key] = torch.cat([tensors[part] for part in our_names(key)])
                if frequencies is not None:
                    layer = key.partition(".language_expert")[0]
                    result[f"{layer}.rotary_emb.inv_freq"] = frequencies.clone()
        else:
            result[key] = tensor[0] if name in (POSITIONS, CLASS_TOKEN) else tensor
    return result


def has_experts(keys: Mapping[str, object]) -> bool:
    """Whether official keys are those of a model with experts."""
    return any(".vision_expert_" in key or ".vision_mlp." in key for key in keys)


def _cut(fused: Tensor, what: str) -> tuple[Tensor, Tensor, Tensor]:
    """Queries `[E, E]`, keys and values `[K * d, E]` of a fused matrix `[E + 2 * K * d, E]`."""
    rows, width = fused.shape
    grouped = (rows - width) // 2
    if grouped <= 0 or (rows - width) % 2 or width % grouped:
        raise CheckpointError(f"{what}: {rows} x {width} does not hold queries, keys and values")
    return tuple(part.clone() for part in fused.split([width, grouped, grouped]))


def _check_frequencies(stored: Tensor, what: str) -> None:
    """Refuse frequencies of another base; bfloat16 ones are up to 0.6 % away from the exact."""
    if stored.is_meta:
        return
    exact = inverse_frequencies(2 * stored.numel(), ROPE_BASE)
    if not torch.allclose(stored.float().flatten(), exact, rtol=0.02, atol=0.0):
        raise CheckpointError(f"{what}: not the frequencies of base {ROPE_BASE:g}")


# ---------------------------------------------------------------- the folder


def sizes_of(told: Mapping[str, Any]) -> tuple[Eva2ClipConfig, LlamaSizes]:
    """Sizes of encoder and language model from an official config.

    Raises:
        KeyError: a size is not told.
        ValueError: an activation or a number of colours that is not built.
    """
    eyes = told["vision_config"]
    form = eyes.get("hidden_act", "gelu"), eyes.get("in_channels", 3)
    if form != ("gelu", 3):
        raise ValueError(f"an encoder with {form[0]} and {form[1]} colours is not built")
    vision = Eva2ClipConfig(
        image_size=eyes["image_size"],
        patch_size=eyes["patch_size"],
        hidden_size=eyes["hidden_size"],
        intermediate_size=eyes["intermediate_size"],
        num_layers=eyes["num_hidden_layers"],
        num_heads=eyes["num_heads"],
        norm_eps=eyes["layer_norm_eps"],
    )
    return vision, llama_sizes(told)


def llama_sizes(told: Mapping[str, Any]) -> LlamaSizes:
    """Sizes of the language model from an official config. Raises as `sizes_of`."""
    if told.get("hidden_act", "silu") != "silu":
        raise ValueError(f"a language model with {told['hidden_act']} is not built")
    return LlamaSizes(
        vocab_size=told["vocab_size"],
        hidden_size=told["hidden_size"],
        intermediate_size=told["intermediate_size"],
        num_layers=told["num_hidden_layers"],
        num_heads=told["num_attention_heads"],
        num_key_value_heads=told["num_multi_query_heads"],
        rms_norm_eps=told["rms_norm_eps"],
        rope_theta=ROPE_BASE,
        max_positions=told.get("max_position_embeddings", 8192),
    )


def read_sizes(folder: Path) -> tuple[Eva2ClipConfig, LlamaSizes]:
    """Sizes from the `config.json` of a folder. Raises CheckpointError."""
    path = folder / "config.json"
    try:
        return sizes_of(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: not the config of a CogVLM2 ({error!r})") from error


def load_released(
    folder: Path,
    device: str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    official_rotary: bool = False,
    kind: str | None = None,
    trained: bool = True,
    **options: Any,
) -> CogVLM2:
    """Build the image model or the video model, whichever a folder holds, with its weights.

    Args:
        folder: see the head of this file. If "base" is in its name, `template` and `sampling` are
            "base" where nothing else is said (the `template_version` in the files is "base" for all
            video models, the chat model included, so it is not looked at).
        device, dtype: of the result.
        official_rotary: angles from the stored frequencies, in their type.
        trained: False: the connector is random and experts are copies of the language model's
            weights, or left out (`experts=False`), as pre-training begins; encoder and language
            model are still the folder's.
        kind: "image" or "video" refuses a folder of the other model; None takes either.
        options: settings that differ from the released ones (`CogVLM2Config`). `experts=True` for a
            folder without gives the video model experts that begin as copies; another `image_size`
            stretches the position table.

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit; keys are listed.
    """
    vision, llama = read_sizes(folder)
    tensors = read_tensors(folder)
    pictures, experts = has_experts(tensors), options.pop("experts", None)
    if kind not in (None, "image" if pictures else "video"):
        raise CheckpointError(f"{folder}: not the {kind} model (only the image model has experts)")
    if pictures and trained and experts is False:
        raise CheckpointError(f"{folder}: this model has experts, which cannot be left out")
    released = _released_config(folder, pictures, vision, llama)
    released = replace(released, experts=pictures and experts is not False)
    config = with_options(released, options)
    model = build_paper("meta", config, vision, llama)
    ours = from_official(tensors, str(folder), model.vision_encoder.config)
    if not config.experts:
        ours = {name: tensor for name, tensor in ours.items() if "vision_expert" not in name}
    ready = {name: tensor.to(device=device, dtype=dtype) for name, tensor in ours.items()}
    load_strict(model, ready, str(folder), assign=True)
    rebuild_buffers(model, device)
    if not trained:
        model.begin_connector()
        for layer in model.language_model.model.layers if config.experts else ():
            layer.copy_language()
    if experts and not pictures:
        model.language_model = add_visual_experts(model.language_model)
        model.config = replace(config, experts=True)
    if official_rotary:
        stored = [tensor for key, tensor in tensors.items() if FREQUENCIES.fullmatch(key)]
        if not stored or any(not torch.equal(stored[0], other) for other in stored):
            raise CheckpointError(f"{folder}: layers without frequencies, or with different ones")
        model.language_model.model.rotary_emb = StoredRotary(stored[0].to(device))
    model.processor = CogVLM2Processor(load_tokenizer(folder), model.config)
    return model.eval()


def _released_config(
    folder: Path, pictures: bool, vision: Eva2ClipConfig, llama: LlamaSizes
) -> CogVLM2Config:
    """Settings of the image model (`pictures`) or the video model at the sizes of a folder."""
    base = {"template": "base", "sampling": "base"}
    return replace(
        IMAGE_CONFIG if pictures else VIDEO_CONFIG,
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        adapter_width=llama.intermediate_size,
        **(base if not pictures and "base" in folder.name else {}),
    )
