"""The token layout as boxes and as a strip: every token is in one box, in order, with its kind."""

import matplotlib as mpl
import numpy as np
import pytest

from vlmcourse.backbones.tokenizers import FastTokenizer
from vlmcourse.conversation import PICTURE, Places, Special, Text, TokenRow, ask, lay_out, tokenise
from vlmcourse.figures import png_bytes
from vlmcourse.figures.layout_boxes import Box, boxes_of_pieces, boxes_of_row, position_text
from vlmcourse.figures.layout_strip import layout_strip
from vlmcourse.foundations.tokenizer import build_tokenizer
from vlmcourse.systems.templates import WORLD_TEMPLATE

FRAMES = np.random.default_rng(0).integers(0, 60, (3, 32, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def tokenizer():
    return FastTokenizer(build_tokenizer())


@pytest.fixture(scope="module")
def pieces():
    frame = Places(PICTURE, 4, "<pad>")
    said = Text(" said : red circle is called anna . ")
    behind = (frame, Text("0"), frame, Text("at 1 . 5"), said, frame)
    return lay_out(
        ask("what happens first ?", "red circle glows"), WORLD_TEMPLATE, lambda _: behind
    )


def texts(figure):
    figure.canvas.draw()
    return [t.get_text() for t in figure.findobj(mpl.text.Text) if t.get_text()]


def test_every_token_is_in_one_box(pieces, tokenizer):
    row = tokenise(pieces, tokenizer)
    boxes = boxes_of_pieces(pieces, tokenizer, range(len(row)))
    assert sum(box.count for box in boxes) == len(row)
    assert [position for box in boxes for position in box.positions] == list(range(len(row)))
    assert [(box.kind, box.text) for box in boxes] == [
        ("special", "<s>"), ("picture", ""), ("time", "0"), ("picture", ""), ("time", "at 1 . 5"),
        ("said", "said : red circle is called anna ."), ("picture", ""), ("special", "USER:"),
        ("text", "what happens first ?"), ("special", "ASSISTANT:"),
        ("answer", "red circle glows </s>"),
    ]  # fmt: skip
    counts = [box.count for box in boxes if box.kind != "picture"]
    assert counts == [1, 1, 4, 8, 1, 3, 1, 4]


def test_the_same_from_ids_alone(pieces, tokenizer):
    row = tokenise(pieces, tokenizer)
    boxes = boxes_of_row(row, tokenizer.inner.decode)
    assert sum(box.count for box in boxes) == len(row)
    assert [box.kind for box in boxes] == [
        "text", "picture", "time", "picture", "said", "picture", "text", "answer"
    ]  # fmt: skip
    assert boxes[-1].text == "red circle glows </s>"
    together = TokenRow([0] * 12, [-100] * 12, [PICTURE] * 12)
    assert [box.count for box in boxes_of_row(together, str, 4)] == [4, 4, 4]
    with pytest.raises(ValueError, match="12 places does not fall into 5"):
        boxes_of_row(together, str, 5)
    with pytest.raises(ValueError, match="3 positions for 12 tokens"):
        boxes_of_row(together, str, 4, [1, 2, 3])


@pytest.mark.parametrize(
    ("positions", "told"),
    [
        ((), ""),
        ((7,), "7"),
        ((4, 5), "4 5"),
        ((3, 4, 5, 6), "3–6"),
        ((16, 35), "16–35"),
        ((1, 2, 2, 2, 3), "1 2×3 3"),
        ((2, 2), "2×2"),
    ],
)
def test_positions_in_short(positions, told):
    assert position_text(positions) == told


def test_a_strip_shows_frames_counts_texts_and_positions(pieces, tokenizer):
    row = tokenise(pieces, tokenizer)
    positions = np.arange(len(row))
    positions[2:4] = positions[2]
    boxes = boxes_of_pieces(pieces, tokenizer, positions)
    figure = layout_strip(boxes, FRAMES, title="A title")
    shown = texts(figure)
    assert {"A title", "0", "at 1 . 5", "×4", "USER:", "1 2×2 4"} <= set(shown)
    assert any("said : red circle" in text for text in shown)
    assert f"{len(row)} tokens" in shown
    drawn = [image.get_array() for image in figure.findobj(mpl.image.AxesImage)]
    assert len(drawn) == 3
    assert all((a == b).all() for a, b in zip(drawn, FRAMES))
    assert len(png_bytes(figure)) < 60_000
    assert "1 2×2 4" not in texts(layout_strip(boxes_of_pieces(pieces, tokenizer), FRAMES))


def test_boxes_break_into_lines_and_never_leave_the_figure():
    words = "is red circle seen or bell heard before blue star glows at the end of the clip "
    boxes = [Box("picture", "", 16), Box("said", words * 2, 30)] * 9
    figure = layout_strip(boxes)
    (axis,) = figure.axes
    left, right = axis.get_xlim()
    edges = [patch.get_bbox() for patch in axis.patches]
    assert len(edges) == 18
    assert len({round(edge.y0, 2) for edge in edges}) > 2
    assert all(left <= edge.x0 and edge.x1 <= right for edge in edges)
    assert any("…" in text for text in texts(figure)), "a long text is cut, and says so"


def test_long_films_are_shown_by_their_ends():
    boxes = [Box("special", "<s>", 1)]
    boxes += [x for n in range(45) for x in (Box("text", "<Img>", 3), Box("picture", "", 64))]
    boxes.append(Box("text", "why ?", 2))
    total = sum(box.count for box in boxes)
    figure = layout_strip(boxes, most_media=6)
    shown = texts(figure)
    assert f"{total:,} tokens" in shown
    assert "… 39 more" in shown
    assert shown.count("×64") == 6
    assert "why ?" in shown


@pytest.mark.parametrize(
    ("boxes", "frames", "complaint"),
    [([], None, "no boxes"), ([Box("text", "a", 1)], FRAMES, "3 frames have no box")],
)
def test_what_cannot_be_drawn_is_refused(boxes, frames, complaint):
    with pytest.raises(ValueError, match=complaint):
        layout_strip(boxes, frames)


def test_a_token_over_two_pieces_counts_once(tokenizer):
    pieces = [Special("<s>"), Text("red cir"), Text("cle glows"), Places(PICTURE, 2, "<pad>")]
    boxes = boxes_of_pieces(pieces, tokenizer)
    assert sum(box.count for box in boxes) == len(tokenise(pieces, tokenizer))
