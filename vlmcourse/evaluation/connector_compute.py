"""The arithmetic of the connector study: operations of a training step, and the steps that make all
connectors and budgets cost the same.

What is counted is a real step of the study's stage: forward and backward through connector and
language model, on the first batches of its data (matrix products, convolutions, attention; see
training/arithmetic.py). Features of frames come from the cache and cost nothing here; they would
cost every connector the same.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vlmcourse.errors import UserError
from vlmcourse.systems.connectors_config import BUDGETS, WAYS, spending

if TYPE_CHECKING:
    from vlmcourse.systems.base import VideoLanguageModel
    from vlmcourse.systems.batch import Batch

COMPUTE = Path("experiments/connectors/compute.json")
STANDARD = ("qformer", 32)
"""The setting whose whole training, with the steps of the stage file, is the total that all others
get."""
BATCHES, FILMS = 4, 128
"""Batches that a step is the mean of, and films that they are drawn from."""
GIGA = 10**9


@dataclass(frozen=True)
class Cost:
    """What one setting costs.

    Attributes:
        gflop_per_step: thousand millions of operations, forward and backward.
        connector_share: part of them inside the connector.
        parameters: that train.
    """

    gflop_per_step: float
    connector_share: float
    parameters: int


def operations(model: "VideoLanguageModel", batches: Sequence["Batch"]) -> tuple[float, float]:
    """Operations of a training step, and those inside the connector: means over batches.

    Args:
        model: a `Connectors`, with what trains set; its gradients are spent and left empty.
        batches: as training sees them.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from vlmcourse.training.arithmetic import FORMULAS

    whole = inside = 0
    for batch in batches:
        counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
        with counter:
            model(batch).loss.backward()
        by_part = counter.get_flop_counts()
        whole += counter.get_total_flops()
        inside += sum(by_part.get(f"{type(model).__name__}.connector", {}).values())
        model.zero_grad(set_to_none=True)
    return whole / len(batches), inside / len(batches)


def settings() -> Iterator[tuple[str, int]]:
    """Every connector with every budget that it can spend."""
    for connector in WAYS:
        for tokens in BUDGETS:
            try:
                spending(connector, tokens)
            except UserError:
                continue
            yield connector, tokens


def counted(
    stage_file: Path, wanted: Iterable[tuple[str, int]], films: int = FILMS
) -> dict[tuple[str, int], Cost]:
    """Count settings on the data of a stage file.

    Raises:
        UserError: the data or the frozen parts are not there.
    """
    from vlmcourse.systems import build
    from vlmcourse.systems.stages import set_trainable
    from vlmcourse.training.settings import StageSettings

    module, data = StageSettings([f"--config={stage_file}"]).model_and_data()
    data.sources = [replace(source, limit=films) for source in data.sources]
    data.val_sources, stage, costs = [], module.stage, {}
    for connector, tokens in wanted:
        model = build(module.system, connector=connector, tokens=tokens).train()
        set_trainable(model, stage.trains)
        data.prepare(model, module.system, stage.batch_size, module.seed, progress=False)
        whole, inside = operations(model, [data.batch(index) for index in range(BATCHES)])
        size = sum(p.numel() for p in model.parameters() if p.requires_grad)
        costs[connector, tokens] = Cost(whole / GIGA, inside / whole, size)
    return costs


def equal_steps(costs: dict[tuple[str, int], Cost], steps: int) -> tuple[float, dict]:
    """Steps that make every setting cost what `STANDARD` costs in `steps`.

    Returns:
        the total in thousand millions of operations, and steps by setting, at least 1.
    """
    total = costs[STANDARD].gflop_per_step * steps
    return total, {key: max(1, round(total / cost.gflop_per_step)) for key, cost in costs.items()}


def table(costs: dict[tuple[str, int], Cost], steps: int, stage_file: Path) -> dict:
    """What `COMPUTE` holds."""
    total, equal = equal_steps(costs, steps)
    found: dict[str, dict[str, dict]] = {}
    for (connector, tokens), cost in costs.items():
        found.setdefault(connector, {})[str(tokens)] = {
            "gflop_per_step": round(cost.gflop_per_step, 3),
            "connector_share": round(cost.connector_share, 3),
            "parameters": cost.parameters,
            "steps": equal[connector, tokens],
        }
    return {
        "command": "vlmcourse timings --what connectors",
        "stage": stage_file.as_posix(),
        "standard": {"connector": STANDARD[0], "tokens": STANDARD[1], "steps": steps},
        "total_gflop": round(total, 1),
        "settings": found,
    }


def command(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """`vlmcourse timings --what connectors`: counts every setting and writes `COMPUTE`.

    With `--quick` only the smallest and the largest budget are counted, beside the standard one.
    """
    from tqdm import tqdm

    from vlmcourse.training.settings import stage_files, stage_of
    from vlmcourse.training.sources import ROOT
    from vlmcourse.world.files import write_bytes

    stage_file = stage_files("connectors", "world")[-1]
    steps = int(stage_of(stage_file, "steps"))
    few = (BUDGETS[0], BUDGETS[-1])
    wanted = [x for x in settings() if not args.quick or x == STANDARD or x[1] in few]
    costs = counted(stage_file, tqdm(wanted, unit="setting"))
    told = stage_file.relative_to(ROOT) if stage_file.is_relative_to(ROOT) else stage_file
    found = table(costs, steps, told)
    path = args.record or COMPUTE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, (json.dumps(found, indent=1) + "\n").encode())
    tqdm.write(f"{markdown(found)}\n\n{path}")
    return 0


def markdown(found: dict) -> str:
    """What was counted, budgets across: operations of a step, and steps of equal compute."""
    budgets = [str(n) for n in BUDGETS]
    lines = [f"| GFLOP a step / steps | {' | '.join(budgets)} |", "| --- " * 7 + "|"]
    for connector, costs in found["settings"].items():
        cells = [
            f"{costs[n]['gflop_per_step']:.1f} / {costs[n]['steps']}" if n in costs else ""
            for n in budgets
        ]
        lines.append(f"| {connector} | {' | '.join(cells)} |")
    return "\n".join(lines)
