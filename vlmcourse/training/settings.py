"""Settings of a stage: a YAML file and overrides, typed, every unknown key refused by its name.

A stage file has three parts: `model` (system, preset and the stage itself), `data`, and `trainer`
for what is left of Lightning's own settings. It is read by LightningCLI; nothing is built before
all of it is valid.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path

from lightning.pytorch.cli import LightningCLI

from vlmcourse.errors import UserError
from vlmcourse.systems.processor import Given
from vlmcourse.systems.stages import TOLD_IF_SET, Stage
from vlmcourse.training.data import VideoInstructionData
from vlmcourse.training.module import VideoInstruction
from vlmcourse.training.sources import Source, located

EXPERIMENTS = Path("experiments")
OWNED = {
    "max_steps": "model.stage.steps",
    "max_epochs": "model.stage.epochs",
    "precision": "model.stage.precision",
    "gradient_clip_val": "model.stage.max_grad_norm",
    "accumulate_grad_batches": "data.accumulate",
    "accelerator": "--device",
    "devices": "--device",
}
"""Trainer settings that a stage decides, and where to say them instead."""
PARTS = ("model", "data", "trainer")


class SettingsError(UserError):
    """A stage file or an override that cannot be used."""


class StageSettings(LightningCLI):
    """The validated settings of one stage; `model_and_data` builds, `instantiate_trainer` comes
    later.

    Args:
        args: as on a command line: `["--config", FILE, "--model.stage.steps=10", ...]`.
    """

    def __init__(self, args: Sequence[str]):
        super().__init__(
            VideoInstruction,
            VideoInstructionData,
            args=list(args),
            run=False,
            save_config_callback=None,
            seed_everything_default=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={"exit_on_error": False},
        )

    def add_default_arguments_to_parser(self, parser) -> None:
        """No `seed_everything`: the seed is the model's."""

    def _set_seed(self) -> None:
        """The model seeds itself."""

    def parse_arguments(self, parser, args) -> None:
        """Parse, and say what is wrong in the user's words.

        Raises:
            SettingsError: an unknown key (with the nearest known one), a wrong type, a missing
                value, or a trainer setting that the stage decides.
        """
        from jsonargparse import ArgumentError

        known = known_keys(parser)
        refuse_unknown([a for a in args if a.startswith("--")], known)
        try:
            self.config = parser.parse_args(args)
        except (ArgumentError, TypeError, ValueError, KeyError, OSError) as error:
            raise SettingsError(readable(str(error), known)) from error
        for name, instead in OWNED.items():
            if self.config.trainer[name] != parser.get_default(f"trainer.{name}"):
                raise SettingsError(f"trainer.{name} is not for a stage file: say {instead}")

    def instantiate_classes(self) -> None:
        """Nothing is built before it is known whether the stage is already done."""

    def model_and_data(self) -> tuple[VideoInstruction, VideoInstructionData]:
        """Build both. Raises UserError."""
        self.config_init = self.parser.instantiate_classes(self.config)
        return self.config_init["model"], self.config_init["data"]

    def text(self) -> str:
        """All settings as YAML, defaults included."""
        return self.parser.dump(self.config, skip_none=False)

    def plain(self) -> dict:
        """All settings that decide a stage's weights, as JSON values; without those that were left
        alone of the trainer and of what is younger than finished runs."""
        import yaml

        settings = yaml.safe_load(self.text())
        defaults = self.parser.get_defaults()
        default = yaml.safe_load(self.parser.dump(defaults, skip_none=False, skip_validation=True))
        trainer = {
            key: value
            for key, value in settings["trainer"].items()
            if value != default["trainer"].get(key)
        }
        for kind, values in (
            (Stage, [settings["model"]["stage"]]),
            (Source, [*settings["data"]["train"], *(settings["data"]["val"] or [])]),
        ):
            for value in values:
                _leave_out_unset(kind, value)
        settings["data"].pop("memory_mib")  # of no consequence
        return {**{key: settings[key] for key in ("model", "data")}, "trainer": trainer}


def _leave_out_unset(kind: type, values: dict) -> None:
    """Remove settings that are younger than finished runs and were left alone (`TOLD_IF_SET`)."""
    for item in fields(kind):
        default = item.default if item.default_factory is MISSING else item.default_factory()
        default = list(default) if isinstance(default, tuple) else default
        if item.metadata == TOLD_IF_SET and values.get(item.name) == default:
            values.pop(item.name, None)


def known_keys(parser) -> list[str]:
    """Every key that may be set, dotted."""
    keys = {option for action in parser._actions for option in action.option_strings}
    names = (key.removeprefix("--") for key in keys if key.startswith("--"))
    return sorted(name for name in names if not name.endswith(".help"))


def refuse_unknown(options: Sequence[str], known: Sequence[str]) -> None:
    """Refuse options that no setting has; jsonargparse alone would end in a misleading message."""
    groups = {key.rsplit(".", 1)[0] for key in known}
    for option in options:
        key = option.removeprefix("--").split("=")[0].removesuffix("+")
        inside_a_leaf = any(key.startswith(f"{leaf}.") for leaf in known if leaf not in groups)
        if key not in known and not inside_a_leaf:
            raise SettingsError(f"unknown setting --{key}.{nearest(key, known)}")


def nearest(key: str, known: Sequence[str]) -> str:
    """A hint at the known key that looks most like an unknown one, else at its neighbours."""
    names = {name.rsplit(".", 1)[-1]: name for name in known}
    names |= {item.name: f"{item.name} (of a source)" for item in fields(Source)}
    names |= {item.name: f"data.given.{item.name}" for item in fields(Given)}
    last = difflib.get_close_matches(key.rsplit(".", 1)[-1], names, n=1, cutoff=0.6)
    leaves = [name for name in known if not key.startswith(f"{name}.")]
    near = difflib.get_close_matches(key, leaves, n=1, cutoff=0.8) or [names[n] for n in last]
    if near:
        return f" Did you mean {near[0]}?"
    beside = [name for name in known if name.startswith(f"{key.rsplit('.', 1)[0]}.")]
    return f" Known: {', '.join(beside or PARTS)}"


def readable(message: str, known: Sequence[str]) -> str:
    """The parser's complaint in one line, with the nearest known key where a key is unknown."""
    for pattern in (
        r"Key '([\w.]+)' is not expected",
        r"[Oo]ption '([\w.]+)' is not accepted",
        r"does not accept option '([\w.]+)'",
        r"[Uu]nrecognized arguments: --([\w.]+)",
    ):
        if unknown := re.search(pattern, message):
            return f"unknown setting {unknown[1]}.{nearest(unknown[1], known)}"
    return " ".join(message.split())[:600]


# ---------------------------------------------------------------- stage files


def stage_files(system: str, recipe: str) -> list[Path]:
    """The stage files of a recipe, `experiments/SYSTEM/RECIPE_*.yaml`, in the order that their
    `init_from` gives. The first may start from a stage of another recipe.

    Raises:
        SettingsError: there are none, or they do not form a line.
    """
    import yaml

    folder = located(EXPERIMENTS / system)
    found = {}
    for path in sorted(folder.glob(f"{recipe}_*.yaml")):
        try:
            stage = yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["stage"]
            found[stage["name"]] = (stage.get("init_from"), path)
        except (yaml.YAMLError, KeyError, TypeError) as error:
            raise SettingsError(f"{path}: no stage file ({error})") from error
    if not found:
        systems = sorted(
            p.name for p in located(EXPERIMENTS).glob("*/") if list(p.glob("*_*.yaml"))
        )
        raise SettingsError(
            f"{folder}: no {recipe}_*.yaml; stage files exist for: {', '.join(systems) or 'none'}"
        )
    ordered: list[Path] = []
    done: set[str | None] = {None}
    if all(before is not None for before, _ in found.values()):
        done |= {before for before, _ in found.values()} - set(found)
    while len(ordered) < len(found):
        ready = [name for name, (before, _) in found.items() if before in done and name not in done]
        if not ready:
            left = ", ".join(sorted(set(found) - done))
            raise SettingsError(f"{folder}: {left} start from a stage that is not there")
        ordered.extend(found[name][1] for name in ready)
        done.update(ready)
    return ordered


def stage_of(path: Path, field: str = "name") -> str:
    """The name of the stage in a file, or another of its fields."""
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["stage"].get(field)


def as_options(overrides: dict[str, object] | Sequence[str]) -> list[str]:
    """Overrides as options: `{"model.stage.steps": 10}` or `["--model.stage.steps=10"]`."""
    import json

    if not isinstance(overrides, dict):
        return list(overrides)
    return [
        f"--{key}={value if isinstance(value, (str, Path)) else json.dumps(value)}"
        for key, value in overrides.items()
    ]
