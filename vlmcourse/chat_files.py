"""Loading the system that answers: the official files that each needs at its published size, where
they lie, and the shipped ones."""

from pathlib import Path
from typing import TYPE_CHECKING

from vlmcourse.errors import UserError

if TYPE_CHECKING:
    from vlmcourse.systems.base import VideoLanguageModel

_BASE, _BLIP2 = (
    "LLaVA-Lightning-7B-v1-1",
    "storage.googleapis.com/sfr-vision-language-research/LAVIS",
)
_EVA = f"{_BLIP2}/models/BLIP2/eva_vit_g.pth"
_COGVLM2 = "huggingface.co/THUDM/cogvlm2-"

_SHARDS = {
    "model.safetensors.index.json": "which tensor is in which shard",
    "model-*.safetensors": "all shards that the index names",
    "tokenizer.json": "and tokenizer_config.json beside it",
}

OFFICIAL_FILES = {
    "video_chatgpt": {
        _BASE: "the base model: the LLaMA-7B weights with LLaVA-Lightning's delta applied",
        f"{_BASE}/tokenizer.model": "the SentencePiece file of LLaMA",
        "video_chatgpt-7B.bin": "huggingface.co/MBZUAI/Video-ChatGPT-7B",
        "clip-vit-large-patch14": "huggingface.co/openai/clip-vit-large-patch14",
    },
    "video_llama": {
        "*/tokenizer.model": "in the folder of the language model, vicuna-7b or llama-2-7b-chat-hf",
        "eva_vit_g.pth": _EVA,
        "blip2_pretrained_flant5xxl.pth": f"{_BLIP2}/models/BLIP2/blip2_pretrained_flant5xxl.pth",
    },
    "minigpt4_video": {
        "*/tokenizer.model": "in the folder of the language model, Llama-2-7b-chat-hf or "
        "Mistral-7B-Instruct-v0.2",
        "eva_vit_g.pth": _EVA,
        "*_checkpoint*.pth": "video_llama_checkpoint_best.pth or video_mistral_checkpoint_best.pth "
        "(or another), from huggingface.co/Vision-CAIR/MiniGPT4-Video",
    },
    "cogvlm2": {
        "config.json": f"{_COGVLM2}llama3-chat-19B, the image model: this and the following",
        **_SHARDS,
    },
    "cogvlm2_video": {
        "config.json": f"{_COGVLM2}video-llama3-chat, or ...-base: this and the following",
        **_SHARDS,
    },
    "ma_lmm": {
        "*/tokenizer.model": "in the folder of the language model, vicuna-7b (version 1.1)",
        "bert-base-uncased": "huggingface.co/google-bert/bert-base-uncased: its tokenizer.json or "
        "vocab.txt is enough",
        "eva_vit_g.pth": _EVA,
        "instruct_blip_vicuna7b_trimmed.pth": f"{_BLIP2}/models/InstructBLIP/"
        "instruct_blip_vicuna7b_trimmed.pth; and checkpoint_best.pth of one data set out of the "
        "authors' saved_model.tar, where one is to be used",
    },
    "chat_univi": {
        "config.json": "huggingface.co/Chat-UniVi/Chat-UniVi, or another of theirs: this and the "
        "following",
        "tokenizer.model": "the SentencePiece file of LLaMA",
        "pytorch_model*": "all shards, and the index that names them",
    },
    "qwen2_vl": {
        "config.json": "huggingface.co/Qwen/Qwen2-VL-2B-Instruct, -7B- or -72B-: this and the "
        "following",
        **_SHARDS,
    },
}
"""Names (or patterns) of the official files and folders that a system needs, and their sources."""
FURTHER_FILES = {
    "chat_univi": {
        "clip-vit-large-patch14": "huggingface.co/openai/clip-vit-large-patch14, or -336 for "
        "version 1.5; only where the shards lack it",
    },
    "video_llama": {
        "finetune-vicuna7b-v2.pth": "or another vision branch of the language model, from "
        "huggingface.co/DAMO-NLP-SG",
        "finetune_vicuna7b_audiobranch.pth": "or another audio branch; only to listen",
        "imagebind_huge.pth": "dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth; only to listen",
    },
}
"""More of them, by example: the loader knows their other names."""


def official_files(system: str) -> dict[str, str]:
    """Names of the official files and folders that a system needs, and where each comes from.

    Raises:
        UserError: nothing is known of the system.
    """
    if system not in OFFICIAL_FILES:
        known = ", ".join(OFFICIAL_FILES)
        raise UserError(f"no official files are known of {system!r}; known: {known}")
    return OFFICIAL_FILES[system]


def check_official_files(system: str, folder: Path) -> None:
    """Raise a UserError that lists every official file of a system that the folder lacks."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; --help names the files it has to hold")
    lacking = [
        f"{name} ({source})"
        for name, source in official_files(system).items()
        if not any(folder.glob(name))
    ]
    if lacking:
        raise UserError(f"{folder}: lacks {'; '.join(lacking)}")


def files_text() -> str:
    """All of this as the end of a help text."""
    return "\n\n".join(
        f"For {system}, the folder that --preset paper --weights names holds\n"
        + "\n".join(f"  {name}\n      {source}" for name, source in files.items())
        for system, needed in OFFICIAL_FILES.items()
        for files in [needed | FURTHER_FILES.get(system, {})]
    )


def open_model(
    system: str, preset: str, weights: Path | None, device: str, foundations: Path | None = None
) -> "VideoLanguageModel":
    """Load the system that answers.

    Args:
        preset: "world" (shipped weights, or those of a run) or "paper" (downloaded official files).
        weights: a run, or the folder of official files.

    Raises:
        UserError: files are missing, or do not fit.
    """
    if preset == "world":
        from vlmcourse.trained import load_trained_system

        return load_trained_system(system, weights, device, foundations).model
    from vlmcourse.checkpoints import load_released

    if weights is None:
        raise UserError("--preset paper needs --weights DIR with the downloaded files; see --help")
    check_official_files(system, weights)
    return load_released(system, weights, device)
