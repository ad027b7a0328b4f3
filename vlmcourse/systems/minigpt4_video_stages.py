"""MiniGPT4-video's stages: pictures in two steps, then captions of videos, then questions.

Official: Vision-CAIR/MiniGPT4-video@ecabd7a:train_configs/. The published files of the two picture
steps do not run with the published class: rank and alpha of LoRA, the template of turns, the end
token (of the first) and the settings of memory are missing. They are filled in as the later stages
have them, the first step without marks of turns. How many GPUs trained is not known; batch sizes
are those of one.
"""

from dataclasses import replace

from vlmcourse.systems.stages import Stage

LINEAR = ("llama_proj.*",)
LINEAR_AND_LORA = (*LINEAR, "language_model.*.lora_*")

_PRETRAIN = Stage(
    name="image_pretrain",
    trains=LINEAR_AND_LORA,
    data="captions: LAION with requests, CC3M, CC12M and SBU bare, 115 to 14",
    learning_rate=1e-4,
    min_learning_rate=8e-5,
    weight_decay=0.05,
    warmup_steps=5000,
    warmup_start_rate=1e-6,
    schedule="cosine_from_start",
    batch_size=64,
    epochs=4,
    iterations_per_epoch=5000,
    max_grad_norm=None,
    precision="16-mixed",
    max_length=160,
    source="the paper's stage 1; 64 a GPU",
)
_ALIGN = replace(
    _PRETRAIN,
    name="image_align",
    data="MiniGPT-4's 3,439 captions (cc_sbu_align), with requests",
    init_from="image_pretrain",
    learning_rate=3e-5,
    min_learning_rate=1e-5,
    warmup_steps=200,
    batch_size=12,
    epochs=5,
    iterations_per_epoch=200,
    source="the paper's stage 1, second step; 12 a GPU",
)
_CAPTIONS = replace(
    _PRETRAIN,
    name="video_captions",
    data="captions of CMD with subtitles and of WebVid without, 100 to 50",
    init_from="image_align",
    warmup_steps=1000,
    batch_size=4,
    epochs=50,
    iterations_per_epoch=1000,
    max_length=256,
    source="the paper's stage 2; 4 a GPU",
)
_INSTRUCTION = replace(
    _CAPTIONS,
    name="video_instruction",
    data="VideoInstruct100K with subtitles",
    init_from="video_captions",
    source="the paper's stage 3; 4 a GPU",
)

PAPER_STAGES = (_PRETRAIN, _ALIGN, _CAPTIONS, _INSTRUCTION)
"""With Llama 2. The first two need the options `max_context=512`, the first `chat_template=False`
too."""

_MISTRAL = {"batch_size": 1, "max_length": 512, "warmup_steps": 875, "iterations_per_epoch": 875}
MISTRAL_STAGES = (
    _PRETRAIN,
    _ALIGN,
    replace(_CAPTIONS, **_MISTRAL, source="the paper's stage 2; 1 a GPU"),
    replace(_INSTRUCTION, **_MISTRAL, source="the paper's stage 3; 1 a GPU"),
)
"""With Mistral: twice the frames and a longer context, so a batch of one."""


def linear_first(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """The same stages as the paper tells them: pictures train the linear layer alone."""
    return tuple(
        replace(stage, trains=LINEAR) if stage.name.startswith("image_") else stage
        for stage in stages
    )


_WORLD = replace(
    _PRETRAIN,
    data="world pictures, captions",
    learning_rate=2e-3,
    min_learning_rate=2e-4,
    warmup_steps=30,
    batch_size=64,
    epochs=None,
    iterations_per_epoch=None,
    steps=300,
    max_grad_norm=1.0,
    precision="32-true",
    max_length=None,
    source="tried in the small world, not tuned",
)
WORLD_STAGES = (
    _WORLD,
    replace(
        _WORLD,
        name="image_align",
        data="world pictures, captions and questions",
        init_from="image_pretrain",
        batch_size=96,
    ),
    replace(
        _WORLD,
        name="video_captions",
        data="world captions",
        init_from="image_align",
        batch_size=48,
        steps=200,
    ),
    replace(
        _WORLD,
        name="video_instruction",
        data="world questions",
        init_from="video_captions",
        batch_size=180,
        steps=400,
    ),
)
LINEAR_FIRST_STAGES = linear_first(WORLD_STAGES)
