"""Trained systems of the small world, as they lie on disk: shipped, or in the folder of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmcourse import systems
from vlmcourse.errors import UserError
from vlmcourse.systems.base import VideoLanguageModel
from vlmcourse.training.weights import STAGE, WEIGHTS, load_weights, read_stage

SHIPPED = Path(__file__).resolve().parents[1] / "data" / "systems"


@dataclass(frozen=True)
class TrainedSystem:
    """A system with its trained tensors in place.

    Attributes:
        model: in eval mode.
        folder: where the weights lay.
        stage: name of the stage that ended the training.
        seed: of that training, None if the file does not tell.
        settings_hash: of everything that decided the weights.
        options: settings of the system that differ from its preset's (`systems.build`).
    """

    model: VideoLanguageModel
    folder: Path
    stage: str
    seed: int | None
    settings_hash: str
    options: dict[str, Any]


def weights_folder(system: str, path: str | Path | None = None) -> Path:
    """Find the folder with `weights.safetensors` and `stage.json`.

    Args:
        system: names the shipped weights.
        path: None takes the shipped weights; else the file, its folder, or the folder of a run, of
            which the last finished stage is taken.

    Raises:
        UserError: there are none, or several that do not follow each other.
    """
    remedy = f"`vlmcourse train --system {system}` makes some"
    folder = SHIPPED / system if path is None else Path(path)
    if not folder.exists():
        what = f"no shipped weights of {system}" if path is None else "no such file or folder"
        raise UserError(f"{folder}: {what}; {remedy}")
    if folder.name == WEIGHTS:
        folder = folder.parent
    if _finished(folder):
        return folder
    stages = {x: read_stage(x) for x in sorted(folder.glob("*/")) if _finished(x)}
    followed = {about.settings.get("init_from") for about in stages.values()}
    last = [x for x, about in stages.items() if about.settings_hash not in followed]
    if not last:
        raise UserError(f"{folder}: no finished stage ({WEIGHTS} with {STAGE}) here; {remedy}")
    if len(last) > 1:
        names = ", ".join(x.name for x in last)
        raise UserError(f"{folder}: several stages end here ({names}); name one of their folders")
    return last[0]


def _finished(folder: Path) -> bool:
    return (folder / WEIGHTS).is_file() and (folder / STAGE).is_file()


def load_trained_system(
    system: str,
    path: str | Path | None = None,
    device: str = "cpu",
    foundations: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> TrainedSystem:
    """Build a system at the world's size, with the options it was trained with, and put its trained
    tensors into it.

    Args:
        system: a key of `systems.CONSTRUCTORS`.
        path: see `weights_folder`.
        device: where the model goes.
        foundations: folder of the frozen parts instead of the shipped ones.
        options: settings of the system that are to differ from those of its training.

    Raises:
        UserError: missing or misfitting files.
    """
    if system not in systems.CONSTRUCTORS:
        known = ", ".join(systems.CONSTRUCTORS)
        raise UserError(f"unknown system {system!r}. Known: {known}")
    folder = weights_folder(system, path)
    about = read_stage(folder)
    told = about.settings.get("model", {})
    options = {**(told.get("options") or {}), **(options or {})}
    model = systems.build(system, "world", device, foundations, **options)
    model.tell_trained(load_weights(model, folder).tensors)
    return TrainedSystem(
        model.eval(), folder, about.name, told.get("seed"), about.settings_hash, options
    )


def quiet_libraries() -> None:
    """Let transformers show no progress bars and no hints, only errors."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
