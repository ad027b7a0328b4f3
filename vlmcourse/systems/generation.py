"""Small helpers for generating: settings in our words, and text as it grows."""

from collections.abc import Callable

from torch import Tensor

from vlmcourse.backbones.tokenizers import Tokenizer


def generation_config(
    tokenizer: Tokenizer,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    num_beams: int = 1,
    repetition_penalty: float = 1.0,
    length_penalty: float = 1.0,
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
    """
    from transformers import GenerationConfig

    sampling = {"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {}
    beams = {"length_penalty": length_penalty} if num_beams > 1 else {}
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


class TextStream:
    """Turns the ids that `generate` hands over one by one into growing text.

    Args:
        decode: ids to text.
        show: called with each new stretch of text; what is shown never changes later.
    """

    def __init__(self, decode: Callable[[list[int]], str], show: Callable[[str], None]):
        self.decode, self.show = decode, show
        self.ids: list[int] = []
        self.shown = 0

    def put(self, value: Tensor) -> None:
        self.ids.extend(value.reshape(-1).tolist())
        text = self.decode(self.ids).lstrip()
        if not text.endswith("\ufffd"):  # wait for the rest of a character of several bytes
            self._show_rest(text)

    def end(self) -> None:
        self._show_rest(self.decode(self.ids).lstrip())

    def _show_rest(self, text: str) -> None:
        if len(text) > self.shown:
            self.show(text[self.shown :])
            self.shown = len(text)
