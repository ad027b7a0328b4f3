"""MA-LMM's training: one stage a data set, always from InstructBLIP's weights.

Official: boheumd/MA-LMM@ffe9fa9:run_scripts/*, lavis/common/optims.py (`linear_warmup_cosine_lr`:
epoch 0 is a warm-up, cut off where the epoch ends; then the rate stays the same within an epoch).
"""

from dataclasses import replace

from vlmcourse.systems.stages import Stage

TRAINED = ("vision_norm.*", "frame_positions.*", "qformer.*", "projector.*")

_CLASSES = Stage(
    name="breakfast",
    trains=TRAINED,
    data="Breakfast",
    learning_rate=1e-4,
    weight_decay=0.05,
    warmup_steps=1000,
    warmup_start_rate=1e-8,
    schedule="cosine_by_epoch",
    batch_size=64,
    epochs=20,
    max_grad_norm=None,
    precision="16-mixed",
    source="run_scripts/breakfast; 4 GPUs of 16",
)
"""Weight decay leaves out biases and scales, as in the released code, whose rule by name ("ln",
"bn") finds no others; positions of frames and the queries do decay."""


def _other(like: Stage, name: str, data: str, source: str, **more) -> Stage:
    return replace(like, name=name, data=data, source=f"run_scripts/{source}", **more)


_QUESTIONS = replace(_CLASSES, batch_size=128, epochs=5)
_CAPTIONS = replace(_QUESTIONS, epochs=10, learning_rate=1e-5)
_TOGETHER = "4 GPUs of 16, two steps together"

LVU_STAGES = tuple(
    _other(_CLASSES, f"lvu_{task}", f"LVU, {task}", "lvu; 4 GPUs of 16")
    for task in ("director", "genre", "relationship", "scene", "way_speaking", "writer", "year")
)
"""One model a task."""

PAPER_STAGES = (
    *LVU_STAGES,
    _CLASSES,
    _other(_CLASSES, "coin", "COIN", "coin; 4 GPUs of 16"),
    _other(_QUESTIONS, "msrvtt_qa", "MSRVTT-QA", "msrvtt; 4 GPUs of 32"),
    _other(_QUESTIONS, "msvd_qa", "MSVD-QA", "msvd; 4 GPUs of 32"),
    _other(_QUESTIONS, "activitynet_qa", "ActivityNet-QA", "activitynet; 4 GPUs of 32"),
    _other(_CAPTIONS, "msrvtt_captions", "MSRVTT captions", f"msrvtt; {_TOGETHER}"),
    _other(_CAPTIONS, "msvd_captions", "MSVD captions", f"msvd; {_TOGETHER}"),
    _other(
        *(_CAPTIONS, "youcook2_captions", "YouCook2 captions", f"youcook2; {_TOGETHER}"),
        learning_rate=1e-4,
    ),
)
"""Each starts anew: no stage follows another."""

_WORLD = Stage(
    name="image_instruction",
    trains=("vision_norm.*", "qformer.*", "projector.*"),
    data="questions and captions of pictures of the world",
    learning_rate=1e-3,
    min_learning_rate=1e-4,
    weight_decay=0.05,
    warmup_steps=20,
    warmup_start_rate=1e-6,
    schedule="cosine_from_start",
    batch_size=96,
    steps=300,
    source="tried in the small world, not tuned",
)
WORLD_STAGES = (
    _WORLD,
    replace(
        _WORLD,
        name="video_instruction",
        trains=TRAINED,
        data="questions about films of the world, each in a row of its own",
        init_from="image_instruction",
        batch_size=48,
        steps=500,
        rate_factors={"frame_positions.*": 10},
    ),
)
"""The first stands for InstructBLIP's training, which the paper starts from. Every other recipe of
the world is the second with another way to read or to remember frames, from the same first.
Positions of frames begin as zeros and have few steps: they learn at ten times the rate."""
