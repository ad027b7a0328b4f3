"""The small world's image Q-Former: it turns a frame's patch features into 16 tokens.

It is BLIP-2's first stage at the world's size: one Q-Former under three attention masks, and three
small heads that were needed for its pretraining. A video system keeps the Q-Former alone.

Paper: BLIP-2, arXiv 2301.12597, section 3.2.
Official: salesforce/LAVIS@506965b:lavis/models/blip2_models/blip2_qformer.py.
Differs: the word head is the word embeddings and a bias, without a layer of its own.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlmcourse.parts.qformer import QFormer, QFormerConfig, QFormerOutput
from vlmcourse.world.story import ACTIONS, COLOURS, COLUMNS, ROWS, SHAPES, SIZES

PAD, CONTRAST, BEGIN, END, COMMA = "<pad>", "[CLS]", "[DEC]", "<end>", ","
STILL, NUMBER = "still", "number"
DIGITS = tuple(str(n) for n in range(10))
TEXT_WORDS = (
    *(PAD, CONTRAST, BEGIN, END, COMMA),
    *(*ROWS, *COLUMNS, *SIZES, *COLOURS, *SHAPES, STILL, *ACTIONS, NUMBER, *DIGITS),
)
"""What one frame can show; a vocabulary of its own, so that the language model's may grow."""
WORD_ID = {word: i for i, word in enumerate(TEXT_WORDS)}
MOST_WORDS = 48

WORLD_QFORMER = QFormerConfig(
    hidden_size=96,
    num_layers=4,
    num_heads=4,
    intermediate_size=192,
    encoder_width=96,
    cross_attention_freq=2,
    num_queries=16,
    dropout=0.0,
    vocab_size=len(TEXT_WORDS),
    max_positions=MOST_WORDS,
)


def text_ids(texts: Sequence[Sequence[str]], length: int | None = None) -> Tensor:
    """Turn word lists into ids, padded at the right: `[B, L]`.

    Raises:
        ValueError: a word that no frame can show.
    """
    length = length or max(len(words) for words in texts)
    unknown = {word for words in texts for word in words} - set(WORD_ID)
    if unknown:
        raise ValueError(f"not among the words of a frame: {', '.join(sorted(unknown))}")
    rows = [[WORD_ID[w] for w in words] + [0] * (length - len(words)) for words in texts]
    return torch.tensor(rows)


class ImageTextQFormer(nn.Module):
    """A Q-Former and the heads of BLIP-2's three losses: contrast, matching, generation."""

    def __init__(self, config: QFormerConfig = WORLD_QFORMER, contrast_width: int = 48):
        super().__init__()
        self.qformer = QFormer(config)
        self.image_projection = nn.Linear(config.hidden_size, contrast_width)
        self.text_projection = nn.Linear(config.hidden_size, contrast_width)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(0.07)))
        self.match_head = nn.Linear(config.hidden_size, 2)
        self.word_bias = nn.Parameter(torch.zeros(config.vocab_size))

    def similarity(self, tokens: Tensor, texts: Tensor) -> Tensor:
        """Cosine of every text with its best query of every frame (unimodal mask).

        Args:
            tokens: `[B, Nq, D]` of the Q-Former without text.
            texts: `[K, L]` ids that begin with `[CLS]`.

        Returns:
            `[B, K]`.
        """
        images = F.normalize(self.image_projection(tokens), dim=-1)  # [B, Nq, C]
        words = self.qformer.encode_text(texts, texts != 0)[:, 0]  # [K, D]
        words = F.normalize(self.text_projection(words), dim=-1)  # [K, C]
        return (images @ words.T).amax(1)

    def match(self, features: Tensor, texts: Tensor) -> Tensor:
        """Logits of "does not belong" and "belongs" (bidirectional mask), mean over the queries.

        Args:
            features: `[B, P, De]` of the frames.
            texts: `[B, L]` one text for each frame.

        Returns:
            `[B, 2]`.
        """
        out = self.qformer(features, text_ids=texts, text_mask=texts != 0)
        return self.match_head(out.tokens).mean(1)

    def caption_logits(self, features: Tensor, captions: Tensor) -> tuple[Tensor, QFormerOutput]:
        """Logits of the next word `[B, L, V]` (causal mask) after `captions [B, L]`.

        The queries do not see the text, so the output's tokens are those without text.
        """
        out = self.qformer(features, text_ids=captions, text_attention="causal")
        return F.linear(out.text, self.qformer.word_embeddings.weight, self.word_bias), out

    @torch.no_grad()
    def generate(self, features: Tensor, begin: Sequence[str] = ()) -> list[list[str]]:
        """Caption frames greedily: `[B, P, De]` to a list of words each (without `<end>`).

        Args:
            begin: words that every caption begins with, for example a place.
        """
        ids = text_ids([[BEGIN, *begin]]).repeat(len(features), 1).to(features.device)
        ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        while ids.shape[1] < MOST_WORDS and not bool(ended.all()):
            chosen = self.caption_logits(features, ids)[0][:, -1].argmax(-1)
            ids = torch.cat([ids, chosen.masked_fill(ended, WORD_ID[END])[:, None]], dim=1)
            ended |= chosen == WORD_ID[END]
        rows = [[TEXT_WORDS[i] for i in row] for row in ids[:, 1:].tolist()]
        return [row[: row.index(END)] if END in row else row for row in rows]
