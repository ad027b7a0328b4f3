"""The plan of a sweep, read from one YAML file: settings x seeds, what each trains and is asked.

    title, question   for the reader
    written      the day on which the hypotheses were written
    axes         {connector: [pooling, qformer], tokens: [8, 32]}: every combination is a setting;
                 values may be names of several things: {short: {frames: 2, steps: 90}, long: ...}
    without      [{combination: {connector: pooling, tokens: 32}, why: ...}]
    seeds        [0, 1, 2]
    train        of `vlmcourse train`: system, recipe, stages, options, set, init_from
    runs         instead, finished runs: "runs/video_chatgpt/world-seed{seed}"
    measure      a list, of `vlmcourse evaluate`: name, data or split, families, controls, set, ...
    hypotheses   a list (hypotheses.py)

In train, runs and measure "{connector}", "{seed}", "{case.steps}" stand for values of the cell, and
{file: table.json, key: "steps.{connector}"} for a number in a JSON file.

Nothing is imported that trains or measures, and nothing is looked for on the disk: a plan is known
to be whole before a minute is spent.
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmcourse.evaluation.conditions import CONTROLS
from vlmcourse.evaluation.options import value_text
from vlmcourse.sweep import hypotheses as claims
from vlmcourse.sweep.hypotheses import Hypothesis, read_hypotheses
from vlmcourse.sweep.keys import (
    Part,
    PlanError,
    filled,
    looked_up,
    placeholders,
)
from vlmcourse.world.language import FAMILIES
from vlmcourse.yaml_files import PLAIN, read_mapping

__all__ = ["Cell", "Measure", "Plan", "PlanError", "Setting", "Train", "Without", "read_plan"]

LONGEST_NAME = 150
SEED = "seed"


@dataclass(frozen=True)
class Setting:
    """One combination of the axes.

    Attributes:
        name: as in names of files and of metrics: `connector_pooling-tokens_8`.
        values: axis -> value.
    """

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Without:
    """A combination that is left out.

    Attributes:
        combination: axis -> value, or several values.
        why: the reason.
    """

    combination: Mapping[str, Any]
    why: str

    def has(self, values: Mapping[str, Any]) -> bool:
        """Whether a setting is one of those left out."""
        return all(
            values[axis] in (left if isinstance(left, list) else [left])
            for axis, left in self.combination.items()
        )


@dataclass(frozen=True)
class Train:
    """What `vlmcourse train` is called with.

    Attributes:
        system, recipe: whose stage files.
        stages: "all", or one of their names.
        options: of the system (`--model.options.NAME=VALUE`).
        set: dotted settings of every stage (`--model.stage.steps=200`).
        init_from: folder of a finished stage that the first one starts from.
    """

    system: str
    recipe: str = "world"
    stages: str = "all"
    options: Mapping[str, Any] = field(default_factory=dict)
    set: Mapping[str, Any] = field(default_factory=dict)
    init_from: str | None = None

    @property
    def overrides(self) -> dict[str, Any]:
        """Options and settings as `runner.run_stages` takes them."""
        return {**{f"model.options.{name}": v for name, v in self.options.items()}, **self.set}


@dataclass(frozen=True)
class Measure:
    """What `vlmcourse evaluate` is called with; see there.

    Attributes:
        name: as in names of files.
        split: folder of the split that is asked about.
        train: split that constant answers come from; None means `train` beside it.
        given: streams that the system is given.
        families, controls: None means all.
        set: options of the system that are changed for the questions.
    """

    name: str
    split: str = "data/world/test"
    train: str | None = None
    given: tuple[str, ...] | None = None
    families: tuple[str, ...] | None = None
    controls: tuple[str, ...] | None = None
    permutations: int = 3
    clips: int | None = None
    set: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One run of a sweep and what is measured of it.

    Attributes:
        setting, seed: the name is made of both.
        train: how it is trained; None where `run` names a finished run instead.
        run: folder of a finished run.
        measures: what it is asked.
    """

    setting: Setting
    seed: int
    train: Train | None
    run: str | None
    measures: tuple[Measure, ...]

    @property
    def name(self) -> str:
        return f"{self.setting.name}-seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """A whole sweep.

    Attributes:
        path: of its file; the name is the stem.
        title, question: for the reader.
        written: the day on which the hypotheses were written.
        axes: name -> values.
        without: combinations that are left out.
        settings: the others, in reading order.
        seeds: every setting is run with each.
        measures: of the first setting; other settings may have other options in them.
        cells: settings x seeds, all settings of the first seed first.
        hypotheses: what is to be decided.
    """

    path: Path
    title: str
    question: str
    written: str
    axes: Mapping[str, tuple[Any, ...]]
    without: tuple[Without, ...]
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    measures: tuple[Measure, ...]
    cells: tuple[Cell, ...]
    hypotheses: tuple[Hypothesis, ...]

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def hypotheses_hash(self) -> str:
        """Of all hypotheses; records hold it, so that later changes are noticed."""
        return claims.hypotheses_hash(self.hypotheses)

    def pairs(self, hypothesis: Hypothesis) -> tuple[tuple[Setting, Setting | None], ...]:
        """The settings that a hypothesis compares (`hypotheses.pairs`)."""
        return claims.pairs(hypothesis, self.settings)


KEYS = (
    *("title", "question", "written", "axes", "without", "seeds", "train", "runs", "measure"),
    "hypotheses",
)


def read_plan(path: str | Path) -> Plan:
    """Read and check a sweep file.

    Raises:
        PlanError: it is missing, no YAML, has an unknown key, a placeholder without a value, an
            axis that changes nothing, two settings that are one, or a hypothesis about settings
            that do not exist; the message names file, key and reason.
    """
    path = Path(path)
    whole = Part(
        path, "", read_mapping(path, "a sweep file (title, question, axes, seeds, ...)", PlanError)
    ).only(KEYS, ("title", "question", "axes", "seeds"))
    if not re.fullmatch(r"[\w.-]+", path.stem):
        whole.refuse("", "its name may hold letters, digits, '_', '-' and '.' only")
    axes, named = _axes(whole)
    without = _without(whole, axes)
    settings = _settings(whole, axes, without)
    seeds = _seeds(whole)
    _refuse_idle(whole, axes, named, seeds)
    cells = tuple(_cell(whole, setting, seed, named) for seed in seeds for setting in settings)
    _refuse_same(whole, cells)
    measures = cells[0].measures
    found = read_hypotheses(whole, axes, cells[: len(settings)])
    return Plan(
        path, whole.get("title", str), whole.get("question", str), _written(whole, bool(found)),
        axes, without, settings, seeds, measures, cells, found,
    )  # fmt: skip


def _axes(whole: Part) -> tuple[dict[str, tuple], dict[str, dict[Any, dict]]]:
    """Values of every axis; and for axes whose values are names of several things, what each name
    stands for: axis -> value -> placeholders."""
    part, axes, named = whole.part("axes"), {}, {}
    if not part.values:
        part.refuse("", "at least one axis is needed")
    for name, values in part.values.items():
        if not re.fullmatch(r"[A-Za-z]\w*", str(name)) or name == SEED:
            part.refuse(name, "a name of letters, digits and '_' is needed, not seed")
        if isinstance(values, dict):
            named[name] = {value: part.part(name).part(value).values for value in values}
        elif not isinstance(values, list):
            part.refuse(name, f"a list of values is needed, not {values!r}")
        if not values or not all(isinstance(value, PLAIN) for value in values):
            part.refuse(name, f"plain values are needed, not {values!r}")
        if len(set(map(value_text, values))) < len(values):
            part.refuse(name, f"a value stands there twice: {list(values)}")
        axes[name] = tuple(values)
    return axes, named


def _without(whole: Part, axes: Mapping[str, tuple]) -> tuple[Without, ...]:
    found = []
    for part in whole.parts("without"):
        part.only(("combination", "why"), ("combination", "why"))
        combination = part.part("combination")
        for axis, left in combination.values.items():
            if axis not in axes:
                combination.refuse(axis, f"no such axis; known: {', '.join(axes)}")
            for value in left if isinstance(left, list) else [left]:
                if value not in axes[axis]:
                    told = ", ".join(map(value_text, axes[axis]))
                    combination.refuse(axis, f"{value!r} is none of {told}")
        found.append(Without(dict(combination.values), part.get("why", str)))
    return tuple(found)


def _settings(whole: Part, axes: Mapping[str, tuple], without) -> tuple[Setting, ...]:
    found: dict[str, Setting] = {}
    for combination in itertools.product(*axes.values()):
        values = dict(zip(axes, combination))
        if any(one.has(values) for one in without):
            continue
        texts = {axis: re.sub(r"[^\w.]", "_", value_text(v)) for axis, v in values.items()}
        name = "-".join(f"{axis}_{text}" for axis, text in texts.items())
        if name in found:
            whole.refuse("axes", f"two settings would both be called {name}")
        if len(name) > LONGEST_NAME:
            whole.refuse("axes", f"{name} is too long for the name of a file")
        found[name] = Setting(name, values)
    if not found:
        whole.refuse("without", "leaves no setting")
    return tuple(found.values())


def _seeds(whole: Part) -> tuple[int, ...]:
    seeds = whole.get("seeds", list)
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        whole.refuse("seeds", f"a list of whole numbers from 0 on is needed, not {seeds!r}")
    if len(set(seeds)) < len(seeds):
        whole.refuse("seeds", f"a seed stands there twice: {seeds}")
    return tuple(seeds)


def _written(whole: Part, needed: bool) -> str:
    """The day as text; YAML may have made a date of it."""
    written = str(whole.values.get("written") or "")
    if (needed or written) and not re.fullmatch(r"\d{4}-\d\d-\d\d", written):
        whole.refuse("written", "the day the hypotheses were written is needed: YYYY-MM-DD")
    return written


def _refuse_idle(whole: Part, axes, named, seeds) -> None:
    """Refuse an axis that nothing mentions, and runs that would be the same for every seed."""
    values = whole.values
    if ("train" in values) == ("runs" in values):
        whole.refuse("train", "say either train or runs")
    used = placeholders([values.get(key) for key in ("train", "runs", "measure")])
    for axis in axes:
        fields = {f"{axis}.{key}" for told in named.get(axis, {}).values() for key in told}
        if not used & {axis, *fields}:
            whole.refuse(f"axes.{axis}", f"nothing mentions {{{axis}}}: it would change nothing")
    if SEED in placeholders(values.get("measure")):
        whole.refuse("measure", "the questions may not depend on the seed")
    if "runs" in values and len(seeds) > 1 and SEED not in placeholders(values["runs"]):
        whole.refuse("runs", "without {seed} one run would count as several witnesses")


def _cell(whole: Part, setting: Setting, seed: int, named) -> Cell:
    values = {**setting.values, SEED: seed}
    for axis, told in named.items():
        values |= {f"{axis}.{key}": v for key, v in told[setting.values[axis]].items()}

    def fill(key: str) -> Part:
        def refuse(why: str) -> None:
            whole.refuse(key, f"{why} (setting {setting.name})")

        value = filled(whole.values.get(key), values, refuse)
        return Part(whole.path, "", {key: looked_up(value, refuse)})

    train = _train(fill("train").part("train")) if "train" in whole.values else None
    run = fill("runs").get("runs", str)
    measures = tuple(map(_measure, fill("measure").parts("measure")))
    if not measures:
        whole.refuse("measure", "at least one is needed")
    names = [one.name for one in measures]
    if len(set(names)) < len(names):
        whole.refuse("measure", f"two have the same name: {', '.join(names)}")
    return Cell(setting, seed, train, run, measures)


def _train(part: Part) -> Train:
    part.only(Train.__dataclass_fields__, ("system",))
    for key in part.part("set").values:
        if not str(key).startswith(("model.", "data.", "trainer.")):
            part.part("set").refuse(key, "a setting begins with model., data. or trainer.")
    return Train(
        part.get("system", str), part.get("recipe", str, "world"), part.get("stages", str, "all"),
        part.part("options").values, part.part("set").values, part.get("init_from", str),
    )  # fmt: skip


def _measure(part: Part) -> Measure:
    part.only((*Measure.__dataclass_fields__, "data"))
    name = part.get("name", str, "probes")
    if not re.fullmatch(r"[\w.-]+", name):
        part.refuse("name", f"{name!r} may hold letters, digits, '_', '-' and '.' only")
    if "data" in part.values and "split" in part.values:
        part.refuse("split", "say either data or split")
    split = part.get("split", str) or f"{part.get('data', str, 'data/world')}/test"
    for key in ("clips", "permutations"):
        if part.get(key, int, 1) < 1:
            part.refuse(key, "must be at least 1")
    return Measure(
        name, split, part.get("train", str), part.words("given"),
        part.words("families", tuple(FAMILIES)), part.words("controls", tuple(CONTROLS)),
        part.get("permutations", int, 3), part.get("clips", int), part.part("set").values,
    )  # fmt: skip


def _refuse_same(whole: Part, cells: tuple[Cell, ...]) -> None:
    """Refuse two settings that would train and ask the very same."""
    seen: dict[str, str] = {}
    for cell in cells:
        what = repr((cell.seed, cell.train, cell.run, cell.measures))
        if what in seen:
            whole.refuse("axes", f"{seen[what]} and {cell.name} are one and the same")
        seen[what] = cell.name
