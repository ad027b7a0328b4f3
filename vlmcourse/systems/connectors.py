"""One system, seven connectors: what a film's N tokens are made by is the only thing that changes.

    film -> 8 frames -> picture encoder (frozen): 512 features -> + time -> connector: N tokens
         -> projector -> language model (frozen): N places, a question, an answer

No paper's system, but a study of seven papers' ideas on equal terms: the same frozen encoder and
language model, the same films, questions and steps, and the same number of tokens. What trains is
`connector.*`: the embedding of time, what the way itself learns, and the projector.

How each connector spends N tokens, and which N it cannot spend, is data: `spending_table` in
connectors_config.py.

Trained parameters, with `parameters="equal"`: as many as the Q-Former of N queries has (388,000 at
N = 8, 412,000 at N = 256), to within 0.1 percent: a hidden layer of the projector is as wide as
that needs. With "own": 13,000 (projection, pooling, clustering), 50,000 to 124,000 (merge4),
148,000 to 222,000 (gated adapter), and the Q-Former and the memory bank as before.

No connector reads the question. Q-Formers begin fresh, though no paper's does: what a pretrained
one knows was learnt from other data (`start="pretrained"` has it).
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vlmcourse.backbones.foundations import load_foundations, load_image_qformer
from vlmcourse.errors import UserError
from vlmcourse.parts.gated_adapter import GatedAdapter
from vlmcourse.parts.qformer import QFormer
from vlmcourse.parts.waves import waves
from vlmcourse.systems.base import VideoLanguageModel
from vlmcourse.systems.connectors_config import (
    ADAPTER_WIDTH,
    QFORMERS,
    ConnectorsConfig,
    qformer_config,
)
from vlmcourse.systems.connectors_processor import ConnectorsProcessor
from vlmcourse.systems.connectors_stages import WORLD_STAGES
from vlmcourse.systems.connectors_ways import build_way
from vlmcourse.systems.stages import Stage

WORLD_CONFIG = ConnectorsConfig()
APART = 0.1
"""Random values added to queries that begin as copies of the same one, as a share of theirs."""


class TimeTold(nn.Module):
    """What every feature of a frame is told about its time: `[B, T]` seconds to `[B or 1, T, D]`.

    Args:
        how: "frames" or "seconds", see `ConnectorsConfig.time`.
        frames: T.
        width: D.
    """

    def __init__(self, how: str, frames: int, width: int):
        super().__init__()
        self.how, self.frames, self.width = how, frames, width
        begin = torch.eye(width) if how == "seconds" else waves(torch.arange(frames), frames, width)
        self.weight = nn.Parameter(begin)

    def forward(self, times_s: Tensor) -> Tensor:
        if self.how == "frames":
            return self.weight[None]
        return waves(times_s, self.frames, self.width).to(self.weight.dtype) @ self.weight


class Connector(nn.Module):
    """All that trains: time, one of the seven ways, and a projector.

    Args:
        config: the study's.
        patches, width: P and D of the features.
        out_width: E of the language model.
    """

    def __init__(self, config: ConnectorsConfig, patches: int, width: int, out_width: int):
        super().__init__()
        told = config.time != "none"
        self.time = TimeTold(config.time, config.num_frames, width) if told else None
        self.way = build_way(config, patches, width)
        self.projector = build_projector(config, self.way, out_width)

    def forward(self, frames: Tensor, times_s: Tensor) -> tuple[Tensor, Tensor]:
        """Frames `[B, T, P, D]` and their seconds `[B, T]` to tokens `[B, N, E]` and mask
        `[B, N]`."""
        if self.time is not None:
            frames = frames + self.time(times_s)[:, :, None]
        tokens, mask = self.way(frames, times_s)
        return self.projector(tokens), mask


def build_projector(config: ConnectorsConfig, way: nn.Module, out_width: int) -> nn.Module:
    """What brings tokens to the language model's width: the gated adapter; one linear layer; or two
    with a hidden layer that makes up for what the way has fewer parameters than a Q-Former."""
    if config.connector in QFORMERS:
        return nn.Linear(way.width, out_width)
    with torch.device("meta"):
        rival = QFormer(qformer_config(config.tokens))
        rival_projector = nn.Linear(rival.config.hidden_size, out_width)
    missing = size_of(rival) + size_of(rival_projector) - size_of(way)
    if config.connector == "gated_adapter":
        outside = (way.width + 2) * out_width  # its first layer and norm
        inner = round((missing - outside) / (3 * out_width))
        inner = inner if config.parameters == "equal" else ADAPTER_WIDTH
        return GatedAdapter(way.width, out_width, inner)
    if config.parameters == "own":
        return nn.Linear(way.width, out_width)
    inner = round((missing - out_width) / (way.width + 1 + out_width))
    return nn.Sequential(nn.Linear(way.width, inner), nn.GELU(), nn.Linear(inner, out_width))


def size_of(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


class Connectors(VideoLanguageModel):
    """The whole system.

    Args:
        config: settings.
        language_model, vision_encoder, processor: see the base.
    """

    def __init__(
        self,
        config: ConnectorsConfig,
        language_model: nn.Module,
        vision_encoder: nn.Module,
        processor: ConnectorsProcessor | None,
    ):
        super().__init__(language_model, vision_encoder, processor)
        self.config = config
        seen, out = vision_encoder, language_model.get_input_embeddings().weight.shape[1]
        self.connector = Connector(config, seen.num_patches, seen.hidden_size, out)

    def connect(
        self, features: Tensor, frame_mask: Tensor, times_s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`[V, T, P, D]` to `[V, N, E]`; a film of fewer frames than the connector takes has some
        of them repeated."""
        frames, times_s = spread(features, frame_mask, times_s, self.config.num_frames)
        return self.connector(frames, times_s)

    @staticmethod
    def stages(preset: str) -> Sequence[Stage]:
        """There is only the world's size."""
        refuse_paper(preset)
        return WORLD_STAGES


def spread(
    features: Tensor, frame_mask: Tensor, times_s: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Exactly `count` frames of every film, from the middles of as many equal parts of those that
    exist: `[V, count, P, D]` and `[V, count]`; as they are where there are exactly so many.

    Args:
        features: `[V, T, P, D]`.
        frame_mask: `[V, T]` bool, frames that exist stand first.
        times_s: `[V, T]`.

    Raises:
        ValueError: a film without frames.
    """
    there = frame_mask.sum(1, keepdim=True)  # [V, 1]
    if not bool((there > 0).all()):
        raise ValueError("a film without frames has no tokens")
    if features.shape[1] == count and bool((there == count).all()):
        return features, times_s
    part = torch.arange(count, device=features.device)
    chosen = (2 * part + 1) * there // (2 * count)  # [V, count]
    films = torch.arange(len(features), device=features.device)[:, None]
    return features[films, chosen], times_s[films, chosen]


def begin_pretrained(qformer: QFormer, image: QFormer) -> None:
    """Give a Q-Former all that the small world's image Q-Former knows.

    Queries are its own in turn; from the second turn on with some random values added, for equal
    queries would stay equal for ever.

    Args:
        qformer: changed in place.
        image: of the same sizes, but for its number of queries.
    """
    known = image.state_dict()
    count, queries = qformer.config.num_queries, known.pop("queries")
    turns = -(-count // queries.shape[1])
    added = torch.randn(turns, *queries.shape[1:]) * APART * queries.std()
    added[0] = 0
    wide = (queries + added).flatten(0, 1)[None, :count]
    qformer.load_state_dict({**known, "queries": wide})


def refuse_paper(preset: str) -> None:
    """Raise UserError for another size than the world's."""
    if preset != "world":
        raise UserError("connectors is a study in the small world: it has the preset world alone")


def build_world(
    device: str = "cpu", folder: Path | None = None, config: ConnectorsConfig = WORLD_CONFIG
) -> Connectors:
    """The system on the small world's frozen parts."""
    encoder, language_model, tokenizer = load_foundations(folder)
    processor = ConnectorsProcessor(tokenizer, config)
    model = Connectors(config, language_model, encoder, processor)
    if config.start == "pretrained":
        begin_pretrained(model.connector.way.qformer, load_image_qformer(folder))
    return model.to(device).eval()
