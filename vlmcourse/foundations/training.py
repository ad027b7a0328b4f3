"""Train a foundation by its committed recipe, resumably, and export it."""

import csv
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from vlmcourse.backbones.foundations import FOUNDATIONS, FROZEN_IN_IMAGEBIND
from vlmcourse.foundations.tokenizer import build_tokenizer

EXPERIMENTS = FOUNDATIONS.parents[1] / "experiments" / "foundations"
RECIPES = {
    "vision_encoder": EXPERIMENTS / "vision_encoder.yaml",
    "image_qformer": EXPERIMENTS / "image_qformer.yaml",
    "language_model": EXPERIMENTS / "language_model.yaml",
    "language_model_more": EXPERIMENTS / "language_model_more.yaml",
    "imagebind": EXPERIMENTS / "imagebind.yaml",
    "qwen2_vit": EXPERIMENTS / "qwen2_vit.yaml",
}


def train_foundation(name: str, out: Path, overrides: tuple[str, ...] = (), save_every: int = 200):
    """Train one foundation from its YAML; a killed run goes on from its last checkpoint.

    Args:
        name: a key of `RECIPES`.
        out: folder of checkpoints and of the loss log.
        overrides: more LightningCLI arguments, such as `--trainer.max_steps=10`.
        save_every: steps between checkpoints.

    Returns:
        The trained LightningModule and the losses logged since it started or was resumed.
    """
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.cli import LightningCLI

    last = out / "last.ckpt"
    torch.set_num_threads(1)  # one thread is as fast at this size, and sums in a fixed order
    arguments = ["fit", f"--config={RECIPES[name]}", *overrides]
    if last.exists():
        arguments.append(f"--ckpt_path={last}")
    checkpoints = ModelCheckpoint(
        dirpath=out, save_last=True, save_top_k=0, every_n_train_steps=save_every
    )
    log = {"save_dir": str(out), "name": "log"}  # a resumed run gets a version of its own
    done = LightningCLI(
        args=arguments,
        save_config_callback=None,
        trainer_defaults={
            "accelerator": "cpu",
            "max_epochs": -1,
            "logger": {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": log},
            "callbacks": [checkpoints],
            "log_every_n_steps": 20,
            "enable_model_summary": False,
        },
    )
    with (Path(done.trainer.logger.log_dir) / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    return done.model, [float(row["loss"]) for row in table if row.get("loss")]


def step_reached(out: Path) -> int:
    """Return the step of the last checkpoint in a training folder, 0 if there is none."""
    last = out / "last.ckpt"
    if not last.exists():
        return 0
    return int(torch.load(last, map_location="cpu", weights_only=True)["global_step"])


def export(name: str, module) -> Path:
    """Write a trained foundation to where the course reads it."""
    exports = {
        "vision_encoder": export_vision,
        "image_qformer": export_image_qformer,
        "language_model": export_language,
        "language_model_more": export_language,
        "imagebind": export_imagebind,
        "qwen2_vit": export_qwen2_vit,
    }
    return exports[name](module)


def export_vision(module, folder: Path = FOUNDATIONS) -> Path:
    """Write the encoder's weights; returns the file."""
    return _write_weights(module.encoder.state_dict(), folder / "vision_encoder.safetensors")


def export_image_qformer(module, folder: Path = FOUNDATIONS) -> Path:
    """Write the Q-Former's weights and those of its heads; returns the file."""
    return _write_weights(module.model.state_dict(), folder / "image_qformer.safetensors")


def export_imagebind(module, folder: Path = FOUNDATIONS) -> Path:
    """Write the weights of sound encoder and picture head, without the frozen picture encoder's."""
    weights = module.imagebind.state_dict()
    trained = {k: v for k, v in weights.items() if not k.startswith(FROZEN_IN_IMAGEBIND)}
    return _write_weights(trained, folder / "imagebind.safetensors")


def export_qwen2_vit(module, folder: Path = FOUNDATIONS) -> Path:
    """Write the vision tower's weights, without the heads of its training; returns the file."""
    return _write_weights(module.encoder.state_dict(), folder / "qwen2_vit.safetensors")


def _write_weights(weights: dict[str, torch.Tensor], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, temporary)
    temporary.replace(path)
    return path


def export_language(module, folder: Path = FOUNDATIONS) -> Path:
    """Write the language model, its tokenizer and chat template as a transformers folder."""
    target = folder / "language_model"
    temporary = folder / "language_model.part"
    shutil.rmtree(temporary, ignore_errors=True)
    module.model.save_pretrained(temporary)
    build_tokenizer().save_pretrained(temporary)
    config = json.loads((temporary / "config.json").read_text())
    config.pop("transformers_version", None)
    (temporary / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    temporary.replace(target)
    return target
