"""Run stages in this process: finished ones are reused, killed ones go on, every one leaves a
record."""

import hashlib
import json
import logging
import re
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vlmcourse.devices import chosen_device
from vlmcourse.errors import UserError
from vlmcourse.records import Run
from vlmcourse.systems.stages import Stage
from vlmcourse.training.arithmetic import Arithmetic
from vlmcourse.training.callbacks import CHECKPOINT, History, Keeper
from vlmcourse.training.feature_cache import one_writer
from vlmcourse.training.settings import StageSettings, as_options, stage_files, stage_of
from vlmcourse.training.sources import ROOT
from vlmcourse.training.stage_metrics import MIB, stage_metrics
from vlmcourse.training.weights import WEIGHTS, StageFile, fingerprint, read_stage, save_stage
from vlmcourse.world.files import write_bytes

log = logging.getLogger(__name__)

STARTED = "started.json"
"""The hash of the settings that the checkpoint beside it belongs to."""
Overrides = dict[str, object] | Sequence[str]


@dataclass(frozen=True)
class StageResult:
    """A finished stage.

    Attributes:
        name: of the stage.
        folder: holds weights, `stage.json`, `settings.yaml` and `metrics.csv`.
        metrics: as in the record.
        record: path of the record.
        reused: nothing had to be done.
        table: what was frozen and what trained.
    """

    name: str
    folder: Path
    metrics: dict
    record: Path
    reused: bool
    table: str

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS


def run_stages(
    system: str,
    recipe: str = "world",
    seed: int = 0,
    out: str | Path | None = None,
    stages: str | Sequence[str] = "all",
    overrides: Overrides = (),
    device: str = "auto",
    scale: float = 1.0,
    records: str | Path | None = None,
    progress: bool = True,
    init_from: str | Path | None = None,
) -> list[StageResult]:
    """Run a system's stages one after the other, as `vlmcourse train` does.

    Args:
        system, recipe: which stage files of `experiments/` to take.
        seed: of first values and of the order of the data.
        out: one folder a stage is made in here; None means `default_folder`.
        stages: "all", or names; a stage that is left out must be finished if a later one starts
            from it.
        overrides: settings for every stage that is run, as options or as a dictionary of dotted
            keys.
        device: "cpu", "cuda", or "auto" for the GPU if there is one.
        scale: multiplies the number of steps, for a quick look.
        records: folder for records; None means `records/` in `out`.
        progress: show progress bars.
        init_from: the folder of a finished stage that the first one starts from.

    Raises:
        UserError: settings or files that cannot be used.
    """
    files = {stage_of(path): path for path in stage_files(system, recipe)}
    wanted = list(files) if stages == "all" else [stages] if isinstance(stages, str) else [*stages]
    if unknown := [name for name in wanted if name not in files]:
        raise UserError(f"unknown stage {unknown[0]!r} of {system}; known: {', '.join(files)}")
    options = as_options(overrides)
    name = "-".join(filter(None, (recipe, variant(options, init_from))))
    out = default_folder(system, name, seed) if out is None else Path(out)
    results = []
    for stage in files:
        if stage not in wanted:
            continue
        before = stage_of(files[stage], "init_from")
        if before not in (None, *files) and "/" not in before and init_from is None:
            raise UserError(
                f"{stage} starts from {before}, a stage of another recipe: say --init-from FOLDER"
            )
        start = [f"--model.init_from={init_from}"] if init_from and not results else []
        arguments = [*options, *start, f"--model.seed={seed}"]
        results.append(
            run_stage(files[stage], out, arguments, device, scale, records, progress, name=name)
        )
    return results


def default_folder(system: str, name: str, seed: int) -> Path:
    """Where a run lies unless it is told otherwise; weights of a stage in `FOLDER/STAGE`.

    Args:
        name: the recipe; and behind a dash the variant, if it is one.
    """
    return ROOT / "runs" / system / f"{name}-seed{seed}"


def folder_of(before: str, out: Path, seed: int) -> Path:
    """Where the stage that another one starts from lies, by the name in its `init_from`.

    Args:
        before: a stage of the same run, or "SYSTEM/RECIPE/STAGE".
        out: folder of the run.

    Raises:
        UserError: the stage of another run is not finished, or the name is neither.
    """
    if "/" not in before:
        return out / before
    if before.count("/") != 2:
        raise UserError(f"init_from {before!r} is neither a stage nor SYSTEM/RECIPE/STAGE")
    system, recipe, stage = before.split("/")
    folder = default_folder(system, recipe, seed) / stage
    if read_stage(folder) is None:
        raise UserError(
            f"{folder}: {before} is not finished there; first run `vlmcourse train --system "
            f"{system} --recipe {recipe} --seed {seed}`, or say --init-from FOLDER"
        )
    return folder


def variant(options: Sequence[str], init_from: str | Path | None = None) -> str:
    """A name for what differs from the stage files, "" if nothing does: variants get folders and
    records of their own.

    Short settings can be read in it (`num_queries_8`, `stage.steps_200`), others are a hash, and so
    is a stage to start from.
    """
    parts = []
    for option in sorted(options):
        setting = option.removeprefix("--").removeprefix("model.").removeprefix("options.")
        plain = len(setting) <= 40 and re.fullmatch(r"[\w.]+=[\w.]+", setting)
        parts.append(setting.replace("=", "_") if plain else _hash(setting)[:8])
    if init_from is not None:
        about = read_stage(init_from)
        parts.append(f"from_{(about.settings_hash if about else _hash(str(init_from)))[:8]}")
    return "-".join(parts)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_stage(
    config: str | Path,
    out: str | Path,
    overrides: Overrides = (),
    device: str = "auto",
    scale: float = 1.0,
    records: str | Path | None = None,
    progress: bool = True,
    checkpoint_every: int = 50,
    val_every: int | None = None,
    callbacks: Sequence = (),
    name: str | None = None,
) -> StageResult:
    """Run one stage from its file.

    A stage whose settings, data and frozen parts are those of a finished one is reused. One that
    was killed goes on from its last checkpoint, to the same losses. Other settings than before
    train anew.

    Args:
        config: a stage file.
        out: folder of the run; this stage's is `out/NAME`.
        checkpoint_every: steps between checkpoints.
        val_every: steps between validations; None looks once, at the end.
        callbacks: more Lightning callbacks.
        name: recipe and variant, for the record's name; None means the preset.
        overrides, device, scale, records, progress: see `run_stages`.

    Raises:
        UserError: settings or files that cannot be used, or `init_from` is not finished.
    """
    out = Path(out)
    arguments = [f"--config={config}", *as_options(overrides)]
    settings = StageSettings(arguments)
    stage: Stage = settings.config.model.stage
    if stage.init_from and settings.config.model.init_from is None:
        seed = settings.config.model.seed
        settings.config.model.init_from = folder_of(stage.init_from, out, seed)
    _tell_options(settings.config.model)
    device = chosen_device(device)
    module, data = settings.model_and_data()
    folder = out / stage.name
    folder.mkdir(parents=True, exist_ok=True)
    facts = _facts(settings, module, data, scale)
    record = Path(records or out / "records") / f"{_record_id(facts, name)}.json"
    with one_writer(folder):
        return _run(
            settings, module, data, folder, facts, record, device, progress,
            checkpoint_every, val_every, callbacks, arguments,
        )  # fmt: skip


def _tell_options(model) -> None:
    """Say which options of the system change from the stage before to this one: a resolution that
    grows, or an option that was forgotten."""
    about = None if model.init_from is None else read_stage(model.init_from)
    if about is not None:
        before, now = about.settings.get("model", {}).get("options") or {}, model.options or {}
        if changed := _differences(before, now):
            log.info(
                "%s changes options of %s: %s", model.stage.name, about.name, ", ".join(changed)
            )


def _facts(settings, module, data, scale) -> dict:
    """All that decides a stage's weights, as JSON values."""
    plain = settings.plain()
    plain["model"].pop("init_from")
    before = settings.config.model.init_from
    inherited = None if before is None else read_stage(Path(before)).settings_hash
    return {
        **plain,
        "scale": scale,
        "frozen": fingerprint(module.model.state_dict()),
        "data_checksum": data.checksum(),
        "init_from": inherited,
    }


def _record_id(facts: dict, name: str | None) -> str:
    model = facts["model"]
    run = f"train-{model['system']}-{name or model['preset']}-{model['stage']['name']}"
    return f"{run}-seed{model['seed']}"


def _run(
    settings, module, data, folder, facts, record, device, progress,
    checkpoint_every, val_every, callbacks, arguments,
) -> StageResult:  # fmt: skip
    stamp = _hash(json.dumps(facts, sort_keys=True))
    name, table = module.stage.name, module.table()
    done = read_stage(folder)
    if done is not None and done.settings_hash == stamp and (folder / WEIGHTS).is_file():
        log.info("stage %s is finished: %s", name, folder)
        return StageResult(name, folder, done.metrics, record, True, table)
    _make_room(folder, done, facts, stamp)
    log.info("%s", table)
    started = folder / CHECKPOINT
    command = ["vlmcourse", "train", *arguments, f"--out={folder.parent}", f"--device={device}"]
    command += [] if facts["scale"] == 1 else [f"--scale={facts['scale']}"]
    with _quiet(), Run(record, command, facts, [module.seed], facts["data_checksum"]) as run:
        trainer = _prepare(
            settings, module, data, folder, facts["scale"], device, progress,
            checkpoint_every, val_every, callbacks,
        )  # fmt: skip
        history, arithmetic = trainer.callbacks[:2]
        _fit(trainer, module, data, started if started.is_file() else None)
        history.write(folder)
        patterns, tensors = module.weights_to_keep()
        run.metrics = stage_metrics(history, arithmetic.gflop, data, module.model, tensors)
    shapes = {key: list(value.shape) for key, value in tensors.items()}
    about = StageFile(name, patterns, shapes, stamp, record.stem, facts, run.metrics)
    path = save_stage(folder, tensors, about)
    log.info("%s: %.1f MiB", path, path.stat().st_size / MIB)
    started.unlink(missing_ok=True)
    return StageResult(name, folder, run.metrics, record, False, table)


def _make_room(folder: Path, done: StageFile | None, facts: dict, stamp: str) -> None:
    """Keep a checkpoint of the same settings; remove what other settings have left, and say what
    differs."""
    started = folder / STARTED
    before = json.loads(started.read_text(encoding="utf-8")) if started.is_file() else {}
    if before.get("stamp") != stamp:
        old = before.get("facts") or (done.settings if done else None)
        if old is not None:
            changed = ", ".join(_differences(old, facts)[:6]) or "the code"
            log.warning("%s: other settings than before (%s): training anew", folder, changed)
        for path in folder.iterdir():
            if path.is_file() and path.name != ".lock":
                path.unlink()
        write_bytes(started, json.dumps({"stamp": stamp, "facts": facts}).encode())


def _differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    found = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} {a} -> {b}")
    return found


def _prepare(
    settings, module, data, folder, scale, device, progress, checkpoint_every, val_every, callbacks
):  # fmt: skip
    """Bring data and features into being and build the trainer; its `callbacks` begin with the
    history and the count of arithmetic."""
    stage = module.stage
    data.prepare(
        module.model,
        module.system,
        stage.batch_size,
        module.seed,
        stage.max_length,
        device,
        progress,
    )
    steps = stage.steps
    if steps is None:
        steps = stage.epochs * (stage.iterations_per_epoch or data.steps_per_epoch())
    steps = max(1, round(steps * scale))
    module.scale = scale
    history = History()
    keeper = Keeper(history, folder, checkpoint_every, val_every, progress)
    precision = stage.precision
    if device == "cpu" and precision != "32-true":
        log.info("precision %s is for a GPU: 32-true here", precision)
        precision = "32-true"
    write_bytes(folder / "settings.yaml", settings.text().encode())
    trainer = settings.instantiate_trainer(
        max_steps=steps,
        max_epochs=-1,
        precision=precision,
        gradient_clip_val=stage.max_grad_norm,
        accumulate_grad_batches=data.accumulate,
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        default_root_dir=str(folder),
        callbacks=[
            history,
            Arithmetic(),
            keeper,
            *callbacks,
            *(settings.config_init["trainer"]["callbacks"] or []),
        ],
    )
    return trainer


def _fit(trainer, module, data, checkpoint: Path | None) -> None:
    """Train; a stop from the keyboard stays one (Lightning makes a plain exit of it)."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as stop:
        raise KeyboardInterrupt from stop
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored after a stop


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's lines on devices, workers and services."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for text in (
                "does not have many workers",
                "GPU available but",
                "in eval mode",
                "treespec",
            ):
                warnings.filterwarnings("ignore", f".*{text}.*")
            yield
    finally:
        logger.setLevel(level)
