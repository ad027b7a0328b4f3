"""What is asked of whom, and its record: trained runs of a system against controls, on a split."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vlmcourse.evaluation.conditions import FROZEN, SOUNDS, chosen_conditions
from vlmcourse.evaluation.loading import Sources, load
from vlmcourse.records import Run

INTERVALS = "95 %, clips and runs drawn again, crossed (evaluation/scoring.py)"


@dataclass(frozen=True)
class Evaluation:
    """What is asked of whom.

    Attributes:
        system: a key of `systems.CONSTRUCTORS`.
        runs: folders of its trained runs; None stands for the shipped weights.
        sources: the split that is asked about, and where the rest comes from.
        train: folder of the split that constant answers are fitted on; None means `train` beside
            the split.
        given: streams that the system is given (`conditions.read_given`); None means all it takes.
        controls: of `conditions.CONTROLS`; None means all that take something away from it.
        permutations: orders that "shuffled" and "shuffled_sound" take the mean of.
        options: settings of the system that are changed for the questions; their weights stay.
    """

    system: str
    runs: tuple[Path | None, ...]
    sources: Sources = field(default_factory=Sources)
    train: Path | None = None
    given: tuple[str, ...] | None = None
    controls: tuple[str, ...] | None = None
    permutations: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def told(self) -> dict[str, Any]:
        """What a record tells of changed options and of chosen families, if there are any."""
        told: dict[str, Any] = {"set": dict(self.options)} if self.options else {}
        families = self.sources.families
        return {**told, "families": list(families)} if families else told

    @property
    def fitted_on(self) -> Path:
        """The split that constant answers are fitted on."""
        from vlmcourse.training.sources import located

        return located(self.train or located(self.sources.split).parent / "train")


def evaluate(
    what: Evaluation,
    record: Path,
    command: Sequence[str],
    progress: bool = True,
    answers: Path | None = None,
) -> dict:
    """Ask, score, write the record and return it.

    Args:
        answers: file for what was answered to every question, too (answer_bits.py).

    Raises:
        UserError: runs, splits or foundations that cannot be used; no record is written then.
    """
    from vlmcourse.evaluation import probes, scoring
    from vlmcourse.evaluation.answer_bits import AnswerFile, question_set, save_answers
    from vlmcourse.evaluation.cost import clip_tokens
    from vlmcourse.evaluation.runs import frozen_language_model
    from vlmcourse.evaluation.shapes import (
        clip_sizes,
        group_costs,
        group_metrics,
        scene_groups,
        shape_groups,
    )

    split = what.sources.load_split()
    side = load(what.system, what.runs, split, what.sources, what.given, what.options, progress)
    asked, subject = side.probes, side.asked
    sizes = clip_sizes(split, asked.ids)

    def grouped(clip_of: Sequence[int]) -> dict:
        return shape_groups(sizes, clip_of) | scene_groups(asked.stories, clip_of)

    conditions = chosen_conditions(what.controls, subject)
    fitted = _questions(what.fitted_on) if "majority" in conditions else []
    frozen = None
    if set(FROZEN) & set(conditions):
        frozen = frozen_language_model(side.models[0], what.sources.foundations)
    settings = {
        **side.settings,
        **what.told,
        "split": str(what.sources.split),
        "clips": len(asked.ids),
        "conditions": conditions,
        "permutations": what.permutations,
        "asked": dict(Counter(question.kind for question in asked.questions)),
        "intervals": INTERVALS,
    }
    seeds = [run.seed for run in side.runs if run.seed is not None]
    passes = sum(len(side.runs) * (x in probes.TRAINED) + (x in FROZEN) for x in conditions)
    with (
        Run(record, list(command), settings, seeds, split.data_checksum) as run,
        tqdm(total=passes, unit="pass", disable=not progress) as bar,
    ):
        said = probes.ask_all(
            side.models,
            asked,
            conditions,
            fitted,
            what.permutations,
            lambda name: (bar.set_description(f"asked {name}"), bar.update()),
            frozen,
            side.seen_by,
        )
        seconds = probes.asked_seconds(asked, SOUNDS in subject.streams)
        run.metrics = side.cost() | scoring.score(
            said.right, asked.questions, asked.clip_of, said.opposite, seconds
        )
        groups = grouped(asked.clip_of)
        if answers is not None:
            told = run.record()["settings"]
            kept = AnswerFile(
                question_set(asked.ids, asked.asked, groups, seconds), said.right, said.opposite,
                tuple(seeds), split.data_checksum, told,
            )  # fmt: skip
            save_answers(answers, kept, what.permutations)
        if groups:
            tokens = [count for _, count in clip_tokens(side.models[0], asked)]
            run.metrics |= group_costs(tokens, grouped(range(len(asked.ids))))
            run.metrics |= group_metrics(said.right, asked.questions, asked.clip_of, groups)
        run.status, run.note = _judged(
            run.metrics, subject.evidence, len(side.runs), len(asked.ids)
        )
    return run.record()


def _questions(folder: Path) -> list:
    from vlmcourse.world.dataset import load_split

    return [question for asked in load_split(folder).questions for question in asked]


def _judged(metrics: dict, evidence: frozenset[str], runs: int, clips: int) -> tuple[str, str]:
    """Status and note of a record: what the system can do that a blind guess cannot, and leaks."""
    from vlmcourse.evaluation.runs import only_a_look
    from vlmcourse.evaluation.scoring import judgement, retained

    found = judgement(metrics, evidence)
    note = f"Above every blind control: {', '.join(found.beaten) or 'no family'}."
    if found.partly:
        note += f" With part of the evidence, above blind controls: {', '.join(found.partly)}."
    if found.leaks:
        note += f" LEAK: above chance without the evidence in {', '.join(found.leaks)}."
    note += retained(metrics) + only_a_look(runs, clips)
    return ("ok" if found.beaten and not found.leaks else "negative"), note
