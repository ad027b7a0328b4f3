"""Instruction data as batches: the questions of one video share its tokens, and batch i is always
batch i.

The batch of a step is a pure function of the seed and the step's number, so a run that was killed
sees the same batches as one that was not. Nothing is kept between steps but what can be read again.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from vlmcourse.conversation import Conversation, Turn, pack
from vlmcourse.errors import UserError
from vlmcourse.media.errors import MediaError
from vlmcourse.systems.base import VideoLanguageModel
from vlmcourse.systems.batch import Batch, Media, collate, stack_media, video_features
from vlmcourse.systems.processor import Clip
from vlmcourse.training.feature_cache import FeatureCache, cache_features
from vlmcourse.training.instruction_data import Sample, read_llava_json

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
"""Relative paths that do not exist from here are looked for in the checkout, as notebooks need
it."""


@dataclass(frozen=True)
class Source:
    """Conversations in one JSON file, about videos in one folder.

    Attributes:
        json: LLaVA's or Video-ChatGPT's form (instruction_data.py).
        videos: folder of the files; None means `clips/` beside the JSON.
        evidence: keep only questions that need one of these ("picture", "motion", ...), where the
            file tells; None keeps all.
        missing: "error", or "skip" to leave out (with a warning that names them) videos that are
            gone.
        limit: use only the first so many videos.
    """

    json: Path
    videos: Path | None = None
    evidence: tuple[str, ...] | None = None
    missing: str = "error"
    limit: int | None = None

    def samples(self) -> list[Sample]:
        """Read the file. Raises InstructionDataError or UserError."""
        path = located(self.json)
        folder = path.parent / "clips" if self.videos is None else located(self.videos)
        samples = read_llava_json(path, folder, self.missing)
        if self.evidence is not None:
            samples = [s for s in samples if s.evidence is None or s.evidence in self.evidence]
        if self.limit is not None:
            kept = set(list(dict.fromkeys(s.video for s in samples))[: self.limit])
            samples = [s for s in samples if s.video in kept]
        if not samples:
            raise UserError(f"{path}: no conversation is left (evidence {self.evidence})")
        return samples

    def checksum(self) -> str:
        """One sha256 for what is read: the world's own where there is a manifest, else of the
        JSON."""
        path = located(self.json)
        manifest = path.parent / "manifest.json"
        if manifest.is_file():
            told = json.loads(manifest.read_text(encoding="utf-8"))
            if path.name in told.get("files", {}):
                return told["data_checksum"]
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from error


def located(path: str | Path) -> Path:
    """A path as given, or the same below the checkout where only that exists."""
    path = Path(path)
    return ROOT / path if not path.exists() and (ROOT / path).exists() else path


def conversation_of(sample: Sample) -> Conversation:
    """The turns of a sample; a system text is dropped, for the template has its own."""
    return Conversation(tuple(Turn(role, text) for role, text in sample.turns if role != "system"))


class Order:
    """Which samples stand together at which place of an endless stream.

    A *unit* is up to `together` samples about one video. An epoch holds every sample once; its
    order comes from the seed and its number alone. A video's samples are dealt to its units as
    evenly as they go.

    Args:
        videos: video of each sample.
        together: samples of one video in a unit.
        seed: of the order.
    """

    def __init__(self, videos: Sequence[Path], together: int, seed: int):
        groups: dict[Path, list[int]] = {}
        for index, video in enumerate(videos):
            groups.setdefault(video, []).append(index)
        self.groups = list(groups.values())
        self.together, self.seed = together, seed
        self.units_per_epoch = sum(-(-len(group) // together) for group in self.groups)
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def epoch(self, number: int) -> list[list[int]]:
        """All units of one epoch, in order."""
        if self._epoch[0] != number:
            rng = np.random.default_rng([self.seed, number])
            units = []
            for group in self.groups:
                shuffled = rng.permutation(group)
                parts = np.array_split(shuffled, -(-len(group) // self.together))
                units.extend([int(i) for i in part] for part in parts)
            self._epoch = (number, [units[i] for i in rng.permutation(len(units))])
        return self._epoch[1]

    def units(self, start: int, count: int) -> list[list[int]]:
        """`count` units from place `start` of the stream on, over the borders of epochs."""
        places = [divmod(i, self.units_per_epoch) for i in range(start, start + count)]
        return [self.epoch(epoch)[place] for epoch, place in places]


class VideoInstructionData(pl.LightningDataModule):
    """Batches of conversations about videos.

    Args:
        train: where the conversations come from.
        val: the same for the validation loss; none is measured without.
        questions_per_video: conversations that share a video's tokens in one row
            (parts/packing.py); 1 is one conversation a row, as in the official codes. Numbers are
            the same, packing is faster.
        accumulate: parts in which a step's batch goes through the model.
        cache: folder of frozen features; None encodes the frames of every batch anew, which is
            needed when the encoder trains.
        val_videos: videos that the validation loss looks at, the first ones.
    """

    def __init__(
        self,
        train: list[Source],
        val: list[Source] | None = None,
        questions_per_video: int = 1,
        accumulate: int = 1,
        cache: Path | None = Path("data/cache"),
        val_videos: int = 64,
    ):
        super().__init__()
        if questions_per_video < 1 or accumulate < 1:
            raise UserError("questions_per_video and accumulate must be at least 1")
        self.sources, self.val_sources = train, val or []
        self.questions_per_video, self.accumulate = questions_per_video, accumulate
        self.cache_root, self.val_videos = cache, val_videos
        self.unreadable: dict[Path, str] = {}
        self.cache: FeatureCache | None = None

    def checksum(self) -> str:
        """One sha256 for all that is read."""
        told = [source.checksum() for source in (*self.sources, *self.val_sources)]
        return told[0] if len(told) == 1 else hashlib.sha256(" ".join(told).encode()).hexdigest()

    def prepare(
        self,
        model: VideoLanguageModel,
        system: str,
        batch_size: int,
        seed: int,
        max_length: int | None = None,
        device: str | torch.device = "cpu",
        progress: bool = True,
    ) -> None:
        """Read the conversations and bring the features into being; called once, before training.

        Args:
            model: whose processor makes rows, and whose encoder makes features.
            system: its name, for the cache.
            batch_size: conversations a step.
            seed: of the order.
            max_length: cut rows at the right; a row that would lose video places is an error.

        Raises:
            UserError: files that cannot be used; see `Source` and `cache_features`.
        """
        self.model, self.max_length, self.batch_size = model, max_length, batch_size
        if self.cache_root is not None and encoder_trains(model):
            raise UserError("the encoder trains, so its features cannot be cached: data.cache=null")
        samples = [s for source in self.sources for s in source.samples()]
        val = [s for source in self.val_sources for s in source.samples()]
        kept = set(list(dict.fromkeys(s.video for s in val))[: self.val_videos])
        val = [s for s in val if s.video in kept]
        if self.cache_root is not None:
            videos = [s.video for s in (*samples, *val)]
            self.cache = cache_features(
                model, system, videos, located(self.cache_root), device, progress=progress
            )
            self.unreadable = dict(self.cache.unreadable)
            samples = [s for s in samples if s.video in self.cache]
            val = [s for s in val if s.video in self.cache]
            if not samples:
                raise UserError("none of the videos to train on can be read")
        self.samples, self.val_samples = samples, val
        self.order = Order([s.video for s in samples], self.questions_per_video, seed)
        together = -(-len(samples) // self.order.units_per_epoch)  # a unit's usual size
        self.units_per_batch = max(1, round(batch_size / together / self.accumulate))

    def steps_per_epoch(self) -> int:
        """Steps until every conversation was seen once."""
        return -(-self.order.units_per_epoch // (self.units_per_batch * self.accumulate))

    def media(self, video: Path) -> tuple[Clip, Media]:
        """The layout facts of a video, and its features or pixels.

        Raises:
            MediaError: without a cache, for a file that cannot be read.
        """
        if self.cache is not None:
            clip, features = self.cache.load(video)
            return clip, video_features(features, clip.times_s)
        clip = self.model.processor.read(video)
        pixels = self.model.vision_encoder.preprocess(clip.frames)[None]  # [1, T, 3, h, w]
        mask = torch.ones(pixels.shape[:2], dtype=torch.bool)
        return clip, Media(mask, clip.times_s[None], inputs=pixels)

    def batch(self, index: int) -> Batch:
        """The batch `index` of the stream (of `accumulate` batches a step).

        Without a cache a video that turns out to be unreadable leaves the batch, is warned about
        once, and is listed in `unreadable`.

        Raises:
            UserError: no video of the batch can be read.
        """
        units = self.order.units(index * self.units_per_batch, self.units_per_batch)
        return self._batch([[self.samples[i] for i in unit] for unit in units])

    def _batch(self, units: Sequence[Sequence[Sample]]) -> Batch:
        rows, media = [], []
        for unit in units:
            video = unit[0].video
            try:
                clip, seen = self.media(video)
            except MediaError as error:
                if video not in self.unreadable:
                    log.warning("left out of training: %s", error)
                self.unreadable[video] = error.reason
                continue
            processor = self.model.processor
            made = [
                processor.row(conversation_of(s), clip, max_length=self.max_length) for s in unit
            ]
            rows.append(pack(made) if len(made) > 1 else made[0])
            media.append(seen)
        if not rows:
            names = ", ".join(sorted({unit[0].video.name for unit in units}))
            raise UserError(f"none of the videos of a batch can be read: {names}")
        return collate(rows, self.model.processor.tokenizer.pad_id, stack_media(media))

    def val_batches(self) -> Iterator[Batch]:
        """All validation conversations once, always in the same order."""
        if not self.val_samples:
            return
        order = Order([s.video for s in self.val_samples], self.questions_per_video, seed=0)
        for start in range(0, order.units_per_epoch, self.units_per_batch):
            count = min(self.units_per_batch, order.units_per_epoch - start)
            units = order.units(start, count)
            yield self._batch([[self.val_samples[i] for i in unit] for unit in units])

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        return batch.to(device)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(_Stream(self), batch_size=None)


class _Stream(IterableDataset):
    """Batches from the step that the trainer stands at; it has no end, the number of steps has
    one."""

    def __init__(self, data: VideoInstructionData):
        self.data = data

    def __iter__(self) -> Iterator[Batch]:
        index = self.data.trainer.global_step * self.data.accumulate
        while True:
            yield self.data.batch(index)
            index += 1


def encoder_trains(model: VideoLanguageModel) -> bool:
    """Whether any weight of the picture encoder trains."""
    encoder = model.vision_encoder
    return encoder is not None and any(p.requires_grad for p in encoder.parameters())
