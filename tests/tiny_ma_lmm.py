"""Random miniatures of MA-LMM in the world's words or in the paper's, and rows for them."""

from dataclasses import replace

import torch

from vlmcourse.backbones.eva_clip import EvaClipConfig, EvaClipEncoder
from vlmcourse.backbones.instructions import WorldInstructions
from vlmcourse.backbones.language_model import LlamaSizes, build_llama
from vlmcourse.backbones.tokenizers import FastTokenizer
from vlmcourse.backbones.world_vision import WorldVisionConfig, WorldVisionEncoder
from vlmcourse.conversation import ask
from vlmcourse.foundations.tokenizer import build_tokenizer
from vlmcourse.systems.batch import collate, stack_media
from vlmcourse.systems.ma_lmm import MaLmm
from vlmcourse.systems.ma_lmm_config import WORLD_CONFIG, MaLmmConfig
from vlmcourse.systems.ma_lmm_processor import MaLmmProcessor
from vlmcourse.systems.processor import Clip

SMALL = {
    "visual_memory": 2, "query_memory": 2, "num_queries": 3, "vision_width": 16,
    "qformer_width": 16, "qformer_layers": 3, "qformer_heads": 2, "qformer_inner": 24,
    "qformer_dropout": 0.0, "max_frames": 6,
}  # fmt: skip


def build_tiny(seed: int = 0, **settings) -> MaLmm:
    """A model in the world's words; frames of 16 pixels are four tokens."""
    torch.manual_seed(seed)
    tokenizer = FastTokenizer(build_tokenizer())
    instructions = WorldInstructions(tokenizer.words())
    config = replace(WORLD_CONFIG, **{**SMALL, "image_size": 16, **settings})
    config = replace(config, qformer_vocabulary=len(instructions))
    encoder = WorldVisionEncoder(WorldVisionConfig(hidden_size=16, num_heads=2, image_size=16))
    llama = build_llama(LlamaSizes(len(tokenizer), 32, 48, 2, 4))
    model = MaLmm(config, llama, encoder, MaLmmProcessor(tokenizer, instructions, config))
    return spread(model)


def build_tiny_paper(tokenizer, seed: int = 0, **settings) -> MaLmm:
    """A model in the paper's layout with a picture encoder of two blocks, frames of 28 pixels."""
    torch.manual_seed(seed)
    small = {**SMALL, "num_frames": 4, "image_size": 28, "text_length": 12, "answer_length": 8}
    instructions = WorldInstructions(["what", "is", "the", "activity", "in", "video"])
    config = replace(MaLmmConfig(), **{**small, **settings})
    config = replace(config, qformer_vocabulary=len(instructions))
    encoder = EvaClipEncoder(
        EvaClipConfig(image_size=28, hidden_size=16, num_layers=2, num_heads=2, mlp_ratio=2.0),
        normed=False,
    )
    processor = MaLmmProcessor(tokenizer, instructions, config)
    llama = build_llama(LlamaSizes(len(tokenizer), 32, 48, 2, 4))
    return spread(MaLmm(config, llama, encoder, processor))


def spread(model: MaLmm) -> MaLmm:
    """Values large enough for clear winners among the logits, and frames that have positions."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and not name.startswith("vision_encoder."):
                parameter.normal_(0, 0.3)
    return model.eval()


def features_of(model: MaLmm, frames: int, seed: int = 0):
    """Random features `[T, 4, D]` and the layout facts of a clip."""
    torch.manual_seed(seed)
    values = torch.randn(frames, 4, model.config.vision_width)
    return values, Clip(torch.arange(float(frames)), duration_s=float(frames))


def training_batch(model: MaLmm, videos, pairs):
    """One row a question; `videos` are (features, clip), `pairs` the questions and answers of
    each."""
    rows, media = [], []
    for (features, clip), asked in zip(videos, pairs, strict=True):
        rows += [model.processor.row(ask(question, answer), clip) for question, answer in asked]
        watched = model.remember(features, clip)
        media.append(model.question_media(watched, [question for question, _ in asked])[0])
    return collate(rows, model.processor.tokenizer.pad_id, stack_media(media))
