"""`vlmcourse foundations`: check the shipped foundations, measure or train them."""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

from vlmcourse.errors import UserError

EXAMPLES = """examples:
  vlmcourse foundations                 are the shipped weights there and whole?
  vlmcourse foundations --gates         measure them on held-out scenes, write the records
  vlmcourse foundations --rebuild       train all from nothing, then measure them
"""

PROBE_GATES = {"colour": 0.95, "shape": 0.90, "state": 0.90, "place": 0.95}
"""Least accuracy of the linear probes ("state" is the visible action)."""
_FINE = {"colour": 0.97, "shape": 0.93, "state": 0.93, "place": 0.97}
TEXT_GATES = {"events": 0.95, "storyboard": 0.90}
"""Least accuracy per family from a description as an event list, and frame by frame."""
_WORDS = {"colour": 0.95, "shape": 0.95, "size": 0.95, "place": 0.95, "digit": 0.95, "state": 0.90}
QFORMER_GATES = {
    "clause": 0.85,
    **{f"word/{slot}": least for slot, least in _WORDS.items()},
    **{f"tokens/{slot}": least for slot, least in _WORDS.items()},
    "match": 0.90,
    "match/pairs": 0.95,
    "text_to_frame": 0.90,
    "frame_to_text": 0.90,
    "changed_frame": 0.90,
}
"""Least shares for the image Q-Former; names as in `image_qformer_gates`."""

IMAGEBIND_GATES = {
    "picture_of_sound": 0.90,
    "sound_of_picture": 0.85,
    "among_32_pictures": 0.90,
    "among_32_sounds": 0.85,
    "probe_kind": 0.95,
    "probe_silence": 0.95,
    "probe_two_kinds": 0.90,
    "dubbed_kind": 0.95,
}
"""Least shares for ImageBind; names as in `imagebind_gates`, where chance is 1/6 for the first two
and for every kind, and 1/15 for two kinds. `..._or_still` and `..._or_silence` have no gate: slides
look like stillness to the frozen encoder, and are found among six by elimination only."""


QWEN2_VIT_GATES = {
    **{f"64x64/{slot}": least for slot, least in _FINE.items()},
    **{
        f"{size}/{slot}": least
        for size in ("96x96", "48x48", "128x48", "48x128", "film_64x64")
        for slot, least in PROBE_GATES.items()
    },
}
"""Least shares for the Qwen2 vision tower; names as in `qwen2_vit_gates`."""


def main(argv: list[str]) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="vlmcourse foundations",
        description="The small world's frozen encoders, image Q-Former and language model.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gates", action="store_true", help="measure and record the gates")
    parser.add_argument("--rebuild", action="store_true", help="train from nothing and export")
    parser.add_argument("--only", choices=(*WEIGHTS, MORE), help="one of them")
    parser.add_argument("--out", type=Path, default=Path("runs/foundations"), help="checkpoints")
    parser.add_argument("--steps", type=int, help="other than the recipe says (to try things out)")
    args = parser.parse_args(argv)
    chosen = [LANGUAGE if args.only == MORE else args.only] if args.only else list(WEIGHTS)
    for name in chosen:
        parts = (LANGUAGE, MORE) if name == LANGUAGE and args.only != MORE else (args.only or name,)
        for part in parts if args.rebuild else ():
            overrides = (f"--trainer.max_steps={args.steps}",) if args.steps else ()
            rebuild(part, args.out / part, overrides)
        if args.gates or args.rebuild:
            measure(name)
    for name, checksum in checksums(chosen).items():
        print(f"{name}: {checksum[:16]}")
    return 0


WEIGHTS = {
    "vision_encoder": "vision_encoder.safetensors",
    "image_qformer": "image_qformer.safetensors",
    "imagebind": "imagebind.safetensors",
    "qwen2_vit": "qwen2_vit.safetensors",
    "language_model": "language_model/model.safetensors",
}
LANGUAGE, MORE = "language_model", "language_model_more"
"""The language model is trained in two parts; the second goes on from the first's weights."""


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
    from vlmcourse.foundations.training import (
        EXPERIMENTS,
        RECIPES,
        export,
        step_reached,
        train_foundation,
    )
    from vlmcourse.records import Run, metric

    path = EXPERIMENTS / "records" / f"{name}_training.json"
    command = f"vlmcourse foundations --rebuild --only {name}"
    started = step_reached(out)
    settings = {
        "recipe": RECIPES[name].read_text(),
        "overrides": list(overrides),
        "resumed_from_step": started,
    }
    with Run(path, command, settings, seeds=[0]) as run:
        module, losses = train_foundation(name, out, overrides)
        export(name, module)
        run.metrics["final_loss"] = metric(losses[-10:], unit="nats")
        run.note = f"time and memory are of the steps from {started} on" if started else ""
        run.metrics["parameters"] = metric([sum(p.numel() for p in module.parameters())])


def measure(name: str) -> None:
    """Measure the gates of one shipped foundation and write their records.

    The vision encoder has one record, the language model one for each form of description.
    """
    command = f"vlmcourse foundations --gates --only {name}"
    if name == "vision_encoder":
        _measure_vision(command)
        return
    if name == "image_qformer":
        _measure_image_qformer(command)
        return
    if name == "imagebind":
        _measure_imagebind(command)
        return
    if name == "qwen2_vit":
        _measure_qwen2_vit(command)
        return
    for form in ("events", "storyboard", "fused", "fused_timed"):
        _measure_language(command, form)


def _measure_vision(command: str) -> None:
    from vlmcourse.backbones.foundations import load_vision_encoder
    from vlmcourse.foundations.gates import vision_gates
    from vlmcourse.foundations.training import EXPERIMENTS
    from vlmcourse.records import Run, metric

    settings = {"gates": PROBE_GATES, "weights": checksums(["vision_encoder"])}
    path = EXPERIMENTS / "records" / "vision_encoder_gates.json"
    with Run(path, command, settings) as run:
        for slot, right in vision_gates(load_vision_encoder()).items():
            run.metrics[slot] = metric([float(r) for r in right], unit="share")
        _verdict(run, PROBE_GATES)


def _measure_image_qformer(command: str) -> None:
    from vlmcourse.backbones.foundations import load_image_text_qformer, load_vision_encoder
    from vlmcourse.foundations.image_qformer_gates import image_qformer_gates
    from vlmcourse.foundations.training import EXPERIMENTS
    from vlmcourse.records import Run, metric

    settings = {
        "gates": QFORMER_GATES,
        "weights": checksums(["vision_encoder", "image_qformer"]),
    }
    path = EXPERIMENTS / "records" / "image_qformer_gates.json"
    with Run(path, command, settings) as run:
        answers = image_qformer_gates(load_image_text_qformer(), load_vision_encoder())
        for name, right in answers.items():
            run.metrics[name] = metric([float(r) for r in right], unit="share")
        _verdict(run, QFORMER_GATES)


def _measure_imagebind(command: str) -> None:
    from vlmcourse.backbones.foundations import load_imagebind
    from vlmcourse.foundations.imagebind_gates import imagebind_gates
    from vlmcourse.foundations.training import EXPERIMENTS
    from vlmcourse.records import Run, metric

    settings = {
        "gates": IMAGEBIND_GATES,
        "weights": checksums(["vision_encoder", "imagebind"]),
    }
    path = EXPERIMENTS / "records" / "imagebind_gates.json"
    with Run(path, command, settings) as run:
        for name, right in imagebind_gates(load_imagebind()).items():
            run.metrics[name] = metric([float(r) for r in right], unit="share")
        _verdict(run, IMAGEBIND_GATES)


def _measure_qwen2_vit(command: str) -> None:
    from vlmcourse.backbones.foundations import load_qwen2_vit
    from vlmcourse.foundations.qwen2_vit_gates import qwen2_vit_gates
    from vlmcourse.foundations.training import EXPERIMENTS
    from vlmcourse.records import Run, metric

    settings = {"gates": QWEN2_VIT_GATES, "weights": checksums(["qwen2_vit"])}
    path = EXPERIMENTS / "records" / "qwen2_vit_gates.json"
    with Run(path, command, settings) as run:
        for name, right in qwen2_vit_gates(load_qwen2_vit()).items():
            run.metrics[name] = metric([float(r) for r in right], unit="share")
        _verdict(run, QWEN2_VIT_GATES)


def _measure_language(command: str, form: str) -> None:
    from vlmcourse.backbones.foundations import FOUNDATIONS
    from vlmcourse.backbones.language_model import load_language_model
    from vlmcourse.foundations.gates import language_gates
    from vlmcourse.foundations.training import EXPERIMENTS
    from vlmcourse.records import Run, metric
    from vlmcourse.world.language import KIND_FAMILY

    settings = {
        "form": form,
        "gate": TEXT_GATES.get(form),
        "weights": checksums(["language_model"]),
    }
    path = EXPERIMENTS / "records" / f"language_model_gates_{form}.json"
    with Run(path, command, settings) as run:
        model = load_language_model(FOUNDATIONS / "language_model").eval()
        families: dict[str, list[float]] = {}
        for kind, right in language_gates(model, form).items():
            values = [float(r) for r in right]
            run.metrics[f"kind/{kind}"] = metric(values, unit="share")
            families.setdefault(KIND_FAMILY[kind], []).extend(values)
        for family, values in families.items():
            run.metrics[family] = metric(values, unit="share")
        _verdict(run, dict.fromkeys(families, TEXT_GATES[form]) if form in TEXT_GATES else {})


def _verdict(run, gates: dict[str, float]) -> None:
    """Say which gates are missed and by how many points; a missed gate makes a negative record."""
    short = {name: least - run.metrics[name]["mean"] for name, least in gates.items()}
    missed = [f"{name} by {100 * by:.1f} points" for name, by in short.items() if by > 0]
    run.status = "negative" if missed else "ok"
    if missed:
        run.note = f"gates missed: {', '.join(missed)}"
    else:
        run.note = "every gate is met" if gates else "no gate is set for this form"
