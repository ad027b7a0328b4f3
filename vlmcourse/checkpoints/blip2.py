"""The two released files that hold BLIP-2's eyes: EVA ViT-g, and `ln_vision` with the Q-Former.

    eva_vit_g.pth                    the encoder, flat and without a prefix
    blip2_pretrained_flant5xxl.pth   under "model": ln_vision, query_tokens, Qformer, t5_proj

Video-LLaMA, MiniGPT4-video and MA-LMM start from them.

Official: salesforce/LAVIS@506965b:lavis/models/eva_vit.py (`create_eva_vit_g`),
lavis/models/blip2_models/blip2_t5.py, lavis/runners/runner_base.py.
Differs: the official code loads both files without a check (`strict=False`); here what is left out
is named (`VIT_DROPPED`, `BLIP2_DROPPED`) and all else must fit.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vlmcourse.backbones.eva_clip import EvaClipConfig, EvaClipEncoder
from vlmcourse.checkpoints import eva_clip, qformer
from vlmcourse.checkpoints.files import load_strict, read_tensors, refuse_unknown
from vlmcourse.parts.qformer import QFormer, QFormerConfig

VIT_FILE, BLIP2_FILE = "eva_vit_g.pth", "blip2_pretrained_flant5xxl.pth"

VIT_DROPPED = ("norm", "head")
"""Behind EVA-CLIP's last block, and like that block (the first that our depth lacks) never run."""

BLIP2_DROPPED = (
    *("t5_proj", "t5_model", "opt_proj", "opt_model"),
    *("vision_proj", "text_proj", "itm_head", "temp"),
)
"""The way into a language model and what such a model shares (stage 2), and the heads of stage 1.
Besides these go `checkpoints.qformer.DROPPED` and, without a vocabulary, its `TEXT_PARTS`."""


def vit_tensors(
    tensors: Mapping[str, Tensor], config: EvaClipConfig, source: str
) -> dict[str, Tensor]:
    """What `eva_vit_g.pth` holds, under our names: all of an `EvaClipEncoder` but `ln_vision`.

    Raises:
        CheckpointError: keys of no known part; they are listed.
    """
    kept = {
        eva_clip.PREFIX + key: tensor
        for key, tensor in tensors.items()
        if _part(key) not in VIT_DROPPED and not key.startswith(f"blocks.{config.num_layers}.")
    }
    return eva_clip.from_official(kept, config, source)


def blip2_tensors(
    tensors: Mapping[str, Tensor], config: QFormerConfig, source: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a BLIP-2 file holds, under our names: `ln_vision.*`, and all of a `QFormer`.

    Raises:
        CheckpointError: keys of no known part; they are listed.
    """
    known = ("ln_vision", "query_tokens", "Qformer", *BLIP2_DROPPED)
    refuse_unknown([key for key in tensors if _part(key) not in known], source)
    norm = {key: tensor for key, tensor in tensors.items() if _part(key) == "ln_vision"}
    return norm, qformer.from_official(tensors, text=bool(config.vocab_size), source=source)


def _part(key: str) -> str:
    return key.partition(".")[0]


def load_blip2(
    folder: Path,
    encoder: EvaClipEncoder,
    query_former: QFormer,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Fill an encoder and a Q-Former (on the meta device, say) from the two files of a folder.

    Raises:
        CheckpointError: a file is missing, damaged, or does not fit; keys are listed.
    """
    vit_file, blip2_file = folder / VIT_FILE, folder / BLIP2_FILE
    vit = vit_tensors(read_tensors(vit_file), encoder.config, str(vit_file))
    released = read_tensors(blip2_file, part="model")
    norm, queries = blip2_tensors(released, query_former.config, str(blip2_file))
    both = f"{vit_file} with {BLIP2_FILE}"
    for module, tensors, source in (
        (encoder, vit | norm, both),
        (query_former, queries, str(blip2_file)),
    ):
        ready = {name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()}
        load_strict(module, ready, source, assign=True)
