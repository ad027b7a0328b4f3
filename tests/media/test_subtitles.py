"""Subtitle files: every cue with its times and plain text, or one error with the line."""

from dataclasses import replace

import pytest

from vlmcourse.media.errors import SubtitleError
from vlmcourse.media.subtitles import Cue, read_subtitles, vtt_text

SRT = """1
00:00:01,000 --> 00:00:02,500
Hello there.

2
00:00:03,250 --> 00:01:04,000
two lines,
one cue

"""
HELLO = [Cue(1.0, 2.5, "Hello there."), Cue(3.25, 64.0, "two lines,\none cue")]


@pytest.fixture
def write(tmp_path):
    def writer(text, name="a.srt", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return writer


def test_srt(write):
    assert read_subtitles(write(SRT)) == HELLO


@pytest.mark.parametrize("ends", ["\r\n", "\r"])
def test_line_ends(write, ends):
    assert read_subtitles(write(SRT.replace("\n", ends))) == HELLO


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_of_encodings(write, encoding):
    assert read_subtitles(write(SRT.replace("Hello", "Grüße"), encoding=encoding))[0].text == (
        "Grüße there."
    )


def test_srt_without_empty_lines_between(write):
    text = "1\n00:00:01,000 --> 00:00:02,000\none\n2\n00:00:03,000 --> 00:00:04,000\ntwo"
    assert [cue.text for cue in read_subtitles(write(text))] == ["one", "two"]


@pytest.mark.parametrize("name", ["a.srt", "a.vtt"])
def test_spoken_numbers_stay(write, name):
    """pysubs2 takes a number at the end of a cue for the number of the next."""
    if name == "a.srt":
        text = SRT.replace("one cue", "42") + "3\n00:02:00,000 --> 00:02:01,000\nI say\n7\n"
    else:
        text = (
            "WEBVTT\n\n00:03.250 --> 01:04.000\ntwo lines,\n42\n\n02:00.000 --> 02:01.000\nI say\n7"
        )
    assert [cue.text for cue in read_subtitles(write(text, name))][-2:] == [
        "two lines,\n42",
        "I say\n7",
    ]


def test_vtt(write):
    text = """WEBVTT - a title

STYLE
::cue { color: red }

NOTE a remark

opening
00:01.000 --> 00:02.500 align:start position:0%
<v Ann>Hello <00:00:01.500><c.loud>there</c>.

NOTE another

01:00:03.250 --> 01:00:04.000
and <i>then</i>
some
"""
    assert read_subtitles(write(text, "a.vtt")) == [
        Cue(1.0, 2.5, "Hello there."),
        Cue(3603.25, 3604.0, "and then\nsome"),
    ]


def test_kind_is_told_by_the_content(write):
    assert read_subtitles(write("WEBVTT\n\n00:01.000 --> 00:02.000\nhi\n", "a.srt")) == [
        Cue(1.0, 2.0, "hi")
    ]
    assert read_subtitles(write(SRT, "a.vtt")) == HELLO


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("&lt;b&gt; is bold", "<b> is bold"),
        ("caf&#233; &quot;Zur Post&quot;&nbsp;!", 'café "Zur Post" !'),
        ("it&#39;s", "it's"),
        ("<font color='red'>red</font> {\\an8}up", "red up"),
        ("3 < 4 and 5 > 4", "3 < 4 and 5 > 4"),
        ("first\\Nsecond", "first\nsecond"),
        ("he goes --> there", "he goes --> there"),
    ],
)
def test_markup_and_entities(write, raw, plain):
    assert read_subtitles(write(SRT.replace("Hello there.", raw)))[0].text == plain


def test_cues_without_text_are_left_out(write):
    assert read_subtitles(write(SRT.replace("Hello there.", "<i></i>"))) == HELLO[1:]


def test_cues_come_in_order_of_time(write):
    text = "1\n00:00:05,000 --> 00:00:06,000\nb\n\n2\n00:00:01,000 --> 00:00:09,000\na\n"
    assert [cue.text for cue in read_subtitles(write(text))] == ["a", "b"]


@pytest.mark.parametrize("text", ["", "\n \n", "WEBVTT\n", "WEBVTT\n\nNOTE nobody speaks\n"])
def test_nothing_is_said(write, text):
    assert read_subtitles(write(text)) == []


# ------------------------------------------------------------------ broken files


def refused(path, *words, **how):
    with pytest.raises(SubtitleError) as caught:
        read_subtitles(path, **how)
    assert str(caught.value).startswith(f"{path}: ")
    for word in words:
        assert word in caught.value.reason


@pytest.mark.parametrize("text", ["Just a story.\nNo times.\n", "{\\rtf1 nothing}", "1\n2\n3\n"])
def test_garbage(write, text):
    refused(write(text), "holds no subtitles")


def test_binary_garbage(tmp_path):
    path = tmp_path / "a.srt"
    path.write_bytes(bytes(range(256)) * 8)
    refused(path, "not UTF-8")


def test_ends_before_it_starts(write):
    refused(
        write(SRT.replace("00:01:04,000", "00:00:03,000")),
        "line 6",
        "ends at 3.000 s, before it starts at 3.250 s",
    )


def test_a_cue_may_be_as_short_as_nothing(write):
    assert read_subtitles(write(SRT.replace("00:01:04,000", "00:00:03,250")))[1].end_s == 3.25


@pytest.mark.parametrize(
    "timing",
    [
        "00:00:03,250 --> 00:00:xx,000",
        "00:00:03,250 -->",
        "--> 00:00:04,000",
        "00:00:03 --> 00:00:04",
        "00:00:03,250 - 00:00:04,000",
        "-00:00:03,250 --> 00:00:04,000",
    ],
)
def test_times_that_cannot_be_read(write, timing):
    refused(write(SRT.replace("00:00:03,250 --> 00:01:04,000", timing)), "line 6", timing)


def test_vtt_times_need_three_decimals(write):
    refused(write("WEBVTT\n\n00:01.25 --> 00:02.500\nhi\n", "a.vtt"), "line 3", "00:01.25")


def test_wrong_encoding(write):
    path = write(SRT.replace("two lines", "zwei Grüße"), encoding="cp1252")
    refused(path, "line 7", "not UTF-8", "encoding='cp1252'")
    assert read_subtitles(path, encoding="cp1252")[1].text == "zwei Grüße,\none cue"
    with pytest.raises(ValueError, match="unknown encoding"):
        read_subtitles(path, encoding="klingon")


def test_missing_and_folder(tmp_path):
    refused(tmp_path / "gone.srt", "no such file")
    refused(tmp_path, "folder")


# ------------------------------------------------------------------ writing


def test_what_is_written_is_read_back(tmp_path):
    cues = [
        Cue(0.0, 0.0, "at once"),
        Cue(1.5, 2.25, "Tom & Jerry <b>\n00:00:01.000 --> 00:00:02.000"),
        Cue(3599.999, 3600.0, "  -- an hour -->"),
        Cue(360_000.001, 360_001.0, "100 hours"),
    ]
    path = tmp_path / "a.vtt"
    path.write_text(vtt_text(cues, "made by: nobody\nfor: a test"))
    assert path.read_text().startswith(
        "WEBVTT\n\nNOTE\nmade by: nobody\nfor: a test\n\n00:00:00.000 "
    )
    read = read_subtitles(path)
    assert read == [replace(cue, text=cue.text.strip()) for cue in cues]


def test_times_are_rounded_and_empty_lines_go(tmp_path):
    path = tmp_path / "a.vtt"
    path.write_text(vtt_text([Cue(0.0004, 59.9996, "one\n\n \ntwo"), Cue(61, 62, "")]))
    assert "00:00:00.000 --> 00:01:00.000\none\ntwo\n" in path.read_text()
    assert read_subtitles(path) == [Cue(0.0, 60.0, "one\ntwo")]


def test_nothing_said_is_a_file_too(tmp_path):
    path = tmp_path / "a.vtt"
    path.write_text(vtt_text([]))
    assert path.read_text() == "WEBVTT\n"
    assert read_subtitles(path) == []
