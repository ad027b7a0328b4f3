"""Training of the small vision encoder with language supervision only.

A frame's caption is split into clauses, one per thing. A clause's score is the mean over its four
best patches (late interaction), and it has to win against clauses with one word changed and
against the other frames of the batch. A single vector per frame (as in CLIP) reaches full accuracy
within a batch while its patches know nothing of shape: colour and place already identify the
frame.
"""

import math
from dataclasses import dataclass

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlmcourse.backbones.world_vision import WorldVisionConfig, WorldVisionEncoder
from vlmcourse.foundations.steps import step_loader
from vlmcourse.world.language import place_words
from vlmcourse.world.render import render_frame
from vlmcourse.world.story import (
    ACTIONS,
    COLOURS,
    COLUMNS,
    ROWS,
    SHAPES,
    SIZES,
    SLIDE,
    Story,
    StorySettings,
    sample_story,
)

STILL = "still"
STATES = (STILL, *ACTIONS)
SLOTS = {
    "colour": COLOURS,
    "shape": SHAPES,
    "state": STATES,
    "size": SIZES,
    "row": ROWS,
    "column": COLUMNS,
    "digit": tuple(str(n) for n in range(10)),
}
WORDS = tuple(f"{slot}={word}" for slot, words in SLOTS.items() for word in words)
CHANGED = {"colour": 0.17, "shape": 0.4, "state": 0.28, "size": 0.1, "row": 0.025, "column": 0.025}
"""Chance that a hard negative differs in this word."""
MOST_CLAUSES = 5
CLAUSE_WORDS = 6
NEGATIVES = 4


@dataclass(frozen=True)
class FrameLabels:
    """What stands where in one frame: words by slot, and its centre in units of the sides."""

    words: dict[str, str]
    x: float
    y: float


def frame_labels(story: Story, time_s: float) -> list[FrameLabels]:
    """Label every thing and the mark of one frame."""
    now = story.event_at(int(time_s))
    labels = []
    for index, t in enumerate(story.things):
        row, column = story.place_at(index, time_s)
        acting = now is not None and now.thing == index
        at = story.place_at(index, now.start_s) if acting and now.action == SLIDE else (row, column)
        row_word, column_word = place_words(*at).split()
        words = {
            "colour": t.colour,
            "shape": t.shape,
            "state": now.action if acting else STILL,
            "size": t.size,
            "row": row_word,
            "column": column_word,
        }
        labels.append(FrameLabels(words, (column + 0.5) / 3, (row + 0.5) / 3))
    if story.mark:
        m = story.mark
        words = {"digit": str(m.digit), "row": ROWS[m.row], "column": COLUMNS[m.column]}
        labels.append(FrameLabels(words, (m.column + 0.5) / 3, (m.row + 0.5) / 3))
    return labels


def sample_moment(rng, held_out: str = "exclude") -> tuple[Story, float]:
    """Draw a story and one of its moments in seconds, mostly one during an event."""
    settings = StorySettings(held_out=held_out)
    story = sample_story(int(rng.integers(2**62)), settings)
    time_s = rng.random() * story.duration_s
    if rng.random() < 0.8:
        event = story.events[rng.integers(len(story.events))]
        time_s = event.start_s + rng.random() * event.length_s
    return story, float(time_s)


def sample_frame(
    rng, held_out: str = "exclude", size: int = 64
) -> tuple[np.ndarray, list[FrameLabels]]:
    """Draw a frame, mostly one during an event, and its labels."""
    story, time_s = sample_moment(rng, held_out)
    return render_frame(story, time_s, size, size), frame_labels(story, time_s)


@dataclass
class ClauseBatch:
    """Frames and the clauses that describe them.

    frames `[B, S, S, 3]` uint8; clauses `[C, 1 + NEGATIVES, CLAUSE_WORDS]` word ids (-1 = none),
    the true clause first; owner `[C]` = frame of each clause.
    """

    frames: Tensor
    clauses: Tensor
    owner: Tensor


def make_clause_batch(seed: int, frames: int = 32) -> ClauseBatch:
    """Make one step's batch from its seed alone."""
    rng = np.random.default_rng(seed)
    pictures, clauses, owner = [], [], []
    for index in range(frames):
        picture, labels = sample_frame(rng)
        pictures.append(picture)
        clauses += clauses_of(labels, rng)
        owner += [index] * len(labels)
    return ClauseBatch(
        torch.from_numpy(np.stack(pictures)), torch.tensor(clauses), torch.tensor(owner)
    )


def clauses_of(labels: list[FrameLabels], rng) -> list[list[list[int]]]:
    """Word ids of what every label says, `[labels][1 + NEGATIVES][CLAUSE_WORDS]`; see
    ClauseBatch."""
    return [
        [_ids(label.words), *(_ids(_change(label.words, rng)) for _ in range(NEGATIVES))]
        for label in labels
    ]


def _ids(words: dict[str, str]) -> list[int]:
    found = [WORDS.index(f"{slot}={word}") for slot, word in words.items()]
    return found + [-1] * (CLAUSE_WORDS - len(found))


def _change(words: dict[str, str], rng) -> dict[str, str]:
    """Return the same clause with one word changed."""
    if "digit" in words:
        slot = "digit"
    else:
        slot = str(rng.choice(list(CHANGED), p=list(CHANGED.values())))
    others = [w for w in SLOTS[slot] if w != words[slot]]
    return {**words, slot: others[rng.integers(len(others))]}


def clause_loss(scores: Tensor, owner: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the true clause among changed ones, plus that of its frame among all.

    Args:
        scores: `[B, C, 1 + NEGATIVES]`, of every frame with every clause, the true one first.
        owner: `[C]`, the frame of each clause.

    Returns:
        the loss, and what to log of it.
    """
    clauses = torch.arange(len(owner), device=scores.device)
    own = scores[owner, clauses]  # [C, 1 + NEGATIVES]
    against_words = nn.functional.cross_entropy(own, torch.zeros_like(owner))
    against_frames = nn.functional.cross_entropy(scores[:, :, 0].T, owner)
    told = {
        "loss": (against_words + against_frames).detach(),
        "against_words": against_words.detach(),
        "against_frames": against_frames.detach(),
        "right_words": (own.argmax(-1) == 0).float().mean(),
    }
    return against_words + against_frames, told


class VisionFoundation(L.LightningModule):
    """Late-interaction contrastive training of the small encoder."""

    def __init__(
        self,
        size: WorldVisionConfig | None = None,
        learning_rate: float = 3e-3,
        warmup_steps: int = 40,
        weight_decay: float = 0.02,
        top_patches: int = 4,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.encoder = WorldVisionEncoder(size)
        width = self.encoder.hidden_size
        self.words = nn.Embedding(len(WORDS), width)
        nn.init.normal_(self.words.weight, std=0.1)
        self.project = nn.Linear(width, width, bias=False)

    def scores(self, pixels: Tensor, clauses: Tensor) -> Tensor:
        """Score every frame against every clause: `[B, 3, S, S]`, `[K, W]` ids -> `[B, K]`."""
        patches = self.project(self.encoder(pixels))  # [B, P, D]
        present = (clauses >= 0).unsqueeze(-1)
        texts = (self.words(clauses.clamp(min=0)) * present).sum(1)  # [K, D]
        similarity = patches @ texts.T  # [B, P, K]
        return similarity.topk(self.hparams.top_patches, dim=1).values.mean(1)

    def training_step(self, batch: ClauseBatch, step: int) -> Tensor:
        count, choices, words = batch.clauses.shape
        pixels = self.encoder.preprocess(batch.frames)
        scores = self.scores(pixels, batch.clauses.reshape(count * choices, words))
        scores = scores.view(-1, count, choices)  # [B, C, 1 + negatives]
        loss, told = clause_loss(scores, batch.owner)
        self.log_dict(told, prog_bar=True)
        return loss

    def configure_optimizers(self):
        h = self.hparams
        optimiser = torch.optim.AdamW(
            self.parameters(), lr=h.learning_rate, betas=(0.9, 0.98), weight_decay=h.weight_decay
        )
        total = self.trainer.max_steps

        def factor(step: int) -> float:
            return min((step + 1) / h.warmup_steps, 0.5 * (1 + math.cos(math.pi * step / total)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class FrameWorld(L.LightningDataModule):
    """An endless stream of frames and clauses; batch i is made from the seed and i alone."""

    def __init__(self, seed: int = 1, frames: int = 32):
        super().__init__()
        self.save_hyperparameters()

    def batch(self, step: int) -> ClauseBatch:
        """Make the batch of one step."""
        return make_clause_batch(self.hparams.seed * 10_000_019 + step, self.hparams.frames)

    def train_dataloader(self) -> DataLoader:
        return step_loader(self.batch, self.trainer)
