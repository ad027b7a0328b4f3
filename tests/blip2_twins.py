"""Tiny transformers models of BLIP-2 with random weights, and those weights under official keys."""

import torch
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
    Blip2VisionModel,
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
)


@torch.no_grad()
def scrambled(model, seed=0):
    """The model in eval mode with every weight random and large enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        if "norm" in name.lower() and name.endswith("weight"):
            parameter += 1
    return model.eval()


def vision_model(config, seed=0):
    """transformers' twin of an `EvaClipConfig` (one eps for all norms); keys have no bias."""
    twin = Blip2VisionModel(
        Blip2VisionConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            layer_norm_eps=config.norm_eps,
            hidden_act="gelu",
        )
    )
    scrambled(twin, seed)
    for layer in twin.encoder.layers:
        width = config.hidden_size
        layer.self_attn.qkv.bias.data[width : 2 * width] = 0
    return twin


def official_vision(twin):
    """Its weights under the keys of `visual_encoder` and `ln_vision`."""
    changes = (
        ("embeddings.class_embedding", "visual_encoder.cls_token"),
        ("embeddings.position_embedding", "visual_encoder.pos_embed"),
        ("embeddings.patch_embedding.", "visual_encoder.patch_embed.proj."),
        ("encoder.layers.", "visual_encoder.blocks."),
        ("post_layernorm.", "ln_vision."),
        (".layer_norm", ".norm"),
        (".self_attn.projection.", ".attn.proj."),
        (".self_attn.", ".attn."),
    )
    official = {}
    for name, tensor in twin.state_dict().items():
        for old, new in changes:
            name = name.replace(old, new)
        if name.endswith("qkv.bias"):
            query, _, value = tensor.chunk(3)
            official[name.replace("qkv.bias", "q_bias")] = query.clone()
            official[name.replace("qkv.bias", "v_bias")] = value.clone()
        else:
            official[name] = tensor
    return official


def _qformer_sizes(config):
    return {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.intermediate_size,
        "encoder_hidden_size": config.encoder_width,
        "cross_attention_frequency": config.cross_attention_freq,
        "layer_norm_eps": config.layer_norm_eps,
        "max_position_embeddings": config.max_positions,
        "attn_implementation": "eager",
    }


def qformer_model(config, seed=0):
    """transformers' Q-Former: BLIP-2's without a vocabulary, InstructBLIP's with one."""
    sizes = _qformer_sizes(config)
    if config.vocab_size is None:
        return scrambled(Blip2QFormerModel(Blip2QFormerConfig(**sizes)), seed)
    sizes["vocab_size"] = config.vocab_size
    return scrambled(InstructBlipQFormerModel(InstructBlipQFormerConfig(**sizes)), seed)


def official_qformer(twin, queries):
    """Its weights under the keys of `Qformer`, and `query_tokens`."""
    official = {"query_tokens": queries}
    for name, tensor in twin.state_dict().items():
        name = name.replace("attention.attention.", "attention.self.")
        name = name.replace("embeddings.layernorm.", "embeddings.LayerNorm.")
        name = "embeddings.LayerNorm." + name[10:] if name.startswith("layernorm.") else name
        official[f"Qformer.bert.{name}"] = tensor
    return official
