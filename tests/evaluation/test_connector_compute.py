"""The arithmetic of the connector study: counted on a batch, and made equal by steps."""

import json

import pytest
from tiny_connectors import build_tiny, film, training_batch

from vlmcourse.evaluation import connector_compute
from vlmcourse.evaluation.connector_compute import (
    COMPUTE,
    STANDARD,
    Cost,
    equal_steps,
    markdown,
    operations,
    settings,
    table,
)
from vlmcourse.evaluation.timings import main
from vlmcourse.systems.connectors import Connector, size_of
from vlmcourse.systems.connectors_config import ConnectorsConfig
from vlmcourse.systems.stages import set_trainable
from vlmcourse.training.settings import StageSettings
from vlmcourse.training.sources import located


def counted(films=2, **options):
    model = build_tiny(**options)
    set_trainable(model, ("connector.*",))
    batch = training_batch(model, [film(8, seed) for seed in range(films)])
    found = operations(model, [batch, batch])
    assert all(parameter.grad is None for parameter in model.parameters())
    return found


@pytest.mark.parametrize("films", [1, 2])
def test_a_linear_projection_costs_three_products(films):
    """Forward, and the gradients of the weights and of what comes in (time trains)."""
    whole, inside = counted(films, connector="projection", tokens=16, parameters="own")
    assert inside == 3 * 2 * films * 16 * 96 * 32
    assert whole > 2 * inside


def test_without_time_nothing_in_front_of_the_projection_needs_a_gradient():
    _, inside = counted(connector="projection", tokens=16, parameters="own", time="none")
    assert inside == 2 * 2 * 2 * 16 * 96 * 32


def test_more_tokens_cost_more_and_a_bank_more_than_a_look_at_all_frames():
    few, many = (counted(connector="qformer", tokens=n) for n in (8, 64))
    assert few[0] < many[0]
    assert few[1] < many[1]
    assert counted(connector="memory_bank", tokens=64)[1] > 2 * many[1]


def test_equal_compute_spends_one_total():
    costs = {key: Cost(1.0 + number, 0.1, 10) for number, key in enumerate(settings())}
    steps = 1000
    total, equal = equal_steps(costs, steps)
    assert equal[STANDARD] == steps
    assert total == pytest.approx(costs[STANDARD].gflop_per_step * steps)
    for key, cost in costs.items():
        assert equal[key] * cost.gflop_per_step == pytest.approx(total, rel=0.02)


def test_the_table_holds_every_setting_that_there_is(tmp_path):
    costs = {key: Cost(2.0, 0.25, 10) for key in settings()}
    found = table(costs, 300, tmp_path / "stage.yaml")
    assert len(costs) == sum(map(len, found["settings"].values())) == 34
    assert found["settings"]["pooling"]["64"] == {
        "gflop_per_step": 2.0,
        "connector_share": 0.25,
        "parameters": 10,
        "steps": 300,
    }
    lines = markdown(found).splitlines()
    assert lines[3] == "| pooling | 2.0 / 300 | 2.0 / 300 | 2.0 / 300 | 2.0 / 300 |  |  |"


def test_the_command_writes_the_file_and_shows_it(tmp_path, monkeypatch, capsys):
    asked = []

    def counted(stage_file, wanted):
        asked.extend(wanted)
        return {key: Cost(2.0, 0.25, 10) for key in asked}

    monkeypatch.setattr(connector_compute, "counted", counted)
    path = tmp_path / "new" / "compute.json"
    assert main(["--what", "connectors", "--quick", "--record", str(path)]) == 0
    assert STANDARD in asked
    assert {tokens for _, tokens in asked} == {8, 32, 256}
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["settings"]["memory_bank"]["256"]["steps"] == found["standard"]["steps"]
    assert str(path) in capsys.readouterr().out


def test_the_committed_file_is_that_of_the_system_as_it_is():
    found = json.loads(located(COMPUTE).read_text(encoding="utf-8"))
    counted = {
        (connector, int(tokens)): cost
        for connector, costs in found["settings"].items()
        for tokens, cost in costs.items()
    }
    assert list(counted) == list(settings())
    for (connector, tokens), cost in counted.items():
        made = Connector(ConnectorsConfig(connector, tokens), 64, 96, 128)
        assert cost["parameters"] == size_of(made)
        spent = cost["steps"] * cost["gflop_per_step"]
        assert spent == pytest.approx(found["total_gflop"], rel=0.01)
    steps = StageSettings([f"--config={located(found['stage'])}"]).config.model.stage.steps
    assert counted[STANDARD]["steps"] == found["standard"]["steps"] == steps
