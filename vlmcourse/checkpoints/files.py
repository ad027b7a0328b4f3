"""Reading and writing weights: never a pickle that can run code, never a key dropped in silence."""

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vlmcourse.errors import UserError

PICKLES = (".bin", ".pt", ".pth", ".tar")


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, unsafe or of another model; names the file."""


def read_tensors(path: str | Path, part: str | None = None) -> dict[str, Tensor]:
    """Read all tensors of a file or of a folder, onto the CPU and as they are stored.

    Args:
        path: a safetensors file, a `torch.save` file (read with `weights_only=True`), or a folder
            that transformers wrote: one file, or shards with an index.
        part: name of the dictionary inside a `torch.save` file that holds the weights, if any.

    Raises:
        CheckpointError: see the class.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, part)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file or folder")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix not in PICKLES:
        raise CheckpointError(f"{path}: not a checkpoint (.safetensors, {', '.join(PICKLES)})")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, it holds more than tensors and might run code; "
            "save it again as safetensors on a machine you trust"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path}: damaged or not a torch.save file ({_first(error)})"
        ) from error
    if part is not None:
        if not isinstance(content, dict) or part not in content:
            raise CheckpointError(f"{path}: has no part {part!r}")
        content = content[part]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path}: not a flat dictionary of tensors")
    return dict(content)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged or not safetensors ({_first(error)})") from error


def _read_folder(folder: Path, part: str | None) -> dict[str, Tensor]:
    for stem in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{stem}.index.json"
        if index.is_file():
            return _read_shards(index, part)
        if (folder / stem).is_file():
            return read_tensors(folder / stem, part)
    raise CheckpointError(
        f"{folder}: neither model.safetensors nor pytorch_model.bin, nor an index"
    )


def _read_shards(index: Path, part: str | None) -> dict[str, Tensor]:
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index}: not an index of shards ({_first(error)})") from error
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        tensors.update(read_tensors(index.parent / name, part))
    lost = sorted(places.keys() - tensors.keys())
    if lost:
        raise CheckpointError(f"{index}: the shards lack {_listed(lost)}")
    return tensors


def load_strict(
    module: nn.Module, tensors: Mapping[str, Tensor], source: str, assign: bool = False
) -> None:
    """Load weights that must fit a module exactly.

    Args:
        module: takes the weights; keys are those of its `state_dict()`.
        tensors: the weights.
        source: named in messages.
        assign: put the tensors themselves in place (for modules built on the meta device).

    Raises:
        CheckpointError: names all kinds of misfit: missing, left over, and of another shape.
    """
    refuse_misfit(module.state_dict(), tensors, source)
    module.load_state_dict(dict(tensors), assign=assign)


def refuse_misfit(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise a `CheckpointError` that lists what of `tensors` is missing, left over, or of another
    shape than in `own`; do nothing where all fit."""
    missing = sorted(own.keys() - tensors.keys())
    extra = sorted(tensors.keys() - own.keys())
    wrong = [
        f"{k} {tuple(tensors[k].shape)} (wanted {tuple(own[k].shape)})"
        for k in sorted(own.keys() & tensors.keys())
        if own[k].shape != tensors[k].shape
    ]
    problems = [
        f"{word} {_listed(keys)}"
        for word, keys in (("missing", missing), ("left over", extra), ("of another shape", wrong))
        if keys
    ]
    if problems:
        raise CheckpointError(f"{source}: {'; '.join(problems)}")


def refuse_unknown(keys: Sequence[str], source: str) -> None:
    """Raise a `CheckpointError` that lists keys of no known part; do nothing without any."""
    if keys:
        raise CheckpointError(f"{source}: keys of no known part, {_listed(sorted(keys))}")


def _listed(keys: Sequence[str], most: int = 12) -> str:
    rest = f" and {len(keys) - most} more" if len(keys) > most else ""
    return f"{len(keys)}: {', '.join(keys[:most])}{rest}"


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
