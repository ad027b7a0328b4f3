"""The Q-Former with memory: one video never touches another, and time changes what it says."""

import pytest
import torch
from blip2_twins import scrambled
from torch.testing import assert_close

from vlmcourse.parts.memory_bank import RULES
from vlmcourse.parts.memory_qformer import attend, read_apart, read_frames, step
from vlmcourse.parts.qformer import QFormer, QFormerConfig

WORDS = QFormerConfig(16, 3, 4, 24, 12, 2, 4, vocab_size=31, max_positions=16)
BANKS = {"visual_capacity": 3, "query_capacity": 3}
LENGTHS = torch.tensor([7, 2, 5, 1])


@pytest.fixture(scope="module")
def former():
    return scrambled(QFormer(WORDS), 0).requires_grad_(False)


def film(batch=4, frames=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, frames, 5, 12, generator=generator)


def text(batch=4):
    ids = torch.randint(1, 31, (batch, 6), generator=torch.Generator().manual_seed(2))
    mask = torch.arange(6) < torch.tensor([6, 3, 5, 4])[:batch, None]
    return {"text_ids": ids, "text_mask": mask}


def rows(told, *which):
    return {name: value[list(which)] for name, value in told.items()}


def close(ours, theirs):
    assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_the_first_frame_is_read_as_without_memory(former):
    frame, told = film()[:, 0], text()
    out, state = step(former, frame, None, **told, **BANKS)
    close(out.tokens, former(frame, **told).tokens)
    close(out.text, former(frame, **told).text)
    assert state.frames_seen.tolist() == [1] * 4
    close(state.visual.entries[:, 0], frame)
    for bank, given in zip(state.queries, out.hidden_states, strict=False):
        close(bank.entries[:, 0], given)


@pytest.mark.parametrize("detach", [True, False, "queries"])
def test_all_frames_at_a_call_are_step_after_step(former, detach):
    frames, told, state = film(), text(), None
    for frame in frames.unbind(1):
        out, state = step(former, frame, state, **told, **BANKS, detach=detach)
    tokens, last = read_frames(former, frames, **told, **BANKS, detach=detach)
    assert torch.equal(tokens, out.tokens)
    assert torch.equal(last.visual.entries, state.visual.entries)
    half, middle = read_frames(former, frames[:, :3], **told, **BANKS)
    rest, _ = read_frames(former, frames[:, 3:], **told, **BANKS, state=middle)
    assert torch.equal(rest, tokens)
    assert not torch.allclose(half, tokens)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("capacities", [(3, 3), (1, 2), (None, 3), (0, 3), (3, 0), (0, 0)])
def test_videos_of_different_lengths_are_as_each_alone(former, rule, capacities):
    frames, told = film(), text()
    banks = dict(zip(BANKS, capacities, strict=True)) | {"rule": rule}
    mask = torch.arange(7) < LENGTHS[:, None]
    padded = frames.masked_fill(~mask[..., None, None], 9.0)
    tokens, state = read_frames(former, padded, mask, **told, **banks)
    assert torch.equal(state.frames_seen, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        alone, _ = read_frames(former, frames[[row], :length], **rows(told, row), **banks)
        close(tokens[[row]], alone)


def test_nothing_of_one_video_is_in_the_next(former):
    told = rows(text(), 0)
    fresh, _ = read_frames(former, film(1), **told, **BANKS)
    read_frames(former, film(1, 4, seed=5), **told, **BANKS)
    again, _ = read_frames(former, film(1), **told, **BANKS)
    assert torch.equal(fresh, again)
    hidden = {name for name, value in vars(former).items() if torch.is_tensor(value)}
    assert not hidden
    assert not list(former.buffers())


def test_a_longer_past_and_each_bank_change_what_is_said(former):
    frames, told = film(1), rows(text(), 0)
    found = {
        banks: read_frames(
            former, frames, **told, visual_capacity=banks[0], query_capacity=banks[1]
        )[0]
        for banks in ((0, 0), (3, 0), (0, 3), (3, 3), (None, None))
    }
    several = list(found.values())
    for index, one in enumerate(several):
        for other in several[index + 1 :]:
            assert (one - other).abs().max() > 1e-3
    close(found[0, 0], former(frames[:, -1], **told).tokens)
    seen = former(frames.flatten(1, 2), **told).tokens
    close(read_frames(former, frames, **told, visual_capacity=None, query_capacity=0)[0], seen)


def test_padding_of_the_instruction_is_never_read(former):
    frames, told = film(), text()
    other = dict(told, text_ids=told["text_ids"].masked_fill(~told["text_mask"], 7))
    one, two = (read_frames(former, frames, **each, **BANKS)[0] for each in (told, other))
    close(one, two)


def test_a_former_without_words_remembers_too():
    former = scrambled(QFormer(QFormerConfig(16, 3, 4, 24, 12, 2, 4)), 0)
    mask = torch.arange(7) < LENGTHS[:, None]
    tokens, state = read_frames(former, film(), mask, **BANKS)
    alone, _ = read_frames(former, film()[[2], :5], **BANKS)
    close(tokens[[2]], alone)
    assert state.queries[0].sizes.shape == (4, 3, 4)


def test_the_first_layer_remembers_nothing_new(former):
    _, state = read_frames(former, film(), **text(), **BANKS)
    first, last = state.queries[0].entries, state.queries[-1].entries
    close(first, first[:, :1].expand_as(first))
    assert (last - last[:, :1]).abs().max() > 0.01
    words = state.queries[1].entries[:, :, 4:]  # beside the queries; the second layer's input
    close(words, words[:, :1].expand_as(words))


@pytest.mark.parametrize(
    ("detach", "learning"), [(True, [6]), ("queries", range(7)), (False, range(7))]
)
def test_which_frames_learn(detach, learning):
    former = scrambled(QFormer(WORDS), 0)
    frames = film(1).requires_grad_(True)
    tokens, _ = read_frames(former, frames, **rows(text(), 0), **BANKS, detach=detach)
    tokens.pow(2).sum().backward()
    moved = frames.grad.abs().amax((0, 2, 3)) > 0
    assert moved.nonzero().flatten().tolist() == list(learning)
    assert former.layers[0].cross_attention.key.weight.grad.abs().max() > 0


def test_each_video_learns_at_its_own_last_frame():
    former, mask = scrambled(QFormer(WORDS), 0), torch.arange(7) < LENGTHS[:, None]
    frames, told = film(), text()
    together = frames.clone().requires_grad_(True)
    tokens, _ = read_frames(former, together, mask, **told, **BANKS)
    assert not tokens.isnan().any()
    tokens.pow(2).sum().backward()
    moved = together.grad.abs().amax((2, 3)) > 0
    assert torch.equal(moved, torch.arange(7) == LENGTHS[:, None] - 1)
    first = former.layers[1].self_attention.value.weight.grad.clone()
    former.zero_grad()
    for row, length in enumerate(LENGTHS.tolist()):
        alone, _ = read_frames(former, frames[[row], :length], **rows(told, row), **BANKS)
        alone.pow(2).sum().backward()
    assert_close(former.layers[1].self_attention.value.weight.grad, first, atol=1e-4, rtol=1e-4)


def test_several_questions_about_a_video_share_what_is_seen(former):
    frames, told = film(2), text(4)  # videos 0 0 1 1
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    shared, state = read_frames(former, frames, mask, **told, **BANKS)
    apart, _ = read_frames(
        former, frames.repeat_interleave(2, 0), mask.repeat_interleave(2, 0), **told, **BANKS
    )
    close(shared, apart)
    assert len(state.visual.entries) == 2
    assert len(state.queries[0].entries) == 4
    wide, same = frames.repeat_interleave(2, 0), {**told, "output_attentions": True}
    together = attend(former, frames[:, 0], None, **same)
    alone = attend(former, wide[:, 0], None, **same)
    for one, other in zip(together.cross_attentions, alone.cross_attentions, strict=True):
        close(one, other)


def test_maps_tell_memory_and_now_apart(former):
    frames, told = film(2, 3), text(2)
    _, state = read_frames(former, frames[:, :2], **told, **BANKS)
    out = attend(former, frames[:, 2], state, **told, output_attentions=True)
    assert [len(out.cross_attentions), len(out.self_attentions)] == [2, 3]
    assert out.cross_attentions[0].shape == (2, 4, 4, 3 * 5)
    assert out.self_attentions[0].shape == (2, 4, 10, 3 * 10)
    for one in (*out.cross_attentions, *out.self_attentions):
        close(one.sum(-1), torch.ones(one.shape[:-1]))
    hidden = ~told["text_mask"][1]
    columns = out.self_attentions[1][1].unflatten(-1, (3, 10))[..., 4:]
    assert columns[..., hidden].eq(0).all()
    plain = attend(former, frames[:, 2], state, **told)
    close(out.tokens, plain.tokens)


def test_without_banks_every_frame_is_by_itself(former):
    frames, told = film(2, 3), text(2)
    tokens = read_apart(former, frames, **told)
    assert tokens.shape == (2, 12, 16)
    close(tokens[:, 4:8], former(frames[:, 1], **told).tokens)


def test_memory_is_flat_over_a_long_film(former):
    told, state, sizes = rows(text(), 0), None, []
    for frame in film(1, 40).unbind(1):
        _, state = step(former, frame, state, **told, **BANKS)
        sizes.append(state.nbytes)
    assert len(set(sizes[3:])) == 1
    assert state.frames_seen.item() == 40
    assert state.visual.sizes.sum(1).eq(40).all()


def test_bad_calls_are_named(former):
    told = rows(text(), 0)
    with pytest.raises(ValueError, match="without frames"):
        read_frames(former, film(1)[:, :0], **told, **BANKS)
    with pytest.raises(ValueError, match="without frames"):
        read_frames(former, film(2), torch.tensor([[1] * 7, [0] * 7]).bool(), **text(2), **BANKS)
    _, state = step(former, film(1)[:, 0], None, **told, **BANKS)
    shorter = {name: value[:, :4] for name, value in told.items()}
    with pytest.raises(ValueError, match=r"\(1, 8\) videos and tokens, but a memory of \(1, 10\)"):
        step(former, film(1)[:, 1], state, **shorter, **BANKS)
    with pytest.raises(ValueError, match="detach is True, False or 'queries', not 'no'"):
        step(former, film(1)[:, 1], state, **told, **BANKS, detach="no")
