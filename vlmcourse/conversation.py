"""A conversation becomes pieces, then ids, labels and kinds.

Four steps, each a plain function on plain data:

1. `read_conversation`: the JSON of LLaVA and Video-ChatGPT to a `Conversation`.
2. `lay_out`: a conversation and a `Template` to a list of pieces: `Text`, `Special` (one token by
   name) and `Places` (a run of places that a connector will fill).
3. `tokenise`: pieces to a `TokenRow` of ids, labels, kinds and segments. A token is trained when it
   covers a character of a piece marked `trained`, so labels never depend on counting lengths.
4. `row_packing.pack`: several rows about one video to one row that holds the video once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlmcourse.backbones.tokenizers import Tokenizer
from vlmcourse.errors import UserError
from vlmcourse.parts.packing import PREFIX

IGNORED = -100
"""Label of a position that is not trained."""

TEXT, PICTURE, SOUND = 0, 1, 2
"""Kinds of positions; a run of picture places may be a picture, a frame or a whole video."""

MARKERS = {"<video>": "video", "<image>": "picture", "<audio>": "sound"}
"""Markers in a turn's text, and the name of what stands there."""


class ConversationError(UserError):
    """A conversation that cannot be laid out."""


@dataclass(frozen=True)
class Turn:
    """One turn; `role` is "user" or "assistant". The text of a user may hold `MARKERS`."""

    role: str
    text: str


@dataclass(frozen=True)
class Conversation:
    """Turns in strict alternation, the user first; the last may be a question without answer."""

    turns: tuple[Turn, ...]

    def __post_init__(self):
        if not self.turns:
            raise ConversationError("a conversation without turns")
        for index, turn in enumerate(self.turns):
            if turn.role != ("user", "assistant")[index % 2]:
                raise ConversationError(f"turn {index} is the {turn.role}'s, out of order")


def ask(question: str, answer: str | None = None, marker: str = "<video>\n") -> Conversation:
    """A conversation of one round about one video; without `answer` it waits for one."""
    turns = [Turn("user", marker + question)]
    if answer is not None:
        turns.append(Turn("assistant", answer))
    return Conversation(tuple(turns))


def read_conversation(entry: dict[str, Any]) -> Conversation:
    """Read one entry of a LLaVA or Video-ChatGPT training file.

    Args:
        entry: `{"conversations": [{"from": "human" | "gpt", "value": text}, ...], ...}`; a first
            turn of the assistant is dropped, as in the official code.

    Raises:
        ConversationError: names what is missing or out of order.
    """
    roles = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
    turns = []
    try:
        for number, item in enumerate(entry["conversations"]):
            role = roles.get(item["from"])
            if role is None:
                raise ConversationError(f"turn {number} is from {item['from']!r}, not human or gpt")
            turns.append(Turn(role, item["value"]))
    except (KeyError, TypeError) as error:
        raise ConversationError(f"not a conversation entry: {error!r} in {entry!r:.80}") from error
    return Conversation(tuple(turns[1:] if turns and turns[0].role == "assistant" else turns))


@dataclass(frozen=True)
class Text:
    """Text for the tokenizer. Neighbouring texts are tokenised as one, unless `joined` is off."""

    text: str
    trained: bool = False
    joined: bool = True


@dataclass(frozen=True)
class Special:
    """One token of the vocabulary by name, such as `</s>` or `<vid_start>`."""

    token: str
    trained: bool = False


@dataclass(frozen=True)
class Places:
    """A run of places for connector tokens of one kind, held by the token `placeholder`.

    `keeps_blanks`: white space beside it stays, whatever the tokenizer does beside this token; for
    systems whose official code cuts the text itself and tokenises the parts alone."""

    kind: int
    count: int
    placeholder: str
    keeps_blanks: bool = False


Piece = Text | Special | Places


@dataclass(frozen=True)
class Template:
    """How a language model was taught to see roles. All fields are pieces put down as they are.

    Attributes:
        name: the name it has in the official code, or ours.
        start: in front of everything (`<s>` and a system text).
        before_user, after_user: around the user's text.
        before_answer: in front of an answer; a generation prompt ends here.
        answer_lead: text that belongs to the answer's first token (the blank after a colon).
        after_answer: closes an answer and is trained with it.
        media_first: put the media of the first turn in front of `before_user`, not at its marker.
        before_later_user: stands for `before_user` from the second turn on; None: the same.
        end: closes a conversation that ends with an answer.
        answer_alone: tokenise an answer on its own, not together with the text in front of it.
    """

    name: str
    start: tuple[Piece, ...]
    before_user: tuple[Piece, ...]
    after_user: tuple[Piece, ...]
    before_answer: tuple[Piece, ...]
    answer_lead: str
    after_answer: tuple[Piece, ...]
    media_first: bool = False
    before_later_user: tuple[Piece, ...] | None = None
    end: tuple[Piece, ...] = ()
    answer_alone: bool = False


Expand = Callable[[str], Sequence[Piece]]
"""Pieces that stand for one medium ("video", "picture", "sound"), in a system's own layout."""


def lay_out(conversation: Conversation, template: Template, expand: Expand) -> list[Piece]:
    """Turn a conversation into pieces.

    If the last turn is the user's, the pieces end with `template.before_answer`, ready to generate.
    """
    pieces = list(template.start)
    for index, turn in enumerate(conversation.turns):
        if turn.role == "assistant":
            text = template.answer_lead + turn.text
            pieces.append(Text(text, trained=True, joined=not template.answer_alone))
            pieces.extend(template.after_answer)
            continue
        body = _split_markers(turn.text, expand)
        if template.media_first and index == 0:
            pieces.extend(p for p, from_media in body if from_media)
            words = "".join(p.text for p, from_media in body if not from_media).strip()
            body = [(Text(words), False)]
        later = index > 0 and template.before_later_user is not None
        pieces.extend(template.before_later_user if later else template.before_user)
        pieces.extend(p for p, _ in body)
        pieces.extend(template.after_user)
        pieces.extend(template.before_answer)
    if conversation.turns[-1].role == "assistant":
        pieces.extend(template.end)
    return pieces


def _split_markers(text: str, expand: Expand) -> list[tuple[Piece, bool]]:
    """Pieces of a user's text, each with whether it came from a marker."""
    result: list[tuple[Piece, bool]] = []
    while text:
        found = [(text.find(marker), marker) for marker in MARKERS if marker in text]
        if not found:
            result.append((Text(text), False))
            break
        place, marker = min(found)
        if place:
            result.append((Text(text[:place]), False))
        result.extend((piece, True) for piece in expand(MARKERS[marker]))
        text = text[place + len(marker) :]
    return result


@dataclass(frozen=True)
class TokenRow:
    """One sequence; all lists have the length L.

    Attributes:
        ids: token ids; places of media hold the id of their placeholder.
        labels: the id where it is trained, else `IGNORED`. Not shifted: `labels[i]` is what
            position i-1 must predict.
        kinds: `TEXT`, `PICTURE` or `SOUND` per position.
        segments: as in `parts/packing.py`; all 0 for a row with one conversation.
    """

    ids: list[int]
    labels: list[int]
    kinds: list[int]
    segments: list[int] = field(default_factory=list)

    def __post_init__(self):
        if not self.segments:
            object.__setattr__(self, "segments", [PREFIX] * len(self.ids))

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, end: int) -> "TokenRow":
        """Positions `start` to `end` as a row of their own."""
        return TokenRow(*(x[start:end] for x in (self.ids, self.labels, self.kinds, self.segments)))

    @property
    def num_trained(self) -> int:
        return sum(label != IGNORED for label in self.labels)


def tokenise(
    pieces: Sequence[Piece], tokenizer: Tokenizer, max_length: int | None = None
) -> TokenRow:
    """Turn pieces into ids, labels and kinds.

    Args:
        pieces: from `lay_out`, or made by hand.
        tokenizer: see `backbones/tokenizers.py`.
        max_length: cut the row at the right to this many positions.

    Raises:
        ConversationError: the cut would go through or lose a run of media places.
    """
    ids: list[int] = []
    labels: list[int] = []
    kinds: list[int] = []
    last_place = 0
    index = 0
    while index < len(pieces):
        piece = pieces[index]
        if isinstance(piece, Text):
            end = index + 1
            while end < len(pieces) and isinstance(pieces[end], Text) and pieces[end].joined:
                end += 1
            beside = (pieces[max(index - 1, 0) : index], pieces[end : end + 1])
            new_ids, trained = _tokenise_text(pieces[index:end], beside, tokenizer)
            kind, index = TEXT, end
        else:
            token = piece.token if isinstance(piece, Special) else piece.placeholder
            count = 1 if isinstance(piece, Special) else piece.count
            new_ids = [tokenizer.token_id(token)] * count
            trained = [isinstance(piece, Special) and piece.trained] * count
            kind = TEXT if isinstance(piece, Special) else piece.kind
            index += 1
        ids.extend(new_ids)
        labels.extend(i if t else IGNORED for i, t in zip(new_ids, trained))
        kinds.extend([kind] * len(new_ids))
        last_place = len(ids) if kind != TEXT else last_place
    if max_length is not None and len(ids) > max_length:
        if last_place > max_length:
            raise ConversationError(
                f"{max_length} positions do not hold the media, which end at {last_place}"
            )
        ids, labels, kinds = ids[:max_length], labels[:max_length], kinds[:max_length]
    return TokenRow(ids, labels, kinds)


def _tokenise_text(
    texts: Sequence[Text], beside: Sequence[Sequence[Piece]], tokenizer: Tokenizer
) -> tuple[list[int], list[bool]]:
    """Tokenise neighbouring texts as one; say which tokens cover a trained character."""
    whole = "".join(piece.text for piece in texts)
    flags = [piece.trained for piece in texts for _ in piece.text]
    left, right = (_strips(side, tokenizer) for side in beside)
    if left:
        flags = flags[len(whole) - len(whole.lstrip()) :]
        whole = whole.lstrip()
    if right:
        whole = whole.rstrip()
    ids, spans = tokenizer.encode(whole)
    alone = bool(flags) and all(flags)  # then a lone prefix space is trained too
    return ids, [alone or any(flags[start:end]) for start, end in spans]


def _strips(side: Sequence[Piece], tokenizer: Tokenizer) -> bool:
    if not side or isinstance(side[0], Text):
        return False
    if isinstance(side[0], Places):
        return not side[0].keeps_blanks and tokenizer.strips_beside(side[0].placeholder)
    return tokenizer.strips_beside(side[0].token)


def prompt_text(pieces: Sequence[Piece]) -> str:
    """Pieces as one string with special tokens and placeholders written out."""
    parts = []
    for piece in pieces:
        if isinstance(piece, Text):
            parts.append(piece.text)
        elif isinstance(piece, Special):
            parts.append(piece.token)
        else:
            parts.append(piece.placeholder * piece.count)
    return "".join(parts)


def checked_question(question: str) -> str:
    """The question without white space around it.

    Raises:
        UserError: nothing is left, or a marker such as `<video>` stands in it.
    """
    question = question.strip()
    if not question:
        raise UserError("the question is empty")
    for marker in MARKERS:
        if marker in question:
            raise UserError(f"{marker} has a meaning of its own and may not stand in a question")
    return question
