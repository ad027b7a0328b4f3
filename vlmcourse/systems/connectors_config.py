"""The connector study's settings, and how each connector spends N tokens of a film, as data.

The film is 8 frames of 64 patches, 512 features of 96 channels. Every connector makes exactly N
tokens of it, in its own paper's way, or says why it cannot:

    projection     an even choice of patches, N / 8 of every frame; the others are not seen
    pooling        N / 2 means of moments (8 at most, one a frame), the rest means of places
    merge4         every frame's patches joined by fours, in reading order, until N are left
    gated_adapter  every frame's patches joined by 2 x 2 squares (a convolution) until N are left
    qformer        N queries that look at all 512 features
    memory_bank    N queries that look at one frame after the other and at banks of 4 entries
    clustering     4 events of N / 4 tokens, fine and coarse
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from vlmcourse.backbones.world_qformer import WORLD_QFORMER
from vlmcourse.errors import UserError
from vlmcourse.parts.merging_baselines import grid_ids
from vlmcourse.parts.qformer import QFormerConfig

BUDGETS = (8, 16, 32, 64, 128, 256)
"""Tokens of a whole film that are compared."""
FRAMES, PATCHES = 8, 64
"""Frames of a film and patches of a frame in the small world."""
TIMES = ("frames", "seconds", "none")
STARTS = ("fresh", "pretrained")
SIZES = ("equal", "own")
EVENTS, BANK = 4, 4
"""Events of a film; entries of each memory bank. Both are as in the systems' own world presets."""
SCALES = {2: (2,), 4: (4,), 8: (6, 2), 16: (10, 4, 2), 32: (20, 8, 4), 64: (40, 16, 8)}
"""Tokens of an event, scale by scale: the paper's 4 to 2 to 1, as nearly as whole numbers from 2 on
allow."""
KS, EVENT_K = (5, 3, 3), 5
"""Neighbours that count in a density, at each scale and for frames."""
ADAPTER_WIDTH = 256
"""Inner width of the gated adapter with `parameters="own"`, as in CogVLM2's world preset."""


@dataclass(frozen=True)
class ConnectorsConfig:
    """Settings of the study.

    Attributes:
        connector: a key of `WAYS`.
        tokens: N, visual tokens of a whole film, exactly.
        time: what every feature is told before any connector sees it, in the same way for all:
            "frames" (an embedding of the frame's number that trains, and begins as waves),
            "seconds" (a trained map of waves of the frame's second; both begin alike where frames
            are a second apart) or "none".
        start: "fresh": Q-Formers begin with random values, as all other connectors do;
            "pretrained": as the small world's image Q-Former, which has seen pictures with their
            captions before, so it is no fair start beside the others. Only for Q-Formers.
        parameters: "equal": inner widths are such that every connector trains as many parameters as
            the Q-Former of so many tokens; "own": each has what its paper has (one linear layer for
            the first three and clustering), up to thirty times fewer.
        num_frames: frames taken from a film, in even steps. Shorter ones, and pictures, are
            repeated up to so many.
    """

    connector: str = "pooling"
    tokens: int = 32
    time: str = "frames"
    start: str = "fresh"
    parameters: str = "equal"
    num_frames: int = FRAMES

    def __post_init__(self):
        for name, known in (
            ("connector", WAYS),
            ("time", TIMES),
            ("start", STARTS),
            ("parameters", SIZES),
        ):
            if getattr(self, name) not in known:
                told = ", ".join(known)
                raise UserError(f"{name} is {getattr(self, name)!r}, not one of {told}")
        if self.num_frames < 1:
            raise UserError("num_frames must be at least 1")
        if self.start == "pretrained" and self.connector not in QFORMERS:
            told = " and ".join(QFORMERS)
            raise UserError(f"start=pretrained is for {told}: {self.connector} has no Q-Former")
        spending(self.connector, self.tokens, self.num_frames)


# ---------------------------------------------------------------- how N tokens are spent

Spending = dict[str, Any]
"""Numbers that say how a connector spends its tokens."""


def _projection(tokens: int, frames: int, patches: int) -> Spending:
    if tokens % frames or not 0 < tokens // frames <= patches:
        raise UserError(f"it keeps equally many patches of each of {frames} frames")
    each = tokens // frames
    try:
        grid_ids(patches, each)
    except ValueError as error:
        raise UserError(f"{each} patches of a frame are no even choice: {error}") from error
    return {"frames": frames, "patches_of_each": each}


def _pooling(tokens: int, frames: int, patches: int) -> Spending:
    temporal = min(frames, tokens // 2)
    spatial = tokens - temporal
    if temporal == 0 or frames % temporal:
        raise UserError(f"{temporal} temporal tokens of {frames} frames are no even means")
    if spatial > patches:
        raise UserError(
            f"a film has {frames} means over a frame and {patches} means over time, "
            f"{frames + patches} in all, and no more"
        )
    return {"temporal": temporal, "spatial": spatial}


def _joined(tokens: int, frames: int, patches: int) -> Spending:
    rounds, left = 0, frames * patches
    while left > tokens and left % 4 == 0:
        rounds, left = rounds + 1, left // 4
    if left != tokens or rounds == 0 or patches % 4**rounds:
        each, possible = patches // 4, []
        while each:
            possible.append(str(frames * each))
            each //= 4
        told = ", ".join(reversed(possible))
        raise UserError(f"four become one, so {frames} frames of {patches} patches give {told}")
    return {"frames": frames, "rounds": rounds, "tokens_of_each": tokens // frames}


def _queries(tokens: int, frames: int, patches: int) -> Spending:
    if tokens < 1:
        raise UserError("it needs a query at least")
    return {"queries": tokens}


def _bank(tokens: int, frames: int, patches: int) -> Spending:
    return {**_queries(tokens, frames, patches), "entries_of_each_bank": BANK}


def _clusters(tokens: int, frames: int, patches: int) -> Spending:
    events = min(EVENTS, frames)
    scales = SCALES.get(tokens // events)
    if tokens % events or scales is None:
        told = ", ".join(str(events * each) for each in SCALES)
        raise UserError(f"{events} events of {', '.join(map(str, SCALES))} tokens give {told}")
    return {"events": events, "tokens_of_each": scales}


WAYS: dict[str, Callable[[int, int, int], Spending]] = {
    "projection": _projection,
    "pooling": _pooling,
    "merge4": _joined,
    "qformer": _queries,
    "clustering": _clusters,
    "memory_bank": _bank,
    "gated_adapter": _joined,
}
QFORMERS = ("qformer", "memory_bank")
SOURCES = {
    "projection": "LLaVA, arXiv 2304.08485 (a linear layer, all patches)",
    "pooling": "Video-ChatGPT, arXiv 2306.05424, section 3.1",
    "merge4": "MiniGPT4-video, arXiv 2404.03413, section 3",
    "qformer": "BLIP-2, arXiv 2301.12597; Video-LLaMA, arXiv 2306.02858, section 2",
    "clustering": "Chat-UniVi, arXiv 2311.08046, sections 3.1 and 3.2",
    "memory_bank": "MA-LMM, arXiv 2404.05726, section 3",
    "gated_adapter": "CogVLM2, arXiv 2408.16500, section 2",
}
"""Whose idea each is."""


def spending(connector: str, tokens: int, frames: int = FRAMES, patches: int = PATCHES) -> Spending:
    """How a connector spends so many tokens of a film.

    Raises:
        UserError: it cannot; the message says why.
    """
    try:
        return WAYS[connector](tokens, frames, patches)
    except UserError as error:
        raise UserError(f"{connector} cannot spend {tokens} tokens: {error}") from error


def spending_table() -> dict[str, dict[int, Spending | str]]:
    """By connector and budget: how it is spent, or why it cannot be."""
    table: dict[str, dict[int, Spending | str]] = {}
    for connector in WAYS:
        for tokens in BUDGETS:
            try:
                found = spending(connector, tokens)
            except UserError as error:
                found = str(error)
            table.setdefault(connector, {})[tokens] = found
    return table


def qformer_config(queries: int) -> QFormerConfig:
    """The small world's image Q-Former without its words, with other queries."""
    return replace(WORLD_QFORMER, vocab_size=None, num_queries=queries)
