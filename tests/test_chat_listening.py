"""Chat with a system that listens: sound, pictures, both, and what of them is not in a file."""

import numpy as np
import pytest
import torch
from tiny_trained import write_real_clip

from vlmcourse import chat, cli
from vlmcourse.conversation import PICTURE, SOUND
from vlmcourse.world.dataset import make_split

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A clip of the world, with sound."""
    root = tmp_path_factory.mktemp("chat")
    return make_split(root, "val", count=1, workers=1, progress=False).clips[0]


@pytest.fixture
def real_clip(tmp_path):
    return write_real_clip(tmp_path / "real.mp4")


@pytest.fixture
def listening(tiny_video_llama, monkeypatch):
    """The command with a system that listens; `listening.seen` is what it watched last."""
    model = tiny_video_llama()
    remember = model.remember

    def seen(*args):
        model.seen = remember(*args)
        return model.seen

    model.remember = seen
    monkeypatch.setattr(chat, "open_model", lambda *args: model)
    return model


def run_listening(clip, *words):
    question = "what happens first ?"
    return cli.main(
        ["chat", "--system", "video_llama", "--device", "cpu", str(clip), question, *words]
    )


def kinds_of(model):
    """Places of pictures and of sound in the prompt about what was watched last."""
    kinds = model.processor.question_row("what ?", model.seen.clip).kinds
    return kinds.count(PICTURE), kinds.count(SOUND)


@pytest.mark.parametrize(
    ("words", "places"), [((), (4, 2)), (("--no-sound",), (4, 0)), (("--no-picture",), (0, 2))]
)
def test_a_system_that_listens_gets_what_is_asked_for(clip, listening, capsys, words, places):
    assert run_listening(clip, *words) == 0
    out, err = capsys.readouterr()
    assert out.endswith("\n")
    assert err == ""
    assert kinds_of(listening) == places
    seen = listening.seen
    assert (seen.pictures is not None, seen.sounds is not None) == tuple(n > 0 for n in places)


def test_a_silent_video_is_told_and_answered(listening, real_clip, capsys):
    assert run_listening(real_clip) == 0
    assert "note: this file has no sound track; the answers come from what there is" in (
        capsys.readouterr().err
    )
    assert kinds_of(listening) == (4, 0)
    assert run_listening(real_clip, "--no-sound") == 0
    assert "sound track" not in capsys.readouterr().err
    assert run_listening(real_clip, "--no-picture") == 2
    assert "real.mp4: has no sound track, and nothing else of it was to be used" in (
        capsys.readouterr().err
    )


def test_sound_alone_is_heard(listening, tmp_path, capsys):
    import soundfile

    path = tmp_path / "hum.wav"
    soundfile.write(path, np.sin(np.arange(32000) / 9).astype(np.float32) * 0.3, 16000)
    assert run_listening(path) == 0
    assert "this file has no pictures" in capsys.readouterr().err
    assert kinds_of(listening) == (0, 2)
    assert run_listening(path, "--no-sound") == 2
    assert "hum.wav: has no pictures" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["one.png", "one.jpg"])
def test_a_picture_is_a_video_of_one_frame(listening, tmp_path, capsys, name):
    from PIL import Image

    ramp = np.linspace(0, 255, 40 * 60 * 3).reshape(40, 60, 3).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / name)
    assert run_listening(tmp_path / name) == 0
    assert "sound" not in capsys.readouterr().err
    assert listening.seen.clip.is_picture
    assert listening.seen.pictures.features.shape[:2] == (1, 1)
    assert kinds_of(listening) == (4, 0)


def test_a_bad_picture_is_one_line(listening, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG not really")
    assert run_listening(tmp_path / "bad.png") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path / 'bad.png'}: ")
    assert err.count("\n") == 1


def test_what_the_authors_chat_does_wins_over_our_defaults(listening, real_clip, monkeypatch):
    made = []
    monkeypatch.setattr(chat, "Chat", lambda model, watched, **settings: made.append(settings))
    monkeypatch.setattr(chat, "answer_aloud", lambda *args: None)
    listening.answer_settings = {"temperature": 1.0, "top_p": 0.9}
    run_listening(real_clip)
    run_listening(real_clip, "--temperature", "0")
    told = {"max_new_tokens": 48, "top_p": 0.9}
    assert made == [{**told, "temperature": 1.0}, {**told, "temperature": 0.0}]
