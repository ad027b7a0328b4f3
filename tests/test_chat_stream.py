"""`vlmcourse chat --stream`: a film passes by, and questions are answered at any time."""

import argparse
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from sounding_clips import write_file
from tiny_ma_lmm import build_tiny

from vlmcourse import chat, chat_stream, cli
from vlmcourse.chat_stream import EVER, Questions, stream_main
from vlmcourse.errors import UserError
from vlmcourse.media.passing import passing_frames
from vlmcourse.systems.ma_lmm_stream import Stream

torch.set_num_threads(1)

STANDING, OTHER = "what happens first ?", "how many things are there ?"


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Six seconds."""
    return write_file(tmp_path_factory.mktemp("film") / "film.mp4", 24)


@pytest.fixture(scope="module")
def model():
    return build_tiny(image_size=64)


@pytest.fixture
def run(model, monkeypatch, capsys):
    """`run(path, *questions, typed="...", ...)` -> lines of answers, lines of notes."""
    monkeypatch.setattr(chat_stream, "open_model", lambda *args: model)

    def stream(path, *questions, typed="", **options):
        told = {"system": "ma_lmm", "preset": "world", "weights": None, "device": "cpu",
                "foundations": None, "every": None, "every_frame": None, "max_new_tokens": 5,
                "words": [str(path), *questions]}  # fmt: skip
        assert stream_main(argparse.Namespace(**told | options), io.StringIO(typed)) == 0
        out, err = capsys.readouterr()
        return out.splitlines(), err.splitlines()

    return stream


def said(model, film, seconds, question, standing=(), apart_s=1.0):
    """What is answered when `seconds` have passed."""
    stream = Stream(model, standing)
    for second, frame in passing_frames(film, apart_s):
        if second <= seconds:
            stream.see(frame)
    return f"[{seconds:g} s] {question} {stream.ask(question, max_new_tokens=5)}"


def test_standing_questions_are_answered_at_the_end(model, film, run):
    out, err = run(film, STANDING, OTHER)
    both = (STANDING, OTHER)
    assert out == [said(model, film, 5, question, both) for question in both]
    assert re.fullmatch(r"note: 6 frames have passed; kept of them: \d+ KiB", err[-1])


def test_piped_questions_are_answered_in_their_second(model, film, run):
    out, _ = run(film, typed=f"{OTHER}\n\n@3 {STANDING}\n@2.5 {OTHER}\n")
    assert out == [
        said(model, film, 3, STANDING),
        said(model, film, 3, OTHER),
        said(model, film, 5, OTHER),
    ]


def test_answers_every_so_many_seconds_and_other_steps(model, film, run):
    out, err = run(film, STANDING, every=2.0, every_frame=0.5)
    wanted = [said(model, film, s, STANDING, (STANDING,), 0.5) for s in (2, 4, 5.5)]
    assert out == wanted
    assert err[-1].startswith("note: 12 frames have passed")


def test_quit_ends_a_stream(film, run):
    out, err = run(film, typed=f"/quit\n{OTHER}\n")
    assert out == []
    assert err[-1].startswith("note: 1 frames have passed")


def test_a_folder_of_pictures(run, tmp_path):
    for number in range(4):
        Image.new("RGB", (64, 64), (60 * number, 0, 0)).save(tmp_path / f"frame{number}.png")
    out, err = run(tmp_path, typed=f"@2 {OTHER}\n")
    assert [line[:5] for line in out] == ["[2 s]"]
    assert err[-1].startswith("note: 4 frames have passed")


def test_questions_typed_by_hand_mean_now():
    questions = Questions(by_hand=True)
    for line in (f"{OTHER}\n", f"@9 {STANDING}\n", None):
        questions._lines.put(line)
    assert questions.due(4.0) == [OTHER]
    assert questions.due(8.9) == []
    assert questions.due(EVER) == [STANDING]
    assert questions.next() is None


def test_wrong_questions_are_told_and_the_film_goes_on(film, run):
    out, err = run(film, typed=f"@1 <video> {OTHER}\n@2 {OTHER}\n")
    assert len(out) == 1
    assert any("may not stand in a question" in line for line in err)


def test_what_cannot_be_streamed(film, tmp_path, monkeypatch, tiny_video_llama):
    with pytest.raises(UserError, match="no such file or folder"):
        chat.main(["--system", "ma_lmm", "--stream", str(tmp_path / "gone.mp4")])
    monkeypatch.setattr(chat_stream, "open_model", lambda *args: tiny_video_llama())
    with pytest.raises(UserError, match="video_llama does not watch streams"):
        chat.main(["--system", "video_llama", "--stream", str(film), "--device", "cpu"])


def test_the_door(model, film, monkeypatch, capsys):
    monkeypatch.setattr(chat_stream, "open_model", lambda *args: model)
    words = ["chat", "--system", "ma_lmm", "--device", "cpu", "--stream", str(film), STANDING]
    assert cli.main([*words, "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith(f"[5 s] {STANDING}")
    assert np.isfinite(model.projector.weight.detach().numpy()).all()
