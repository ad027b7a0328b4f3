"""MiniGPT4-video's way of putting subtitles behind frames."""

import pytest

from vlmcourse.media.subtitle_alignment import minigpt4_video_captions, spoken_by_frame
from vlmcourse.media.subtitles import Cue

# 40 frames, 10 a second, every 4th is taken: frames 0, 4, 8, ... are pictures 0, 1, 2, ...
CLIP = {"duration_s": 4.0, "fps": 10.0, "wanted": 10}


def shown(captions: list[str]) -> dict[int, str]:
    return {place: text for place, text in enumerate(captions) if text}


@pytest.mark.parametrize("mode", ["infer", "train", "evaluate"])
def test_a_frame_carries_what_was_said_since_the_frame_before(mode):
    cues = [Cue(0.0, 0.2, "red"), Cue(0.5, 0.6, "green"), Cue(0.7, 0.8, "blue"), Cue(2.4, 3, "sky")]
    captions = minigpt4_video_captions(cues, mode=mode, **CLIP)
    assert len(captions) == 10
    assert shown(captions) == {0: "red ", 2: "green blue ", 6: "sky "}


@pytest.mark.parametrize("mode", ["infer", "train", "evaluate"])
def test_what_is_said_after_the_last_picture_is_lost(mode):
    assert shown(minigpt4_video_captions([Cue(3.7, 4.0, "bye")], mode=mode, **CLIP)) == {}


@pytest.mark.parametrize("mode", ["infer", "train", "evaluate"])
def test_a_text_is_used_once_and_lines_are_joined(mode):
    cues = [Cue(0.0, 0.5, "look\nhere"), Cue(2.0, 2.5, "look\nhere")]
    assert shown(minigpt4_video_captions(cues, mode=mode, **CLIP)) == {0: "look here "}


@pytest.mark.parametrize("mode", ["infer", "train", "evaluate"])
def test_between_two_frames_nothing_is_seen(mode):
    assert shown(minigpt4_video_captions([Cue(0.51, 0.59, "flash")], mode=mode, **CLIP)) == {}


def test_training_drops_words_that_are_part_of_what_was_said():
    cues = [Cue(0.0, 0.2, "there he goes"), Cue(0.5, 0.6, "he sees a cat"), Cue(1.0, 1.1, "a dog")]
    assert shown(minigpt4_video_captions(cues, mode="train", **CLIP)) == {
        0: "there goes ",
        2: "sees a cat ",
        3: "dog ",
    }


def test_overlapping_cues():
    cues = [Cue(0.0, 2.0, "one"), Cue(0.5, 1.0, "two"), Cue(0.6, 0.7, "three")]
    assert shown(minigpt4_video_captions(cues, mode="train", **CLIP)) == {
        0: "one ",
        2: "two three ",
    }
    # Evaluation takes the first cue on screen only, and that one has been used.
    assert shown(minigpt4_video_captions(cues, mode="evaluate", **CLIP)) == {0: "one "}
    # The binary search meets the middle one first.
    assert shown(minigpt4_video_captions(cues, mode="infer", **CLIP)) == {0: "one ", 2: "two "}


def test_evaluation_passes_over_what_is_still_waiting_to_be_handed_out():
    cues = [Cue(0.5, 2.0, "one"), Cue(0.6, 0.8, "two")]
    assert shown(minigpt4_video_captions(cues, mode="evaluate", **CLIP)) == {2: "one two "}


def test_word_budget():
    cues = [Cue(n / 2, n / 2 + 0.1, f"w{n} x{n} y{n}") for n in range(6)]
    for budget, count in [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (100, 6)]:
        captions = minigpt4_video_captions(cues, word_budget=budget, **CLIP)
        assert len(shown(captions)) == count


def test_short_videos_are_filled_up_except_in_inference():
    cues = [Cue(0.0, 0.1, "hi")]
    for mode, count in [("infer", 4), ("train", 10), ("evaluate", 10)]:
        captions = minigpt4_video_captions(cues, duration_s=0.4, fps=10.0, wanted=10, mode=mode)
        assert (len(captions), shown(captions)) == (count, {0: "hi "})


def test_frames_that_the_file_really_has():
    cues = [Cue(0.0, 0.1, "hi"), Cue(1.9, 2.2, "bye")]
    assert len(minigpt4_video_captions(cues, decodable=20, **CLIP)) == 5
    assert shown(minigpt4_video_captions(cues, decodable=20, **CLIP)) == {0: "hi "}


def test_fractional_rates_drift_except_in_inference():
    cues = [Cue(20.0, 20.1, "now")]
    clip = {"duration_s": 30.0, "fps": 29.97, "wanted": 899}
    places = {
        mode: list(shown(minigpt4_video_captions(cues, mode=mode, **clip)))
        for mode in ("infer", "train", "evaluate")
    }
    assert places == {"infer": [600], "train": [580], "evaluate": [580]}


def test_nobody_speaks():
    assert minigpt4_video_captions([], **CLIP) == [""] * 10


def test_wrong_mode_and_rate():
    with pytest.raises(ValueError, match="infer, train, evaluate"):
        minigpt4_video_captions([], mode="test", **CLIP)
    with pytest.raises(ValueError, match="at least 1 frame a second"):
        minigpt4_video_captions([], duration_s=10, fps=0.5, mode="train")


# ---------------------------------------------------------------- the rule without its traps


def by_frame(cues, times_s=(0.0, 1.0, 2.0, 3.0), **options):
    return {n: x for n, x in enumerate(spoken_by_frame(cues, times_s, **options)) if x}


def test_nothing_that_is_said_gets_lost():
    cues = [Cue(0.0, 9.0, "long"), Cue(0.2, 0.3, "between"), Cue(0.9, 1.5, "a"), Cue(1.0, 2, "a")]
    assert by_frame(cues) == {0: ("long",), 1: ("between", "a", "a")}
    assert by_frame([Cue(3.5, 4, "two\nlines"), Cue(7, 8, "late")]) == {3: ("two lines", "late")}
    assert by_frame(reversed(cues)) == by_frame(cues)


def test_a_text_that_begins_with_a_frame_belongs_to_it_whatever_the_rounding():
    import torch

    times = torch.tensor([n / 10 for n in range(40)]).tolist()  # float32
    spoken = spoken_by_frame([Cue(n / 10, n / 10, str(n)) for n in range(40)], times)
    assert spoken == [(str(n),) for n in range(40)]


def test_of_repeated_frames_the_first_speaks():
    assert by_frame([Cue(1.5, 2, "x"), Cue(5, 6, "y")], (0.0, 2.0, 2.0, 2.0)) == {1: ("x", "y")}


def test_words_are_counted_as_they_are():
    cues = [Cue(n, n, "three short words") for n in range(4)]
    assert list(by_frame(cues, word_budget=6)) == [0, 1]
    assert list(by_frame(cues, word_budget=5)) == [0]
    assert by_frame(cues, word_budget=0) == {}
    assert spoken_by_frame(cues, []) == []
