"""The trained tensors of a stage on disk, handed over by name and checked, never by position or
guess."""

import fnmatch
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vlmcourse.errors import UserError
from vlmcourse.world.files import whole_file, write_bytes

WEIGHTS, STAGE = "weights.safetensors", "stage.json"
SHOWN = 6
SAMPLED = 512
"""Values of every tensor that a fingerprint looks at."""


class WeightsError(UserError):
    """Trained weights that do not fit the model they are loaded into."""


@dataclass(frozen=True)
class StageFile:
    """What `stage.json` tells beside the weights.

    Attributes:
        name: of the stage.
        trains: patterns of this stage and of all stages before it.
        tensors: `{name: shape}` of what `weights.safetensors` holds.
        settings_hash: of everything that decided these weights.
        record: id of the record of the run.
        settings: the settings themselves.
        metrics: as in the record.
    """

    name: str
    trains: tuple[str, ...]
    tensors: dict[str, list[int]]
    settings_hash: str
    record: str
    settings: dict
    metrics: dict


def names_matching(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Names of the parameters that match any pattern, in the model's order."""
    names = [name for name, _ in model.named_parameters()]
    chosen = matching(names, patterns)
    return [name for name in names if name in chosen]


def matching(names: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """Those of the names that match any pattern."""
    names = list(names)
    return {name for pattern in patterns for name in fnmatch.filter(names, pattern)}


def save_stage(folder: str | Path, tensors: Mapping[str, Tensor], about: StageFile) -> Path:
    """Write weights, then `stage.json`: a folder that has the latter is whole.

    Returns:
        the path of the weights.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STAGE).unlink(missing_ok=True)
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with whole_file(folder / WEIGHTS) as part:
        save_file(plain, part)
    text = json.dumps(vars(about), indent=1, ensure_ascii=False)
    write_bytes(folder / STAGE, (text + "\n").encode())
    return folder / WEIGHTS


def read_stage(path: str | Path) -> StageFile | None:
    """Read `stage.json`; None if the stage was never finished.

    Args:
        path: a stage's folder, or the weights in it.

    Raises:
        WeightsError: the file is damaged.
    """
    path = (Path(path).parent if Path(path).name == WEIGHTS else Path(path)) / STAGE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return StageFile(**{**fields, "trains": tuple(fields["trains"])})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: damaged ({error!r}); train the stage again") from error


def load_weights(model: nn.Module, path: str | Path, without: Sequence[str] = ()) -> StageFile:
    """Put the tensors of a finished stage into a model of the same system, or of another that
    calls its parts by the same names.

    Args:
        model: its parameters keep their device and type.
        path: a stage's folder or its `weights.safetensors`.
        without: patterns of names that are left alone, in the file and in the model.

    Returns:
        what `stage.json` tells.

    Raises:
        WeightsError: no such stage; names that the model lacks; names that the stage's patterns
            match in the model but that the file lacks; another shape; or a pattern of `without`
            that matches neither. Nothing is loaded then.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(path).parent if Path(path).name == WEIGHTS else Path(path)
    about = read_stage(path)
    if about is None:
        raise WeightsError(f"{folder}: no finished stage here ({STAGE} is missing)")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{folder / WEIGHTS}: cannot be read ({error})") from error
    parameters = dict(model.named_parameters())
    for pattern in without:
        if not fnmatch.filter({**tensors, **parameters}, pattern):
            raise WeightsError(f"{folder / WEIGHTS}: no name here or in the model is {pattern!r}")
    left_out = matching([*tensors, *parameters], without)
    tensors = {name: value for name, value in tensors.items() if name not in left_out}
    wanted = [name for name in names_matching(model, about.trains) if name not in left_out]
    complaints = [
        _told("the model lacks", [name for name in tensors if name not in parameters]),
        _told("the file lacks", [name for name in wanted if name not in tensors]),
        _told(
            "another shape",
            [
                f"{name} {tuple(tensors[name].shape)} for {tuple(parameters[name].shape)}"
                for name in tensors
                if name in parameters and tensors[name].shape != parameters[name].shape
            ],
        ),
    ]
    if any(complaints):
        told = "; ".join(filter(None, complaints))
        raise WeightsError(
            f"{folder / WEIGHTS}: {told} (model.stage.init_without leaves names out)"
        )
    with torch.no_grad():
        for name, value in tensors.items():
            parameters[name].copy_(value)
    return about


def _told(what: str, names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what}: {', '.join(names[:SHOWN])}{more}" if names else ""


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, shapes and `SAMPLED` values of every tensor; quick for models of any size.

    A step of training changes nearly all values, so a sample tells two trained models apart.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().reshape(-1)
        stride = max(len(value) // SAMPLED, 1)
        sample = value[::stride].to("cpu", torch.float64)
        digest.update(f"{name} {tuple(tensors[name].shape)} ".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]
