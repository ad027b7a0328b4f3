"""What is prepared before the chapters run, as a table."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One preparation: a ``vlmcourse`` command that leaves files the chapters read.

    Args:
        name: short and unique; the log is ``runs/course/logs/NAME.log``.
        title: what the reader sees while it runs.
        command: arguments of ``vlmcourse``; ``{device}`` and ``{scale}`` are filled in.
        share: part of a recipe's steps that the course takes; the records have all of them.
        outputs: paths from the root that exist when it is done.
        sources: patterns of the files it depends on; a change makes it run again.
        minutes: first estimate on one core, used until a run has been measured.
        chapters: the chapters that need it (empty: all of them).
        after: names of the steps whose files it reads; they stand before it in the table.
        alone: nothing runs beside it; for a command that uses all cores itself.
    """

    name: str
    title: str
    command: tuple[str, ...]
    share: float = 1.0
    outputs: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    minutes: float = 1.0
    chapters: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    alone: bool = False


def needs(number: str, step: Step) -> bool:
    """Whether a chapter needs a step."""
    return not step.chapters or number in step.chapters


def needed(steps: Sequence[Step], numbers: Collection[str]) -> list[Step]:
    """The steps that chapters need (no chapters: all), with those they come after, in order."""
    wanted: set[str] = set()
    for step in reversed(steps):
        if not numbers or step.name in wanted or any(needs(number, step) for number in numbers):
            wanted |= {step.name, *step.after}
    return [step for step in steps if step.name in wanted]


CLIPS = "160"
"""Clips of the test split that the course asks about: half of them; the records ask all."""

STEPS: tuple[Step, ...] = (
    Step(
        name="world",
        title="clips of the small world",
        command=("world",),
        outputs=tuple(f"data/world/{split}/manifest.json" for split in ("train", "val", "test")),
        sources=("vlmcourse/world/*.py",),
        minutes=0.6,
        alone=True,
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
        minutes=4.5,
        chapters=("04",),
        after=("world", "foundations"),
    ),
    Step(
        name="measure",
        title="what the trained system knows",
        command=(
            *("evaluate", "--system", "video_chatgpt", "--device", "{device}", "--clips", CLIPS),
            *("--runs", "runs/video_chatgpt/world-seed0"),
            *("--record", "runs/course/records/video_chatgpt-probes.json"),
        ),
        outputs=("runs/course/records/video_chatgpt-probes.json",),
        sources=("experiments/video_chatgpt/world_*.yaml", "data/foundations/**/*.safetensors"),
        minutes=1.0,
        chapters=("04",),
        after=("train",),
    ),
    Step(
        name="world_live",
        title="clips in which every event makes its sound",
        command=("world", "--live-sound"),
        outputs=tuple(f"data/world_live/{x}/manifest.json" for x in ("train", "val", "test")),
        sources=("vlmcourse/world/*.py",),
        minutes=0.6,
        chapters=("05",),
        alone=True,
    ),
    Step(
        name="train_video_llama",
        title="training of Video-LLaMA, all four stages, half of the steps",
        command=(
            *("train", "--system", "video_llama", "--seed", "0"),
            *("--out", "runs/video_llama/course-seed0"),
            *("--device", "{device}", "--scale", "{scale}"),
        ),
        share=0.5,
        outputs=("runs/video_llama/course-seed0/audio_2/weights.safetensors",),
        sources=(
            "experiments/video_llama/world_*.yaml",
            "data/foundations/**/*.safetensors",
            "vlmcourse/world/*.py",
        ),
        minutes=4.2,
        chapters=("05",),
        after=("world", "world_live", "foundations"),
    ),
    Step(
        name="measure_video_llama",
        title="what it sees and hears",
        command=(
            *("evaluate", "--system", "video_llama", "--device", "{device}", "--clips", CLIPS),
            *("--runs", "runs/video_llama/course-seed0"),
            *("--record", "runs/course/records/video_llama-probes.json"),
        ),
        outputs=("runs/course/records/video_llama-probes.json",),
        sources=("experiments/video_llama/world_*.yaml", "data/foundations/**/*.safetensors"),
        minutes=0.8,
        chapters=("05",),
        after=("train_video_llama",),
    ),
    Step(
        name="world_pictures",
        title="single pictures of the world",
        command=("world", "--pictures"),
        outputs=tuple(f"data/world_pictures/{x}/manifest.json" for x in ("train", "val", "test")),
        sources=("vlmcourse/world/*.py",),
        minutes=0.5,
        chapters=("06", "10"),
        alone=True,
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
        minutes=5.0,
        chapters=("06",),
        after=("world", "world_pictures", "foundations"),
    ),
    Step(
        name="measure_minigpt4_video",
        title="what it sees and reads",
        command=(
            *("evaluate", "--system", "minigpt4_video", "--device", "{device}", "--clips", CLIPS),
            *("--runs", "runs/minigpt4_video/world-seed0"),
            *("--record", "runs/course/records/minigpt4_video-probes.json"),
        ),
        outputs=("runs/course/records/minigpt4_video-probes.json",),
        sources=("experiments/minigpt4_video/world_*.yaml", "data/foundations/**/*.safetensors"),
        minutes=0.9,
        chapters=("06",),
        after=("train_minigpt4_video",),
    ),
    Step(
        name="world_texts",
        title="texts of the world, without media",
        command=("world", "--texts"),
        outputs=tuple(f"data/world_texts/{x}/manifest.json" for x in ("train", "val", "test")),
        sources=("vlmcourse/world/*.py",),
        minutes=0.1,
        chapters=("08",),
    ),
    Step(
        name="train_cogvlm2_video",
        title="training of CogVLM2-Video, both stages, from the shipped image model",
        command=(
            *("train", "--system", "cogvlm2_video", "--seed", "0"),
            *("--init-from", "data/systems/cogvlm2", "--out", "runs/cogvlm2_video/course-seed0"),
            *("--device", "{device}", "--scale", "{scale}"),
        ),
        outputs=("runs/cogvlm2_video/course-seed0/grounding/weights.safetensors",),
        sources=(
            "experiments/cogvlm2_video/world_*.yaml",
            "data/foundations/**/*.safetensors",
            "data/systems/cogvlm2/weights.safetensors",
            "vlmcourse/world/*.py",
        ),
        minutes=5.0,
        chapters=("07",),
        after=("world", "foundations"),
    ),
    Step(
        name="measure_cogvlm2_video",
        title="what it sees, and when",
        command=(
            *("evaluate", "--system", "cogvlm2_video", "--device", "{device}", "--clips", CLIPS),
            *("--runs", "runs/cogvlm2_video/course-seed0"),
            *("--record", "runs/course/records/cogvlm2_video-probes.json"),
        ),
        outputs=("runs/course/records/cogvlm2_video-probes.json",),
        sources=("experiments/cogvlm2_video/world_*.yaml", "data/foundations/**/*.safetensors"),
        minutes=1.2,
        chapters=("07",),
        after=("train_cogvlm2_video",),
    ),
    Step(
        name="world_shapes",
        title="pictures of twelve sizes",
        command=("world", "--pictures", "--sizes"),
        outputs=tuple(f"data/world_shapes/{x}/manifest.json" for x in ("train", "val", "test")),
        sources=("vlmcourse/world/*.py",),
        minutes=0.5,
        chapters=("08",),
        alone=True,
    ),
    Step(
        name="train_qwen2_vl",
        title="training of Qwen2-VL, all three stages",
        command=(
            *("train", "--system", "qwen2_vl", "--seed", "0"),
            *("--device", "{device}", "--scale", "{scale}"),
        ),
        outputs=("runs/qwen2_vl/world-seed0/stage_3/weights.safetensors",),
        sources=(
            "experiments/qwen2_vl/world_*.yaml",
            "data/foundations/**/*.safetensors",
            "vlmcourse/world/*.py",
        ),
        minutes=5.0,
        chapters=("08",),
        after=("world", "world_shapes", "world_texts", "foundations"),
    ),
    Step(
        name="measure_qwen2_vl",
        title="what it sees, and when",
        command=(
            *("evaluate", "--system", "qwen2_vl", "--device", "{device}", "--clips", CLIPS),
            *("--runs", "runs/qwen2_vl/world-seed0"),
            *("--record", "runs/course/records/qwen2_vl-probes.json"),
        ),
        outputs=("runs/course/records/qwen2_vl-probes.json",),
        sources=("experiments/qwen2_vl/world_*.yaml", "data/foundations/**/*.safetensors"),
        minutes=1.2,
        chapters=("08",),
        after=("train_qwen2_vl",),
    ),
    Step(
        name="train_ma_lmm",
        title="training of MA-LMM, both stages, half of the steps",
        command=(
            *("train", "--system", "ma_lmm", "--seed", "0"),
            *("--out", "runs/ma_lmm/course-seed0"),
            *("--device", "{device}", "--scale", "{scale}"),
        ),
        share=0.5,
        outputs=("runs/ma_lmm/course-seed0/video_instruction/weights.safetensors",),
        sources=(
            "experiments/ma_lmm/world_*.yaml",
            "data/foundations/**/*.safetensors",
            "vlmcourse/world/*.py",
        ),
        minutes=3.8,
        chapters=("09",),
        after=("world", "world_pictures", "foundations"),
    ),
    Step(
        name="measure_ma_lmm",
        title="what it remembers",
        command=(
            *("evaluate", "--system", "ma_lmm", "--device", "{device}", "--clips", CLIPS),
            *("--controls", "majority", "blind", "shuffled", "--permutations", "1"),
            *("--runs", "runs/ma_lmm/course-seed0"),
            *("--record", "runs/course/records/ma_lmm-probes.json"),
        ),
        outputs=("runs/course/records/ma_lmm-probes.json",),
        sources=("experiments/ma_lmm/world_*.yaml", "data/foundations/**/*.safetensors"),
        minutes=1.2,
        chapters=("09",),
        after=("train_ma_lmm",),
    ),
    Step(
        name="train_chat_univi",
        title="training of Chat-UniVi, both stages",
        command=(
            *("train", "--system", "chat_univi", "--seed", "0"),
            *("--device", "{device}", "--scale", "{scale}"),
        ),
        outputs=("runs/chat_univi/world-seed0/stage_2/weights.safetensors",),
        sources=(
            "experiments/chat_univi/world_*.yaml",
            "data/foundations/**/*.safetensors",
            "vlmcourse/world/*.py",
        ),
        minutes=3.0,
        chapters=("10",),
        after=("world", "world_pictures", "foundations"),
    ),
    Step(
        name="measure_chat_univi",
        title="what it sees, and in which order",
        command=(
            *("evaluate", "--system", "chat_univi", "--device", "{device}", "--clips", CLIPS),
            *("--runs", "runs/chat_univi/world-seed0"),
            *("--record", "runs/course/records/chat_univi-probes.json"),
        ),
        outputs=("runs/course/records/chat_univi-probes.json",),
        sources=("experiments/chat_univi/world_*.yaml", "data/foundations/**/*.safetensors"),
        minutes=0.8,
        chapters=("10",),
        after=("train_chat_univi",),
    ),
)
