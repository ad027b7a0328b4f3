"""Players: small, self-contained, and what they hold can be played."""

import io

import av
import numpy as np
import pytest

from vlmcourse.figures import sound_player, video_player
from vlmcourse.world.files import write_clip
from vlmcourse.world.story import sample_story


def test_a_sound_player_holds_the_sound_as_mp3():
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    player = sound_player(tone, 16000)
    assert len(player.data) < 6000
    assert "audio/mpeg" in player._repr_html_()
    with av.open(io.BytesIO(player.data)) as file:
        samples = np.concatenate([f.to_ndarray() for f in file.decode(audio=0)], axis=1)[0]
    loudest = np.fft.rfftfreq(len(samples), 1 / 16000)[np.abs(np.fft.rfft(samples)).argmax()]
    assert loudest == pytest.approx(440, abs=2)
    assert len(samples) == pytest.approx(16000, abs=2500)


def test_a_video_player_holds_the_whole_file(tmp_path):
    clip = write_clip(sample_story(0), tmp_path, "clip").video
    player = video_player(clip)
    assert player.data == clip.read_bytes()
    assert "data:video/mp4;base64" in player._repr_html_()


def test_what_would_swell_the_notebook_is_refused(tmp_path):
    with pytest.raises(ValueError, match="too much for a notebook"):
        sound_player(np.zeros(16000 * 30), 16000)
    (tmp_path / "large.mp4").write_bytes(bytes(100_000))
    with pytest.raises(ValueError, match="too much for a notebook"):
        video_player(tmp_path / "large.mp4")
