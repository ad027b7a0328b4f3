"""What was asked of every system, whether its paper claims it or not, and what was never asked.

Two tables: abilities that some papers claim (sound, speech, details, few hallucinations, text that
is kept), and films of growing length. A cell is a metric of a record, "frozen" where the language
model cannot lose anything, or "no record".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlmcourse.comparison.facts import System, source_link
from vlmcourse.comparison.table import Comparison, Row
from vlmcourse.records import metric_text

NO_RECORD, FROZEN, CLAIMED = "no record", "frozen", "✓"
WORLD_S = 8
"""Length of the films that all systems are trained on and asked about."""
LENGTHS_S = (WORLD_S, 32, 128, 512)
LENGTH_SWEEP, LENGTH_SETTING = "length", "system_{system}-seconds_{seconds}"
"""Record of the sweep over lengths (`experiments/ablations/length.yaml`), and its settings."""
LENGTH_GROUPS = ("appearance", "action", "order")


@dataclass(frozen=True)
class Asked:
    """One number that tells of an ability.

    Attributes:
        ability: key of `facts.abilities`.
        label: what it is.
        metric: its name behind the condition that counts, or whole if it begins with "retention/".
        record: pattern of the record's id, `{key}` for the system; "" for that of its probes.
    """

    ability: str
    label: str
    metric: str
    record: str = ""


ASKED = (
    Asked("sound", "sound", "sound"),
    Asked("sound", "picture and sound", "picture_sound"),
    Asked("sound", "wrong yes: was it heard?", "sound_hallucination/false_yes"),
    Asked("speech", "speech", "speech"),
    Asked("detail", "the digit, films of 64 pixels", "detail"),
    Asked("detail", "the digit, films of 96 pixels", "detail", "{key}-films_96"),
    Asked("detail", "the digit, pictures of 96 pixels", "detail", "{key}-pictures"),
    Asked("hallucination", "wrong yes: is it there?", "hallucination/false_yes"),
    Asked("hallucination", "wrong no: is it there?", "hallucination/false_no"),
    Asked("retention", "told a list of events: after less before", "retention/events/all"),
    Asked("retention", "of these, when", "retention/events/when"),
    Asked("retention", "told a storyboard: after less before", "retention/storyboard/all"),
)
OTHER_RECORDS = {"ma_lmm": "ma_lmm-length-{seconds}-bank10", "qwen2_vl": "qwen2_vl-mrope-{seconds}"}
"""Records of lengths that were made for another question."""


def found(row: Row, asked: Asked) -> dict | str:
    """The metric, `FROZEN` or `NO_RECORD`."""
    world = row.system.world
    record = row.records.get(asked.record.format(key=row.system.key) or world.probes)
    if record is None or record["status"] == "failed":
        return NO_RECORD
    kept = asked.metric.startswith("retention/")
    name = asked.metric if kept else f"{world.part}/{asked.metric}"
    metric = record["metrics"].get(name)
    if kept and metric is None and language_model_frozen(row.system, row.records):
        return FROZEN
    return NO_RECORD if metric is None or metric["mean"] is None else metric


def language_model_frozen(system: System, records: Mapping[str, dict]) -> bool:
    """Whether training leaves the language model as it was: the paper's does, and ours did."""
    trained = records[system.world.probes]["settings"].get("trained_foundations", ())
    return "language_model" not in trained and "frozen" in system.facts["generator"].text


def abilities_table(comparison: Comparison) -> str:
    """Abilities down, systems across."""
    lines = [["asked of all", *(row.system.name for row in comparison.rows)]]
    lines.append(["---"] * len(lines[0]))
    for key, ability in comparison.facts.abilities.items():
        claims = [_claim(row.system, key) for row in comparison.rows]
        lines.append([f"**{ability.name}**: {ability.about}", *claims])
        for asked in (one for one in ASKED if one.ability == key):
            cells = [_text(found(row, asked), asked) for row in comparison.rows]
            lines.append([asked.label, *cells])
    return _joined(lines)


def length_shares(
    system: System, seconds: int, records: Mapping[str, dict]
) -> dict[str, dict | None] | None:
    """Group -> metric of a system's answers about films of a length; None if nobody was asked.

    The sweep over lengths comes first, which asks all systems about the same films; then other
    records of such films; and for films of `WORLD_S` the probes.
    """
    name = LENGTH_SETTING.format(system=system.key, seconds=seconds)
    other = OTHER_RECORDS.get(system.key, "").format(seconds=seconds)
    places = [(LENGTH_SWEEP, name), (other, system.world.part)]
    places += [(system.world.probes, system.world.part)] if seconds == WORLD_S else []
    for record, part in places:
        metrics = records.get(record, {}).get("metrics", {})
        told = {group: metrics.get(f"{part}/{group}") for group in LENGTH_GROUPS}
        if any(one is not None and one["mean"] is not None for one in told.values()):
            return told
    return None


def lengths_table(comparison: Comparison) -> str:
    """Films of growing length down, systems across: shares of `LENGTH_GROUPS`, and in brackets how
    many answers the middle one rests on."""
    lines = [["films of", *(row.system.name for row in comparison.rows)]]
    lines.append(["---"] * len(lines[0]))
    for seconds in LENGTHS_S:
        cells = [_length(row, seconds) for row in comparison.rows]
        lines.append([f"{seconds} s", *cells])
    return _joined(lines)


def missing(comparison: Comparison) -> list[tuple[str, str]]:
    """(system, what) of everything that has no record."""
    gaps = []
    for row in comparison.rows:
        gaps += [
            (row.system.name, one.label) for one in ASKED if found(row, one) == NO_RECORD
        ]  # fmt: skip
        gaps += [
            (row.system.name, f"films of {seconds} s")
            for seconds in LENGTHS_S
            if length_shares(row.system, seconds, row.records) is None
        ]
    return gaps


def _length(row: Row, seconds: int) -> str:
    shares = length_shares(row.system, seconds, row.records)
    if shares is None:
        return NO_RECORD
    known = [one for one in shares.values() if one is not None and one["mean"] is not None]
    told = [f"{100 * one['mean']:.0f}" if one in known else "—" for one in shares.values()]
    return f"{' / '.join(told)} ({shares[LENGTH_GROUPS[1]]['n']:,})"


def _claim(system: System, ability: str) -> str:
    sources = system.abilities.get(ability, ())
    links = ", ".join(f"[source]({source_link(source)})" for source in sources)
    return f"{CLAIMED} claimed, {links}" if sources else "not claimed"


def _text(value: dict | str, asked: Asked) -> str:
    if isinstance(value, str):
        return value
    if not asked.metric.startswith("retention/"):
        return metric_text(value)
    mean, low, high = (f"{100 * value[x]:.1f}".replace("-", "−") for x in ("mean", "low", "high"))
    return f"{mean} points ({low} to {high})"


def _joined(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
