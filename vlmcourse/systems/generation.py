"""Generating: prompts that fit, settings in our words, where answers stop, text as it grows."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlmcourse.backbones.tokenizers import Tokenizer
from vlmcourse.conversation import TEXT, TokenRow
from vlmcourse.systems.processor import Processor

log = logging.getLogger(__name__)

LONGEST = 64
"""Tokens of an answer where nobody says otherwise."""

Prompts = tuple[Tensor, dict[str, Tensor]]
"""Embeddings `[B, L, E]`, and masks and positions for them."""


def shared_prefix(rows: Sequence[TokenRow]) -> int:
    """Length of what all prompts begin with, short of each; 0 if media stand behind it."""
    length = min(len(row) for row in rows) - 1
    while length and any(row.ids[:length] != rows[0].ids[:length] for row in rows):
        length -= 1
    outside = any(kind != TEXT for row in rows for kind in row.kinds[length:])
    return 0 if outside else length


def room_for(settings: Mapping[str, Any]) -> int | None:
    """The longest prompt that leaves room for an answer; None without a limit ("context")."""
    context = settings.get("context")
    return None if context is None else context - settings.get("max_new_tokens", LONGEST)


def fitting_prompts(embeddings: Tensor, inputs: dict[str, Tensor], room: int | None) -> Prompts:
    """Prompts without the beginning of those that are longer than `room` (None: no limit)."""
    extra = 0 if room is None else embeddings.shape[1] - room
    if extra <= 0:
        return embeddings, inputs
    log.warning("the prompt is too long: its first %d places are left out", extra)
    return embeddings[:, extra:], {name: value[..., extra:] for name, value in inputs.items()}


def continue_prompts(
    language_model: nn.Module,
    processor: Processor,
    prompts: Prompts,
    settings: Mapping[str, Any],
    cache: Any = None,
    streamer: Callable[[str], None] | None = None,
) -> list[str]:
    """Let a language model write behind prompts.

    Args:
        processor: knows the tokenizer, where an answer stops, and what of it is shown.
        settings: those of `generation_config`; others are an error, but for "context".
        cache: what the model has read of the prompts already; their embeddings begin behind it or,
            as `generate` wants it, with it.
        streamer: gets text as it grows.

    Raises:
        ValueError: a stream of several rows or with beams.
    """
    embeddings, inputs = prompts
    settings = {name: value for name, value in settings.items() if name != "context"}
    num_beams = settings.setdefault("num_beams", 1)
    if settings.get("num_return_sequences", 1) > num_beams:
        raise ValueError(f"more answers are wanted than beams are kept ({num_beams})")
    if streamer is not None and (len(embeddings) > 1 or num_beams > 1):
        raise ValueError("a stream shows one row without beams")
    if cache is not None:
        cache.batch_repeat_interleave(len(embeddings) * num_beams)
    stream = streamer and TextStream(processor.answer_text, streamer, processor.stop_texts)
    ids = language_model.generate(
        inputs_embeds=embeddings,
        past_key_values=cache,
        generation_config=generation_config(processor.tokenizer, **settings),
        stopping_criteria=stop_at(processor.stop_sequences),
        streamer=stream,
        **inputs,
    )
    return [processor.answer_text(row.tolist()) for row in ids]


def generation_config(
    tokenizer: Tokenizer,
    max_new_tokens: int = LONGEST,
    temperature: float = 0.0,
    top_p: float = 1.0,
    num_beams: int = 1,
    repetition_penalty: float = 1.0,
    length_penalty: float = 1.0,
    num_return_sequences: int = 1,
):
    """A transformers `GenerationConfig`; every setting a paper needs is here by name.

    Args:
        tokenizer: tells begin, end and padding.
        max_new_tokens: stop after this many.
        temperature: 0 takes the likeliest token, above 0 samples.
        top_p: sample from the smallest set of tokens that holds this much probability.
        num_beams: beams kept in the search.
        repetition_penalty: above 1 discourages tokens of the answer so far.
        length_penalty: exponent of the length when beams are compared.
        num_return_sequences: how many beams are given for each prompt, the best first.
    """
    from transformers import GenerationConfig

    sampling = {"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {}
    beams = {"length_penalty": length_penalty} if num_beams > 1 else {}
    beams |= {"num_return_sequences": num_return_sequences} if num_return_sequences > 1 else {}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        num_beams=num_beams,
        repetition_penalty=repetition_penalty,
        bos_token_id=tokenizer.token_id(tokenizer.bos_token),
        eos_token_id=tokenizer.token_id(tokenizer.eos_token),
        pad_token_id=tokenizer.pad_id,
        **sampling,
        **beams,
    )


def stop_at(sequences: Sequence[Sequence[int]]):
    """A rule for `generate` that ends each row once its last ids are one of `sequences`.

    Returns:
        a transformers `StoppingCriteriaList`; None without sequences.
    """
    from transformers import StoppingCriteriaList

    def ended(ids: Tensor, scores: Tensor | None = None, **_: object) -> Tensor:
        found = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        for sequence in sequences:
            if ids.shape[1] >= len(sequence):
                last = ids.new_tensor(sequence)
                found |= (ids[:, -len(sequence) :] == last).all(1)
        return found

    return StoppingCriteriaList([ended]) if sequences else None


class TextStream:
    """Turns the ids that `generate` hands over one by one into growing text.

    Args:
        decode: ids to text.
        show: called with each new stretch of text; what is shown never changes later.
        stops: texts that end an answer; what may become one of them is held back.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        show: Callable[[str], None],
        stops: Sequence[str] = (),
    ):
        self.decode, self.show, self.stops = decode, show, stops
        self.ids: list[int] = []
        self.shown = 0

    def put(self, value: Tensor) -> None:
        self.ids.extend(value.reshape(-1).tolist())
        text = self.decode(self.ids).lstrip()
        if not text.endswith("\ufffd"):  # wait for the rest of a character of several bytes
            self._show_rest(text[: len(text) - self._held(text)])

    def end(self) -> None:
        self._show_rest(self.decode(self.ids).lstrip())

    def _held(self, text: str) -> int:
        """How many characters at the end may be the beginning of a stop."""
        sizes = [n for stop in self.stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
        return max(sizes, default=0)

    def _show_rest(self, text: str) -> None:
        if len(text) > self.shown:
            self.show(text[self.shown :])
            self.shown = len(text)
