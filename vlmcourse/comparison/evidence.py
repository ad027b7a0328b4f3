"""From a claim to its verdict: look the numbers up, take differences, see on which side they lie.

A difference that a record holds was measured on the same clips ("paired"). Two metrics of two
records, or of two conditions of one, have no common draws any more: their difference is "unpaired",
its interval made of both intervals as if they were independent,

    low  = a - b - sqrt((a - a_low)^2 + (b_high - b)^2)
    high = a - b + sqrt((a_high - a)^2 + (b - b_low)^2)

(Zou and Donner 2008, "MOVER"). As all systems are asked about the same clips, which are easy or
hard for all of them, that is rather too wide than too narrow.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from vlmcourse.comparison.claims import Claim, Evidence, Place
from vlmcourse.comparison.facts import FactError

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
VERDICTS = (SUPPORTED, CONTRADICTED, UNDECIDED)
COUNTED, DIFFERENCE = "counted", "difference"
LEVEL = 0.95


@dataclass(frozen=True)
class Measured:
    """One number of a claim.

    Attributes:
        evidence: what was asked for.
        value: the metric, or the difference.
        low, high: of its 95 % interval; None for what was counted.
        unit: of the metric.
        kind: "paired", "unpaired", "single" (no difference) or "counted".
        runs: how many trained runs (seeds) stand behind it, the fewer of both sides; None where no
            training is involved.
        records: ids, in the order of the sides.
        sides: both metrics, for a tooltip.
        verdict: of this number alone.
    """

    evidence: Evidence
    value: float
    low: float | None
    high: float | None
    unit: str
    kind: str
    runs: int | None
    records: tuple[str, ...]
    sides: tuple[dict, ...]
    verdict: str


@dataclass(frozen=True)
class Judged:
    """A claim with its numbers.

    Attributes:
        verdict: "supported" if all its numbers are; "contradicted" if one of them is; else
            "undecided".
        holds: whether the verdict stays when all numbers of all claims are corrected for their
            number (Bonferroni).
    """

    claim: Claim
    measured: tuple[Measured, ...]
    verdict: str
    holds: bool

    @property
    def runs(self) -> int | None:
        """Seeds behind its weakest number; None where nothing was trained."""
        known = [one.runs for one in self.measured if one.runs is not None]
        return min(known) if known else None


def judge(claims: Iterable[Claim], records: Mapping[str, dict]) -> list[Judged]:
    """Look up and judge all claims.

    Args:
        records: by id, as `read_records` gives them.

    Raises:
        FactError: a claim whose record or metric is not there, or whose sides were measured on
            different clips.
    """
    found = []
    for claim in claims:
        try:
            found.append((claim, tuple(measure(one, records) for one in claim.evidence)))
        except FactError as error:
            raise FactError(f"claim {claim.key!r}: {error}") from error
    factor = bonferroni(sum(one.low is not None for _, numbers in found for one in numbers))
    judged = []
    for claim, numbers in found:
        verdict = overall([one.verdict for one in numbers])
        wider = [widened_verdict(one, factor) for one in numbers]
        judged.append(Judged(claim, numbers, verdict, overall(wider) == verdict))
    return judged


def measure(evidence: Evidence, records: Mapping[str, dict]) -> Measured:
    """Look one number up, or take a difference, and judge it."""
    places = [evidence.a] if evidence.b is None else [evidence.a, evidence.b]
    sides = [_metric(place, records) for place in places]
    used = [records[place.record] for place in places]
    if evidence.b is None:
        value, low, high = (sides[0][name] for name in ("mean", "low", "high"))
        kind = "paired" if _is_difference(evidence.a.metric) else "single"
    else:
        _refuse_other_clips(evidence, used)
        value, low, high = unpaired(*sides)
        kind = "unpaired"
    if low is None:
        kind = COUNTED
    runs = [_runs(record) for record in used]
    known = [count for count in runs if count is not None]
    return Measured(
        evidence, value, low, high, sides[0]["unit"], kind, min(known) if known else None,
        tuple(place.record for place in places), tuple(sides),
        verdict_of(evidence, value, low, high),
    )  # fmt: skip


def unpaired(a: Mapping, b: Mapping) -> tuple[float, float | None, float | None]:
    """`a` less `b` with an interval made of both; (difference, None, None) if both were counted.

    Raises:
        FactError: only one of them has an interval, or they have different units.
    """
    if a["unit"] != b["unit"]:
        raise FactError(f"a difference of {a['unit']!r} and {b['unit']!r}")
    value = a["mean"] - b["mean"]
    if a["low"] is None and b["low"] is None:
        return value, None, None
    if a["low"] is None or b["low"] is None:
        raise FactError("only one side has an interval")
    low = value - math.hypot(a["mean"] - a["low"], b["high"] - b["mean"])
    high = value + math.hypot(a["high"] - a["mean"], b["mean"] - b["low"])
    return value, low, high


def opposite(metric: Mapping) -> dict:
    """A difference the other way round."""
    low, high = (None if x is None else -x for x in (metric["high"], metric["low"]))
    return {**metric, "mean": -metric["mean"], "low": low, "high": high}


def verdict_of(evidence: Evidence, value: float, low: float | None, high: float | None) -> str:
    """On which side of what was expected an interval lies; a count is its own interval."""
    low, high = (value, value) if low is None else (low, high)
    below, above = low - evidence.than, high - evidence.than
    if evidence.expect == "equal":
        if max(abs(below), abs(above)) <= evidence.margin:
            return SUPPORTED
        return CONTRADICTED if below > evidence.margin or above < -evidence.margin else UNDECIDED
    if evidence.expect == "less":
        below, above = -above, -below
    return SUPPORTED if below > 0 else CONTRADICTED if above < 0 else UNDECIDED


def overall(verdicts: Sequence[str]) -> str:
    """Of several numbers: one that contradicts decides, and all have to support."""
    if CONTRADICTED in verdicts:
        return CONTRADICTED
    return SUPPORTED if set(verdicts) == {SUPPORTED} else UNDECIDED


def bonferroni(count: int, level: float = LEVEL) -> float:
    """How many times wider intervals are that hold for `count` numbers at once (normal errors)."""
    each = NormalDist().inv_cdf(1 - (1 - level) / 2 / max(count, 1))
    return each / NormalDist().inv_cdf(1 - (1 - level) / 2)


def widened_verdict(one: Measured, factor: float) -> str:
    """The verdict of a number whose interval reaches `factor` times as far on both sides."""
    if one.low is None:
        return one.verdict
    low = one.value - factor * (one.value - one.low)
    high = one.value + factor * (one.high - one.value)
    return verdict_of(one.evidence, one.value, low, high)


def _metric(place: Place, records: Mapping[str, dict]) -> dict:
    if (record := records.get(place.record)) is None:
        raise FactError(f"no record {place.record!r}")
    if record["status"] == "failed":
        raise FactError(f"record {place.record!r} is of a failed run")
    found = record["metrics"].get(place.metric) or _turned(place.metric, record)
    if found is None:
        raise FactError(f"record {place.record!r} has no metric {place.metric!r}")
    if found["mean"] is None:
        raise FactError(f"record {place.record!r}: metric {place.metric!r} was not measured (n 0)")
    return found


def _turned(metric: str, record: Mapping) -> dict | None:
    """A difference that a record of pairs holds the other way round."""
    kind, _, rest = metric.partition("/")
    a, _, rest = rest.partition("/")
    b, _, group = rest.partition("/")
    other = record["metrics"].get(f"{kind}/{b}/{a}/{group}")
    if kind != DIFFERENCE or not group or other is None:
        return None
    return opposite(other)


def _is_difference(metric: str) -> bool:
    """Whether a metric is itself a difference on the same clips (evaluation/scoring.py)."""
    parts = metric.split("/")
    return any(p.startswith("gain_over_") or p in (DIFFERENCE, "retention") for p in parts)


def _runs(record: Mapping) -> int | None:
    """Trained runs behind a record, the fewer of both sides of a comparison; None where nothing
    was trained."""
    settings = record["settings"]
    told = [settings, *(settings[side] for side in "ab" if isinstance(settings.get(side), Mapping))]
    told += settings.get("contenders", {}).values()
    counts = [len(one["runs"]) for one in told if isinstance(one.get("runs"), list)]
    return min(counts) if counts else None


def _refuse_other_clips(evidence: Evidence, used: Sequence[Mapping]) -> None:
    clips = {(one["data_checksum"], one["settings"].get("clips")) for one in used}
    if len(clips) > 1 and not evidence.across:
        names = " and ".join(place.record for place in (evidence.a, evidence.b))
        raise FactError(f"{names} were measured on different clips; say why in `across`")
