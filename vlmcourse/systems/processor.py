"""The processor of a system: from a file to frames, from a conversation to token rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmcourse.backbones.tokenizers import Tokenizer
from vlmcourse.conversation import (
    MARKERS,
    Conversation,
    ConversationError,
    Expand,
    Piece,
    Template,
    Text,
    TokenRow,
    Turn,
    lay_out,
    tokenise,
)
from vlmcourse.errors import UserError


@dataclass(frozen=True)
class Given:
    """What of a video a model is given, by the names of streams (`VideoLanguageModel.streams`).

    Attributes:
        pictures: the stream that fills the places of pictures; None for a model that only listens.
        sounds: the stream that fills the places of sound; None for a model that only looks.
    """

    pictures: str | None = "pictures"
    sounds: str | None = None


@dataclass(frozen=True)
class Clip:
    """What a system takes from a video file, by its paper's rules.

    Attributes:
        times_s: `[T]` float32, second of each chosen frame.
        frames: `[T, H, W, 3]` uint8, or None where only the layout matters (features are cached).
        duration_s: length of the file.
        sound: sound as the system's encoder takes it, `[M, ...]`, if the system listens and the
            file has a sound track.
        sound_times_s: `[M]` float32, the second at which each stretch of sound begins; None if
            there is none.
        cues: subtitle cues in order, if the system reads them.
        given: what of all this the model is given.
        grid: `[3]` int64, rows of patches in time, down and across, where frames have any size.
        others: further pictures and videos of the same conversation, in the order of their markers.
    """

    times_s: Tensor
    frames: Tensor | None = None
    duration_s: float = 0.0
    sound: Tensor | None = None
    sound_times_s: Tensor | None = None
    cues: Sequence[Any] = field(default_factory=tuple)
    given: Given = Given()
    grid: Tensor | None = None
    others: tuple["Clip", ...] = ()

    @property
    def num_frames(self) -> int:
        return int(self.times_s.shape[0])

    @property
    def all(self) -> tuple["Clip", ...]:
        """This clip and the others, in order."""
        return (self, *self.others)

    def given_as(self, given: Given) -> "Clip":
        """The same, all of it with another `given`."""
        others = tuple(one.given_as(given) for one in self.others)
        return replace(self, given=given, others=others)

    @property
    def is_picture(self) -> bool:
        """Whether this is one picture, not a video: one frame that lasts no time."""
        return self.num_frames == 1 and self.duration_s == 0

    def has_stream(self, name: str | None) -> bool:
        """Whether there is anything behind the name of a stream (`Given`)."""
        if name == "sounds":
            return self.sound_times_s is not None and len(self.sound_times_s) > 0
        return name is not None and self.num_frames > 0


class Processor:
    """Base of every system's processor; it can travel to worker processes, for it holds no weights.

    A subclass gives `read` and `expand`; and where answers do not simply end with the end token,
    `stop_sequences` (of ids), `stop_texts` and `answer_text`.

    Attributes:
        given: what of a video the model is given unless it is told otherwise.
        takes_several: whether a conversation may hold several pictures and videos (`Clip.others`).
        reads_subtitles: whether cues reach the model; `read` then takes `cues=None` too, subtitles
            to use instead of those that `read_cues` finds.
        layout_only: names of settings that change rows of tokens, but neither what `read` takes
            from a file nor frozen features of it: features in a cache stay good when they change.

    Args:
        tokenizer: with all of the system's tokens added.
        template: the template that training uses.
        answer_template: the template for questions; None means the same.
        video_last: put the question in front of the video when answering.
    """

    given: Given = Given()
    takes_several: bool = False
    reads_subtitles: bool = False
    layout_only: tuple[str, ...] = ()

    stop_sequences: tuple[tuple[int, ...], ...] = ()
    stop_texts: tuple[str, ...] = ()

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: Template,
        answer_template: Template | None = None,
        video_last: bool = False,
    ):
        self.tokenizer = tokenizer
        self.template = template
        self.answer_template = answer_template or template
        self.video_last = video_last

    def read(self, path: str | Path) -> Clip:
        """Read what the system needs from a video file. Raises MediaError for a bad file."""
        raise TypeError(f"{type(self).__name__} does not read files")

    def read_several(self, paths: Sequence[str | Path], **more: Any) -> Clip:
        """Read the pictures and videos of one conversation.

        Args:
            more: of `read`, for the first file.

        Raises:
            UserError: none, or several for a system that takes one.
            MediaError: a bad file.
        """
        if not paths:
            raise UserError("no file to watch")
        if len(paths) > 1 and not self.takes_several:
            raise UserError(f"this system takes one file at a time, not {len(paths)}")
        first = self.read(paths[0], **more)
        others = tuple(self.read(path) for path in paths[1:])
        return replace(first, others=others) if others else first

    def read_for_training(self, path: str | Path, draw: int, form: str = "conversation") -> Clip:
        """The same with what a paper's training leaves to chance (crops, frames).

        Args:
            draw: a random number; the clip depends on nothing else.
            form: of the sample, "conversation", "caption" or "prompted_caption" (a text has no
                file).
        """
        return self.read(path)

    @property
    def draws(self) -> bool:
        """Whether reading for training leaves anything to chance."""
        return type(self).read_for_training is not Processor.read_for_training

    def read_cues(self, path: str | Path) -> tuple[Any, ...]:
        """Subtitle cues of a video file, if the system reads them. They are never cached: `read`
        and a feature cache ask for them anew."""
        return ()

    def instruction_of(self, turns: Sequence[tuple[str, str]], form: str) -> str:
        """What a connector that reads the question is told of a training sample: its first question
        (later ones of the same conversation see the same video tokens).

        Args:
            turns: (role, text), as a sample has them.
            form: of the sample, as in `read_for_training`.
        """
        raise TypeError(f"{type(self).__name__} has no instructions")

    def expand(self, kind: str, clip: Clip) -> Sequence[Piece]:
        """Pieces that stand for one medium ("video", "picture" or "sound") of this clip."""
        raise TypeError(f"{type(self).__name__} has no places for a {kind}")

    def expander(self, conversation: Conversation, clip: Clip) -> Expand:
        """What each marker of a conversation stands for: of several pictures and videos, the k-th
        marker for the k-th of them.

        Raises:
            ConversationError: there are several, and not as many markers; or this system takes one.
        """
        if not clip.others:
            return lambda kind: self.expand(kind, clip)
        found = markers_in(conversation.turns)
        if not self.takes_several or found != len(clip.all):
            why = f"{found} markers" if self.takes_several else "a system that takes one"
            raise ConversationError(f"{len(clip.all)} pictures and videos for {why}")
        waiting = iter(clip.all)
        return lambda kind: self.expand(kind, next(waiting))

    def answer_text(self, ids: Sequence[int]) -> str:
        """The answer in what was generated."""
        return self.tokenizer.decode(ids).strip()

    def row(
        self,
        conversation: Conversation,
        clip: Clip,
        template: Template | None = None,
        max_length: int | None = None,
    ) -> TokenRow:
        """Ids, labels and kinds of a whole conversation about a clip (the training template)."""
        expand = self.expander(conversation, clip)
        pieces = lay_out(conversation, template or self.template, expand)
        return tokenise(pieces, self.tokenizer, max_length)

    def text_row(
        self,
        conversation: Conversation,
        description: str = "",
        template: Template | None = None,
        max_length: int | None = None,
    ) -> TokenRow:
        """Ids, labels and kinds of a conversation without media: language data.

        Args:
            conversation: `description` takes the place of its marker, as a video would.
            description: may be empty; nothing stands there then.
            template, max_length: as `row`.
        """
        told = (Text(description),) if description else ()
        pieces = lay_out(conversation, template or self.template, lambda kind: told)
        return tokenise(pieces, self.tokenizer, max_length)

    def caption_row(
        self,
        caption: str,
        clip: Clip,
        medium: str = "video",
        prompted: bool = False,
        draw: int = 0,
        max_length: int | None = None,
    ) -> TokenRow:
        """Ids, labels and kinds of a caption behind its medium: alignment data without questions.

        Args:
            caption: trained, with what ends an answer.
            medium: "video" or "picture".
            prompted: put a request to describe in front, for systems whose paper has some.
            draw: a random number that chooses among several requests.
            max_length: as `row`; a system may count the caption alone, if its paper does.

        Raises:
            ValueError: `prompted`, and the system has no requests.
        """
        if prompted:
            raise ValueError(f"{type(self).__name__} has no requests to put in front of captions")
        behind = (Text(caption, trained=True), *self.template.after_answer)
        pieces = (*self.template.start, *self.expand(medium, clip), *behind)
        return tokenise(pieces, self.tokenizer, max_length)

    def question_turn(self, question: str, first: bool = True) -> Turn:
        """The user's turn that asks a question; the first of a conversation brings the video."""
        if not first:
            return Turn("user", question)
        return Turn("user", f"{question}\n<video>" if self.video_last else f"<video>\n{question}")

    def next_turn(self, question: str, clip: Clip, history: Sequence[Turn] = ()) -> Turn:
        """The user's turn that asks behind a history; it brings what of the clip is not there yet:
        all of it, in the first turn of a usual conversation."""
        turn = self.question_turn(question, first=not history)
        if not clip.others:
            return turn
        missing = len(clip.all) - markers_in((*history, turn))
        return Turn("user", "<video>\n" * missing + turn.text)

    def question_row(self, question: str, clip: Clip, history: Sequence[Turn] = ()) -> TokenRow:
        """The prompt that asks a question.

        Args:
            question: plain text.
            clip: the video.
            history: earlier turns in order, the user's made by `next_turn`.
        """
        turn = self.next_turn(question, clip, history)
        return self.row(Conversation((*history, turn)), clip, self.answer_template)


def markers_in(turns: Sequence[Turn]) -> int:
    """How many pictures, videos and sounds the markers of turns stand for."""
    told = (turn.text for turn in turns if turn.role == "user")
    return sum(text.count(marker) for text in told for marker in MARKERS)


def frames_tensor(pixels: Any) -> Tensor:
    """Decoded frames `[T, H, W, 3]` (NumPy or tensor) as a uint8 tensor."""
    return torch.as_tensor(pixels, dtype=torch.uint8)
