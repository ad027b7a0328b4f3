"""What a system costs: its parameters, and the tokens that a clip takes in the language model."""

from collections.abc import Collection
from typing import TYPE_CHECKING

from vlmcourse.conversation import TEXT, Conversation, ask, lay_out, tokenise
from vlmcourse.intervals import metric
from vlmcourse.systems.base import VideoLanguageModel

if TYPE_CHECKING:
    from vlmcourse.evaluation.asked import Probes
    from vlmcourse.systems.processor import Clip, Processor

EXPERT = "vision_expert"
"""Stands in the name of every parameter of a visual expert."""


def cost_metrics(model: VideoLanguageModel, probes: "Probes", trained: Collection[str]) -> dict:
    """What a record tells of a system's cost.

    Args:
        trained: names of the parameters that were trained (`runs.trained_names`).

    Returns:
        `parameters/total`, `parameters/trained`, `parameters/experts` (counts); and of the clips
        that are asked about, as means, `tokens/places` (tokens of the connector) and `tokens/video`
        (all that stands for a clip: those, marks, times, subtitles).
    """
    places, video = zip(*clip_tokens(model, probes))
    return {
        **{f"parameters/{name}": count(n) for name, n in parameters(model, trained).items()},
        "tokens/places": metric(places, "tokens"),
        "tokens/video": metric(video, "tokens"),
    }


def count(value: int) -> dict:
    """A number that was counted, as a metric: nothing is rounded, and there is no interval."""
    return {"n": 1, "mean": int(value), "low": None, "high": None, "unit": ""}


def parameters(model: VideoLanguageModel, trained: Collection[str]) -> dict[str, int]:
    """Counts of all parameters, of those that were trained, and of those of visual experts."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return {
        "total": sum(sizes.values()),
        "trained": sum(size for name, size in sizes.items() if name in set(trained)),
        "experts": sum(size for name, size in sizes.items() if EXPERT in name),
    }


def clip_tokens(model: VideoLanguageModel, probes: "Probes") -> list[tuple[int, int]]:
    """Of every clip: places for the connector's tokens, and all tokens that stand for the clip."""
    from vlmcourse.evaluation.rows import marker

    found = []
    for clip, asked in zip(probes.clips, probes.asked, strict=True):
        conversation = ask(asked[0].text, asked[0].answer, marker(clip))
        found.append(tokens_of(model.processor, conversation, clip))
    return found


def tokens_of(processor: "Processor", conversation: Conversation, clip: "Clip") -> tuple[int, int]:
    """The same of one clip in a conversation about it."""
    template = processor.answer_template
    row = processor.row(conversation, clip, template)
    alone = tokenise(lay_out(conversation, template, lambda kind: ()), processor.tokenizer)
    return sum(kind != TEXT for kind in row.kinds), len(row) - len(alone)
