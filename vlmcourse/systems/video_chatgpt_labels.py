"""Labels of Video-ChatGPT's conversations by the official rule, which counts lengths (to compare).

`conversation.tokenise` finds what is trained by its characters.
"""

from collections.abc import Callable, Sequence

from vlmcourse.conversation import IGNORED


def length_counted_labels(
    prompt: str,
    ids: Sequence[int],
    count: Callable[[str], int],
    pad_id: int,
    max_length: int,
    answer_mark: str = " ASSISTANT: ",
    end_mark: str = "</s>",
) -> list[int]:
    """Labels by the official rule of Video-ChatGPT and Chat-UniVi, traps included (to compare).

    The prompt is split into rounds at `end_mark` and every round into instruction and answer at
    `answer_mark`; how many tokens each takes is counted by tokenising it alone.

    Official: mbzuai-oryx/Video-ChatGPT@659e04b:video_chatgpt/train/train.py (`preprocess_v1`).
    Differs: `tokenise` finds the answer by its characters. This rule ignores the whole conversation
    when the counts do not add up: for an answer that holds the answer mark, or (because the padding
    token is `<unk>` there) for a text with an unknown character.

    Args:
        prompt: the whole text without `<s>`.
        ids: its ids, with `<s>`, cut to `max_length`.
        count: number of tokens of a text tokenised alone, its `<s>` included.
        pad_id: ids equal to this do not count as text.
        max_length: the length that rows are cut to; a cut row is not checked.
    """
    labels = list(ids)
    length = 1
    labels[:length] = [IGNORED] * len(labels[:length])
    for round_text in prompt.split(end_mark):
        halves = round_text.split(answer_mark)
        if len(halves) != 2:
            break
        instruction = count(halves[0] + answer_mark) - 2  # less <s> and the piece of the last blank
        stop = min(length + instruction, len(labels))
        labels[length:stop] = [IGNORED] * max(stop - length, 0)
        length += count(round_text)
    labels[length:] = [IGNORED] * len(labels[length:])
    real = sum(i != pad_id for i in ids)
    return [IGNORED] * len(labels) if length < max_length and length != real else labels
