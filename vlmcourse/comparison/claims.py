"""What is said for and against each system, and the runs that should show it.

The claims lie in `experiments/comparison/claims.yaml`. A claim names who says so (a section of a
paper, or "measured here"), and its evidence: metrics of records, and on which side the difference
is expected. The verdict is computed (`evidence.py`), never written down.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vlmcourse.comparison.facts import FactError, source_link
from vlmcourse.yaml_files import read_mapping

SIDES = ("strength", "weakness")
EXPECTED = ("greater", "less", "equal")
HERE = "measured here"


@dataclass(frozen=True)
class Place:
    """A metric of a record."""

    record: str
    metric: str


@dataclass(frozen=True)
class Evidence:
    """One number that should show a claim.

    Attributes:
        label: what it is, in few words.
        a: the metric: a difference that a record holds (`b` None), or one side of a difference.
        b: the other side; both sides are then told as `a` less `b`, unpaired.
        expect: "greater" or "less" than `than`, or "equal" to it within `margin`.
        than: what it is held against; 0 for differences.
        margin: reach of "equal".
        across: why the two sides may come from different clips; "" where they may not.
    """

    label: str
    a: Place
    b: Place | None
    expect: str
    than: float = 0.0
    margin: float = 0.0
    across: str = ""


@dataclass(frozen=True)
class Claim:
    """One thing that is said of a system.

    Attributes:
        key: unique.
        system: key of the system.
        side: "strength" or "weakness".
        text: the claim in our words.
        by: where a paper says so, or "measured here".
        evidence: all of it has to point the expected way.
        discussion: a sentence on what the runs say, needed where they contradict a paper.
    """

    key: str
    system: str
    side: str
    text: str
    by: str
    evidence: tuple[Evidence, ...]
    discussion: str = ""


def read_claims(folder: str | Path, systems: Mapping[str, object]) -> dict[str, Claim]:
    """Read `folder/claims.yaml`, by key.

    Args:
        systems: known systems by key.

    Raises:
        FactError: an entry that is not whole, with its name.
    """
    path = Path(folder) / "claims.yaml"
    claims = {}
    for system, told in read_mapping(path, error=FactError).items():
        if system not in systems:
            raise FactError(f"{path}: unknown system {system!r}; known: {', '.join(systems)}")
        for key, one in told.items():
            try:
                made = _claim(key, system, dict(one))
            except (KeyError, TypeError, AttributeError, FactError) as error:
                raise FactError(f"{path}: claim {key!r}: {error}") from error
            if key in claims:
                raise FactError(f"{path}: a second claim {key!r}")
            claims[key] = made
    return claims


def _claim(key: str, system: str, told: dict) -> Claim:
    evidence = tuple(_evidence(dict(one)) for one in told.pop("evidence"))
    claim = Claim(key, system, evidence=evidence, **told)
    if claim.side not in SIDES:
        raise FactError(f"side is one of {', '.join(SIDES)}, not {claim.side!r}")
    if claim.by != HERE:
        source_link(claim.by)
    if not evidence:
        raise FactError("no evidence")
    return claim


def _evidence(told: dict) -> Evidence:
    if "record" in told:
        told["a"] = {"record": told.pop("record"), "metric": told.pop("metric")}
    sides = {side: Place(**told.pop(side)) if side in told else None for side in ("a", "b")}
    if sides["a"] is None:
        raise FactError("evidence needs record and metric, or a and b")
    made = Evidence(**sides, **told)
    if made.expect not in EXPECTED:
        raise FactError(f"expect is one of {', '.join(EXPECTED)}, not {made.expect!r}")
    if (made.expect == "equal") != (made.margin > 0):
        raise FactError("a margin above 0 goes with expect: equal, and with nothing else")
    return made
