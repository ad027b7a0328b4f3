"""Subtitles at another time, of another clip, or none: rows are laid out anew, nothing else is."""

from dataclasses import replace

import pytest
import torch
from tiny_listener import Listener, ListeningProcessor, build_listener, made_up_probes

from vlmcourse.conversation import Text
from vlmcourse.evaluation import probes as probing
from vlmcourse.evaluation.conditions import SUBTITLES, Asked, chosen_conditions
from vlmcourse.evaluation.rows import rows_without_media
from vlmcourse.evaluation.scoring import judgement
from vlmcourse.evaluation.subtitles import cues_within, shifted_cues, with_other_cues
from vlmcourse.media.subtitles import Cue
from vlmcourse.systems.processor import Clip, Given

ONLY_LOOKS = Given("pictures", None)


class ReadingProcessor(ListeningProcessor):
    """One place a frame, and behind it what was said since the frame before."""

    def expand(self, kind, clip):
        pieces, last = [], -1.0
        for second in clip.times_s.tolist():
            pieces += super().expand(kind, replace(clip, times_s=torch.zeros(1)))
            said = [cue for cue in clip.cues if last < cue.start_s <= second]
            pieces += [Text(f" said : {cue.text} . ") for cue in said]
            last = second
        return pieces


@pytest.fixture(scope="module")
def model():
    made = build_listener()
    reader = Listener(made.language_model, ReadingProcessor(made.processor.tokenizer))
    reader.looks = made.looks
    return reader.eval()


@pytest.fixture(scope="module")
def asked():
    """Six clips of eight seconds whose subtitles are those of their stories; some have none."""
    made = made_up_probes(given=ONLY_LOOKS)
    clips = [
        replace(
            clip,
            duration_s=8.0,
            cues=tuple(
                Cue(line.start_s, line.start_s + 1.5, story.line_text(line)) for line in story.lines
            ),
        )
        for clip, story in zip(made.clips, made.stories)
    ]
    assert 0 < sum(bool(clip.cues) for clip in clips) < len(clips)
    return replace(made, clips=clips)


def words(model, row):
    return model.processor.tokenizer.inner.decode(row.ids)


def test_a_shift_wraps_and_cuts_but_loses_nothing():
    cues = (Cue(0.0, 1.5, "a"), Cue(3.0, 5.0, "b"), Cue(4.0, 5.5, "c"), Cue(6.0, 7.5, "d"))
    assert shifted_cues(cues, 8.0) == (
        Cue(0.0, 1.5, "c"), Cue(2.0, 3.5, "d"), Cue(4.0, 5.5, "a"), Cue(7.0, 8.0, "b"),
    )  # fmt: skip
    twice = shifted_cues(shifted_cues(cues, 8.0), 8.0)
    assert [(cue.start_s, cue.text) for cue in twice] == [(c.start_s, c.text) for c in cues]
    assert shifted_cues((), 0.0) == ()
    assert shifted_cues((Cue(9.0, 10.0, "late"),), 8.0) == (Cue(5.0, 6.0, "late"),)
    with pytest.raises(ValueError, match="no half"):
        shifted_cues(cues, 0.0)


def test_cues_behind_the_end_of_a_shorter_clip_are_not_said():
    cues = (Cue(0.0, 1.5, "a"), Cue(3.5, 5.0, "b"), Cue(4.0, 6.0, "c"))
    assert cues_within(cues, 4.0) == (Cue(0.0, 1.5, "a"), Cue(3.5, 4.0, "b"))


def test_every_clip_borrows_from_another_one_that_has_something_to_lend():
    def clip(text):
        return Clip(torch.zeros(1), duration_s=8.0, cues=(Cue(0, 1, text),) if text else ())

    texts = ["a", "", "", "", "b", ""]
    lent = [c.cues[0].text for c in with_other_cues([clip(t) for t in texts])]
    assert lent == ["b", "b", "a", "a", "a", "b"]
    alone = with_other_cues([clip("a"), clip("")])
    assert [bool(c.cues) for c in alone] == [False, True]
    assert with_other_cues([clip("a")])[0].cues == ()


def test_rows_are_laid_out_anew_and_features_stay(model, asked):
    own = probing.video_rows(model, asked, asked.clips)
    telling = next(i for i, clip in enumerate(asked.clips) if clip.cues)
    assert f"said : {asked.clips[telling].cues[0].text} ." in words(model, own[telling])
    for condition in SUBTITLES:
        clips, streams = probing.shown(asked, condition)
        assert streams is asked.streams
        rows = probing.video_rows(model, asked, clips)
        asker = probing.Asker(asked)
        asker.ask(model, condition)
        assert asker._laid_out(model, condition) == rows, "asked with its own layout"
        assert rows[telling] != own[telling]
        assert [max(row.segments) for row in rows] == [max(row.segments) for row in own]
    silent = probing.video_rows(model, asked, probing.shown(asked, "no_subtitles")[0])
    assert not any("said :" in words(model, row) for row in silent)
    moved = probing.video_rows(model, asked, probing.shown(asked, "shifted_subtitles")[0])
    assert sorted(words(model, moved[telling]).split()) == sorted(
        words(model, own[telling]).split()
    )


def test_without_the_video_nothing_is_said(model, asked):
    rows = rows_without_media(model, asked, "no_video")
    assert not any("said :" in words(model, row) for row in rows)


def test_only_readers_are_asked_with_other_subtitles(asked):
    assert not set(SUBTITLES) & set(chosen_conditions(None, Asked(ONLY_LOOKS)))
    reader = Asked(ONLY_LOOKS, subtitles=True)
    assert set(SUBTITLES) < set(chosen_conditions(None, reader))
    assert "speech" in reader.evidence
    assert "speech" not in Asked(ONLY_LOOKS).evidence


def test_a_reader_knows_speech_only_if_it_beats_its_own_silence():
    gains = {
        f"gain_over_{control}/speech": {"low": 0.1}
        for control in ("best_constant", "no_subtitles", "other_subtitles")
    }
    reader = Asked(ONLY_LOOKS, subtitles=True).evidence
    assert judgement(gains, reader).beaten == ["speech"]
    gains["gain_over_other_subtitles/speech"] = {"low": -0.01}
    assert judgement(gains, reader).beaten == []
    assert judgement(gains, Asked(ONLY_LOOKS).evidence).leaks == ["speech"], "it cannot read"
