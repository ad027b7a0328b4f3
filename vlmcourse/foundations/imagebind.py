"""Training of the small ImageBind: two seconds of sound against a frame that is seen in them.

Sound is live here: every event makes the sound of its action. The pairs of a batch compete with
each other, and several come from one story, so that neither the scene nor a thing's colour tells
them apart, only what happens.
"""

import math
from dataclasses import dataclass

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlmcourse.backbones.foundations import load_vision_encoder
from vlmcourse.backbones.world_imagebind import WorldImageBindConfig, build_world_imagebind
from vlmcourse.foundations.steps import step_loader
from vlmcourse.media.imagebind_audio import sound_clips
from vlmcourse.world.render import render_frame
from vlmcourse.world.sound import render_sound
from vlmcourse.world.story import Story, StorySettings, sample_story

WINDOW_S = 2.0
"""ImageBind hears so much at once."""
SAMPLE_RATE = 16_000
STILL_SHARE = 0.35
"""Chance that a pair's frame shows a moment in which nothing happens."""


@dataclass(frozen=True)
class Pair:
    """A stretch of a story's sound from `start_s` on, and the moment of a frame seen in it."""

    start_s: float
    time_s: float


def sample_pair(story: Story, rng, still_share: float = STILL_SHARE) -> Pair:
    """Draw a moment, mostly one during an event, and a stretch around it, at any offset."""
    if story.events and rng.random() >= still_share:
        event = story.events[rng.integers(len(story.events))]
        time_s = event.start_s + rng.random() * event.length_s
    else:
        still = [s for s in range(story.duration_s) if story.event_at(s) is None]
        time_s = still[rng.integers(len(still))] + rng.random()
    latest_s = min(time_s, story.duration_s - WINDOW_S)
    return Pair(float(rng.uniform(max(0.0, time_s - WINDOW_S), latest_s)), float(time_s))


def mel_window(track: np.ndarray, start_s: float) -> Tensor:
    """Cut two seconds out of a track float32 [S] at 16 kHz -> mel clip `[1, mels, steps]`."""
    first = int(start_s * SAMPLE_RATE)
    window = track[None, first : first + int(WINDOW_S * SAMPLE_RATE)]
    return sound_clips(window, SAMPLE_RATE, clips=1, clip_s=WINDOW_S).mels[0]


@dataclass
class PairBatch:
    """Pair i of a batch: mels `[N, 1, mels, steps]` and frames `[N, S, S, 3]` uint8."""

    mels: Tensor
    frames: Tensor


def make_pair_batch(seed: int, stories: int = 16, pairs: int = 4, size: int = 64) -> PairBatch:
    """Make one step's batch from its seed alone: so many pairs of each of so many stories."""
    rng = np.random.default_rng(seed)
    mels, frames = [], []
    for _ in range(stories):
        story = sample_story(int(rng.integers(2**62)), StorySettings(live_sound=True))
        track = render_sound(story, SAMPLE_RATE)
        for _ in range(pairs):
            pair = sample_pair(story, rng)
            mels.append(mel_window(track, pair.start_s))
            frames.append(render_frame(story, pair.time_s, size, size))
    return PairBatch(torch.stack(mels), torch.from_numpy(np.stack(frames)))


def info_nce(sounds: Tensor, pictures: Tensor) -> Tensor:
    """Cross-entropy of finding each sound's picture and each picture's sound within the batch.

    Paper: ImageBind, arXiv 2305.05665, equation 1, summed over both directions as said below it;
    the mean of the two is taken here.

    Args:
        sounds: `[N, E]`, of length 1 / temperature (the sound encoder's 20).
        pictures: `[N, E]`, of length 1.
    """
    scores = sounds @ pictures.T  # [N, N]
    own = torch.arange(len(scores), device=scores.device)
    cross_entropy = nn.functional.cross_entropy
    return (cross_entropy(scores, own) + cross_entropy(scores.T, own)) / 2


class ImageBindFoundation(L.LightningModule):
    """Contrastive training of the sound encoder and the picture head; the encoder stays frozen."""

    def __init__(
        self,
        size: WorldImageBindConfig | None = None,
        learning_rate: float = 2e-3,
        warmup_steps: int = 40,
        weight_decay: float = 0.05,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.imagebind = build_world_imagebind(load_vision_encoder(), size)

    def training_step(self, batch: PairBatch, step: int) -> Tensor:
        pixels = self.imagebind.vision.preprocess(batch.frames)
        sounds = self.imagebind.embed_sound(batch.mels)
        loss = info_nce(sounds, self.imagebind.embed_pictures(pixels))
        self.log("loss", loss.detach(), prog_bar=True)
        return loss

    def configure_optimizers(self):
        h = self.hparams
        trained = [p for p in self.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(
            trained, lr=h.learning_rate, betas=(0.9, 0.98), weight_decay=h.weight_decay
        )
        total = self.trainer.max_steps

        def factor(step: int) -> float:
            return min((step + 1) / h.warmup_steps, 0.5 * (1 + math.cos(math.pi * step / total)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class PairWorld(L.LightningDataModule):
    """An endless stream of pairs; batch i is made from the seed and i alone.

    Nothing is drawn twice: trials on a fixed pool of pairs did worse on held-out clips.
    """

    def __init__(self, seed: int = 1, stories: int = 16, pairs: int = 4):
        super().__init__()
        self.save_hyperparameters()

    def batch(self, step: int) -> PairBatch:
        """Make the batch of one step."""
        h = self.hparams
        return make_pair_batch(h.seed * 10_000_019 + step, h.stories, h.pairs)

    def train_dataloader(self) -> DataLoader:
        return step_loader(self.batch, self.trainer)
