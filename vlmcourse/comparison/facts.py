"""What is known of the systems from their papers and repositories, each fact with its source.

The facts lie in `experiments/comparison/systems.yaml`; a fact without a source, or with one that
names no section, table or file, is refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmcourse.errors import UserError
from vlmcourse.yaml_files import read_mapping

FACTS = ("encoder", "alignment", "generator", "data")
"""What is told of every system."""
ARXIV = re.compile(r"arXiv (\d{4}\.\d{5}(?:v\d+)?), (?:section|Table|Tables|sections|abstract).*")
FILE = re.compile(r"([\w.-]+/[\w.-]+)@([0-9a-f]{7,40}):([\w./-]+)")
BY = ("own", "others")


class FactError(UserError):
    """A file of facts or claims that cannot be used; names the file and the entry."""


@dataclass(frozen=True)
class Fact:
    """One sentence and where it stands."""

    text: str
    source: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """A public benchmark: its name, the unit of its numbers, and what it asks."""

    name: str
    unit: str
    about: str


@dataclass(frozen=True)
class Ability:
    """Something that some systems claim and every system is asked for: its name and what it is."""

    name: str
    about: str


@dataclass(frozen=True)
class Reported:
    """A number that a paper or repository reports.

    Attributes:
        value: in the benchmark's unit.
        source: where it stands.
        by: "own" (the system's authors) or "others".
        note: which size, or under which conditions.
    """

    value: float
    source: str
    by: str = "own"
    note: str = ""


@dataclass(frozen=True)
class Size:
    """One published size.

    Attributes:
        name: for tables and metrics.
        system: key of `systems.CONSTRUCTORS`.
        options: of its settings.
        stages: those of the paper's that are told; all without any.
    """

    name: str
    system: str
    options: Mapping[str, Any] = field(default_factory=dict)
    stages: tuple[str, ...] = ()


@dataclass(frozen=True)
class World:
    """Where the system's numbers in the small world stand.

    Attributes:
        given: what of a clip it is given.
        probes: record of its answers; `part` is the condition that counts.
        train: records of the training of one seed, `{seed}` for its number; `*` is allowed.
        parts: records of the training of parts that it starts from.
        speed: folder of the shipped weights whose speed is measured.
    """

    given: str
    probes: str
    part: str
    train: tuple[str, ...]
    parts: tuple[str, ...]
    speed: str


@dataclass(frozen=True)
class System:
    """One row of the comparison table.

    Attributes:
        key, name: for files, and for people.
        paper: arXiv id.
        code: OWNER/REPO@COMMIT.
        facts: by name of `FACTS`.
        left_out: what could not be sourced, in words.
        sizes: published sizes, the main one first.
        world: ours.
        reported: numbers of papers by key of a benchmark.
        abilities: those that its paper or repository claims, with the sources of the claim.
    """

    key: str
    name: str
    paper: str
    code: str
    facts: Mapping[str, Fact]
    left_out: str
    sizes: tuple[Size, ...]
    world: World
    reported: Mapping[str, Reported]
    abilities: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """Everything of the file: benchmarks, abilities and systems by key, in its order."""

    benchmarks: Mapping[str, Benchmark]
    systems: Mapping[str, System]
    abilities: Mapping[str, Ability] = field(default_factory=dict)


def source_link(source: str) -> str:
    """Address of a source.

    Raises:
        FactError: neither an arXiv id with a section or table nor a file of a repository.
    """
    if found := ARXIV.fullmatch(source):
        return f"https://arxiv.org/abs/{found[1]}"
    if found := FILE.fullmatch(source):
        return f"https://github.com/{found[1]}/blob/{found[2]}/{found[3]}"
    raise FactError(
        f"source {source!r} is neither 'arXiv ID, section (or Table) ...' "
        "nor 'OWNER/REPO@COMMIT:PATH'"
    )


def read_facts(folder: str | Path) -> Facts:
    """Read `folder/systems.yaml`.

    Raises:
        FactError: what is missing, unknown or without a source.
    """
    path = Path(folder) / "systems.yaml"
    read = read_mapping(path, error=FactError)
    try:
        benchmarks = {key: Benchmark(**one) for key, one in read["benchmarks"].items()}
        abilities = {key: Ability(**one) for key, one in read.get("abilities", {}).items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise FactError(f"{path}: benchmarks or abilities: {error}") from error
    systems = {}
    for key, one in read.get("systems", {}).items():
        try:
            systems[key] = _system(key, one, benchmarks, abilities)
        except (KeyError, TypeError, AttributeError, FactError) as error:
            raise FactError(f"{path}: system {key!r}: {error}") from error
    return Facts(benchmarks, systems, abilities)


def _system(
    key: str,
    told: Mapping,
    benchmarks: Mapping[str, Benchmark],
    abilities: Mapping[str, Ability],
) -> System:
    facts = {}
    for name in FACTS:
        facts[name] = Fact(told["facts"][name]["text"], tuple(told["facts"][name]["source"]))
        _refuse_unsourced(name, facts[name].source)
    if unknown := told["facts"].keys() - set(FACTS):
        raise FactError(f"unknown facts {', '.join(sorted(unknown))}")
    reported = {name: _reported(name, one) for name, one in told["reported"].items()}
    if unknown := reported.keys() - benchmarks.keys():
        raise FactError(f"unknown benchmarks {', '.join(sorted(unknown))}")
    claimed = {name: tuple(sources) for name, sources in told.get("abilities", {}).items()}
    if unknown := claimed.keys() - abilities.keys():
        raise FactError(f"unknown abilities {', '.join(sorted(unknown))}")
    for name, sources in claimed.items():
        _refuse_unsourced(name, sources)
    sizes = tuple(Size(**(one | {"stages": tuple(one.get("stages", ()))})) for one in told["sizes"])
    lists = {name: tuple(told["world"][name]) for name in ("train", "parts")}
    world = World(**(told["world"] | lists))
    named = {name: told[name] for name in ("name", "paper", "code", "left_out")}
    return System(
        key, facts=facts, sizes=sizes, world=world, reported=reported, abilities=claimed, **named
    )


def _reported(name: str, told: Mapping) -> Reported:
    told = dict(told)
    _refuse_unsourced(name, (told["source"],))
    if told.get("by", "own") not in BY:
        raise FactError(f"{name}: by is one of {', '.join(BY)}, not {told['by']!r}")
    if (aspects := told.pop("aspects", None)) is not None:
        told["value"] = round(sum(aspects) / len(aspects) / told.pop("divide", 1), 2)
    return Reported(**told)


def _refuse_unsourced(name: str, sources: tuple[str, ...]) -> None:
    if not sources:
        raise FactError(f"{name}: no source")
    for source in sources:
        source_link(source)
