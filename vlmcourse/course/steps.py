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
    Step(
        name="world_live",
        title="clips in which every event makes its sound",
        command=("world", "--live-sound"),
        outputs=tuple(f"data/world_live/{x}/manifest.json" for x in ("train", "val", "test")),
        sources=("vlmcourse/world/*.py",),
        minutes=2.0,
        chapters=("05",),
    ),
    Step(
        name="train_video_llama",
        title="training of Video-LLaMA, all four stages",
        command=(
            *("train", "--system", "video_llama", "--seed", "0"),
            *("--device", "{device}", "--scale", "{scale}"),
        ),
        outputs=("runs/video_llama/world-seed0/audio_2/weights.safetensors",),
        sources=(
            "experiments/video_llama/world_*.yaml",
            "data/foundations/**/*.safetensors",
            "vlmcourse/world/*.py",
        ),
        minutes=8.0,
        chapters=("05",),
    ),
    Step(
        name="measure_video_llama",
        title="what it sees and hears",
        command=(
            *("evaluate", "--system", "video_llama", "--device", "{device}"),
            *("--runs", "runs/video_llama/world-seed0"),
            *("--record", "runs/course/records/video_llama-probes.json"),
        ),
        outputs=("runs/course/records/video_llama-probes.json",),
        sources=("experiments/video_llama/world_*.yaml", "data/foundations/**/*.safetensors"),
        minutes=3.0,
        chapters=("05",),
    ),
    Step(
        name="world_pictures",
        title="single pictures of the world",
        command=("world", "--pictures"),
        outputs=tuple(f"data/world_pictures/{x}/manifest.json" for x in ("train", "val", "test")),
        sources=("vlmcourse/world/*.py",),
        minutes=0.5,
        chapters=("06",),
    ),
    Step(
        name="train_minigpt4_video",
        title="training of MiniGPT4-video, all four stages",
        command=(
            *("train", "--system", "minigpt4_video", "--seed", "0"),
            *("--device", "{device}", "--scale", "{scale}"),
        ),
        outputs=("runs/minigpt4_video/world-seed0/video_instruction/weights.safetensors",),
        sources=(
            "experiments/minigpt4_video/world_*.yaml",
            "data/foundations/**/*.safetensors",
            "vlmcourse/world/*.py",
        ),
        minutes=6.0,
        chapters=("06",),
    ),
    Step(
        name="measure_minigpt4_video",
        title="what it sees and reads",
        command=(
            *("evaluate", "--system", "minigpt4_video", "--device", "{device}"),
            *("--runs", "runs/minigpt4_video/world-seed0"),
            *("--record", "runs/course/records/minigpt4_video-probes.json"),
        ),
        outputs=("runs/course/records/minigpt4_video-probes.json",),
        sources=("experiments/minigpt4_video/world_*.yaml", "data/foundations/**/*.safetensors"),
        minutes=2.0,
        chapters=("06",),
    ),
)
