"""The study's one recipe, the same for every connector and budget: one stage from nothing."""

from vlmcourse.systems.stages import Stage

WORLD_STAGES = (
    Stage(
        name="films",
        trains=("connector.*",),
        data="world questions and captions",
        learning_rate=4e-3,
        weight_decay=0.02,
        betas=(0.9, 0.98),
        warmup_ratio=0.1,
        batch_size=68,
        steps=400,
        source="tried in the small world",
    ),
)
"""A batch is four films with all that is asked and said about each, 14 questions and 3 captions."""
