"""What is prepared before the chapters run, as a table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One preparation: a ``vlmcourse`` command that leaves files the chapters read.

    Args:
        name: short and unique; the log is ``runs/course/logs/NAME.log``.
        title: what the reader sees while it runs.
        command: arguments of ``vlmcourse``; ``{device}`` and ``{scale}`` are filled in.
        outputs: paths from the root that exist when it is done.
        sources: patterns of the files it depends on; a change makes it run again.
        minutes: first estimate on two cores, used until a run has been measured.
        chapters: the chapters that need it (empty: all of them).
    """

    name: str
    title: str
    command: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    minutes: float = 1.0
    chapters: tuple[str, ...] = ()


def needs(number: str, step: Step) -> bool:
    """Whether a chapter needs a step."""
    return not step.chapters or number in step.chapters


STEPS: tuple[Step, ...] = (
    Step(
        name="world",
        title="clips of the small world",
        command=("world",),
        outputs=tuple(f"data/world/{split}/manifest.json" for split in ("train", "val", "test")),
        sources=("vlmcourse/world/*.py",),
        minutes=2.0,
    ),
    Step(
        name="foundations",
        title="shipped encoder and language model",
        command=("foundations",),
        outputs=(
            "data/foundations/vision_encoder.safetensors",
            "data/foundations/language_model/model.safetensors",
        ),
        minutes=0.1,
    ),
    Step(
        name="train",
        title="training of Video-ChatGPT, both stages",
        command=(
            *("train", "--system", "video_chatgpt", "--seed", "0"),
            *("--device", "{device}", "--scale", "{scale}"),
        ),
        outputs=("runs/video_chatgpt/world-seed0/instruction_tuning/weights.safetensors",),
        sources=(
            "experiments/video_chatgpt/world_*.yaml",
            "data/foundations/**/*.safetensors",
            "vlmcourse/world/*.py",
        ),
        minutes=6.0,
        chapters=("04",),
    ),
    Step(
        name="measure",
        title="what the trained system knows",
        command=(
            *("evaluate", "--system", "video_chatgpt", "--device", "{device}"),
            *("--runs", "runs/video_chatgpt/world-seed0"),
            *("--record", "runs/course/records/video_chatgpt-probes.json"),
        ),
        outputs=("runs/course/records/video_chatgpt-probes.json",),
        sources=("experiments/video_chatgpt/world_*.yaml", "data/foundations/**/*.safetensors"),
        minutes=1.5,
        chapters=("04",),
    ),
)
