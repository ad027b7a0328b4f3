import pytest
import torch

from vlmcourse.systems.stages import parameter_table, set_trainable


@pytest.fixture
def model():
    return torch.nn.ModuleDict({"a": torch.nn.Linear(2, 3), "b": torch.nn.Linear(3, 1)})


def test_only_matching_parameters_train(model):
    assert set_trainable(model, ("a.*",)) == ["a.weight", "a.bias"]
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, False]
    assert set_trainable(model, ("b.weight", "*.bias")) == ["a.bias", "b.weight", "b.bias"]


def test_a_pattern_without_a_match_is_an_error(model):
    with pytest.raises(ValueError, match="no parameter matches 'projecter"):
        set_trainable(model, ("a.*", "projecter.*"))


def test_table_counts(model):
    set_trainable(model, ("b.*", "a.bias"))
    lines = parameter_table(model).splitlines()
    assert lines[1].split() == ["a", "6", "3"]
    assert lines[2].split() == ["b", "0", "4"]
    assert lines[3].split() == ["total", "6", "7"]
