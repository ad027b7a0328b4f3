"""Official MiniGPT4-video weights and ours, both ways.

Official files, as a folder holds them (names as downloaded):

    Llama-2-7b-chat-hf/ or Mistral-7B-Instruct-v0.2/   with config.json and tokenizer.model
    eva_vit_g.pth                                      EVA-CLIP ViT-g
    video_llama_checkpoint_last.pth                    any file of `CHECKPOINTS`

The last holds what was trained, LoRA and `llama_proj`, under "model". Nothing holds `ln_vision`: it
stays as it is made, weight 1 and bias 0, as in the released system.

Official: Vision-CAIR/MiniGPT4-video@ecabd7a:minigpt4/models/mini_gpt4_llama_v2.py (`from_config`),
minigpt4/runners/runner_base.py (`_save_checkpoint`).
Differs: the official code loads without a check, so with a newer peft, which calls LoRA's tensors
`lora_A.default.weight`, nothing of LoRA is loaded and nobody is told. Both names are read here, and
every tensor that is missing or has no place is an error that lists it; what may be left over
(`HARMLESS`) is named in the log.
"""

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmcourse.backbones.eva_clip import EvaClipEncoder
from vlmcourse.backbones.language_model import rebuild_buffers
from vlmcourse.backbones.tokenizers import SentencePieceTokenizer
from vlmcourse.checkpoints import eva_clip
from vlmcourse.checkpoints.blip2 import VIT_FILE, vit_tensors
from vlmcourse.checkpoints.files import (
    CheckpointError,
    load_strict,
    read_tensors,
    refuse_misfit,
    refuse_unknown,
)
from vlmcourse.checkpoints.video_llama import read_sizes
from vlmcourse.parts.lora import ADAPTER, QUERY_AND_VALUE, begin_lora
from vlmcourse.systems import with_options
from vlmcourse.systems.minigpt4_video import MiniGPT4Video, build_paper, paper_config
from vlmcourse.systems.minigpt4_video_processor import MiniGPT4VideoProcessor

log = logging.getLogger(__name__)

CHECKPOINTS = (
    "video_*_checkpoint_best.pth",
    "video_*_checkpoint_last.pth",
    "image_*_checkpoint.pth",
)
"""Names of released files: of the last stage and of captions of videos, and of pictures."""

LANGUAGE = "llama_model.base_model.model."
"""What stands before the names of the language model, Mistral too, once peft has wrapped it."""

HARMLESS = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|SCB|weight_format|position_ids)")
"""Buffers that older libraries save: tables that are computed, and notes of 8-bit loading."""

PAD_TOKEN = "$$"
LAYOUTS = {"llama": "llama2", "mistral": "mistral"}
"""The layout that goes with a `model_type`."""


def our_name(official: str) -> str:
    """Our state-dict name of an official key. Raises KeyError for a key of no known part."""
    if official.startswith((eva_clip.PREFIX, "ln_vision.")):
        return f"vision_encoder.{eva_clip.our_name(official)}"
    if official.startswith("llama_proj."):
        return official
    if not official.startswith(LANGUAGE):
        raise KeyError(official)
    name = official.removeprefix(LANGUAGE).replace("lm_head.0.", "lm_head.")
    side = re.fullmatch(r"(.+\.lora_[AB])(?:\.default)?\.weight", name)
    if side:
        return f"language_model.{side[1]}.{ADAPTER}.weight"
    targets = "|".join(QUERY_AND_VALUE)
    return "language_model." + re.sub(rf"\.({targets})\.(weight|bias)$", r".\1.base_layer.\2", name)


def official_name(ours: str) -> str:
    """The official key of a name of ours, LoRA's as old peft has them. Raises KeyError."""
    part, _, rest = ours.partition(".")
    if part == "vision_encoder":
        return eva_clip.official_name(rest)
    if part == "llama_proj":
        return ours
    if part != "language_model":
        raise KeyError(ours)
    rest = rest.replace(".base_layer.", ".").replace(f".{ADAPTER}.", ".")
    return LANGUAGE + re.sub(r"^lm_head\.", "lm_head.0.", rest)


def from_official(tensors: Mapping[str, Tensor], source: str = "official") -> dict[str, Tensor]:
    """Official tensors under our names, less those of `HARMLESS`, which the log names.

    Raises:
        CheckpointError: names every key of no known part, and every two of the same meaning.
    """
    ours: dict[str, Tensor] = {}
    unknown, twice = [], []
    harmless = sorted(key for key in tensors if HARMLESS.fullmatch(key))
    for key in tensors.keys() - set(harmless):
        try:
            name = our_name(key)
        except KeyError:
            unknown.append(key)
            continue
        if name in ours:
            twice.append(name)
        ours[name] = tensors[key]
    refuse_unknown(unknown, source)
    if twice:
        raise CheckpointError(f"{source}: two tensors each for {', '.join(sorted(twice))}")
    if harmless:
        log.info("%s: buffers left out: %s", source, ", ".join(harmless))
    return ours


def to_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under their official names."""
    return {official_name(name): tensor for name, tensor in tensors.items()}


def trained_names(model: nn.Module) -> list[str]:
    """Names of what the released files hold: LoRA and the linear layer."""
    names = model.state_dict()
    return [name for name in names if name.startswith("llama_proj.") or ".lora_" in name]


def released_part(model: MiniGPT4Video) -> dict[str, dict[str, Tensor]]:
    """What a released file holds, from a model of ours: `torch.save` it and the official code (with
    its peft 0.2.0) loads it."""
    state = model.state_dict()
    kept = {name: state[name].detach().cpu() for name in trained_names(model)}
    return {"model": to_official(kept)}


def read_checkpoint(model: MiniGPT4Video, path: Path) -> dict[str, Tensor]:
    """What was trained, from a released file, checked against a model of any device.

    Raises:
        CheckpointError: damaged; or tensors that are missing, left over or of another size: all are
            listed.
    """
    ours = from_official(read_tensors(path, part="model"), str(path))
    state = model.state_dict()
    refuse_misfit({name: state[name] for name in trained_names(model)}, ours, str(path))
    return ours


# ---------------------------------------------------------------- the folder


def load_released(
    folder: Path,
    device: str = "cpu",
    dtype: torch.dtype = torch.float16,
    model: MiniGPT4Video | None = None,
    trained: bool = True,
    checkpoint: str | None = None,
    **options: Any,
) -> MiniGPT4Video:
    """Build the paper's model with its official weights.

    Args:
        folder: see the head of this file.
        device, dtype: of the result.
        model: a model on the meta device to fill; None builds the paper's around the folder's
            language model.
        trained: False begins LoRA and the linear layer anew, and needs no file of them.
        checkpoint: name of the file, where the folder has several.
        options: settings that differ from the paper's (`MiniGPT4VideoConfig`).

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit; keys are listed.
    """
    language, file = find_files(folder, trained, checkpoint)
    layout = layout_of(language)
    if options.setdefault("layout", layout) != layout:
        raise CheckpointError(f"{language}: layout={options['layout']}, but this is {layout}")
    if model is None:
        config = with_options(paper_config(layout), options)
        model = build_paper("meta", config, read_sizes(language))
    if file is None:
        begin_lora(model.language_model, device, dtype)
        model.llama_proj.to_empty(device=device).to(dtype).reset_parameters()
        state = model.state_dict()
        learned = {name: state[name] for name in trained_names(model)}
    else:
        learned = read_checkpoint(model, file)
    base = read_language_model(model, language)
    seen = read_eyes(model.vision_encoder, folder / VIT_FILE)
    ours = {n: t.to(device=device, dtype=dtype) for n, t in (base | seen | learned).items()}
    load_strict(model, ours, str(folder), assign=True)
    rebuild_buffers(model, device)
    tokenizer = padded_tokenizer(language / "tokenizer.model")
    model.processor = MiniGPT4VideoProcessor(
        tokenizer, model.config, model.vision_encoder.num_patches
    )
    return model.eval()


def read_language_model(model: MiniGPT4Video, folder: Path) -> dict[str, Tensor]:
    """The language model's own weights from a folder of transformers', checked against a model.

    Raises:
        CheckpointError: see `refuse_misfit`.
    """
    tensors = {LANGUAGE + key: tensor for key, tensor in read_tensors(folder).items()}
    base, trains = from_official(tensors, str(folder)), set(trained_names(model))
    own = {n: t for n, t in model.state_dict().items() if n.startswith("language_model.")}
    refuse_misfit({n: t for n, t in own.items() if n not in trains}, base, str(folder))
    return base


def read_eyes(encoder: EvaClipEncoder, path: Path) -> dict[str, Tensor]:
    """The picture encoder from EVA's file; `ln_vision`, which nobody loads, is weight 1 and bias 0.

    Raises:
        CheckpointError: see `refuse_misfit`.
    """
    tensors = vit_tensors(read_tensors(path), encoder.config, str(path))
    width = encoder.hidden_size
    tensors |= {"ln_vision.weight": torch.ones(width), "ln_vision.bias": torch.zeros(width)}
    refuse_misfit(encoder.state_dict(), tensors, str(path))
    return {f"vision_encoder.{name}": tensor for name, tensor in tensors.items()}


def padded_tokenizer(path: Path) -> SentencePieceTokenizer:
    """The tokenizer of a language model, padding with `$$` as the official code, which takes the
    unknown token where there is no such piece."""
    try:
        return SentencePieceTokenizer(path, pad_token=PAD_TOKEN)
    except KeyError:
        return SentencePieceTokenizer(path)


def layout_of(language_model: Path) -> str:
    """The layout that goes with a language model's folder. Raises CheckpointError."""
    path = language_model / "config.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not the config of a language model ({error})") from error
    kind = told.get("model_type")
    if kind not in LAYOUTS:
        raise CheckpointError(f"{path}: model_type {kind!r} is none of {', '.join(LAYOUTS)}")
    if kind == "mistral" and told.get("sliding_window") is not None:
        raise CheckpointError(f"{path}: a Mistral with a sliding window (0.1); 0.2 has none")
    return LAYOUTS[kind]


def find_files(
    folder: Path, trained: bool = True, checkpoint: str | None = None
) -> tuple[Path, Path | None]:
    """The language model of a folder, and the file of what was trained (None if not wanted).

    Raises:
        CheckpointError: names what is missing, or what is there twice.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    languages = sorted(path.parent for path in folder.glob("*/tokenizer.model"))
    patterns = CHECKPOINTS if checkpoint is None else (checkpoint,)
    files = sorted(path for pattern in patterns for path in folder.glob(pattern))
    lacking = [] if (folder / VIT_FILE).is_file() else [VIT_FILE]
    if not languages:
        lacking.append("a language model's folder (Llama-2-7b-chat-hf/ with tokenizer.model)")
    if trained and not files:
        lacking.append(f"a checkpoint ({', '.join(patterns)})")
    if lacking:
        raise CheckpointError(f"{folder}: lacks {'; '.join(lacking)}")
    for what, paths in (("language models", languages), ("checkpoints", files if trained else [])):
        if len(paths) > 1:
            names = ", ".join(path.name for path in paths)
            raise CheckpointError(f"{folder}: several {what} ({names}); keep one, or name it")
    return languages[0], files[0] if trained else None
