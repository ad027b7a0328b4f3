"""Tokenizers behind one small face: plain text in, ids and character spans out.

`encode` never recognises a special token inside the text it is given, so nothing that a user types
can forge the end of a turn or a place for a video; special tokens are asked for by name
(`token_id`).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from vlmcourse.errors import UserError

Span = tuple[int, int]
"""First and one-past-last character that a token stands for; empty for a lone prefix space."""


class Tokenizer(Protocol):
    """What a conversation needs from a tokenizer."""

    bos_token: str
    eos_token: str
    pad_id: int

    def __len__(self) -> int: ...

    def encode(self, text: str) -> tuple[list[int], list[Span]]:
        """Ids and spans of plain text; no special token is added or recognised."""
        ...

    def token_id(self, token: str) -> int:
        """Id of one token by name. Raises KeyError when the vocabulary lacks it."""
        ...

    def add_tokens(self, tokens: Sequence[str]) -> list[int]:
        """Append new special tokens (those already there are kept) and return the ids of all."""
        ...

    def strips_beside(self, token: str) -> bool:
        """Whether white space on both sides of this special token vanishes."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without special tokens."""
        ...


class SentencePieceTokenizer:
    """A LLaMA-family `.model` file, read as transformers 4 read it in the years of these papers.

    Official: huggingface/transformers v4.31, `LlamaTokenizer` with `legacy=True` ("slow") and
    `LlamaTokenizerFast` ("fast"); transformers 5 has only the new behaviour.
    The text between two special tokens is tokenised on its own, so it starts with the blank that
    SentencePiece puts in front. Beside a token that was *added* later the slow kind drops all white
    space, newlines too; the fast kind keeps it. Beside `<s>` and `</s>` both keep it.

    Args:
        path: the SentencePiece model.
        style: "slow" or "fast".
        pad_token: used for padding; the LLaMA family has none of its own and takes `<unk>`.
    """

    def __init__(self, path: str | Path, style: str = "slow", pad_token: str = "<unk>"):
        import sentencepiece

        if style not in ("slow", "fast"):
            raise ValueError(f'style is "slow" or "fast", not {style!r}')
        try:
            self.model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise UserError(f"{path}: not a SentencePiece model ({error})") from error
        self.style = style
        self.added: dict[str, int] = {}
        self.bos_token = self.model.id_to_piece(self.model.bos_id())
        self.eos_token = self.model.id_to_piece(self.model.eos_id())
        unknown = self.model.id_to_piece(self.model.unk_id())
        self._control = {
            t: self.model.piece_to_id(t) for t in (self.bos_token, self.eos_token, unknown)
        }
        self.pad_id = self.token_id(pad_token)

    def __len__(self) -> int:
        return self.model.get_piece_size() + len(self.added)

    def add_tokens(self, tokens: Sequence[str]) -> list[int]:
        for token in tokens:
            if token not in self.added and token not in self._control:
                self.added[token] = len(self)
        return [self.token_id(token) for token in tokens]

    def token_id(self, token: str) -> int:
        found = self.added.get(token, self._control.get(token))
        if found is None:
            found = self.model.piece_to_id(token)
            if self.model.id_to_piece(found) != token:
                raise KeyError(f"the vocabulary has no token {token!r}")
        return found

    def token(self, index: int) -> str:
        """The piece behind an id."""
        base = self.model.get_piece_size()
        return self.model.id_to_piece(index) if index < base else list(self.added)[index - base]

    def strips_beside(self, token: str) -> bool:
        return self.style == "slow" and token in self.added

    def encode(self, text: str) -> tuple[list[int], list[Span]]:
        result = self.model.encode(text, return_type="offset_mapping")
        return list(result["ids"]), [tuple(span) for span in result["offsets"]]

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a text in which special tokens are written out, with `<s>` in front.

        This is what calling the official tokenizer gives. Use it only on text that no user wrote.
        """
        special = sorted([*self._control, *self.added], key=len, reverse=True)
        parts = re.split("(" + "|".join(map(re.escape, special)) + ")", text)
        ids = [self.token_id(self.bos_token)]
        for index, part in enumerate(parts):
            if index % 2:
                ids.append(self.token_id(part))
                continue
            if index > 0 and self.strips_beside(parts[index - 1]):
                part = part.lstrip()
            if index + 1 < len(parts) and self.strips_beside(parts[index + 1]):
                part = part.rstrip()
            ids.extend(self.encode(part)[0])
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        base = self.model.get_piece_size()
        kept = [int(i) for i in ids if i < base and not self.model.is_control(int(i))]
        return self.model.decode(kept)


class FastTokenizer:
    """A `tokenizer.json` folder (the small world's word-level one, for instance).

    Args:
        folder: a folder that `PreTrainedTokenizerFast` can load, or such a tokenizer itself.
    """

    def __init__(self, folder):
        from transformers import PreTrainedTokenizerFast

        if isinstance(folder, PreTrainedTokenizerFast):
            self.inner = folder
        else:
            self.inner = PreTrainedTokenizerFast.from_pretrained(str(folder))
        self.bos_token, self.eos_token = self.inner.bos_token, self.inner.eos_token
        pad = self.inner.pad_token_id
        self.pad_id = self.inner.unk_token_id if pad is None else pad

    def __len__(self) -> int:
        return len(self.inner)

    def words(self) -> list[str]:
        """All tokens in the order of their ids."""
        known = self.inner.get_vocab()
        return sorted(known, key=known.get)

    def add_tokens(self, tokens: Sequence[str]) -> list[int]:
        known = self.inner.get_vocab()
        self.inner.add_tokens([t for t in tokens if t not in known], special_tokens=True)
        return [self.token_id(token) for token in tokens]

    def token_id(self, token: str) -> int:
        found = self.inner.convert_tokens_to_ids(token)
        if found is None or (found == self.inner.unk_token_id and token != self.inner.unk_token):
            raise KeyError(f"the vocabulary has no token {token!r}")
        return found

    def strips_beside(self, token: str) -> bool:
        return False

    def encode(self, text: str) -> tuple[list[int], list[Span]]:
        result = self.inner(
            text,
            add_special_tokens=False,
            return_offsets_mapping=True,
            split_special_tokens=True,
        )
        return list(result["input_ids"]), [tuple(s) for s in result["offset_mapping"]]

    def decode(self, ids: Sequence[int]) -> str:
        return self.inner.decode([int(i) for i in ids], skip_special_tokens=True)


def load_tokenizer(path: str | Path, style: str = "slow") -> Tokenizer:
    """Open the tokenizer of a folder, or of one file.

    `tokenizer.model` wins over `tokenizer.json`, because the papers' training code read the former.

    Raises:
        UserError: the folder holds neither file.
    """
    path = Path(path)
    if path.suffix == ".model":
        return SentencePieceTokenizer(path, style)
    if (path / "tokenizer.model").is_file():
        return SentencePieceTokenizer(path / "tokenizer.model", style)
    if (path / "tokenizer.json").is_file():
        return FastTokenizer(path)
    raise UserError(f"{path}: no tokenizer.model and no tokenizer.json")
