"""How a story sounds: six timbres, synthesised, over faint noise.

Each sound fills its own second and nothing else. Pitch, speed and loudness vary a little with the
story's seed, so that a timbre has to be heard as a timbre and not as one waveform.
"""

import math

import numpy as np

from vlmcourse.world.scenes import cut
from vlmcourse.world.story import Story

SOUND_S = 0.96
"""A sound lasts this long, 20 ms away from either end of its second."""
BACKGROUND_RMS = 0.002
FADE_S = 0.008
PEAK, RMS = 0.7, 0.16
"""The loudest a sound may be: short hits reach the peak, long tones the mean level."""


def render_sound(story: Story, sample_rate: int = 16000) -> np.ndarray:
    """Synthesise a clip's sound track -> float32 [S] in -1 .. 1, S = duration_s * sample_rate.

    The track depends on the story's seed and sounds alone. Dubbed sounds are drawn independently of
    the picture: what is seen never tells what is heard. Live ones (`StorySettings.live_sound`) tell
    which actions are seen, and when. Every scene of a film has a track of its own.
    """
    return np.concatenate([_track(scene, sample_rate) for _, scene in cut(story)])


def _track(story: Story, sample_rate: int) -> np.ndarray:
    rng = np.random.default_rng([story.seed, 2])
    total = story.duration_s * sample_rate
    track = rng.standard_normal(total, dtype=np.float32) * np.float32(BACKGROUND_RMS)
    for index, sound in enumerate(story.sounds):
        voice = np.random.default_rng([story.seed, 3, index])
        start = round((sound.start_s + (1.0 - SOUND_S) / 2) * sample_rate)
        wave = synthesise(sound.kind, sample_rate, voice)
        track[start : start + len(wave)] += wave
    return np.clip(track, -1.0, 1.0)


def synthesise(kind: str, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Make one sound -> float32 [SOUND_S * sample_rate].

    It is as loud as PEAK and RMS allow, or softer, down to half.
    """
    time_s = np.arange(round(SOUND_S * sample_rate)) / sample_rate
    wave = _VOICES[kind](time_s, 2.0 ** rng.uniform(-0.15, 0.15), rng)
    wave *= np.clip(np.minimum(time_s, time_s[-1] - time_s) / FADE_S, 0.0, 1.0)
    loudest = min(PEAK / np.abs(wave).max(), RMS / np.sqrt(np.mean(wave**2)))
    wave *= loudest * rng.uniform(0.5, 1.0)
    return wave.astype(np.float32)


def _turns(frequency_hz: np.ndarray, time_s: np.ndarray) -> np.ndarray:
    """Return the phase, in turns, of a tone whose frequency changes in time."""
    return np.cumsum(frequency_hz) * (time_s[1] - time_s[0])


def _bell(time_s, pitch, rng):
    """Partials that are no multiples of each other; the high ones die first."""
    wave = np.zeros_like(time_s)
    for ratio, level in ((1.0, 1.0), (2.76, 0.7), (5.4, 0.5), (8.93, 0.3)):
        decay = np.exp(-time_s * (3.0 + 1.2 * ratio))
        phase = 620.0 * pitch * ratio * time_s + rng.random()
        wave += level * decay * np.sin(2 * math.pi * phase)
    return wave


def _buzzer(time_s, pitch, rng):
    """A low square wave: odd harmonics up to 3 kHz."""
    frequency = 115.0 * pitch
    phase = 2 * math.pi * (frequency * time_s + rng.random())
    orders = range(1, int(3000.0 / frequency) + 1, 2)
    return sum(np.sin(order * phase) / order for order in orders)


def _whistle(time_s, pitch, rng):
    """One high tone whose pitch trembles seven times a second."""
    tremble = np.sin(2 * math.pi * (7.0 * time_s + rng.random()))
    return np.sin(2 * math.pi * _turns(2500.0 * pitch * (1.0 + 0.025 * tremble), time_s))


def _drum(time_s, pitch, rng):
    """Three low thumps, each with a hit of noise at its start."""
    wave = np.zeros_like(time_s)
    gap_s = rng.uniform(0.27, 0.31)
    for hit in range(3):
        since = np.maximum(time_s - hit * gap_s, 0.0)
        # The pitch falls from 132 to 62 Hz; the second term is the integral of the falling part.
        phase = pitch * (62.0 * since + 2.5 * (1.0 - np.exp(-since * 28)))
        thump = np.sin(2 * math.pi * phase) * np.exp(-since * 12)
        noise = rng.standard_normal(len(time_s)) * np.exp(-since * 130) * 0.3
        wave += (since > 0) * (thump + noise)
    return wave


def _siren(time_s, pitch, rng):
    """A tone with overtones that glides up and down twice."""
    glide = 0.5 - 0.5 * np.cos(2 * math.pi * 2.0 * time_s / SOUND_S)
    phase = 2 * math.pi * (_turns(pitch * (500.0 + 900.0 * glide), time_s) + rng.random())
    return np.sin(phase) + 0.4 * np.sin(2 * phase) + 0.2 * np.sin(3 * phase)


def _rattle(time_s, pitch, rng):
    """Short bursts of bright noise, some thirteen a second."""
    noise = np.diff(rng.standard_normal(len(time_s) + 1))
    turn = (13.0 * pitch * time_s) % 1.0
    return noise * np.exp(-turn * 7.0)


_VOICES = {
    "bell": _bell,
    "buzzer": _buzzer,
    "whistle": _whistle,
    "drum": _drum,
    "siren": _siren,
    "rattle": _rattle,
}
