"""Video-LLaMA's four stages: each branch alone, first on captions, then on conversations.

Official: DAMO-NLP-SG/Video-LLaMA@64888c0:train_configs/*.yaml, video_llama/runners/runner_base.py,
video_llama/common/optims.py. The order of the branches is a maintainer's word (issue 87).
"""

from dataclasses import replace

from vlmcourse.systems.stages import Stage

VISION_BRANCH = ("frame_position.*", "video_qformer.*", "llama_proj.*")
AUDIO_BRANCH = ("audio_position.*", "audio_qformer.*", "audio_llama_proj.*")

_VISION_1 = Stage(
    name="vision_1",
    trains=VISION_BRANCH,
    data="WebVid-2M and LLaVA-CC3M-595K captions, 100 to 24",
    learning_rate=1e-4,
    min_learning_rate=8e-5,
    weight_decay=0.05,
    warmup_steps=2500,
    warmup_start_rate=1e-6,
    schedule="cosine_from_start",
    batch_size=256,
    epochs=5,
    iterations_per_epoch=2500,
    max_grad_norm=None,
    precision="16-mixed",
    max_length=512,
    source="train_configs/visionbranch_stage1_pretrain.yaml; 8 GPUs of 32",
)
_VISION_2 = replace(
    _VISION_1,
    name="vision_2",
    data="MiniGPT-4 captions, LLaVA-150K, VideoChat-11K, equal shares",
    init_from="vision_1",
    learning_rate=3e-5,
    min_learning_rate=1e-5,
    warmup_steps=1000,
    batch_size=32,
    epochs=3,
    iterations_per_epoch=1000,
    source="train_configs/visionbranch_stage2_finetune.yaml; 8 GPUs of 4",
)

PAPER_STAGES = (
    _VISION_1,
    _VISION_2,
    replace(
        _VISION_1,
        name="audio_1",
        trains=AUDIO_BRANCH,
        init_from="vision_2",
        warmup_steps=5000,
        iterations_per_epoch=5000,
        source="train_configs/audiobranch_stage1_pretrain.yaml; 8 GPUs of 32",
    ),
    replace(
        _VISION_2,
        name="audio_2",
        trains=AUDIO_BRANCH,
        init_from="audio_1",
        warmup_steps=400,
        source="train_configs/audiobranch_stage2_finetune.yaml; 8 GPUs of 4",
    ),
)
"""The audio branch never hears anything in training: pictures go through ImageBind's picture
encoder in the place of sound."""

_WORLD = replace(
    _VISION_1,
    data="world captions",
    learning_rate=1e-3,
    min_learning_rate=1e-4,
    warmup_steps=30,
    batch_size=48,
    epochs=None,
    iterations_per_epoch=None,
    steps=300,
    max_grad_norm=1.0,
    precision="32-true",
    max_length=None,
    source="tried in the small world, not tuned",
)
_WORLD_2 = replace(_WORLD, data="world questions", batch_size=180, steps=600)

WORLD_STAGES = (
    _WORLD,
    replace(_WORLD_2, name="vision_2", init_from="vision_1"),
    replace(_WORLD, name="audio_1", trains=AUDIO_BRANCH, init_from="vision_2"),
    replace(_WORLD_2, name="audio_2", trains=AUDIO_BRANCH, init_from="audio_1"),
)

HEARD_STAGES = tuple(
    replace(stage, data=data)
    for stage, data in zip(
        WORLD_STAGES[2:],
        ("world captions of sounds", "world questions about sounds"),
        strict=True,
    )
)
"""The audio branch on real sound instead of pictures; the world's vision branch comes first."""
