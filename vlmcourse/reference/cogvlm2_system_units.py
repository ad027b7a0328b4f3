"""Checks of CogVLM2 as a whole: rows of tokens, losses, and answers with a cache."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from vlmcourse.checkpoints.cogvlm2 import from_official, has_experts, sizes_of
from vlmcourse.checkpoints.files import load_strict
from vlmcourse.conversation import IGNORED, Conversation, TokenRow, Turn
from vlmcourse.parts.shared_positions import shared_positions
from vlmcourse.reference.rows import Row, Unit, compare_tensors, compare_values
from vlmcourse.systems.batch import Batch, Media, collate
from vlmcourse.systems.cogvlm2 import CogVLM2, build_paper
from vlmcourse.systems.cogvlm2_config import CogVLM2Config
from vlmcourse.systems.cogvlm2_processor import (
    LLAMA3_PLACE,
    LLAMA3_TURN_END,
    CogVLM2Processor,
)
from vlmcourse.systems.processor import Clip

BOS, EOS, PLACE = 1, 2, 3
LOSS_ATOL = 1e-4
"""Of logits and losses: long sums over two models in a row."""


class CharacterTokenizer:
    """One id a character, as the official cases were made; it remembers what it was given.

    Args:
        vocabulary: ids go around below it.
        told: the unit's own words on begin, end and place holder (`bos 1, eos 2, ...`).
    """

    bos_token, eos_token = "<begin>", "<end>"

    def __init__(self, vocabulary: int = 64, told: str = ""):
        numbers = dict(re.findall(r"\b(bos|eos|placeholder) (\d+)", told))
        names = ((self.bos_token, "bos", BOS), (self.eos_token, "eos", EOS))
        names += ((LLAMA3_PLACE, "placeholder", PLACE),)
        self.special = {token: int(numbers.get(word, usual)) for token, word, usual in names}
        self.special[LLAMA3_TURN_END] = vocabulary
        self.vocabulary, self.pad_id = vocabulary, self.special[LLAMA3_PLACE]
        self.given: list[str] = []

    def __len__(self) -> int:
        return self.vocabulary

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        self.given.append(text)
        ids = [4 + ord(character) % (self.vocabulary - 4) for character in text]
        return ids, [(i, i + 1) for i in range(len(text))]

    def token_id(self, token: str) -> int:
        return self.special[token]

    def add_tokens(self, tokens: Sequence[str]) -> list[int]:
        return [self.token_id(token) for token in tokens]

    def strips_beside(self, token: str) -> bool:
        return False

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


def _row(
    processor: CogVLM2Processor,
    query: str,
    frames: int,
    answer: str | None = None,
    history: Sequence[tuple[str, str]] = (),
) -> TokenRow:
    """A row about a video of so many frames, one a second."""
    texts = [text for asked_and_said in history for text in asked_and_said] + [query]
    turns = [Turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
    if frames:
        turns[0] = Turn("user", f"<video>\n{turns[0].text}")
    if answer is not None:
        turns.append(Turn("assistant", answer))
    clip = Clip(torch.arange(float(frames)), duration_s=float(frames))
    return processor.row(Conversation(tuple(turns)), clip)


# ---------------------------------------------------------------- rows of tokens


def check_prompts(unit: Unit) -> Iterator[Row]:
    """What is handed to the tokenizer, kinds, lengths, labels and positions of every row."""
    config = unit.meta["config"]
    for number, case in enumerate(unit.meta["rows"]):
        tokenizer = CharacterTokenizer(told=config["tokenizer"])
        settings = CogVLM2Config(template=case["template"], image_size=config["image_size"])
        processor = CogVLM2Processor(tokenizer, settings)
        row = _row(processor, case["query"], case["frames"], case["answer"], case["history"])
        kinds = torch.tensor([row.kinds])
        positions = shared_positions(kinds)[0].tolist()
        runs = [{"type": k, "length": len(list(run))} for k, run in groupby(row.kinds)]
        expected_start = case["first_frame_positions"]
        trained = None if case["answer"] is None else row.num_trained
        mine = {
            "encoded_texts": tokenizer.given,
            "type_runs": runs,
            "n_tokens": len(row),
            "last_position": positions[-1],
            "n_label_tokens": trained,
        }
        if expected_start is not None:
            mine["first_frame_positions"] = positions[1 : 1 + len(expected_start)]
        for name, value in mine.items():
            yield compare_values(unit, f"{number} {case['template']}", name, value, case[name])
        told = settings.tokens_per_frame
        yield compare_values(
            unit, f"{number}", "tokens_per_frame", told, config["tokens_per_frame"]
        )


# ---------------------------------------------------------------- losses and answers


def tiny_model(unit: Unit) -> CogVLM2:
    """The model of a unit with its weights, which come in through the map of released keys."""
    config, weights = unit.meta["config"], unit.weights
    vision, llama = sizes_of(config)
    settings = CogVLM2Config(
        experts=has_experts(weights),
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        adapter_width=llama.intermediate_size,
    )
    model = build_paper("cpu", settings, vision, llama)
    source = str(unit.path)
    load_strict(model, from_official(weights, source), source)
    return model.eval()


@torch.no_grad()
def check_image_loss(unit: Unit) -> Iterator[Row]:
    """Padded rows with pictures: every state, logits, loss; and an answer to the first row."""
    model, inputs = tiny_model(unit), unit.inputs
    images, counts = inputs["images"], inputs["images_per_sample"]
    rows = torch.arange(len(counts)).repeat_interleave(counts)
    batch = Batch(
        ids=inputs["input_ids"],
        attention=inputs["attention_mask"].bool(),
        kinds=inputs["token_type_ids"],
        labels=inputs["labels"],
        pictures=_frames(images[:, None], rows),
    )
    yield from _check_batch(unit, model, "", batch)
    yield from _check_vision(unit, model, images)
    there = batch.attention[0]
    first = Batch(
        *(value[:1, there] for value in (batch.ids, batch.attention, batch.kinds)),
        pictures=_frames(images[None, : int(counts[0])]) if counts[0] else None,
    )
    yield from _check_answer(unit, model, first)


@torch.no_grad()
def check_video_loss(unit: Unit) -> Iterator[Row]:
    """The same for a video in both templates, its rows made by our own processor."""
    model, inputs, config = tiny_model(unit), unit.inputs, unit.meta["config"]
    pictures = _frames(inputs["frames"][None])
    yield from _check_vision(unit, model, inputs["frames"])
    for case in sorted(name.removesuffix("_labels") for name in inputs if name.endswith("_labels")):
        batch = _video_batch(unit, model, case, config["answer"], pictures)
        official = ("input_ids", batch.ids), ("token_type_ids", batch.kinds)
        for name, mine in (*official, ("labels", batch.labels)):
            yield compare_tensors(unit, case, name, mine, inputs[f"{case}_{name}"])
        yield from _check_batch(unit, model, f"{case}_", batch)
    prompt = _video_batch(unit, model, "chat", None, pictures)
    for name, mine in (("input_ids", prompt.ids), ("token_type_ids", prompt.kinds)):
        yield compare_tensors(unit, "prompt", name, mine, inputs[f"prompt_{name}"])
    yield from _check_answer(unit, model, prompt)


def _video_batch(
    unit: Unit, model: CogVLM2, template: str, answer: str | None, pictures: Media
) -> Batch:
    config = unit.meta["config"]
    tokenizer = CharacterTokenizer(config["vocab_size"], config["tokenizer"])
    settings = CogVLM2Config(
        template=template,
        image_size=model.config.image_size,
        patch_size=model.config.patch_size,
    )
    processor = CogVLM2Processor(tokenizer, settings)
    row = _row(processor, config["query"], config["frames"], answer)
    return collate([row], tokenizer.pad_id, pictures)


def _frames(pixels: Tensor, rows: Tensor | None = None) -> Media:
    """Media of `[V, T, 3, S, S]`, all frames there."""
    there = torch.ones(pixels.shape[:2], dtype=torch.bool)
    return Media(there, torch.zeros(pixels.shape[:2]), inputs=pixels, rows=rows)


def _check_vision(unit: Unit, model: CogVLM2, pixels: Tensor) -> Iterator[Row]:
    """Tokens of pictures with their marks, `[N, P / 4 + 2, E]`."""
    one_each = torch.ones(len(pixels), 1, dtype=torch.bool)
    features = model.encode_frames(pixels)[:, None]  # [N, 1, P, D]
    tokens, _ = model.connect(features, one_each, torch.zeros(one_each.shape))
    yield compare_tensors(unit, "", "vision", tokens, unit.outputs["vision"])


def _check_batch(unit: Unit, model: CogVLM2, prefix: str, batch: Batch) -> Iterator[Row]:
    """Positions, embeddings, the states behind every layer, logits and loss of a batch."""
    outputs, real, case = unit.outputs, batch.attention, prefix.rstrip("_")
    states: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda m, i, out, n=number: states.update({f"layer_{n}": out}))
        for number, layer in enumerate(model.language_model.model.layers)
    ]
    logits = model.logits(batch)
    for hook in hooks:
        hook.remove()
    positions = model.language_inputs(batch)["position_ids"]
    for name, mine in (("position_ids", positions), ("inputs_embeds", model.embed(batch))):
        yield compare_tensors(unit, case, name, mine, outputs[prefix + name])
    for name, mine in {**states, "logits": logits}.items():
        expected = outputs[prefix + name][real]
        yield compare_tensors(unit, case, name, mine[real], expected, LOSS_ATOL)
    loss = outputs[f"{prefix}loss"]
    yield compare_tensors(unit, case, "loss", model(batch).loss, loss, LOSS_ATOL)


def _check_answer(unit: Unit, model: CogVLM2, prompt: Batch) -> Iterator[Row]:
    """Tokens that `generate` takes, the logits behind each with a cache, and those of one pass over
    the whole."""
    wanted, expected = unit.outputs["generated_ids"], unit.outputs["generated_logits"]
    count, embeddings = wanted.shape[1], model.embed(prompt)
    inputs = model.language_inputs(prompt)
    language_model = model.language_model
    ids = language_model.generate(
        inputs_embeds=embeddings, max_new_tokens=count, do_sample=False, eos_token_id=None, **inputs
    )
    yield compare_tensors(unit, "answer", "generated_ids", ids, wanted)
    read = language_model(inputs_embeds=embeddings, use_cache=True, **inputs)
    step, mask = inputs["position_ids"][:, -1:], inputs["attention_mask"]
    stepped = []
    for token in ids.split(1, dim=1):
        step, mask = step + 1, torch.cat([mask, torch.ones_like(step)], dim=1)
        read = language_model(
            input_ids=token,
            past_key_values=read.past_key_values,
            position_ids=step,
            attention_mask=mask,
        )
        stepped.append(read.logits)
    cached = torch.cat(stepped, dim=1)
    yield compare_tensors(unit, "cached", "generated_logits", cached, expected, LOSS_ATOL)
    whole = Batch(
        torch.cat([prompt.ids, ids], dim=1),
        torch.cat([prompt.attention, torch.ones_like(ids, dtype=torch.bool)], dim=1),
        torch.cat([prompt.kinds, torch.zeros_like(ids)], dim=1),
        labels=torch.full((1, prompt.ids.shape[1] + count), IGNORED),
        pictures=prompt.pictures,
    )
    full = model.logits(whole)[:, -count:]
    yield compare_tensors(unit, "whole", "generated_logits", full, expected, LOSS_ATOL)


UNITS = {
    "cogvlm2_video/prompts": check_prompts,
    "cogvlm2_video/cogvlm2_loss": check_image_loss,
    "cogvlm2_video/cogvlm2_video_loss": check_video_loss,
}
