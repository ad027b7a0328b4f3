import torch

from vlmcourse.parts.packing import packed_mask, packed_positions

SEGMENTS = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, -1]])


def test_positions_of_every_question_continue_the_prefix():
    assert packed_positions(SEGMENTS).tolist() == [[0, 1, 2, 3, 4, 3, 4, 5, 0]]


def test_questions_see_the_prefix_and_themselves_only():
    mask = packed_mask(SEGMENTS)[0, 0]
    assert mask[4].tolist() == [True, True, True, True, True, False, False, False, False]
    assert mask[6].tolist() == [True, True, True, False, False, True, True, False, False]
    assert mask[1].tolist() == [True, True] + [False] * 7


def test_padding_sees_itself_and_nobody_sees_padding():
    mask = packed_mask(SEGMENTS)[0, 0]
    assert mask[8].tolist() == [False] * 8 + [True]
    assert not mask[:8, 8].any()


def test_without_questions_it_is_the_causal_mask():
    mask = packed_mask(torch.zeros(2, 5, dtype=torch.long))
    assert torch.equal(mask, torch.ones(2, 1, 5, 5, dtype=torch.bool).tril())
