"""transformers' own Qwen2-VL at a tiny size: its weights, its folder, rows for it and for ours."""

from itertools import groupby

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from vlmcourse.systems.batch import Batch, Media

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
IDS = {token: 256 + number for number, token in enumerate(SPECIAL)}
VOCABULARY = 256 + len(SPECIAL) + 3
"""A byte each, the special tokens, and rows that no token has, as in the published tables."""
PATCH = 4


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token; Qwen2's special tokens behind them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(SPECIAL))
    ends = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **ends)


def tiny_config(tied: bool = False, section: tuple[int, int, int] = (2, 3, 3)) -> Qwen2VLConfig:
    return Qwen2VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": list(section),
            },
            "bos_token_id": None,
            "eos_token_id": None,
        },
        vision_config={
            "depth": 2,
            "embed_dim": 24,
            "num_heads": 3,
            "mlp_ratio": 2,
            "hidden_size": 32,
            "patch_size": PATCH,
        },
        image_token_id=IDS["<|image_pad|>"],
        video_token_id=IDS["<|video_pad|>"],
        vision_start_token_id=IDS["<|vision_start|>"],
        vision_end_token_id=IDS["<|vision_end|>"],
        tie_word_embeddings=tied,
    )


def tiny_theirs(seed: int = 0, **settings) -> Qwen2VLForConditionalGeneration:
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(tiny_config(**settings)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    return model


def save_folder(model: Qwen2VLForConditionalGeneration, folder) -> None:
    """As released: shards with an index, config, tokenizer."""
    model.save_pretrained(folder, max_shard_size="60KB")
    byte_tokenizer().save_pretrained(folder)


def given_to_both(rows, side: str = "right", seed: int = 0) -> tuple[Batch, dict]:
    """The same rows for our system and for transformers' class.

    Args:
        rows: lists of texts, and of grids `(kind, t, h, w)` with kind "image" or "video".
        side: of the padding.

    Returns:
        our batch, and the arguments of their `forward`.
    """
    generator = torch.Generator().manual_seed(seed)
    lines, media = [], []
    for number, row in enumerate(rows):
        line = []
        for piece in row:
            if isinstance(piece, str):
                line += list(piece.encode())
                continue
            kind, *grid = piece
            t, h, w = grid
            patches = torch.randn(t * h * w, 6 * PATCH**2, generator=generator)
            media.append((kind, torch.tensor(grid), patches, number))
            places = [IDS[f"<|{kind}_pad|>"]] * (t * h * w // 4)
            line += [IDS["<|vision_start|>"], *places, IDS["<|vision_end|>"]]
        lines.append(torch.tensor(line))
    pad = {"batch_first": True, "padding_side": side}
    ids = pad_sequence(lines, padding_value=IDS["<|endoftext|>"], **pad)
    attention = pad_sequence([torch.ones(len(line)).bool() for line in lines], **pad)
    types = (ids == IDS["<|image_pad|>"]).long() + 2 * (ids == IDS["<|video_pad|>"]).long()
    theirs = {
        "input_ids": ids,
        "attention_mask": attention.long(),
        "mm_token_type_ids": types.int(),
    }
    names = {"image": ("pixel_values", "image"), "video": ("pixel_values_videos", "video")}
    for kind, own in groupby(sorted(media, key=lambda m: m[0]), key=lambda m: m[0]):
        own = list(own)
        pixels, grid = names[kind]
        theirs[pixels] = torch.cat([m[2] for m in own])
        theirs[f"{grid}_grid_thw"] = torch.stack([m[1] for m in own])
    pictures = packed_media(media) if media else None
    return Batch(ids, attention, (types > 0).long(), pictures=pictures), theirs


def packed_media(media) -> Media:
    blocks = [patches.unflatten(0, (-1, 4)) for _, _, patches, _ in media]
    mask = pad_sequence([torch.ones(len(b)).bool() for b in blocks], batch_first=True)
    return Media(
        mask,
        torch.zeros(mask.shape),
        inputs=pad_sequence(blocks, batch_first=True),
        rows=torch.tensor([row for *_, row in media]),
        extras={"grid": torch.stack([grid for _, grid, _, _ in media])},
    )
