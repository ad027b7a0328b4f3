"""Positions that the inside of a picture shares, against a rule written token by token."""

import pytest
import torch
from cogvlm2_twins import official_positions

from vlmcourse.parts.packing import packed_positions
from vlmcourse.parts.shared_positions import shared_positions


def test_the_example_of_the_head_of_the_file():
    types = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 0, 0]])
    assert shared_positions(types).tolist() == [[0, 1, 2, 3, 3, 3, 4, 5, 6]]


@pytest.mark.parametrize("side", ["none", "left", "right", "both"])
def test_random_rows_agree_with_the_official_rule(side):
    generator = torch.Generator().manual_seed(0)
    types = torch.randint(0, 2, (200, 13), generator=generator)
    attention = torch.ones_like(types)
    index = torch.arange(13)
    if side in ("left", "both"):
        attention *= index >= torch.randint(0, 5, (200, 1), generator=generator)
    if side in ("right", "both"):
        attention *= index < torch.randint(8, 14, (200, 1), generator=generator)
    types = types * attention
    assert torch.equal(shared_positions(types, attention), official_positions(types, attention))


def test_vision_at_padding_does_not_count():
    types, attention = torch.tensor([[1, 1, 0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 1, 1, 1]])
    assert torch.equal(shared_positions(types, attention), official_positions(types, attention))


def test_frames_side_by_side_are_one_run_and_text_parts_them():
    frame = [1, 1, 1, 1]
    joined = torch.tensor([[0, *frame, *frame, *frame, 0]])
    assert shared_positions(joined)[0, -1] == 4  # three positions for the whole video
    counted = torch.tensor([[0, *frame, 0, *frame, 0, *frame, 0]])
    assert shared_positions(counted)[0, -1] == 12  # four a frame


@pytest.mark.parametrize("prefix", [[0, 1, 1, 1, 1], [0, 1, 1, 1, 0], [1, 1, 1]])
def test_padding_between_prefix_and_question_changes_nothing(prefix):
    questions = ([0, 0, 0], [0])
    longest = max(map(len, questions))
    types, attention = [], []
    for question in questions:
        gap = [0] * (longest - len(question))
        types.append(prefix + gap + question)
        attention.append([1] * len(prefix) + gap + [1] * len(question))
    found = shared_positions(torch.tensor(types), torch.tensor(attention))
    for row, question in zip(found, questions):
        alone = shared_positions(torch.tensor([prefix + question]))[0]
        assert row[: len(prefix)].tolist() == alone[: len(prefix)].tolist()
        assert row[-len(question) :].tolist() == alone[len(prefix) :].tolist()


def test_packed_questions_continue_behind_the_prefix():
    segments = torch.tensor(
        [[0, 0, 0, 0, 0, 1, 1, 2, 2, 2, -1], [0, 0, 0, 1, 1, 1, 2, -1, -1, -1, -1]]
    )
    types = torch.tensor([[0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]])
    wanted = [[0, 1, 2, 2, 3, 4, 5, 4, 5, 6, 0], [0, 1, 2, 3, 4, 5, 3, 0, 0, 0, 0]]
    assert shared_positions(types, segments=segments).tolist() == wanted
    text = torch.zeros_like(types)
    assert torch.equal(shared_positions(text, None, segments), packed_positions(segments))
