"""The Q-Former against transformers' own, and what it must never do."""

from dataclasses import replace

import pytest
import torch
from blip2_twins import official_qformer, qformer_model, scrambled
from torch.testing import assert_close

from vlmcourse.checkpoints.files import load_strict
from vlmcourse.checkpoints.qformer import from_official
from vlmcourse.parts.qformer import QFormer, QFormerConfig

TINY = QFormerConfig(24, 4, 3, 40, 20, 2, 5, max_positions=16)
WORDS = replace(TINY, vocab_size=31)
TWO_LAYERS = replace(TINY, num_layers=2, cross_attention_freq=1, encoder_width=24)


def close(ours, theirs):
    assert_close(ours, theirs, atol=1e-5, rtol=0)


def former(config, seed=0):
    return scrambled(QFormer(config), seed)


def features(config, batch=2, count=7, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, count, config.encoder_width, generator=generator)


@pytest.fixture
def text():
    """Ids and mask; the second row has two words less."""
    ids = torch.randint(0, 31, (2, 6), generator=torch.Generator().manual_seed(2))
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    return ids, mask


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode(False), torch.no_grad():
        yield


def twins(config, seed=3):
    theirs = qformer_model(config, seed)
    queries = torch.randn(1, config.num_queries, config.hidden_size)
    ours = QFormer(config).eval()
    official = official_qformer(theirs, queries)
    load_strict(ours, from_official(official, bool(config.vocab_size)), "twin")
    return ours, theirs, queries


def partly(batch, count):
    mask = torch.ones(batch, count, dtype=torch.bool)
    mask[0, -2:] = False
    return mask


@pytest.mark.parametrize("config", [TINY, TWO_LAYERS, replace(TINY, cross_attention_freq=3)])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_blip2_of_transformers(config, masked):
    ours, theirs, queries = twins(config)
    x = features(config)
    mask = partly(*x.shape[:2]) if masked else None
    mine = ours(x, mask, output_attentions=True, output_hidden_states=True)
    their = theirs(
        queries.expand(2, -1, -1),
        encoder_hidden_states=x,
        encoder_attention_mask=None if mask is None else mask.long(),
        output_attentions=True,
        output_hidden_states=True,
    )
    close(ours(x, mask).tokens, their.last_hidden_state)
    close(mine.tokens, their.last_hidden_state)
    # transformers 5.23 records the maps of cross-attention among those of self-attention too
    own_maps = [m for m in their.attentions if m.shape[-1] == config.num_queries]
    for mine_all, their_all, count in (
        (mine.self_attentions, own_maps, config.num_layers),
        (mine.cross_attentions, their.cross_attentions, len(layers_with_cross(config))),
        (mine.hidden_states, their.hidden_states, config.num_layers + 1),
    ):
        assert len(mine_all) == len(their_all) == count
        for one, other in zip(mine_all, their_all):
            close(one, other)


def layers_with_cross(config):
    return range(0, config.num_layers, config.cross_attention_freq)


def test_equals_instructblip_of_transformers(text):
    ours, theirs, queries = twins(WORDS)
    ids, mask = text
    x = features(WORDS)
    seen = partly(2, 7)
    whole = torch.cat([torch.ones(2, 5, dtype=torch.bool), mask], dim=1)
    their = theirs(
        ids,
        attention_mask=whole.long(),
        query_embeds=queries.expand(2, -1, -1),
        encoder_hidden_states=x,
        encoder_attention_mask=seen.long(),
    ).last_hidden_state
    out = ours(x, seen, text_ids=ids, text_mask=mask)
    close(torch.cat([out.tokens, out.text], dim=1), their)


def test_causal_text_equals_instructblip_under_such_a_mask(text):
    ours, theirs, queries = twins(WORDS)
    ids, mask = text
    x, hidden = features(WORDS), torch.finfo(torch.float32).min
    added = torch.full((2, 1, 11, 11), hidden)
    for row in range(11):
        added[:, :, row, :5] = 0  # all see the queries
        for column in range(5, row + 1):
            added[:, 0, row, column] = torch.where(mask[:, column - 5], 0.0, hidden)
    their = theirs(
        ids, attention_mask=added, query_embeds=queries.expand(2, -1, -1), encoder_hidden_states=x
    ).last_hidden_state
    out = ours(x, text_ids=ids, text_mask=mask, text_attention="causal")
    close(torch.cat([out.tokens, out.text], dim=1), their)


def test_text_alone_equals_instructblip_of_transformers(text):
    ours, theirs, _ = twins(WORDS)
    ids, mask = text
    their = theirs(ids, attention_mask=mask.long()).last_hidden_state
    close(ours.encode_text(ids, mask), their)
    close(ours.encode_text(ids[:1]), their[:1])


@pytest.mark.parametrize("kind", ["bidirectional", "causal"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_fused_kernel_equals_attention_in_the_open(kind, masked, text):
    model = former(WORDS)
    ids, mask = text
    x, seen = features(WORDS), partly(2, 7) if masked else None
    asked = {"text_ids": ids, "text_mask": mask if masked else None, "text_attention": kind}
    fused, plain = model(x, seen, **asked), model(x, seen, **asked, output_attentions=True)
    close(fused.tokens, plain.tokens)
    close(fused.text, plain.text)
    assert fused.cross_attentions is None
    assert fused.hidden_states is None
    for own in plain.self_attentions:
        assert own.shape == (2, 3, 11, 11)
    for read in plain.cross_attentions:
        assert read.shape == (2, 3, 5, 7)
    for row in (*plain.self_attentions, *plain.cross_attentions):
        assert bool((row >= 0).all())
        close(row.sum(-1), torch.ones(row.shape[:-1]))
    if masked:
        assert all(not read[0, ..., -2:].any() for read in plain.cross_attentions)
        assert all(not own[1, ..., -2:].any() for own in plain.self_attentions)


def test_what_is_masked_may_be_anything(text):
    model = former(WORDS)
    ids, mask = text
    x, seen = features(WORDS), partly(2, 7)
    noise, other = x.clone(), ids.clone()
    noise[0, -2:] = 1e3
    other[1, 4:] = 7
    for kind in ("bidirectional", "causal"):
        first = model(x, seen, text_ids=ids, text_mask=mask, text_attention=kind)
        second = model(noise, seen, text_ids=other, text_mask=mask, text_attention=kind)
        close(first.tokens, second.tokens)
        close(first.text[mask], second.text[mask])
    cut = model(x[:1, :5]).tokens
    close(model(x, seen).tokens[:1], cut)


def test_features_have_no_order_and_queries_keep_theirs():
    model, x = former(TINY), features(TINY)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    close(model(x).tokens, model(x[:, order]).tokens)
    turned = model.queries.flip(1)
    close(model(x, queries=turned).tokens, model(x).tokens.flip(1))


def test_causal_text_sees_no_later_word_and_queries_see_no_word(text):
    model, x = former(WORDS), features(WORDS)
    ids, _ = text
    out = model(x, text_ids=ids, text_attention="causal")
    close(out.tokens, model(x).tokens)
    later = ids.clone()
    later[:, 3:] = (later[:, 3:] + 1) % 31
    changed = model(x, text_ids=later, text_attention="causal")
    close(changed.text[:, :3], out.text[:, :3])
    assert bool((changed.text[:, 3:] - out.text[:, 3:]).abs().amax(-1).gt(1e-3).all())
    for length in range(1, 6):
        shorter = model(x, text_ids=ids[:, :length], text_attention="causal").text
        close(shorter, out.text[:, :length])
    blind = model(x + 1, text_ids=ids, text_attention="causal").text
    assert bool((blind - out.text).abs().amax(-1).gt(1e-3).all())  # words do see the queries


def test_bidirectional_text_and_queries_see_each_other(text):
    model, x = former(WORDS), features(WORDS)
    ids, _ = text
    out = model(x, text_ids=ids)
    assert not torch.allclose(out.tokens, model(x).tokens, atol=1e-3)
    later = ids.clone()
    later[:, -1] = (later[:, -1] + 1) % 31
    assert not torch.allclose(model(x, text_ids=later).text[:, 0], out.text[:, 0], atol=1e-4)


def test_words_have_places():
    model, x = former(WORDS), features(WORDS)
    ids = torch.tensor([[3, 4, 5], [5, 4, 3]])
    out = model(x[:1].expand(2, -1, -1), text_ids=ids)
    assert not torch.allclose(out.tokens[0], out.tokens[1], atol=1e-4)
    assert not torch.allclose(model.encode_text(ids)[0], model.encode_text(ids)[1].flip(0))


def test_a_batch_equals_one_by_one(text):
    model, x = former(WORDS), features(WORDS)
    ids, mask = text
    for kind in ("bidirectional", "causal"):
        together = model(x, text_ids=ids, text_mask=mask, text_attention=kind)
        for i, length in enumerate((6, 4)):
            alone = model(x[i : i + 1], text_ids=ids[i : i + 1, :length], text_attention=kind)
            close(together.tokens[i : i + 1], alone.tokens)
            close(together.text[i : i + 1, :length], alone.text)


def test_who_may_look_nowhere_reads_zero():
    model = former(TWO_LAYERS)
    x, nothing = features(TWO_LAYERS), torch.zeros(2, 7, dtype=torch.bool)
    for maps in (False, True):
        with torch.enable_grad():
            given = x.clone().requires_grad_()
            tokens = model(given, nothing, output_attentions=maps).tokens
            (gradient,) = torch.autograd.grad(tokens.square().sum(), given)
        assert not gradient.any()
        close(tokens[0], tokens[1])
    close(tokens, model(x + 5, nothing).tokens)


def test_other_queries_may_be_given():
    model, x = former(TINY), features(TINY)
    single = model.queries[:, :2]
    assert model(x, queries=single).tokens.shape == (2, 2, 24)
    each = torch.randn(2, 3, 24)
    both = model(x, queries=each).tokens
    close(both[1:], model(x[1:], queries=each[1:]).tokens)


def test_dropout_acts_in_training_only():
    model, x = former(replace(TINY, dropout=0.5)), features(TINY)
    assert torch.equal(model(x).tokens, model(x).tokens)
    model.train()
    assert not torch.allclose(model(x).tokens, model(x).tokens, atol=1e-2)
    maps = model(x, output_attentions=True).cross_attentions
    assert all(torch.allclose(m.sum(-1), torch.ones(2, 3, 5)) for m in maps)  # before dropout


def test_starting_weights():
    torch.manual_seed(0)
    model = QFormer(replace(WORDS, hidden_size=96, vocab_size=200))
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            assert bool((parameter == 1).all()), name
        elif parameter.ndim == 1:
            assert not parameter.any(), name
        else:
            assert 0.017 < float(parameter.std()) < 0.023, name


def test_gradients_reach_every_parameter(text):
    model = former(WORDS)
    ids, mask = text
    with torch.enable_grad():
        out = model(features(WORDS), text_ids=ids, text_mask=mask)
        (out.tokens.square().sum() + out.text.square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith("key.bias"):  # softmax does not notice a bias on the keys
            assert parameter.grad.abs().max() > 0, name


def test_wrong_calls_are_named(text):
    ids, _ = text
    with pytest.raises(ValueError, match="6 words for a Q-Former of None words"):
        former(TINY)(features(TINY), text_ids=ids)
    with pytest.raises(ValueError, match="17 words for a Q-Former of 31 words, 16 positions"):
        former(WORDS).encode_text(torch.zeros(1, 17, dtype=torch.long))
    with pytest.raises(ValueError, match="not 'forward'"):
        former(WORDS)(features(WORDS), text_ids=ids, text_attention="forward")


@pytest.mark.parametrize(("text_side", "count"), [(False, 105_137_664), (True, None)])
def test_published_size(text_side, count):
    config = QFormerConfig(vocab_size=30523 if text_side else None)
    with torch.device("meta"):
        model = QFormer(config)
        out = model(torch.empty(3, 257, 1408))
    assert out.tokens.shape == (3, 32, 768)
    assert [i for i, y in enumerate(model.layers) if y.cross_attention] == [0, 2, 4, 6, 8, 10]
    total = sum(p.numel() for p in model.parameters()) - model.queries.numel()
    if count is not None:
        assert total == count
    else:
        words = (30523 + 512) * 768
        text_mlp = 12 * (768 * 3072 * 2 + 3072 + 768 + 2 * 768)
        assert total == 105_137_664 + words + text_mlp
