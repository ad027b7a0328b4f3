"""The module alone: its schedule, its optimiser, its modes."""

from types import SimpleNamespace

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from vlmcourse import systems
from vlmcourse.systems.stages import Stage
from vlmcourse.training.module import VideoInstruction, learning_rate_factor


def stage(**changes):
    return Stage(**{"name": "s", "trains": ("projector.*",), "data": "x", "steps": 40, **changes})


def test_the_schedule_is_that_of_transformers():
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_cosine_schedule_with_warmup(optimiser, 4, 40)
    for step in range(40):
        ours = learning_rate_factor(stage(warmup_ratio=0.1), step, 40)
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimiser.step()
        theirs.step()


def test_schedules_end_where_they_should():
    ends = {
        name: learning_rate_factor(stage(schedule=name, min_learning_rate=1e-4), 40, 40)
        for name in ("cosine", "linear", "constant")
    }
    assert ends == {"cosine": pytest.approx(0.1), "linear": pytest.approx(0.1), "constant": 1.0}
    assert learning_rate_factor(stage(warmup_ratio=0.0), 0, 40) == 1.0


def test_decay_reaches_matrices_only(tiny):
    module = VideoInstruction("tiny", stage(weight_decay=0.1))
    module._trainer = SimpleNamespace(max_steps=40)
    groups = module.configure_optimizers()["optimizer"].param_groups
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {id(module.model.projector.weight)}
    assert sum(len(g["params"]) for g in groups) == 2


def test_seeds_decide_first_values_of_what_is_new(tiny):
    def first(seed, **more):
        return VideoInstruction("tiny", stage(), seed=seed, **more).model

    state = torch.get_rng_state()
    assert torch.equal(first(0).projector.weight, first(0).projector.weight)
    assert not torch.equal(first(0).projector.weight, first(1).projector.weight)
    assert torch.equal(first(0).token_rows.weight, first(1).token_rows.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_fresh_forgets_what_official_files_brought(monkeypatch, build_tiny):
    def trained(preset, device, folder, **options):
        model = build_tiny()
        torch.nn.init.zeros_(model.projector.weight)
        return model

    monkeypatch.setitem(systems.CONSTRUCTORS, "tiny", trained)
    assert not VideoInstruction("tiny", stage()).model.projector.weight.any()
    fresh = VideoInstruction("tiny", stage(), fresh=True).model
    assert fresh.projector.weight.all()
    assert torch.equal(fresh.token_rows.weight, trained(*"xxx").token_rows.weight)


def test_evaluation_counts_tokens_not_batches(tiny):
    module = VideoInstruction("tiny", stage())
    results = iter(
        [
            SimpleNamespace(
                token_loss=torch.tensor(losses),
                correct=torch.tensor(right),
                num_targets=len(losses),
            )
            for losses, right in (([1.0, 2.0, 3.0], [True, False, True]), ([8.0], [False]))
        ]
    )
    module.model.forward = lambda batch: next(results)
    batch = SimpleNamespace(to=lambda device: None)
    found = module.evaluate([batch, batch])
    assert found == {"loss": 3.5, "answer_accuracy": 0.5, "tokens": 4}
    assert module.evaluate([]) == {}
    assert module.model.projector.training
