"""Training of the small Qwen2 vision tower: pictures and pairs of frames of any size.

The paper starts from a ready vision transformer (DFN's) whose fixed positions gave way to a 2-D
RoPE. This is the small world's: the same clause loss as the convolutional encoder's (vision.py),
with media of many sizes in one packed sequence from the first step on.

A plain vision transformer learns shapes slowly here, since nothing tells a patch which patches are
its neighbours. So the heads of the first blocks start out looking at the neighbours of a patch,
the matrices train with Muon, and where nothing moves in a medium of 64 x 64 pixels, the frozen
convolutional encoder's features are guessed too, patch by patch.

Paper: arXiv 2409.12191, section 2.1 (where the vision tower starts from).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from vlmcourse.backbones.foundations import QWEN2_VIT, load_vision_encoder
from vlmcourse.backbones.qwen2_vit import Qwen2Vit, Qwen2VitConfig, patchify
from vlmcourse.backbones.world_vision import WorldVisionConfig, WorldVisionEncoder
from vlmcourse.foundations.steps import step_loader
from vlmcourse.foundations.two_optimisers import rate_factor, step_both, two_optimisers
from vlmcourse.foundations.vision import (
    WORDS,
    FrameLabels,
    clause_loss,
    clauses_of,
    frame_labels,
    sample_moment,
)
from vlmcourse.media.transforms import normalise_frames
from vlmcourse.world.render import render_frame

FRAME_GAP_S = 0.5
"""Seconds between the two frames of a patch: two frames a second."""
HOME = (64, 64)
"""Width and height of the world's films in pixels."""
SIDES = (32, 48, 48, 64, 64, 80, 96, 96, 112, 128)
"""Sides that other sizes are drawn from, as often as they stand here."""
_SIDES = ((-1, 0), (1, 0), (0, -1), (0, 1))
_CORNERS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
LOOKS = (_SIDES, _CORNERS, _SIDES)
"""Where heads 0, 1, 2, 3, 0, ... of the first blocks look at first: rows and columns away."""


def sample_medium(
    rng, size: tuple[int, int] = HOME, film: bool = False, held_out: str = "exclude"
) -> tuple[np.ndarray, list[FrameLabels]]:
    """Draw two frames uint8 `[2, height, width, 3]` and their labels, mostly during an event.

    A picture is the same frame twice. The frames of a film are half a second apart in one second,
    in which only a slide changes anything; the labels are of the middle.

    Args:
        size: (width, height) in pixels, multiples of 16.
    """
    story, time_s = sample_moment(rng, held_out)
    if not film:
        frame = render_frame(story, time_s, *size)
        return np.stack([frame, frame]), frame_labels(story, time_s)
    second = math.floor(time_s)
    first_s = second + (time_s - second) * (1 - FRAME_GAP_S)
    frames = [render_frame(story, t, *size) for t in (first_s, first_s + FRAME_GAP_S)]
    return np.stack(frames), frame_labels(story, first_s + FRAME_GAP_S / 2)


@dataclass
class MediaBatch:
    """Media and the clauses that describe them.

    frames: of each medium `[2, H, W, 3]` uint8; clauses and owner as in vision.py: `ClauseBatch`;
    features `[M, 64, 96]`: the teacher's, of the media that `taught` `[M]` numbers, all of the size
    `HOME` and before those of other sizes; None where there are none.
    """

    frames: list[Tensor]
    clauses: Tensor
    owner: Tensor
    taught: Tensor | None = None
    features: Tensor | None = None


def make_media_batch(
    seed: int,
    media: int = 32,
    home: float = 0.5,
    films: float = 0.5,
    other_sizes: int = 4,
    teacher: WorldVisionEncoder | None = None,
) -> MediaBatch:
    """Make one step's batch from its seed alone.

    Args:
        home: share of the media that have the size `HOME`.
        films: share of them that are films.
        other_sizes: how many other sizes the rest has.
        teacher: gives the features of media of the size `HOME` whose frames are equal.
    """
    rng = np.random.default_rng(seed)
    others = [tuple(int(side) for side in rng.choice(SIDES, 2)) for _ in range(other_sizes)]
    frames, clauses, owner = [], [], []
    for index in range(media):
        size = HOME if index < home * media else others[index % other_sizes]
        seen, labels = sample_medium(rng, size, film=bool(rng.random() < films))
        frames.append(torch.from_numpy(seen))
        clauses += clauses_of(labels, rng)
        owner += [index] * len(labels)
    batch = MediaBatch(frames, torch.tensor(clauses), torch.tensor(owner))
    at_home = range(math.ceil(home * media))
    still = [n for n in at_home if torch.equal(*frames[n])] if teacher is not None else []
    if still:
        batch.taught = torch.tensor(still)
        batch.features = taught_features(teacher, torch.stack([frames[n][0] for n in still]))
    return batch


@torch.no_grad()
def taught_features(teacher: WorldVisionEncoder, frames: Tensor) -> Tensor:
    """The teacher's normalised features `[M, 64, 96]` of frames `[M, 64, 64, 3]`, in the tower's
    order: the four patches of a merge block one after the other."""
    rows = teacher(teacher.preprocess(frames)).unflatten(1, (4, 2, 4, 2))
    return F.layer_norm(rows.transpose(2, 3).flatten(1, 4), rows.shape[-1:])


def pack_media(frames: Sequence[Tensor], config: Qwen2VitConfig) -> tuple[Tensor, Tensor]:
    """Media `[T, H, W, 3]` uint8 to patches one behind another, `[N, patch]`, and grids `[V, 3]`,
    as Qwen2-VL's processor makes them."""
    sizes = config.patch_size, config.temporal_patch, config.merge
    cut = [
        patchify(normalise_frames(f.permute(3, 0, 1, 2)).transpose(0, 1), *sizes) for f in frames
    ]
    patches, grids = zip(*cut)
    return torch.cat(patches), torch.stack(grids)


def build_qwen2_vit(config: Qwen2VitConfig = QWEN2_VIT, strength: float = 4.0) -> Qwen2Vit:
    """Build the tower with random weights and first blocks that look at neighbours.

    Args:
        strength: of the looks, in units of attention's logits a frequency; 0 for none.
    """
    vit = Qwen2Vit(config)
    for module in vit.modules():
        if isinstance(module, nn.Linear):
            module.reset_parameters()  # wider than the published 0.02, which suits 1280 channels
    for block, looks in zip(vit.blocks, LOOKS):
        look_at_neighbours(block.attention, config, looks, strength)
    return vit


def look_at_neighbours(
    attention: nn.Module,
    config: Qwen2VitConfig,
    looks: Sequence[tuple[float, float]],
    strength: float,
) -> None:
    """Set biases so that head h first attends `looks[h]` (rows, columns) away from itself.

    A constant query and a constant key give logits that depend on the distance alone, since both
    are turned by their places: cos(f (distance - look)) for each frequency f. The slow frequencies
    are left alone.
    """
    head_dim = config.width // config.heads
    count = head_dim // 4  # frequencies an axis
    frequencies = config.rope_theta ** (-torch.arange(count) / count)
    size = strength**0.5 * head_dim**0.25 * (frequencies > 0.15)  # [F]
    query = torch.zeros(config.heads, 2, 2, count)  # heads, halves of a pair, axes, frequencies
    key = torch.zeros_like(query)
    for head in range(config.heads):
        for axis, steps in enumerate(looks[head % len(looks)]):
            query[head, 0, axis] = size
            key[head, 0, axis] = size * torch.cos(steps * frequencies)
            key[head, 1, axis] = -size * torch.sin(steps * frequencies)
    opening = torch.cat([query.flatten(), key.flatten(), torch.zeros(config.width)])
    attention.qkv.bias.data.add_(opening)


def imitation_loss(guessed: Tensor, features: Tensor) -> Tensor:
    """Mean squared error of guessed features, both `[M, P, D]`.

    A patch counts by how far it is from its frame's mean patch: most show nothing.
    """
    with torch.no_grad():
        apart = (features - features.mean(1, keepdim=True)).square().mean(-1)  # [M, P]
        weights = 0.3 + apart / apart.mean(1, keepdim=True)
    return ((guessed - features).square().mean(-1) * weights).mean() / weights.mean()


class Qwen2VitFoundation(L.LightningModule):
    """Late-interaction contrastive training of the small vision tower.

    The matrices of the blocks train with Muon, everything else with AdamW. The learning rate is
    constant, then falls to a tenth linearly.
    """

    def __init__(
        self,
        size: Qwen2VitConfig | None = None,
        strength: float = 4.0,
        muon_rate: float = 0.01,
        adam_rate: float = 2e-3,
        warmup_steps: int = 40,
        falls_from: float = 0.4,
        weight_decay: float = 0.02,
        top_patches: int = 4,
        imitation: float = 3.0,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.encoder = build_qwen2_vit(size or QWEN2_VIT, strength)
        width = self.encoder.hidden_size
        self.norm = nn.LayerNorm(width)  # where the merger's will stand
        self.project = nn.Linear(width, width, bias=False)
        self.words = nn.Embedding(len(WORDS), width)
        nn.init.normal_(self.words.weight, std=0.1)
        self.guess = nn.Linear(width, WorldVisionConfig().hidden_size)

    def tokens(self, frames: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """Normalised features `[N, D]` of media `[2, H, W, 3]`, and how many each has."""
        patches, grids = pack_media(frames, self.encoder.config)
        return self.norm(self.encoder(patches, grids)), grids.prod(1).tolist()

    def scores(self, tokens: Tensor, counts: list[int], clauses: Tensor) -> Tensor:
        """Score V media `[N, D]` against every clause `[K, W]` -> `[V, K]`."""
        present = (clauses >= 0).unsqueeze(-1)
        texts = (self.words(clauses.clamp(min=0)) * present).sum(1)  # [K, D]
        similarity = (texts @ self.project(tokens).T).split(counts, dim=1)  # V of [K, patches]
        best = [part.topk(self.hparams.top_patches, dim=1).values.mean(1) for part in similarity]
        return torch.stack(best)

    def training_step(self, batch: MediaBatch, step: int) -> None:
        count, choices, words = batch.clauses.shape
        tokens, counts = self.tokens(batch.frames)
        scores = self.scores(tokens, counts, batch.clauses.reshape(count * choices, words))
        loss, told = clause_loss(scores.view(-1, count, choices), batch.owner)
        if batch.features is not None:
            home = torch.stack(tokens.split(counts)[: int(batch.taught.max()) + 1])[batch.taught]
            told["imitation"] = imitation_loss(self.guess(home), batch.features)
            loss = loss + self.hparams.imitation * told["imitation"]
        h, trainer = self.hparams, self.trainer
        factor = rate_factor(trainer.global_step, trainer.max_steps, h.warmup_steps, h.falls_from)
        step_both(self, loss, (h.muon_rate, h.adam_rate), factor)
        told = {name: value.detach() for name, value in told.items()}
        self.log_dict({**told, "loss": loss.detach()}, prog_bar=True)

    def configure_optimizers(self):
        h = self.hparams
        return two_optimisers(self, h.muon_rate, h.adam_rate, h.weight_decay, inside=".blocks.")


class MediaWorld(L.LightningDataModule):
    """An endless stream of media and clauses; batch i is made from the seed and i alone.

    Arguments as in `make_media_batch`; `taught`: the shipped vision encoder is the teacher.
    """

    def __init__(
        self,
        seed: int = 1,
        media: int = 32,
        home: float = 0.5,
        films: float = 0.5,
        other_sizes: int = 4,
        taught: bool = True,
    ):
        super().__init__()
        self.save_hyperparameters()
        self.teacher = load_vision_encoder() if taught else None

    def batch(self, step: int) -> MediaBatch:
        """Make the batch of one step."""
        h = self.hparams
        seed = h.seed * 10_000_019 + step
        return make_media_batch(seed, h.media, h.home, h.films, h.other_sizes, self.teacher)

    def train_dataloader(self) -> DataLoader:
        return step_loader(self.batch, self.trainer)
