"""Sounds of a story: in their seconds, of clearly different timbres, independent of the picture."""

import numpy as np
import pytest

from vlmcourse.world.sound import BACKGROUND_RMS, render_sound, synthesise
from vlmcourse.world.story import SOUNDS, Sound, Story, StorySettings, Thing, sample_story

RATE = 16000


def level(samples):
    """Return the root mean square of every second of float [S]."""
    return np.sqrt(np.mean(samples.reshape(-1, RATE) ** 2, axis=1))


def test_length_type_and_range():
    samples = render_sound(sample_story(4), RATE)
    assert samples.shape == (8 * RATE,)
    assert samples.dtype == np.float32
    assert np.abs(samples).max() <= 1.0
    assert render_sound(sample_story(4), 8000).shape == (8 * 8000,)


@pytest.mark.parametrize("kind", SOUNDS)
def test_a_sound_fills_its_second_and_no_other(kind):
    for seed in range(5):
        loud = level(render_sound(Story(seed, 6, (), (), (Sound(2, kind),))))
        assert loud[2] > 10 * BACKGROUND_RMS
        assert np.all(np.delete(loud, 2) < 1.2 * BACKGROUND_RMS)


def test_a_silent_story_has_faint_noise():
    loud = level(render_sound(Story(1, 4, (), ())))
    assert np.all((loud > 0.5 * BACKGROUND_RMS) & (loud < 1.5 * BACKGROUND_RMS))


def test_the_picture_tells_nothing_about_the_sound():
    heard = (Sound(1, "bell"), Sound(3, "drum"))
    things = (Thing("red", "star", "big", 0, 0),)
    assert np.array_equal(
        render_sound(Story(8, 4, (), (), heard)), render_sound(Story(8, 4, things, (), heard))
    )


def test_live_sound_is_heard_in_the_seconds_of_the_events_and_in_no_other():
    for seed in range(20):
        story = sample_story(seed, StorySettings(live_sound=True))
        loud = level(render_sound(story)) > 2 * BACKGROUND_RMS
        acting = [story.event_at(second) is not None for second in range(story.duration_s)]
        assert loud.tolist() == acting


def features(wave):
    """Describe a wave by the level of 24 bands, their unrest in time, and its envelope's unrest."""
    frames = np.lib.stride_tricks.sliding_window_view(wave, 512)[::128] * np.hanning(512)
    power = np.log(
        np.abs(np.fft.rfft(frames))[:, 1:241].reshape(len(frames), 24, 10).mean(-1) + 1e-3
    )
    return np.concatenate([power.mean(0), power.std(0), [power.mean(1).std()]])


def test_timbres_are_told_apart_across_seeds():
    told = {
        kind: np.stack(
            [features(synthesise(kind, RATE, np.random.default_rng(s))) for s in range(24)]
        )
        for kind in SOUNDS
    }
    means = np.stack([told[kind][:12].mean(0) for kind in SOUNDS])
    for index, kind in enumerate(SOUNDS):
        distance = np.linalg.norm(told[kind][12:, None] - means, axis=-1)
        assert (distance.argmin(-1) == index).all(), kind


def test_a_timbre_varies_in_pitch_and_loudness():
    for kind in SOUNDS:
        waves = [synthesise(kind, RATE, np.random.default_rng(s)) for s in range(8)]
        loud = [np.sqrt(np.mean(w**2)) for w in waves]
        assert max(loud) > 1.2 * min(loud)
        assert len({w.tobytes() for w in waves}) == 8
