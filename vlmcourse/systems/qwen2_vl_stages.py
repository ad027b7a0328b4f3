"""Qwen2-VL's stages: the vision tower, then everything, then the language model alone.

The paper tells what trains and on what; of rates, batch sizes and steps it publishes nothing but
tokens: 600 billion in stage 1, 800 billion in stage 2. Its text lets stage 1 train "the ViT" and
does not mention the merger, which is new there and so must train.

Paper: arXiv 2409.12191, section 2.2.
"""

from dataclasses import replace

from vlmcourse.systems.stages import Stage

TOWER = ("vision_encoder.*", "merger.*")
ALL = ("*",)
LANGUAGE = ("language_model.*",)
SLOW_TOWER = {"vision_encoder.*": 0.1}
SLOWEST_TOWER = {"vision_encoder.*": 0.02}
"""In the small world the vision tower is trained already and learns slower than what is new; in
stage 1 most of all, where at first no gradient means anything."""

# ---------------------------------------------------------------- the paper's size

_OURS = "arXiv 2409.12191 tells what trains, on what, and tokens; rates, batch, steps ours"

_TOWER = Stage(
    name="stage_1",
    trains=TOWER,
    data="600B tokens: pictures with texts, OCR, classification",
    learning_rate=1e-4,
    weight_decay=0.05,
    betas=(0.9, 0.95),
    warmup_ratio=0.02,
    batch_size=4096,
    steps=150_000,
    precision="bf16-mixed",
    source=_OURS,
)
PAPER_STAGES = {
    "paper": (
        _TOWER,
        replace(
            _TOWER, name="stage_2", trains=ALL, init_from="stage_1", learning_rate=2e-5,
            steps=200_000, data="800B tokens: interleaved, questions, videos, texts",
        ),
        replace(
            _TOWER, name="stage_3", trains=LANGUAGE, init_from="stage_2", learning_rate=1e-5,
            batch_size=1024, steps=10_000,
            data="ChatML instructions: texts, pictures, documents, several pictures, videos",
        ),
    )
}  # fmt: skip

# ---------------------------------------------------------------- the world's size

_TRIED = "tried in the small world"
"""Many small steps learn far more than few large ones: 400 of 16 captions came to a loss that 100
of 64 were nowhere near, in the same time."""

_SEE = Stage(
    name="stage_1",
    trains=TOWER,
    data="captions of small world pictures of many shapes",
    learning_rate=8e-3,
    weight_decay=0.02,
    betas=(0.9, 0.98),
    warmup_ratio=0.1,
    batch_size=16,
    steps=400,
    rate_factors=SLOWEST_TOWER,
    source=_TRIED,
)
_OPEN = replace(
    _SEE, name="stage_2", trains=ALL, init_from="stage_1", learning_rate=1e-3, batch_size=48,
    steps=750, rate_factors=SLOW_TOWER,
    data="world films 6 to pictures of many shapes 3 to texts 1",
)  # fmt: skip
_TALK = replace(
    _OPEN, name="stage_3", trains=LANGUAGE, init_from="stage_2", learning_rate=5e-4, steps=200,
    data="world films 6 to pictures of many shapes 3 to texts 1", rate_factors={},
)  # fmt: skip
_FROM_WORLD = replace(_OPEN, init_from="qwen2_vl/world/stage_1")

WORLD_STAGES = {
    "world": (_SEE, _OPEN, _TALK),
    "sequential": (_FROM_WORLD, _TALK),
    "time_embedding": (_FROM_WORLD, replace(_TALK, trains=(*LANGUAGE, "time_embedding.*"))),
    "square": (_SEE, _OPEN, _TALK),
}
"""By recipe. Two controls change the positions behind the same stage 1; "square" makes every
picture a square of as many tokens from the start."""
