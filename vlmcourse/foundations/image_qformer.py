"""Pretraining of the image Q-Former on frames of the world: BLIP-2's first stage.

One Q-Former under three masks. Contrast: a clause about one thing has to find its frame, and the
frame its clause, by the best of the queries. Matching: does this clause belong to this frame?
Generation: say everything, thing by thing.

Paper: BLIP-2, arXiv 2301.12597, section 3.2.
Official: salesforce/LAVIS@506965b:lavis/models/blip2_models/blip2_qformer.py.
Differs: contrast and matching read one clause at a time, and clauses with one word changed are
among the negatives: whole captions of a small world are told apart by colours and places alone, and
then nothing of shape is learnt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlmcourse.backbones.foundations import load_vision_encoder
from vlmcourse.backbones.world_qformer import (
    BEGIN,
    COMMA,
    CONTRAST,
    END,
    NUMBER,
    ImageTextQFormer,
    text_ids,
)
from vlmcourse.foundations.steps import step_loader
from vlmcourse.foundations.two_optimisers import rate_factor, step_both, two_optimisers
from vlmcourse.foundations.vision import SLOTS, frame_labels, sample_moment
from vlmcourse.parts.qformer import QFormerConfig
from vlmcourse.world.render import render_frame
from vlmcourse.world.story import COLUMNS, ROWS, Story

Clause = dict[str, str]
"""Words by slot, as in `FrameLabels`."""
CHANGED = {"size": 0.13, "colour": 0.17, "shape": 0.35, "state": 0.25, "row": 0.05, "column": 0.05}
CHANGED_MARK = {"digit": 0.8, "row": 0.1, "column": 0.1}
"""Chance that a hard negative differs in this word."""
TEXT_LENGTH = 7
"""`[CLS]` and the words of the longest clause."""


def clause_words(clause: Clause) -> list[str]:
    """Say one thing, its place first: `top left small red circle still`; a mark: `... number 7`."""
    place = [clause["row"], clause["column"]]
    if "digit" in clause:
        return [*place, NUMBER, clause["digit"]]
    return [*place, *(clause[slot] for slot in ("size", "colour", "shape", "state"))]


def frame_clauses(story: Story, time_s: float) -> list[Clause]:
    """Return what a frame shows in reading order of the places."""
    clauses = [label.words for label in frame_labels(story, time_s)]
    return sorted(clauses, key=lambda c: (ROWS.index(c["row"]), COLUMNS.index(c["column"])))


def caption_words(clauses: Sequence[Clause]) -> list[str]:
    """Say a whole frame: `[DEC]`, its clauses with commas between them, `<end>`."""
    words = [BEGIN]
    for number, clause in enumerate(clauses):
        words += [COMMA] * (number > 0) + clause_words(clause)
    return [*words, END]


def changed_clause(clause: Clause, rng) -> tuple[Clause, str]:
    """Change one word; returns the clause and the slot of that word."""
    chances = CHANGED_MARK if "digit" in clause else CHANGED
    slot = str(rng.choice(list(chances), p=list(chances.values())))
    others = [word for word in SLOTS[slot] if word != clause[slot]]
    return {**clause, slot: others[rng.integers(len(others))]}, slot


@dataclass
class Frames:
    """Frames as the frozen encoder sees them (`[F, P, De]`, float16), and what each one shows."""

    features: Tensor
    clauses: list[list[Clause]]


def encode_moments(encoder, moments: Sequence[tuple[Story, float]], chunk: int = 100) -> Tensor:
    """Render and encode moments of stories: `[F, P, De]` float16."""
    side, parts = encoder.image_size, []
    for first in range(0, len(moments), chunk):
        pictures = [render_frame(s, t, side, side) for s, t in moments[first : first + chunk]]
        with torch.no_grad():
            pixels = encoder.preprocess(torch.from_numpy(np.stack(pictures)))
            parts.append(encoder(pixels).half())
    return torch.cat(parts)


def draw_frames(encoder, count: int, seed: int, held_out: str = "exclude") -> Frames:
    """Draw frames of as many stories from a seed."""
    moments = [sample_moment(np.random.default_rng(seed + i), held_out) for i in range(count)]
    return Frames(encode_moments(encoder, moments), [frame_clauses(s, t) for s, t in moments])


@dataclass
class FrameTextBatch:
    """One step.

    features `[B, P, De]`; captions `[B, L]` ids; texts `[B * (1 + K), TEXT_LENGTH]` ids, first one
    true clause of each frame, then K changed ones for each; holds `[B, B * (1 + K)]` bool: the
    frame shows this text; slots: which word each changed one differs in.
    """

    features: Tensor
    captions: Tensor
    texts: Tensor
    holds: Tensor
    slots: list[str]


def make_batch(frames: Frames, seed: int, size: int = 48, negatives: int = 3) -> FrameTextBatch:
    """Draw a batch from a store of frames; the same seed draws the same."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(frames.clauses), size=size)
    shown = [frames.clauses[i] for i in chosen]
    true = [clauses[rng.integers(len(clauses))] for clauses in shown]
    changed = [changed_clause(clause, rng) for clause in true for _ in range(negatives)]
    texts = [clause_words(c) for c in (*true, *(c for c, _ in changed))]
    said = [{tuple(clause_words(c)) for c in clauses} for clauses in shown]
    return FrameTextBatch(
        frames.features[torch.from_numpy(chosen)].float(),
        text_ids([caption_words(clauses) for clauses in shown]),
        text_ids([[CONTRAST, *words] for words in texts], TEXT_LENGTH),
        torch.tensor([[tuple(words) in known for words in texts] for known in said]),
        [slot for _, slot in changed],
    )


class ImageQFormerFoundation(L.LightningModule):
    """Training of the Q-Former and its heads on the frozen encoder's features.

    Args:
        matched: frames of a batch that the matching loss takes; it costs three passes for each.
        weights: of contrast, matching and generation.
        initial_std: of the layers' matrices; BERT's 0.02 is made for widths of 768.
    """

    def __init__(
        self,
        size: QFormerConfig,
        contrast_width: int = 48,
        weights: tuple[float, float, float] = (0.3, 1.0, 1.0),
        matched: int = 24,
        initial_std: float = 0.08,
        muon_rate: float = 0.01,
        adam_rate: float = 2e-3,
        warmup_steps: int = 40,
        falls_from: float = 0.5,
        weight_decay: float = 0.01,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.model = ImageTextQFormer(size, contrast_width)
        for module in self.model.qformer.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=initial_std)

    def losses(self, batch: FrameTextBatch, seed: int) -> dict[str, Tensor]:
        """Return the three losses; `seed` draws the hard negatives of matching."""
        labels = batch.captions[:, 1:]
        logits, out = self.model.caption_logits(batch.features, batch.captions[:, :-1])
        scores = self.model.similarity(out.tokens, batch.texts) * self.model.log_scale.exp()
        count = len(batch.features)
        own = torch.arange(count, device=scores.device)
        also_true = batch.holds.clone()
        also_true[own, own] = False  # a second true text is no negative
        scores = scores.masked_fill(also_true, -1e4)
        cross_entropy = nn.functional.cross_entropy
        said = labels != 0
        return {
            "contrast": (cross_entropy(scores, own) + cross_entropy(scores[:, :count].T, own)) / 2,
            "matching": self._matching(batch, scores.detach(), seed),
            "generation": cross_entropy(logits[said], labels[said]),
        }

    def _matching(self, batch: FrameTextBatch, scores: Tensor, seed: int) -> Tensor:
        """Every frame with its clause, with a hard clause, and its clause with a hard frame.

        Hard ones are drawn in proportion to the contrastive softmax, as BLIP-2 does.
        """
        count = min(self.hparams.matched, len(batch.features))
        generator = torch.Generator().manual_seed(seed)

        def hard(scores: Tensor, holds: Tensor) -> Tensor:
            chance = scores.softmax(1).masked_fill(holds, 0) + 1e-6 * ~holds
            return torch.multinomial(chance.cpu(), 1, generator=generator)[:, 0].to(own)

        own = torch.arange(count, device=scores.device)
        wrong_text = hard(scores[:count], batch.holds[:count])
        wrong_frame = hard(scores[:, :count].T, batch.holds[:, :count].T)
        logits = self.model.match(
            batch.features[torch.cat([own, own, wrong_frame])],
            batch.texts[torch.cat([own, wrong_text, own])],
        )
        belongs = torch.zeros(3 * count, dtype=torch.long, device=scores.device)
        belongs[:count] = 1
        return nn.functional.cross_entropy(logits, belongs)

    def training_step(self, batch: FrameTextBatch, step: int) -> None:
        h, at = self.hparams, self.trainer.global_step
        losses = self.losses(batch, seed=at)
        loss = sum(w * one for w, one in zip(h.weights, losses.values(), strict=True))
        factor = rate_factor(at, self.trainer.max_steps, h.warmup_steps, h.falls_from)
        step_both(self, loss, (h.muon_rate, h.adam_rate), factor)
        self.log_dict(
            {"loss": loss.detach(), **{name: one.detach() for name, one in losses.items()}},
            prog_bar=True,
        )

    def configure_optimizers(self):
        h = self.hparams
        return two_optimisers(self, h.muon_rate, h.adam_rate, h.weight_decay)


class FrameTextWorld(L.LightningDataModule):
    """A store of encoded frames; batch i is drawn from it by the seed and i alone."""

    def __init__(
        self, seed: int = 1, frames: int = 12_000, batch_size: int = 48, negatives: int = 3
    ):
        super().__init__()
        self.save_hyperparameters()
        self.store: Frames | None = None

    def setup(self, stage: str | None = None) -> None:
        """Render and encode the store, once (about 5 ms a frame)."""
        if self.store is None:
            h = self.hparams
            self.store = draw_frames(load_vision_encoder(), h.frames, h.seed * 100_000_007)

    def batch(self, step: int) -> FrameTextBatch:
        """Make the batch of one step."""
        h = self.hparams
        return make_batch(self.store, h.seed * 10_000_019 + step, h.batch_size, h.negatives)

    def train_dataloader(self) -> DataLoader:
        return step_loader(self.batch, self.trainer)
