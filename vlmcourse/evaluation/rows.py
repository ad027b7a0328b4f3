"""Token rows of the probes: all questions of a clip in one packed row, with places or without."""

from collections.abc import Callable, Sequence

from vlmcourse.conversation import (
    IGNORED,
    TEXT,
    Expand,
    Places,
    Text,
    TokenRow,
    ask,
    lay_out,
    pack,
    tokenise,
)
from vlmcourse.evaluation.asked import Probes
from vlmcourse.parts.packing import PREFIX
from vlmcourse.systems.base import VideoLanguageModel
from vlmcourse.systems.processor import Clip
from vlmcourse.world.story import Story


def video_rows(model: VideoLanguageModel, probes: Probes, clips: Sequence[Clip]) -> list[TokenRow]:
    """One packed row a clip, laid out for `clips`: those that are shown, not always the asked.

    A clip of which the system is given nothing (a silent file, for one that only listens) has a row
    without places.
    """
    processor, rows = model.processor, []
    for asked, clip in zip(probes.asked, clips, strict=True):
        apart = [
            processor.row(ask(q.text, q.answer), clip, processor.answer_template) for q in asked
        ]
        without = all(kind == TEXT for kind in apart[0].kinds)
        rows.append(pack_text(apart) if without else pack(apart))
    return rows


def rows_without_places(model: VideoLanguageModel, probes: Probes) -> list[TokenRow]:
    """As `video_rows`, but only the marks around a video are left of it, if there are any."""

    def expand_for(clip: Clip) -> Expand:
        expand = model.processor.expand
        return lambda kind: [p for p in expand(kind, clip) if not isinstance(p, Places)]

    return text_rows(model, probes, [expand_for(clip) for clip in probes.clips])


def blind_rows(model: VideoLanguageModel, probes: Probes) -> list[TokenRow]:
    """Rows with questions and nothing else."""
    return text_rows(model, probes, [lambda kind: ()] * len(probes.asked))


def told_rows(
    model: VideoLanguageModel, probes: Probes, tell: Callable[[Story], str]
) -> list[TokenRow]:
    """Rows in which the true text of a clip stands in the place of the video."""

    def expand_for(story: Story) -> Expand:
        return lambda kind: (Text(tell(story) + " "),)

    return text_rows(model, probes, [expand_for(story) for story in probes.stories])


def text_rows(
    model: VideoLanguageModel, probes: Probes, expands: Sequence[Expand]
) -> list[TokenRow]:
    """One packed row a clip without places for media; `expands` says what stands there instead."""
    processor, rows = model.processor, []
    for asked, expand in zip(probes.asked, expands, strict=True):
        one_by_one = []
        for question in asked:
            conversation = ask(question.text, question.answer)
            pieces = lay_out(conversation, processor.answer_template, expand)
            one_by_one.append(tokenise(pieces, processor.tokenizer))
        rows.append(pack_text(one_by_one))
    return rows


def pack_text(rows: Sequence[TokenRow]) -> TokenRow:
    """As `conversation.pack`, for rows without media: what all begin with stands there once."""
    trained = [next(i for i, x in enumerate(row.labels) if x != IGNORED) for row in rows]
    shared = min(trained) - 1  # the token before the first trained one is each row's own
    while any(row.ids[:shared] != rows[0].ids[:shared] for row in rows):
        shared -= 1
    ids, labels, kinds = (list(x[:shared]) for x in (rows[0].ids, rows[0].labels, rows[0].kinds))
    segments = [PREFIX] * shared
    for number, row in enumerate(rows, start=1):
        ids += row.ids[shared:]
        labels += row.labels[shared:]
        kinds += row.kinds[shared:]
        segments += [number] * (len(row) - shared)
    return TokenRow(ids, labels, kinds, segments)
