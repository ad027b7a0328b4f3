"""Random miniatures of Chat-UniVi: in the world's words, or with a tiny CLIP and SentencePiece."""

from dataclasses import replace
from pathlib import Path

import torch

from vlmcourse.backbones.clip import ClipConfig, ClipEncoder
from vlmcourse.backbones.language_model import LlamaSizes, build_llama
from vlmcourse.backbones.tokenizers import FastTokenizer, SentencePieceTokenizer
from vlmcourse.backbones.world_vision import WorldVisionEncoder
from vlmcourse.foundations.tokenizer import build_tokenizer
from vlmcourse.systems.batch import collate, stack_media
from vlmcourse.systems.chat_univi import ChatUniVi
from vlmcourse.systems.chat_univi_config import PAPER_CONFIG, WORLD_CONFIG
from vlmcourse.systems.chat_univi_processor import ChatUniViProcessor
from vlmcourse.systems.processor import Clip

MODEL = Path(__file__).parent / "reference" / "video_chatgpt" / "tiny_tokenizer.model"
TINY = {"spatial_rates": (6, 4, 2), "spatial_ks": (3, 2, 2)}
"""12 tokens of a picture of 16 patches or more."""


def vicuna_processor(style: str = "slow", num_patches: int = 16, **settings) -> ChatUniViProcessor:
    """In Vicuna's words; pictures become 8 x 8 pixels."""
    config = replace(PAPER_CONFIG, **{"image_size": 8, "temporal_rate": 0.5, **TINY, **settings})
    return ChatUniViProcessor(SentencePieceTokenizer(MODEL, style), config, num_patches)


def build_tiny(words: str = "world", seed: int = 0, **settings) -> ChatUniVi:
    """A model of two layers; with Vicuna's words it looks through a tiny CLIP, at 16 patches."""
    torch.manual_seed(seed)
    if words == "world":
        config = replace(WORLD_CONFIG, **{**TINY, "temporal_k": 2, **settings})
        tokenizer, encoder = FastTokenizer(build_tokenizer()), WorldVisionEncoder()
        processor = ChatUniViProcessor(tokenizer, config, encoder.num_patches)
    else:
        processor = vicuna_processor(**settings)
        encoder = ClipEncoder(ClipConfig(16, 32, 3, 4, image_size=8, patch_size=2))
    llama = build_llama(LlamaSizes(len(processor.tokenizer), 32, 48, 2, 4))
    model = ChatUniVi(processor.config, llama, encoder, processor)
    with torch.no_grad():
        for parameter in (*llama.parameters(), *model.projector.parameters()):
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)  # large enough for clear winners among the logits
    return model.eval()


def random_clip(frames: int = 1, seed: int = 0, side: int = 64) -> Clip:
    """A picture, or a video of one frame a second; its frames repeat three scenes, with noise."""
    generator = torch.Generator().manual_seed(seed)
    scenes = torch.randint(0, 256, (3, side, side, 3), generator=generator)
    chosen = torch.randint(0, 3, (frames,), generator=generator)
    noise = torch.randint(-20, 21, (frames, side, side, 3), generator=generator)
    pixels = (scenes[chosen] + noise).clamp(0, 255).to(torch.uint8)
    return Clip(torch.arange(float(frames)), pixels, 0.0 if frames == 1 else float(frames))


def media_of(model: ChatUniVi, clip: Clip):
    """What the encoder takes of a clip and its others."""
    return model.media(model.all_inputs(clip), clip, encoded=False)[0]


def training_batch(model: ChatUniVi, clips, conversations):
    """One row a clip and a conversation; frames come as pixels."""
    rows = [
        model.processor.row(talk, clip) for talk, clip in zip(conversations, clips, strict=True)
    ]
    media = [media_of(model, clip) for clip in clips]
    numbers = [row for row, one in enumerate(media) for _ in range(len(one))]
    several = len(numbers) > len(rows)
    media = stack_media(media, numbers if several else None)
    return collate(rows, model.processor.tokenizer.pad_id, media)
