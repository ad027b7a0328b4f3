"""Several conversations about one video, or behind one text, as one row: what they share stands
there once."""

from collections.abc import Sequence

from vlmcourse.conversation import IGNORED, TEXT, ConversationError, TokenRow
from vlmcourse.parts.packing import PREFIX


def pack(rows: Sequence[TokenRow]) -> TokenRow:
    """Join rows into one that holds what they share once (`parts/packing.py`).

    The shared part is the longest beginning that all rows have in common, short of the token before
    the first trained one, which every row needs for itself. It holds all media of all rows; rows
    without media may share a text, or nothing but the begin token.

    Args:
        rows: one or more rows, none packed yet.

    Returns:
        `[shared][rest of row 1][rest of row 2]...`; segments 0, 1, 2, ...

    Raises:
        ConversationError: some rows have media and others none; rows do not begin with the same
            media, or have an answer right behind them; or a row's first token is trained.
    """
    first = rows[0]
    ends = [_media_end(row) for row in rows]
    if min(ends) == 0 < max(ends):
        raise ConversationError("a row without media cannot be packed with rows that have some")
    shared = min(_untrained_start(row) - 1 for row in rows)
    while shared > 0 and any(row.ids[:shared] != first.ids[:shared] for row in rows):
        shared -= 1
    if shared < 0:
        raise ConversationError("nothing stands in front of what a row trains")
    if shared < max(ends):
        same = all(row.ids[: max(ends)] == first.ids[: max(ends)] for row in rows)
        raise ConversationError(
            "an answer right behind the media leaves no token to share them: put each in a row of "
            "its own (questions_per_video=1)"
            if same
            else "the rows do not begin with the same media"
        )
    ids, labels, kinds = first.ids[:shared], first.labels[:shared], first.kinds[:shared]
    segments = [PREFIX] * shared
    for number, row in enumerate(rows, start=1):
        ids, labels = ids + row.ids[shared:], labels + row.labels[shared:]
        kinds = kinds + row.kinds[shared:]
        segments = segments + [number] * (len(row) - shared)
    return TokenRow(ids, labels, kinds, segments)


def _media_end(row: TokenRow) -> int:
    """Length of a row up to and including its last media place; 0 without media."""
    return max((i + 1 for i, kind in enumerate(row.kinds) if kind != TEXT), default=0)


def _untrained_start(row: TokenRow) -> int:
    """Number of tokens in front of the first trained one."""
    return next((i for i, label in enumerate(row.labels) if label != IGNORED), len(row))
