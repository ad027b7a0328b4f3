"""Frozen features of videos, computed once and kept on disk in half precision.

A cache is a folder `SYSTEM-HASH/` of safetensors shards; the hash covers the weights of all frozen
encoders and the rule that reads a file, so another encoder finds another folder. A clip is kept
under a hash of its file's bytes: a file that changes is computed anew, and splits share what they
have in common. Each clip has one tensor a stream (`VideoLanguageModel.streams`) and the times of
its frames and of its sound; a clip without sound has no stream of sound. Subtitles are not kept:
they are read from their own file when a clip is loaded. Every shard is whole or not there, so a
killed run goes on behind the last shard. Clips that cannot be read are never skipped in silence:
they are counted, named with the reason, and listed in `unreadable.json`.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmcourse.conversation import Template
from vlmcourse.errors import UserError
from vlmcourse.media.errors import MediaError
from vlmcourse.systems.base import VideoLanguageModel
from vlmcourse.systems.processor import Clip, Given, Processor
from vlmcourse.training.weights import fingerprint
from vlmcourse.world.files import whole_file, write_bytes

log = logging.getLogger(__name__)

FORMAT = 2
"""Part of the hash; raised when preprocessing or the layout of shards changes."""
FACTS = ("times_s", "sound_times_s", "duration_s", "grid")
"""What a shard holds of a clip besides its streams."""
UNREADABLE, LOCK = "unreadable.json", ".lock"
WHOLE_MIB = 8
"""Files up to this size are hashed whole, larger ones by size and both ends."""


class CacheError(UserError):
    """Features that cannot be computed or read."""


def no_cues(path: Path) -> tuple[Any, ...]:
    """No subtitles, whatever the file."""
    return ()


@dataclass
class FeatureCache:
    """Features of a list of videos, read from disk clip by clip.

    Attributes:
        folder: the shards.
        keys: the hash of each readable video's bytes.
        unreadable: the reason for each that is not.
        computed: how many clips were computed just now (0 when all was there).
        given: what the clips that are loaded say they are given, as far as they have it.
        read_cues: subtitle cues of a file (`Processor.read_cues`), asked once a video.
    """

    folder: Path
    keys: dict[Path, str]
    unreadable: dict[Path, str]
    computed: int = 0
    given: Given = field(default_factory=Given)
    read_cues: Callable[[Path], tuple[Any, ...]] = no_cues

    def __post_init__(self):
        self._contents = _contents(self.folder)
        self._open: dict[Path, Any] = {}
        self._cues: dict[Path, tuple[Any, ...]] = {}

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": {}}  # file handles stay in their process

    def __contains__(self, video: Path) -> bool:
        return video in self.keys

    def __len__(self) -> int:
        return len(self.keys)

    def streams(self, video: Path) -> tuple[str, ...]:
        """Names of the streams that a video has. Raises CacheError as `load`."""
        _, names = self._contents[self._key(video)]
        return tuple(name for name in names if name not in FACTS)

    def load(
        self, video: Path, streams: Collection[str] | None = None
    ) -> tuple[Clip, dict[str, Tensor]]:
        """The layout facts of a clip (without frames and sound) and its features by stream.

        Args:
            streams: read only these, as far as the video has them; None reads all.

        Returns:
            the clip, and `[T, P, D]` float16 for every stream.

        Raises:
            CacheError: the video is unreadable, or was not among those asked for.
            MediaError: a bad subtitle file.
        """
        from safetensors import safe_open

        key = self._key(video)
        shard, names = self._contents[key]
        if shard not in self._open:
            self._open[shard] = safe_open(shard, "pt")
        get = self._open[shard].get_tensor
        there = self.streams(video)
        if video not in self._cues:
            self._cues[video] = self.read_cues(video)
        clip = Clip(
            get(f"{key}.times_s"),
            duration_s=float(get(f"{key}.duration_s")),
            sound_times_s=get(f"{key}.sound_times_s") if "sound_times_s" in names else None,
            grid=get(f"{key}.grid") if "grid" in names else None,
            cues=self._cues[video],
            given=Given(*(name if name in there else None for name in vars(self.given).values())),
        )
        wanted = there if streams is None else [name for name in streams if name in there]
        return clip, {name: get(f"{key}.{name}") for name in wanted}

    def _key(self, video: Path) -> str:
        if video not in self.keys:
            reason = self.unreadable.get(video, "not in this cache")
            raise CacheError(f"{video}: no features ({reason})")
        return self.keys[video]


def cache_features(
    model: VideoLanguageModel,
    system: str,
    videos: Sequence[Path],
    root: str | Path,
    device: str | torch.device = "cpu",
    shard_clips: int = 64,
    progress: bool = True,
) -> FeatureCache:
    """Compute what is missing, and open the features of these videos.

    Two runs that want the same cache do not compute it twice: the second waits for the first.

    Args:
        model: with encoders and processor; its frozen encoders are moved to `device` for the work.
        system: its name, for the folder.
        videos: paths; the same may stand there several times.
        root: folder of all caches.
        shard_clips: clips a file; at most so much work is lost when a run is killed.

    Raises:
        CacheError: none of the videos can be read, or a video is not there.
    """
    folder = Path(root) / f"{system}-{features_hash(model)}"
    folder.mkdir(parents=True, exist_ok=True)
    keys = {video: file_key(video) for video in dict.fromkeys(videos)}
    with one_writer(folder):
        known = _contents(folder)
        missing = {key: video for video, key in keys.items() if key not in known}
        reasons = _compute(model, folder, missing, device, shard_clips, progress)
    unreadable = {video: reasons[key] for video, key in keys.items() if key in reasons}
    if unreadable:
        _tell(folder, unreadable, len(keys))
    readable = {video: key for video, key in keys.items() if key not in reasons}
    computed = len(missing) - len(reasons)
    processor = model.processor
    return FeatureCache(
        folder, readable, unreadable, computed, processor.given, processor.read_cues
    )


def _tell(folder: Path, unreadable: dict[Path, str], total: int) -> None:
    """Warn about clips that cannot be read, and list all of them beside the shards.

    Raises:
        CacheError: there is no clip that can be read.
    """
    write_bytes(
        folder / UNREADABLE,
        json.dumps({str(video): why for video, why in unreadable.items()}, indent=1).encode(),
    )
    told = "; ".join(f"{video.name} ({why})" for video, why in list(unreadable.items())[:8])
    text = f"{len(unreadable)} of {total} videos cannot be read: {told}"
    if len(unreadable) == total:
        raise CacheError(text)
    log.warning("%s; all of them: %s", text, folder / UNREADABLE)


def _compute(
    model: VideoLanguageModel,
    folder: Path,
    missing: dict[str, Path],
    device: str | torch.device,
    shard_clips: int,
    progress: bool,
) -> dict[str, str]:
    """Write shards for all missing clips -> the reason for every key that could not be read."""
    from tqdm import tqdm

    unreadable: dict[str, str] = {}
    todo = list(missing.items())
    if not todo:
        return unreadable
    with (
        _at_work(frozen_encoders(model).values(), device),
        tqdm(
            total=len(todo), desc="features", unit="clip", mininterval=1, disable=not progress
        ) as bar,
    ):
        for start in range(0, len(todo), shard_clips):
            tensors: dict[str, Tensor] = {}
            for key, video in todo[start : start + shard_clips]:
                try:
                    tensors |= _clip_tensors(model, video, key)
                except MediaError as error:
                    unreadable[key] = error.reason
                bar.update()
            if tensors:
                _write_shard(folder, tensors)
    return unreadable


@contextmanager
def _at_work(encoders: Iterable[nn.Module], device: str | torch.device) -> Iterator[None]:
    """Encoders on a device and in eval mode; afterwards they are as they were."""
    before = [(e, next(e.parameters()).device, e.training) for e in encoders]
    try:
        for encoder, _, _ in before:
            encoder.to(device).eval()
        yield
    finally:
        for encoder, home, was_training in before:
            encoder.to(home).train(was_training)


def _clip_tensors(model: VideoLanguageModel, video: Path, key: str) -> dict[str, Tensor]:
    clip = model.processor.read(video)
    tensors = {
        "times_s": clip.times_s.to(torch.float32),
        "duration_s": torch.tensor(clip.duration_s, dtype=torch.float64),
    }
    if clip.sound_times_s is not None:
        tensors["sound_times_s"] = clip.sound_times_s.to(torch.float32)
    if clip.grid is not None:
        tensors["grid"] = clip.grid.to(torch.int64)
    for name, features in model.streams(clip).items():
        tensors[name] = features.to("cpu", torch.float16)  # [T, P, D]
        if not bool(tensors[name].isfinite().all()):
            raise CacheError(f"{video}: features ({name}) do not fit half precision")
    return {f"{key}.{name}": value.contiguous() for name, value in tensors.items()}


def _write_shard(folder: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    taken = [int(path.stem) for path in folder.glob("*.safetensors")]
    with whole_file(folder / f"{max(taken, default=-1) + 1:05d}.safetensors") as part:
        save_file(tensors, part)


def _contents(folder: Path) -> dict[str, tuple[Path, set[str]]]:
    """The shard of every clip and the names of what it holds of it; a damaged shard (a full disk,
    say) is removed and its clips are missing."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, tuple[Path, set[str]]] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(shard, "pt") as file:
                held = [name.split(".", 1) for name in list(file.keys())]
        except (OSError, SafetensorError) as error:
            log.warning("%s is damaged (%s): its clips are computed again", shard, error)
            shard.unlink(missing_ok=True)
            continue
        for key, name in held:
            found.setdefault(key, (shard, set()))[1].add(name)
    return found


def frozen_encoders(model: VideoLanguageModel) -> dict[str, nn.Module]:
    """The encoders that features come from, by name. Raises CacheError if there are none."""
    encoders = {name: part for name, part in model.frozen_encoders().items() if part is not None}
    if not encoders or model.processor is None:
        raise CacheError("a model without encoder or processor computes no features")
    return encoders


def features_hash(model: VideoLanguageModel) -> str:
    """A hash of what decides a clip's features: the encoders, their weights, and the rule that
    reads a file."""
    parts = [str(FORMAT)]
    for name, encoder in sorted(frozen_encoders(model).items()):
        told = (type(encoder).__qualname__, repr(getattr(encoder, "config", "")))
        parts += [name, *told, fingerprint(encoder.state_dict())]
    rule = json.dumps(reading_rule(model.processor), sort_keys=True)
    parts += [type(model.processor).__qualname__, rule]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def reading_rule(processor: Processor) -> dict[str, str]:
    """The plain settings of a processor that may change what it reads from a file.

    Templates are left out, and what the processor's `layout_only` names.
    """
    plain: dict[str, str] = {}

    def collect(prefix: str, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if name in processor.layout_only or isinstance(value, (Template, Given)):
                continue
            if is_dataclass(value):
                collect(f"{prefix}{name}.", {f.name: getattr(value, f.name) for f in fields(value)})
            elif value is None or isinstance(value, (str, int, float, bool, tuple)):
                plain[prefix + name] = repr(value)

    collect("", vars(processor))
    return plain


def file_key(path: Path) -> str:
    """A hash of a file's bytes (of both ends and the size above `WHOLE_MIB`).

    Raises:
        CacheError: the file is not there.
    """
    end = 1024 * 1024
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            if size <= WHOLE_MIB * end:
                content = file.read()
            else:
                content = file.read(end) + str(size).encode()
                file.seek(max(size - end, 0))
                content += file.read(end)
    except OSError as error:
        raise CacheError(f"{path}: {error.strerror or error}") from error
    return hashlib.sha256(content).hexdigest()[:24]


@contextmanager
def one_writer(folder: Path, waiting: Callable[..., None] = log.warning) -> Iterator[None]:
    """Hold the folder's lock, which a killed process loses by itself; none on systems without."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(folder / LOCK, "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting("%s is being written by another process: waiting for it", folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
