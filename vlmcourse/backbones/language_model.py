"""The language model: always a transformers causal LM, built from sizes or loaded from a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmcourse.errors import UserError


@dataclass(frozen=True)
class LlamaSizes:
    """Sizes of a Llama; the defaults are LLaMA-7B.

    `max_positions` bounds nothing in the model itself; generation warns beyond it.
    """

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_layers: int = 32
    num_heads: int = 32
    num_key_value_heads: int | None = None
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_positions: int = 2048
    tie_embeddings: bool = False


LLAMA2_SIZES = LlamaSizes(rms_norm_eps=1e-5, max_positions=4096)
"""Llama 2 7B."""
MISTRAL_SIZES = LlamaSizes(
    intermediate_size=14336,
    num_key_value_heads=8,
    rms_norm_eps=1e-5,
    rope_theta=1e6,
    max_positions=32768,
)
"""Mistral 7B v0.2: as Llama, but four query heads share a key, and MLPs are wider."""


def build_llama(sizes: LlamaSizes):
    """Build a `LlamaForCausalLM` with random weights (or none: see `on_device`)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_settings(sizes)))


def build_mistral(sizes: LlamaSizes):
    """Build a `MistralForCausalLM`, without a sliding window (from version 0.2 on it has none)."""
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**_settings(sizes), sliding_window=None))


def build_qwen2(sizes: LlamaSizes):
    """Build a `Qwen2ForCausalLM`: as Llama, but queries, keys and values have biases."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**_settings(sizes), use_sliding_window=False))


def _settings(sizes: LlamaSizes) -> dict[str, Any]:
    """Sizes in the words of transformers."""
    return {
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_heads,
        "num_key_value_heads": sizes.num_key_value_heads or sizes.num_heads,
        "rms_norm_eps": sizes.rms_norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": sizes.rope_theta},
        "max_position_embeddings": sizes.max_positions,
        "tie_word_embeddings": sizes.tie_embeddings,
        "attn_implementation": "sdpa",
    }


def load_language_model(folder: str | Path, dtype: torch.dtype = torch.float32):
    """Load a causal LM from a folder that transformers wrote; nothing is looked up on a network.

    Raises:
        UserError: the folder has no `config.json`, or its weights do not fit.
    """
    from transformers import AutoModelForCausalLM

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json, so no language model here")
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: the language model does not load ({error})") from error
    lost = sorted(info["missing_keys"]) + sorted(info["unexpected_keys"])
    if lost:
        raise UserError(f"{folder}: keys missing or left over: {', '.join(lost[:8])}")
    return model.eval()


def grow_vocabulary(language_model: nn.Module, random_rows: int, mean_rows: int) -> None:
    """Add rows to the input and the output table, in place, as LLaVA and Video-ChatGPT do.

    First come rows with random values (for placeholders, whose values are never seen), then rows
    that start as the mean of all rows in front of them, the random ones included. The random values
    do not depend on the global seed.

    Args:
        language_model: a causal LM.
        random_rows, mean_rows: how many of each.
    """
    old = language_model.get_input_embeddings().weight.shape[0]
    language_model.resize_token_embeddings(old + random_rows + mean_rows, mean_resizing=False)
    std = language_model.config.initializer_range
    generator = torch.Generator().manual_seed(0)
    for module in (language_model.get_input_embeddings(), language_model.get_output_embeddings()):
        table = module.weight
        if table.is_meta:
            continue
        middle = old + random_rows
        with torch.no_grad():
            table[old:middle] = std * torch.randn(random_rows, table.shape[1], generator=generator)
            table[middle:] = mean_row(table[:middle])


def mean_row(table: Tensor) -> Tensor:
    """The mean `[E]` of rows `[R, E]`: where a new token that means something starts."""
    return table.mean(0)


def rebuild_buffers(model: nn.Module, device: torch.device | str) -> None:
    """Compute again what no checkpoint holds: rotary tables and position indices.

    Needed after a model was built on the meta device and its weights were assigned.
    """
    from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
    from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

    rotary = (LlamaRotaryEmbedding, MistralRotaryEmbedding, Qwen2RotaryEmbedding)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, rotary):
                setattr(module, name, type(child)(config=child.config).to(device))
        if isinstance(module, CLIPVisionEmbeddings):
            index = torch.arange(module.num_positions, device=device).expand(1, -1)
            module.register_buffer("position_ids", index, persistent=False)
