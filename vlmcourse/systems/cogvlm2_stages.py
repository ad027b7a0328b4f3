"""CogVLM2's stages: three ways to pre-train, tuning on pictures, tuning on video.

The paper names three ideas of pre-training, not all of them for each of its models, and no learning
rate, batch size or number of steps for any: (1) more and more trainable parts; (2) everything
trains and language data is mixed in; (3) the pictures grow. Tuning on video is told in more detail.

Paper: arXiv 2408.16500, sections on training settings. Batch sizes and steps of pre-training below
are those of the first generation (CogVLM, arXiv 2311.03079), learning rates are ours.
"""

from dataclasses import replace

from vlmcourse.systems.stages import Stage

CONNECTOR = ("conv.*", "adapter.*", "boi", "eoi")
EXPERTS = ("language_model.*vision_expert*",)
ENCODER = ("vision_encoder.*",)
ALL = ("*",)
SLOW_ENCODER = {"vision_encoder.*": 0.1}
"""The picture encoder learns at a tenth of the rate of all else."""

# ---------------------------------------------------------------- the paper's size

_NOT_STATED = "not stated; steps and batch of CogVLM, arXiv 2311.03079, learning rate ours"

_PRETRAIN = Stage(
    name="experts_1",
    trains=(*CONNECTOR, *EXPERTS),
    data="captions of LAION-2B, COYO-700M, recaptioned (CLAY-1B)",
    learning_rate=1e-4,
    weight_decay=0.05,
    betas=(0.9, 0.95),
    warmup_ratio=0.02,
    batch_size=8192,
    steps=120_000,
    precision="bf16-mixed",
    source=f"method 1, more trainable parts: {_NOT_STATED}",
)
_LATER = replace(_PRETRAIN, learning_rate=1e-5, batch_size=1024, steps=60_000)

PAPER_IMAGE = (
    _PRETRAIN,
    replace(
        _LATER, name="experts_2", trains=(*CONNECTOR, *EXPERTS, *ENCODER), init_from="experts_1",
        data="captions, grounding, synthetic OCR", rate_factors=SLOW_ENCODER,
        source=f"method 1, more trainable parts: {_NOT_STATED}",
    ),
    replace(
        _LATER, name="grow_672", trains=(*CONNECTOR, *EXPERTS, *ENCODER), init_from="experts_2",
        data="captions, grounding, synthetic OCR", rate_factors=SLOW_ENCODER,
        source="method 3, growing pictures: 224, 672, 1344; all numbers but the last size ours",
    ),
    replace(
        _LATER, name="grow_1344", trains=(*CONNECTOR, *EXPERTS, *ENCODER), init_from="grow_672",
        data="captions, grounding, synthetic OCR", rate_factors=SLOW_ENCODER,
        source="method 3, growing pictures: 224, 672, 1344; all numbers but the last size ours",
    ),
    replace(
        _PRETRAIN, name="mixed", trains=ALL, data="captions 7 to language data 3",
        rate_factors=SLOW_ENCODER,
        source=f"method 2, all parameters and language data (GLM-4V): {_NOT_STATED}",
    ),
    replace(
        _LATER, name="sft_1", trains=ALL, data="all VQA sets and 300K alignment samples",
        init_from="grow_1344", batch_size=2340, steps=3000, rate_factors=SLOW_ENCODER,
        source="arXiv 2408.16500, image SFT stage 1; schedule and weight decay not stated",
    ),
    replace(
        _LATER, name="sft_2", trains=ALL, data="some VQA sets and 50K preference samples",
        init_from="sft_1", batch_size=1150, steps=750, rate_factors=SLOW_ENCODER,
        source="arXiv 2408.16500, image SFT stage 2; rate, schedule, weight decay not stated",
    ),
)  # fmt: skip

_VIDEO = replace(
    _LATER, name="instruction", trains=ALL, data="330K videos: captions, questions",
    init_from="cogvlm2/paper/mixed", learning_rate=4e-6, batch_size=256, steps=None, epochs=1,
    source="arXiv 2408.16500, video SFT: gives the rate; batch, epochs, schedule not stated",
)  # fmt: skip

PAPER_VIDEO = (
    _VIDEO,
    replace(
        _VIDEO, name="grounding", data="30K questions about times (TQA)",
        init_from="instruction", learning_rate=1e-6,
    ),
)  # fmt: skip

PAPER_STAGES = {"cogvlm2": PAPER_IMAGE, "cogvlm2_video": PAPER_VIDEO}

# ---------------------------------------------------------------- the world's size

_TRIED = "tried in the small world, not tuned"
_PICTURES = 0.7
"""Share of the batches that are pictures, where language data is mixed in."""

_CONNECT = Stage(
    name="pretrain_1",
    trains=CONNECTOR,
    data="captions of world pictures",
    learning_rate=3e-3,
    weight_decay=0.02,
    betas=(0.9, 0.98),
    warmup_ratio=0.1,
    batch_size=64,
    steps=300,
    source=_TRIED,
)
_OPEN = replace(
    _CONNECT, name="pretrain_2", init_from="pretrain_1", data="world pictures", learning_rate=1e-3,
    batch_size=150, rate_factors=SLOW_ENCODER,
)  # fmt: skip
_MIXED = replace(
    _OPEN, trains=ALL, data="world pictures 7 to world texts 3",
    steps=round(_OPEN.steps / _PICTURES),
)  # fmt: skip
_GROW = replace(
    _OPEN, name="grow_32", trains=ALL, init_from=None, batch_size=64, steps=200,
    source=f"method 3: {_TRIED}",
)  # fmt: skip

MIXED_STAGES = (_CONNECT, replace(_MIXED, source=f"method 2: {_TRIED}"))
"""Method 2; as many batches of pictures as in the others, and the language data on top."""
UNMIXED_STAGES = (
    replace(
        _OPEN, trains=ALL, init_from="cogvlm2/mixed/pretrain_1",
        source=f"control of method 2: {_TRIED}",
    ),
)  # fmt: skip
EXPERTS_STAGES = (
    replace(
        _OPEN, trains=(*CONNECTOR, *EXPERTS, *ENCODER), init_from="cogvlm2/mixed/pretrain_1",
        source=f"method 1: {_TRIED}",
    ),
)  # fmt: skip
"""Method 1: the language model's own weights never move. All three start from one connector."""
GROWING_STAGES = (
    _GROW,
    replace(_GROW, name="grow_64", init_from="grow_32"),
    replace(_GROW, name="grow_96", init_from="grow_64"),
)
"""Method 3."""
FIXED_STAGES = (
    replace(_GROW, name="whole_96", steps=385, source="control of method 3, equal arithmetic"),
)
"""Large pictures from the start; `experiments/cogvlm2/fixed_whole_96.yaml` says what is equal."""
SFT_STAGES = (
    replace(
        _MIXED, name="sft_1", init_from="cogvlm2/mixed/pretrain_2",
        data="world questions 7 to world texts 3", learning_rate=5e-4, steps=200,
    ),
    replace(
        _MIXED, name="sft_2", init_from="sft_1", data="hard world questions 7 to world texts 3",
        learning_rate=2e-4, steps=100,
    ),
)  # fmt: skip
"""Tuning on pictures goes on with what method 2 made."""

_WATCH = replace(
    _OPEN, name="instruction", trains=ALL, data="world questions and captions",
    init_from="cogvlm2/mixed/pretrain_2", batch_size=136, steps=300,
)  # fmt: skip
WORLD_VIDEO = (
    _WATCH,
    replace(
        _WATCH, name="grounding", data="world captions with times, when and how long",
        init_from="instruction", learning_rate=2.5e-4, batch_size=24, steps=150,
    ),
)  # fmt: skip

LENGTHS_STAGES = tuple(
    replace(stage, data=stage.data.replace("world", "clips of several lengths,", 1))
    for stage in WORLD_VIDEO
)
"""The same on clips of 4, 6 and 8 seconds, of which 8 frames are taken in even steps
(`sampling="base"`): a frame's number no longer tells its second."""

REMINDED_STAGES = tuple(
    replace(stage, data=f"{stage.data} 7 to world texts 3", steps=round(stage.steps / _PICTURES))
    for stage in WORLD_VIDEO
)
"""The same with language data among the videos, as method 2 has it among the pictures."""

WORLD_STAGES = {
    "cogvlm2": {
        "experts": EXPERTS_STAGES,
        "mixed": MIXED_STAGES,
        "unmixed": UNMIXED_STAGES,
        "growing": GROWING_STAGES,
        "fixed": FIXED_STAGES,
        "world": SFT_STAGES,
    },
    "cogvlm2_video": {
        "world": WORLD_VIDEO,
        "lengths": LENGTHS_STAGES,
        "reminded": REMINDED_STAGES,
    },
}
"""By system and recipe."""
