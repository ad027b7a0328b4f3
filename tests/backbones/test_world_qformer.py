"""The image Q-Former of the world: three masks, its heads, the shipped weights."""

import numpy as np
import pytest
import torch

from vlmcourse.backbones.foundations import (
    FOUNDATIONS,
    load_image_qformer,
    load_image_text_qformer,
    load_vision_encoder,
)
from vlmcourse.backbones.world_qformer import (
    BEGIN,
    CONTRAST,
    END,
    MOST_WORDS,
    TEXT_WORDS,
    WORD_ID,
    ImageTextQFormer,
    text_ids,
)
from vlmcourse.errors import UserError
from vlmcourse.parts.qformer import QFormerConfig

SMALL = QFormerConfig(
    hidden_size=16,
    num_layers=3,
    num_heads=2,
    intermediate_size=24,
    encoder_width=12,
    num_queries=5,
    dropout=0.0,
    vocab_size=len(TEXT_WORDS),
    max_positions=MOST_WORDS,
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = ImageTextQFormer(SMALL, contrast_width=8).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_queries_do_not_see_the_caption_and_words_do_not_see_later_ones(model):
    features = torch.randn(2, 7, 12)
    ids = text_ids([[BEGIN, "top", "left", "small"], [BEGIN, "bottom", "right", "number"]])
    logits, out = model.caption_logits(features, ids)
    close(out.tokens, model.qformer(features).tokens)
    other = ids.clone()
    other[:, 3] = WORD_ID["red"]
    changed = model.caption_logits(features, other)[0]
    close(changed[:, :3], logits[:, :3])
    assert not torch.allclose(changed[:, 3], logits[:, 3], atol=1e-3)


def test_matching_lets_queries_see_the_text_but_no_padding(model):
    features = torch.randn(1, 7, 12)
    words = [CONTRAST, "top", "left"]
    close(model.match(features, text_ids([words])), model.match(features, text_ids([words], 6)))
    changed = model.match(features, text_ids([[CONTRAST, "top", "right"]]))
    assert not torch.allclose(changed, model.match(features, text_ids([words])), atol=1e-3)


def test_similarity_is_that_of_the_best_query(model):
    tokens = torch.randn(3, 5, 16)
    texts = text_ids([[CONTRAST, "red"], [CONTRAST, "blue", "moon"]])
    scores = model.similarity(tokens, texts)
    each = torch.stack([model.similarity(tokens[:, q : q + 1], texts) for q in range(5)])
    close(scores, each.amax(0))
    assert scores.abs().max() <= 1 + 1e-6
    alone = model.similarity(tokens, text_ids([[CONTRAST, "red"]]))
    close(alone[:, 0], scores[:, 0])  # padding changes nothing


def test_generation_takes_the_likeliest_word_each_time(model):
    features = torch.randn(3, 7, 12)
    for words, one in zip(model.generate(features), features, strict=True):
        said = text_ids([[BEGIN, *words, END][:MOST_WORDS]])
        likeliest = model.caption_logits(one[None], said[:, :-1])[0].argmax(-1)
        assert torch.equal(likeliest, said[:, 1:])
        assert END not in words
    begun = model.generate(features, begin=("top", "left"))
    assert all(words[:2] == ["top", "left"] for words in begun)


def test_an_unknown_word_is_named():
    with pytest.raises(ValueError, match="zebra"):
        text_ids([[CONTRAST, "zebra"]])


def test_what_a_video_system_keeps_gives_the_same_tokens_without_text_side():
    whole, kept = load_image_text_qformer(), load_image_qformer()
    features = torch.randn(2, 64, 96)
    close(kept(features).tokens, whole.qformer(features).tokens)
    assert kept(features).tokens.shape == (2, 16, 96)
    assert not any("word" in name or "text" in name for name, _ in kept.named_parameters())
    assert not kept.training
    assert (FOUNDATIONS / "image_qformer.safetensors").stat().st_size < 3e6


def test_the_shipped_weights_tell_what_stands_where():
    from vlmcourse.foundations.image_qformer import clause_words, draw_frames
    from vlmcourse.foundations.image_qformer_gates import split_clauses

    frames = draw_frames(load_vision_encoder(), 40, 777, held_out="require")
    said = load_image_text_qformer().generate(frames.features.float())
    told = [
        tuple(clause_words(clause)) in split_clauses(words)
        for words, clauses in zip(said, frames.clauses, strict=True)
        for clause in clauses
    ]
    assert np.mean(told) > 0.75


def test_a_missing_or_foreign_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"image_qformer\.safetensors: missing"):
        load_image_qformer(tmp_path)
    shipped = (FOUNDATIONS / "vision_encoder.safetensors").read_bytes()
    (tmp_path / "image_qformer.safetensors").write_bytes(shipped)
    with pytest.raises(UserError, match="not the world's image Q-Former"):
        load_image_qformer(tmp_path)
