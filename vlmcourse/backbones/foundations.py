"""The small world's frozen parts on disk: a picture encoder, a language model, a tokenizer."""

from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from vlmcourse.backbones.imagebind import ImageBind
from vlmcourse.backbones.language_model import load_language_model
from vlmcourse.backbones.qwen2_vit import Qwen2Vit, Qwen2VitConfig
from vlmcourse.backbones.tokenizers import Tokenizer, load_tokenizer
from vlmcourse.backbones.world_imagebind import build_world_imagebind
from vlmcourse.backbones.world_qformer import ImageTextQFormer
from vlmcourse.backbones.world_vision import WorldVisionConfig, WorldVisionEncoder
from vlmcourse.errors import UserError
from vlmcourse.parts.qformer import QFormer

FOUNDATIONS = Path(__file__).resolve().parents[2] / "data" / "foundations"
FROZEN_IN_IMAGEBIND = "vision.encoder."
"""The part of ImageBind that `imagebind.safetensors` leaves to `vision_encoder.safetensors`."""

QWEN2_VIT = Qwen2VitConfig(depth=4, width=96, heads=4, patch_size=8, rope_theta=100.0)
"""Sizes of the small Qwen2 vision tower; its grids are small, hence the base of its angles."""


def load_vision_encoder(folder: Path | None = None, image_size: int = 64) -> WorldVisionEncoder:
    """Load `vision_encoder.safetensors` of a folder, in eval mode.

    Args:
        folder: None takes the shipped one.
        image_size: side in pixels that it takes pictures at; it learnt at 64.

    Raises:
        UserError: the file is missing or does not fit.
    """
    encoder = WorldVisionEncoder(WorldVisionConfig(image_size=image_size))
    return _filled(encoder, folder, "vision_encoder", "vision encoder")


def load_qwen2_vit(folder: Path | None = None) -> Qwen2Vit:
    """Load `qwen2_vit.safetensors` of a folder, in eval mode.

    Its patches are 8 x 8 pixels of two frames. Pixels are normalised as Qwen2-VL's are
    (media/transforms.py: `normalise_frames`).

    Args:
        folder: None takes the shipped one.

    Raises:
        UserError: the file is missing or does not fit.
    """
    return _filled(Qwen2Vit(QWEN2_VIT), folder, "qwen2_vit", "Qwen2 vision tower")


def load_image_text_qformer(folder: Path | None = None) -> ImageTextQFormer:
    """Load the image Q-Former of `image_qformer.safetensors` with its text side and its heads.

    Args:
        folder: None takes the shipped one.

    Raises:
        UserError: the file is missing or does not fit.
    """
    return _filled(ImageTextQFormer(), folder, "image_qformer", "image Q-Former")


def load_image_qformer(folder: Path | None = None) -> QFormer:
    """Load the image Q-Former as a video system keeps it, without text side and heads, in eval
    mode.

    It reads the world's vision encoder: `[B, 64, 96]` patch features -> `tokens [B, 16, 96]`.

    Raises:
        UserError: the file is missing or does not fit.
    """
    whole = load_image_text_qformer(folder).qformer
    qformer = QFormer(replace(whole.config, vocab_size=None))
    weights = whole.state_dict()
    qformer.load_state_dict({name: weights[name] for name in qformer.state_dict()})
    return qformer.eval()


def load_imagebind(folder: Path | None = None) -> ImageBind:
    """Load `imagebind.safetensors` and the picture encoder of a folder, in eval mode.

    Args:
        folder: None takes the shipped ones.

    Raises:
        UserError: a file is missing or does not fit.
    """
    imagebind = build_world_imagebind(load_vision_encoder(folder))
    frozen = {k: v for k, v in imagebind.state_dict().items() if k.startswith(FROZEN_IN_IMAGEBIND)}
    return _filled(imagebind, folder, "imagebind", "ImageBind", frozen)


def load_foundations(
    folder: Path | None = None, image_size: int = 64
) -> tuple[WorldVisionEncoder, nn.Module, Tokenizer]:
    """Load `vision_encoder.safetensors` and `language_model/` of a folder.

    Args:
        folder: None takes the shipped ones.
        image_size: as in `load_vision_encoder`.

    Returns:
        encoder, causal LM and tokenizer, ready to be frozen (eval mode).

    Raises:
        UserError: a file is missing or does not fit.
    """
    folder = FOUNDATIONS if folder is None else Path(folder)
    language_model = load_language_model(folder / "language_model")
    encoder = load_vision_encoder(folder, image_size)
    return encoder, language_model, load_tokenizer(folder / "language_model")


def _filled(
    model, folder: Path | None, name: str, what: str, more: dict[str, Tensor] | None = None
):
    """Load `name.safetensors` into a model, with `more` weights that the file leaves out."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = (FOUNDATIONS if folder is None else Path(folder)) / f"{name}.safetensors"
    if not path.is_file():
        raise UserError(f"{path}: missing; `vlmcourse foundations --rebuild` makes it")
    try:
        model.load_state_dict(load_file(path) | (more or {}))
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"{path}: not the world's {what} ({error})") from error
    return model.eval()
