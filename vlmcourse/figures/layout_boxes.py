"""A row of tokens as boxes that people can read: frames, what is said, times, question, answer.

From the pieces of a row, which tell most, or from its ids alone.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vlmcourse.backbones.tokenizers import Tokenizer
from vlmcourse.conversation import (
    IGNORED,
    PICTURE,
    SOUND,
    TEXT,
    Piece,
    Places,
    Special,
    Text,
    TokenRow,
    tokenise,
)

MEDIA = {PICTURE: "picture", SOUND: "sound"}
TIME = re.compile(r"(at )?\d+( ?\. ?\d+)?( ?s)?")
SAID = ("<Cap>", "said :")


@dataclass(frozen=True)
class Box:
    """Neighbouring tokens that are one thing.

    Attributes:
        kind: one of `diagrams.KINDS`.
        text: what stands there; "" for a frame.
        count: of its tokens.
        positions: of its tokens in the language model; empty where nobody asked.
    """

    kind: str
    text: str
    count: int
    positions: tuple[int, ...] = ()


def boxes_of_pieces(
    pieces: Sequence[Piece], tokenizer: Tokenizer, positions: Sequence[int] | None = None
) -> list[Box]:
    """A box for each piece; neighbouring pieces of text of one kind share a box.

    A token that covers letters of two pieces counts for the first.

    Args:
        pieces: from `conversation.lay_out`, or a system's own.
        positions: `[L]` of the row that `conversation.tokenise` makes of them.

    Raises:
        ValueError: as many positions as tokens are needed.
    """
    row = tokenise(pieces, tokenizer)
    owners = _owners(pieces, tokenizer, len(row))
    seen, found = False, []
    for index, piece in enumerate(pieces):
        seen = seen or isinstance(piece, Places)
        text = piece.text if isinstance(piece, Text) else ""
        text = piece.token if isinstance(piece, Special) else text
        found.append(Box(_kind(piece, seen), text, owners.count(index)))
    return placed(_joined(box for box in found if box.count), positions)


def boxes_of_row(
    row: TokenRow,
    text_of: Callable[[list[int]], str],
    media_tokens: int | None = None,
    positions: Sequence[int] | None = None,
) -> list[Box]:
    """The same from ids: a box for each run of one kind.

    Args:
        text_of: ids to text, special tokens too.
        media_tokens: of one frame, where frames stand back to back; None takes each run as one.
        positions: `[L]`.

    Raises:
        ValueError: a run is no multiple of `media_tokens`.
    """
    keys = [
        (MEDIA.get(kind, "answer" if label != IGNORED else "text"))
        for kind, label in zip(row.kinds, row.labels, strict=True)
    ]
    starts = [i for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]]
    found = []
    for start, end in zip(starts, [*starts[1:], len(keys)]):
        kind, size = keys[start], end - start
        if kind in MEDIA.values():
            each = media_tokens or size
            if size % each:
                raise ValueError(f"a run of {size} places does not fall into {each} each")
            found += [Box(kind, "", each)] * (size // each)
            continue
        text = text_of(row.ids[start:end]).strip()
        after = any(box.kind in MEDIA.values() for box in found)
        found.append(Box(_text_kind(text, kind == "answer", after), text, size))
    return placed(found, positions)


def placed(boxes: Sequence[Box], positions: Sequence[int] | None) -> list[Box]:
    """Boxes with the positions of their tokens. Raises ValueError if these are not as many."""
    if positions is None:
        return list(boxes)
    total = sum(box.count for box in boxes)
    if len(positions) != total:
        raise ValueError(f"{len(positions)} positions for {total} tokens")
    found, start = [], 0
    for box in boxes:
        found.append(replace(box, positions=tuple(map(int, positions[start : start + box.count]))))
        start += box.count
    return found


def position_text(positions: Sequence[int]) -> str:
    """Positions in short: `3`, `3–18` for a run, `4 5×16 6` where tokens share one."""
    if not positions:
        return ""
    counts: list[list[int]] = []
    for position in positions:
        if counts and counts[-1][0] == position:
            counts[-1][1] += 1
        else:
            counts.append([position, 1])
    apart = counts[-1][0] - counts[0][0] > 1
    if apart and all(count == 1 for _, count in counts):
        return f"{counts[0][0]}–{counts[-1][0]}"
    return " ".join(f"{p}×{count}" if count > 1 else str(p) for p, count in counts)


def _owners(pieces: Sequence[Piece], tokenizer: Tokenizer, length: int) -> list[int]:
    """The piece behind every token: mark one piece of text after the other as trained and see which
    labels appear."""
    silent = [replace(p, trained=False) if isinstance(p, Text) else p for p in pieces]
    silent = [replace(p, trained=False) if isinstance(p, Special) else p for p in silent]
    owners = [-1] * length
    for index, piece in enumerate(pieces):
        if isinstance(piece, Places):
            continue
        marked = [*silent[:index], replace(piece, trained=True), *silent[index + 1 :]]
        for place, label in enumerate(tokenise(marked, tokenizer).labels):
            if label != IGNORED and owners[place] < 0:
                owners[place] = index
    media = iter([i for i, p in enumerate(pieces) if isinstance(p, Places) for _ in range(p.count)])
    kinds = tokenise(silent, tokenizer).kinds
    return [next(media) if kind != TEXT else owner for kind, owner in zip(kinds, owners)]


def _kind(piece: Piece, after_media: bool) -> str:
    if isinstance(piece, Places):
        return MEDIA[piece.kind]
    if isinstance(piece, Special):
        return "answer" if piece.trained else "special"
    return _text_kind(piece.text.strip(), piece.trained, after_media)


def _text_kind(text: str, trained: bool, after_media: bool) -> str:
    if trained:
        return "answer"
    if after_media and TIME.fullmatch(text):
        return "time"
    return "said" if any(mark in text for mark in SAID) else "text"


def _joined(boxes) -> list[Box]:
    """Boxes of text, one behind the other and of one kind, as one."""
    found: list[Box] = []
    for box in boxes:
        if found and box.kind == found[-1].kind and box.kind not in MEDIA.values():
            text = " ".join(f"{found[-1].text} {box.text}".split())
            found[-1] = replace(found[-1], text=text, count=found[-1].count + box.count)
        else:
            found.append(replace(box, text=" ".join(box.text.split())))
    return found
