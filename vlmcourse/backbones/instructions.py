"""Instructions as an instructed Q-Former reads them: texts to padded word ids, two vocabularies.

The words of a Q-Former are not those of the language model beside it: at the paper's size they are
BERT's, in the small world those of frames and of questions.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from vlmcourse.backbones.world_qformer import CONTRAST, END, TEXT_WORDS
from vlmcourse.errors import UserError
from vlmcourse.parts.qformer import QFormer, QFormerConfig
from vlmcourse.world.language import BASE_FORM

UNKNOWN, DECODE = "[UNK]", "[DEC]"
_WORDS = re.compile(r"[a-z0-9]+|[:,.]")


class Instructions(Protocol):
    """Texts to what an instructed Q-Former takes."""

    def __call__(self, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """Word ids `[B, length]` int64 padded at the right, and bool `[B, length]` where words are.

        A text that is too long loses its beginning, but not the token in front of it.
        """
        ...


def padded(rows: Sequence[Sequence[int]], length: int, pad: int = 0) -> tuple[Tensor, Tensor]:
    """Ids of texts, each with its first and last token, cut to a length in front and padded."""
    kept = [row if len(row) <= length else [row[0], *row[len(row) - length + 1 :]] for row in rows]
    ids = torch.full((len(kept), length), pad, dtype=torch.int64)
    for place, row in enumerate(kept):
        ids[place, : len(row)] = torch.tensor(row)
    count = torch.tensor([len(row) for row in kept])
    return ids, torch.arange(length) < count[:, None]


class BertInstructions:
    """BERT's word pieces, `[CLS] text [SEP]`, with one token more for decoding (never used here).

    Official: salesforce/LAVIS@506965b:lavis/models/blip2_models/blip2.py (`init_tokenizer`).

    Args:
        folder: of bert-base-uncased, with `tokenizer.json` or `vocab.txt`.

    Raises:
        UserError: neither is there.
    """

    def __init__(self, folder: str | Path):
        from transformers import AutoTokenizer, BertTokenizer

        folder = Path(folder)
        if (folder / "tokenizer.json").is_file():
            self.inner = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        elif (folder / "vocab.txt").is_file():
            self.inner = BertTokenizer(str(folder / "vocab.txt"))
        else:
            raise UserError(f"{folder}: no tokenizer.json and no vocab.txt of bert-base-uncased")
        self.inner.add_special_tokens({"bos_token": DECODE})

    def __len__(self) -> int:
        return len(self.inner)

    def __call__(self, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        rows = self.inner(list(texts), add_special_tokens=False)["input_ids"]
        first, last = self.inner.cls_token_id, self.inner.sep_token_id
        return padded([[first, *row, last] for row in rows], length, self.inner.pad_token_id)


class WorldInstructions:
    """The words of frames, then those of questions and answers that are not among them.

    Args:
        vocabulary: the language model's words; tokens that are no words are left out.
    """

    def __init__(self, vocabulary: Sequence[str]):
        more = [word for word in vocabulary if _WORDS.fullmatch(word) and word not in TEXT_WORDS]
        self.words = (*TEXT_WORDS, *more, UNKNOWN)
        self._ids = {word: i for i, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def __call__(self, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """As the protocol; articles and question marks are dropped, as the language model does."""
        unknown, rows = self._ids[UNKNOWN], []
        for text in texts:
            words = [w for w in _WORDS.findall(text.lower()) if w not in ("a", "an", "the")]
            ids = [self._ids.get(word, unknown) for word in words]
            rows.append([self._ids[CONTRAST], *ids, self._ids[END]])
        return padded(rows, length, 0)


def begin_from_image_qformer(qformer: QFormer, image: QFormer, words: Sequence[str]) -> None:
    """Give an instructed Q-Former of the small world all that the image Q-Former knows.

    Words of frames keep their meaning; a verb's base form begins as the verb ("jump" as "jumps");
    all other words of questions begin at random, as far apart as known ones are.

    Args:
        qformer: changed in place; sizes of `image`, but more words and positions of words.
        image: trained on frames and what they show, with its text side.
        words: of the new vocabulary, those of `image` first.
    """
    new, known = qformer.state_dict(), image.state_dict()
    tables = ("word_embeddings.weight", "position_embeddings.weight")
    with torch.no_grad():
        for name, value in known.items():
            rows = len(value) if name in tables else None
            new[name][:rows] = value[:rows]
        table, learnt = new[tables[0]], known[tables[0]]
        nn.init.normal_(table[len(learnt) :], std=float(learnt.std()))
        place = {word: i for i, word in enumerate(words)}
        for verb, base in BASE_FORM.items():
            if verb in place and base in place:
                table[place[base]] = table[place[verb]]


def fits(config: QFormerConfig, image: QFormerConfig) -> bool:
    """Whether an instructed Q-Former of this size can begin as the image Q-Former."""
    same = ("hidden_size", "num_layers", "num_heads", "intermediate_size", "encoder_width",
            "cross_attention_freq", "num_queries", "layer_norm_eps")  # fmt: skip
    return all(getattr(config, name) == getattr(image, name) for name in same)
