"""Which system for which job: computed from the paired answers, never written down.

A job is a group of questions of the small world. The best system is the one that answers most of
them. Every other one is

- *within five points*, if its shortfall is shown to be smaller than that: the 95 % interval of the
  paired difference ends before;
- else *worse*, if the interval excludes zero, and also when it is corrected for all pairs of the
  job; *worse, but for the correction* if it excludes zero only without;
- else *undecided*: its mean may be much lower, but the trainings disagree too much to say so.

Among the best and those within five points, the cheapest is the one that hands the fewest tokens of
a minute of film to its language model at the published size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlmcourse.comparison.facts import FactError
from vlmcourse.comparison.pairs import RATES, Paired
from vlmcourse.comparison.table import PAIRS, SIZES, Comparison
from vlmcourse.records import metric_text

JOBS = {
    "name colours, shapes, sizes": "appearance",
    "say where things are": "place",
    "count things": "count",
    "say whether something is there": "existence",
    "not to see what is not there (wrong yes)": "hallucination/false_yes",
    "read a small digit": "detail",
    "say what a thing does": "action",
    "say which way it goes": "direction",
    "say what came first, before, after": "order",
    "say when it happened": "when",
    "say how long it lasted": "how_long",
    "count what happened": "event_count",
    "say what was heard": "sound",
    "put what is seen and heard together": "picture_sound",
    "use what was said": "speech",
}
"""Job -> group of questions."""
MINUTE = "film_60/tokens"
MARGIN = 0.05
"""What we take for the smallest difference of weight, as the claims do."""


@dataclass(frozen=True)
class Choice:
    """The answer to "which system for this job?".

    Attributes:
        job, group: what is asked for.
        best: key of the contender with the best mean.
        value: its metric.
        within, worse, nearly, undecided: keys of the others, best first; `nearly` are worse but
            for the correction.
        cheapest: of the best and those within the margin, by tokens of a minute.
        guess: share of the best constant answer; None where that means nothing.
        above_guess: whether the interval of the best lies above it.
    """

    job: str
    group: str
    best: str
    value: dict
    within: tuple[str, ...]
    worse: tuple[str, ...]
    nearly: tuple[str, ...]
    undecided: tuple[str, ...]
    cheapest: str
    guess: float | None
    above_guess: bool


def minute_tokens(sizes: Mapping, key: str, hears: bool = True) -> float:
    """Tokens of a minute of film at the published size.

    Args:
        sizes: the record of sizes.
        key: of a system; its first size counts.
        hears: tokens of sound are counted too, if it has any.

    Raises:
        FactError: not in the record.
    """
    found = next(
        (n for n in sizes["metrics"] if n.startswith(f"{key}/") and n.endswith(MINUTE)), ""
    )
    if not found:
        raise FactError(f"no tokens of {key!r} were counted")
    sound = sizes["metrics"].get(found.replace("/tokens", "/sound_tokens")) if hears else None
    return sizes["metrics"][found]["mean"] + (sound["mean"] if sound else 0)


def choose(
    paired: Paired,
    sizes: Mapping,
    guesses: Mapping[str, dict],
    jobs: Mapping[str, str] = JOBS,
    margin: float = MARGIN,
) -> list[Choice]:
    """Choose for every job.

    Args:
        paired: answers of all systems.
        sizes: the record of sizes, for what is cheapest.
        guesses: group -> metric of the best constant answer.
        jobs: job -> group of questions.
        margin: the smallest difference of weight.
    """
    return [
        _choice(paired, sizes, guesses.get(group), job, group, margin)
        for job, group in jobs.items()
    ]


def _choice(
    paired: Paired, sizes: Mapping, guess: dict | None, job: str, group: str, margin: float
) -> Choice:
    sign = -1 if group in RATES else 1
    ranked = sorted(paired.names, key=lambda key: -sign * paired.mean(key, group)["mean"])
    best, *others = ranked
    classes: dict[str, list[str]] = {"within": [], "worse": [], "nearly": [], "undecided": []}
    for key in others:
        ends = [sign * paired.difference(best, key, group)[end] for end in ("low", "high")]
        if max(ends) < margin:
            classes["within"].append(key)
        elif paired.told_apart(best, key, group):
            classes["worse"].append(key)
        else:
            classes["nearly" if min(ends) > 0 else "undecided"].append(key)

    def tokens(key: str) -> float:
        system = paired.systems[key]
        return minute_tokens(sizes, system, hears=key == system)

    value = paired.mean(best, group)
    share = None if guess is None or group in RATES else guess["mean"]
    return Choice(
        job=job, group=group, best=best, value=value,
        **{name: tuple(keys) for name, keys in classes.items()},
        cheapest=min((best, *classes["within"]), key=tokens),
        guess=share,
        above_guess=share is None or value["low"] > share,
    )  # fmt: skip


def jobs_table(comparison: Comparison) -> str:
    """The choices as Markdown."""
    records = comparison.rows[0].records
    if PAIRS not in records:
        raise FactError(f"no record {PAIRS!r}: `vlmcourse table --measure pairs`")
    paired, sizes = Paired.of(records[PAIRS]), records[SIZES]
    guesses = best_constant(comparison)
    lines: list[Sequence[str]] = [
        ["job", "best blind guess", "best", "within five points", "undecided", "worse †", "worse",
         "cheapest (tokens at paper size)"],
        ["---", "--:", *["---"] * 6],
    ]  # fmt: skip
    for one in choose(paired, sizes, guesses):
        told = {key: paired.names[key] for key in paired.names}
        classes = (one.within, one.undecided, one.nearly, one.worse)
        best = f"**{told[one.best]}**, {metric_text(one.value)}"
        lines.append([
            one.job,
            "—" if one.guess is None else f"{100 * one.guess:.1f} %",
            best if one.above_guess else f"nobody is above a guess ({best})",
            *("; ".join(told[key] for key in keys) or "—" for keys in classes),
            told[one.cheapest] if one.above_guess else "—",
        ])  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def best_constant(comparison: Comparison) -> dict[str, dict]:
    """Group -> metric of the best constant answer, from the first system that was asked for it."""
    start = "best_constant/"
    for row in comparison.rows:
        metrics = row.records[row.system.world.probes]["metrics"]
        found = {k.removeprefix(start): v for k, v in metrics.items() if k.startswith(start)}
        if found:
            return {group: one for group, one in found.items() if one["mean"] is not None}
    return {}
