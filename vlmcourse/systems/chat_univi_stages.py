"""Chat-UniVi's stages: the projector from captions of pictures, then the projector and the whole
language model from pictures and videos mixed.

Paper: arXiv 2311.08046, section 4.1. Official:
PKU-YuanGroup/Chat-UniVi@ec0b3db:TRAIN_AND_VALIDATE.md, TRAIN_AND_VALIDATE_V1.5.md.
"""

from dataclasses import replace

from vlmcourse.systems.stages import Stage

PROJECTOR = ("projector.*",)
WHOLE = ("projector.*", "language_model.*")

# ---------------------------------------------------------------- the paper's size

_STAGE_1 = Stage(
    name="stage_1",
    trains=PROJECTOR,
    data="captions: CC3M-595K, COCO; COCO regions described and found (REG, REC)",
    learning_rate=2e-3,
    warmup_ratio=0.03,
    batch_size=128,
    epochs=1,
    precision="bf16-mixed",
    max_length=2048,
    source="TRAIN_AND_VALIDATE.md, stage 1; 8 GPUs x 16",
)
_STAGE_2 = replace(
    _STAGE_1,
    name="stage_2",
    trains=WHOLE,
    data="LLaVA-Instruct-150K, MIMIC-IT (pictures), video chat (ActivityNet)",
    init_from="stage_1",
    learning_rate=2e-5,
    epochs=2,
    source="TRAIN_AND_VALIDATE.md, stage 2; 8 GPUs x 16",
)
PAPER_STAGES = {
    "paper": (_STAGE_1, _STAGE_2),
    "scienceqa": (
        replace(
            _STAGE_2, data="ScienceQA", init_from="chat_univi/paper/stage_1", batch_size=32,
            epochs=9, source="TRAIN_AND_VALIDATE.md, ScienceQA; 8 GPUs x 4",
        ),
    ),
    "version_1_5": (
        replace(
            _STAGE_1, data="captions: CC3M-595K, Valley's and LLaVA's",
            source="TRAIN_AND_VALIDATE_V1.5.md, stage 1; 8 GPUs x 16",
        ),
        replace(
            _STAGE_2, data="LLaVA-Instruct-150K, video chat, the mixture of LLaVA 1.5",
            source="TRAIN_AND_VALIDATE_V1.5.md, stage 2; 8 GPUs x 16",
        ),
    ),
}  # fmt: skip
"""By recipe. ScienceQA goes on from the projector of stage 1, not from stage 2. All data of a stage
is shuffled together, without weights."""

# ---------------------------------------------------------------- the world's size

_TRIED = "tried in the small world"

_CONNECT = Stage(
    name="stage_1",
    trains=PROJECTOR,
    data="captions of world pictures",
    learning_rate=8e-3,
    betas=(0.9, 0.98),
    warmup_ratio=0.1,
    batch_size=16,
    steps=400,
    source=_TRIED,
)
_BOTH = replace(
    _CONNECT, name="stage_2", trains=WHOLE, data="world films and world pictures, mixed",
    init_from="stage_1", learning_rate=1e-3, batch_size=48, steps=750,
)  # fmt: skip
_FROM_WORLD = replace(_BOTH, init_from="chat_univi/world/stage_1")

WORLD_STAGES = {
    "world": (_CONNECT, _BOTH),
    "images_only": (replace(_FROM_WORLD, data="world pictures"),),
    "videos_only": (replace(_FROM_WORLD, data="world films"),),
    "grid": (_CONNECT, _BOTH),
    "random": (_CONNECT, _BOTH),
    "contiguous": (_FROM_WORLD,),
    "official_noise": (_CONNECT, _BOTH),
}
"""By recipe. What is trained on one kind goes on from the stage 1 of "world" and takes as many
steps; the controls of merging differ from the start."""
