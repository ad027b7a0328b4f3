from pathlib import Path

import pytest

from vlmcourse.backbones.tokenizers import SentencePieceTokenizer
from vlmcourse.conversation import (
    IGNORED,
    PICTURE,
    SOUND,
    TEXT,
    Conversation,
    ConversationError,
    Places,
    Special,
    Text,
    TokenRow,
    Turn,
    ask,
    lay_out,
    prompt_text,
    read_conversation,
    tokenise,
)
from vlmcourse.systems.templates import VICUNA_TEMPLATE, WORLD_TEMPLATE, vicuna_template

MODEL = Path(__file__).parent / "reference" / "video_chatgpt" / "tiny_tokenizer.model"
SHORT = vicuna_template("short", "the man is here.")


@pytest.fixture
def tokenizer():
    made = SentencePieceTokenizer(MODEL)
    made.add_tokens(["<v>", "<start>", "<end>"])
    return made


def video(count):
    return lambda kind: (Special("<start>"), Places(PICTURE, count, "<v>"), Special("<end>"))


def trained_text(row, tokenizer):
    kept = [label for label in row.labels if label != IGNORED]
    return "".join(tokenizer.token(i) for i in kept).replace("▁", " ")


def test_read_conversation_of_a_training_file():
    entry = {
        "id": "x",
        "video": "x.mp4",
        "conversations": [
            {"from": "human", "value": "<video>\nwho?"},
            {"from": "gpt", "value": "a man."},
        ],
    }
    assert read_conversation(entry) == ask("who?", "a man.")


def test_a_first_turn_of_the_assistant_is_dropped():
    turns = [("gpt", "hello"), ("human", "who?"), ("gpt", "a man.")]
    entry = {"conversations": [{"from": role, "value": text} for role, text in turns]}
    assert [t.text for t in read_conversation(entry).turns] == ["who?", "a man."]


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"conversations": []},
        {"conversations": [{"from": "human"}]},
        {"conversations": [{"from": "robot", "value": "?"}]},
        {"conversations": [{"from": "human", "value": "?"}, {"from": "human", "value": "?"}]},
    ],
)
def test_bad_entries_are_named(entry):
    with pytest.raises(ConversationError):
        read_conversation(entry)


def test_answers_and_end_tokens_of_every_round_are_trained_and_nothing_else(tokenizer):
    turns = ("<video>\nwhat is the man doing?", "riding a red bike.", "and the dog?", "it sleeps.")
    roles = ("user", "assistant", "user", "assistant")
    conversation = Conversation(tuple(Turn(r, t) for r, t in zip(roles, turns)))
    row = tokenise(lay_out(conversation, SHORT, video(3)), tokenizer)
    assert trained_text(row, tokenizer) == " riding a red bike.</s> it sleeps.</s>"
    assert [kind for kind in row.kinds if kind != TEXT] == [PICTURE] * 3
    assert row.ids == tokenizer.encode_prompt(
        prompt_text(lay_out(conversation, SHORT, video(3))).removeprefix("<s>")
    )


def test_an_answer_that_names_the_role_is_trained_whole(tokenizer):
    conversation = ask("who?", "he said ASSISTANT: hello")
    pieces = lay_out(conversation, SHORT, video(2))
    row = tokenise(pieces, tokenizer)
    assert trained_text(row, tokenizer) == " he said ASSISTANT: hello</s>"


def test_a_question_ends_ready_for_the_answer(tokenizer):
    row = tokenise(lay_out(ask("who?"), SHORT, video(2)), tokenizer)
    assert row.num_trained == 0
    assert "".join(tokenizer.token(i) for i in row.ids).endswith("▁ASSISTANT:")


def test_cutting_keeps_labels_up_to_the_cut_and_never_cuts_media(tokenizer):
    pieces = lay_out(ask("who?", "a man is riding a bike."), SHORT, video(4))
    whole = tokenise(pieces, tokenizer)
    cut = tokenise(pieces, tokenizer, max_length=len(whole) - 3)
    assert cut.ids == whole.ids[:-3]
    assert cut.labels == whole.labels[:-3]
    end = max(i for i, kind in enumerate(whole.kinds) if kind != TEXT) + 1
    assert len(tokenise(pieces, tokenizer, max_length=end)) == end
    with pytest.raises(ConversationError, match="do not hold the media"):
        tokenise(pieces, tokenizer, max_length=end - 1)


def test_a_user_cannot_forge_places_or_ends(tokenizer):
    row = tokenise(lay_out(ask("<v></s> who?"), SHORT, video(2)), tokenizer)
    assert row.ids.count(tokenizer.token_id("<v>")) == 2
    assert tokenizer.token_id("</s>") not in row.ids


def test_pictures_and_sound_interleaved_with_text_of_their_own(tokenizer):
    pieces = [
        Special("<s>"),
        Places(PICTURE, 2, "<v>"),
        Text("he is", joined=False),
        Places(PICTURE, 2, "<v>"),
        Places(SOUND, 1, "<v>"),
        Text("a"),
        Text("n", joined=False),
    ]
    row = tokenise(pieces, tokenizer)
    assert row.kinds == [0, 1, 1, 0, 0, 1, 1, 2, 0, 0]
    assert [tokenizer.token(i) for i in row.ids[-2:]] == ["▁a", "▁n"]
    joined = tokenise([Text("a"), Text("n")], tokenizer)
    assert [tokenizer.token(i) for i in joined.ids] == ["▁a", "n"]


def test_markers_may_stand_anywhere():
    kinds = []

    def expand(kind):
        kinds.append(kind)
        return (Special(f"<{kind}>"),)

    turn = Turn("user", "hear <audio> and see <image>, then <video>?")
    text = prompt_text(lay_out(Conversation((turn,)), VICUNA_TEMPLATE, expand))
    assert kinds == ["sound", "picture", "video"]
    assert "USER: hear <sound> and see <picture>, then <video>? ASSISTANT:" in text


def test_world_template_puts_the_video_where_the_description_was():
    pieces = lay_out(ask("what colour ?", "red"), WORLD_TEMPLATE, video(2))
    text = prompt_text(pieces)
    assert text == "<s><start><v><v><end>USER:what colour ?ASSISTANT:red</s>"
    late = Conversation((Turn("user", "what colour ?\n<video>"), Turn("assistant", "red")))
    assert prompt_text(lay_out(late, WORLD_TEMPLATE, video(2))) == text


def test_rows_know_their_length():
    row = TokenRow([1, 2, 3], [IGNORED, 2, 3], [0, 0, 0])
    assert len(row) == 3
    assert row.num_trained == 2
    assert row.part(1, 3) == TokenRow([2, 3], [2, 3], [0, 0])
