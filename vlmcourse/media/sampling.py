"""Which frames each system looks at: its rule by name, a function from numbers to frame indices.

No rule opens a file. `total` is the number of frames of the video, indices count from 0. All rules
but Qwen2-VL's, CogVLM2-Video's, Chat-UniVi's and MA-LMM's window rule ignore the frame rate.
"""

import random
from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def uniform_indices(total: int, wanted: int) -> list[int]:
    """Cut the video into equal parts and take the middle of each: the course's own plain rule.

    Args:
        total: frames of the video, at least 1.
        wanted: parts, at least 1.

    Returns:
        `wanted` ascending indices, with repeats where the video is shorter.
    """
    _check(total, wanted)
    return [int((part + 0.5) * total / wanted) for part in range(wanted)]


def video_chatgpt_indices(total: int, wanted: int = 100) -> list[int]:
    """Middles of equal segments, at most as many as there are frames.

    Official: mbzuai-oryx/Video-ChatGPT@659e04b:video_chatgpt/eval/model_utils.py (load_video).
    Differs: nothing. Note that a video of `wanted` frames or fewer does not give all its frames:
    one in the middle comes twice and the last never.

    Returns:
        `min(total, wanted)` indices, never descending.
    """
    _check(total, wanted)
    return video_chatgpt_segment_middles(total, min(total, wanted))


def video_chatgpt_segment_middles(total: int, parts: int) -> list[int]:
    """Split the stretch from first to last frame into `parts` and round to the middle of each.

    Borders are rounded half to even, the middle of two borders downwards.

    Official: mbzuai-oryx/Video-ChatGPT@659e04b:video_chatgpt/eval/model_utils.py (get_seq_frames).
    """
    _check(total, parts)
    length = float(total - 1) / parts
    borders = [round(length * part) for part in range(parts + 1)]
    return [(start + stop) // 2 for start, stop in pairwise(borders)]


def video_llama_indices(total: int, wanted: int = 8, *, official: bool = False) -> list[int]:
    """Starts of equal segments: `floor(i * total / n)` with `n = min(total, wanted)`.

    Official: DAMO-NLP-SG/Video-LLaMA@64888c0:video_llama/processors/video_processor.py ("uniform").
    Differs: integers throughout. The official step is a float: for an `n` that is no power of two
    it can give an index too many, equal to `total`, or one that is too small by 1 (`official=True`
    shows it). The released models use 8, where both are the same.
    """
    _check(total, wanted)
    parts = min(total, wanted)
    if official:
        return np.arange(0, total, total / parts).astype(int).tolist()
    return [part * total // parts for part in range(parts)]


def video_llama_headtail_indices(total: int, wanted: int, rng: random.Random) -> list[int]:
    """Random frames, half of them from the first half of the video: for stage 1 training (WebVid).

    Official: DAMO-NLP-SG/Video-LLaMA@64888c0:video_llama/processors/video_processor.py
    ("headtail").

    Returns:
        `min(total, wanted)` indices, one fewer when that number is odd, ascending and distinct.
    """
    _check(total, wanted)
    half = min(total, wanted) // 2
    head = rng.sample(range(total // 2), half)
    tail = rng.sample(range(total // 2, total), half)
    return sorted(head) + sorted(tail)


def video_llama_seconds(indices: Sequence[int], fps: float) -> list[str]:
    """Write the times that Video-LLaMA tells its language model: `round(index / fps, 1)` as text.

    Official: DAMO-NLP-SG/Video-LLaMA@64888c0:video_llama/processors/video_processor.py
    (load_video).
    """
    return [str(round(index / fps, 1)) for index in indices]


def minigpt4_video_total(duration_s: float, fps: float) -> int:
    """Count frames as MiniGPT4-video does: from the container's header, not by decoding.

    Official: Vision-CAIR/MiniGPT4-video@ecabd7a:minigpt4/datasets/datasets/video_datasets.py.
    """
    return int(duration_s * fps)


def minigpt4_video_interval(total: int, wanted: int = 45, *, rounded: bool = False) -> int:
    """Return the distance between chosen frames, at least 1.

    Official: Vision-CAIR/MiniGPT4-video@ecabd7a:minigpt4/datasets/datasets/video_datasets.py; TVQA
    rounds (half to even) where all others cut.
    """
    interval = round(total / wanted) if rounded else int(total / wanted)
    return max(1, interval)


def minigpt4_video_indices(
    total: int, wanted: int = 45, mode: str = "infer", *, decodable: int | None = None
) -> list[int]:
    """Frames 0, interval, 2 * interval, ... until `wanted` are found or the video ends.

    Official: Vision-CAIR/MiniGPT4-video@ecabd7a:minigpt4/datasets/datasets/video_datasets.py
    ("train", also used by the benchmarks; "tvqa") and minigpt4_video_inference.py ("infer").
    Differs: nothing. Note that the tail beyond `wanted * interval` is never seen: of a video with
    `2 * wanted - 1` frames only the first half.

    Args:
        total: frames by `minigpt4_video_total`; for "tvqa" the pictures in the folder.
        wanted: 45 for the Llama 2 model, 90 for the Mistral one.
        mode: "infer" gives what there is; "train" and "tvqa" repeat the last frame up to `wanted`.
        decodable: frames that the file really delivers; None means `total`.
    """
    if mode not in ("infer", "train", "tvqa"):
        raise ValueError(f"mode must be 'infer', 'train' or 'tvqa', not {mode!r}")
    frames = total if decodable is None else decodable
    _check(frames, wanted)
    interval = minigpt4_video_interval(total, wanted, rounded=mode == "tvqa")
    chosen = list(range(0, frames, interval))[:wanted]
    if mode == "infer":
        return chosen
    return chosen + [chosen[-1]] * (wanted - len(chosen))


def cogvlm2_video_base_indices(
    total: int, fps: float, wanted: int = 24, *, start_s: float = 0, end_s: float = 60
) -> list[int]:
    """Even steps from first to last frame of the first minute, both included, cut to integers.

    Official: THUDM/CogVLM2@6700ae7:video_demo/inference.py (load_video, strategy "base").
    Differs: a window without a frame gives the frame next to it; the official numbers leave the
    video there.

    Returns:
        `wanted` indices, with repeats on short videos.
    """
    _check(total, wanted)
    first = min(int(start_s * fps), total - 1)
    last = max(first, min(total, int(end_s * fps)) - 1)
    return np.linspace(first, last, wanted, dtype=int).tolist()


def cogvlm2_video_chat_indices(times_s: Sequence[float], wanted: int = 24) -> list[int]:
    """For second 0, 1, 2, ... the frame whose start is nearest: one a second, at most `wanted`.

    Official: THUDM/CogVLM2@6700ae7:video_demo/inference.py (load_video, strategy "chat").
    Differs: nothing. Note that a video longer than `wanted` seconds is not seen to its end, and a
    shorter one gives fewer frames.

    Args:
        times_s: `[T]` start of every frame, counted from the first one and taken as float32, as
            decord gives them.
        wanted: most frames to choose.
    """
    _check(len(times_s), wanted)
    starts = np.asarray(times_s, np.float32).astype(np.float64)
    seconds = range(min(wanted, round(float(starts.max())) + 1))
    return [int(np.abs(starts - second).argmin()) for second in seconds]


def qwen2_vl_num_frames(
    total: int,
    video_fps: float,
    *,
    nframes: int | None = None,
    fps: float = 2.0,
    min_frames: int = 4,
    max_frames: int | None = None,
    factor: int = 2,
    frame_limit: int = 768,
) -> int:
    """Number of frames to take: `fps` a second within bounds, a multiple of `factor`.

    Official: QwenLM/Qwen2-VL@35ba6e1:qwen-vl-utils/src/qwen_vl_utils/vision_process.py
    (smart_nframes).

    Args:
        total: frames of the video.
        video_fps: its average frame rate.
        nframes: take this many (rounded to the factor) instead of going by `fps`.
        fps: frames wanted for a second of video.
        min_frames: least number, rounded up to the factor.
        max_frames: largest number, rounded down to the factor; None means min(frame_limit, total).
        factor: frames that share one token layer of the vision tower.
        frame_limit: the default bound.

    Raises:
        ValueError: the video has fewer frames than the result (or than `factor`).
    """
    if nframes is not None:
        count = round(nframes / factor) * factor
    else:
        most = min(frame_limit, total) if max_frames is None else max_frames
        low, high = -(-min_frames // factor) * factor, most // factor * factor
        count = round(min(max(total / video_fps * fps, low), high) / factor) * factor
    if not factor <= count <= total:
        raise ValueError(f"{count} frames asked of a video of {total}; must be {factor} to {total}")
    return count


def qwen2_vl_indices(total: int, count: int) -> list[int]:
    """Even steps from the first to the last frame, both included, rounded half to even in float32.

    Official: QwenLM/Qwen2-VL@35ba6e1:qwen-vl-utils/src/qwen_vl_utils/vision_process.py.
    """
    import torch

    _check(total, count)
    return torch.linspace(0, total - 1, count).round().long().tolist()


def chat_univi_indices(total: int, fps: float, max_frames: int = 64) -> list[int]:
    """One frame a second; when those are more than `max_frames`, even steps through them, cut.

    Official: PKU-YuanGroup/Chat-UniVi@ec0b3db:ChatUniVi/model/dataloader.py.
    Differs: below 0.5 frames a second every frame is taken; the official stride is then 0, an
    error.
    """
    _check(total, max_frames)
    chosen = list(range(0, total, max(1, round(fps))))
    if len(chosen) <= max_frames:
        return chosen
    steps = np.linspace(0, len(chosen) - 1, max_frames, dtype=int)
    return [chosen[step] for step in steps]


def ma_lmm_test_indices(total: int, wanted: int) -> list[int]:
    """Even steps from the first to the last frame, both included, rounded half to even.

    Official: boheumd/MA-LMM@ffe9fa9:lavis/datasets/datasets (Breakfast, COIN, MSRVTT, MSVD,
    ActivityNet).
    """
    _check(total, wanted)
    return np.rint(np.linspace(0, total - 1, wanted)).astype(int).tolist()


def ma_lmm_train_indices(total: int, wanted: int, rng: random.Random) -> list[int]:
    """One random frame of each of `wanted` equal segments (its first where a segment is empty).

    Official: boheumd/MA-LMM@ffe9fa9:lavis/datasets/datasets (same data sets, training).
    """
    _check(total, wanted)
    edges = np.linspace(0, total, wanted + 1).astype(int).tolist()
    return [
        rng.randrange(start, stop) if start < stop else start for start, stop in pairwise(edges)
    ]


def ma_lmm_windows(
    duration_s: int, history_s: int = 100, stride_s: int = 20
) -> list[tuple[int, int]]:
    """Cut a long video (LVU) into overlapping windows, each a sample of its own.

    Official: boheumd/MA-LMM@ffe9fa9:lavis/datasets/datasets (LVU, training and test).

    Returns:
        (start, end) in seconds; the first starts at 0, the others while a full window is left.
    """
    starts = [0, *range(stride_s, duration_s - history_s + 1, stride_s)]
    return [(start, min(start + history_s - 1, duration_s)) for start in starts]


def ma_lmm_window_indices(
    window: tuple[float, float], total: int, wanted: int, fps: float = 10.0
) -> list[int]:
    """Even steps through one window of a video dumped at `fps`, rounded half to even.

    Official: boheumd/MA-LMM@ffe9fa9:lavis/datasets/datasets (LVU).
    """
    _check(total, wanted)
    first = int(window[0] * fps)
    last = min(int(window[1] * fps), total - 1)
    return np.rint(np.linspace(first, last, wanted)).astype(int).tolist()


def ma_lmm_caption_indices(
    window: tuple[float, float], wanted: int, rng: random.Random | None = None, fps: float = 10.0
) -> list[int]:
    """Even steps through a window of a video dumped at `fps`, cut to integers; in training one
    random frame of each of equal segments.

    Official: boheumd/MA-LMM@ffe9fa9:lavis/datasets/datasets (YouCook2). Unlike LVU's windows these
    are not rounded, and may end one frame behind the video.

    Args:
        rng: where chance comes from; None is the rule for questions.
    """
    _check(1, wanted)
    first, last = window[0] * fps, window[1] * fps
    if rng is None:
        return np.linspace(first, last, wanted).astype(int).tolist()
    edges = np.linspace(first, last + 1, wanted + 1).astype(int).tolist()
    return [
        rng.randrange(start, stop) if start < stop else start for start, stop in pairwise(edges)
    ]


def every_seconds(times_s: Sequence[float], apart_s: float) -> list[int]:
    """For every `apart_s` seconds of a video the frame on the screen: the course's own rule where a
    film may have any length.

    Args:
        times_s: `[T]` start of every frame, ascending.
        apart_s: above 0.

    Returns:
        ascending indices, the first frame's first; one more than `apart_s` fits into the time from
        the first to the last frame.
    """
    _check(len(times_s), 1)
    starts = np.asarray(times_s, np.float64)
    wanted = np.arange(starts[0], starts[-1] + 1e-6, apart_s)
    return (np.searchsorted(starts, wanted + 1e-6, side="right") - 1).tolist()


def _check(total: int, wanted: int) -> None:
    if total < 1 or wanted < 1:
        raise ValueError(f"need at least 1 frame and 1 wanted, got {total} and {wanted}")
