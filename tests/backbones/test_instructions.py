"""Instructions: words of the small world, BERT's word pieces, what is cut and where."""

import pytest
import torch

from vlmcourse.backbones.foundations import load_image_text_qformer
from vlmcourse.backbones.instructions import (
    BertInstructions,
    WorldInstructions,
    begin_from_image_qformer,
    padded,
)
from vlmcourse.backbones.world_qformer import TEXT_WORDS
from vlmcourse.errors import UserError
from vlmcourse.parts.qformer import QFormer, QFormerConfig

VOCABULARY = ["<s>", "USER:", "red", "circle", "what", "jump", ":", "12"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "is", "the", "acti", "##vity", "?", "[MASK]"]


def test_a_long_text_loses_its_beginning_but_not_its_first_token():
    ids, mask = padded([[7, 1, 2, 3, 9], [7, 9]], 4, pad=5)
    assert ids.tolist() == [[7, 2, 3, 9], [7, 9, 5, 5]]
    assert mask.tolist() == [[True] * 4, [True, True, False, False]]


def test_words_of_frames_come_first_then_those_of_questions():
    instructions = WorldInstructions(VOCABULARY)
    assert instructions.words[: len(TEXT_WORDS)] == TEXT_WORDS
    assert instructions.words[len(TEXT_WORDS) :] == ("what", "jump", ":", "12", "[UNK]")
    ids, mask = instructions(["What is a RED circle: 12?", "jump"], 10)
    told = [[instructions.words[i] for i in row[there]] for row, there in zip(ids, mask)]
    assert told == [
        ["[CLS]", "what", "[UNK]", "red", "circle", ":", "12", "<end>"],
        ["[CLS]", "jump", "<end>"],
    ]


def test_what_an_instructed_qformer_begins_with():
    image = load_image_text_qformer().qformer
    words = WorldInstructions(VOCABULARY).words
    sizes = {**vars(image.config), "vocab_size": len(words), "max_positions": 60}
    torch.manual_seed(0)
    qformer = QFormer(QFormerConfig(**sizes))
    begin_from_image_qformer(qformer, image, words)
    ids, _ = WorldInstructions(VOCABULARY)(["red circle"], 4)
    features = torch.randn(1, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(
            qformer(features, text_ids=ids).tokens, image(features, text_ids=ids).tokens
        )
    table = qformer.word_embeddings.weight
    assert table[words.index("jump")].equal(table[words.index("jumps")])
    assert 0.08 < float(table[words.index("what")].detach().std()) < 0.2


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return tmp_path


def test_bert_s_pieces(folder):
    instructions = BertInstructions(folder)
    assert len(instructions) == len(PIECES) + 1  # [DEC]
    ids, mask = instructions(["What is the activity?", "what"], 10)
    assert ids.tolist() == [[2, 4, 5, 6, 7, 8, 9, 3, 0, 0], [2, 4, 3, 0, 0, 0, 0, 0, 0, 0]]
    assert mask.sum(1).tolist() == [8, 3]
    assert instructions(["What is the activity?"], 4)[0].tolist() == [[2, 8, 9, 3]]


def test_a_folder_without_words(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer\.json and no vocab\.txt"):
        BertInstructions(tmp_path)
