"""Words of the command that are files, and what is told of files."""

from types import SimpleNamespace

import pytest
import torch

from vlmcourse.chat_media import media_line, split_words, unlike_the_world, watch
from vlmcourse.conversation import PICTURE, Places, Special
from vlmcourse.errors import UserError
from vlmcourse.systems.processor import Clip, Given
from vlmcourse.world.render import render_frames
from vlmcourse.world.story import sample_story


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder that holds two pictures, a file without an ending, and a folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "two words.JPG", "film"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "what").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "files"),
    [
        (["a.png"], 1),
        (["a.png", "what ?"], 1),
        (["a.png", "film", "two words.JPG", "what is that ?"], 3),
        (["gone", "a.png", "what ?"], 2),
        (["a.png", "gone.mp4", "what ?"], 2),
        (["a.png", "over there/gone.MOV"], 2),
        (["a.png", "./gone", "what ?"], 2),
        (["a.png", "~/gone", "/gone"], 3),
        (["a.png", "what"], 1),
        (["a.png", "what is in a.png ?", "and /why ?", "why ?"], 1),
        (["a.png", "what ? " * 200], 1),
        (["a.png", "  "], 1),
    ],
)
def test_files_stand_in_front_and_questions_behind(here, words, files):
    """A file exists, or ends as media do, or begins as paths do; the first word always is one."""
    paths, questions = split_words(words)
    assert [*map(str, paths)] == [word.removeprefix("./") for word in words[:files]]
    assert questions == words[files:]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["a.png", "what is that ?", "film"], "film: files stand in front of all questions"),
        (["a.png", "what is that ?", "gone.wav"], "gone.wav: files stand in front"),
        (["a.png", "what", "is", "that"], 'needs quotation marks: "what is that"'),
    ],
)
def test_words_in_the_wrong_order_and_bare_words_are_refused(here, words, reason):
    with pytest.raises(UserError, match=reason):
        split_words(words)


class Expands:
    """Stands for a processor: a token for every 16 x 16 pixels, between two marks."""

    def expand(self, kind, clip):
        rows, columns = (side // 16 for side in clip.frames.shape[1:3])
        places = Places(PICTURE, clip.num_frames * rows * columns, "<pad>")
        return (Special("<start>"), places, Special("<end>"))


def clip_of(count, height, width, duration_s=0.0):
    frames = torch.zeros(count, height, width, 3, dtype=torch.uint8)
    return Clip(torch.arange(count).float(), frames, duration_s)


def test_a_line_tells_size_and_tokens():
    info = SimpleNamespace(width=320, height=180, duration_s=7.96)
    assert media_line("a.png", info, clip_of(1, 96, 160), Expands()) == (
        "a.png: picture of 320 x 180 pixels, read as 160 x 96: 60 tokens"
    )
    assert media_line("b.mp4", info, clip_of(8, 32, 64, 7.96), Expands()) == (
        "b.mp4: 8.0 s of 320 x 180 pixels, read as 8 frames of 64 x 32: 64 tokens"
    )


def test_only_strange_files_are_named():
    known = clip_of(1, 64, 64)
    known = Clip(known.times_s, torch.as_tensor(render_frames(sample_story(3), fps=1)[:1]))
    bright = Clip(known.times_s, torch.full((1, 64, 64, 3), 200, dtype=torch.uint8))
    both = Clip(known.times_s, known.frames, others=(bright,))
    (told,) = unlike_the_world(["a.png", "b.png"], both)
    assert told.startswith("b.png: this small system has only")
    assert unlike_the_world(["a.png"], known) == []
    (told,) = unlike_the_world(["b.png"], bright)
    assert told.startswith("this small system")


class Listens:
    """Stands for a system that looks and listens, and takes several files."""

    processor = SimpleNamespace(given=Given("pictures", "sounds"))

    def __init__(self, *clips):
        self.clips = clips

    def watch(self, paths, given, cues):
        first, *others = (clip.given_as(given) for clip in self.clips)
        return SimpleNamespace(clip=Clip(**{**vars(first), "others": tuple(others)}))


def test_what_is_not_in_a_file_is_told_by_its_name():
    silent, picture = clip_of(2, 16, 16, 2.0), clip_of(1, 16, 16)
    heard = Clip(torch.arange(2), None, 2.0, torch.zeros(1, 4), torch.zeros(1))
    seen, notes = watch(Listens(heard, silent, picture), ["a.mp4", "b.mp4", "c.png"])
    assert notes == ["b.mp4 has no sound track; the answers come from what there is"]
    assert seen.clip.given == seen.clip.others[1].given == Given("pictures", "sounds")
    with pytest.raises(UserError, match=r"b\.mp4: has no sound track, and nothing else"):
        watch(Listens(heard, silent), ["a.mp4", "b.mp4"], no_picture=True)
    seen, notes = watch(Listens(silent), ["b.mp4"], no_sound=True)
    assert notes == []
    assert seen.clip.given == Given("pictures", None)
