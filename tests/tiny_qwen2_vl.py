"""Random miniatures of Qwen2-VL in the world's words or in ChatML, and clips for them."""

from dataclasses import replace

import torch

from vlmcourse.backbones.language_model import LlamaSizes, build_llama, build_qwen2
from vlmcourse.backbones.qwen2_vit import Qwen2Vit, Qwen2VitConfig
from vlmcourse.backbones.tokenizers import FastTokenizer
from vlmcourse.conversation import ask
from vlmcourse.foundations.tokenizer import build_tokenizer
from vlmcourse.systems.batch import collate, stack_media
from vlmcourse.systems.processor import Clip
from vlmcourse.systems.qwen2_vl import Qwen2VL
from vlmcourse.systems.qwen2_vl_config import PAPER_CONFIG, WORLD_CONFIG
from vlmcourse.systems.qwen2_vl_processor import Qwen2VLProcessor

PIECE = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
"""How Qwen2 cuts text before it looks for words (its contractions left out)."""
MARKS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
)
SPOKEN = (
    "system\nYou are a helpful assistant.", "user\n", "assistant\n", "Picture 1: ", "Video 12: ",
    "What is happening?", "What is this? And this?", "A dog runs.", "Where?", "In a field.",
    "scene : two dogs", "\nHow many?", "Two.", " And in the second?",
)  # fmt: skip


def chat_tokenizer() -> FastTokenizer:
    """A few words, cut as Qwen2's tokenizer cuts text, and the special tokens of its chat."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    cut = pre_tokenizers.Split(Regex(PIECE), "isolated")
    pieces = [piece for text in SPOKEN for piece, _ in cut.pre_tokenize_str(text)]
    words = dict.fromkeys([*MARKS, "?", *pieces])
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="?"))
    core.pre_tokenizer = cut
    inner = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(MARKS),
    )
    return FastTokenizer(inner)


def build_tiny(words: str = "world", seed: int = 0, **settings) -> Qwen2VL:
    """A model of two layers with patches of 4 pixels, so that 8 x 8 pixels are a token."""
    torch.manual_seed(seed)
    plain = words == "world"
    small = {"min_pixels": 64, "video_min_pixels": 64, "patch_size": 4, "time_rows": 4}
    base = WORLD_CONFIG if plain else replace(PAPER_CONFIG, max_pixels=64 * 64)
    config = replace(base, **{**small, **settings})
    tokenizer = FastTokenizer(build_tokenizer()) if plain else chat_tokenizer()
    build = build_llama if plain else build_qwen2
    language = build(LlamaSizes(len(tokenizer), 32, 48, 2, 4, num_key_value_heads=2))
    tower = Qwen2Vit(Qwen2VitConfig(depth=2, width=16, heads=2, patch_size=config.patch_size))
    model = Qwen2VL(config, language, tower, Qwen2VLProcessor(tokenizer, config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)  # large enough for clear winners among the logits
    return model.eval()


def random_clip(frames: int = 1, rows: int = 16, columns: int = 16, seed: int = 0) -> Clip:
    """A picture, or a video of two frames a second; `frames` of one frame and no length."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(
        0, 256, (frames, rows, columns, 3), dtype=torch.uint8, generator=generator
    )
    times = torch.arange(float(frames)) / 2
    grid = torch.tensor([-(-frames // 2), rows // 4, columns // 4])
    return Clip(times, pixels, 0.0 if frames == 1 else frames / 2, grid=grid)


def media_of(model: Qwen2VL, clip: Clip):
    """What the vision tower takes of a clip and its others."""
    return model.media(model.all_inputs(clip), clip, encoded=False)[0]


def training_batch(model: Qwen2VL, clips, pairs, marker="<video>\n"):
    """One row a clip and a pair of question and answer; frames come as patches."""
    rows = [
        model.processor.row(ask(*pair, marker), clip)
        for pair, clip in zip(pairs, clips, strict=True)
    ]
    media = stack_media([media_of(model, clip) for clip in clips])
    return collate(rows, model.processor.tokenizer.pad_id, media)
