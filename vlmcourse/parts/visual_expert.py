"""Visual experts: a second set of weights in every layer of a language model, for pictures only.

    language token ->  q, k, v, o, MLP of the language model  -+
                                                               +-> one attention over all tokens
    picture token  ->  its own q, k, v, o and MLP             -+

Both kinds of tokens meet in the attention; what text alone computes stays what it was.

Paper: CogVLM, arXiv 2311.03079, section 2.1; CogVLM2, arXiv 2408.16500, section 2.
Official: Niky-san/cogvlm2_surce@29bac8a:modeling_cogvlm.py (`VisionExpertAttention`,
`VisionExpertMLP`).
Differs: most descriptions give CogVLM2-Video experts too; its released code and weights have none.
A forward without picture tokens does not touch the experts, so they get no gradient there.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init
from transformers import LlamaForCausalLM
from transformers.models.llama import modeling_llama as plain

from vlmcourse.parts.shared_positions import VISION

Function = Callable[[Tensor], Tensor]


def expert_mask(types: Tensor) -> Tensor:
    """Say which tokens use the experts: those of vision type whose next token is of vision type.

    So the last token of every run (eoi) goes through the language weights, while the first one
    (boi) goes through the vision weights. Pictures side by side are one run.

    Args:
        types: `[B, L]` int; 1 (`VISION`) for pictures, anything else for text and padding.

    Returns:
        `[B, L]` bool.
    """
    vision = types == VISION
    mask = torch.zeros_like(vision)
    mask[:, :-1] = vision[:, :-1] & vision[:, 1:]
    return mask


def routed(x: Tensor, mask: Tensor | None, language: Function, vision: Function) -> Tensor:
    """Put tokens `[B, L, D]` through `vision` where `mask` `[B, L]` is True, else `language`, to
    `[B, L, D2]`. Without a mask all are language."""
    if mask is None or not bool(mask.any()):
        return language(x)
    told, seen = language(x[~mask]), vision(x[mask])  # [M, D2] each
    result = told.new_empty(*mask.shape, told.shape[-1])
    result[~mask], result[mask] = told, seen
    return result


class ExpertAttention(plain.LlamaAttention):
    """A Llama's self-attention, its own weights kept, with further projections for pictures.

    Keys and values may be grouped: the expert's fused output is `[q: H * d, k: K * d, v: K * d]`
    with K key-value heads. It has a bias, as the official one; `vision_expert_dense` has one where
    the language model's own does (the official has not).
    """

    def __init__(self, attention: plain.LlamaAttention):
        with torch.device("meta"):
            super().__init__(attention.config, attention.layer_idx)
        for name, child in attention.named_children():
            setattr(self, name, child)
        (width, mixed), total = self.o_proj.weight.shape, sum(p.out_features for p in self.qkv)
        like = {"device": self.q_proj.weight.device, "dtype": self.q_proj.weight.dtype}
        self.vision_expert_query_key_value = skip_init(nn.Linear, width, total, bias=True, **like)
        biased = self.o_proj.bias is not None
        self.vision_expert_dense = skip_init(nn.Linear, mixed, width, bias=biased, **like)

    @property
    def qkv(self) -> tuple[nn.Linear, ...]:
        """The language model's three projections."""
        return self.q_proj, self.k_proj, self.v_proj

    def rotated(self, x: Tensor, angles: tuple[Tensor, Tensor], mask: Tensor | None):
        """Queries `[B, H, L, d]`, keys and values `[B, K, L, d]`; all but the values are turned."""

        def language(x: Tensor) -> Tensor:
            return torch.cat([project(x) for project in self.qkv], dim=-1)

        fused = routed(x, mask, language, self.vision_expert_query_key_value)
        query, key, value = (
            part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for part in fused.split([p.out_features for p in self.qkv], dim=-1)
        )
        return *plain.apply_rotary_pos_emb(query, key, *angles), value

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values=None,
        expert_mask: Tensor | None = None,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        """As `LlamaAttention.forward`, with `expert_mask` `[B, L]` bool."""
        query, key, value = self.rotated(hidden_states, position_embeddings, expert_mask)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = plain.ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, plain.eager_attention_forward
        )
        kwargs["dropout"] = self.attention_dropout if self.training else 0.0
        mixed, weights = attend(
            self, query, key, value, attention_mask, scaling=self.scaling, **kwargs
        )
        mixed = mixed.flatten(2)  # [B, L, H, d] -> [B, L, H * d]
        return routed(mixed, expert_mask, self.o_proj, self.vision_expert_dense), weights


class ExpertLayer(plain.LlamaDecoderLayer):
    """A Llama's decoder layer, its own weights kept, with experts beside attention and MLP."""

    def __init__(self, layer: plain.LlamaDecoderLayer):
        attention = layer.self_attn
        with torch.device("meta"):
            super().__init__(attention.config, attention.layer_idx)
            expert = plain.LlamaMLP(attention.config)
        self.self_attn = ExpertAttention(attention)
        self.mlp = layer.mlp
        self.input_layernorm = layer.input_layernorm
        self.post_attention_layernorm = layer.post_attention_layernorm
        like = attention.q_proj.weight
        self.vision_expert_mlp = expert.to(like.dtype).to_empty(device=like.device)

    @torch.no_grad()
    def copy_language(self) -> None:
        """Let the experts begin as what the language model's weights are; a bias it lacks is 0."""
        attention, fused = self.self_attn, self.self_attn.vision_expert_query_key_value
        fused.weight.copy_(torch.cat([p.weight for p in attention.qkv]))
        fused.bias.zero_()
        if attention.q_proj.bias is not None:
            fused.bias.copy_(torch.cat([p.bias for p in attention.qkv]))
        attention.vision_expert_dense.load_state_dict(attention.o_proj.state_dict())
        self.vision_expert_mlp.load_state_dict(self.mlp.state_dict())

    def forward(
        self, hidden_states: Tensor, *, expert_mask: Tensor | None = None, **kwargs
    ) -> Tensor:
        """As `LlamaDecoderLayer.forward`, with `expert_mask` `[B, L]` bool."""
        normed = self.input_layernorm(hidden_states)
        mixed, _ = self.self_attn(normed, expert_mask=expert_mask, **kwargs)
        hidden_states = hidden_states + mixed
        normed = self.post_attention_layernorm(hidden_states)
        return hidden_states + routed(normed, expert_mask, self.mlp, self.vision_expert_mlp)


class ExpertLlama(LlamaForCausalLM):
    """A Llama whose `forward`, decoder and `generate` take `expert_mask` `[B, L]` bool."""

    def prepare_inputs_for_generation(
        self, input_ids, inputs_embeds=None, expert_mask=None, is_first_iteration=False, **kwargs
    ):
        """The mask serves where the prompt is read, less what a cache has read of it before; what
        is generated is language. `generate` looks here for the names it may be given."""
        kwargs |= {"inputs_embeds": inputs_embeds, "is_first_iteration": is_first_iteration}
        inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)
        if expert_mask is not None and not kwargs.get("use_cache", True):
            raise ValueError("a model with experts generates with a cache")
        if expert_mask is not None and is_first_iteration:
            read = inputs["input_ids" if inputs_embeds is None else "inputs_embeds"]
            inputs["expert_mask"] = expert_mask[:, -read.shape[1] :]
        return inputs


def add_visual_experts(llama: LlamaForCausalLM, copy: bool = True) -> ExpertLlama:
    """Give every decoder layer experts for the tokens that `expert_mask` names.

    Args:
        llama: a plain Llama; its modules move into the result, under their old names.
        copy: the experts begin as copies of the language weights, so that nothing changes at
            first; False leaves their values undefined, for weights that are loaded next.

    Returns:
        the model, with `model.layers.N.self_attn.vision_expert_query_key_value`,
        `...self_attn.vision_expert_dense` and `model.layers.N.vision_expert_mlp`.

    Raises:
        ValueError: a Llama that has experts already.
    """
    if isinstance(llama, ExpertLlama):
        raise ValueError("this language model has experts already")
    with torch.device("meta"):
        result = ExpertLlama(llama.config)
    result.model, result.lm_head = llama.model, llama.lm_head
    result.generation_config = llama.generation_config
    for index, layer in enumerate(llama.model.layers):
        result.model.layers[index] = ExpertLayer(layer)
        if copy:
            result.model.layers[index].copy_language()
    return result.train(llama.training)
