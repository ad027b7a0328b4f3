"""`vlmcourse evaluate --grounding`: ask for the span of every event, and write a record of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vlmcourse.conversation import TokenRow
from vlmcourse.errors import UserError
from vlmcourse.evaluation import grounding, probes
from vlmcourse.evaluation.asked import Probes
from vlmcourse.evaluation.conditions import (
    CONSTANT,
    FROZEN,
    SYSTEM,
    TRAINED,
    WITHOUT_MEDIA,
    chosen_conditions,
)
from vlmcourse.evaluation.evaluation import INTERVALS, Evaluation
from vlmcourse.evaluation.loading import Loaded, load
from vlmcourse.evaluation.rows import prompts_without_media
from vlmcourse.evaluation.runs import frozen_language_model, only_a_look
from vlmcourse.records import Run, metric_text
from vlmcourse.systems.base import VideoLanguageModel
from vlmcourse.systems.batch import collate
from vlmcourse.world.dataset import WorldSplit, load_split

DEFAULT_CONTROLS = ("blind",)
NUMBERS = ("recall_0.3", "recall_0.5", "recall_0.7", "mean_iou", "parsed")
MAX_NEW_TOKENS = 8
TEXT_AT_ONCE = 64


@dataclass(frozen=True)
class Spans:
    """Events of clips, and what was said about them.

    Attributes:
        truth: `[E, 2]`.
        clip_of: `[E]`.
        said: `[E]` pairs of answers: when, and how long.
    """

    truth: np.ndarray
    clip_of: np.ndarray
    said: list[tuple[str, str]]

    @property
    def predicted(self) -> np.ndarray:
        """`[E, 2]`, NaN where an answer is no number."""
        return grounding.spans(*zip(*self.said))


def span_split(split: WorldSplit) -> WorldSplit:
    """A split that is asked both questions about every event, instead of its own questions."""
    pairs = [grounding.asked_spans(story) for story in split.stories]
    return replace(split, questions=[[q for pair in of_clip for q in pair] for of_clip in pairs])


def ask_spans(model: VideoLanguageModel, asked: Probes, condition: str = SYSTEM) -> Spans:
    """Let a model say when every event begins and how long it lasts, by greedy decoding.

    Args:
        asked: of a `span_split`.
        condition: of `conditions.TRAINED` or `FROZEN`.
    """
    if condition in WITHOUT_MEDIA:
        said = _said_to_text(model, asked, condition)
    else:
        clips, streams = probes.shown(asked, condition)
        shown = replace(asked, clips=clips, streams=streams)
        answers = probes.generated_answers(model, shown, MAX_NEW_TOKENS)
        said = [text for of_clip in answers for text in of_clip]
    truth = grounding.true_spans(asked.stories)
    return Spans(truth, asked.clip_of[::2], list(zip(said[::2], said[1::2], strict=True)))


def _said_to_text(model: VideoLanguageModel, asked: Probes, condition: str) -> list[str]:
    prompts: list[TokenRow] = prompts_without_media(model, asked, condition)
    said = []
    for start in range(0, len(prompts), TEXT_AT_ONCE):
        part = prompts[start : start + TEXT_AT_ONCE]
        batch = collate(part, model.processor.tokenizer.pad_id, side="left")
        settings = {**probes.GREEDY, "max_new_tokens": MAX_NEW_TOKENS}
        said += model.generate(batch.to(model.device), **settings)
    return said


def ground(what: Evaluation, record: Path, command: Sequence[str], progress: bool = True) -> dict:
    """Ask for spans, measure them, write the record and return it.

    Raises:
        UserError: as `cli.evaluate`; or no clip of the split has an event that is asked for.
    """
    split = what.sources.load_split()
    fitted, of_spans = grounding.true_spans(load_split(what.fitted_on).stories), span_split(split)
    if not any(of_spans.questions) or not len(fitted):
        raise UserError(f"{split.folder}: no event whose beginning and length are asked")
    side = load(what.system, what.runs, of_spans, what.sources, what.given, what.options, progress)
    asked = side.probes
    controls = DEFAULT_CONTROLS if what.controls is None else what.controls
    conditions = [c for c in chosen_conditions(controls, side.asked) if c not in CONSTANT]
    best = grounding.best_constants(fitted)
    lengths = np.unique(np.diff(fitted, axis=-1)).astype(int).tolist()
    settings = {
        **side.settings,
        **what.told,
        "split": str(what.sources.split),
        "clips": len(asked.ids),
        "clips_without_events": sum(not questions for questions in of_spans.questions),
        "events": len(asked.questions) // 2,
        "conditions": [*conditions, "constant", "random"],
        "constant": best,
        "random": f"spans of {', '.join(map(str, lengths))} s within the clip, equally likely",
        "intervals": INTERVALS,
    }
    seeds = [run.seed for run in side.runs if run.seed is not None]
    passes = sum(len(side.runs) if c in TRAINED else 1 for c in conditions)
    with (
        Run(record, list(command), settings, seeds, split.data_checksum) as run,
        tqdm(total=passes, unit="pass", disable=not progress) as bar,
    ):
        predicted = predicted_spans(side, conditions, what.sources.foundations, bar)
        truth, clip_of = grounding.true_spans(asked.stories), asked.clip_of[::2]
        durations_s = [asked.stories[clip].duration_s for clip in clip_of]
        measured = {n: grounding.span_measures(one, truth) for n, one in predicted.items()}
        measured["constant"] = grounding.constant_measures(best, truth)
        measured["random"] = grounding.random_measures(truth, durations_s, lengths)
        run.metrics = side.cost() | grounding.grounding_metrics(measured, truth, clip_of)
        run.status, run.note = judged(run.metrics, [n for n in measured if n != SYSTEM])
        run.note += only_a_look(len(side.runs), len(asked.ids))
    return run.record()


def predicted_spans(
    side: Loaded, conditions: Sequence[str], foundations: Path | None, bar: tqdm
) -> dict[str, np.ndarray]:
    """Spans `[S, E, 2]` by condition; S is 1 for the frozen language model.

    Args:
        side: whose probes are those of a `span_split`.
        conditions: of `conditions.TRAINED` or `FROZEN`.
        foundations: folder of the frozen language model, as in `runs.frozen_language_model`.
        bar: moves by one a run and condition.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in conditions}
    for number, model in enumerate(side.models):
        asked = side.probes
        if side.seen_by is not None and number:
            asked = replace(asked, streams=side.seen_by(model, asked))
        for name in conditions:
            if name in FROZEN and number:
                continue
            bar.set_description(f"asked {name}")
            speaker = frozen_language_model(model, foundations) if name in FROZEN else model
            found[name].append(ask_spans(speaker, asked, name).predicted)
            bar.update()
    return {name: np.stack(one) for name, one in found.items()}


def judged(metrics: dict, conditions: Sequence[str]) -> tuple[str, str]:
    """Status and note: "ok" if mean IoU and R@1 at 0.5 are above every condition that does not see
    the clip, with the whole interval."""
    blind = [
        n for n in conditions if n in ("constant", "random", "blind", "no_video", "other_clip")
    ]
    behind = {
        name: [
            m for m in ("mean_iou", "recall_0.5") if not _above(metrics[f"gain_over_{name}/{m}"])
        ]
        for name in blind
    }
    failing = [f"{name} ({', '.join(which)})" for name, which in behind.items() if which]
    unread = 1 - metrics[f"{SYSTEM}/parsed"]["mean"]
    note = f"Not above: {'; '.join(failing)}." if failing else f"Above {', '.join(blind)}."
    note += f" No span for {100 * unread:.1f} % of the events: an answer is no number."
    return ("negative" if failing else "ok"), note


def _above(gain: dict) -> bool:
    return gain["low"] is not None and gain["low"] > 0


def grounding_table(record: dict) -> str:
    """Conditions down, R@1, mean IoU and the share that gave a span across, as Markdown."""
    metrics, conditions = record["metrics"], record["settings"]["conditions"]
    lines = [["spans of events", *NUMBERS], ["---", *["--:"] * len(NUMBERS)]]
    for name in conditions:
        cells = [metrics.get(f"{name}/{column}") for column in NUMBERS]
        lines.append([name, *("—" if cell is None else metric_text(cell) for cell in cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
