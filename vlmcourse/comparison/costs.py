"""What a system costs in the small world, summed from the records of its training."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass

from vlmcourse.comparison.facts import FactError, System


@dataclass(frozen=True)
class Cost:
    """Training of one run, from the parts that were there to the system that is asked.

    Attributes:
        runs: how many were averaged.
        stages: of each run.
        wall_s, cpu_s: of all stages together, mean over the runs. Other work ran on the machine
            beside some of them, which processor time feels less than time on the clock.
        parts_cpu_s: of the parts it starts from (picture encoder, language model, ...), trained
            once, and for several systems.
        peak_mib: largest of any stage of any run.
    """

    runs: int
    stages: int
    wall_s: float
    cpu_s: float
    parts_cpu_s: float
    peak_mib: float


def training_cost(system: System, records: Mapping[str, dict]) -> Cost:
    """Sum the stages of each run, and average over the runs.

    Raises:
        FactError: a record that is not there, is of a failed run, or is one of several.
    """
    world = system.world
    seeds = one_record(world.probes, records)["seeds"]
    runs = [
        [one_record(name.replace("{seed}", str(seed)), records) for name in world.train]
        for seed in seeds
    ]
    everything = [stage for run in runs for stage in run]
    return Cost(
        runs=len(runs),
        stages=len(world.train),
        wall_s=sum(one["wall_s"] for one in everything) / len(runs),
        cpu_s=sum(one["cpu_s"] for one in everything) / len(runs),
        parts_cpu_s=sum(one_record(name, records)["cpu_s"] for name in world.parts),
        peak_mib=max(one["peak_mib"] for one in everything),
    )


def one_record(pattern: str, records: Mapping[str, dict]) -> dict:
    """The one record whose id matches.

    Raises:
        FactError: none or several do, or it is of a failed run.
    """
    found = fnmatch.filter(records, pattern)
    if len(found) != 1:
        raise FactError(f"{len(found)} records match {pattern!r}, not one")
    record = records[found[0]]
    if record["status"] == "failed":
        raise FactError(f"record {found[0]!r} is of a failed run")
    return record
