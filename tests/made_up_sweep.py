"""Made-up cells of a sweep: answers whose truth is known, records of them, and failed ones.

Whether a run answers a question is drawn: how likely it is depends on the setting, the clip and the
run (a probit model, so that the true share of right answers is known).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vlmcourse.evaluation.answer_bits import AnswerFile, QuestionSet, save_answers
from vlmcourse.intervals import metric
from vlmcourse.records import Run
from vlmcourse.sweep.hypotheses import Hypothesis, hypotheses_hash, pairs
from vlmcourse.sweep.plan import Measure, Setting
from vlmcourse.sweep.results import Cell
from vlmcourse.world.language import KIND_FAMILY

KINDS = ("colour", "where", "exists", "when", "first", "before")


def share(level: float, clip_spread: float, run_spread: float) -> float:
    """The true share of right answers, over all clips and runs that could be drawn."""
    from scipy.stats import norm

    return float(norm.cdf(level / np.sqrt(1 + clip_spread**2 + run_spread**2)))


def answer(
    rng: np.random.Generator, level: float, clip: np.ndarray, runs: int, run_spread: float
) -> np.ndarray:
    """Right answers `[S, Q]`.

    Args:
        level: how good the setting is; 0 answers half of the questions.
        clip: `[Q]` how easy the clip of each question is.
    """
    from scipy.stats import norm

    chance = norm.cdf(level + clip + rng.normal(0, run_spread, (runs, 1)))
    return (rng.random(chance.shape) < chance).astype(np.float64)


def made_up_questions(clips: int = 40, kinds: Sequence[str] = KINDS) -> QuestionSet:
    """A question of every kind about every clip; the last clip lacks the first kind."""
    asked = [list(kinds)] * (clips - 1) + [list(kinds)[1:]]
    kind = np.array([name for some in asked for name in some])
    exists = np.flatnonzero(kind == "exists")
    absent = np.isin(np.arange(len(kind)), exists[::2])
    truth = {"no": absent, "yes": (kind == "exists") & ~absent}
    extra = {
        "hallucination/false_yes": truth["no"],
        "hallucination/false_no": truth["yes"],
    }
    return QuestionSet(
        f"{clips} clips",
        np.repeat(np.arange(clips), [len(some) for some in asked]),
        kind,
        {name: KIND_FAMILY[name] for name in kinds},
        {name: some for name, some in extra.items() if some.any()},
    )


@dataclass(frozen=True)
class MadeUpPlan:
    """What the statistics read of a plan; settings are one axis, or several."""

    name: str
    axes: Mapping[str, Sequence]
    settings: Sequence[Setting]
    hypotheses: Sequence[Hypothesis]
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    measures: Sequence[Measure] = (Measure("probes"),)
    title: str = "Which connector?"
    question: str = "Which connector answers more questions with as many tokens?"
    written: str = "2026-11-01"

    @property
    def path(self) -> Path:
        return Path(f"{self.name}.yaml")

    @property
    def hypotheses_hash(self) -> str:
        return hypotheses_hash(self.hypotheses)

    def pairs(self, hypothesis: Hypothesis):
        return pairs(hypothesis, self.settings)


def hypothesis(name: str, a: dict, b: dict | None = None, **changes) -> Hypothesis:
    """One about all questions of the measure "probes", unless told otherwise."""
    told = {
        "claim": f"what {name} says", "source": "arXiv 0000.00000, section 1", "control": None,
        "where": {}, "measure": "probes", "group": "all", "expect": "greater", "margin": None,
    }  # fmt: skip
    return Hypothesis(name=name, a=a, b=b, **{**told, **changes})


@dataclass
class MadeUpCells:
    """Writes records and answers of cells.

    Attributes:
        folder: where.
        questions: what is asked.
        clip_spread, run_spread: of the model.
        rng: of everything drawn.
    """

    folder: Path
    questions: QuestionSet = field(default_factory=made_up_questions)
    clip_spread: float = 0.8
    run_spread: float = 0.1
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    measure: str = "probes"
    weights: str = "{setting}-{seed}"
    """Name of the weights of a run; without {setting}, all settings are asked of the same runs."""
    paths: Callable[[str, int], tuple[Path, Path]] | None = None
    """Where the record and the answers of a setting and seed go, if not below `folder`."""

    def __post_init__(self):
        self.clip = self.rng.normal(0, self.clip_spread, self.questions.num_clips)
        self.blind = answer(self.rng, -0.5, 0 * self.easy, 1, 0.0)

    @property
    def easy(self) -> np.ndarray:
        """`[Q]`."""
        return self.clip[self.questions.clip_of]

    def cell(self, setting: str, seed: int) -> Cell:
        if self.paths is not None:
            return Cell(setting, seed, self.measure, *self.paths(setting, seed))
        name = f"{setting}-seed{seed}-{self.measure}.json"
        return Cell(
            setting, seed, self.measure,
            self.folder / "records" / "made_up" / name, self.folder / "answers" / name,
        )  # fmt: skip

    def finish(self, setting: str, seed: int, level: float, hypotheses: str = "") -> Cell:
        """A finished cell; controls are half as good as the system, or blind."""
        one, asked = self.cell(setting, seed), self.questions
        right = {
            "system": answer(self.rng, level, self.easy, 1, self.run_spread),
            "best_constant": self.blind,
            "blind": self.blind,
            "shuffled": answer(self.rng, level / 2, self.easy, 3, 0.0).mean(0, keepdims=True),
        }
        opposite = {name: (1 - said > 0.99) * 1.0 for name, said in right.items()}
        turned = np.any([*asked.extra.values()], axis=0) if asked.extra else False
        opposite = {name: said * turned for name, said in opposite.items()}
        self._record(one, hypotheses, "ok", "")
        weights = self.weights.format(setting=setting, seed=seed)
        told = {"system": "made_up", "clips": asked.num_clips, "weights": [weights]}
        save_answers(
            one.answers, AnswerFile(asked, right, opposite, (seed,), "checksum", told), tries=3
        )
        return one

    def fail(self, setting: str, seed: int, error: str = "ValueError: no | loss") -> Cell:
        """A cell whose run failed."""
        one = self.cell(setting, seed)
        self._record(one, "", "failed", error)
        return one

    def _record(self, one: Cell, hypotheses: str, status: str, note: str) -> None:
        settings = {"sweep": {"hypotheses": hypotheses}} if hypotheses else {}
        with Run(one.record, "vlmcourse sweep", settings, [one.seed], "checksum") as run:
            if status == "ok":
                run.metrics["tokens/video"] = metric([8.0], "tokens")
                run.metrics["cell/minutes"] = metric([0.5], "min")
                run.metrics["train/minutes"] = metric([0.4], "min")
                run.metrics["train/cpu_minutes"] = metric([0.25], "min")
            run.status, run.note = status, note
