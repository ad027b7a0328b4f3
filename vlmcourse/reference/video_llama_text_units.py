"""Checks of Video-LLaMA's texts: conversations, prompts of the released chat, captions."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from vlmcourse.backbones.tokenizers import SentencePieceTokenizer
from vlmcourse.conversation import TEXT, Conversation, Turn
from vlmcourse.reference.rows import Row, Unit, compare_tensors, compare_values
from vlmcourse.systems.batch import collate
from vlmcourse.systems.processor import Clip, Given
from vlmcourse.systems.video_llama_config import VideoLlamaConfig
from vlmcourse.systems.video_llama_processor import VideoLlamaProcessor


def _tokenizer(model: Tensor) -> SentencePieceTokenizer:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.model"
        path.write_bytes(model.numpy().tobytes())
        return SentencePieceTokenizer(path)


def check_conversation(unit: Unit) -> Iterator[Row]:
    """Ids, labels and masks of training conversations; ids of the prompts of the released chat."""
    config = unit.meta["config"]
    tokenizer = _tokenizer(unit.inputs["tokenizer_model"])
    for layout, name in (("vicuna", "vicuna"), ("llama2", "llama_v2")):
        settings = VideoLlamaConfig(
            num_video_queries=config["num_video_query_token"],
            layout=layout,
            frame_text=_literal(config["video_sampling_message"]),
            official_padding=True,
        )
        counted = VideoLlamaProcessor(tokenizer, settings)
        covered = VideoLlamaProcessor(tokenizer, replace(settings, official_padding=False))
        for medium in ("video", "image"):
            talks = [_turns(entry) for entry in config[f"{medium}_conversations"]]
            batch, own = (
                collate(
                    [p.row(t, _clip(medium), max_length=config["max_length"]) for t in talks],
                    tokenizer.pad_id,
                )
                for p in (counted, covered)
            )
            found = {
                "input_ids": batch.ids,
                "labels": batch.labels,
                "attention_mask": batch.attention.long(),
            }
            for output, mine in found.items():
                expected = unit.outputs[f"{medium}_{name}_{output}"]
                yield compare_tensors(unit, f"{medium} {name}", output, mine, expected)
            if torch.equal(own.attention, batch.attention):  # no unknown character, so both agree
                case = f"{medium} {name}"
                yield compare_tensors(unit, case, "labels from pieces", own.labels, batch.labels)
    for name, chat in config["chats"].items():
        yield from _check_chat(unit, name, chat)


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _clip(medium: str, sounds: str | None = None) -> Clip:
    given = Given("pictures", sounds)
    if medium == "image":
        return Clip(torch.zeros(1), given=given)
    return Clip(torch.arange(2.0), duration_s=2.0, sound_times_s=torch.zeros(1), given=given)


def _turns(entry: list[dict]) -> Conversation:
    """A conversation from VideoChat's or LLaVA's form."""
    turns = []
    for index, item in enumerate(entry):
        if "q" in item:
            question = item["q"] if index else f"<video>\n{item['q']}"
            turns += [Turn("user", question), Turn("assistant", item["a"])]
        else:
            role = "user" if item["from"] == "human" else "assistant"
            turns.append(Turn(role, item["value"]))
    return Conversation(tuple(turns))


def _check_chat(unit: Unit, name: str, chat: dict) -> Iterator[Row]:
    """One prompt, cut at its media."""
    message, medium = chat["first_user_message"], "image" if name.endswith("image") else "video"
    hears = "audio" in name
    texts = re.fullmatch(r"(.*)<ImageHere>(.*)<Video><ImageHere></Video>(.*)", message, re.DOTALL)
    told = re.fullmatch(r"<Video><ImageHere></Video> (.*)", message, re.DOTALL)
    settings = VideoLlamaConfig(
        num_video_queries=3,
        num_audio_queries=2,
        layout=name.split("_")[0],
        frame_text=_literal(told[1]) if told else "",
        sound_texts=texts.groups() if texts else ("", "", ""),
        picture_system=chat["system"],
        video_system=chat["system"],
        official_prompt=True,
    )
    processor = VideoLlamaProcessor(_tokenizer(unit.inputs["tokenizer_model"]), settings)
    clip = _clip(medium, "sounds" if hears else None)
    row = processor.question_row(chat["question"], clip)
    segments: list[list[int]] = [[]]
    for index, kind in zip(row.ids, row.kinds):
        if kind == TEXT:
            segments[-1].append(index)
        elif segments[-1] or len(segments) == 1:
            segments.append([])
    yield compare_values(unit, name, "media", len(segments) - 1, chat["number_of_segments"])
    places = sum(kind != TEXT for kind in row.kinds)
    for number, ids in enumerate(segments):
        output = f"chat_{name}_segment_{number}_ids"
        yield compare_tensors(unit, name, output, torch.tensor(ids), unit.outputs[output])
    # the official length was taken with 2 rows for the first medium and 3 for the second
    length = torch.tensor([len(row) - places + (5 if hears else 2)])
    yield compare_tensors(unit, name, "length", length, unit.outputs[f"chat_{name}_length"])


def check_texts(unit: Unit) -> Iterator[Row]:
    """The ids of the texts, where the tokenizer's unit stands beside this one."""
    from safetensors.torch import load_file

    beside = unit.path.parent / "video_llama_conversation.safetensors"
    if not beside.exists():
        return
    config, inputs = unit.meta["config"], unit.inputs
    tokenizer = _tokenizer(load_file(beside)["inputs/tokenizer_model"])
    listens = config["branch"] == "audio"
    queries = config["num_placeholder_tokens"]
    given = Given(None, "sound_pictures") if listens else Given("pictures", None)
    captions = config["caption"]["texts"]
    prompt = re.fullmatch(r"<Image><ImageHere></Image> (.+)", config["caption_prompted"]["prompt"])
    request = prompt[1] if prompt else ""
    settings = VideoLlamaConfig(
        num_video_queries=queries, num_audio_queries=queries, caption_requests=(request,)
    )
    processor = VideoLlamaProcessor(tokenizer, settings)
    video, image = (
        Clip(torch.arange(2.0), duration_s=2.0, given=given),
        Clip(torch.zeros(1), given=given),
    )
    plain = [
        processor.caption_row(text, video, max_length=config["caption"]["max_txt_len"])
        for text in captions
    ]
    mine = collate(plain, tokenizer.pad_id).ids[:, 1 + queries :]
    yield compare_tensors(unit, "caption", "text_ids", mine, inputs["caption_text_ids"])
    if prompt is None:
        return
    longest = config["caption_prompted"]["max_txt_len"]
    first = processor.caption_row(captions[0], image, "picture", True, max_length=longest)
    mine, start = torch.tensor(first.ids), 1
    for side in ("before", "after"):
        expected = inputs[f"prompt_{side}_ids"]
        part = mine[start : start + len(expected)]
        yield compare_tensors(unit, "caption_prompted", f"prompt {side}", part, expected)
        start += len(expected) + (queries if side == "before" else 0)
    text, mask = (inputs[f"caption_prompted_text_{what}"][0] for what in ("ids", "mask"))
    yield compare_tensors(unit, "caption_prompted", "text_ids", mine[start:], text[mask.bool()])
