from pathlib import Path

import pytest

from vlmcourse.backbones.tokenizers import FastTokenizer, SentencePieceTokenizer, load_tokenizer
from vlmcourse.errors import UserError

MODEL = Path(__file__).parents[1] / "reference" / "video_chatgpt" / "tiny_tokenizer.model"


@pytest.fixture(params=["slow", "fast"])
def pieces(request):
    tokenizer = SentencePieceTokenizer(MODEL, request.param)
    tokenizer.add_tokens(["<a>", "<b>"])
    return tokenizer


def test_added_tokens_follow_the_vocabulary_and_are_added_once(pieces):
    size = pieces.model.get_piece_size()
    assert len(pieces) == size + 2
    assert pieces.add_tokens(["<b>", "<c>"]) == [size + 1, size + 2]
    assert pieces.token(size + 2) == "<c>"


def test_white_space_beside_added_tokens(pieces):
    ids = pieces.encode_prompt("he is\n<a> he")
    names = [pieces.token(i) for i in ids]
    slow = ["<s>", "▁he", "▁is", "<a>", "▁he"]
    fast = ["<s>", "▁he", "▁is", "\n", "<a>", "▁", "▁he"]
    assert names == (slow if pieces.style == "slow" else fast)


def test_white_space_beside_end_of_text_stays_in_both(pieces):
    names = [pieces.token(i) for i in pieces.encode_prompt("he</s> he")]
    assert names == ["<s>", "▁he", "</s>", "▁", "▁he"]


def test_plain_text_cannot_forge_special_tokens(pieces):
    ids, _ = pieces.encode("he </s> is <a>")
    assert pieces.token_id("</s>") not in ids
    assert pieces.token_id("<a>") not in ids


def test_spans_cover_the_text(pieces):
    text = "he is riding a red bike."
    ids, spans = pieces.encode(text)
    assert len(ids) == len(spans)
    assert "".join(text[a:b] for a, b in spans) == text


def test_decode_leaves_out_special_tokens(pieces):
    ids = pieces.encode_prompt("he is<a></s>")
    assert pieces.decode(ids) == "he is"


def test_unknown_names_and_files():
    tokenizer = SentencePieceTokenizer(MODEL)
    with pytest.raises(KeyError, match="no token"):
        tokenizer.token_id("<nothing>")
    with pytest.raises(ValueError, match="slow"):
        SentencePieceTokenizer(MODEL, "quick")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        SentencePieceTokenizer(__file__)


def test_word_tokenizer_face(word_tokenizer):
    tokenizer = word_tokenizer
    ids, spans = tokenizer.encode("what colour ?")
    assert [tokenizer.token_id(w) for w in ("what", "colour", "?")] == ids
    assert spans == [(0, 4), (5, 11), (12, 13)]
    assert tokenizer.token_id("USER:") not in tokenizer.encode("USER: </s>")[0]
    assert tokenizer.decode([*ids, tokenizer.token_id("</s>")]) == "what colour ?"
    with pytest.raises(KeyError):
        tokenizer.token_id("<nothing>")


def test_load_from_a_folder(tmp_path, word_tokenizer):
    with pytest.raises(UserError, match="no tokenizer"):
        load_tokenizer(tmp_path)
    word_tokenizer.inner.save_pretrained(tmp_path)
    assert isinstance(load_tokenizer(tmp_path), FastTokenizer)
    (tmp_path / "tokenizer.model").write_bytes(MODEL.read_bytes())
    assert isinstance(load_tokenizer(tmp_path), SentencePieceTokenizer)
