"""Speech to timed lines with Whisper, from files in a local folder; nothing is downloaded.

Two runners of the same model: transformers' (a dependency), and faster-whisper's (the extra
`speech`), which is several times quicker on a CPU.
"""

import importlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from vlmcourse.errors import UserError
from vlmcourse.media.subtitles import Cue

RATE = 16000
"""Samples a second that Whisper hears."""
_SHORTEST_S = 0.1  # a rest shorter than this holds no word
_STEP_S = 1.0  # the next window begins at least this much later
_TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_CONVERTED = ("model.bin", "config.json", "tokenizer.json", "vocabulary.*")
"""What faster-whisper needs; without tokenizer.json it would fetch one."""
_STORED = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json|processor_config.json",
    "tokenizer.json|vocab.json",
    "model.safetensors|model.safetensors.index.json|pytorch_model.bin|pytorch_model.bin.index.json",
)
"""What transformers needs; `|` stands between names of which one is enough."""
_INSTALL = "pip install -c constraints.txt -e '.[speech]'"


def open_transcriber(
    folder: str | Path, language: str | None = "en", device: str = "cpu"
) -> "WhisperTranscriber | FasterWhisperTranscriber":
    """The transcriber whose files a folder holds. They are checked, and read when it listens.

    Args:
        folder: Whisper as transformers stores it (`model.safetensors`), or converted for
            faster-whisper (`model.bin`).
        language: code of what is spoken, such as "en" (which the official inference forces); None
            lets the model guess.
        device: "cpu" or "cuda".

    Raises:
        UserError: a folder that holds neither, lacks files, or faster-whisper is not installed.
    """
    kind = FasterWhisperTranscriber if _is_converted(_existing(folder)) else WhisperTranscriber
    return kind(folder, language, device)


class WhisperTranscriber:
    """Whisper through transformers: 30 seconds at a time, each window from where it stopped.

    Paper: 2212.04356, section 3.8 (windows that follow the predicted times; a window that comes
    out repetitive or unlikely is tried again at a higher temperature; silence is passed over).
    Official: MiniGPT4-video uses openai-whisper's "large" in the same way, with English forced.
    Differs: the text of the window before is not given as a beginning (openai-whisper does, which
    can lead it into loops); chance is seeded, so that a sound always gives the same text; a window
    begins at least one second after the one before.

    Args:
        folder: config, generation config, feature extractor, tokenizer and weights (safetensors, or
            a pickle that is read with weights only).
        language: code of what is spoken; None lets the model guess, window by window.
        device: "cpu" or "cuda", where it computes in half precision.

    Raises:
        UserError: the folder lacks files or holds another model, or the language is unknown to it.
    """

    def __init__(self, folder: str | Path, language: str | None = "en", device: str = "cpu"):
        self.folder, self.device = _existing(folder), device
        self.settings = _whisper_settings(self.folder)
        self.language = _spoken(self.folder, self.settings, language)
        self.name = f"{self.folder.name} ({self.language or 'any language'})"

    @cached_property
    def processor(self) -> Any:
        """Sound to mel bands, tokens to text."""
        from transformers import WhisperProcessor

        processor = _loaded(WhisperProcessor, self.folder)
        rate = processor.feature_extractor.sampling_rate
        if rate != RATE:
            raise UserError(f"{self.folder}: hears {rate} samples a second, not {RATE}")
        return processor

    @cached_property
    def model(self) -> Any:
        """In eval mode."""
        import torch
        from transformers import WhisperForConditionalGeneration

        dtype = torch.float16 if self.device.startswith("cuda") else torch.float32
        options = {"weights_only": True, "dtype": dtype}
        model = _loaded(WhisperForConditionalGeneration, self.folder, **options)
        return model.to(self.device).eval()

    def transcribe(self, samples: np.ndarray) -> list[Cue]:
        """What is said, in order.

        Args:
            samples: `[S]` float32, mono, 16,000 a second.

        Returns:
            Cues within the sound; none if nobody speaks.
        """
        samples = _mono(samples)
        size, length_s = self.processor.feature_extractor.n_samples, len(samples) / RATE
        cues, begin = [], 0
        with _progress(length_s) as bar:
            while begin < len(samples) - _SHORTEST_S * RATE:
                segments = self._window(samples[begin : begin + size])
                for segment in segments:
                    start_s, end_s = (begin / RATE + float(segment[k]) for k in ("start", "end"))
                    cues += _cue(start_s, end_s, self._text(segment), length_s)
                step = min(self._heard(segments, size), len(samples) - begin)
                begin += step
                bar.update(step / RATE)
        return cues

    def _window(self, samples: np.ndarray) -> list[dict[str, Any]]:
        """Segments of up to 30 seconds of sound, with times counted from its begin."""
        import torch

        features = self.processor.feature_extractor(
            samples, sampling_rate=RATE, return_tensors="pt"
        ).input_features.to(self.model.device, self.model.dtype)  # [1, mel bands, 3000]
        settings: dict[str, Any] = {}
        if self.settings["is_multilingual"]:
            settings = {"language": self.language, "task": "transcribe"}
        cuda = [features.device] if features.device.type == "cuda" else []
        with torch.random.fork_rng(cuda), torch.no_grad():
            torch.manual_seed(0)
            made = self.model.generate(
                features,
                return_timestamps=True,
                return_segments=True,
                force_unique_generate_call=True,  # one window; we move on to the next ourselves
                condition_on_prev_tokens=False,
                temperature=_TEMPERATURES,
                compression_ratio_threshold=1.35,  # of token ids: transformers' value for Whisper's
                logprob_threshold=-1.0,
                no_speech_threshold=0.6,
                **settings,
            )
        return made["segments"][0]

    def _heard(self, segments: list[dict[str, Any]], size: int) -> int:
        """Samples of a window that are done with.

        Two times at the end say that somebody was still speaking: the next window begins there.
        """
        first_time = self.settings["no_timestamps_token_id"] + 1
        end = segments[-1]["tokens"][-2:].tolist() if segments else []
        if len(end) < 2 or min(end) < first_time:
            return size
        return min(size, round(max(float(segments[-1]["end"]), _STEP_S) * RATE))

    def _text(self, segment: dict[str, Any]) -> str:
        first_time = self.settings["no_timestamps_token_id"] + 1
        words = [token for token in segment["tokens"].tolist() if token < first_time]
        return self.processor.tokenizer.decode(words, skip_special_tokens=True)


class FasterWhisperTranscriber:
    """Whisper through faster-whisper, an optional package.

    Args:
        folder: a model converted for it: `model.bin`, `config.json`, `tokenizer.json`,
            `vocabulary.*` (and `preprocessor_config.json` for large-v3).
        language: as for `WhisperTranscriber`.
        device: "cpu", "cuda" or "auto".

    Raises:
        UserError: the package or a file is missing.
    """

    def __init__(self, folder: str | Path, language: str | None = "en", device: str = "cpu"):
        self.folder, self.device = _existing(folder), device
        _check_files(self.folder, _CONVERTED)
        _faster_whisper()
        self.language = language
        self.name = f"{self.folder.name} by faster-whisper ({language or 'any language'})"

    @cached_property
    def model(self) -> Any:
        """The package's own."""
        make, options = _faster_whisper().WhisperModel, {"local_files_only": True}
        try:
            return make(str(self.folder), device=self.device, **options)
        except (OSError, RuntimeError, ValueError) as cause:
            reason = f"faster-whisper cannot load it ({_line(cause)})"
            raise UserError(f"{self.folder}: {reason}") from cause

    def transcribe(self, samples: np.ndarray) -> list[Cue]:
        """As `WhisperTranscriber.transcribe`."""
        samples = _mono(samples)
        if len(samples) <= _SHORTEST_S * RATE:
            return []
        length_s, cues, done_s = len(samples) / RATE, [], 0.0
        try:
            segments, _ = self.model.transcribe(samples, language=self.language, task="transcribe")
        except ValueError as cause:
            raise UserError(f"faster-whisper refuses: {_line(cause)}") from cause
        with _progress(length_s) as bar:
            for segment in segments:  # computed as they are asked for
                cues += _cue(segment.start, segment.end, segment.text, length_s)
                reached_s = min(max(segment.end, done_s), length_s)
                bar.update(reached_s - done_s)
                done_s = reached_s
            bar.update(length_s - done_s)
        return cues


# ---------------------------------------------------------------- files


def _existing(folder: str | Path) -> Path:
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; it has to hold the files of a Whisper model (nothing is "
            "downloaded)"
        )
    return folder.resolve()


def _is_converted(folder: Path) -> bool:
    return (folder / "model.bin").is_file() and not list(folder.glob("*.safetensors"))


def _check_files(folder: Path, needed: Sequence[str]) -> None:
    """Raise a UserError naming the files that a folder lacks; `a|b` is met by either."""
    lacking = [
        names.replace("|", " or ")
        for names in needed
        if not any(path.is_file() for name in names.split("|") for path in folder.glob(name))
    ]
    if lacking:
        raise UserError(f"{folder}: is no whole Whisper model, it lacks {', '.join(lacking)}")


def _whisper_settings(folder: Path) -> dict[str, Any]:
    """The generation config of a folder that holds a whole Whisper, as transformers stores it.

    Raises:
        UserError: files are missing or of another model, or the config is of the time before times
            and languages stood in it.
    """
    _check_files(folder, _STORED)
    kind = _read_json(folder / "config.json").get("model_type")
    if kind != "whisper":
        raise UserError(f"{folder}: holds a model of type {kind!r}, not a Whisper")
    settings = _read_json(folder / "generation_config.json")
    needed = ["no_timestamps_token_id", "is_multilingual"]
    needed += ["lang_to_id", "task_to_id"] if settings.get("is_multilingual") else []
    lacking = [name for name in needed if name not in settings]
    if lacking:
        raise UserError(
            f"{folder / 'generation_config.json'}: lacks {', '.join(lacking)}; it is an old one, "
            "take the model's present file"
        )
    return settings


def _spoken(folder: Path, settings: dict[str, Any], language: str | None) -> str | None:
    """The code of the language to force, or None. Raises UserError if the model lacks it."""
    if not settings["is_multilingual"]:
        if language not in (None, "en"):
            raise UserError(f"{folder}: an English-only Whisper, it does not know {language!r}")
        return "en"
    known = sorted(name.strip("<|>") for name in settings["lang_to_id"])
    if language is not None and language not in known:
        raise UserError(f"{folder}: no language {language!r}; it knows {', '.join(known)}")
    return language


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as cause:
        raise UserError(f"{path}: cannot be read ({_line(cause)})") from cause
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no settings")
    return content


def _loaded(kind: Any, folder: Path, **options: Any) -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except Exception as cause:  # the readers of the many files share no kind of error
        raise UserError(f"{folder}: cannot be loaded ({_line(cause)})") from cause


def _faster_whisper() -> ModuleType:
    try:
        return importlib.import_module("faster_whisper")
    except ImportError as cause:
        raise UserError(
            f"a folder with model.bin needs faster-whisper ({_line(cause)}): {_INSTALL}, or give a "
            "folder that transformers reads (model.safetensors)"
        ) from cause


# ---------------------------------------------------------------- small things


def _mono(samples: np.ndarray) -> np.ndarray:
    samples = np.ascontiguousarray(samples, np.float32)
    if samples.ndim != 1:
        raise ValueError(f"expected mono samples [S], got {samples.shape}")
    return samples


def _cue(start_s: float, end_s: float, text: str, length_s: float) -> list[Cue]:
    """One cue inside the sound, or none where nothing is said."""
    text = " ".join(text.split())
    start_s, end_s = max(round(float(start_s), 3), 0.0), min(round(float(end_s), 3), length_s)
    return [Cue(start_s, max(start_s, end_s), text)] if text and start_s < length_s else []


def _progress(length_s: float) -> Any:
    from tqdm import tqdm

    form = "{desc}: {percentage:3.0f}% of {total:.0f} s {bar} {elapsed}, {remaining} to go"
    return tqdm(desc="listening", total=length_s, bar_format=form, disable=None, delay=1)


def _line(cause: BaseException) -> str:
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__
