"""Labels of Video-LLaMA's conversations by the official rules, which count lengths (to compare).

`VideoLlamaProcessor` finds what is trained by its characters. The official code tokenises the turns
once more, each alone, and counts. With LLaMA's vocabulary both agree (`###` is one piece at the
beginning of a text and two inside, which makes up for the begin token that each turn gets when it
is counted), unless a character is unknown: the unknown token has the id of padding and is not
counted, so that all labels behind it stand one place too early.

Official: DAMO-NLP-SG/Video-LLaMA@64888c0:video_llama/datasets/datasets/video_instruct_dataset.py
(`preprocess`, `preprocess_for_llama_v2`).
"""

from collections.abc import Callable, Sequence

from vlmcourse.conversation import IGNORED

STOP_PIECES = 2
"""Pieces of `###` inside a text."""


def vicuna_labels(
    ids: Sequence[int],
    texts: Sequence[str],
    encode: Callable[[str], list[int]],
    pad_id: int,
    max_length: int,
) -> list[int]:
    """Labels of a row in Vicuna's form.

    Args:
        ids: the whole row, begin token included, already cut.
        texts: what stands in front of the first turn, then every turn as it is written
            (`###Human: ...`), user and assistant by turns.
        encode: ids of a text, begin token included.
        pad_id: ids like this are not counted.
        max_length: to which every text is cut before it is counted.
    """

    def length(text: str) -> int:
        return sum(i != pad_id for i in encode(text)[:max_length])

    labels = list(ids)
    start = length(texts[0])
    labels[:start] = [IGNORED] * len(labels[:start])
    for number, text in enumerate(texts[1:]):
        end = start + length(text)
        if number % 2 == 0:
            hidden = slice(start + STOP_PIECES, end)
            labels[hidden] = [IGNORED] * len(labels[hidden])
        start = end
    return labels


def llama2_labels(
    ids: Sequence[int],
    prompt: str,
    encode: Callable[[str], list[int]],
    end_mark: str = "</s>",
    answer_mark: str = "[/INST] ",
) -> list[int]:
    """Labels of a row in Llama-2's form.

    Args:
        ids: the whole row, begin token included, already cut.
        prompt: its text without the begin token.
        encode: ids of a text, begin token included.
    """
    labels = list(ids)
    labels[:1] = [IGNORED]
    start = 1
    for round_text in prompt.split(end_mark):
        halves = round_text.split(answer_mark)
        if len(halves) != 2:
            break
        # less the begin token and the lone blank that ends the instruction
        instruction = len(encode(halves[0] + answer_mark)) - 2
        hidden = slice(start, start + max(instruction, 0))
        labels[hidden] = [IGNORED] * len(labels[hidden])
        start += len(encode(round_text))
    labels[start:] = [IGNORED] * len(labels[start:])
    return labels
