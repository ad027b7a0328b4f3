"""The gates of the small ImageBind: does a sound find its picture, and what does it tell?

All stories are held-out ones: each shows a combination of colour, shape and action that training
never saw. A sound's kind is that of the action whose sound it is, so that a picture *matches* a
sound if it shows this action. What counts as heard: half a second of it within the two seconds.
"""

import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vlmcourse.backbones.imagebind import ImageBind
from vlmcourse.foundations.gates import ridge
from vlmcourse.foundations.imagebind import SAMPLE_RATE, WINDOW_S, mel_window, sample_pair
from vlmcourse.media.imagebind_audio import read_sound_clips
from vlmcourse.world.files import write_clip
from vlmcourse.world.render import render_frame
from vlmcourse.world.sound import render_sound
from vlmcourse.world.story import (
    ACTION_SOUND,
    ACTIONS,
    SLIDE,
    Story,
    StorySettings,
    sample_story,
)

STILL = "still"
HEARD_S = 0.5
"""So much of a sound has to lie within a window."""
SLIDE_SHOWS = (0.2, 0.8)
"""A slide is seen in one frame only between two places: in this part of its second."""
PAIRS = 6
GROUP = 32
KIND_ACTION = {kind: action for action, kind in ACTION_SOUND.items()}


@dataclass
class Pool:
    """Windows and frames of many stories with what is heard and seen in each.

    sounds `[N, E]` and pictures `[N, E]`; heard: the actions whose sounds each
    window holds clearly, None where a sound is cut off; seen: the action of each frame, or `still`;
    phase: how much of that action is over, 0 to 1.
    """

    sounds: Tensor
    pictures: Tensor
    heard: list[tuple[str, ...] | None] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    phase: list[float] = field(default_factory=list)

    def windows(self, count: int) -> list[int]:
        """Windows in which exactly so many kinds of sound are heard, and nothing else."""
        return [i for i, h in enumerate(self.heard) if h is not None and len(h) == count]

    def frames(self, action: str) -> list[int]:
        """Frames that show this action (a slide: between two places)."""
        low, high = SLIDE_SHOWS if action == SLIDE else (0.0, 1.0)
        both = zip(self.seen, self.phase, strict=True)
        return [i for i, (seen, phase) in enumerate(both) if seen == action and low <= phase < high]


def heard_in(story: Story, start_s: float) -> tuple[str, ...] | None:
    """Name the actions whose sounds a window holds; None if it cuts one of them off too short."""
    heard_s: dict[str, float] = defaultdict(float)
    for sound in story.sounds:
        inside = min(start_s + WINDOW_S, sound.start_s + 1) - max(start_s, sound.start_s)
        if inside > 0:
            heard_s[KIND_ACTION[sound.kind]] += inside
    return tuple(heard_s) if all(s >= HEARD_S for s in heard_s.values()) else None


def imagebind_gates(
    imagebind: ImageBind, stories: int = 300, dubbed_clips: int = 60, seed: int = 700_000_000
) -> dict[str, list[bool]]:
    """Measure how well sounds and pictures of the same action find each other.

    Args:
        stories: held-out stories with live sound, and as many seen ones to fit the linear probe on.
        dubbed_clips: clips with sounds dubbed at random, written as mp4 and heard through the
            system's own eight windows.

    Returns:
        `{measure: [right, ...]}`. Of windows with one sound: `picture_of_sound`, the best of six
        pictures, one of each action; `picture_of_sound_or_still`, of these and a still one;
        `among_32_pictures`, of a batch's; `probe_kind`, read by the linear probe. Of pictures of an
        action: `sound_of_picture`, `sound_of_picture_or_silence` and `among_32_sounds`, likewise.
        `still_picture_of_silence` and `silence_of_still_picture`: of seven; `probe_silence`: the
        probe reads no kind; `two_...`: both kinds found. `dubbed_...`: the probe on dubbed clips.
        `measure/action` is the part of a measure that is about one action.
    """
    imagebind.eval()
    fitted = live_pool(imagebind, stories, seed, "exclude")
    tested = live_pool(imagebind, stories, seed + stories, "require")
    rng = np.random.default_rng(seed)
    result: dict[str, list[bool]] = defaultdict(list)
    _sound_to_picture(tested, rng, result)
    _picture_to_sound(tested, rng, result)
    _among_many(tested, rng, result)
    probe = sound_probe(fitted)
    _probe_sounds(probe, tested.sounds, tested.heard, "probe", result)
    sounds, heard = dubbed_sounds(imagebind, dubbed_clips, seed + 2 * stories)
    _probe_sounds(probe, sounds, heard, "dubbed", result)
    return dict(result)


@torch.no_grad()
def live_pool(imagebind: ImageBind, stories: int, seed: int, held_out: str) -> Pool:
    """Render windows and frames of stories with live sound and embed them."""
    settings = StorySettings(live_sound=True, held_out=held_out)
    pool, sounds, pictures = Pool(torch.empty(0), torch.empty(0)), [], []
    for index in range(stories):
        story = sample_story(seed + index, settings)
        rng, track = np.random.default_rng([seed, index]), render_sound(story, SAMPLE_RATE)
        pairs = [sample_pair(story, rng) for _ in range(PAIRS)]
        frames = [render_frame(story, p.time_s, 64, 64) for p in pairs]
        sounds.append(
            imagebind.embed_sound(torch.stack([mel_window(track, p.start_s) for p in pairs]))
        )
        pixels = imagebind.vision.preprocess(torch.from_numpy(np.stack(frames)))
        pictures.append(imagebind.embed_pictures(pixels))
        for pair in pairs:
            event = story.event_at(int(pair.time_s))
            pool.heard.append(heard_in(story, pair.start_s))
            pool.seen.append(event.action if event else STILL)
            pool.phase.append((pair.time_s - event.start_s) / event.length_s if event else 0.0)
    pool.sounds, pool.pictures = torch.cat(sounds), torch.cat(pictures)
    return pool


def _one_each(rng, candidates: dict[str, list[int]]) -> list[int]:
    return [int(rng.choice(found)) for found in candidates.values()]


def _sound_to_picture(pool: Pool, rng, result) -> None:
    """Offer every window one picture of each action, and the same with a still one as the last."""
    shown = {action: pool.frames(action) for action in (*ACTIONS, STILL)}
    scores = pool.sounds @ pool.pictures.T  # [N, N]
    for count in (0, 1, 2):
        for i in pool.windows(count):
            seven = scores[i, _one_each(rng, shown)]
            six, found = seven[:-1], {*pool.heard[i]}
            if count == 0:
                result["still_picture_of_silence"].append(int(seven.argmax()) == len(ACTIONS))
            elif count == 2:
                best = six.topk(2).indices.tolist()
                result["two_pictures_of_two_sounds"].append({ACTIONS[b] for b in best} == found)
            else:
                _note("picture_of_sound", six, pool.heard[i][0], result)
                _note("picture_of_sound_or_still", seven, pool.heard[i][0], result)


def _picture_to_sound(pool: Pool, rng, result) -> None:
    """Offer every picture one window of each sound, and the same with a silent one as the last."""
    heard = {a: [i for i in pool.windows(1) if pool.heard[i][0] == a] for a in ACTIONS}
    heard[STILL] = pool.windows(0)
    scores = pool.pictures @ pool.sounds.T  # [N, N]
    for action in ACTIONS:
        for i in pool.frames(action):
            seven = scores[i, _one_each(rng, heard)]
            _note("sound_of_picture", seven[:-1], action, result)
            _note("sound_of_picture_or_silence", seven, action, result)
    for i in pool.frames(STILL):
        best = int(scores[i, _one_each(rng, heard)].argmax())
        result["silence_of_still_picture"].append(best == len(ACTIONS))


def _note(name: str, scores: Tensor, action: str, result) -> None:
    right = int(scores.argmax()) == ACTIONS.index(action)
    result[name].append(right)
    result[f"{name}/{action}"].append(right)


def _among_many(pool: Pool, rng, result) -> None:
    """Among 32 pairs find, for each sound, a picture that matches it, and for each picture a sound.

    `chance` is the share of candidates that match.
    """
    shows = {i for action in ACTIONS for i in pool.frames(action)}
    pairs = [i for i in pool.windows(1) if i in shows and pool.heard[i][0] == pool.seen[i]]
    for group in np.array_split(rng.permutation(pairs), max(1, len(pairs) // GROUP)):
        if len(group) < GROUP:
            continue
        group = group[:GROUP]
        kinds = np.array([pool.seen[i] for i in group])
        scores = pool.sounds[group] @ pool.pictures[group].T
        result["among_32_pictures"] += (kinds[scores.argmax(1)] == kinds).tolist()
        result["among_32_sounds"] += (kinds[scores.argmax(0)] == kinds).tolist()
        result["among_32_chance"] += (kinds[:, None] == kinds).ravel().tolist()


# ---------------------------------------------------------------- what the sound alone tells


def sound_probe(pool: Pool) -> Callable[[Tensor], Tensor]:
    """Fit a linear map from a sound's embedding to what is heard: `[N, E]` -> `[N, 6]`, 0 to 1."""
    clear = [i for i, heard in enumerate(pool.heard) if heard is not None]
    targets = torch.tensor([[float(a in pool.heard[i]) for a in ACTIONS] for i in clear])
    weights = ridge(pool.sounds[clear], targets)  # [E + 1, 6]

    def read(sounds: Tensor) -> Tensor:
        return torch.cat([sounds, torch.ones(len(sounds), 1)], 1) @ weights

    return read


def _probe_sounds(probe, sounds: Tensor, heard, name: str, result) -> None:
    for scores, actions in zip(probe(sounds), heard, strict=True):
        if actions is None or len(actions) > 2:
            continue
        likeliest = {ACTIONS[i] for i in scores.topk(max(1, len(actions))).indices.tolist()}
        if not actions:
            result[f"{name}_silence"].append(bool(scores.max() < 0.5))
        else:
            key = "kind" if len(actions) == 1 else "two_kinds"
            result[f"{name}_{key}"].append(likeliest == {*actions})


@torch.no_grad()
def dubbed_sounds(imagebind: ImageBind, clips: int, seed: int):
    """Hear mp4 files whose sounds are independent of their pictures.

    Returns:
        embeddings `[8 * clips, E]`, and what each window holds.
    """
    settings = StorySettings(sounds=(1, 4), held_out="require")
    sounds, heard = [], []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(clips):
            story = sample_story(seed + index, settings)
            found = read_sound_clips(write_clip(story, folder, "dubbed").video)
            sounds.append(imagebind.embed_sound(found.mels))
            heard += [heard_in(story, float(start_s)) for start_s in found.times_s]
    return torch.cat(sounds), heard
