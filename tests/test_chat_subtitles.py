"""Chat: subtitles from a file, from speech, or none; a picture for systems that read pictures."""

import shutil

import pytest
import torch
from sounding_clips import write_file
from tiny_trained import write_foundations, write_real_clip
from tiny_whisper import write_tiny_whisper

from vlmcourse import chat, cli, systems
from vlmcourse.training.weights import StageFile, save_stage
from vlmcourse.world.dataset import make_split

torch.set_num_threads(1)

TRAINED = {
    "minigpt4_video": ("llama_proj.", ".lora_"),
    "cogvlm2": ("conv.", "adapter.", "boi", "eoi", "vision_expert"),
    "cogvlm2_video": ("conv.", "adapter.", "boi", "eoi"),
}
SAID = "1\n00:00:00,500 --> 00:00:01,500\nred circle is called anna\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Tiny frozen parts, an untrained run of each system, clips of the world, and a Whisper."""
    root = tmp_path_factory.mktemp("home")
    write_foundations(root / "foundations")
    for name, parts in TRAINED.items():
        model = systems.build(name, "world", foundations=root / "foundations")
        tensors = {
            key: value.detach()
            for key, value in model.named_parameters()
            if any(part in key for part in parts)
        }
        shapes = {key: list(value.shape) for key, value in tensors.items()}
        settings = {"model": {"seed": 0}, "init_from": None}
        about = StageFile("last", tuple(tensors), shapes, "hash", "train", settings, {})
        save_stage(root / name / "last", tensors, about)
    make_split(root, "val", count=4, workers=1, progress=False)
    write_tiny_whisper(root / "whisper-tiny")
    return root


@pytest.fixture
def folder(home, tmp_path, monkeypatch):
    """Clips to write beside: `talk.mp4` with subtitles, `mute.mp4` without, both with sound."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    clips = home / "val" / "clips"
    talk = next(path for path in sorted(clips.glob("*.mp4")) if path.with_suffix(".srt").exists())
    for name in ("talk", "mute"):
        shutil.copy(talk, tmp_path / f"{name}.mp4")
    (tmp_path / "talk.srt").write_text(SAID)
    return tmp_path


@pytest.fixture
def ask(home, monkeypatch):
    """Run the command: `ask(clip, ...)` -> exit code; `ask.prompt()` is what the model read."""
    seen = []
    open_model = chat.open_model

    def opened(*args):
        model = open_model(*args)
        remember = model.remember

        def remembered(streams, clip):
            seen.append((model, clip))
            return remember(streams, clip)

        model.remember = remembered
        return model

    monkeypatch.setattr(chat, "open_model", opened)

    def run(clip, *words, system="minigpt4_video"):
        seen.clear()
        parts = ["--weights", str(home / system), "--foundations", str(home / "foundations")]
        options = ["--system", system, *parts, "--device", "cpu", "--max-new-tokens", "3"]
        return cli.main(["chat", *options, str(clip), "what is said first ?", *map(str, words)])

    def prompt():
        ((model, clip),) = seen
        return model.processor.tokenizer.decode(model.processor.question_row("what ?", clip).ids)

    run.prompt = prompt
    return run


# ------------------------------------------------------------------ which subtitles


def test_the_file_beside_the_clip_is_read(ask, folder, capsys):
    assert ask(folder / "talk.mp4") == 0
    out, err = capsys.readouterr()
    assert out.endswith("\n")
    assert err == f"note: subtitles: {folder / 'talk.srt'} (1 cue)\n"
    assert ask.prompt().count("said : red circle is called anna .") == 1


def test_none_on_demand_and_none_there(ask, folder, capsys):
    assert ask(folder / "talk.mp4", "--no-subtitles") == 0
    assert capsys.readouterr().err == "note: subtitles: none, as asked\n"
    assert "said" not in ask.prompt()
    assert ask(folder / "mute.mp4") == 0
    assert capsys.readouterr().err == (
        "note: subtitles: none; the answers come from the pictures alone\n"
    )
    assert "said" not in ask.prompt()


def test_a_given_file_counts_more_than_the_one_beside(ask, folder, capsys):
    given = folder / "other.vtt"
    given.write_text(
        "WEBVTT\n\n00:01.000 --> 00:02.000\nblue star\n\n00:03.000 --> 00:04.000\ngreen cross\n"
    )
    assert ask(folder / "talk.mp4", "--subtitles", given) == 0
    assert capsys.readouterr().err == f"note: subtitles: {given} (2 cues)\n"
    prompt = ask.prompt()
    assert "anna" not in prompt
    assert prompt.index("said : blue star .") < prompt.index("said : green cross .")


def test_subtitles_of_another_clip_are_noticed(ask, folder, capsys):
    (folder / "talk.srt").write_text(SAID.replace("00:00:", "00:07:"))
    assert ask(folder / "talk.mp4") == 0
    assert "(1 cue, none of them within the clip's 8.0 s)" in capsys.readouterr().err


def test_words_that_are_said_but_not_known(ask, folder, capsys):
    words = "zebra 1 2 ox 3 yak elk emu cow pig hen cat gnu"
    (folder / "talk.srt").write_text(SAID.replace("red circle", words))
    assert ask(folder / "talk.mp4") == 0
    note = (
        "note: said words that this small model does not know: zebra, ox, yak, elk, emu, cow, pig"
    )
    assert note + ", hen and 2 more\n" in capsys.readouterr().err


# ------------------------------------------------------------------ speech


def test_speech_is_transcribed_once(ask, home, folder, capsys):
    whisper, kept = home / "whisper-tiny", folder / "mute.whisper.vtt"
    assert ask(folder / "mute.mp4", "--transcribe", whisper) == 0
    err = capsys.readouterr().err
    assert "note: subtitles: transcribed now (" in err
    assert f"kept in {kept})" in err
    written, prompt = kept.read_bytes(), ask.prompt()
    assert prompt.count("said :") >= 1
    assert ask(folder / "mute.mp4", "--transcribe", whisper) == 0
    assert f"note: subtitles: {kept} (" in capsys.readouterr().err
    assert ask(folder / "mute.mp4") == 0
    assert "transcribed earlier)" in capsys.readouterr().err
    assert ask.prompt() == prompt
    assert kept.read_bytes() == written


def test_the_language_may_be_guessed(ask, home, folder, capsys):
    options = ("--transcribe", home / "whisper-tiny", "--language", "auto")
    assert ask(folder / "mute.mp4", *options) == 0
    kept = (folder / "mute.whisper.vtt").read_text()
    assert "transcribed by: whisper-tiny (any language)" in kept


def test_a_clip_with_subtitles_is_not_transcribed(ask, home, folder, capsys):
    assert ask(folder / "talk.mp4", "--transcribe", home / "whisper-tiny") == 0
    assert "talk.srt (1 cue)" in capsys.readouterr().err
    assert not (folder / "talk.whisper.vtt").exists()


def test_a_clip_without_sound_is_normal(ask, home, tmp_path, capsys):
    clip = write_real_clip(tmp_path / "silent.mp4")
    for words in ((), ("--transcribe", home / "whisper-tiny")):
        assert ask(clip, *words) == 0
        out, err = capsys.readouterr()
        assert out.endswith("\n")
        assert "subtitles: none; the answers come from the pictures alone" in err
    assert [path.name for path in tmp_path.iterdir()] == ["silent.mp4"]


def test_sound_that_cannot_be_decoded_is_one_line(ask, home, folder, monkeypatch, capsys):
    from vlmcourse.media import transcribe
    from vlmcourse.media.errors import AudioError

    def broken(path, rate):
        raise AudioError(path, "the sound is cut off or damaged")

    monkeypatch.setattr(transcribe, "read_audio", broken)
    assert ask(folder / "mute.mp4", "--transcribe", home / "whisper-tiny") == 2
    assert capsys.readouterr().err == (
        f"error: {folder / 'mute.mp4'}: the sound is cut off or damaged\n"
    )


# ------------------------------------------------------------------ what cannot be used


def test_a_broken_file_beside_the_clip_is_named_unless_it_is_not_wanted(ask, folder, capsys):
    (folder / "talk.srt").write_text("nothing with times")
    assert ask(folder / "talk.mp4") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {folder / 'talk.srt'}: holds no subtitles")
    assert err.count("\n") == 1
    assert ask(folder / "talk.mp4", "--no-subtitles") == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--subtitles", "gone.srt"], "gone.srt: no such file"),
        (["--transcribe", "gone"], "gone: no such folder"),
        (["--transcribe", "{home}/foundations"], "is no whole Whisper model, it lacks config.json"),
        (["--transcribe", "{home}/whisper-tiny", "--language", "xx"], "no language 'xx'; it knows"),
        (["--transcribe", "{home}/whisper-tiny", "--no-sound"], "leave out --no-sound"),
    ],
)
def test_bad_options_are_told_before_a_model_is_loaded(
    ask, home, folder, monkeypatch, capsys, words, complaint
):
    monkeypatch.setattr(chat, "open_model", lambda *args: pytest.fail("loaded"))
    assert ask(folder / "mute.mp4", *(word.format(home=home) for word in words)) == 2
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count("\n") == 1


def test_options_that_exclude_each_other(ask, folder, capsys):
    with pytest.raises(SystemExit) as stop:
        ask(folder / "mute.mp4", "--no-subtitles", "--subtitles", "a.srt")
    assert stop.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--no-subtitles"], ["--subtitles", "{0}/talk.srt"], ["--transcribe", "{1}"]]
)
def test_a_system_that_reads_none_refuses(ask, home, folder, capsys, words):
    options = [word.format(folder, home / "whisper-tiny") for word in words]
    assert ask(folder / "mute.mp4", *options, system="cogvlm2_video") == 2
    assert "error: this system does not read subtitles" in capsys.readouterr().err
    assert ask(folder / "mute.mp4", system="cogvlm2_video") == 0
    assert capsys.readouterr().err == ""


# ------------------------------------------------------------------ pictures and sizes


@pytest.mark.parametrize("system", ["cogvlm2", "cogvlm2_video", "minigpt4_video"])
@pytest.mark.parametrize("name", ["one.png", "one.jpg"])
def test_a_picture(ask, tmp_path, capsys, system, name):
    from PIL import Image

    Image.new("RGB", (70, 50), (9, 9, 9)).save(tmp_path / name)
    assert ask(tmp_path / name, system=system) == 0
    out, err = capsys.readouterr()
    assert out.endswith("\n")
    assert err == "", "a picture has no subtitles, and nothing is said about that"


@pytest.mark.parametrize("system", ["cogvlm2_video", "minigpt4_video"])
def test_a_portrait_clip(ask, tmp_path, capsys, system):
    import av
    import numpy as np

    with av.open(str(tmp_path / "tall.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 36, 64, "yuv420p"
        for number in range(8):
            frame = np.full((64, 36, 3), 20 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())
    assert ask(tmp_path / "tall.mp4", system=system) == 0
    assert "has only ever seen the procedural world" in capsys.readouterr().err


@pytest.mark.parametrize("system", ["cogvlm2_video", "minigpt4_video"])
def test_sound_alone_is_no_video(ask, tmp_path, capsys, system):
    path = write_file(tmp_path / "hum.wav", seconds=1)
    assert ask(path, system=system) == 2
    assert capsys.readouterr().err.startswith(f"error: {path}: holds sound only")


# ------------------------------------------------------------------ official files


@pytest.mark.parametrize(
    ("system", "lacking"),
    [
        ("minigpt4_video", ["*/tokenizer.model", "eva_vit_g.pth", "*_checkpoint*.pth"]),
        ("cogvlm2", ["config.json", "model.safetensors.index.json", "tokenizer.json"]),
        ("cogvlm2_video", ["config.json", "model-*.safetensors"]),
    ],
)
def test_official_files_that_are_missing_are_listed(tmp_path, folder, capsys, system, lacking):
    empty = tmp_path / "empty"
    empty.mkdir()
    options = ["--system", system, "--preset", "paper", "--weights", str(empty)]
    assert cli.main(["chat", *options, "--device", "cpu", str(folder / "mute.mp4"), "?"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {empty}: lacks ")
    assert all(f"{name} (" in err for name in lacking)


def test_official_names_are_those_that_the_loaders_read():
    from fnmatch import fnmatch

    from vlmcourse.chat_files import OFFICIAL_FILES
    from vlmcourse.checkpoints import LOADERS
    from vlmcourse.checkpoints.blip2 import VIT_FILE
    from vlmcourse.checkpoints.minigpt4_video import CHECKPOINTS

    assert set(OFFICIAL_FILES) == set(LOADERS)
    named = set(OFFICIAL_FILES["minigpt4_video"])
    (pattern,) = named - {VIT_FILE, "*/tokenizer.model"}
    assert all(fnmatch(name.replace("*", "llama"), pattern) for name in CHECKPOINTS)


def test_help_shows_examples_and_files(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["chat", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for part in ("--subtitles TALK.srt", "--transcribe DIR/", "For cogvlm2_video,", "CLIP.whisper"):
        assert part in text
