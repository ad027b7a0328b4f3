"""Random miniatures of CogVLM2 in the world's words, and clips for them."""

from dataclasses import replace

import torch

from vlmcourse.backbones.language_model import LlamaSizes, build_llama
from vlmcourse.backbones.tokenizers import FastTokenizer
from vlmcourse.backbones.world_vision import WorldVisionConfig, WorldVisionEncoder
from vlmcourse.conversation import ask
from vlmcourse.foundations.tokenizer import build_tokenizer
from vlmcourse.systems.batch import collate, stack_media
from vlmcourse.systems.cogvlm2 import CogVLM2
from vlmcourse.systems.cogvlm2_config import WORLD_VIDEO_CONFIG
from vlmcourse.systems.cogvlm2_processor import CogVLM2Processor
from vlmcourse.systems.processor import Clip


def build_tiny(seed: int = 0, **settings) -> CogVLM2:
    """A model of two layers; `settings` are those of the video model's config."""
    torch.manual_seed(seed)
    config = replace(WORLD_VIDEO_CONFIG, image_size=32, adapter_width=24, **settings)
    tokenizer = FastTokenizer(build_tokenizer())
    llama = build_llama(LlamaSizes(len(tokenizer), 32, 48, 2, 4, num_key_value_heads=2))
    encoder = WorldVisionEncoder(WorldVisionConfig(16, 2, config.image_size))
    model = CogVLM2(config, llama, encoder, CogVLM2Processor(tokenizer, config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and not name.startswith("vision_encoder"):
                parameter.normal_(0, 0.3)  # large enough for clear winners among the logits
    return model.eval()


def random_clip(frames: int = 3, size: int = 32, rate: float = 1.0) -> Clip:
    """A clip of random frames, `rate` seconds apart; of no length when there is one."""
    pixels = torch.randint(0, 256, (frames, size, size, 3), dtype=torch.uint8)
    times = torch.arange(float(frames)) * rate
    return Clip(times, pixels, 0.0 if frames == 1 else frames * rate)


def training_batch(model: CogVLM2, clips, pairs):
    """One row a clip and a pair of question and answer; frames come as pixels."""
    rows = [model.processor.row(ask(*pair), clip) for pair, clip in zip(pairs, clips, strict=True)]
    media = [model.media(model.stream_inputs(clip), clip, encoded=False)[0] for clip in clips]
    return collate(rows, model.processor.tokenizer.pad_id, stack_media(media))
