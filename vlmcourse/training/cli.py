"""`vlmcourse train`: the stages of a system, or one stage file, or any LightningCLI recipe."""

import argparse
import logging
import sys
from pathlib import Path

EXAMPLES = """\
examples:
  vlmcourse train --system video_chatgpt
  vlmcourse train --system video_chatgpt --stage instruction_tuning --seed 1 --model.stage.steps=200
  vlmcourse train --system video_chatgpt --model.options.spatial_grid=4 --seed 1
  vlmcourse train --config my_stage.yaml --out runs/mine --device cuda
  vlmcourse train --system video_chatgpt --stage alignment --print_config

Every setting of a stage file can be said on the command line by its dotted name, for example
--model.stage.learning_rate=1e-3, --data.questions_per_video=1 or --trainer.deterministic=true;
--print_config shows them all. --model.options.NAME=VALUE changes the system itself. Finished
stages are reused, killed ones go on."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlmcourse train",
        description="Train the stages of a system from the files in experiments/SYSTEM.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--system", help="for example video_chatgpt")
    add("--recipe", default="world", help="world, paper or another: the beginning of the names of "
        "the stage files in experiments/SYSTEM (default: %(default)s)")  # fmt: skip
    add("--stage", default="all", help="all, or a stage's name (default: %(default)s)")
    add("--config", type=Path, help="one stage file instead of --system")
    add("--seed", type=int, default=0, help="default: %(default)s")
    add("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    add("--init-from", type=Path, help="the folder of a finished stage that the first stage "
        "starts from")  # fmt: skip
    add("--out", type=Path, help="folder of the run (default: runs/SYSTEM/RECIPE-seedSEED, with "
        "the settings that differ behind the recipe)")  # fmt: skip
    add("--records", type=Path, help="folder for records (default: records/ in the run's folder)")
    add("--scale", type=float, default=1.0, help="multiplies the steps (default: %(default)s)")
    add("--print_config", action="store_true", help="show all settings and stop")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run `vlmcourse train`."""
    parser = _parser()
    args, overrides = parser.parse_known_args(argv)
    _refuse_typos(parser, overrides)
    if (args.system is None) == (args.config is None):
        parser.error("say either --system or --config")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    from vlmcourse.training import runner
    from vlmcourse.training.settings import StageSettings, stage_files, stage_of

    if args.config is not None:
        files = [args.config]
    else:
        files = stage_files(args.system, args.recipe)
    if args.print_config:
        seed = f"--model.seed={args.seed}"
        for path in files:
            if args.stage in ("all", stage_of(path)):
                sys.stdout.write(StageSettings([f"--config={path}", seed, *overrides]).text())
        return 0
    common = {
        "device": args.device,
        "scale": args.scale,
        "records": args.records,
    }
    if args.config is not None:
        out = args.out or Path("runs") / args.config.stem
        options = [f"--model.seed={args.seed}", *overrides]
        options += [f"--model.init_from={args.init_from}"] if args.init_from else []
        results = [runner.run_stage(args.config, out, options, **common)]
    else:
        results = runner.run_stages(
            args.system,
            args.recipe,
            args.seed,
            args.out,
            args.stage,
            overrides,
            init_from=args.init_from,
            **common,
        )
    for result in results:
        told = "reused" if result.reused else f"record {result.record}"
        sys.stdout.write(f"{result.name}: {_summary(result.metrics)}; {result.weights} ({told})\n")
    return 0


def _refuse_typos(parser: argparse.ArgumentParser, overrides: list[str]) -> None:
    """Refuse what is neither an option here nor a dotted setting; the latter are checked when
    parsed."""
    from difflib import get_close_matches

    from vlmcourse.errors import UserError

    known = [option for action in parser._actions for option in action.option_strings]
    for word in overrides:
        name = word.split("=")[0]
        if not name.startswith("--"):
            raise UserError(f"unexpected {word!r}; settings are said as --NAME=VALUE")
        if not name.startswith(("--model.", "--data.", "--trainer.")):
            near = get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else f" Known: {', '.join(known)}"
            raise UserError(f"unknown option {name}.{hint}")
        if "=" not in word:
            raise UserError(f"{name} needs a value: {name}=VALUE")


def _summary(metrics: dict) -> str:
    def mean(name: str) -> float:
        return metrics[name]["mean"]

    parts = [
        f"loss {mean('loss'):.3f}",
        f"{mean('answer_tokens_right'):.1%} of answer tokens right",
    ]
    if "val_loss" in metrics:
        parts.append(f"validation {mean('val_loss'):.3f}, {mean('val_answer_tokens_right'):.1%}")
    parts.append(f"{mean('samples_per_s'):.0f} samples/s")
    return ", ".join(parts)


def fit_main(argv: list[str] | None = None) -> int:
    """Train any recipe: a YAML with `model`, `data` (class_path and init_args) and `trainer`.

    As `LightningCLI`'s own `fit`, with our error messages: `fit_main(["--config", FILE, ...])`.
    """
    fit(argv)
    return 0


def fit(argv: list[str] | None = None):
    """The same; returns the LightningCLI, whose `model` and `trainer` have what was trained."""
    from jsonargparse import ArgumentError
    from lightning.pytorch.cli import LightningCLI

    from vlmcourse.training.settings import SettingsError, known_keys, readable

    class Recipe(LightningCLI):
        def parse_arguments(self, parser, args) -> None:
            try:
                self.config = parser.parse_args(args)
            except (ArgumentError, TypeError, ValueError, KeyError, OSError) as error:
                raise SettingsError(readable(str(error), known_keys(parser))) from error

    recipe = Recipe(
        args=sys.argv[1:] if argv is None else list(argv),
        run=False,
        save_config_callback=None,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_kwargs={"exit_on_error": False},
    )
    recipe.trainer.fit(recipe.model, recipe.datamodule)
    return recipe
