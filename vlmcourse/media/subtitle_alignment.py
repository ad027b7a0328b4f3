"""Which subtitle text stands behind which sampled frame: MiniGPT4-video's rule, pure functions.

A frame carries what was said since the sampled frame before it. `spoken_by_frame` says this in a
few lines; `minigpt4_video_captions` repeats what the official code makes of it, in its three modes:
every frame of the video is visited, what is being said there is collected, and handed out at the
next sampled frame.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from vlmcourse.media.sampling import minigpt4_video_interval, minigpt4_video_total
from vlmcourse.media.subtitles import Cue

# (texts on screen, text collected so far, text handed out last, texts already used) -> what to add
_Chooser = Callable[[list[str], str, str, set[str]], str]

_SAME_MOMENT_S = 1e-3
"""Subtitles are written in milliseconds, and times of frames are float32."""


def spoken_by_frame(
    cues: Sequence[Cue], times_s: Sequence[float], word_budget: int | None = None
) -> list[tuple[str, ...]]:
    """Give each sampled frame the texts that began since the frame before it.

    Differs from the official code (`minigpt4_video_captions`): nothing that is said gets lost. A
    text that is said twice stands there twice, texts that overlap both do, and what is said behind
    the last sampled frame goes to that frame. Words are counted as they are, and no text crosses
    the budget: from the first that would, all are left out.

    Args:
        cues: in any order.
        times_s: `[T]` ascending second of each sampled frame; of equal ones the first speaks.
        word_budget: most words of all texts together; None for no limit.

    Returns:
        for each frame its texts on one line each, in order of time.
    """
    spoken: list[list[str]] = [[] for _ in times_s]
    last = bisect_left(times_s, times_s[-1]) if len(times_s) else 0
    words = 0
    for cue in sorted(cues, key=lambda cue: cue.start_s) if spoken else ():
        text = " ".join(cue.text.split())
        words += len(text.split())
        if word_budget is not None and words > word_budget:
            break
        frame = bisect_left(times_s, cue.start_s - _SAME_MOMENT_S)
        spoken[min(frame, last)].append(text)
    return [tuple(texts) for texts in spoken]


def minigpt4_video_captions(
    cues: Sequence[Cue],
    *,
    duration_s: float,
    fps: float,
    wanted: int = 45,
    word_budget: int = 400,
    mode: str = "infer",
    decodable: int | None = None,
) -> list[str]:
    """Give each sampled frame the text said since the one before.

    Official: Vision-CAIR/MiniGPT4-video@ecabd7a:minigpt4/datasets/datasets/video_datasets.py
    ("train" and "evaluate") and minigpt4_video_inference.py ("infer").
    Differs: nothing in the three modes; the default is the one that keeps whole sentences on the
    true clock. "train" drops each word that is a substring of the text collected so far or handed
    out last (so "a" and "he" often vanish); "train" and "evaluate" take frame / int(fps) for the
    time, so at 29.97 frames a second subtitles drift by 3 %. A text is used once a video even if it
    is said twice.

    Args:
        cues: subtitles in the order of their file.
        duration_s: length of the video by its container.
        fps: average frame rate, at least 1.
        wanted: frames to sample: 45 (Llama 2) or 90 (Mistral).
        word_budget: 400 (Llama 2) or 800 (Mistral). No text is handed out once this many words
            were; the text that crosses the line is given whole, and each counts one word too many.
        mode: "infer", "train" or "evaluate"; the last two also fill up to `wanted` frames.
        decodable: frames that the file delivers; None means int(duration * fps).

    Returns:
        One text per sampled frame, each ending with a blank; "" where nothing is handed out.
    """
    if mode not in _CHOOSERS:
        raise ValueError(f"mode must be one of {', '.join(_CHOOSERS)}, not {mode!r}")
    total = minigpt4_video_total(duration_s, fps)
    interval = minigpt4_video_interval(total, wanted)
    frames = total if decodable is None else decodable
    shown = _shown_in_inference if mode == "infer" else _shown
    choose: _Chooser = _CHOOSERS[mode]
    captions: list[str] = []
    collected, last, used, words = "", "", set(), 0
    visited = min(frames, (wanted - 1) * interval + 1)
    for frame, active in enumerate(shown(cues, visited, fps)):
        collected += choose(active, collected, last, used)
        if frame % interval:
            continue
        captions.append("")
        if collected and words < word_budget:
            captions[-1] = last = collected
            words += collected.count(" ") + 1
            collected = ""
    if mode != "infer":
        captions += [""] * (wanted - len(captions))
    return captions


def _shown(cues: Sequence[Cue], frames: int, fps: float) -> Iterator[list[str]]:
    """Yield the texts on screen at each frame, on a clock of whole frames a second."""
    rate = int(fps)
    if rate < 1:
        raise ValueError(f"this mode needs at least 1 frame a second, got {fps}")
    spans = [(_seconds(c.start_s), n, _seconds(c.end_s), _one_line(c)) for n, c in enumerate(cues)]
    waiting = deque(sorted(spans))
    live: list[tuple[int, float, str]] = []  # in the order of the file
    for frame in range(frames):
        while waiting and waiting[0][0] <= frame / rate:
            insort(live, waiting.popleft()[1:])
        live = [span for span in live if frame / rate <= span[1]]
        yield [text for _, _, text in live]


def _shown_in_inference(cues: Sequence[Cue], frames: int, fps: float) -> Iterator[list[str]]:
    """Yield the text that a binary search finds at each frame: of overlapping cues, any one."""
    spans = [(_milliseconds(c.start_s), _milliseconds(c.end_s), _one_line(c).strip()) for c in cues]
    for frame in range(frames):
        moment, low, high, found = frame / fps * 1000, 0, len(spans) - 1, []
        while low <= high and not found:
            middle = (low + high) // 2
            start, end, text = spans[middle]
            if moment < start:
                high = middle - 1
            elif moment > end:
                low = middle + 1
            else:
                found = [text]
        yield found


def _one_line(cue: Cue) -> str:
    return cue.text.replace("\n", " ")


def _seconds(seconds: float) -> float:
    """Put a time together from whole seconds and milliseconds, as the official reader does."""
    milliseconds = round(seconds * 1000)
    return milliseconds // 1000 + milliseconds % 1000 / 1000


def _milliseconds(seconds: float) -> int:
    """Turn a time into milliseconds as official inference does: cut, so sometimes one too few."""
    minutes, rest = divmod(round(seconds * 1000), 60_000)
    return int((minutes * 60 + rest / 1000) * 1000)


def _choose_words(active: list[str], collected: str, last: str, used: set[str]) -> str:
    added = ""
    for text in active:
        if text not in used:
            used.add(text)
            for word in text.split(" "):
                if word not in collected + added and word not in last:
                    added += word + " "
    return added


def _choose_first_new(active: list[str], collected: str, last: str, used: set[str]) -> str:
    text = next((text for text in active if text not in collected), None)
    return _choose_whole([] if text is None else [text], collected, last, used)


def _choose_whole(active: list[str], collected: str, last: str, used: set[str]) -> str:
    if not active or not active[0] or active[0] in used:
        return ""
    used.add(active[0])
    return active[0] + " "


_CHOOSERS: dict[str, _Chooser] = {
    "infer": _choose_whole,
    "train": _choose_words,
    "evaluate": _choose_first_new,
}
CAPTION_MODES = tuple(_CHOOSERS)
