"""Token rows as text files that a reviewer can read."""

from vlmcourse.conversation import IGNORED, TEXT, TokenRow


def described(row: TokenRow, name_of) -> str:
    """One line a token: kind, whether it is trained, its name; runs of places are folded."""
    lines, index = [], 0
    while index < len(row):
        end = index + 1
        same = (row.ids[index], row.kinds[index])
        while (
            row.kinds[index] != TEXT and end < len(row) and (row.ids[end], row.kinds[end]) == same
        ):
            end += 1
        kind = ("text", "picture", "sound")[row.kinds[index]]
        trained = "trained" if row.labels[index] != IGNORED else "-"
        times = f" x {end - index}" if end > index + 1 else ""
        lines.append(f"{index:4} {kind:8} {trained:8} {name_of(row.ids[index])!r}{times}")
        index = end
    return "\n".join(lines) + "\n"
