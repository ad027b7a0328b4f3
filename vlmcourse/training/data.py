"""Training data as batches: the questions of one video share its tokens, and batch i is always
batch i.

A batch is a pure function of the seed and its number, so a run that was killed sees the same
batches as one that was not.
"""

import hashlib
import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from vlmcourse.conversation import Conversation, TokenRow, Turn
from vlmcourse.errors import UserError
from vlmcourse.media.errors import MediaError
from vlmcourse.row_packing import pack
from vlmcourse.systems.base import VideoLanguageModel, Watched
from vlmcourse.systems.batch import Batch, Media, collate, joined_streams, stack_media
from vlmcourse.systems.processor import Clip, Given
from vlmcourse.training.clip_memory import ClipMemory
from vlmcourse.training.feature_cache import FeatureCache, cache_features
from vlmcourse.training.instruction_data import VIDEO_TOKEN, Sample
from vlmcourse.training.order import Draws, Order
from vlmcourse.training.sources import FORMS, Source, located

log = logging.getLogger(__name__)

SHOWN = 8
"""Names that a warning spells out."""
ROWS_KEPT = 50_000
"""Token rows in memory at most: about 2 kB each in the small world."""


class LacksStream(MediaError):
    """A file has nothing of a kind that the model is given, sound perhaps."""

    def __init__(self, path: Path, streams: str):
        super().__init__(path, f"it has no {streams}")
        self.streams = streams


@dataclass(frozen=True)
class Part:
    """Samples that whole batches are drawn from: those of one source, or of all together."""

    samples: list[Sample]
    order: Order
    units_per_batch: int


class VideoInstructionData(pl.LightningDataModule):
    """Batches of conversations and captions about videos and pictures, and of texts.

    Args:
        train: where they come from; either all sources have a weight or none has.
        val: the same for the validation loss; none is measured without. Weights play no part.
        questions_per_video: conversations that share a video's tokens in one row
            (parts/packing.py); 1 is one conversation a row, as in the official codes. Numbers are
            the same, packing is faster. Where the connector reads the question, so many about one
            video stand in a batch together, each in a row of its own.
        accumulate: parts in which a step's batch goes through the model; of a mixture, each part is
            drawn from a source of its own.
        cache: folder of frozen features; None computes those of every batch anew, which is needed
            when the encoder trains.
        memory_mib: without a cache, decoded clips are kept in memory up to this much, unless
            reading for training leaves something to chance. It changes no number.
        val_videos: videos that the validation loss looks at, the first ones.
        given: what of a video the model is given; None means what its processor says.
    """

    def __init__(
        self,
        train: list[Source],
        val: list[Source] | None = None,
        questions_per_video: int = 1,
        accumulate: int = 1,
        cache: Path | None = Path("data/cache"),
        val_videos: int = 64,
        given: Given | None = None,
        memory_mib: float = 512,
    ):
        super().__init__()
        if questions_per_video < 1 or accumulate < 1:
            raise UserError("questions_per_video and accumulate must be at least 1")
        weights = [source.weight for source in train]
        if any(weight is not None and not weight > 0 for weight in weights):
            raise UserError("a source's weight must be above 0")
        if len({weight is None for weight in weights}) > 1:
            raise UserError("either every source of data.train has a weight, or none has")
        self.sources, self.val_sources = train, val or []
        self.questions_per_video, self.accumulate = questions_per_video, accumulate
        self.cache_root, self.val_videos, self.given = cache, val_videos, given
        self.unreadable: dict[Path, str] = {}
        self.lacking: dict[Path, str] = {}
        """Clips that lack a stream that the model is given (silent ones), and which."""
        self.cache: FeatureCache | None = None
        self._rows: dict[Sample, TokenRow] = {}
        self._memory = ClipMemory(memory_mib)

    @property
    def mixes(self) -> bool:
        """Whether each batch comes from one source, drawn by weight."""
        return self.sources[0].weight is not None

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
            model: whose processor makes rows, and whose encoders make features.
            system: its name, for the cache.
            batch_size: conversations a step.
            seed: of the order.
            max_length: cut rows at the right; a row that would lose video places is an error.

        Raises:
            UserError: files that cannot be used; see `Source` and `cache_features`.
        """
        self.model, self.max_length, self.batch_size = model, max_length, batch_size
        self._rows.clear()
        self.seed, self.given = seed, self.given or model.processor.given
        if self.cache_root is not None and encoder_trains(model):
            raise UserError("the encoder trains, so its features cannot be cached: data.cache=null")
        read = [source.samples() for source in self.sources]
        val = [s for source in self.val_sources for s in source.samples()]
        if not model.processor.takes_several:
            for several in (s for samples in (*read, val) for s in samples if s.others):
                names = ", ".join(file.name for file in several.files)
                raise UserError(f"{system} takes one picture or video a conversation, not {names}")
        kept = set(list(dict.fromkeys(s.shared for s in val))[: self.val_videos])
        val = [s for s in val if s.shared in kept]
        videos = [file for samples in (*read, val) for s in samples for file in s.files]
        if self.cache_root is not None and videos:
            self.cache = cache_features(
                model, system, videos, located(self.cache_root), device, progress=progress
            )
            self.unreadable = dict(self.cache.unreadable)
            read = [self._usable(x, source) for x, source in zip(read, self.sources, strict=True)]
            val = self._usable(val, self.val_sources[0]) if val else val
        if self.mixes:
            self.draws = Draws([source.weight for source in self.sources], seed)
            self.parts = [self._part(x, [seed, number]) for number, x in enumerate(read)]
        else:
            self.parts = [self._part([s for samples in read for s in samples], seed)]
        self.val_part = self._part(val, 0) if val else None

    def _usable(self, samples: list[Sample], source: Source) -> list[Sample]:
        """Samples of clips that can be read and have every stream that the model is given."""
        path = located(source.json)
        samples = [s for s in samples if all(file in self.cache for file in s.files)]
        if not samples:
            raise UserError(f"{path}: none of its videos can be read")
        lacking = {}
        for video in dict.fromkeys(file for s in samples for file in s.files):
            missing = lacks(self.given, self.cache.streams(video))
            if missing:
                lacking[video] = missing
        self.lacking |= lacking
        kept = [s for s in samples if lacking.keys().isdisjoint(s.files)]
        if lacking:
            told = f"{len(lacking)} videos have no {', '.join(sorted(set(lacking.values())))}"
            names = ", ".join(video.name for video in list(lacking)[:SHOWN])
            more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
            if not kept:
                first = next(iter(lacking))
                some = ", ".join(sorted(self.cache.streams(first)))
                raise UserError(f"{path}: all {told}; {first.name} has {some}")
            count = len(samples) - len(kept)
            log.warning("%s: %d samples left out, for %s: %s%s", path, count, told, names, more)
        return kept

    def _part(self, samples: list[Sample], seed: int | Sequence[int]) -> Part:
        order = Order([s.shared for s in samples], self.questions_per_video, seed)
        units = max(1, round(self.batch_size / order.unit_size / self.accumulate))
        return Part(samples, order, units)

    def steps_per_epoch(self) -> int:
        """Steps until every conversation was seen once.

        Raises:
            UserError: the data is a mixture, which has no such number.
        """
        if self.mixes:
            raise UserError(
                "a mixture of sources has no epochs of its own: say model.stage.steps, or "
                "model.stage.iterations_per_epoch"
            )
        part = self.parts[0]
        return -(-part.order.units_per_epoch // (part.units_per_batch * self.accumulate))

    def media(
        self,
        video: Path,
        draw: int | None = None,
        form: str = FORMS[0],
        others: Sequence[Path] = (),
    ) -> Watched:
        """The layout facts of a video, and what the model is given of it: cached features, or what
        the encoders take.

        Args:
            draw: without a cache, read the file as the system's training does
                (`Processor.read_for_training`); None reads it as for questions.
            form: see `Source`.
            others: further files of the same conversation.

        Raises:
            MediaError: without a cache, for a file that cannot be read or lacks what is given.
        """
        read = [self._read(file, draw, form) for file in (video, *others)]
        first, *further = (clip for clip, _ in read)
        clip = replace(first, others=tuple(further)).given_as(self.given)
        streams = joined_streams([streams for _, streams in read])
        return Watched(clip, *self.model.media(streams, clip, self.cache is not None))

    def _read(self, video: Path, draw: int | None, form: str) -> tuple[Clip, dict[str, Tensor]]:
        """One file: its layout facts, and its features or what the encoders take."""
        if self.cache is not None:
            wanted = [name for name in (self.given.pictures, self.given.sounds) if name]
            return self.cache.load(video, wanted)
        processor = self.model.processor
        if draw is None or not processor.draws:
            clip = self._memory.get(video, processor.read)
        else:
            clip = processor.read_for_training(video, draw, form)
        streams = self.model.stream_inputs(clip)
        if missing := lacks(self.given, streams):
            raise LacksStream(video, missing)
        return clip, streams

    def batch(self, index: int) -> Batch:
        """The batch `index` of the stream (of `accumulate` batches a step).

        Without a cache a video that turns out to be unreadable, or to lack what the model is given,
        leaves the batch, is warned about once, and is listed in `unreadable` or `lacking`.

        Raises:
            UserError: no video of the batch can be read.
        """
        number, earlier = self.draws(index) if self.mixes else (0, index)
        return self._batch(self.parts[number], earlier * self.parts[number].units_per_batch, index)

    def _batch(self, part: Part, start: int, index: int, count: int | None = None) -> Batch:
        """`count` units of a part (usually a batch's) from a place of its stream on.

        `index` decides what is drawn at random within the batch.
        """
        rng = np.random.default_rng([self.seed, index])
        units = part.order.units(start, count or part.units_per_batch)
        rows, seen = [], []
        for unit in units:
            samples = [part.samples[i] for i in unit]
            draw, *draws = rng.integers(2**31, size=1 + len(samples)).tolist()
            video, form = samples[0].video, samples[0].form
            try:
                draw = None if part is self.val_part else draw
                others = samples[0].others
                watched = None if video is None else self.media(video, draw, form, others)
            except MediaError as error:
                lacks_stream = isinstance(error, LacksStream)
                listed, bad = self.lacking if lacks_stream else self.unreadable, error.path or video
                if bad not in listed:
                    log.warning("left out of training: %s", error)
                listed[bad] = error.streams if lacks_stream else error.reason
                continue
            clip = watched and watched.clip
            made = [self.row(s, clip, draw) for s, draw in zip(samples, draws, strict=True)]
            if watched is not None and self.model.video_depends_on_question:
                rows += made
                seen += self._instructed(watched, samples)
                continue
            rows.append(pack(made) if len(made) > 1 else made[0])
            seen.append(watched)
        if not rows:
            names = ", ".join(sorted({part.samples[unit[0]].video.name for unit in units}))
            raise UserError(f"none of the videos of a batch can be used: {names}")
        pictures, sounds = (self._stacked(seen, kind) for kind in ("pictures", "sounds"))
        return collate(rows, self.model.processor.tokenizer.pad_id, pictures, sounds)

    def _instructed(self, watched: Watched, samples: Sequence[Sample]) -> list[Watched]:
        """Once a question, with the question, for a system whose connector reads it."""
        asked = [self.model.processor.instruction_of(s.turns, s.form) for s in samples]
        media = self.model.question_media(watched, asked)
        parts = [[None] * len(asked) if one is None else one.each() for one in media]
        return [Watched(watched.clip, *both) for both in zip(*parts, strict=True)]

    def _stacked(self, seen: Sequence[Watched | None], kind: str) -> Media | None:
        """The media of one kind of a batch; rows of text (None in `seen`) have none."""
        there = [row for row, watched in enumerate(seen) if watched is not None]
        if not there or getattr(self.given, kind) is None:
            return None
        media = [getattr(seen[row], kind) for row in there]
        rows = [row for row, one in zip(there, media, strict=True) for _ in range(len(one))]
        return stack_media(media, None if rows == list(range(len(seen))) else rows)

    def row(self, sample: Sample, clip: Clip | None, draw: int = 0) -> TokenRow:
        """The row of one sample; `draw` chooses among a system's requests for a caption.

        Args:
            clip: None for a text. Where reading leaves nothing to chance a clip's layout never
                changes, nor does a text, so rows without a draw are kept.
        """
        drawn = self.cache is None and clip is not None and self.model.processor.draws
        if drawn or sample.form == "prompted_caption":
            return self._row(sample, clip, draw)
        if sample not in self._rows:
            if len(self._rows) == ROWS_KEPT:
                self._rows.clear()
            self._rows[sample] = self._row(sample, clip, draw)
        return self._rows[sample]

    def _row(self, sample: Sample, clip: Clip | None, draw: int) -> TokenRow:
        processor = self.model.processor
        longest = sample.max_length or self.max_length
        if clip is None:
            talk = conversation_of(sample)
            return processor.text_row(talk, sample.description, max_length=longest)
        if sample.form == "conversation":
            return processor.row(conversation_of(sample), clip, max_length=longest)
        caption, prompted = sample.turns[1][1], sample.form == "prompted_caption"
        try:
            return processor.caption_row(caption, clip, sample.medium, prompted, draw, longest)
        except ValueError as error:
            raise UserError(f"{sample.video.name}: {error}") from error

    def val_batches(self) -> Iterator[Batch]:
        """All validation conversations once, always in the same order."""
        if self.val_part is None:
            return
        total, step = self.val_part.order.units_per_epoch, self.val_part.units_per_batch
        for start in range(0, total, step):
            yield self._batch(self.val_part, start, start, min(step, total - start))

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


def conversation_of(sample: Sample) -> Conversation:
    """The turns of a sample; a marker stands where a description of a text will."""
    turns = [Turn(role, text) for role, text in sample.turns]
    if sample.description:
        turns[0] = Turn("user", f"{VIDEO_TOKEN}\n{turns[0].text}")
    return Conversation(tuple(turns))


def lacks(given: Given, streams: Collection[str]) -> str:
    """The streams that a model is given but a clip lacks, as text; "" if it has all."""
    wanted = (given.pictures, given.sounds)
    return " and ".join(name for name in wanted if name is not None and name not in streams)


def encoder_trains(model: VideoLanguageModel) -> bool:
    """Whether any weight of a frozen encoder trains after all."""
    encoders = [encoder for encoder in model.frozen_encoders().values() if encoder is not None]
    return any(p.requires_grad for encoder in encoders for p in encoder.parameters())
