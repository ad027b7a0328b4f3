"""Fixtures that several folders share."""

from dataclasses import replace

import pytest

TEXT = (
    "<unk> <s> </s> <pad> USER: ASSISTANT: what colour is the circle square ? red blue green "
    "one two three four happens at first last where when left right jumps grows"
)
WORDS = TEXT.split()


def make_word_tokenizer():
    """A word-level tokenizer in the way of the small world's, made without its vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from vlmcourse.backbones.tokenizers import FastTokenizer

    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    inner = PreTrainedTokenizerFast(
        tokenizer_object=core, additional_special_tokens=["USER:", "ASSISTANT:"], **names
    )
    return FastTokenizer(inner)


@pytest.fixture
def word_tokenizer():
    return make_word_tokenizer()


@pytest.fixture
def tiny_video_chatgpt():
    """Builds a random miniature of Video-ChatGPT in its world layout; arguments: its config."""
    import torch

    from vlmcourse.backbones.language_model import LlamaSizes, build_llama, grow_vocabulary
    from vlmcourse.backbones.world_vision import WorldVisionEncoder
    from vlmcourse.systems.video_chatgpt import WORLD_CONFIG, VideoChatGPT, VideoChatGPTProcessor

    def build(seed: int = 0, **settings):
        torch.manual_seed(seed)
        tokenizer = make_word_tokenizer()
        config = replace(WORLD_CONFIG, base_vocabulary=len(tokenizer), **settings)
        llama = build_llama(LlamaSizes(len(tokenizer), 32, 48, 2, 4))
        with torch.no_grad():
            for parameter in llama.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, 0.3)  # large enough for clear winners among the logits
        grow_vocabulary(llama, random_rows=1, mean_rows=2)
        encoder = WorldVisionEncoder()
        processor = VideoChatGPTProcessor(tokenizer, config, encoder.num_patches)
        return VideoChatGPT(config, llama, encoder, processor).eval()

    return build


@pytest.fixture
def tiny_video_llama():
    """Builds a random miniature of Video-LLaMA in its world layout; arguments: its config."""
    import torch

    from vlmcourse.backbones.imagebind import ImageBindAudioConfig
    from vlmcourse.backbones.language_model import LlamaSizes, build_llama
    from vlmcourse.backbones.world_imagebind import (
        WorldImageBindConfig,
        WorldImageBindVisionConfig,
        build_world_imagebind,
    )
    from vlmcourse.backbones.world_vision import WorldVisionEncoder
    from vlmcourse.parts.qformer import QFormer, QFormerConfig
    from vlmcourse.systems.video_llama import WORLD_CONFIG, VideoLlama, VideoLlamaProcessor

    sizes = {
        "num_image_queries": 3, "num_video_queries": 4, "num_audio_queries": 2, "image_width": 16,
        "sound_width": 12, "qformer_width": 16, "qformer_heads": 2, "qformer_inner": 24,
    }  # fmt: skip

    def build(seed: int = 0, **settings):
        torch.manual_seed(seed)
        tokenizer = make_word_tokenizer()
        config = replace(WORLD_CONFIG, **{**sizes, **settings})
        llama = build_llama(LlamaSizes(len(tokenizer), 32, 48, 2, 4))
        encoder = WorldVisionEncoder()
        image_qformer = QFormer(QFormerConfig(16, 1, 2, 24, 96, 1, config.num_image_queries))
        hearing = ImageBindAudioConfig(
            patch_stride=16, hidden_size=8, num_layers=1, num_heads=2, out_width=12, drop_path=0.0
        )
        heads = WorldImageBindVisionConfig(out_width=12)
        imagebind = build_world_imagebind(encoder, WorldImageBindConfig(hearing, heads))
        processor = VideoLlamaProcessor(tokenizer, config)
        model = VideoLlama(config, llama, encoder, processor, image_qformer, imagebind)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1 and name.startswith(("language", "llama", "audio_llama")):
                    parameter.normal_(0, 0.3)  # large enough for clear winners among the logits
        return model.eval()

    return build


@pytest.fixture
def tiny_minigpt4_video():
    """Builds a random miniature of MiniGPT4-video with the world's words; arguments: its config.

    LoRA's B is random too (`lora_b=0.0` leaves it at zero, as a fresh model has it).
    """
    import torch

    from vlmcourse.backbones.language_model import LlamaSizes, build_llama
    from vlmcourse.backbones.tokenizers import FastTokenizer
    from vlmcourse.backbones.world_vision import WorldVisionEncoder
    from vlmcourse.foundations.tokenizer import build_tokenizer
    from vlmcourse.systems.minigpt4_video import WORLD_CONFIG, MiniGPT4Video
    from vlmcourse.systems.minigpt4_video_processor import MiniGPT4VideoProcessor

    def build(seed: int = 0, lora_b: float = 0.1, **settings):
        torch.manual_seed(seed)
        tokenizer = FastTokenizer(build_tokenizer())
        config = replace(WORLD_CONFIG, **{"lora_rank": 4, "lora_alpha": 6, **settings})
        llama = build_llama(LlamaSizes(len(tokenizer), 32, 48, 2, 4))
        encoder = WorldVisionEncoder()
        processor = MiniGPT4VideoProcessor(tokenizer, config, encoder.num_patches)
        model = MiniGPT4Video(config, llama, encoder, processor)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim > 1 and name.startswith(("language", "llama")):
                    spread = lora_b if ".lora_B." in name else 0.3
                    parameter.normal_(0, spread)  # large enough for clear winners among the logits
        return model.eval()

    return build
