"""Experts in a Llama: nothing changes at first, each token meets one set of weights only."""

import pytest
import torch

from vlmcourse.backbones.language_model import LlamaSizes, build_llama
from vlmcourse.parts.packing import packed_mask
from vlmcourse.parts.shared_positions import shared_positions
from vlmcourse.parts.visual_expert import ExpertLlama, add_visual_experts, expert_mask, routed

GREEDY = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
TYPES = torch.tensor([[0, 1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]])


def llama(groups=2, layers=2, biases=False, **settings):
    torch.manual_seed(0)
    model = build_llama(LlamaSizes(64, 32, 48, layers, 4, groups, **settings)).eval()
    if biases:
        model.config.attention_bias = model.config.mlp_bias = True
        model = type(model)(model.config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(0, 0.3)
    return model


def experts(model):
    return {n: p for n, p in model.named_parameters() if "vision_expert" in n}


@pytest.fixture
def expert_llama():
    """With experts that are no longer copies."""
    model = add_visual_experts(llama())
    with torch.no_grad():
        for parameter in experts(model).values():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def inputs(types, attention=None, mask=True):
    attention = torch.ones_like(types) if attention is None else attention
    given = {"attention_mask": attention, "position_ids": shared_positions(types, attention)}
    return given | ({"expert_mask": expert_mask(types)} if mask else {})


def states(rows=3, length=8, seed=1):
    return torch.randn(rows, length, 32, generator=torch.Generator().manual_seed(seed))


def test_the_mask_leaves_the_last_of_each_run_to_language():
    types = torch.tensor([[0, 1, 1, 1, 0, 1, 0, 1, 1], [1, 1, 1, 1, 1, 0, 0, 2, 2]])
    wanted = [[0, 1, 1, 0, 0, 0, 0, 1, 0], [1, 1, 1, 1, 0, 0, 0, 0, 0]]
    assert expert_mask(types).long().tolist() == wanted


def test_routed_tokens_meet_one_function_each():
    x, mask = torch.arange(6.0).reshape(1, 6, 1), torch.tensor([[0, 1, 1, 0, 0, 1]]).bool()
    met = []

    def noted(name, factor):
        return lambda part: met.append((name, part.flatten().tolist())) or factor * part

    result = routed(x, mask, noted("language", 1), noted("vision", -1))
    assert result.flatten().tolist() == [0, -1, -2, 3, 4, -5]
    assert met == [("language", [0, 3, 4]), ("vision", [1, 2, 5])]


@pytest.mark.parametrize("form", [
    {"groups": 4}, {"groups": 1, "tie_embeddings": True}, {"biases": True},
])  # fmt: skip
def test_copies_change_nothing(form):
    plain = llama(**form)
    given, x = inputs(TYPES, mask=False), states()
    before = plain(inputs_embeds=x, **given).logits
    texts = plain.generate(inputs_embeds=x, **given, **GREEDY)
    names = set(dict(plain.named_parameters()))
    model = add_visual_experts(plain)
    assert isinstance(model, ExpertLlama)
    assert not model.training
    assert set(dict(model.named_parameters())) - names == set(experts(model))
    assert torch.equal(model(inputs_embeds=x, **given).logits, before)
    after = model(inputs_embeds=x, **inputs(TYPES)).logits
    torch.testing.assert_close(after, before, atol=2e-5, rtol=1e-5)
    assert torch.equal(model.generate(inputs_embeds=x, **inputs(TYPES), **GREEDY), texts)


def test_parameters_of_a_layer_are_doubled_but_for_norms_and_a_bias():
    model = add_visual_experts(llama(layers=1))
    added = sum(p.numel() for p in experts(model).values())
    layer = sum(p.numel() for p in model.model.layers[0].parameters())
    width, fused = 32, 32 + 2 * 16
    assert added == (layer - 2 * width + fused) // 2


def test_experts_see_pictures_and_change_what_follows(expert_llama):
    given, x = inputs(TYPES), states()
    seen = expert_llama(inputs_embeds=x, **given).logits
    told = expert_llama(inputs_embeds=x, **{**given, "expert_mask": None}).logits
    differs = (seen - told).abs().amax(-1) > 1e-3  # [B, L]
    first = [1, 2, 8]  # the first token of each row that an expert takes; none in the last row
    assert [row.tolist() for row in differs] == [[i >= f for i in range(8)] for f in first]


def test_text_never_touches_the_experts(expert_llama):
    text, x = torch.zeros(2, 8, dtype=torch.long), states(2)
    expert_llama(inputs_embeds=x, **inputs(text)).logits.sum().backward()
    assert all(p.grad is None for p in experts(expert_llama).values())
    wanted = llama()(inputs_embeds=x, **inputs(text, mask=False)).logits
    for parameter in experts(expert_llama).values():
        parameter.data.fill_(float("nan"))
    assert torch.equal(expert_llama(inputs_embeds=x, **inputs(text)).logits, wanted)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_experts_alone_when_they_alone_train(expert_llama, checkpointing):
    own = experts(expert_llama)
    for name, parameter in expert_llama.named_parameters():
        parameter.requires_grad_(name in own)
    expert_llama.train()
    if checkpointing:
        expert_llama.gradient_checkpointing_enable({"use_reentrant": False})
    out = expert_llama(inputs_embeds=states(), **inputs(TYPES), use_cache=False).logits
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in own.values())
    assert all(p.grad is None for n, p in expert_llama.named_parameters() if n not in own)


def test_the_last_layer_s_way_out_serves_no_text(expert_llama):
    out = expert_llama(inputs_embeds=states(), **inputs(TYPES)).logits
    out[:, -1].square().sum().backward()  # behind the last layer a picture token only tells itself
    idle = {n for n, p in experts(expert_llama).items() if p.grad.abs().max() == 0}
    last = "model.layers.1.self_attn.vision_expert_dense", "model.layers.1.vision_expert_mlp"
    assert idle == {n for n in experts(expert_llama) if n.startswith(last)}


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_as_one_by_one(expert_llama, side):
    rows = [torch.tensor(r) for r in ([0, 1, 1, 1, 0, 0], [1, 1, 0], [0, 1, 1, 1, 1, 1, 0, 0])]
    x, types = torch.zeros(3, 8, 32), torch.zeros(3, 8, dtype=torch.long)
    attention = torch.zeros_like(types)
    places = [slice(8 - len(r), 8) if side == "left" else slice(0, len(r)) for r in rows]
    for index, (row, place) in enumerate(zip(rows, places)):
        x[index, place], types[index, place] = states(1, len(row), index)[0], row
        attention[index, place] = 1
    together = expert_llama(inputs_embeds=x, **inputs(types, attention)).logits
    for index, (row, place) in enumerate(zip(rows, places)):
        if side == "left" and row[0]:
            continue  # behind padding the official rule does not know a picture that begins a row
        alone = expert_llama(inputs_embeds=states(1, len(row), index), **inputs(row[None])).logits
        torch.testing.assert_close(together[index, place], alone[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def continued(model, x, given, steps):
    """Greedy ids, every step with the whole text and no cache."""
    table, ids = model.get_input_embeddings(), []
    for _ in range(steps):
        following = model(inputs_embeds=x, **given, use_cache=False).logits[:, -1].argmax(-1)
        ids.append(following)
        x = torch.cat([x, table(following)[:, None]], 1)
        last = given["position_ids"][:, -1:] + 1
        more = {
            "attention_mask": torch.ones_like(last),
            "position_ids": last,
            "expert_mask": torch.zeros_like(last).bool(),
        }
        given = {name: torch.cat([given[name], more[name]], 1) for name in given}
    return torch.stack(ids, 1)


def left_padded():
    attention = torch.ones(3, 8, dtype=torch.long)
    attention[1, :2] = 0
    return states(), inputs(TYPES, attention)


def test_generation_with_a_cache_is_the_full_forward(expert_llama):
    x, given = left_padded()
    found = expert_llama.generate(inputs_embeds=x, **given, **GREEDY)
    assert torch.equal(found, continued(expert_llama, x, given, 5))
    plain = {**given, "expert_mask": None}
    assert not torch.equal(found, expert_llama.generate(inputs_embeds=x, **plain, **GREEDY))


@pytest.mark.parametrize("read", [1, 3, 6, 7])
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_behind_what_was_read_before(expert_llama, read, beams):
    x, given = left_padded()
    settings = {**GREEDY, "num_beams": beams}
    wanted = expert_llama.generate(inputs_embeds=x, **given, **settings)
    begin = {name: value[:, :read] for name, value in given.items()}
    cache = expert_llama.get_decoder()(inputs_embeds=x[:, :read], **begin, use_cache=True)
    cache = cache.past_key_values
    if beams > 1:
        cache.batch_repeat_interleave(beams)
    found = expert_llama.generate(inputs_embeds=x, **given, past_key_values=cache, **settings)
    assert torch.equal(found, wanted)


def test_generation_from_ids_and_without_a_cache(expert_llama):
    ids = torch.randint(1, 64, (3, 8), generator=torch.Generator().manual_seed(0))
    x = expert_llama.get_input_embeddings()(ids)
    given = inputs(TYPES)
    found = expert_llama.generate(input_ids=ids, **given, **GREEDY)
    assert torch.equal(found[:, 8:], continued(expert_llama, x, given, 5))
    with pytest.raises(ValueError, match="with a cache"):
        expert_llama.generate(input_ids=ids, **given, **GREEDY, use_cache=False)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_questions_are_as_rows_of_their_own(expert_llama, attention):
    expert_llama.set_attn_implementation(attention)
    types = torch.tensor([[0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]])
    segments = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 2, 2, -1, -1]])
    visible, x = packed_mask(segments), states(1, 12)
    if attention == "eager":
        lowest = torch.finfo(torch.float32).min
        visible = torch.zeros(visible.shape).masked_fill(~visible, lowest)
    packed = expert_llama(
        inputs_embeds=x,
        attention_mask=visible,
        position_ids=shared_positions(types, segments=segments),
        expert_mask=expert_mask(types),
    ).logits
    for number in (1, 2):
        own = (segments == number)[0]
        kept = own | (segments == 0)[0]
        row = types[:, kept]
        alone = expert_llama(inputs_embeds=x[:, kept], **inputs(row)).logits
        torch.testing.assert_close(packed[:, own], alone[:, 5:], atol=1e-4, rtol=1e-4)


def test_attention_maps_can_be_asked_for(expert_llama):
    expert_llama.set_attn_implementation("eager")
    maps = expert_llama(inputs_embeds=states(), **inputs(TYPES), output_attentions=True).attentions
    assert [tuple(m.shape) for m in maps] == [(3, 4, 8, 8)] * 2


def test_experts_have_the_type_and_place_of_the_language_weights():
    model = add_visual_experts(llama().to(torch.bfloat16))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    with torch.device("meta"):
        empty = add_visual_experts(build_llama(LlamaSizes(64, 32, 48, 2, 4)))
    assert all(p.is_meta for p in empty.parameters())


def test_a_model_gets_experts_once_and_a_wrong_mask_is_noticed(expert_llama):
    with pytest.raises(ValueError, match="experts already"):
        add_visual_experts(expert_llama)
    with pytest.raises((IndexError, ValueError)):
        expert_llama(inputs_embeds=states(), expert_mask=torch.ones(3, 5).bool())
