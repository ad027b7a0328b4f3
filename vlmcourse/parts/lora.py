"""LoRA: a frozen linear layer W gets a trainable side path, `W x + alpha / rank * B (A x)`.

A `[rank, in]` starts at random and B `[out, rank]` at zero, so a model with fresh side paths is the
model without them.

Paper: LoRA, arXiv 2106.09685, section 4.1; its use here: MiniGPT4-video, arXiv 2404.03413.
Official: Vision-CAIR/MiniGPT4-video@ecabd7a:minigpt4/models/base_model.py wraps the whole model by
peft 0.2.0. Differs: only the layers are replaced, in place (peft's `inject_adapter_in_model`), so
the model stays the transformers class that it was, and all that works with one works with it.
"""

from collections.abc import Sequence

import torch
from torch import nn

ADAPTER = "default"
"""The name that peft puts into the names of weights: `q_proj.lora_A.default.weight`."""
QUERY_AND_VALUE = ("q_proj", "v_proj")


def add_lora(
    language_model: nn.Module,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: Sequence[str] = QUERY_AND_VALUE,
) -> nn.Module:
    """Give linear layers of a model a side path, in place; all that was there is frozen.

    Works on the meta device too. Weights that were `q_proj.weight` are `q_proj.base_layer.weight`
    afterwards; new are `q_proj.lora_A.default.weight` and `q_proj.lora_B.default.weight`.

    Args:
        language_model: any module with layers of these names.
        rank: width of the side path; 0 adds none.
        alpha: the side path counts `alpha / rank`.
        dropout: of what enters the side path, in training.
        targets: last parts of the names of layers.

    Returns:
        the same model.

    Raises:
        ValueError: no layer has one of these names, or there are side paths already.
    """
    if rank == 0:
        return language_model
    from peft import LoraConfig, inject_adapter_in_model

    if lora_names(language_model):
        raise ValueError("this model has side paths already")
    on_meta = next(language_model.parameters()).is_meta
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets), bias="none"
    )
    inject_adapter_in_model(config, language_model, ADAPTER, low_cpu_mem_usage=on_meta)
    return language_model.train(language_model.training)  # the new layers too


def begin_lora(model: nn.Module, device: torch.device | str, dtype: torch.dtype) -> None:
    """Give all side paths of a model their first values: A random, B zero."""
    for layer in model.modules():
        if hasattr(layer, "reset_lora_parameters"):
            for half in (layer.lora_A, layer.lora_B):
                half.to_empty(device=device).to(dtype)
            layer.reset_lora_parameters(ADAPTER, init_lora_weights=True)


def lora_names(model: nn.Module) -> list[str]:
    """Names of all weights of side paths."""
    return [name for name, _ in model.named_parameters() if ".lora_" in name]
