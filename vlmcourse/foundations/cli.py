"""`vlmcourse foundations`: check the shipped foundations, measure or train them."""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

from vlmcourse.errors import UserError

EXAMPLES = """examples:
  vlmcourse foundations                 are the shipped weights there and whole?
  vlmcourse foundations --gates         measure them on held-out scenes, write the records
  vlmcourse foundations --rebuild       train both from nothing, then measure them
"""

PROBE_GATES = {"colour": 0.95, "shape": 0.90, "state": 0.90, "place": 0.95}
"""Least accuracy of the linear probes ("state" is the visible action)."""
TEXT_GATES = {"events": 0.95, "storyboard": 0.90}
"""Least accuracy per family from a description as an event list, and frame by frame."""


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="vlmcourse foundations",
        description="The small world's vision encoder and language model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gates", action="store_true", help="measure and record the gates")
    parser.add_argument("--rebuild", action="store_true", help="train from nothing and export")
    parser.add_argument("--only", choices=("vision_encoder", "language_model"))
    parser.add_argument("--out", type=Path, default=Path("runs/foundations"), help="checkpoints")
    parser.add_argument("--steps", type=int, help="other than the recipe says (to try things out)")
    args = parser.parse_args(argv)
    chosen = [args.only] if args.only else ["vision_encoder", "language_model"]
    for name in chosen:
        if args.rebuild:
            rebuild(
                name, args.out / name, (f"--trainer.max_steps={args.steps}",) if args.steps else ()
            )
        if args.gates or args.rebuild:
            measure(name)
    for name, checksum in checksums(chosen).items():
        print(f"{name}: {checksum[:16]}")
    return 0


WEIGHTS = {
    "vision_encoder": "vision_encoder.safetensors",
    "language_model": "language_model/model.safetensors",
}


def checksums(names: Sequence[str] = tuple(WEIGHTS)) -> dict[str, str]:
    """Return the SHA-256 of shipped weight files, by name of the foundation.

    Raises:
        UserError: a file is missing.
    """
    from vlmcourse.backbones.foundations import FOUNDATIONS

    result = {}
    for name in names:
        path = FOUNDATIONS / WEIGHTS[name]
        if not path.is_file():
            raise UserError(f"{path}: missing; `vlmcourse foundations --rebuild` trains it")
        result[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return result


def rebuild(name: str, out: Path, overrides: tuple[str, ...] = ()) -> None:
    """Train one foundation (going on where a killed run stopped), export it and record the run."""
    from vlmcourse.foundations.training import EXPERIMENTS, RECIPES, export, train_foundation
    from vlmcourse.records import Run, metric

    path = EXPERIMENTS / "records" / f"{name}_training.json"
    command = f"vlmcourse foundations --rebuild --only {name}"
    settings = {"recipe": RECIPES[name].read_text(), "overrides": list(overrides)}
    with Run(path, command, settings, seeds=[0]) as run:
        module, losses = train_foundation(name, out, overrides)
        export(name, module)
        run.metrics["final_loss"] = metric(losses[-10:], unit="nats")
        run.metrics["parameters"] = metric([sum(p.numel() for p in module.parameters())])


def measure(name: str) -> None:
    """Measure the gates of one shipped foundation and write their record."""
    from vlmcourse.backbones.foundations import FOUNDATIONS, load_vision_encoder
    from vlmcourse.backbones.language_model import load_language_model
    from vlmcourse.foundations.gates import KIND_FAMILY, language_gates, vision_gates
    from vlmcourse.foundations.training import EXPERIMENTS
    from vlmcourse.records import Run, metric

    path = EXPERIMENTS / "records" / f"{name}_gates.json"
    command = f"vlmcourse foundations --gates --only {name}"
    missed = []
    if name == "vision_encoder":
        with Run(path, command, {"gates": PROBE_GATES, "weights": checksums([name])}) as run:
            for slot, right in vision_gates(load_vision_encoder()).items():
                run.metrics[slot] = metric([float(r) for r in right], unit="share")
                if run.metrics[slot]["mean"] < PROBE_GATES.get(slot, 0.0):
                    missed.append(slot)
            _verdict(run, missed)
        return
    with Run(path, command, {"gates": TEXT_GATES, "weights": checksums([name])}) as run:
        language_model = load_language_model(FOUNDATIONS / name).eval()
        for form in ("events", "storyboard", "fused", "fused_timed"):
            by_kind = language_gates(language_model, form)
            families: dict[str, list[float]] = {}
            for kind, right in by_kind.items():
                values = [float(r) for r in right]
                run.metrics[f"{form}/kind/{kind}"] = metric(values, unit="share")
                families.setdefault(KIND_FAMILY[kind], []).extend(values)
            for family, values in families.items():
                run.metrics[f"{form}/{family}"] = metric(values, unit="share")
                if run.metrics[f"{form}/{family}"]["mean"] < TEXT_GATES.get(form, 0.0):
                    missed.append(f"{form}/{family}")
        _verdict(run, missed)


def _verdict(run, missed: list[str]) -> None:
    run.status = "negative" if missed else "ok"
    run.note = f"gates missed: {', '.join(missed)}" if missed else "every gate is met"
