"""The module alone: its schedule, its optimiser, its modes."""

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from vlmcourse import systems
from vlmcourse.checkpoints.video_llama import official_name
from vlmcourse.errors import UserError
from vlmcourse.systems.stages import Stage
from vlmcourse.systems.video_llama_stages import PAPER_STAGES, WORLD_STAGES
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


def test_the_schedule_of_video_llama():
    """The numbers of its first stage, worked out by hand: warm-up in a line from 1e-6, then the
    cosine as if it had run from step 0, with a jump down where they meet."""
    first = PAPER_STAGES[0]
    total = 5 * 2500

    def rate(step, scale=1.0):
        factor = learning_rate_factor(first, step, round(total * scale), scale)
        return first.learning_rate * factor

    assert rate(0) == pytest.approx(1e-6)
    assert rate(1250) == pytest.approx((1e-6 + 1e-4) / 2)
    assert rate(2499) == pytest.approx(1e-4, rel=1e-3)
    assert rate(2500) == pytest.approx(8e-5 + 2e-5 * 0.5 * (1 + math.cos(math.pi * 0.2)))
    assert rate(2500) < rate(2499)
    assert rate(6250) == pytest.approx(9e-5)
    assert rate(total) == pytest.approx(8e-5)
    assert rate(250, scale=0.1) == pytest.approx(rate(2500))  # a quick look warms up, too
    assert [s.epochs * s.iterations_per_epoch for s in PAPER_STAGES] == [12500, 3000, 25000, 3000]


def test_decay_is_that_of_the_official_runs(listener):
    """By their names: no decay for one axis, nor for names that hold bias, ln or bn."""
    for stage_of_branch in WORLD_STAGES[::2]:
        module = VideoInstruction("listener", stage_of_branch)
        module._trainer = SimpleNamespace(max_steps=40)
        groups = module.configure_optimizers()["optimizer"].param_groups
        ours = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
        theirs = {
            id(parameter)
            for name, parameter in module.model.named_parameters()
            if name in module.trained
            and parameter.ndim > 1
            and not any(part in official_name(name) for part in ("bias", "ln", "bn"))
        }
        assert ours == theirs
        assert {"queries", "position"} <= {
            word for name in module.trained for word in ("queries", "position") if word in name
        }
        assert len(ours) < len(module.trained)


def test_dropout_is_drawn_anew_in_every_part_of_a_step(tiny):
    module = VideoInstruction("tiny", stage())
    draws = []
    for step, batch in ((3, 6), (3, 7), (4, 8), (3, 6)):
        module._trainer = SimpleNamespace(accumulate_grad_batches=2, global_step=step)
        with torch.random.fork_rng():
            module.on_train_batch_start(None, batch)
            draws.append(torch.rand(1).item())
    assert len(set(draws)) == 3
    assert draws[0] == draws[3]


def test_decay_reaches_matrices_only(tiny):
    module = VideoInstruction("tiny", stage(weight_decay=0.1))
    module._trainer = SimpleNamespace(max_steps=40)
    groups = module.configure_optimizers()["optimizer"].param_groups
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    assert decayed == {id(module.model.projector.weight)}
    assert sum(len(g["params"]) for g in groups) == 2


def test_rate_factors_scale_the_whole_schedule_and_keep_the_rule_of_decay(tiny):
    trains = ("projector.*", "vision_encoder.*", "token_rows.weight")
    settings = {"weight_decay": 0.1, "min_learning_rate": 1e-4, "warmup_ratio": 0.1}
    factors = {"vision_encoder.*": 0.1, "token_rows.*": 3.0}
    module = VideoInstruction("tiny", stage(trains=trains, rate_factors=factors, **settings))
    module._trainer = SimpleNamespace(max_steps=40)
    made = module.configure_optimizers()
    optimiser, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    names = {id(p): n for n, p in module.model.named_parameters()}
    wanted = {"projector": 1.0, "vision_encoder": 0.1, "token_rows": 3.0}
    seen = set()
    for step in range(41):
        base = 1e-3 * learning_rate_factor(module.stage, step, 40)
        for group in optimiser.param_groups:
            part = names[id(group["params"][0])].split(".")[0]
            assert group["lr"] == pytest.approx(base * wanted[part])
            for parameter in group["params"]:
                assert names[id(parameter)].split(".")[0] == part
                assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)
                seen.add(id(parameter))
        optimiser.step()
        schedule.step()
    assert {names[i] for i in seen} == set(module.trained)
    assert optimiser.param_groups[0]["lr"] == pytest.approx(1e-4)  # what the history tells


def test_rate_factors_that_match_nothing_are_refused(tiny):
    with pytest.raises(UserError, match=r"stage 's': no parameter that trains matches 'vision"):
        VideoInstruction("tiny", stage(rate_factors={"vision_encoder.*": 0.1}))


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


def test_patterns_say_what_is_fresh_where_more_trains(tiny):
    plain = stage(trains=("projector.*", "language_model.*"))
    before = tiny().language_model.state_dict()
    model = VideoInstruction("tiny", plain, fresh=("projector.*",)).model
    assert all(torch.equal(v, before[n]) for n, v in model.language_model.state_dict().items())
    old = VideoInstruction("tiny", plain, fresh=("projector.bias", "projector.*")).model.projector
    assert torch.equal(old.weight, model.projector.weight)  # the seed's
    with pytest.raises(
        UserError, match=r"nothing that trains matches 'token_rows\.\*' of model.fresh"
    ):
        VideoInstruction("tiny", plain, fresh=("token_rows.*",))


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


def test_fresh_values_are_those_of_the_part_that_holds_the_layers(tiny_video_llama, monkeypatch):
    model = tiny_video_llama()
    with torch.no_grad():
        for parameter in model.video_qformer.parameters():
            parameter.fill_(1.0)
    build = systems.CONSTRUCTORS | {"tiny": lambda preset, device, folder: model}
    monkeypatch.setattr(systems, "CONSTRUCTORS", build)
    module = VideoInstruction("tiny", model.stages("world")[0], fresh=True)
    query = module.model.video_qformer.layers[0].self_attention.query
    assert query.weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert not query.bias.any()
    assert module.model.video_qformer.queries.std().item() == pytest.approx(0.02, rel=0.5)
    assert module.model.video_qformer.norm.weight.eq(1).all()
