"""Hypotheses of a sweep: what a paper claims, as a difference between settings, written down before
anything is run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vlmcourse.evaluation.conditions import CONDITIONS, CONTROLS, SYSTEM
from vlmcourse.record_form import settings_hash
from vlmcourse.sweep.keys import Part
from vlmcourse.world.language import FAMILIES

if TYPE_CHECKING:
    from vlmcourse.sweep.plan import Cell, Measure, Setting

EXPECTED = ("greater", "less", "equal")
ASKED = ("same", "other")
MARGIN = 0.05
ORACLE = "oracle_text"
"""A control that stands for `text_storyboard`: the frozen language model told the truth."""
GROUP = re.compile(
    r"(kind|evidence|shape|area|size|scenes|second|hallucination|sound_hallucination)/."
)
"""Groups of questions beside "all" and the families."""


@dataclass(frozen=True)
class Hypothesis:
    """One claim and the difference that decides it.

    Attributes:
        name: unique in the sweep.
        claim: what is claimed, in our words.
        source: paper and section.
        a, b: axis -> value of the two sides; `b` is None where `control` is set. Axes that neither
            these nor `where` name are left free: sides are paired by them, and the mean over the
            pairs is compared.
        control: the condition that `a` is held against in its own runs.
        where: axis -> value that both sides share.
        measure: name of the measure.
        group: group of questions: "all", a family, "kind/first", ...
        expect: "greater", "less" (of a's share less b's) or "equal".
        margin: for "equal": the largest difference that still counts as none.
        questions: "same", or "other" where the sides are asked about different clips, which then
            are not paired.
    """

    name: str
    claim: str
    source: str
    a: Mapping[str, Any]
    b: Mapping[str, Any] | None
    control: str | None
    where: Mapping[str, Any]
    measure: str
    group: str
    expect: str
    margin: float | None
    questions: str = "same"


def hypotheses_hash(hypotheses: Sequence[Hypothesis]) -> str:
    """A short hash of all that is claimed and how it is decided, in whatever order."""
    return settings_hash({one.name: asdict(one) for one in hypotheses})


def pairs(
    hypothesis: Hypothesis, settings: Sequence["Setting"]
) -> tuple[tuple["Setting", "Setting | None"], ...]:
    """Every two settings that differ as the hypothesis says and agree in all else; with a control,
    every setting of side `a` and None."""

    def those(side: Mapping[str, Any]) -> list["Setting"]:
        wanted = {**hypothesis.where, **side}
        return [one for one in settings if wanted.items() <= one.values.items()]

    if hypothesis.b is None:
        return tuple((one, None) for one in those(hypothesis.a))

    def free(setting: "Setting") -> dict:
        return {name: v for name, v in setting.values.items() if name not in hypothesis.a}

    others = those(hypothesis.b)
    return tuple((a, b) for a in those(hypothesis.a) for b in others if free(a) == free(b))


def read_hypotheses(
    whole: Part, axes: Mapping[str, Sequence[Any]], cells: Sequence["Cell"]
) -> tuple[Hypothesis, ...]:
    """Read and check the hypotheses of a sweep file.

    Args:
        cells: those of one seed: every setting and its measures.

    Raises:
        PlanError: names file, hypothesis, key and reason.
    """
    found = [_read(part, axes, cells) for part in whole.parts("hypotheses")]
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            whole.refuse("hypotheses", f"two are called {name}")
    return tuple(found)


def _read(part: Part, axes: Mapping[str, Sequence[Any]], cells: Sequence["Cell"]) -> Hypothesis:
    part.only(
        [*Hypothesis.__dataclass_fields__], ("name", "claim", "source", "a", "group", "expect")
    )
    name, measures = part.get("name", str), [one.name for one in cells[0].measures]
    if not re.fullmatch(r"[\w.-]+", name):
        part.refuse("name", f"{name!r} may hold letters, digits, '_', '-' and '.' only")
    sides = {key: _side(part, key, axes) for key in ("a", "b", "where")}
    expect = _one_of(part, "expect", EXPECTED)
    control = part.get("control", str)
    if (control is None) == ("b" not in part.values):
        part.refuse("b", "say either b or control")
    measure = part.get("measure", str, measures[0] if len(measures) == 1 else None)
    if measure not in measures:
        part.refuse("measure", f"{measure!r} is none of {', '.join(measures)}")
    if part.get("margin", float) is not None and expect != "equal":
        part.refuse("margin", f"goes with expect: equal, not {expect}")
    margin = float(part.get("margin", float, MARGIN)) if expect == "equal" else None
    if margin is not None and not 0 < margin < 1:
        part.refuse("margin", f"{margin} is not between 0 and 1")
    made = Hypothesis(
        name, part.get("claim", str), part.get("source", str), sides["a"],
        None if control else sides["b"], control, sides["where"], measure,
        _group(part), expect, margin, _one_of(part, "questions", ASKED, "same"),
    )  # fmt: skip
    _refuse_impossible(part, made, cells)
    return made


def _one_of(part: Part, key: str, known: Sequence[str], default: str | None = None) -> str:
    value = part.get(key, str, default)
    if value not in known:
        part.refuse(key, f"{value!r} is none of {', '.join(known)}")
    return value


def _side(part: Part, key: str, axes: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Axis -> value, of axes and values that there are."""
    side = part.part(key)
    for axis, value in side.values.items():
        if axis not in axes:
            side.refuse(axis, f"no such axis; known: {', '.join(axes)}")
        if not any(value == one and type(value) is type(one) for one in axes[axis]):
            side.refuse(axis, f"{value!r} is none of {', '.join(map(str, axes[axis]))}")
    return dict(side.values)


def _group(part: Part) -> str:
    group = part.get("group", str)
    if group not in ("all", *FAMILIES) and not GROUP.match(group):
        known = ", ".join(("all", "kind/...", "evidence/...", *FAMILIES))
        part.refuse("group", f"unknown {group!r}; known: {known}")
    return group


def _refuse_impossible(part: Part, made: Hypothesis, cells: Sequence["Cell"]) -> None:
    """Refuse sides that no setting has or that are one and the same, and what is not asked."""
    b = made.b
    if b is not None and made.a.keys() != b.keys():
        part.refuse("b", f"names {', '.join(b) or 'nothing'}, but a names {', '.join(made.a)}")
    if b is not None and made.a == b:
        part.refuse("b", "is the same as a")
    if both := made.a.keys() & made.where.keys():
        part.refuse("where", f"{', '.join(both)} stands in a and b")
    found = pairs(made, [cell.setting for cell in cells])
    if not found:
        part.refuse("a", "no two settings of this sweep differ so" if b else "no such setting")
    if made.control is not None and (
        made.control not in (*CONDITIONS, ORACLE) or made.control == SYSTEM
    ):
        known = ", ".join((*(x for x in CONDITIONS if x != SYSTEM), ORACLE))
        part.refuse("control", f"unknown {made.control!r}; known: {known}")
    compared = {one.name for pair in found for one in pair if one is not None}
    for cell in cells:
        if cell.setting.name in compared:
            measure = next(one for one in cell.measures if one.name == made.measure)
            _refuse_unasked(part, made, measure, cell.setting.name)


def _refuse_unasked(part: Part, made: Hypothesis, measure: "Measure", setting: str) -> None:
    """Refuse a group, or a control, that the measure leaves out in one of the settings."""
    where = f"measure {measure.name} of {setting}"
    families = measure.families
    if made.group in FAMILIES and families is not None and made.group not in families:
        part.refuse("group", f"{made.group!r} is not asked in {where}")
    condition = "text_storyboard" if made.control == ORACLE else made.control
    if condition in (None, "best_constant") or measure.controls is None:
        return
    if condition not in [name for control in measure.controls for name in CONTROLS[control]]:
        told = ", ".join(measure.controls) or "none"
        part.refuse("control", f"{made.control} is not among the controls of {where}: {told}")
