"""Packed rows: what is shared stands there once, and every row can be read out of the whole."""

from pathlib import Path

import pytest

from vlmcourse.backbones.tokenizers import SentencePieceTokenizer
from vlmcourse.conversation import (
    IGNORED,
    PICTURE,
    Conversation,
    ConversationError,
    Places,
    Special,
    Text,
    TokenRow,
    Turn,
    ask,
    lay_out,
    tokenise,
)
from vlmcourse.row_packing import pack
from vlmcourse.systems.templates import vicuna_template

MODEL = Path(__file__).parent / "reference" / "video_chatgpt" / "tiny_tokenizer.model"
SHORT = vicuna_template("short", "the man is here.")
QUESTIONS = ("who is riding?", "who is singing on the stage?", "what is the man doing?")


@pytest.fixture
def tokenizer():
    made = SentencePieceTokenizer(MODEL)
    made.add_tokens(["<v>", "<start>", "<end>"])
    return made


def video(count):
    return lambda kind: (Special("<start>"), Places(PICTURE, count, "<v>"), Special("<end>"))


def told(text):
    return lambda kind: (Text(text),)


def holds(packed, rows):
    """Whether the shared part and each segment are the rows, as they were."""
    for number, row in enumerate(rows, start=1):
        own = [i for i, s in enumerate(packed.segments) if s in (0, number)]
        for name in ("ids", "labels", "kinds"):
            assert [getattr(packed, name)[i] for i in own] == getattr(row, name)
    shared = packed.segments.count(0)
    assert len(packed) == shared + sum(len(row) - shared for row in rows)
    assert packed.num_trained == sum(row.num_trained for row in rows)
    return shared


@pytest.mark.parametrize(
    ("expand", "ends"),
    [(video(3), "<v><v><v><end>▁wh"), (told("a dog barks."), "▁a▁dog▁barks.\nwh")],
)
def test_pack_shares_the_beginning(tokenizer, expand, ends):
    rows = [tokenise(lay_out(ask(q, "a man."), SHORT, expand), tokenizer) for q in QUESTIONS]
    shared = holds(pack(rows), rows)
    assert len({row.ids[shared] for row in rows}) > 1
    assert "".join(tokenizer.token(i) for i in rows[0].ids[:shared]).endswith(ends)


def test_the_same_question_twice_keeps_what_each_must_predict(tokenizer):
    row = tokenise(lay_out(ask("who?", "a man."), SHORT, video(3)), tokenizer)
    first = next(i for i, label in enumerate(row.labels) if label != IGNORED)
    assert holds(pack([row, row]), [row, row]) == first - 1


def test_texts_that_share_nothing_but_their_beginning(tokenizer):
    rows = [
        tokenise(lay_out(ask(q, "a man.", marker=""), SHORT, told("")), tokenizer)
        for q in ("who?", "what?")
    ]
    assert holds(pack(rows), rows) > 1
    strangers = [TokenRow([n, 5, 6], [IGNORED, IGNORED, 6], [0, 0, 0]) for n in (1, 2)]
    assert holds(pack(strangers), strangers) == 0


def test_other_media_and_none_are_refused(tokenizer):
    one = tokenise(lay_out(ask("who?", "a man."), SHORT, video(3)), tokenizer)
    other = tokenise(lay_out(ask("who?", "a man."), SHORT, video(4)), tokenizer)
    late = tokenise(lay_out(ask("who?", "a.", marker=""), SHORT, video(4)), tokenizer)
    with pytest.raises(ConversationError, match="same media"):
        pack([one, other])
    with pytest.raises(ConversationError, match="without media"):
        pack([one, late])
    question_first = Conversation((Turn("user", "who?\n<video>"), Turn("assistant", "a.")))
    another = Conversation((Turn("user", "what?\n<video>"), Turn("assistant", "a.")))
    with pytest.raises(ConversationError, match="same media"):
        pack([tokenise(lay_out(c, SHORT, video(3)), tokenizer) for c in (question_first, another)])
    bare = TokenRow([1, 9, 9, 4], [IGNORED, IGNORED, IGNORED, 4], [0, PICTURE, PICTURE, 0])
    with pytest.raises(ConversationError, match=r"right behind the media .*questions_per_video=1"):
        pack([bare, bare])
    with pytest.raises(ConversationError, match="nothing stands in front"):
        pack([TokenRow([1, 2], [1, 2], [0, 0])])
