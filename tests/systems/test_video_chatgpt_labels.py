"""The official rule that counts lengths: where it agrees with ours, and where it drops a row."""

from pathlib import Path

import pytest

from vlmcourse.backbones.tokenizers import SentencePieceTokenizer
from vlmcourse.conversation import (
    IGNORED,
    PICTURE,
    Places,
    Special,
    ask,
    lay_out,
    prompt_text,
    tokenise,
)
from vlmcourse.systems.templates import vicuna_template
from vlmcourse.systems.video_chatgpt_labels import length_counted_labels

MODEL = Path(__file__).parents[1] / "reference" / "video_chatgpt" / "tiny_tokenizer.model"
SHORT = vicuna_template("short", "the man is here.")


@pytest.mark.parametrize(
    ("answer", "dropped"),
    [("a red bike.", False), ("a red bike é.", True), ("he said ASSISTANT: hello", True)],
)
def test_unknown_characters_and_role_names_make_the_rule_drop_everything(answer, dropped):
    tokenizer = SentencePieceTokenizer(MODEL)
    tokenizer.add_tokens(["<v>", "<start>", "<end>"])
    places = (Special("<start>"), Places(PICTURE, 2, "<v>"), Special("<end>"))
    pieces = lay_out(ask("who?", answer), SHORT, lambda kind: places)
    row = tokenise(pieces, tokenizer)
    official = length_counted_labels(
        prompt_text(pieces).removeprefix("<s>"),
        row.ids,
        lambda text: len(tokenizer.encode_prompt(text)),
        tokenizer.pad_id,
        256,
    )
    assert (set(official) == {IGNORED}) is dropped
    assert dropped or official == row.labels
    assert row.num_trained > 3
