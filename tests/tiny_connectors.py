"""Random miniatures of the connector study: features as large as the world's, a small language
model."""

from dataclasses import replace

import torch

from vlmcourse.backbones.language_model import LlamaSizes, build_llama
from vlmcourse.backbones.tokenizers import FastTokenizer
from vlmcourse.backbones.world_vision import WorldVisionEncoder
from vlmcourse.conversation import ask
from vlmcourse.foundations.tokenizer import build_tokenizer
from vlmcourse.systems.batch import collate, stack_media, video_features
from vlmcourse.systems.connectors import WORLD_CONFIG, Connectors
from vlmcourse.systems.connectors_processor import ConnectorsProcessor
from vlmcourse.systems.processor import Clip

TALKS = [
    ask("what colour is circle ?", "red"),
    ask("what happens first ?", "blue star jumps"),
    ask("how many things are there ?", "3"),
    ask("where is moon ?", "top left"),
]


def build_tiny(seed: int = 0, **settings) -> Connectors:
    """A model whose encoder is the world's size and knows nothing."""
    torch.manual_seed(seed)
    config = replace(WORLD_CONFIG, **settings)
    tokenizer, encoder = FastTokenizer(build_tokenizer()), WorldVisionEncoder()
    processor = ConnectorsProcessor(tokenizer, config)
    llama = build_llama(LlamaSizes(len(tokenizer), 32, 48, 2, 4))
    with torch.no_grad():
        for parameter in llama.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)  # large enough for clear winners among the logits
    return Connectors(config, llama, encoder, processor).eval()


def film(frames: int = 8, seed: int = 0) -> torch.Tensor:
    """Features `[T, 64, 96]`, about as large as the encoder's."""
    return torch.randn(frames, 64, 96, generator=torch.Generator().manual_seed(seed))


def connected(model: Connectors, *films: torch.Tensor, times_s=None) -> torch.Tensor:
    """Tokens of films of equal length, `[V, N, E]`."""
    features = torch.stack(films)
    there = torch.ones(features.shape[:2], dtype=torch.bool)
    times = torch.arange(float(features.shape[1])) if times_s is None else times_s
    return model.connect(features, there, times.expand(there.shape))[0]


def training_batch(model: Connectors, films, talks=TALKS):
    """One row a film and a conversation."""
    processor, rows, media = model.processor, [], []
    for features, talk in zip(films, talks):
        times = torch.arange(float(len(features)))
        rows.append(processor.row(talk, Clip(times, None, float(len(features)))))
        media.append(video_features(features, times))
    return collate(rows, processor.tokenizer.pad_id, stack_media(media))
