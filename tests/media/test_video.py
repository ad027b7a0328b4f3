"""Video files of every kind: the right frames, or one error that names file and reason."""

import sys
import types

import av
import numpy as np
import pytest
from numbered_clips import HEIGHT, WIDTH, numbered_frame, numbers_of, write_sound

from vlmcourse.media import video
from vlmcourse.media.errors import VideoError
from vlmcourse.media.transforms import resize_frames
from vlmcourse.media.video import frame_times_s, probe_video, read_frames

BACKENDS = ["auto", "decord", "pyav"]


def assert_refused(path, *words: str) -> None:
    """All three readers refuse the file; the message names it and says why."""
    for reader in (probe_video, frame_times_s, read_frames):
        with pytest.raises(VideoError) as caught:
            reader(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert caught.value.path == path
        for word in words:
            assert word in caught.value.reason


# ------------------------------------------------------------------ ordinary files


def test_probe(plain):
    info = probe_video(plain)
    assert (info.num_frames, info.readable_frames, info.fps) == (30, 30, 10.0)
    assert (info.width, info.height, info.has_audio) == (WIDTH, HEIGHT, False)
    assert info.duration_s == pytest.approx(3.0)
    assert info.path == plain


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_frames(plain, backend):
    frames = read_frames(plain, backend=backend)
    assert frames.pixels.dtype == np.uint8
    assert frames.pixels.shape == (30, HEIGHT, WIDTH, 3)
    assert numbers_of(frames.pixels) == list(range(30))
    assert frames.indices.tolist() == list(range(30))
    np.testing.assert_allclose(frames.times_s, np.arange(30) / 10)
    close = np.abs(frames.pixels[7].astype(int) - numbered_frame(7))
    assert close.mean() < 6  # the colours are those that were drawn, in the order red, green, blue


def test_backends_agree_to_the_bit(plain):
    one, other = (read_frames(plain, backend=name).pixels for name in ("decord", "pyav"))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_order_with_repeats(plain, backend):
    wanted = [29, 0, 14, 14, 13, 28, 1]
    frames = read_frames(plain, np.array(wanted), backend=backend)
    assert numbers_of(frames.pixels) == wanted
    np.testing.assert_allclose(frames.times_s, np.array(wanted) / 10)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("clip.mp4", {"gop": 5}),
        ("clip.mp4", {"gop": 1}),
        ("clip.mp4", {"gop": 300}),
        ("clip.mkv", {"gop": 20}),
        ("clip.webm", {"codec": "libvpx-vp9", "gop": 20}),
        ("clip.webm", {"codec": "libvpx", "gop": 20}),
        ("clip.ts", {"gop": 20}),  # decord 0.6 returns other frames than asked for here
        ("clip.avi", {"codec": "mpeg4", "gop": 20}),
    ],
)
def test_few_frames_of_a_long_video(make, name, how):
    path = make(name, frames=120, **how)
    wanted = [0, 3, 4, 47, 48, 95, 117, 119]
    for backend in ("auto", "pyav"):
        assert numbers_of(read_frames(path, wanted, backend=backend).pixels) == wanted
    np.testing.assert_allclose(frame_times_s(path), np.arange(120) / 10, atol=1e-3)


def test_a_jump_saves_decoding(make, monkeypatch):
    path, decoded = make(frames=120, gop=10), []
    decode = video.decode_frames

    def counting(container, stream):
        for frame in decode(container, stream):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(video, "decode_frames", counting)
    read_frames(path, [0, 60, 119], backend="pyav")
    assert len(decoded) < 30


def test_frames_are_resized_while_reading(plain):
    full = read_frames(plain).pixels
    small = read_frames(plain, size=(20, 30), mode="bicubic")
    assert np.array_equal(small.pixels, resize_frames(full, 20, 30, "bicubic"))
    assert (small.info.height, small.info.width) == (HEIGHT, WIDTH)


def test_no_indices_give_no_frames(plain):
    assert read_frames(plain, []).pixels.shape == (0, HEIGHT, WIDTH, 3)


# ------------------------------------------------------------------ unusual files


def test_one_frame(make):
    path = make(frames=1)
    assert probe_video(path).num_frames == 1
    assert numbers_of(read_frames(path).pixels) == [0]
    assert frame_times_s(path).tolist() == [0.0]


def test_gif(make):
    path = make("clip.gif", frames=9, codec="gif", pix_fmt="rgb8")
    info = probe_video(path)
    assert (info.num_frames, info.fps, info.has_audio) == (9, 10.0, False)
    assert numbers_of(read_frames(path, [8, 0, 5]).pixels) == [8, 0, 5]


def test_still_picture(tmp_path):
    from PIL import Image

    Image.fromarray(numbered_frame(5)).save(tmp_path / "five.png")
    frames = read_frames(tmp_path / "five.png")
    assert np.array_equal(frames.pixels[0], numbered_frame(5))


@pytest.mark.parametrize(
    ("degrees", "corner"),  # counter-clockwise; where the red corner, drawn upper left, is shown
    [(90, "lower left"), (180, "lower right"), (270, "upper right")],
)
def test_rotated(make, degrees, corner):
    path = make(rotation=degrees if degrees < 180 else degrees - 360)
    upright = numbered_frame(0).shape[:2] if degrees == 180 else (WIDTH, HEIGHT)
    info = probe_video(path)
    assert (info.height, info.width) == tuple(upright)
    for backend in ("auto", "pyav"):
        pixels = read_frames(path, [4, 20], backend=backend).pixels
        assert pixels.shape == (2, *upright, 3)
        rows = slice(0, 16) if "upper" in corner else slice(-16, None)
        columns = slice(0, 16) if "left" in corner else slice(-16, None)
        patch = pixels[0, rows, columns].reshape(-1, 3).mean(0)
        assert patch[0] > 200
        assert patch[1:].max() < 60
        assert numbers_of(np.rot90(pixels, -degrees // 90, axes=(1, 2))) == [4, 20]


def test_rotated_is_refused_by_decord_alone(make):
    path = make(rotation=90)
    with pytest.raises(VideoError, match="use backend 'auto' or 'pyav'"):
        read_frames(path, backend="decord")


def test_variable_frame_rate(make):
    times_ms = [0, 100, 150, 400, 450, 900, 1500, 1600, 3000, 3100]
    path = make(frames=10, times_ms=times_ms)
    expected = np.array(times_ms) / 1000
    np.testing.assert_allclose(frame_times_s(path), expected, atol=1e-6)
    for backend in BACKENDS:
        frames = read_frames(path, [8, 2, 6], backend=backend)
        assert numbers_of(frames.pixels) == [8, 2, 6]
        np.testing.assert_allclose(frames.times_s, expected[[8, 2, 6]], atol=1e-6)
    assert probe_video(path).fps == pytest.approx(10 / 3.1, rel=0.8)  # an average, nothing more


def test_frames_hidden_by_an_edit_list(make):
    """Frames stored before time 0 are not shown; decord counts them, so it must not be used."""
    path = make(times_ms=[(number - 7) * 100 for number in range(30)])
    assert probe_video(path).num_frames == 23
    for backend in ("auto", "pyav"):
        frames = read_frames(path, [0, 1, 22], backend=backend)
        assert numbers_of(frames.pixels) == [7, 8, 29]
    with pytest.raises(VideoError, match="decord"):
        read_frames(path, [0], backend="decord")


@pytest.mark.parametrize("name", ["Übung – 视频 🎬.mp4", "12:30 a.mp4", "a%03d#?.mp4", "-x.mp4"])
def test_odd_names(make, name, tmp_path, monkeypatch):
    make(name)
    monkeypatch.chdir(tmp_path)
    for backend in BACKENDS:
        assert numbers_of(read_frames(name, [3, 9], backend=backend).pixels) == [3, 9]


# ------------------------------------------------------------------ unusable files


def test_missing_file(tmp_path, plain):
    assert_refused(tmp_path / "nothing.mp4", "no such file")
    assert_refused(plain.with_name("plian.mp4"), "did you mean plain.mp4?")
    assert_refused(tmp_path / "no_folder" / "a.mp4", "no_folder does not exist")


def test_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoError, match="save the file first"):
        probe_video("https://example.org/clip.mp4")


def test_folder(tmp_path):
    assert_refused(tmp_path, "folder")


def test_empty_file(tmp_path):
    path = tmp_path / "empty.mp4"
    path.touch()
    assert_refused(path, "empty (0 bytes)")


def test_text_named_mp4(tmp_path):
    path = tmp_path / "page.mp4"
    path.write_text("<!DOCTYPE html><title>Nicht gefunden – 404</title>" * 30, encoding="utf-8")
    assert_refused(path, "text", "<!DOCTYPE html>", "download it again")


def test_noise_named_mp4(tmp_path):
    path = tmp_path / "noise.mp4"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    assert_refused(path, "not a recording")


def test_sound_only(tmp_path):
    tone = np.sin(np.arange(8000) / 10)[None]
    assert_refused(write_sound(tmp_path / "a.wav", tone, 16000, "pcm_s16le"), "sound only")
    assert_refused(write_sound(tmp_path / "a.m4a", tone, 16000, "aac"), "sound only")


@pytest.mark.parametrize("name", ["zero.mp4", "zero.mkv", "zero.avi"])
def test_zero_frames(make, name):
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    assert_refused(make(name, frames=0, codec=codec), "frame", "again")


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_cut_off_before_or_inside_its_contents_table(plain, tmp_path, share):
    path = tmp_path / "cut.mp4"
    path.write_bytes(plain.read_bytes()[: int(plain.stat().st_size * share)])
    assert_refused(path, "cut off", "again")


@pytest.mark.parametrize(
    ("name", "how"),
    [("whole.mp4", {"faststart": True}), ("whole.mkv", {}), ("whole.avi", {"codec": "mpeg4"})],
)
def test_cut_off(make, name, how):
    """The whole is announced and refused; the part before the damage can be asked for."""
    whole = make(name, frames=60, **how)
    path = whole.with_name("cut" + whole.suffix)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    info = probe_video(path)
    assert 5 < info.readable_frames < 55
    assert info.num_frames == pytest.approx(60, abs=1)
    last = info.readable_frames - 1
    for backend in ("auto", "pyav"):
        frames = read_frames(path, [last, 0, last // 2], backend=backend)
        assert numbers_of(frames.pixels) == [last, 0, last // 2]
    every = read_frames(path, range(last + 1)).pixels
    assert np.array_equal(every, read_frames(whole, range(last + 1)).pixels)
    for wanted in (None, [0, last + 1], [59]):
        with pytest.raises(VideoError, match=f"only the first {last + 1} of"):
            read_frames(path, wanted)
    with pytest.raises(VideoError, match="cut off"):
        frame_times_s(path)
    with pytest.raises(VideoError, match="use backend 'auto' or 'pyav'"):
        read_frames(path, [0], backend="decord")


def test_one_damaged_frame(make):
    path = make(frames=60, faststart=True)
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][14]
        place, size, number = packet.pos, packet.size, round(packet.pts * packet.time_base * 10)
    data = bytearray(path.read_bytes())
    data[place : place + size] = b"\xff" * size
    path.write_bytes(data)
    with pytest.raises(VideoError, match=f"frame {number} is damaged"):
        read_frames(path)
    assert numbers_of(read_frames(path, range(number)).pixels) == list(range(number))


# ------------------------------------------------------------------ wrong questions


def test_frames_that_do_not_exist(plain):
    with pytest.raises(VideoError, match="there is no frame 30; its 30 frames"):
        read_frames(plain, [0, 30])
    with pytest.raises(VideoError, match="there is no frame -1"):
        read_frames(plain, [-1])


@pytest.mark.parametrize("indices", [[0.5], [[0, 1]], "01"])
def test_indices_that_are_no_numbers(plain, indices):
    with pytest.raises(ValueError, match="whole numbers"):
        read_frames(plain, indices)


def test_unknown_backend(plain):
    with pytest.raises(ValueError, match="backend"):
        read_frames(plain, backend="opencv")


def test_too_much_memory(plain, monkeypatch):
    monkeypatch.setattr(video, "MAX_BYTES", 100_000)
    with pytest.raises(VideoError, match="choose fewer indices or a smaller size"):
        read_frames(plain)
    assert len(read_frames(plain, size=(8, 8)).pixels) == 30


def test_decord_missing(plain, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    assert numbers_of(read_frames(plain, [2, 1]).pixels) == [2, 1]
    with pytest.raises(VideoError, match="decord is not installed"):
        read_frames(plain, backend="decord")


def test_decord_wrong_count(plain, monkeypatch):
    """A decord that counts other frames than the file shows is not believed."""
    import decord

    fake = types.SimpleNamespace(
        VideoReader=lambda *a, **k: range(29),
        logging=decord.logging,
        DECORDError=decord.DECORDError,
    )
    monkeypatch.setitem(sys.modules, "decord", fake)
    assert numbers_of(read_frames(plain, [29]).pixels) == [29]
    with pytest.raises(VideoError, match="counts 29 frames, not 30"):
        read_frames(plain, [29], backend="decord")
