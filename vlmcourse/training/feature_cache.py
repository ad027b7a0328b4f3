"""Frozen features of videos, computed once and kept on disk in half precision.

A cache is a folder `SYSTEM-HASH/` of safetensors shards; the hash covers the encoder's weights and
the rule that picks frames, so another encoder finds another folder. A clip is kept under a hash of
its file's bytes: a file that changes is computed anew, and splits share what they have in common.
Every shard is whole or not there, so a killed run goes on behind the last shard. Clips that cannot
be read are never
skipped in silence: they are counted, named with the reason, and listed in `unreadable.json`.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmcourse.conversation import Template
from vlmcourse.errors import UserError
from vlmcourse.media.errors import MediaError
from vlmcourse.systems.base import VideoLanguageModel
from vlmcourse.systems.processor import Clip, Processor
from vlmcourse.training.weights import fingerprint
from vlmcourse.world.files import whole_file, write_bytes

log = logging.getLogger(__name__)

FORMAT = 1
"""Part of the hash; raised when preprocessing or the layout of shards changes."""
UNREADABLE, LOCK = "unreadable.json", ".lock"
WHOLE_MIB = 8
"""Files up to this size are hashed whole, larger ones by size and both ends."""


class CacheError(UserError):
    """Features that cannot be computed or read."""


@dataclass
class FeatureCache:
    """Features of a list of videos, read from disk clip by clip.

    Attributes:
        folder: the shards.
        keys: the hash of each readable video's bytes.
        unreadable: the reason for each that is not.
        computed: how many clips were computed just now (0 when all was there).
    """

    folder: Path
    keys: dict[Path, str]
    unreadable: dict[Path, str]
    computed: int = 0

    def __post_init__(self):
        self._shards = _shards_by_key(self.folder)
        self._open: dict[Path, Any] = {}

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": {}}  # file handles stay in their process

    def __contains__(self, video: Path) -> bool:
        return video in self.keys

    def __len__(self) -> int:
        return len(self.keys)

    def load(self, video: Path) -> tuple[Clip, Tensor]:
        """The layout facts of a clip (without its frames) and its features `[T, P, D]` float16.

        Raises:
            CacheError: the video is unreadable, or was not among those asked for.
        """
        from safetensors import safe_open

        if video not in self.keys:
            reason = self.unreadable.get(video, "not in this cache")
            raise CacheError(f"{video}: no features ({reason})")
        key = self.keys[video]
        shard = self._shards[key]
        if shard not in self._open:
            self._open[shard] = safe_open(shard, "pt")
        get = self._open[shard].get_tensor
        clip = Clip(get(f"{key}.times_s"), None, float(get(f"{key}.duration_s")))
        return clip, get(f"{key}.features")


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
        model: with encoder and processor; the encoder is moved to `device` for the work.
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
        known = _shards_by_key(folder)
        missing = {key: video for video, key in keys.items() if key not in known}
        reasons = _compute(model, folder, missing, device, shard_clips, progress)
    unreadable = {video: reasons[key] for video, key in keys.items() if key in reasons}
    if unreadable:
        _tell(folder, unreadable, len(keys))
    readable = {video: key for video, key in keys.items() if key not in reasons}
    return FeatureCache(folder, readable, unreadable, len(missing) - len(reasons))


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
    encoder = model.vision_encoder
    if not todo:
        return unreadable
    if encoder is None or model.processor is None:
        raise CacheError("a model without encoder or processor computes no features")
    home = next(encoder.parameters()).device
    was_training = encoder.training
    encoder.to(device).eval()
    try:
        with tqdm(
            total=len(todo), desc="features", unit="clip", mininterval=1, disable=not progress
        ) as bar:
            for start in range(0, len(todo), shard_clips):
                tensors: dict[str, Tensor] = {}
                for key, video in todo[start : start + shard_clips]:
                    try:
                        tensors |= _clip_tensors(model, video, key, device)
                    except MediaError as error:
                        unreadable[key] = error.reason
                    bar.update()
                if tensors:
                    _write_shard(folder, tensors)
    finally:
        encoder.to(home).train(was_training)
    return unreadable


@torch.no_grad()
def _clip_tensors(
    model: VideoLanguageModel, video: Path, key: str, device: str | torch.device
) -> dict[str, Tensor]:
    clip = model.processor.read(video)
    pixels = model.vision_encoder.preprocess(clip.frames)
    features = model.encode_frames(pixels.to(device)).to("cpu", torch.float16)  # [T, P, D]
    if not bool(features.isfinite().all()):
        raise CacheError(f"{video}: features do not fit half precision")
    return {
        f"{key}.features": features.contiguous(),
        f"{key}.times_s": clip.times_s.to(torch.float32),
        f"{key}.duration_s": torch.tensor(clip.duration_s, dtype=torch.float64),
    }


def _write_shard(folder: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    taken = [int(path.stem) for path in folder.glob("*.safetensors")]
    with whole_file(folder / f"{max(taken, default=-1) + 1:05d}.safetensors") as part:
        save_file(tensors, part)


def _shards_by_key(folder: Path) -> dict[str, Path]:
    """The shard of every clip; a damaged shard (a full disk, say) is removed and its clips are
    missing."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Path] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(shard, "pt") as file:
                names = list(file.keys())
        except (OSError, SafetensorError) as error:
            log.warning("%s is damaged (%s): its clips are computed again", shard, error)
            shard.unlink(missing_ok=True)
            continue
        found |= {name.removesuffix(".features"): shard for name in names if "features" in name}
    return found


def features_hash(model: VideoLanguageModel) -> str:
    """A hash of what decides a clip's features: encoder, its weights, and the rule that picks
    frames."""
    encoder = model.vision_encoder
    if encoder is None or model.processor is None:
        raise CacheError("a model without encoder or processor computes no features")
    parts = [
        str(FORMAT),
        type(encoder).__qualname__,
        repr(getattr(encoder, "config", "")),
        fingerprint(encoder.state_dict()),
        type(model.processor).__qualname__,
        json.dumps(frame_rule(model.processor), sort_keys=True),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def frame_rule(processor: Processor) -> dict[str, str]:
    """The plain settings of a processor, without templates: what may change the frames it picks."""
    plain: dict[str, str] = {}

    def collect(prefix: str, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if is_dataclass(value) and not isinstance(value, Template):
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
