"""Checks of the MiniGPT4-video units: merging, losses of every layout, released keys."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from vlmcourse.backbones.eva_clip import EvaClipConfig, EvaClipEncoder
from vlmcourse.backbones.language_model import LlamaSizes, build_llama, build_mistral
from vlmcourse.backbones.tokenizers import SentencePieceTokenizer, Tokenizer
from vlmcourse.checkpoints.files import load_strict
from vlmcourse.checkpoints.minigpt4_video import (
    from_official,
    official_name,
    our_name,
    trained_names,
)
from vlmcourse.conversation import IGNORED, TEXT, TokenRow, ask
from vlmcourse.media.subtitles import Cue
from vlmcourse.parts.token_merge import merge_neighbours
from vlmcourse.reference.rows import Row, Unit, compare_tensors, compare_values
from vlmcourse.systems.batch import Batch, Media, collate
from vlmcourse.systems.minigpt4_video import MiniGPT4Video, build_paper, paper_config
from vlmcourse.systems.minigpt4_video_config import MiniGPT4VideoConfig
from vlmcourse.systems.minigpt4_video_processor import MiniGPT4VideoProcessor, answer_start
from vlmcourse.systems.processor import Clip
from vlmcourse.systems.stages import set_trainable

LOSS_ATOL = 1e-4
"""Of logits and losses: long sums over two models in a row."""
FRAME, TEXT_OF_FRAME = "<Img><ImageHere>", "<Cap>"


# ---------------------------------------------------------------- models of a unit


def _encoder(config: dict) -> EvaClipEncoder:
    sizes = config["eva"]
    return EvaClipEncoder(
        EvaClipConfig(
            image_size=sizes["img_size"],
            patch_size=sizes["patch_size"],
            hidden_size=sizes["embed_dim"],
            num_layers=sizes["depth"],
            num_heads=sizes["num_heads"],
            mlp_ratio=sizes["mlp_ratio"],
            norm_eps=sizes["block_norm_eps"],
            vision_norm_eps=config["ln_vision_eps"],
        )
    )


def _language_model(config: dict) -> nn.Module:
    sizes = config.get("llm")
    if sizes is None:
        width = config["llm_hidden"]
        return build_llama(LlamaSizes(8, width, width, 1, 1))
    if sizes.get("sliding_window") is not None:
        raise ValueError("a language model with a sliding window is not this system's")
    builders = {"llama": build_llama, "mistral": build_mistral}
    return builders[sizes["kind"]](
        LlamaSizes(
            vocab_size=sizes["vocab_size"],
            hidden_size=sizes["hidden_size"],
            intermediate_size=sizes["intermediate_size"],
            num_layers=sizes["num_hidden_layers"],
            num_heads=sizes["num_attention_heads"],
            num_key_value_heads=sizes["num_key_value_heads"],
            rms_norm_eps=sizes["rms_norm_eps"],
            rope_theta=sizes["rope_theta"],
            tie_embeddings=sizes["tie_word_embeddings"],
        )
    )


def tiny_model(unit: Unit) -> MiniGPT4Video:
    """The model of a unit with its weights, which come in through the map of released keys."""
    config = unit.meta["config"]
    lora = config.get("lora", {"r": 0, "alpha": 0, "dropout": 0.0})
    settings = MiniGPT4VideoConfig(
        merge=config["merge"],
        lora_rank=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        official_cut=True,
    )
    model = MiniGPT4Video(settings, _language_model(config), _encoder(config), None)
    ours = from_official(unit.weights, str(unit.path))
    has_words = any(name.startswith("language_model.") for name in ours)
    for part in ("vision_encoder", "llama_proj", *(["language_model"] if has_words else [])):
        own = {n.removeprefix(f"{part}."): t for n, t in ours.items() if n.startswith(f"{part}.")}
        load_strict(model.get_submodule(part), own, f"{unit.path} ({part})")
    return model.eval()


# ---------------------------------------------------------------- merging


@torch.no_grad()
def check_merge(unit: Unit) -> Iterator[Row]:
    """A frame on its way to tokens, every step of it."""
    model, outputs = tiny_model(unit), unit.outputs
    frames = unit.inputs["image"].flatten(0, 1)  # [N, 3, H, W]
    features = model.encode_frames(frames)[None]  # [1, N, P, D]
    there = torch.ones(features.shape[:2], dtype=torch.bool)
    tokens, _ = model.connect(features, there, torch.zeros(features.shape[:2]))
    merged = merge_neighbours(features[0], model.config.merge)
    for name, mine in (
        ("vit_out", model.vision_encoder(frames, raw=True)),
        ("after_ln_vision", model.vision_encoder(frames)),
        ("merged", merged),
        ("projected", tokens.reshape(*merged.shape[:2], -1)),
    ):
        yield compare_tensors(unit, "", name, mine, outputs[name])


# ---------------------------------------------------------------- losses


class _Table:
    """A tokenizer made of the texts and ids that a unit tells, for folders without its file."""

    bos_token, eos_token = "<s>", "</s>"

    def __init__(self, config: dict, ids: dict[str, list[int]]):
        self.known, self.pad_id, self.ids = ids, config["pad_token_id"], config
        self.special = {"<s>": config["bos_token_id"], "</s>": config["eos_token_id"], "<unk>": 0}

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids = self.known[text]
        return ids, [(0, 0)] * len(ids)

    def token_id(self, token: str) -> int:
        return self.special[token]

    def strips_beside(self, token: str) -> bool:
        return False


def _tokenizer(unit: Unit) -> Tokenizer:
    config = unit.meta["config"]
    named = re.search(r"[\w.-]+\.model", unit.meta.get("tokenizer", ""))
    path = unit.path.parent / (named[0] if named else "tiny_tokenizer.model")
    if path.is_file():
        return SentencePieceTokenizer(path, pad_token=config["pad_token"])
    known: dict[str, list[int]] = {}
    for case in unit.meta["cases"].values():
        texts = case.get("wrapped") or case.get("texts") or case.get("instruction_input") or []
        told = zip(texts, case.get("segment_ids", []))
        if "prompt" in case:
            told = [(case["prompt"], case["segment_ids"])]
        for text, ids in told:
            stretches = text.removeprefix("<s>").split("<ImageHere>")
            bare = [[i for i in x if i != config["bos_token_id"]] for x in ids]
            known |= dict(zip(stretches, bare))
        answers = zip(case.get("answer", []), case.get("answer_ids", []))
        end = config["eos_token_id"]
        known |= {answer: [i for i in ids if i != end] for answer, ids in answers}
    return _Table(config, known)


def _processor(unit: Unit, **settings: Any) -> MiniGPT4VideoProcessor:
    config = unit.meta["config"]
    patches = (config["eva"]["img_size"] // config["eva"]["patch_size"]) ** 2
    settings = {"max_context": config["max_context_len"], **settings}
    config = MiniGPT4VideoConfig(
        merge=config["merge"], official_cut=True, official_padding=True, **settings
    )
    return MiniGPT4VideoProcessor(_tokenizer(unit), config, patches)


def _video(text: str) -> tuple[str, Clip]:
    """The question of a text, and a clip with so many frames and with what is said in it."""
    frames, cues, question = text.split(FRAME)[1:], [], ""
    for number, said in enumerate(frames):
        if number == len(frames) - 1:
            said, _, question = said.partition("\n")
        if said:
            cues.append(Cue(number, number, said.removeprefix(TEXT_OF_FRAME).rstrip(" ")))
    return question, Clip(torch.arange(float(len(frames))), None, 1.0, cues=tuple(cues))


def _rows(unit: Unit, name: str) -> list[TokenRow]:
    """The rows of a case, from its texts through the processor."""
    cases, config = unit.meta["cases"], unit.meta["config"]
    case, picture, most = cases[name], Clip(torch.zeros(1)), config["max_txt_len"]
    if name.startswith("video"):
        texts = case if "instruction_input" in case else cases["video"]  # truncated: the same batch
        processor = _processor(
            unit, max_context=case.get("max_context_len", config["max_context_len"])
        )
        rows = []
        for text, answer in zip(texts["instruction_input"], texts["answer"], strict=True):
            question, clip = _video(text)
            rows.append(processor.row(ask(question, answer), clip, max_length=most))
        return rows
    if name == "inference":
        processor = _processor(unit, official_prompt="chat")
        asked = (_video(text.removesuffix(" [/INST]")) for text in case["texts"])
        return [processor.question_row(question, clip) for question, clip in asked]
    marks = r"^(?:\[INST\] )?<Img><ImageHere></Img> (?:\[caption\] )?|(?: \[/INST\])? $"
    texts = [case["prompt"]] * len(case["answer"]) if "prompt" in case else None
    texts = texts or case.get("instruction_input") or [None] * len(case["answer"])
    rows = []
    for text, answer in zip(texts, case["answer"], strict=True):
        requests = (re.sub(marks, "", text or ""),)
        processor = _processor(
            unit, picture_requests=requests, chat_template=(text or "").startswith("[INST]")
        )
        rows.append(
            processor.caption_row(answer, picture, "picture", text is not None, 0, max_length=most)
        )
    return rows


def _media(unit: Unit, name: str) -> Media:
    if name.startswith("single"):
        pictures = unit.inputs["single_image"][:, None]  # [B, 1, 3, H, W]
        lengths = torch.ones(len(pictures), dtype=torch.int64)
    else:
        pictures, lengths = unit.inputs["video_image"], unit.inputs["video_length"]
    there = torch.arange(pictures.shape[1])[None] < lengths[:, None]
    return Media(there, torch.zeros(there.shape), inputs=pictures)


def check_loss(unit: Unit) -> Iterator[Row]:
    """Every layout: its tokens, what enters the language model, loss and gradients."""
    model = tiny_model(unit)
    set_trainable(model, model.stages("paper")[0].trains)
    trainable = [official_name(n) for n, p in model.named_parameters() if p.requires_grad]
    told = unit.meta["config"]["trainable"]
    yield compare_values(unit, "", "trainable", sorted(trainable), sorted(told))
    with torch.no_grad():
        pictures = model.encode_frames(unit.inputs["video_image"].flatten(0, 1))[:, None]
        there = torch.ones(pictures.shape[:2], dtype=torch.bool)
        embedded, _ = model.connect(pictures, there, torch.zeros(there.shape))
        expected = unit.outputs["video/image_embeds"]
        yield compare_tensors(unit, "video", "image_embeds", embedded, expected)
    for name, case in unit.meta["cases"].items():
        rows = _rows(unit, name)
        yield from _check_texts(unit, name, case, rows)
        if name == "inference":
            yield from _check_prompt(unit, model, name, rows)
        else:
            yield from _check_training(unit, model, name, rows)


def _check_texts(unit: Unit, name: str, case: dict, rows: Sequence[TokenRow]) -> Iterator[Row]:
    """The stretches between pictures and the answers, as ids."""
    if "segment_ids" in case:
        told = [case["segment_ids"]] * len(rows) if "prompt" in case else case["segment_ids"]
        asked = name == "inference"
        mine = [_stretches(row, 0 if asked else 1) for row in rows]
        yield compare_values(unit, name, "segment_ids", mine, told)
    if "answer_ids" in case:
        longest = unit.meta["config"]["max_txt_len"]
        answers = [row.ids[answer_start(row) :] for row in rows]
        told = [ids[:longest] for ids in case["answer_ids"]]
        yield compare_values(unit, name, "answer_ids", answers, told)
    tokenizer = _tokenizer(unit)
    if "segment_pieces" in case and isinstance(tokenizer, SentencePieceTokenizer):
        begin = 0 if name == "inference" else 1
        pieces = [[[*map(tokenizer.token, x)] for x in _stretches(row, begin)] for row in rows]
        yield compare_values(unit, name, "segment_pieces", pieces, case["segment_pieces"])


def _stretches(row: TokenRow, begin: int) -> list[list[int]]:
    """Ids of a row's stretches of text, from position `begin` up to the answer."""
    found, inside = [], False
    for index in range(begin, answer_start(row)):
        if row.kinds[index] != TEXT:
            inside = False
            continue
        if not inside:
            found.append([])
        found[-1].append(row.ids[index])
        inside = True
    return found


def _check_training(
    unit: Unit, model: MiniGPT4Video, name: str, rows: Sequence[TokenRow]
) -> Iterator[Row]:
    config, outputs = unit.meta["config"], unit.outputs
    tokens = (config["eva"]["img_size"] // config["eva"]["patch_size"]) ** 2 // config["merge"]
    most = unit.meta["cases"][name].get("max_context_len", config["max_context_len"])
    most, longest = tokens if name == "single_bare" else most, config["max_txt_len"]
    batch = collate(rows, config["pad_token_id"], _media(unit, name), pad_to=1 + most + longest)
    starts = torch.tensor([answer_start(row) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    behind = torch.arange(longest)[None]
    answers = torch.full((len(rows), longest), IGNORED)
    for number, (row, start) in enumerate(zip(rows, starts.tolist())):
        answers[number, : len(row) - start] = torch.tensor(row.labels[start:])
    found = {
        "cond_attention": (torch.arange(most)[None] < starts[:, None] - 1).long(),
        "regress_attention": (behind < (lengths - starts)[:, None]).long(),
        "answer_targets": answers,
        "attention_mask": batch.attention.long(),
        "labels": batch.labels,
    }
    for output, mine in found.items():
        if f"{name}/{output}" in outputs:
            yield compare_tensors(unit, name, output, mine, outputs[f"{name}/{output}"])
    yield from _check_numbers(unit, model, name, batch)


def _check_numbers(unit: Unit, model: MiniGPT4Video, name: str, batch: Batch) -> Iterator[Row]:
    outputs, real = unit.outputs, batch.attention
    model.zero_grad()
    loss = model(batch).loss
    yield compare_tensors(unit, name, "loss", loss, outputs[f"{name}/loss"], LOSS_ATOL)
    with torch.no_grad():
        if f"{name}/inputs_embeds" in outputs:
            expected = outputs[f"{name}/inputs_embeds"]
            yield compare_tensors(unit, name, "inputs_embeds", model.embed(batch), expected)
        if f"{name}/logits" in outputs:
            expected = outputs[f"{name}/logits"][real]
            mine = model.logits(batch)[real]
            yield compare_tensors(unit, name, "logits", mine, expected, LOSS_ATOL)
    gradients = {k: v for k, v in unit.group("outputs").items() if k.startswith(f"{name}/grad/")}
    if gradients:
        loss.backward()
    for key in gradients:
        own = model.get_parameter(our_name(key.removeprefix(f"{name}/grad/"))).grad
        short = key.removeprefix(f"{name}/").replace("llama_model.base_model.model.model.", "")
        yield compare_tensors(unit, name, short, own, outputs[key])


@torch.no_grad()
def _check_prompt(
    unit: Unit, model: MiniGPT4Video, name: str, rows: Sequence[TokenRow]
) -> Iterator[Row]:
    """What generation begins with; the official padding is zeros."""
    pad = unit.meta["config"]["pad_token_id"]
    batch = collate(rows, pad, _media(unit, name), side="left")
    embeddings = model.embed(batch) * batch.attention[..., None]
    outputs = unit.outputs
    for output, mine in (("inputs_embeds", embeddings), ("attention_mask", batch.attention.long())):
        yield compare_tensors(unit, name, output, mine, outputs[f"{name}/{output}"])


# ---------------------------------------------------------------- released keys


def check_released_keys(unit: Unit) -> Iterator[Row]:
    """Every key of the released files and of the parts around them has a place of its shape."""
    meta = unit.meta
    for layout, keys in meta["checkpoint_keys"].items():
        model = build_paper("meta", paper_config(layout))
        own = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        yield compare_values(
            unit, layout, "shapes", {key: own.get(our_name(key)) for key in keys}, dict(keys)
        )
        yield compare_values(
            unit, layout, "whole", sorted(map(our_name, keys)), sorted(trained_names(model))
        )
        back = [official_name(our_name(key)) for key in keys]
        yield compare_values(unit, layout, "names there and back", back, list(keys))
        newer = [key.replace("_A.", "_A.default.").replace("_B.", "_B.default.") for key in keys]
        yield compare_values(
            unit, layout, "names of newer peft", [*map(our_name, newer)], [*map(our_name, keys)]
        )
        set_trainable(model, model.stages("paper")[0].trains)
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        told = meta["trainable_parameters"][layout]
        yield compare_values(unit, layout, "trainable parameters", count, told)
    prefix = meta["frozen_vision"]["prefix_in_model"]
    eyes = {prefix + key: shape for key, shape in meta["frozen_vision"]["keys"].items()}
    eyes |= meta["ln_vision"]["keys"]
    places = {key: own.get(our_name(key)) for key in eyes}
    yield compare_values(unit, "vision", "shapes", places, eyes)
    encoder = sorted(name for name in own if name.startswith("vision_encoder."))
    yield compare_values(unit, "vision", "whole", sorted(map(our_name, eyes)), encoder)


UNITS = {
    "minigpt4_video/token_merge": check_merge,
    "minigpt4_video/minigpt4_video_loss": check_loss,
    "minigpt4_video/minigpt4_video_loss_mistral": check_loss,
    "minigpt4_video/released_keys": check_released_keys,
}
