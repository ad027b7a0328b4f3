"""Films: files, folders of pictures, windows; and films that pass by."""

import threading
import time

import numpy as np
import pytest
from PIL import Image
from sounding_clips import write_file

from vlmcourse.errors import UserError
from vlmcourse.media.errors import VideoError
from vlmcourse.media.film import open_film, pictures_in, split_window, with_window
from vlmcourse.media.passing import arriving_pictures, passing_frames
from vlmcourse.media.sampling import every_seconds, ma_lmm_caption_indices
from vlmcourse.media.video import frame_times_s, read_frames


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Two and a half seconds, four frames a second."""
    return write_file(tmp_path_factory.mktemp("film") / "film.mp4", 10)


def picture(path, red, size=(8, 6)):
    Image.new("RGB", size, (red, 0, 0)).save(path)


def test_windows_have_names(tmp_path):
    path = with_window(tmp_path / "a b.mp4", (20, 119.5))
    assert str(path).endswith("a b.mp4#t=20,119.5")
    assert split_window(path) == (tmp_path / "a b.mp4", (20.0, 119.5))
    assert split_window("x.mp4#t=1") == (split_window("x.mp4#t=1")[0], None)
    odd = tmp_path / "odd#t=1,2"
    odd.write_bytes(b"")
    assert split_window(odd) == (odd, None)  # a file may be called so


def test_a_file(film):
    found = open_film(film)
    assert found.times_s.tolist() == frame_times_s(film).tolist()
    assert found.shown_at([0.0, 0.24, 0.25, 1.9, 99.0]).tolist() == [0, 0, 1, 7, 9]
    assert np.array_equal(found.read([3, 1]), read_frames(film, [3, 1]).pixels)


def test_a_folder_in_the_order_of_its_numbers(tmp_path):
    for number in (1, 2, 10, 9):
        picture(tmp_path / f"frame{number}.png", 20 * number)
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    assert [path.name for path in pictures_in(tmp_path)] == [
        "frame1.png", "frame2.png", "frame9.png", "frame10.png",
    ]  # fmt: skip
    found = open_film(tmp_path)
    assert found.duration_s == pytest.approx(0.4)
    assert found.read([3, 0])[:, 0, 0, 0].tolist() == [200, 20]
    picture(tmp_path / "frame11.png", 0, size=(9, 9))
    with pytest.raises(VideoError, match=r"frame11\.png: is of another size than others \(9x9\)"):
        open_film(tmp_path).read([0, 4])


def test_one_picture_and_nothing(tmp_path):
    picture(tmp_path / "one.png", 5)
    assert open_film(tmp_path / "one.png").times_s.tolist() == [0.0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(VideoError, match="no pictures in this folder"):
        open_film(tmp_path / "empty")
    with pytest.raises(VideoError, match="no such file"):
        open_film(tmp_path / "two.png")


@pytest.mark.parametrize(
    ("times", "apart", "wanted"),
    [
        ([0, 0.25, 0.5, 0.75, 1.0, 1.25], 0.5, [0, 2, 4]),
        ([0, 0.4, 0.8, 1.2], 0.5, [0, 1, 2]),
        ([3.0, 3.9, 4.1], 1.0, [0, 1]),
        ([0.0], 1.0, [0]),
        ([0, 10.0], 4.0, [0, 0, 0]),
    ],
)
def test_a_frame_every_so_many_seconds(times, apart, wanted):
    assert every_seconds(times, apart) == wanted


def test_frames_of_a_window_of_youcook2():
    import random

    assert ma_lmm_caption_indices((10, 22), 4) == [100, 140, 180, 220]
    assert ma_lmm_caption_indices((5, 19), 5) == [50, 85, 120, 155, 190]
    drawn = ma_lmm_caption_indices((10, 22), 4, random.Random(0))
    edges = [100, 130, 160, 190, 221]
    assert all(a <= frame < b for frame, a, b in zip(drawn, edges, edges[1:]))


# ---------------------------------------------------------------- passing by


@pytest.mark.parametrize("apart", [0.25, 0.3, 1.0, 5.0])
def test_what_passes_are_the_frames_on_the_screen(film, apart):
    moments = list(passing_frames(film, apart))
    indices = every_seconds(frame_times_s(film), apart)
    assert [second for second, _ in moments] == pytest.approx(
        [i * apart for i in range(len(indices))]
    )
    assert np.array_equal(
        np.stack([frame for _, frame in moments]), read_frames(film, indices).pixels
    )


def test_a_bad_file_does_not_pass(tmp_path, film):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"x" * 100)
    with pytest.raises(VideoError):
        list(passing_frames(bad, 1.0))
    with pytest.raises(UserError, match="more than 0 seconds apart"):
        list(passing_frames(film, 0))


def test_pictures_of_a_folder_that_grows(tmp_path):
    picture(tmp_path / "frame1.png", 10)
    picture(tmp_path / "frame2.png", 20)
    done = threading.Event()

    def grow():
        for number in (3, 4, 10):
            time.sleep(0.05)
            part = tmp_path / "part.tmp"
            picture_bytes = tmp_path / "whole.bin"
            Image.new("RGB", (8, 6), (10 * number, 0, 0)).save(picture_bytes, "png")
            data = picture_bytes.read_bytes()
            picture_bytes.unlink()
            path = tmp_path / f"frame{number}.png"
            path.write_bytes(data[:20])  # the beginning of a picture is no picture yet
            time.sleep(0.05)
            part.write_bytes(data)
            part.replace(path)
        done.set()

    thread = threading.Thread(target=grow)
    thread.start()
    seen = list(arriving_pictures(tmp_path, 0.5, done.is_set, wait_s=0.01))
    thread.join()
    assert [second for second, _ in seen] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert [int(frame[0, 0, 0]) for _, frame in seen] == [10, 20, 30, 40, 100]


def test_a_damaged_picture_between_others_is_told(tmp_path):
    picture(tmp_path / "frame1.png", 10)
    (tmp_path / "frame2.png").write_bytes(b"nothing")
    picture(tmp_path / "frame3.png", 30)
    with pytest.raises(VideoError, match=r"frame2\.png"):
        list(arriving_pictures(tmp_path, 1.0, lambda: True, wait_s=0.0))
    with pytest.raises(VideoError, match="no such folder"):
        list(arriving_pictures(tmp_path / "gone", 1.0, lambda: True))
