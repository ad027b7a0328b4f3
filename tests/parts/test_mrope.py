"""M-RoPE: ids by hand and by transformers, the swap in two language models, cached steps."""

import pytest
import torch
from torch.testing import assert_close
from transformers import LlamaForCausalLM
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLTextModel

from vlmcourse.backbones.language_model import (
    LlamaSizes,
    build_llama,
    build_qwen2,
    rebuild_buffers,
)
from vlmcourse.parts.mrope import MRope, mrope_positions, next_position, use_mrope
from vlmcourse.parts.packing import packed_mask, packed_positions

SIZES = LlamaSizes(
    vocab_size=40,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=2,
    num_key_value_heads=1,
)
SECTION = (2, 3, 3)
FILM, PICTURE = [5, 4, 2], [1, 4, 4]  # 10 and 4 tokens
NONE = torch.zeros(0, 3, dtype=torch.int64)


def kinds(*lengths: int) -> torch.Tensor:
    """One row `[1, L]`: lengths of text, media, text, ... in turn."""
    return torch.tensor([[i % 2 for i, n in enumerate(lengths) for _ in range(n)]])


def by_hand(pieces) -> list[list[int]]:
    """Ids of text (a count) and media (a grid), one token after the other."""
    ids, free = [], 0
    for piece in pieces:
        if isinstance(piece, int):
            ids += [[free + i] * 3 for i in range(piece)]
            free += piece
        else:
            t, h, w = piece[0], piece[1] // 2, piece[2] // 2
            ids += [
                [free + i, free + j, free + k] for i in range(t) for j in range(h) for k in range(w)
            ]
            free += max(t, h, w)
    return torch.tensor(ids).T.tolist()


@pytest.mark.parametrize(
    "pieces",
    [[4], [2, PICTURE, 3], [1, FILM, 2, PICTURE, 1], [PICTURE, FILM, [2, 2, 8]], [1, FILM]],
    ids=str,
)
def test_ids_of_rows_of_any_order(pieces):
    row, grids = [], []
    for piece in pieces:
        media = not isinstance(piece, int)
        row += [int(media)] * (torch.tensor(piece).prod().item() // (4 if media else 1))
        grids += [piece] if media else []
    found = mrope_positions(torch.tensor([row]), torch.tensor(grids).long().reshape(-1, 3))
    assert found[:, 0].tolist() == by_hand(pieces)


def test_the_later_rule_restarts_inside_a_long_film():
    row, grids = kinds(2, 10, 3), torch.tensor([FILM])
    published = mrope_positions(row, grids)[:, 0]
    restart = mrope_positions(row, grids, rule="restart")[:, 0]
    assert published[:, 12].tolist() == [7, 7, 7]  # 2 + five moments
    assert restart[:, 12].tolist() == [4, 4, 4]  # 2 + two rows: a moment of the film
    assert torch.equal(published[:, :12], restart[:, :12])
    short = torch.tensor([[2, 4, 2]])
    row = kinds(2, 4, 3)
    assert torch.equal(mrope_positions(row, short), mrope_positions(row, short, rule="restart"))


@pytest.mark.parametrize("side", ["left", "right", "between"])
def test_padding_moves_nothing(side):
    rows, grids = kinds(2, 10, 3, 4, 2), torch.tensor([FILM, PICTURE])
    alone = mrope_positions(rows, grids)
    cut = {"left": 0, "right": rows.shape[1], "between": 13}[side]
    real = torch.ones_like(rows)
    pad = torch.zeros(1, 3, dtype=torch.int64)
    wide, mask = (torch.cat([x[:, :cut], pad, x[:, cut:]], 1) for x in (rows, real))
    found = mrope_positions(wide, grids, mask)
    assert torch.equal(found[:, mask.bool()], alone[:, 0])
    assert not found[:, ~mask.bool()].any()
    assert torch.equal(next_position(found, mask), next_position(alone))


def test_questions_in_one_row_stand_behind_the_prefix():
    grids = torch.tensor([FILM])
    packed = torch.tensor([[0, 0] + [1] * 10 + [0] + [0] * 3 + [0] * 4 + [0, 0]])
    segments = torch.tensor([[0] * 13 + [1] * 3 + [2] * 4 + [-1] * 2])
    found = mrope_positions(packed, grids, segments=segments)
    for start, length in ((13, 3), (16, 4)):
        alone = mrope_positions(kinds(2, 10, 1 + length), grids)
        row = torch.cat([found[..., :13], found[..., start : start + length]], -1)
        assert torch.equal(row, alone)
    assert not found[..., -2:].any()
    text = torch.zeros_like(packed)
    plain = mrope_positions(text, NONE, segments=segments)
    assert torch.equal(plain, packed_positions(segments).expand(3, -1, -1))


def test_rows_take_their_media_in_reading_order():
    rows = torch.tensor([[0, 1, 1, 1, 1, 0, 0], [1, 0, 0, 1, 1, 0, 0]])
    grids = torch.tensor([PICTURE, [1, 2, 2], [2, 2, 2]])
    found = mrope_positions(rows, grids)
    assert torch.equal(found[:, :1], mrope_positions(rows[:1], grids[:1]))
    assert torch.equal(found[:, 1:], mrope_positions(rows[1:], grids[1:]))


def test_grids_that_do_not_count_the_tokens_are_refused():
    with pytest.raises(ValueError, match=r"10 places for media.*count 4"):
        mrope_positions(kinds(1, 10, 1), torch.tensor([PICTURE]))
    with pytest.raises(ValueError, match="places"):
        mrope_positions(kinds(3), torch.tensor([PICTURE]))
    with pytest.raises(ValueError, match="'later'"):
        mrope_positions(kinds(3), NONE, rule="later")


# ---------------------------------------------------------------- the swap


@pytest.fixture(params=["llama-sdpa", "llama-eager", "qwen2-sdpa", "qwen2-eager"])
def language_model(request):
    family, attention = request.param.split("-")
    torch.manual_seed(0)
    model = {"llama": build_llama, "qwen2": build_qwen2}[family](SIZES).eval()
    model.set_attn_implementation(attention)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    return model


def film_row(batch: int = 1):
    """Embeddings, mask and ids of rows that hold a film and a picture between text."""
    rows = kinds(2, 10, 3, 4, 3).repeat(batch, 1)
    ids = mrope_positions(rows, torch.tensor([FILM, PICTURE] * batch))
    torch.manual_seed(1)
    return torch.randn(batch, rows.shape[1], 32), torch.ones_like(rows), ids


@torch.no_grad()
def test_equal_numbers_are_the_old_embedding(language_model):
    embeddings, mask, _ = film_row(2)
    plain = torch.arange(22).expand(2, -1)
    inputs = {"inputs_embeds": embeddings, "attention_mask": mask}
    before = language_model(**inputs, position_ids=plain).logits
    assert use_mrope(language_model, SECTION) is language_model
    assert torch.equal(language_model(**inputs, position_ids=plain).logits, before)
    assert torch.equal(
        language_model(**inputs, position_ids=plain.expand(3, -1, -1)).logits, before
    )
    assert torch.equal(language_model(**inputs).logits, before)  # none told: 0, 1, 2, ...


@torch.no_grad()
def test_as_transformers_own_language_model():
    torch.manual_seed(0)
    model = use_mrope(build_qwen2(SIZES).eval(), SECTION)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.5)
    theirs = Qwen2VLTextModel._from_config(
        Qwen2VLTextConfig(
            **{k: getattr(model.config, k) for k in ("vocab_size", "hidden_size", "rms_norm_eps")},
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": SIZES.rope_theta,
                "mrope_section": list(SECTION),
            },
        ),
        attn_implementation="sdpa",
    ).eval()
    theirs.load_state_dict(model.model.state_dict())
    embeddings, mask, ids = film_row(2)
    inputs = {"inputs_embeds": embeddings, "attention_mask": mask, "position_ids": ids}
    ours = model.model(**inputs).last_hidden_state
    assert_close(ours, theirs(**inputs).last_hidden_state)
    other = model.model(**inputs | {"position_ids": torch.arange(22).expand(2, -1)})
    assert (other.last_hidden_state - ours).abs().max() > 1e-2  # the ids do count


@torch.no_grad()
def test_cached_steps_are_as_one_forward(language_model):
    use_mrope(language_model, SECTION)
    embeddings, mask, ids = film_row(2)
    mask[0, :2] = 0  # a row that is padded at the left
    rows = kinds(2, 10, 3, 4, 3).repeat(2, 1)
    ids = mrope_positions(rows, torch.tensor([FILM, PICTURE] * 2), mask)
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    inputs = {"inputs_embeds": embeddings, "attention_mask": mask}
    given = language_model.generate(**inputs, position_ids=ids, **settings)
    table = language_model.get_input_embeddings()
    for _ in range(5):  # by hand, without a cache
        logits = language_model(**inputs, position_ids=ids, use_cache=False).logits[:, -1]
        inputs["inputs_embeds"] = torch.cat(
            [inputs["inputs_embeds"], table(logits.argmax(-1))[:, None]], 1
        )
        free = next_position(ids, inputs["attention_mask"])
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones(2, 1).long()], 1)
        ids = torch.cat([ids, free.expand(3, -1)[..., None]], -1)
    fed = inputs["inputs_embeds"][:, -5:]
    assert_close(table(given), fed)  # the same five tokens
    beams = language_model.generate(
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=ids[..., :22],
        num_beams=2,
        **settings,
    )
    assert beams.shape == (2, 5)


@torch.no_grad()
def test_a_prefix_read_before_serves_padded_questions(language_model):
    use_mrope(language_model, SECTION)
    embeddings, mask, _ = film_row(2)
    rows, grids = kinds(2, 10, 3, 4, 3).repeat(2, 1), torch.tensor([FILM, PICTURE] * 2)
    embeddings[1, :19] = embeddings[0, :19]
    mask[1, 19] = 0  # the second question is one shorter
    ids = mrope_positions(rows, grids, mask)
    whole = language_model(inputs_embeds=embeddings, attention_mask=mask, position_ids=ids).logits
    prefix = mrope_positions(rows[:1, :19], grids[:2])
    read = language_model(
        inputs_embeds=embeddings[:1, :19],
        attention_mask=mask[:1, :19],
        position_ids=prefix,
        use_cache=True,
    )
    cache = read.past_key_values
    cache.batch_repeat_interleave(2)
    rest = language_model(
        inputs_embeds=embeddings[:, 19:],
        attention_mask=mask,
        position_ids=ids[..., 19:],
        past_key_values=cache,
    ).logits
    assert_close(rest[mask[:, 19:].bool()], whole[:, 19:][mask[:, 19:].bool()])


@torch.no_grad()
def test_packed_questions_are_as_separate_rows(language_model):
    use_mrope(language_model, SECTION)
    grids, packed = torch.tensor([FILM]), torch.tensor([[0, 0] + [1] * 10 + [0] * 8])
    segments = torch.tensor([[0] * 13 + [1] * 3 + [2] * 4])
    torch.manual_seed(2)
    embeddings = torch.randn(1, 20, 32)
    visible = packed_mask(segments)
    if language_model.config._attn_implementation == "eager":
        visible = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    together = language_model(
        inputs_embeds=embeddings,
        attention_mask=visible,
        position_ids=mrope_positions(packed, grids, segments=segments),
    ).logits
    for start, length in ((13, 3), (16, 4)):
        row = torch.cat([embeddings[:, :13], embeddings[:, start : start + length]], 1)
        kind = kinds(2, 10, 1 + length)
        alone = language_model(
            inputs_embeds=row,
            attention_mask=torch.ones_like(kind),
            position_ids=mrope_positions(kind, grids),
        ).logits
        assert_close(together[:, start : start + length], alone[:, 13:])


def test_a_model_built_without_weights_gets_its_frequencies():
    torch.manual_seed(0)
    real = use_mrope(build_qwen2(SIZES).eval(), SECTION)
    with torch.device("meta"):
        empty = use_mrope(build_qwen2(SIZES).eval(), SECTION)
    empty.load_state_dict(real.state_dict(), assign=True)
    rebuild_buffers(empty, "cpu")
    assert isinstance(empty.model.rotary_emb, MRope)
    embeddings, mask, ids = film_row()
    inputs = {"inputs_embeds": embeddings, "attention_mask": mask, "position_ids": ids}
    with torch.no_grad():
        assert torch.equal(empty(**inputs).logits, real(**inputs).logits)


def test_what_cannot_be_swapped_is_refused():
    model = build_llama(SIZES)
    with pytest.raises(ValueError, match="8 pairs"):
        use_mrope(model, (2, 3, 4))
    with pytest.raises(ValueError, match="sections"):
        use_mrope(model, (4, 4))
    use_mrope(model, SECTION)
    with pytest.raises(ValueError, match="already"):
        use_mrope(model, SECTION)
    config = model.config
    config.rope_parameters = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(ValueError, match="default"):
        use_mrope(LlamaForCausalLM(config), SECTION)
