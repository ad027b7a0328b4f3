"""Temporal grounding: when an event begins and how long it lasts, as a span of seconds.

A span is asked for in two questions about one event, "when does red circle glow ?" and "how long
does red circle glow ?". The prediction is `[when, when + how long]`; an answer that is no number
gives no span, which is a miss. Measured are the intersection over union (IoU) with the true span,
and R@1: the share of events whose one predicted span reaches a given IoU.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from vlmcourse.evaluation.scoring import GAIN, Bootstrap
from vlmcourse.world.language import Question, all_questions
from vlmcourse.world.story import Story

THRESHOLDS = (0.3, 0.5, 0.7)
MEAN_IOU = "mean_iou"
RECALLS = {f"recall_{threshold}": threshold for threshold in THRESHOLDS}
"""Metric -> the IoU that counts as found."""
WHEN, HOW_LONG = "when does ", "how long does "
NUMBER = re.compile(r"\d+( ?\. ?\d+)?")


def asked_spans(story: Story) -> list[tuple[Question, Question]]:
    """Both questions about every event that has both (a slide's length is not asked: it is always
    the same): when it begins, how long it lasts."""
    asked = all_questions(story)
    starts, lengths = (
        {q.text.removeprefix(begin): q for q in asked if q.text.startswith(begin)}
        for begin in (WHEN, HOW_LONG)
    )
    return [(start, lengths[event]) for event, start in starts.items() if event in lengths]


def true_spans(stories: Sequence[Story]) -> np.ndarray:
    """`[E, 2]` first and last moment of every event that is asked for, story by story."""
    pairs = [pair for story in stories for pair in asked_spans(story)]
    return spans([start.answer for start, _ in pairs], [length.answer for _, length in pairs])


def number(text: str) -> float:
    """The number that an answer is, or NaN: nothing may stand beside it, no unit and no sentence.

    "3", "3.5" and, as the world's tokenizer writes it, "3 . 5".
    """
    text = text.strip()
    return float(text.replace(" ", "")) if NUMBER.fullmatch(text) else float("nan")


def spans(starts: Sequence[str], lengths: Sequence[str]) -> np.ndarray:
    """Answers to both questions as spans `[E, 2]`; NaN where one of them is no number."""
    start, length = (np.array([number(text) for text in one]) for one in (starts, lengths))
    return np.stack([start, start + length], axis=-1)


def temporal_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of spans.

    Args:
        a, b: `[..., 2]`, beginning and end in seconds, the end not before the beginning.

    Returns:
        `[...]` from 0 to 1; 0 where a span is NaN, or where both have no length.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    shared = (np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])).clip(min=0)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1.0), 0.0)


def measures(iou: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of IoUs `[...]`, in the same shape: `mean_iou` and R@1 at `THRESHOLDS`."""
    reached = {name: (iou >= threshold).astype(np.float64) for name, threshold in RECALLS.items()}
    return {**reached, MEAN_IOU: iou}


# ---------------------------------------------------------------- without looking


def whole_spans(duration_s: int, lengths: Sequence[int]) -> np.ndarray:
    """`[K, 2]` all spans of whole seconds of these lengths within a clip."""
    found = [(s, s + n) for n in lengths for s in range(duration_s - n + 1)]
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def best_constants(fitted: np.ndarray) -> dict[str, list[float]]:
    """For every metric the one span that does best on other events `[E, 2]`, always given.

    All spans of whole seconds are tried; of equally good ones the first and shortest is taken.
    """
    last = int(fitted[:, 1].max())
    candidates = whole_spans(last, range(1, last + 1))  # [K, 2]
    iou = temporal_iou(candidates[:, None], fitted[None])  # [K, E]
    return {n: candidates[m.mean(1).argmax()].tolist() for n, m in measures(iou).items()}


def constant_measures(best: Mapping[str, Sequence[float]], truth: np.ndarray) -> dict:
    """Every metric `[1, E]` of its own constant span."""
    return {n: measures(temporal_iou(np.array(span), truth))[n][None] for n, span in best.items()}


def random_measures(truth: np.ndarray, durations_s: Sequence[int], lengths: Sequence[int]) -> dict:
    """What guessing gives on average, `[1, E]`: all spans of these lengths are equally likely.

    Args:
        truth: `[E, 2]`.
        durations_s: `[E]` length of the clip of each event.
    """
    every = []
    for span, duration_s in zip(truth, durations_s, strict=True):
        iou = temporal_iou(whole_spans(int(duration_s), lengths), span)
        every.append([m.mean() for m in measures(iou).values()])
    columns = np.array(every).reshape(-1, len(RECALLS) + 1).T
    return {name: column[None] for name, column in zip((*RECALLS, MEAN_IOU), columns)}


# ---------------------------------------------------------------- scores


def span_measures(predicted: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Everything that is told of predicted spans.

    Args:
        predicted: `[S, E, 2]`, NaN without a span.
        truth: `[E, 2]`.

    Returns:
        name -> `[S, E]`: `measures`, and `parsed` (both answers are numbers), `when_right` and
        `how_long_right`.
    """
    found = measures(temporal_iou(predicted, truth[None]))
    length, true_length = (np.diff(one, axis=-1)[..., 0] for one in (predicted, truth))
    return found | {
        "parsed": np.isfinite(predicted).all(-1).astype(np.float64),
        "when_right": (predicted[..., 0] == truth[None, :, 0]).astype(np.float64),
        "how_long_right": np.isclose(length, true_length[None]).astype(np.float64),
    }


def grounding_metrics(
    measured: Mapping[str, Mapping[str, np.ndarray]], truth: np.ndarray, clip_of: np.ndarray
) -> dict[str, dict]:
    """Turn what every condition reached into the metrics of a record.

    Args:
        measured: condition -> name -> `[S, E]`; "system" among them.
        truth: `[E, 2]`.
        clip_of: `[E]` clip of each event.

    Returns:
        `CONDITION/NAME`, `CONDITION/length_2/NAME` for events of two seconds (R@1 and mean IoU),
        and `gain_over_CONDITION/NAME`: the system less the condition on the same events (paired).
    """
    bootstrap = Bootstrap(clip_of)
    every = np.ones(len(truth), dtype=bool)
    lasted = np.diff(truth, axis=-1)[:, 0]
    lengths = {f"length_{n:g}": lasted == n for n in np.unique(lasted)}
    found = {}
    for condition, values in measured.items():
        found |= {f"{condition}/{n}": bootstrap.metric(v, every) for n, v in values.items()}
        found |= {
            f"{condition}/{label}/{name}": bootstrap.metric(values[name], chosen)
            for label, chosen in lengths.items()
            for name in (*RECALLS, MEAN_IOU)
        }
        if condition != "system":
            found |= {
                f"{GAIN}{condition}/{name}": bootstrap.metric(
                    measured["system"][name] - values[name], every, True
                )
                for name in (*RECALLS, MEAN_IOU)
            }
    return found
