"""Trained runs of one system, one a seed, ready to be asked together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmcourse.errors import UserError

if TYPE_CHECKING:
    from vlmcourse.systems.base import VideoLanguageModel
    from vlmcourse.trained import TrainedSystem

FEWEST_RUNS, FEWEST_CLIPS = 3, 300
"""Below these a number is for a look, not for a claim."""


def load_runs(
    system: str,
    paths: Sequence[Path | None],
    device: str,
    foundations: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> list["TrainedSystem"]:
    """Load the runs of a system; None stands for the shipped weights.

    `options` are settings of the system that are to differ from those of its training.

    Raises:
        UserError: a run cannot be loaded, stands there twice, or was built with other options.
    """
    from vlmcourse.trained import load_trained_system
    from vlmcourse.training.data import located

    runs = [
        load_trained_system(system, path and located(path), device, foundations, options)
        for path in paths
    ]
    if len({run.settings_hash for run in runs}) < len(runs):
        raise UserError("the same run stands twice: it would count as two witnesses")
    for run in runs:
        if run.options != runs[0].options:
            raise UserError(
                f"{run.folder}: built with {run.options or 'no options'}, {runs[0].folder} with "
                f"{runs[0].options or 'none'}; runs that are asked together differ in their seed"
            )
    return runs


def system_of(path: Path) -> str:
    """The system that a run was trained from.

    Raises:
        UserError: no finished stage, or one that does not tell.
    """
    from vlmcourse.trained import weights_folder
    from vlmcourse.training.data import located
    from vlmcourse.training.weights import read_stage

    about = read_stage(weights_folder("SYSTEM", located(path)))
    system = about.settings.get("model", {}).get("system")
    if system is None:
        raise UserError(f"{path}: does not tell its system; name it with --a-system or --b-system")
    return system


def frozen_parts(model: "VideoLanguageModel") -> str:
    """A fingerprint of encoders and language model, which all runs and controls share."""
    from vlmcourse.training.weights import fingerprint

    parts = {**model.frozen_encoders(), "language_model": model.language_model}
    tensors = {f"{n}.{k}": v for n, part in parts.items() for k, v in part.state_dict().items()}
    return fingerprint(tensors)


def differing_parts(a: "VideoLanguageModel", b: "VideoLanguageModel") -> list[str]:
    """Frozen parts that both have and that are not the same; rows that a system added to the
    vocabulary do not count."""
    names = ("vision_encoder", "language_model")
    pairs = {name: (getattr(a, name), getattr(b, name)) for name in names}
    return [
        name.replace("_", " ")
        for name, pair in pairs.items()
        if None not in pair and not _same(*(part.state_dict() for part in pair))
    ]


def _same(a: dict, b: dict) -> bool:
    import torch

    def shared(name: str) -> bool:
        rows = min(len(a[name]), len(b[name])) if a[name].ndim else None
        return torch.equal(a[name][:rows].cpu(), b[name][:rows].cpu()) if rows else True

    return a.keys() == b.keys() and all(shared(name) for name in a)


def only_a_look(runs: int, clips: int) -> str:
    """A sentence for a record's note where too little was asked for a claim, else nothing."""
    if runs >= FEWEST_RUNS and clips >= FEWEST_CLIPS:
        return ""
    return f" A look only (runs: {runs}, clips: {clips})."
