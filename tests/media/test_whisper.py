"""Whisper: windows of thirty seconds, times, languages, and folders that hold no Whisper."""

import importlib
import json
import shutil
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_whisper import write_tiny_whisper

from vlmcourse.errors import UserError
from vlmcourse.media import whisper
from vlmcourse.media.subtitles import Cue
from vlmcourse.media.whisper import FasterWhisperTranscriber, WhisperTranscriber, open_transcriber

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_whisper(tmp_path_factory.mktemp("models") / "whisper-tiny")


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def noise(seconds, seed=0):
    samples = np.random.default_rng(seed).normal(size=round(seconds * 16000))
    return (0.1 * samples).astype(np.float32)


# ------------------------------------------------------------------ the tiny model


@pytest.mark.parametrize("seconds", [5, 70])
def test_cues_are_in_order_and_within_the_sound(folder, seconds):
    listener = open_transcriber(folder)
    assert isinstance(listener, WhisperTranscriber)
    state = torch.random.get_rng_state()
    cues = listener.transcribe(noise(seconds))
    assert torch.equal(torch.random.get_rng_state(), state), "chance is left as it was"
    assert cues
    assert [cue.start_s for cue in cues] == sorted(cue.start_s for cue in cues)
    assert all(0 <= cue.start_s <= cue.end_s <= seconds for cue in cues)
    assert (cues[-1].start_s > 30) == (seconds > 30)
    assert cues == open_transcriber(folder).transcribe(noise(seconds))


def test_windows_are_those_of_transformers_own_loop(folder, monkeypatch):
    """As the loop of transformers, which sees the whole sound at once, on all full windows."""
    monkeypatch.setattr(whisper, "_TEMPERATURES", (0.0,))
    listener, sound = WhisperTranscriber(folder), noise(75)
    cues = [cue for cue in listener.transcribe(sound) if cue.end_s < 60]
    features = listener.processor.feature_extractor(
        sound,
        sampling_rate=16000,
        return_tensors="pt",
        truncation=False,
        padding="longest",
        return_attention_mask=True,
    )
    told = listener.model.generate(
        features.input_features,
        attention_mask=features.attention_mask,
        return_timestamps=True,
        return_segments=True,
        condition_on_prev_tokens=False,
        language="en",
        task="transcribe",
        temperature=0.0,
    )["segments"][0]
    decode = listener.processor.tokenizer.decode
    expected = [
        (round(float(one["start"]), 3), round(float(one["end"]), 3), " ".join(text.split()))
        for one in told
        if (text := decode(one["tokens"], skip_special_tokens=True)).strip() and one["end"] < 60
    ]
    assert max(cue.start_s for cue in cues) > 30
    assert [(cue.start_s, cue.end_s, cue.text) for cue in cues] == expected


def test_the_language_is_forced(folder, monkeypatch):
    asked = []
    for language in ("en", "de", None):
        listener = WhisperTranscriber(folder, language)
        generate = listener.model.generate

        def watched(*args, _generate=generate, **settings):
            asked.append((settings["language"], settings["task"]))
            return _generate(*args, **settings)

        monkeypatch.setattr(listener.model, "generate", watched)
        listener.transcribe(noise(2))
    assert asked == [("en", "transcribe"), ("de", "transcribe"), (None, "transcribe")]
    assert WhisperTranscriber(folder).name == "whisper-tiny (en)"
    assert WhisperTranscriber(folder, None).name == "whisper-tiny (any language)"
    with pytest.raises(UserError, match=r"no language 'tlh'; it knows de, en$"):
        WhisperTranscriber(folder, "tlh")


def test_an_english_only_model(tmp_path):
    folder = write_tiny_whisper(tmp_path / "tiny.en", multilingual=False)
    assert WhisperTranscriber(folder, None).transcribe(noise(2)) is not None
    assert WhisperTranscriber(folder, None).name == "tiny.en (en)"
    with pytest.raises(UserError, match="English-only"):
        WhisperTranscriber(folder, "de")


def test_pickled_weights_are_read_too(copy, folder):
    from safetensors.torch import load_file

    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    sound = noise(3)
    assert WhisperTranscriber(copy).transcribe(sound) == WhisperTranscriber(folder).transcribe(
        sound
    )


@pytest.mark.parametrize("count", [0, 1000])
def test_too_short_for_a_word(folder, count):
    assert WhisperTranscriber(folder).transcribe(np.ones(count, np.float32)) == []


def test_stereo_is_refused(folder):
    with pytest.raises(ValueError, match=r"mono samples \[S\], got \(2, 5\)"):
        WhisperTranscriber(folder).transcribe(np.zeros((2, 5), np.float32))


@pytest.mark.gpu
def test_half_precision_on_a_gpu(folder):
    listener = WhisperTranscriber(folder, device="cuda")
    cues = listener.transcribe(noise(35))
    assert listener.model.dtype == torch.float16
    assert cues
    assert cues == listener.transcribe(noise(35))


# ------------------------------------------------------------------ windows


def spoken(listener, windows, monkeypatch):
    """Let windows be what is listed; return where each began, in samples of a ramp."""
    begins, left = [], list(windows)

    def window(samples):
        begins.append(round(float(samples[0])))
        return left.pop(0) if left else []

    monkeypatch.setattr(listener, "_window", window)
    return begins


def segment(listener, start, end, text, goes_on=False):
    first = listener.settings["no_timestamps_token_id"] + 1
    times = [first + round(end / 0.02)] * (2 if goes_on else 1)
    words = listener.processor.tokenizer(text, add_special_tokens=False).input_ids
    tokens = torch.tensor([first + round(start / 0.02), *words, *times])
    return {"start": torch.tensor(start), "end": torch.tensor(end), "tokens": tokens}


def test_the_next_window_begins_where_somebody_is_still_speaking(folder, monkeypatch):
    listener = WhisperTranscriber(folder)
    ramp = np.arange(100 * 16000, dtype=np.float32)
    windows = [
        [segment(listener, 0.0, 2.0, " one"), segment(listener, 2.0, 24.5, "two", goes_on=True)],
        [segment(listener, 1.0, 3.0, "three")],  # nobody speaks after it: the window is done with
        [],
        [segment(listener, 0.0, 0.04, "four", goes_on=True)],  # hardly a step: one second at least
        [segment(listener, 2.0, 29.0, " \n")],
    ]
    begins = spoken(listener, windows, monkeypatch)
    cues = listener.transcribe(ramp)
    assert [begin / 16000 for begin in begins] == [0.0, 24.5, 54.5, 84.5, 85.5]
    assert [(round(c.start_s, 2), round(c.end_s, 2), c.text) for c in cues] == [
        (0.0, 2.0, "one"),
        (2.0, 24.5, "two"),
        (25.5, 27.5, "three"),
        (84.5, 84.54, "four"),
    ]


def test_times_behind_the_end_are_cut(folder, monkeypatch):
    listener = WhisperTranscriber(folder)
    late = [segment(listener, 1.0, 30.0, "long"), segment(listener, 12.0, 13.0, "dreamt")]
    spoken(listener, [late], monkeypatch)
    assert listener.transcribe(np.zeros(10 * 16000, np.float32)) == [Cue(1.0, 10.0, "long")]


# ------------------------------------------------------------------ folders


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("config.json", "config.json"),
        ("generation_config.json", "generation_config.json"),
        ("processor_config.json", "preprocessor_config.json or processor_config.json"),
        ("tokenizer.json", "tokenizer.json or vocab.json"),
        ("model.safetensors", "model.safetensors or model.safetensors.index.json or pytorch"),
    ],
)
def test_what_a_folder_lacks_is_named(copy, lost, named):
    (copy / lost).unlink()
    with pytest.raises(UserError, match=f"it lacks {named}"):
        open_transcriber(copy)


def edit(path, **changes):
    settings = json.loads(path.read_text())
    settings.update(changes)
    path.write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))


def test_other_models_and_old_settings_are_refused(copy):
    edit(copy / "generation_config.json", lang_to_id=None, no_timestamps_token_id=None)
    with pytest.raises(UserError, match=r"lacks no_timestamps_token_id, lang_to_id; it is an old"):
        open_transcriber(copy)
    edit(copy / "config.json", model_type="llama")
    with pytest.raises(UserError, match="type 'llama', not a Whisper"):
        open_transcriber(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: cannot be read"):
        open_transcriber(copy)
    (copy / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="holds no settings"):
        open_transcriber(copy)


def test_damaged_weights_are_one_line(copy):
    (copy / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="copy: cannot be loaded") as error:
        open_transcriber(copy).transcribe(noise(1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["gone", "large-v2"])
def test_a_name_is_no_folder_and_nothing_is_downloaded(tmp_path, name):
    with pytest.raises(UserError, match=f"{name}: no such folder.*nothing is downloaded"):
        open_transcriber(tmp_path / name)


# ------------------------------------------------------------------ faster-whisper


@pytest.fixture
def converted(tmp_path):
    folder = tmp_path / "faster-tiny"
    folder.mkdir()
    for name in ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt"):
        (folder / name).write_text("{}")
    return folder


@pytest.fixture
def package(monkeypatch):
    """A package of the same face as faster-whisper, which is not installed; it notes its calls."""
    module = ModuleType("faster_whisper")
    module.calls, module.segments = [], []

    class WhisperModel:
        def __init__(self, path, device, local_files_only):
            module.calls.append((path, device, local_files_only))

        def transcribe(self, audio, language=None, task="transcribe"):
            assert audio.dtype == np.float32
            assert audio.ndim == 1
            module.calls.append((len(audio), language, task))
            if language == "tlh":
                raise ValueError("'tlh' is not a valid language code")
            return (SimpleNamespace(**one) for one in module.segments), None

    module.WhisperModel = WhisperModel
    monkeypatch.setitem(sys.modules, "faster_whisper", module)
    return module


def test_faster_whisper_listens(converted, package):
    package.segments = [
        {"start": 0.0, "end": 1.5, "text": " Hello  there."},
        {"start": 1.5, "end": 1.6, "text": " "},
        {"start": 2.0, "end": 9.0, "text": "Bye."},
        {"start": 5.0, "end": 9.0, "text": "dreamt"},
    ]
    listener = open_transcriber(converted)
    assert isinstance(listener, FasterWhisperTranscriber)
    assert listener.name == "faster-tiny by faster-whisper (en)"
    assert package.calls == [], "nothing is loaded before somebody speaks"
    cues = listener.transcribe(noise(4))
    assert cues == [Cue(0.0, 1.5, "Hello there."), Cue(2.0, 4.0, "Bye.")]
    assert package.calls == [(str(converted), "cpu", True), (64000, "en", "transcribe")]
    assert listener.transcribe(noise(0.05)) == []
    assert len(package.calls) == 2


def test_what_faster_whisper_refuses_is_one_line(converted, package):
    with pytest.raises(UserError, match="faster-whisper refuses: 'tlh' is not a valid"):
        FasterWhisperTranscriber(converted, "tlh").transcribe(noise(1))

    def broken(*args, **settings):
        raise RuntimeError("unsupported model binary version\nmore")

    package.WhisperModel = broken
    with pytest.raises(UserError, match=r"cannot load it \(unsupported model binary version\)$"):
        FasterWhisperTranscriber(converted).transcribe(noise(1))


def test_without_the_package_the_install_is_named(converted, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_whisper", None)
    with pytest.raises(ImportError):
        importlib.import_module("faster_whisper")
    with pytest.raises(UserError, match=r"needs faster-whisper .*pip install .*\[speech\]"):
        open_transcriber(converted)


def test_a_tokenizer_that_would_be_fetched_is_asked_for(converted, package):
    (converted / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"lacks tokenizer\.json$"):
        open_transcriber(converted)
