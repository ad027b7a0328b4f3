"""The Q-Former: a few learned queries read a long row of features and return as many tokens.

One layer, post-norm as in BERT (after every step: residual, then LayerNorm):

    queries    text        self-attention with shared weights: queries and text see each other
       |         |
    features     |         cross-attention in every `cross_attention_freq`-th layer, queries only
       |         |
      MLP       MLP        two feed-forwards, one for the queries and one for the text

Paper: BLIP-2, arXiv 2301.12597, section 3.1; InstructBLIP, arXiv 2305.06500 (answers with text
beside the queries); Video-LLaMA, arXiv 2306.02858 (two layers over the frames of a video).
Official: salesforce/LAVIS@506965b:lavis/models/blip2_models/Qformer.py.
Differs: what is hidden weighs nothing (official: score minus 10,000); no vocabulary head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlmcourse.parts.text_visibility import text_visibility


@dataclass(frozen=True)
class QFormerConfig:
    """Sizes; the defaults are BLIP-2's over EVA ViT-g. No `vocab_size`: no text parts."""

    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    encoder_width: int = 1408
    cross_attention_freq: int = 2
    num_queries: int = 32
    layer_norm_eps: float = 1e-12
    dropout: float = 0.1
    vocab_size: int | None = None
    max_positions: int = 512


@dataclass
class QFormerOutput:
    """The tokens, and on request what happened inside (rows of attention maps sum to one)."""

    tokens: Tensor  # [B, Nq, D] queries after the last layer
    text: Tensor | None = None  # [B, L, D] text after the last layer
    hidden_states: tuple[Tensor, ...] | None = None  # layers + 1 of [B, Nq + L, D]
    cross_attentions: tuple[Tensor, ...] | None = None  # [B, H, Nq, N], layers that have one
    self_attentions: tuple[Tensor, ...] | None = None  # [B, H, Nq + L, Nq + L], all layers


class Attention(nn.Module):
    """Attention from `x [B, Q, D]` to `source [B, K, Ds]`, then residual and LayerNorm."""

    def __init__(self, config: QFormerConfig, source_width: int):
        super().__init__()
        width, self.num_heads, self.dropout = config.hidden_size, config.num_heads, config.dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(source_width, width)
        self.value = nn.Linear(source_width, width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, source: Tensor, visible: Tensor | None, with_map: bool):
        """`visible`: bool, broadcasts to `[B, H, Q, K]`, None = all. Returns `[B, Q, D]`, map."""
        q, k, v = self.query(x), self.key(source), self.value(source)
        q, k, v = (y.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for y in (q, k, v))
        weights, dropout = None, self.dropout if self.training else 0.0
        if with_map:  # in the open; the fused kernel gives the same and keeps no map
            weights = attention_map(q, k, visible)  # [B, H, Q, K]
            read = F.dropout(weights, dropout) @ v
        else:
            read = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=dropout)
        read = self.output(read.transpose(1, 2).flatten(2))  # [B, H, Q, D / H] -> [B, Q, D]
        return self.norm(x + F.dropout(read, dropout)), weights


def attention_map(q: Tensor, k: Tensor, visible: Tensor | None) -> Tensor:
    """Softmax of scaled products, `[B, H, Q, K]`; all zero in a row where nothing is visible."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if visible is None:
        return scores.softmax(-1)
    return scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1) * visible


class FeedForward(nn.Module):
    """Two linear layers with an exact GELU between them, then residual and LayerNorm."""

    def __init__(self, config: QFormerConfig):
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.dropout(self.down(F.gelu(self.up(x)))))


class QFormerLayer(nn.Module):
    """See the picture at the head of this file."""

    def __init__(self, config: QFormerConfig, cross: bool):
        super().__init__()
        self.self_attention = Attention(config, config.hidden_size)
        self.cross_attention = Attention(config, config.encoder_width) if cross else None
        self.feed_forward = FeedForward(config)
        self.text_feed_forward = FeedForward(config) if config.vocab_size else None

    def forward(self, x, num_queries, visible, features, exists, with_map, source=None):
        """`[B, Nq + L, D]` to the same shape, with both attention maps (None where not made).

        `source [B, K, D]`: what self-attention reads instead of `x` (a memory and `x`). `features`
        may be those of fewer videos, each for as many rows in turn.
        """
        x, self_map = self.self_attention(x, x if source is None else source, visible, with_map)
        queries, text, cross_map = x[:, :num_queries], x[:, num_queries:], None
        if num_queries and self.cross_attention is not None:
            shape, videos = queries.shape, len(features)
            queries = queries.reshape(videos, -1, shape[-1])  # rows of a video side by side
            queries, cross_map = self.cross_attention(queries, features, exists, with_map)
            queries = queries.view(shape)
            if with_map and videos < len(queries):  # [V, H, R * Nq, N] -> [V * R, H, Nq, N]
                cross_map = cross_map.unflatten(2, (-1, num_queries)).transpose(1, 2).flatten(0, 1)
        queries = self.feed_forward(queries)
        text = self.text_feed_forward(text) if text.shape[1] else text
        return torch.cat([queries, text], dim=1), self_map, cross_map


class QFormer(nn.Module):
    """Queries, layers, and with a vocabulary words. Time, if it matters, is in the features."""

    def __init__(self, config: QFormerConfig):
        super().__init__()
        self.config, width, freq = config, config.hidden_size, config.cross_attention_freq
        self.queries = nn.Parameter(torch.empty(1, config.num_queries, width))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        if config.vocab_size:
            self.word_embeddings = nn.Embedding(config.vocab_size, width)
            self.position_embeddings = nn.Embedding(config.max_positions, width)
        layers = (QFormerLayer(config, i % freq == 0) for i in range(config.num_layers))
        self.layers = nn.ModuleList(layers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Give BERT's first values; biases are zero, and norms are what they are anew."""
        for name, value in self.named_parameters():
            if not name.endswith("norm.weight"):
                nn.init.normal_(value, std=0.02 if value.ndim > 1 else 0.0)

    def forward(
        self, encoder_tokens: Tensor | None, encoder_mask: Tensor | None = None, *,
        text_ids: Tensor | None = None, text_mask: Tensor | None = None,
        text_attention: str = "bidirectional", queries: Tensor | None = None,
        output_attentions: bool = False, output_hidden_states: bool = False,
    ) -> QFormerOutput:  # fmt: skip
        """Let the queries read the features, alone or with text beside them.

        Args:
            encoder_tokens, encoder_mask: `[B, N, De]` features, `[B, N]` bool where they exist; or
                of fewer videos than texts, each for as many texts in turn.
            text_ids, text_mask: `[B, L]` word ids, `[B, L]` bool where they exist. ValueError if
                there is no vocabulary or L is above `max_positions`.
            text_attention: "bidirectional" or "causal" (see `text_visibility`), else ValueError.
            queries: `[B or 1, Nq, D]` instead of the learned ones.
        """
        queries, visible = self.queries if queries is None else queries, None
        batch, nq = len(encoder_tokens if text_ids is None else text_ids), queries.shape[1]
        if text_ids is not None:
            visible = text_visibility(nq, text_ids, text_mask, text_attention)
        exists = None if encoder_mask is None else encoder_mask.bool()[:, None, None]  # [B,1,1,N]
        states, self_maps, cross_maps = [self.embed(batch, text_ids, queries)], [], []
        for layer in self.layers:
            x, own, read = layer(states[-1], nq, visible, encoder_tokens, exists, output_attentions)
            states.append(x)
            self_maps.append(own)
            cross_maps += [] if read is None else [read]
        hidden = tuple(states) if output_hidden_states else None
        maps = (tuple(cross_maps), tuple(self_maps)) if output_attentions else (None, None)
        return QFormerOutput(x[:, :nq], None if text_ids is None else x[:, nq:], hidden, *maps)

    def embed(self, batch: int, text_ids: Tensor | None, queries: Tensor) -> Tensor:
        """What enters the first layer: queries, then words if there are any, `[B, Nq + L, D]`."""
        x = self.norm(queries).expand(batch, -1, -1)  # [B, Nq, D]
        if text_ids is not None:
            x = torch.cat([x, self.norm(self._embed_text(text_ids))], dim=1)
        return self.dropout(x)

    def encode_text(self, text_ids: Tensor, text_mask: Tensor | None = None) -> Tensor:
        """Text alone, without queries and features: `[B, L]` ids to `[B, L, D]`."""
        return self(None, text_ids=text_ids, text_mask=text_mask, queries=self.queries[:, :0]).text

    def _embed_text(self, text_ids: Tensor) -> Tensor:
        length, vocab, most = text_ids.shape[1], self.config.vocab_size, self.config.max_positions
        if not vocab or length > most:
            raise ValueError(f"{length} words for a Q-Former of {vocab} words, {most} positions")
        return self.word_embeddings(text_ids) + self.position_embeddings.weight[:length]
