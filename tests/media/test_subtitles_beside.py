"""The subtitle file beside a clip: which of several is taken."""

import pytest

from vlmcourse.media.subtitles_beside import find_subtitles

ORDER = [".srt", ".vtt", ".en.vtt", ".en.srt", ".en-GB.vtt", ".eng.srt", ".de.srt", ".fr.vtt"]


def test_the_order_is_the_stated_one(tmp_path):
    video = tmp_path / "Clip [a].final.mp4"
    for ending in ("final.take2.srt", "srt", "final.whisper.vtt", "final.en.txt", "final.mp4.srt"):
        (tmp_path / f"Clip [a].{ending}").touch()
    assert find_subtitles(video) is None
    for ending in reversed(ORDER):
        (tmp_path / f"Clip [a].final{ending}").touch()
        assert find_subtitles(video) == tmp_path / f"Clip [a].final{ending}"
    assert find_subtitles(str(video)) == tmp_path / "Clip [a].final.srt"


@pytest.mark.parametrize("ending", [".srt", ".fr.vtt"])
def test_a_folder_is_no_subtitle_file(tmp_path, ending):
    (tmp_path / f"a{ending}").mkdir()
    assert find_subtitles(tmp_path / "a.mp4") is None


def test_a_clip_in_no_folder(tmp_path):
    assert find_subtitles(tmp_path / "none" / "a.mp4") is None
