"""Official Video-LLaMA weights and ours, both ways.

Official files, as a folder holds them (names as downloaded):

    vicuna-7b/ (or llama-2-7b-chat-hf/, ...)  the language model with config.json, tokenizer.model
    eva_vit_g.pth                             EVA-CLIP ViT-g
    blip2_pretrained_flant5xxl.pth            ln_vision and the image Q-Former
    imagebind_huge.pth                        ImageBind
    finetune-vicuna7b-v2.pth                  a vision branch: any file of `VISION_FILES`
    finetune_vicuna7b_audiobranch.pth         an audio branch: any file of `AUDIO_FILES`

A branch file holds what was trained, under "model", and by the way all buffers of the whole model.
The pretrained and the fine-tuned file of a branch hold the same keys. Without a file of the audio
branch (and without ImageBind's) the system does not listen.

Official: DAMO-NLP-SG/Video-LLaMA@64888c0:video_llama/models/video_llama.py (`from_config`),
video_llama/runners/runner_base.py (`_save_checkpoint`).
Differs: the official code loads branch files without a check; here every key must have a place, or
be one of the known buffers (`is_dropped`).
"""

import fnmatch
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmcourse.backbones.language_model import LlamaSizes, rebuild_buffers
from vlmcourse.backbones.tokenizers import SentencePieceTokenizer
from vlmcourse.checkpoints import eva_clip, imagebind, qformer
from vlmcourse.checkpoints.blip2 import BLIP2_FILE, VIT_FILE, load_blip2
from vlmcourse.checkpoints.files import (
    CheckpointError,
    load_strict,
    read_tensors,
    refuse_unknown,
)
from vlmcourse.checkpoints.imagebind import RELEASED as IMAGEBIND_FILE
from vlmcourse.checkpoints.imagebind import load_imagebind
from vlmcourse.systems import with_options
from vlmcourse.systems.video_llama import VideoLlama, VideoLlamaConfig, build_paper
from vlmcourse.systems.video_llama_processor import VideoLlamaProcessor

log = logging.getLogger(__name__)

VISION_FILES = (
    *("pretrain_vicuna7b-v2.pth", "finetune-vicuna7b-v2.pth"),
    *("pretrain-vicuna13b.pth", "finetune-vicuna13b-v2.pth"),
    *("pretrain-billa7b-zh.pth", "finetune-billa7b-zh.pth"),
    *("pretrain-ziya13b-zh.pth", "finetune-ziya13b-zh.pth"),
    "VL_*.pth",
)
AUDIO_FILES = ("pretrain_vicuna7b_audiobranch.pth", "finetune_vicuna7b_audiobranch.pth", "AL_*.pth")
"""Names of branch files; the last of each stands for those of the Llama-2 repositories."""

QFORMERS = (
    ("Qformer.", "query_tokens", "image_qformer."),
    ("video_Qformer.", "video_query_tokens", "video_qformer."),
    ("audio_Qformer.", "audio_query_tokens", "audio_qformer."),
)
"""What stands before a Q-Former's keys, the name of its queries, and what stands before ours."""

PREFIXES = (
    ("llama_proj.", "llama_proj."),
    ("audio_llama_proj.", "audio_llama_proj."),
    ("video_frame_position_embedding.", "frame_position."),
    ("audio_position_embedding.", "audio_position."),
    ("llama_model.", "language_model."),
)
"""Official and our beginnings of the other names."""

MINIGPT4_FILE = "pretrained_minigpt4*.pth"
"""MiniGPT-4's first stage, from which the official vision pretraining takes `llama_proj`."""

VISION_PARTS = ("frame_position.", "video_qformer.", "llama_proj.")
AUDIO_PARTS = ("audio_position.", "audio_qformer.", "audio_llama_proj.")
"""Beginnings of our names of what a file of a branch holds."""

_BUFFERS = re.compile(r"(.*\.)?(position_ids|rotary_emb\.inv_freq)")


def is_dropped(official: str) -> bool:
    """Whether a key has no place here on purpose: tables that are computed, ImageBind's other
    encoders, a Q-Former's word head."""
    if official.startswith("audio_encoder."):
        return imagebind.is_left_out(official.removeprefix("audio_encoder."))
    head = any(official.startswith(f"{prefix}cls.") for prefix, _, _ in QFORMERS)
    return head or _BUFFERS.fullmatch(official) is not None


def our_name(official: str) -> str:
    """Our state-dict name of an official key. Raises KeyError for a key of no known part."""
    if official.startswith((eva_clip.PREFIX, "ln_vision.")):
        return f"vision_encoder.{eva_clip.our_name(official)}"
    if official.startswith("audio_encoder."):
        return f"imagebind.{imagebind.our_name(official.removeprefix('audio_encoder.'))}"
    for prefix, queries, ours in QFORMERS:
        if official == queries:
            return f"{ours}queries"
        if official.startswith(prefix):
            return ours + qformer.our_name(official.removeprefix(prefix))
    for theirs, ours in PREFIXES:
        if official.startswith(theirs):
            return ours + official[len(theirs) :]
    raise KeyError(official)


def official_name(ours: str) -> str:
    """The official key of a name of ours. Raises KeyError for an unknown name."""
    part, _, rest = ours.partition(".")
    if part == "vision_encoder":
        return eva_clip.official_name(rest)
    if part == "imagebind":
        return f"audio_encoder.{imagebind.official_name(rest)}"
    for prefix, queries, our in QFORMERS:
        if ours.startswith(our):
            return queries if rest == "queries" else prefix + qformer.official_name(rest)
    for theirs, our in PREFIXES:
        if ours.startswith(our):
            return theirs + ours[len(our) :]
    raise KeyError(ours)


def from_official(tensors: Mapping[str, Tensor], source: str = "official") -> dict[str, Tensor]:
    """Official tensors under our names, less what `is_dropped`.

    Raises:
        CheckpointError: names every key of no known part.
    """
    result, unknown = {}, []
    for key, tensor in tensors.items():
        if is_dropped(key):
            continue
        try:
            result[our_name(key)] = tensor
        except KeyError:
            unknown.append(key)
    refuse_unknown(unknown, source)
    return result


def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their official names."""
    return {official_name(name): tensor for name, tensor in tensors.items()}


def released_part(model: VideoLlama, branch: str) -> dict[str, dict[str, Tensor]]:
    """What the file of a branch ("vision" or "audio") holds, from a model of ours.

    `torch.save` it to a `.pth` file and the official code loads it.
    """
    parts = {"vision": VISION_PARTS, "audio": AUDIO_PARTS}[branch]
    kept = {name: t for name, t in model.state_dict().items() if name.startswith(parts)}
    return {"model": {key: t.detach().cpu() for key, t in to_official(kept).items()}}


def load_branch(model: VideoLlama, path: Path) -> None:
    """Fill the branch of a model (or both) that a file holds.

    Raises:
        CheckpointError: damaged, keys of no known part, neither branch whole, or another size.
    """
    ours = from_official(read_tensors(path, part="model"), str(path))
    branches = [
        parts
        for parts in (VISION_PARTS, AUDIO_PARTS)
        if any(name.startswith(parts) for name in ours)
    ]
    parts = tuple(part for branch in branches or [VISION_PARTS] for part in branch)
    scale = "imagebind.audio.log_logit_scale"  # a buffer, so every audio file has it
    stray = [name for name in ours if not name.startswith(parts) and name != scale]
    refuse_unknown(stray, f"{path}, the file of a branch")
    for part in parts:
        own = {n.removeprefix(part): t for n, t in ours.items() if n.startswith(part)}
        load_strict(getattr(model, part.rstrip(".")), own, f"{path} ({part}*)")


def load_minigpt4_projection(model: VideoLlama, path: Path) -> None:
    """Start `llama_proj` from MiniGPT-4's first stage, as the official vision pretraining does.

    Raises:
        CheckpointError: the file holds no such layer, or one for another language model.
    """
    tensors = read_tensors(path, part="model")
    own = {k.removeprefix("llama_proj."): t for k, t in tensors.items() if k.startswith("llama_p")}
    load_strict(model.llama_proj, own, str(path))


# ---------------------------------------------------------------- the folder


def load_released(
    folder: Path,
    device: str = "cpu",
    dtype: torch.dtype = torch.float16,
    model: VideoLlama | None = None,
    trained: bool = True,
    **options: Any,
) -> VideoLlama:
    """Build the paper's model with its official weights.

    Args:
        folder: see the head of this file.
        device, dtype: of the result.
        model: a model on the meta device to fill; None builds the paper's around the folder's
            language model.
        trained: False leaves both branches as their training begins, and needs no files of them:
            random, but `llama_proj` from a `pretrained_minigpt4*.pth` where there is one.
        options: settings that differ from the paper's (`VideoLlamaConfig`); `layout` is otherwise
            that of the language model's name, and `listens` what the folder has files for.

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit; keys are listed.
    """
    found = find_files(folder, trained)
    hears = (folder / IMAGEBIND_FILE).is_file() if not trained else found["audio"] is not None
    options = {"layout": layout_of(found["language"]), **options}
    options["listens"] = listens = hears and options.get("listens", True)
    if model is None:
        config = with_options(VideoLlamaConfig(), options)
        model = build_paper("meta", config, read_sizes(found["language"]))
    load_blip2(folder, model.vision_encoder, model.image_qformer, device, dtype)
    language = {
        key: tensor.to(device=device, dtype=dtype)
        for key, tensor in read_tensors(found["language"]).items()
        if _BUFFERS.fullmatch(key) is None
    }
    load_strict(model.language_model, language, str(found["language"]), assign=True)
    rebuild_buffers(model, device)
    model.begin_branches()
    if listens:
        load_imagebind(folder, device, dtype, model.imagebind)
    else:
        log.warning("%s: without an audio branch, so the system does not listen", folder)
        model.imagebind = None
    for kind in ("vision", "audio") if listens else ("vision",):
        if trained:
            load_branch(model, found[kind])
    if not trained and (first := _matching(folder, (MINIGPT4_FILE,))):
        load_minigpt4_projection(model, first[0])
    for part in (*VISION_PARTS, *AUDIO_PARTS):
        getattr(model, part.rstrip(".")).to(device=device, dtype=dtype)
    tokenizer = SentencePieceTokenizer(found["language"] / "tokenizer.model")
    model.processor = VideoLlamaProcessor(tokenizer, model.config)
    return model.eval()


def layout_of(language_model: Path) -> str:
    """The form of conversations that goes with a language model, by the name of its folder."""
    return "llama2" if re.search(r"llama-?2", language_model.name.lower()) else "vicuna"


def find_files(folder: Path, trained: bool = True) -> dict[str, Path | None]:
    """The files of a folder by what they are: "language", "vision" and "audio" (None without).

    Args:
        trained: whether a file of the vision branch must be there.

    Raises:
        CheckpointError: names what is missing, or what is there twice.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    found = {
        "language": sorted(p.parent for p in folder.glob("*/tokenizer.model")),
        "vision": _matching(folder, VISION_FILES),
        "audio": _matching(folder, AUDIO_FILES),
    }
    wanted = [VIT_FILE, BLIP2_FILE, *([IMAGEBIND_FILE] if found["audio"] else [])]
    lacking = [name for name in wanted if not (folder / name).is_file()]
    if not found["language"]:
        lacking.append("a language model's folder (vicuna-7b/ with tokenizer.model)")
    if trained and not found["vision"]:
        lacking.append(f"a vision branch ({', '.join(VISION_FILES)})")
    if lacking:
        raise CheckpointError(f"{folder}: lacks {'; '.join(lacking)}")
    for kind, paths in found.items():
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise CheckpointError(f"{folder}: several for the {kind} part ({names}); keep one")
    return {kind: paths[0] if paths else None for kind, paths in found.items()}


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    names = sorted(path for path in folder.iterdir() if path.is_file())
    return [p for p in names if any(fnmatch.fnmatchcase(p.name, pattern) for pattern in patterns)]


def read_sizes(folder: Path) -> LlamaSizes:
    """Sizes of a LLaMA from its `config.json`. Raises CheckpointError."""
    path = folder / "config.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        names = {
            "num_layers": "num_hidden_layers",
            "num_heads": "num_attention_heads",
            "max_positions": "max_position_embeddings",
            "tie_embeddings": "tie_word_embeddings",
        }
        known = {f.name: names.get(f.name, f.name) for f in fields(LlamaSizes)}
        return LlamaSizes(**{ours: told[key] for ours, key in known.items() if key in told})
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not the config of a LLaMA ({error})") from error
