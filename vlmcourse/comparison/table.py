"""The comparison as rows, columns and cells, before anybody renders it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vlmcourse.comparison.claims import read_claims
from vlmcourse.comparison.costs import Cost, one_record, training_cost
from vlmcourse.comparison.evidence import VERDICTS, Judged, judge
from vlmcourse.comparison.facts import FactError, Facts, Reported, Size, System, read_facts
from vlmcourse.records import metric_text, number_text, read_records

FOLDER = "comparison"
SIZES, SPEEDS, PAIRS = "comparison-sizes", "comparison-speeds", "comparison-pairs"
MINUTE, TEN_MINUTES = 60, 600
SCORES = {"all": "all", "evidence/picture": "picture", "order": "order", "when": "when"}
"""Groups of questions that are told of the world -> heading."""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what is shown.
        sort: what it is sorted by; None where there is nothing.
        sources: where it comes from: sources of facts, or ids of records.
        note: more, for a tooltip.
    """

    text: str
    sort: float | str | None
    sources: tuple[str, ...] = ()
    note: str = ""


NOTHING = Cell("—", None)


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key, head: for data, and for people.
        group: "design", "tokens", "parameters", "world", "cost", "claims" or "reported".
        cell: of a row.
        about: what is told, for a tooltip.
    """

    key: str
    head: str
    group: str
    cell: Callable[["Row"], Cell]
    about: str = ""


@dataclass(frozen=True)
class Row:
    """One system with everything that is known of it.

    Attributes:
        system: its facts.
        records: all records, by id.
        claims: those about it, judged.
    """

    system: System
    records: Mapping[str, dict]
    claims: tuple[Judged, ...]

    @cached_property
    def cost(self) -> Cost:
        return training_cost(self.system, self.records)

    @property
    def main(self) -> Size:
        """The published size that is shown."""
        return self.system.sizes[0]

    def count(self, name: str, size: Size | None = None) -> float:
        """A number that was counted, of the record of sizes.

        Raises:
            FactError: there is none.
        """
        size = size or self.main
        metrics = one_record(SIZES, self.records)["metrics"]
        key = f"{self.system.key}/{size.name}/{name}"
        if key not in metrics:
            raise FactError(f"record {SIZES!r} lacks {key!r}: `vlmcourse table --measure sizes`")
        return metrics[key]["mean"]

    def trained(self, size: Size | None = None) -> dict[str, int]:
        """Parameters that train, by stage."""
        size = size or self.main
        start = f"{self.system.key}/{size.name}/parameters/trained/"
        metrics = one_record(SIZES, self.records)["metrics"]
        return {k.removeprefix(start): v["mean"] for k, v in metrics.items() if k.startswith(start)}

    def score(self, group: str) -> dict:
        """A metric of its answers in the world."""
        world = self.system.world
        return one_record(world.probes, self.records)["metrics"][f"{world.part}/{group}"]

    def verdicts(self) -> dict[str, int]:
        """How many of its claims got which verdict."""
        return {v: sum(one.verdict == v for one in self.claims) for v in VERDICTS}


@dataclass(frozen=True)
class Comparison:
    """Everything: facts, rows and claims, in the order of the files."""

    facts: Facts
    rows: tuple[Row, ...]
    judged: tuple[Judged, ...]
    columns: tuple[Column, ...]


def load(
    experiments: str | Path = "experiments", records: Mapping[str, dict] | None = None
) -> Comparison:
    """Read facts, claims and records, and judge the claims.

    Args:
        experiments: the folder with `comparison/systems.yaml`, `comparison/claims.yaml` and all
            records.
        records: by id, if they were read before.

    Raises:
        FactError: what is missing, unsourced or contradicts itself.
        RecordError: a record that is not whole.
    """
    folder = Path(experiments) / FOLDER
    records = read_records(experiments) if records is None else records
    facts = read_facts(folder)
    judged = tuple(judge(read_claims(folder, facts.systems).values(), records))
    rows = tuple(
        Row(system, records, tuple(one for one in judged if one.claim.system == key))
        for key, system in facts.systems.items()
    )
    return Comparison(facts, rows, judged, columns_of(facts))


def columns_of(facts: Facts) -> tuple[Column, ...]:
    """All columns."""
    return (
        *(Column(key, head, "design", _fact(key)) for key, head in DESIGN.items()),
        *TOKENS,
        *PARAMETERS,
        Column("given", "given", "world", lambda r: _text(r.system.world.given)),
        *(
            Column(f"world/{group}", f"right, {head}", "world", _score(group))
            for group, head in SCORES.items()
        ),
        *COST,
        *(Column(f"claims/{side}", head, "claims", _claims(side)) for side, head in SIDES.items()),
        *(
            Column(
                f"reported/{key}", one.name, "reported", _reported(key),
                f"{one.name}, {one.unit}: {one.about}",
            )
            for key, one in facts.benchmarks.items()
        ),
    )  # fmt: skip


# ---------------------------------------------------------------- cells


def short(value: float) -> str:
    """Large counts as people say them: 22.1 M, 7.05 B."""
    for size, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return number_text(value)


def _text(text: str) -> Cell:
    return Cell(text, text.lower())


def _fact(key: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        fact = row.system.facts[key]
        return Cell(fact.text, fact.text.lower(), fact.source)

    return cell


def _count(name: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        value = row.count(name)
        others = [
            f"{size.name}: {number_text(row.count(name, size))}"
            for size in row.system.sizes[1:]
            if size.system == row.main.system and row.count(name, size) != value
        ]
        return Cell(f"{value:,.0f}", value, (SIZES,), "; ".join(others))

    return cell


def _tokens_per_frame(row: Row) -> Cell:
    value = row.count(f"film_{MINUTE}/tokens") / row.count(f"film_{MINUTE}/frames")
    return Cell(number_text(value), value, (SIZES,))


def _tokens(seconds: int) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        found = _count(f"film_{seconds}/tokens")(row)
        key = f"{row.system.key}/{row.main.name}/film_{seconds}/sound_tokens"
        sound = row.records[SIZES]["metrics"].get(key)
        if sound is None:
            return found
        return Cell(
            f"{found.text} + {sound['mean']} of sound", found.sort, found.sources, found.note
        )

    return cell


def _total(row: Row) -> Cell:
    value = row.count("parameters/total")
    others = [
        f"{size.name}: {short(row.count('parameters/total', size))}"
        for size in row.system.sizes[1:]
    ]
    return Cell(f"{short(value)} ({row.main.name})", value, (SIZES,), "; ".join(others))


def _trained(row: Row) -> Cell:
    by_count: dict[int, list[str]] = {}
    for stage, count in row.trained().items():
        by_count.setdefault(count, []).append(stage.replace("_", " "))
    told = [f"{short(count)} ({', '.join(stages)})" for count, stages in by_count.items()]
    return Cell("; ".join(told), max(by_count), (SIZES,))


def _score(group: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        metric = row.score(group)
        seeds = len(row.records[row.system.world.probes]["seeds"])
        return Cell(
            metric_text(metric), metric["mean"], (row.system.world.probes,), f"{seeds} seeds"
        )

    return cell


def _answers(row: Row) -> Cell:
    metric = one_record(SPEEDS, row.records)["metrics"][f"{row.system.key}/answers_per_s"]
    text = metric_text(metric).replace(" 1/s", "")
    return Cell(text, metric["mean"], (SPEEDS,))


def _reported(key: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        told: Reported | None = row.system.reported.get(key)
        if told is None:
            return Cell("—", None, note="its paper reports none")
        mark = "°" if told.by == "others" else ""
        note = told.note + ("; measured by others" if mark else "")
        text = f"{told.value:.1f}" if told.value >= 10 else f"{told.value:.2f}"
        return Cell(f"{text}{mark}", told.value, (told.source,), note.lstrip("; "))

    return cell


def _cost(number: Callable[[Cost], float], text: Callable[[float], str]) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        value = number(row.cost)
        note = f"mean of {row.cost.runs} runs of {row.cost.stages} stages"
        return Cell(text(value), value, row.system.world.train, note)

    return cell


def _claims(side: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        told = [one for one in row.claims if one.claim.side == side]
        counts = {v: sum(one.verdict == v for one in told) for v in VERDICTS}
        text = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        used = dict.fromkeys(r for one in told for number in one.measured for r in number.records)
        return Cell(text or "none", counts[VERDICTS[0]], tuple(used))

    return cell


def _peak_asked(row: Row) -> Cell:
    record = one_record(row.system.world.probes, row.records)
    return Cell(f"{record['peak_mib']:,.0f} MiB", record["peak_mib"], (record["id"],))


SIDES = {"strength": "strengths: verdicts", "weakness": "weaknesses: verdicts"}
DESIGN = {
    "encoder": "visual encoder",
    "alignment": "alignment module",
    "generator": "generator",
    "data": "training data of the paper",
}
TOKENS = (
    Column("frames_minute", "frames of a minute", "tokens", _count(f"film_{MINUTE}/frames")),
    Column(
        "tokens_frame", "tokens a frame", "tokens", _tokens_per_frame,
        "tokens of one minute, divided by the frames looked at",
    ),
    Column("tokens_minute", "tokens of a minute", "tokens", _tokens(MINUTE)),
    Column("tokens_ten", "tokens of ten minutes", "tokens", _tokens(TEN_MINUTES)),
    Column(
        "last_second", "last second seen of ten minutes", "tokens",
        _count(f"film_{TEN_MINUTES}/last_second"),
        "when the last frame that it looks at is shown, of 600 s",
    ),
)  # fmt: skip
PARAMETERS = (
    Column("parameters", "parameters", "parameters", _total),
    Column("trained", "of them trained, by stage", "parameters", _trained),
)
COST = (
    Column(
        "train_minutes", "training, minutes", "cost",
        _cost(lambda c: c.wall_s / 60, lambda x: f"{x:.1f}"), "all stages of one run, by the clock",
    ),
    Column(
        "train_cpu_s", "training, CPU s", "cost",
        _cost(lambda c: c.cpu_s, lambda x: f"{x:,.0f}"), "all stages of one run",
    ),
    Column(
        "parts_cpu_s", "parts it starts from, CPU s", "cost",
        _cost(lambda c: c.parts_cpu_s, lambda x: f"{x:,.0f}"),
        "trained once, shared by several systems: picture encoder, language model, ...",
    ),
    Column(
        "answers_per_s", "answers a second", "cost", _answers,
        "of processor time on one thread, 8 questions a clip, its file read anew for every clip",
    ),
    Column(
        "peak_train", "peak memory, training", "cost",
        _cost(lambda c: c.peak_mib, lambda x: f"{x:,.0f} MiB"),
    ),
    Column("peak_ask", "peak memory, asking", "cost", _peak_asked),
)  # fmt: skip
