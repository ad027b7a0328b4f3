"""The small world's frozen parts on disk: a picture encoder, a language model, a tokenizer."""

from pathlib import Path

from torch import nn

from vlmcourse.backbones.language_model import load_language_model
from vlmcourse.backbones.tokenizers import Tokenizer, load_tokenizer
from vlmcourse.backbones.world_vision import WorldVisionEncoder
from vlmcourse.errors import UserError

FOUNDATIONS = Path(__file__).resolve().parents[2] / "data" / "foundations"


def load_vision_encoder(folder: Path | None = None) -> WorldVisionEncoder:
    """Load `vision_encoder.safetensors` of a folder, in eval mode.

    Args:
        folder: None takes the shipped one.

    Raises:
        UserError: the file is missing or does not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = (FOUNDATIONS if folder is None else Path(folder)) / "vision_encoder.safetensors"
    if not path.is_file():
        raise UserError(f"{path}: missing; `vlmcourse foundations --rebuild` makes it")
    encoder = WorldVisionEncoder()
    try:
        encoder.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"{path}: not the world's vision encoder ({error})") from error
    return encoder.eval()


def load_foundations(folder: Path | None = None) -> tuple[WorldVisionEncoder, nn.Module, Tokenizer]:
    """Load `vision_encoder.safetensors` and `language_model/` of a folder.

    Args:
        folder: None takes the shipped ones.

    Returns:
        encoder, causal LM and tokenizer, ready to be frozen (eval mode).

    Raises:
        UserError: a file is missing or does not fit.
    """
    folder = FOUNDATIONS if folder is None else Path(folder)
    language_model = load_language_model(folder / "language_model")
    return load_vision_encoder(folder), language_model, load_tokenizer(folder / "language_model")
