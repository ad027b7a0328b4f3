"""What goes into a model: token rows padded to one length, and the media that fill their places."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from vlmcourse.conversation import IGNORED, TEXT, TokenRow
from vlmcourse.parts.packing import PADDING


@dataclass(frozen=True)
class Media:
    """Videos, pictures or sounds of a batch in reading order; a picture is a video of one frame.

    Either `inputs` or `features` is there (or an extra that replaces both). V counts the media of
    the whole batch: it is B only if every row has exactly one.

    Attributes:
        frame_mask: `[V, T]` bool, True where a frame (or stretch of sound) exists; those are first.
        times_s: `[V, T]` float32, the second of each frame; 0 where there is none.
        inputs: what the encoder takes, pixels `[V, T, 3, h, w]` or sound `[V, T, 1, mels, steps]`.
        features: what the frozen encoder gave, `[V, T, P, D]`; may be half precision.
        rows: `[V]` int64 ascending, the row of the batch each medium is in; None means one a row.
        extras: what only one system needs, by name; the first axis is V. They become keyword
            arguments of its `connect`.
    """

    frame_mask: Tensor
    times_s: Tensor
    inputs: Tensor | None = None
    features: Tensor | None = None
    rows: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.frame_mask.shape[0]

    def to(self, device: torch.device | str) -> "Media":
        return _mapped(self, lambda tensor: tensor.to(device, non_blocking=True))

    @property
    def layout(self) -> "Media":
        """The same without what is seen or heard, for positions."""
        return replace(self, inputs=None, features=None)

    def each(self) -> "list[Media]":
        """Every medium alone."""
        return [
            _mapped(replace(self, rows=None), lambda tensor, i=i: tensor[i : i + 1])
            for i in range(len(self))
        ]

    def repeat(self, times: int) -> "Media":
        """The media of one row, once for each of `times` rows (one medium without copying it).

        Raises:
            ValueError: there are media of several rows.
        """
        count = len(self)
        if count != 1 and (self.rows is None or bool(self.rows.any())):
            raise ValueError(f"{count} media cannot be shared by all rows")

        def wide(value: Tensor) -> Tensor:
            if count == 1:
                return value.expand(times, *value.shape[1:])
            return value.repeat(times, *[1] * (value.dim() - 1))

        rows = None
        if count != 1:
            rows = torch.arange(times, device=self.rows.device).repeat_interleave(count)
        return replace(_mapped(replace(self, rows=None), wide), rows=rows)


@dataclass(frozen=True)
class Batch:
    """One step's rows.

    Attributes:
        ids: `[B, L]` int64; places of media hold their placeholder's id.
        attention: `[B, L]` bool, False on padding.
        kinds: `[B, L]` int64, `TEXT`, `PICTURE` or `SOUND` (conversation.py).
        labels: `[B, L]` int64 unshifted, -100 where nothing is trained; None when answering.
        segments: `[B, L]` int64 when rows are packed (parts/packing.py), else None.
        pictures, sounds: the media behind the places of each kind, in reading order.
    """

    ids: Tensor
    attention: Tensor
    kinds: Tensor
    labels: Tensor | None = None
    segments: Tensor | None = None
    pictures: Media | None = None
    sounds: Media | None = None

    def to(self, device: torch.device | str) -> "Batch":
        return _mapped(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        return _mapped(self, lambda tensor: tensor.pin_memory())


def _mapped(record: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A copy of a dataclass with a function applied to all its tensors, nested ones too."""
    changes = {}
    for item in fields(record):
        value = getattr(record, item.name)
        if isinstance(value, dict):
            changes[item.name] = {name: change(tensor) for name, tensor in value.items()}
        elif isinstance(value, Tensor):
            changes[item.name] = change(value)
        elif isinstance(value, Media):
            changes[item.name] = _mapped(value, change)
    return replace(record, **changes)


def collate(
    rows: Sequence[TokenRow],
    pad_id: int,
    pictures: Media | None = None,
    sounds: Media | None = None,
    side: Literal["left", "right"] = "right",
    pad_to: int | None = None,
) -> Batch:
    """Pad token rows to one length.

    Args:
        rows: from `tokenise` or `pack`. If any is packed, `segments` is filled.
        pad_id: id at padded positions (never looked at).
        pictures, sounds: see `Batch`.
        side: "right" for training, "left" for generation (all rows then end together).
        pad_to: length, if a fixed one is wanted; at least that of the longest row.
    """
    length = max([len(row) for row in rows] + [pad_to or 0])

    def padded(name: str, value: int) -> Tensor:
        table = torch.full((len(rows), length), value, dtype=torch.int64)
        for index, row in enumerate(rows):
            start = length - len(row) if side == "left" else 0
            table[index, start : start + len(row)] = torch.tensor(getattr(row, name))
        return table

    segments = padded("segments", PADDING)
    return Batch(
        ids=padded("ids", pad_id),
        attention=segments != PADDING,
        kinds=padded("kinds", TEXT),
        labels=padded("labels", IGNORED),
        segments=segments if bool((segments > 0).any()) else None,
        pictures=pictures,
        sounds=sounds,
    )


def stack_media(items: Sequence[Media], rows: Sequence[int] | None = None) -> Media:
    """Put media together, padding the time axis to the longest with zeros.

    Args:
        items: each holds one or more media; all carry the same optional fields.
        rows: row of the batch of every medium, ascending; None means one medium a row.
    """
    length = max(item.frame_mask.shape[1] for item in items)

    def stacked(name: str) -> Tensor | None:
        values = [getattr(item, name) for item in items]
        if any(value is None for value in values):
            return None
        widened = []
        for value in values:
            missing = length - value.shape[1]
            pad = value.new_zeros(value.shape[0], missing, *value.shape[2:])
            widened.append(torch.cat([value, pad], dim=1) if missing else value)
        return torch.cat(widened)

    extras = {name: torch.cat([item.extras[name] for item in items]) for name in items[0].extras}
    return Media(
        frame_mask=stacked("frame_mask"),
        times_s=stacked("times_s"),
        inputs=stacked("inputs"),
        features=stacked("features"),
        rows=None if rows is None else torch.tensor(rows, dtype=torch.int64),
        extras=extras,
    )


def video_features(features: Tensor, times_s: Tensor | None = None) -> Media:
    """Media of one video from its cached features `[T, P, D]` and frame times `[T]`."""
    return one_medium(features, times_s)


def one_medium(
    values: Tensor,
    times_s: Tensor | None = None,
    encoded: bool = True,
    extras: Mapping[str, Tensor] | None = None,
) -> Media:
    """Media of one video or one sound.

    Args:
        values: features `[T, P, D]`; or what the encoder takes, `[T, ...]`.
        times_s: `[T]`; zeros where nobody cares.
        encoded: which of the two `values` are.
        extras: `[1, ...]` each.
    """
    count = values.shape[0]
    times = torch.zeros(count) if times_s is None else torch.as_tensor(times_s)
    return Media(
        frame_mask=torch.ones(1, count, dtype=torch.bool),
        times_s=times.to(torch.float32)[None],
        **{"features" if encoded else "inputs": values[None]},
        extras=dict(extras or {}),
    )


def joined_streams(found: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The streams of several files, `[T, ...]` each, one file behind the other."""
    if len(found) == 1:
        return dict(found[0])
    names = dict.fromkeys(name for streams in found for name in streams)
    return {n: torch.cat([streams[n] for streams in found if n in streams]) for n in names}
