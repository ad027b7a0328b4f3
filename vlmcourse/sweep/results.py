"""What the cells of a sweep left on disk: answers, errors, or nothing; each of them is counted."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vlmcourse.errors import UserError
from vlmcourse.evaluation.answer_bits import AnswerFile, AnswersError, load_answers, stacked
from vlmcourse.records import read_record

NEEDED = 2
"""Runs of a setting without which nothing is known of the chance that lies in the seed."""


@dataclass(frozen=True)
class Cell:
    """One run and measure that a sweep asks for, and where its files are, or would be.

    Attributes:
        setting: name of the setting.
        seed: of the run.
        measure: name of the measure.
        record, answers: paths.
        current: whether what lies there was made as the sweep file says now; else it counts as
            missing.
    """

    setting: str
    seed: int
    measure: str
    record: Path
    answers: Path
    current: bool = True

    @property
    def name(self) -> str:
        return f"{self.setting}-seed{self.seed}"


@dataclass(frozen=True)
class SettingResult:
    """The cells of one setting under one measure.

    Attributes:
        setting, measure: names.
        finished: seed -> answers.
        records: seed -> record of the finished ones.
        failed: seed -> the error.
        missing: seeds of which there is no record.
        written_with: seed -> hash of the hypotheses that stood in the sweep file when the cell was
            run, of finished and failed ones.
    """

    setting: str
    measure: str
    finished: Mapping[int, AnswerFile] = field(default_factory=dict)
    records: Mapping[int, dict] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)
    missing: Sequence[int] = ()
    written_with: Mapping[int, str | None] = field(default_factory=dict)

    @property
    def asked(self) -> int:
        """Runs that the sweep asks for, whatever became of them."""
        return len(self.finished) + len(self.failed) + len(self.missing)

    @property
    def runs_text(self) -> str:
        """`4 of 5 runs (1 failed)`."""
        lost = [f"{len(x)} {name}" for name, x in self._lost.items() if x]
        more = f" ({', '.join(lost)})" if lost else ""
        return f"{len(self.finished)} of {self.asked} runs{more}"

    @property
    def _lost(self) -> dict[str, Iterable]:
        return {"failed": self.failed, "missing": self.missing}

    @property
    def answers(self) -> AnswerFile:
        """Of all finished runs, in the order of their seeds.

        Raises:
            AnswersError: there is none, or they were not asked the same.
        """
        if not self.finished:
            raise AnswersError(f"{self.setting}: no run is finished")
        return stacked([self.finished[seed] for seed in sorted(self.finished)])


def read_results(cells: Iterable[Cell]) -> dict[tuple[str, str], SettingResult]:
    """Read what there is of all cells: (setting, measure) -> result, in the order of the cells.

    A record of status "failed" counts as failed. No record counts as missing; so does a finished
    one without its answers, one that is damaged (what became of it is not known), and one that the
    sweep file of today did not ask for.
    """
    found: dict[tuple[str, str], SettingResult] = {}
    for cell in cells:
        key = (cell.setting, cell.measure)
        one = found.setdefault(key, SettingResult(*key, {}, {}, {}, [], {}))
        if not cell.current:
            one.missing.append(cell.seed)
            continue
        try:
            record = read_record(cell.record)
            if record["status"] == "failed":
                one.failed[cell.seed] = record["note"]
            else:
                one.finished[cell.seed] = load_answers(cell.answers)
                one.records[cell.seed] = record
            one.written_with[cell.seed] = record["settings"].get("sweep", {}).get("hypotheses")
        except UserError:
            one.missing.append(cell.seed)
    return found
