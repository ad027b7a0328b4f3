"""Chat about several files, and about pictures and films of any size, with a system that can."""

import io

import numpy as np
import pytest
import torch

from vlmcourse import chat, cli, systems
from vlmcourse.chat import Chat
from vlmcourse.conversation import PICTURE
from vlmcourse.world.dataset import SplitSettings, make_split
from vlmcourse.world.pictures import write_picture
from vlmcourse.world.story import StorySettings, sample_story

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A panorama, a portrait, a square, and a film in portrait -> paths by these names."""
    root = tmp_path_factory.mktemp("several")
    sizes = {"panorama": (192, 64), "portrait": (48, 128), "square": (64, 64)}
    paths = {name: root / f"{name}.png" for name in sizes}
    for seed, (name, size) in enumerate(sizes.items()):
        write_picture(paths[name], sample_story(seed), *size)
    settings = SplitSettings(StorySettings(4, events=(1, 2)), width=32, height=64)
    made = make_split(root, "val", 1, settings, workers=1, progress=False)
    return paths | {"film": made.clips[0]}


@pytest.fixture(scope="module")
def model():
    """The small Qwen2-VL; what it answers does not matter here."""
    torch.manual_seed(0)
    return systems.build("qwen2_vl", "world")


@pytest.fixture
def ask(model, monkeypatch):
    monkeypatch.setattr(chat, "open_model", lambda *args: model)

    def run_chat(*words):
        words = [str(word) for word in words]
        return cli.main(["chat", "--system", "qwen2_vl", "--device", "cpu", *words])

    return run_chat


def places(model, watched, *turns):
    """Places of pictures in the prompt that asks behind these turns."""
    row = model.processor.question_row("what ?", watched.clip, turns)
    return row.kinds.count(PICTURE)


def test_each_file_is_named_with_its_size_and_tokens(ask, files, capsys):
    named = [files[name] for name in ("panorama", "portrait", "film")]
    assert ask(*named, "how many things are there ?") == 0
    out, err = capsys.readouterr()
    assert out.endswith("\n")
    assert err.splitlines() == [
        f"note: {named[0]}: picture of 192 x 64 pixels, read as 192 x 64: 48 tokens",
        f"note: {named[1]}: picture of 48 x 128 pixels, read as 48 x 128: 24 tokens",
        f"note: {named[2]}: 4.0 s of 32 x 64 pixels, read as 8 frames of 32 x 64: 32 tokens",
    ]


def test_the_answer_is_that_of_the_model_about_all_files(ask, model, files, capsys):
    named = [files["panorama"], files["square"], files["film"]]
    question = "what number is shown ?"
    assert ask(*named, question, "--max-new-tokens", 4) == 0
    watched = model.watch(named)
    assert places(model, watched) == 48 + 16 + 32
    (expected,) = model.answer(watched, [question], max_new_tokens=4)
    assert capsys.readouterr().out == expected + "\n"


def test_the_order_of_the_files_is_that_of_the_prompt(model, files):
    """Swapped files give swapped features, in as many places."""
    one, other = model.watch([files["panorama"], files["square"]]), None
    other = model.watch([files["square"], files["panorama"]])
    assert places(model, one) == places(model, other) == 64
    grids = [watched.pictures.extras["grid"].tolist() for watched in (one, other)]
    assert grids[0] == grids[1][::-1] == [[1, 8, 24], [1, 8, 8]]
    first, second = one.pictures.features[1, :16], other.pictures.features[0, :16]
    torch.testing.assert_close(first, second)


def test_several_questions_are_one_conversation(ask, model, files, capsys):
    named = [files["panorama"], files["portrait"]]
    questions = ["what number is shown ?", "where is red star ?"]
    assert ask(*named, *questions, "--max-new-tokens", 3) == 0
    talk = Chat(model, model.watch(named), max_new_tokens=3)
    expected = [talk.ask(question) for question in questions]
    assert capsys.readouterr().out.splitlines() == expected
    assert talk.history[0].text == f"<video>\n<video>\n{questions[0]}"
    assert talk.history[2].text == questions[1]
    assert places(model, talk.watched, *talk.history) == places(model, talk.watched)


def test_forget_brings_all_files_again(ask, files, monkeypatch, capsys):
    line = "what number is shown ?"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{line}\nwhere is star ?\n/forget\n{line}\n"))
    assert ask(files["panorama"], "--max-new-tokens", 3, files["portrait"]) == 0
    first, _, again = capsys.readouterr().out.splitlines()
    assert first == again


def test_what_is_asked_of_a_missing_file_is_no_question(ask, files, tmp_path, capsys):
    gone = tmp_path / "gone.mp4"
    assert ask(files["square"], gone, "what ?") == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {gone}: no such file")
    assert err.count("\n") == 1


def test_a_strange_picture_is_named_and_made_to_fit(ask, files, tmp_path, capsys):
    from PIL import Image

    ramp = np.linspace(90, 255, 90 * 400 * 3).reshape(90, 400, 3).astype(np.uint8)
    Image.fromarray(ramp).save(tmp_path / "wide.png")
    assert ask(files["square"], tmp_path / "wide.png", "what ?", "--max-new-tokens", 2) == 0
    err = capsys.readouterr().err
    assert "wide.png: picture of 400 x 90 pixels, read as 256 x 48: 48 tokens" in err
    assert f"note: {tmp_path / 'wide.png'}: this small system has only ever seen" in err


def test_a_system_of_one_file_refuses_two_by_its_name(files, tiny_video_llama, monkeypatch, capsys):
    monkeypatch.setattr(chat, "open_model", lambda *args: tiny_video_llama())
    words = [str(files["square"]), str(files["film"]), "what ?"]
    assert cli.main(["chat", "--system", "video_llama", "--device", "cpu", *words]) == 2
    assert capsys.readouterr().err == (
        f"error: video_llama takes one file at a time, not 2: {words[0]}, {words[1]}\n"
    )


def test_subtitles_are_refused_by_a_system_that_reads_none(ask, files, tmp_path, capsys):
    (tmp_path / "a.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nhello\n")
    assert ask(files["film"], "what ?", "--subtitles", tmp_path / "a.srt") == 2
    assert "does not read subtitles" in capsys.readouterr().err
