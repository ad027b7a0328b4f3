import pytest
import torch

from vlmcourse.systems.stages import parameter_table, rate_factor_of, set_trainable


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


def test_the_longest_pattern_decides_a_rate_factor(model):
    set_trainable(model, ("a.*", "b.weight"))
    assert rate_factor_of(model, {}) == {"a.weight": 1, "a.bias": 1, "b.weight": 1}
    for order in (("a.bias", "a.*"), ("a.*", "a.bias")):
        factors = rate_factor_of(model, {name: {"a.bias": 2.0, "a.*": 0.5}[name] for name in order})
        assert factors == {"a.weight": 0.5, "a.bias": 2.0, "b.weight": 1.0}


@pytest.mark.parametrize(
    ("factors", "told"),
    [
        ({"b.bias": 0.1}, "no parameter that trains matches 'b.bias' .* names start with a, b"),
        ({"a.*": 0.5, "c.*": 0.1}, r"matches 'c\.\*'"),
        ({"a.*": 0.0}, "is 0.0: leave it out"),
        ({"a.*": -1.0}, "is -1.0"),
    ],
)
def test_a_rate_factor_that_changes_nothing_is_an_error(model, factors, told):
    set_trainable(model, ("a.*", "b.weight"))
    with pytest.raises(ValueError, match=told):
        rate_factor_of(model, factors)
