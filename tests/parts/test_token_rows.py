import pytest
import torch
from torch.testing import assert_close

from vlmcourse.parts.token_rows import TokenRows


def test_only_the_named_tokens_are_replaced():
    table = torch.randn(10, 4)
    rows = TokenRows((3, 7), 4)
    ids = torch.tensor([[3, 1, 7, 7]])
    out = rows(ids, table[ids])
    assert torch.equal(out[0, 0], rows.weight[0])
    assert torch.equal(out[0, 1], table[1])
    assert torch.equal(out[0, 2:], rows.weight[1].expand(2, -1))


def test_read_and_write():
    table = torch.randn(10, 4)
    rows = TokenRows((3, 7), 4)
    before = rows.weight.detach().clone()
    written = rows.written_into(table)
    assert torch.equal(written[[3, 7]], before)
    others = [i for i in range(10) if i not in (3, 7)]
    assert torch.equal(written[others], table[others])
    rows.read_from(table)
    assert torch.equal(rows.weight, table[[3, 7]])


def test_gradients_and_weight_decay_reach_these_rows_alone():
    embedding = torch.nn.Embedding(10, 4).requires_grad_(False)
    rows = TokenRows((3, 7), 4)
    before, start = embedding.weight.clone(), rows.weight.detach().clone()
    optimiser = torch.optim.AdamW(rows.parameters(), lr=0.1, weight_decay=0.5)
    ids = torch.tensor([[1, 3, 2]])
    rows(ids, embedding(ids)).square().sum().backward()
    optimiser.step()
    assert torch.equal(embedding.weight, before)
    assert not torch.equal(rows.weight[0], start[0])
    assert_close(rows.weight[1], start[1] * (1 - 0.1 * 0.5))  # unseen: only decay moves it


def test_a_token_twice_is_an_error():
    with pytest.raises(ValueError, match="twice"):
        TokenRows((3, 3), 4)
