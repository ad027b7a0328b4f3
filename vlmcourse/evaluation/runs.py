"""Trained runs of one system, one a seed, ready to be asked together."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmcourse.errors import UserError

if TYPE_CHECKING:
    from vlmcourse.systems.base import VideoLanguageModel
    from vlmcourse.trained import TrainedSystem

LANGUAGE_MODEL = "language_model"
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


def trained_names(run: "TrainedSystem") -> list[str]:
    """Names of the parameters that were trained, in the run's last stage or one before it."""
    from vlmcourse.training.weights import read_stage

    return list(read_stage(run.folder).tensors)


def trained_parts(run: "TrainedSystem") -> set[str]:
    """Names of the encoders, and "language_model", that hold trained parameters."""
    parts = {"vision_encoder", LANGUAGE_MODEL, *run.model.frozen_encoders()}
    return parts & {name.split(".")[0] for name in trained_names(run)}


def encoders_trained(run: "TrainedSystem") -> bool:
    """Whether a run has encoders of its own, whose features no cache may hold; or none at all."""
    encoders = {n for n, part in run.model.frozen_encoders().items() if part is not None}
    return not encoders or bool(trained_parts(run) - {LANGUAGE_MODEL})


def frozen_language_model(
    model: "VideoLanguageModel", foundations: Path | None = None
) -> "VideoLanguageModel":
    """The language model of the foundations, as nothing trained it, behind a system's own template.

    It has no encoder and no connector: it can be asked with text only.

    Args:
        model: whose processor lays the text out, and whose device is taken.
        foundations: folder of the frozen parts instead of the shipped ones.

    Raises:
        UserError: there is no language model in the folder.
    """
    from vlmcourse.backbones.foundations import FOUNDATIONS
    from vlmcourse.backbones.language_model import load_language_model
    from vlmcourse.systems.base import VideoLanguageModel

    folder = FOUNDATIONS if foundations is None else Path(foundations)
    language_model = load_language_model(folder / LANGUAGE_MODEL)
    return VideoLanguageModel(language_model, None, model.processor).to(model.device).eval()


def frozen_parts(run: "TrainedSystem") -> str:
    """A fingerprint of the encoders and the language model that no training touched: what all runs
    and controls share."""
    from vlmcourse.training.weights import fingerprint

    model, trained = run.model, trained_parts(run)
    parts = {**model.frozen_encoders(), LANGUAGE_MODEL: model.language_model}
    kept = {n: part for n, part in parts.items() if part is not None and n not in trained}
    tensors = {f"{n}.{k}": v for n, part in kept.items() for k, v in part.state_dict().items()}
    return fingerprint(tensors)


def differing_parts(
    a: "VideoLanguageModel", b: "VideoLanguageModel", trained: Collection[str] = ()
) -> list[str]:
    """Frozen parts that both have and that are not the same; rows that a system added to the
    vocabulary do not count.

    Args:
        trained: parts that one of them trained, which are no frozen ones.
    """
    names = [name for name in ("vision_encoder", LANGUAGE_MODEL) if name not in trained]
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
