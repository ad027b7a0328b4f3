"""Checks of the pure rules: frame indices, times, resize rules, subtitle alignment, frame
transforms.

Every check walks all outputs of its unit; one that it does not know becomes a failed row.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch

from vlmcourse.media import sampling
from vlmcourse.media.captions import clean_caption
from vlmcourse.media.subtitle_alignment import minigpt4_video_captions
from vlmcourse.media.subtitles import Cue
from vlmcourse.media.transforms import crop_and_resize, normalise_frames, to_uint8
from vlmcourse.parts.dynamic_resolution import smart_resize, video_max_pixels, video_tokens
from vlmcourse.reference.rows import Row, Unit, compare_tensors, compare_values, failed_row


def video_chatgpt_frame_indices(unit: Unit) -> Iterator[Row]:
    """Check `idx_<total>_<wanted>`, `raw_idx_<total>_<wanted>` and that every asked pair has its
    output.
    """
    rules = {
        "idx": sampling.video_chatgpt_indices,
        "raw_idx": sampling.video_chatgpt_segment_middles,
    }
    for name, expected in unit.outputs.items():
        match = re.fullmatch(r"(idx|raw_idx)_(\d+)_(\d+)", name)
        if match is None:
            yield _unknown(unit, name)
            continue
        total, wanted = int(match[2]), int(match[3])
        ours = torch.tensor(rules[match[1]](total, wanted))
        yield compare_tensors(unit, match[1], name, ours, expected)
    for total, wanted in unit.inputs["pairs"].tolist():
        if f"idx_{total}_{wanted}" not in unit.outputs:
            yield failed_row(
                unit, "idx", f"idx_{total}_{wanted}", "asked for but not in the outputs"
            )


def minigpt4_video_frame_indices(unit: Unit) -> Iterator[Row]:
    """Check the counts and intervals of `inputs/videos` and all three index tables."""
    videos = unit.inputs["videos"].tolist()
    sizes = list(unit.meta["config"]["frames"].values())
    for row, (duration_ms, fps_1000, _, *stated) in enumerate(videos):
        total = sampling.minigpt4_video_total(duration_ms / 1000, fps_1000 / 1000)
        intervals = [sampling.minigpt4_video_interval(total, wanted) for wanted in sizes]
        yield compare_values(unit, f"video {row}", "total, intervals", [total, *intervals], stated)
    for name, expected in unit.outputs.items():
        match = re.fullmatch(r"(train|infer|tvqa)_(\d+)_(\d+)", name)
        if match is None:
            yield _unknown(unit, name)
            continue
        mode, wanted, number = match[1], int(match[2]), int(match[3])
        if mode == "tvqa":
            ours = sampling.minigpt4_video_indices(number, wanted, mode)
        else:
            duration_ms, fps_1000, decodable = videos[number][:3]
            total = sampling.minigpt4_video_total(duration_ms / 1000, fps_1000 / 1000)
            ours = sampling.minigpt4_video_indices(total, wanted, mode, decodable=decodable)
        yield compare_tensors(unit, mode, name, torch.tensor(ours), expected)


def minigpt4_video_subtitle_alignment(unit: Unit) -> Iterator[Row]:
    """Check the number of pictures and every caption for each model and mode of each case."""
    modes = {"train": "train", "evaluate": "evaluate", "inference": "infer"}
    config = unit.meta["config"]
    for case in unit.meta["cases"]:
        cues = [Cue(*subtitle) for subtitle in case["subtitles"]]
        for model, by_mode in case["expected"].items():
            for mode, expected in by_mode.items():
                captions = minigpt4_video_captions(
                    cues,
                    duration_s=case["duration"],
                    fps=case["fps"],
                    decodable=case["decoded_frames"],
                    wanted=config["frames"][model],
                    word_budget=config["word_budget"][model],
                    mode=modes[mode],
                )
                written = {str(i): f"<Cap>{text}" for i, text in enumerate(captions) if text}
                ours = {"frames": len(captions), "captions": written}
                for output in expected.keys() | ours.keys():
                    yield compare_values(
                        unit,
                        case["name"],
                        f"{model}/{mode}/{output}",
                        ours.get(output),
                        expected.get(output),
                    )


def cogvlm2_video_frame_indices(unit: Unit) -> Iterator[Row]:
    """Check both strategies on videos of constant and of variable rate."""
    config = unit.meta["config"]
    wanted, clip = config["num_frames"], config["base"]
    window = {"start_s": clip["clip_start_sec"], "end_s": clip["clip_end_sec"]}
    cases = [(c["total_frames"], c["fps"], None, c) for c in unit.meta["constant_rate"]]
    cases += [
        (len(c["timestamps"]), c["avg_fps"], c["timestamps"], c) for c in unit.meta["variable_rate"]
    ]
    for total, fps, times_s, case in cases:
        kind = "constant" if times_s is None else "variable"
        times_s = [frame / fps for frame in range(total)] if times_s is None else times_s
        ours = {
            "base": sampling.cogvlm2_video_base_indices(total, fps, wanted, **window),
            "chat": sampling.cogvlm2_video_chat_indices(times_s, wanted),
        }
        inputs = {"total_frames", "fps", "avg_fps", "timestamps"}
        for output in sorted((case.keys() | ours.keys()) - inputs):
            name = f"{kind} {total} at {fps:g}"
            yield compare_values(unit, name, output, ours.get(output), case.get(output))


def qwen2_vl_smart_resize(unit: Unit) -> Iterator[Row]:
    """Check the sizes of pictures, the number and places of frames, and the sizes of video
    frames.
    """
    config = unit.meta["config"]
    factors = {"factor": config["factor"], "max_ratio": config["MAX_RATIO"]}
    for case in unit.meta["smart_resize"]:
        height, width = case["height"], case["width"]
        bounds = {"min_pixels": case["min_pixels"], "max_pixels": case["max_pixels"]}
        for variant in sorted(case.keys() - {"height", "width", "min_pixels", "max_pixels"}):
            ours = _attempt(
                lambda h, w, **kw: list(smart_resize(h, w, **kw)),
                height,
                width,
                variant=variant,
                **bounds,
                **factors,
            )
            yield compare_values(unit, f"{height}x{width}", variant, ours, case[variant])
    yield from _qwen2_vl_frames(unit, config)
    for case in unit.meta["video_pixels"]:
        yield from _qwen2_vl_pixels(unit, config, factors, case)


def _qwen2_vl_frames(unit: Unit, config: dict[str, Any]) -> Iterator[Row]:
    for case in unit.meta["smart_nframes"]:
        total, asked = case["total_frames"], case["options"]
        options = {"fps": config["FPS"], "min_frames": config["FPS_MIN_FRAMES"], **asked}
        count = _attempt(
            sampling.qwen2_vl_num_frames,
            total,
            case["video_fps"],
            factor=config["FRAME_FACTOR"],
            frame_limit=config["FPS_MAX_FRAMES"],
            **options,
        )
        name = f"{total} at {case['video_fps']:g} {asked}"
        yield compare_values(unit, name, "nframes", count, case["nframes"])
        for output in sorted(case.keys() - {"total_frames", "options", "video_fps", "nframes"}):
            if output != "indices":
                yield _unknown(unit, output)
                continue
            ours = sampling.qwen2_vl_indices(total, count) if isinstance(count, int) else count
            yield compare_values(unit, name, output, ours, case[output])


def _qwen2_vl_pixels(
    unit: Unit, config: dict[str, Any], factors: dict[str, Any], case: dict[str, Any]
) -> Iterator[Row]:
    nframes, asked = case["nframes"], case["options"]
    least = asked.get("min_pixels", config["VIDEO_MIN_PIXELS"])
    shared = video_max_pixels(
        nframes,
        min_pixels=least,
        frame_max_pixels=config["VIDEO_MAX_PIXELS"],
        total_pixels=asked.get("total_pixels", config["VIDEO_TOTAL_PIXELS"]),
        frame_factor=config["FRAME_FACTOR"],
    )
    most = asked.get("max_pixels", shared)
    rows, columns = smart_resize(
        case["height"],
        case["width"],
        min_pixels=least,
        max_pixels=most,
        variant="qwen_vl_utils",
        **factors,
    )
    tokens = video_tokens(
        nframes, rows, columns, factor=config["factor"], frame_factor=config["FRAME_FACTOR"]
    )
    ours = {
        "min_pixels": least,
        "max_pixels": most,
        "resized": [rows, columns],
        "llm_tokens": tokens,
    }
    name = f"{nframes} of {case['height']}x{case['width']} {asked}"
    inputs = {"nframes", "options", "height", "width"}
    for output in sorted((case.keys() | ours.keys()) - inputs):
        yield compare_values(unit, name, output, ours.get(output), case.get(output))


def video_llama_frames(unit: Unit) -> Iterator[Row]:
    """Check indices, seconds, the captions' cleaning and the transforms for evaluation and
    training.
    """
    config, frames = unit.meta["config"], unit.inputs["frames"]
    colours = {"mean": tuple(config["mean"]), "std": tuple(config["std"])}
    box, size = tuple(config["crop_box_top_left_h_w"]), config["resized_to"]
    resized = crop_and_resize(frames, box, size)  # [3, T, S, S]
    wrapped = to_uint8(resized, official=True)
    transforms = {
        "eval": lambda: normalise_frames(frames, **colours),
        "train_resized": lambda: resized,
        "train_uint8": lambda: wrapped.permute(1, 2, 3, 0).long(),  # [T, S, S, 3]
        "train": lambda: normalise_frames(wrapped, **colours),
    }
    for name, expected in unit.outputs.items():
        match = re.fullmatch(r"indices_(\d+)_(\d+)", name)
        if match:
            ours = sampling.video_llama_indices(int(match[1]), int(match[2]), official=True)
            yield compare_tensors(unit, "indices", name, torch.tensor(ours), expected)
        elif name in transforms:
            # Bicubic weights are summed in float32 on values up to 255.
            atol = 1e-4 if name == "train_resized" else 1e-5
            yield compare_tensors(unit, "transform", name, transforms[name](), expected, atol)
        else:
            yield _unknown(unit, name)
    yield from _video_llama_config(unit, config)


def _video_llama_config(unit: Unit, config: dict[str, Any]) -> Iterator[Row]:
    for name, expected in config.get("seconds_text", {}).items():
        total, wanted = map(int, name.split("_"))
        indices = sampling.video_llama_indices(total, wanted, official=True)
        ours = sampling.video_llama_seconds(indices, config["fps_used_for_seconds"])
        yield compare_values(unit, "seconds", name, ours, expected)
    for number, case in enumerate(config.get("caption_processor", [])):
        ours = clean_caption(case["text"])
        yield compare_values(unit, "caption", str(number), ours, case["result"])
    listed = [key for key in config if key.startswith("cases_V_n_where_arange")]
    for key in listed:
        limits = re.search(r"up_to_V_(\d+)_n_(\d+)", key)
        if limits is None:
            yield _unknown(unit, key)
            continue
        found = _uneven_steps(int(limits[1]), int(limits[2]))
        shown = [list(case) for case in found[: len(config[key])]]
        yield compare_values(unit, "uneven steps", key, shown, config[key])
        if "number_of_such_cases" in config:
            count = config["number_of_such_cases"]
            yield compare_values(unit, "uneven steps", "number of cases", len(found), count)


def _uneven_steps(most_frames: int, most_wanted: int) -> list[tuple[int, int, int]]:
    """Return (frames, wanted, given) wherever the official float step gives another count than it
    should.
    """
    found = []
    for wanted in range(1, most_wanted + 1):
        for total in range(1, most_frames + 1):
            given = len(sampling.video_llama_indices(total, wanted, official=True))
            if given != min(total, wanted):
                found.append((total, wanted, given))
    return found


def _attempt(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return the result, or the error as the tables write it."""
    try:
        return function(*args, **kwargs)
    except ValueError as error:
        return f"error: {type(error).__name__}"


def _unknown(unit: Unit, output: str) -> Row:
    return failed_row(unit, "", output, "this check has no rule for it")


UNITS: dict[str, Callable[[Unit], Iterator[Row]]] = {
    "video_chatgpt/frame_indices": video_chatgpt_frame_indices,
    "video_llama/video_llama_frames": video_llama_frames,
    "minigpt4_video/frame_indices": minigpt4_video_frame_indices,
    "minigpt4_video/subtitle_alignment": minigpt4_video_subtitle_alignment,
    "cogvlm2_video/frame_indices": cogvlm2_video_frame_indices,
    "qwen2_vl/smart_resize": qwen2_vl_smart_resize,
}
