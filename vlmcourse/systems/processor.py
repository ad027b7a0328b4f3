"""The processor of a system: from a file to frames, from a conversation to token rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlmcourse.backbones.tokenizers import Tokenizer
from vlmcourse.conversation import (
    Conversation,
    Piece,
    Template,
    TokenRow,
    Turn,
    lay_out,
    tokenise,
)


@dataclass(frozen=True)
class Clip:
    """What a system takes from a video file, by its paper's rules.

    Attributes:
        times_s: `[T]` float32, second of each chosen frame.
        frames: `[T, H, W, 3]` uint8, or None where only the layout matters (features are cached).
        duration_s: length of the file.
        sound: what `media.audio.read_audio` gave, if the system listens.
        cues: subtitle cues in order, if the system reads them.
    """

    times_s: Tensor
    frames: Tensor | None = None
    duration_s: float = 0.0
    sound: Any = None
    cues: Sequence[Any] = field(default_factory=tuple)

    @property
    def num_frames(self) -> int:
        return int(self.times_s.shape[0])


class Processor:
    """Base of every system's processor; it can travel to worker processes, for it holds no weights.

    A subclass gives `read` and `expand`.

    Args:
        tokenizer: with all of the system's tokens added.
        template: the template that training uses.
        answer_template: the template for questions; None means the same.
        video_last: put the question in front of the video when answering.
    """

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

    def expand(self, kind: str, clip: Clip) -> Sequence[Piece]:
        """Pieces that stand for one medium ("video", "picture" or "sound") of this clip."""
        raise TypeError(f"{type(self).__name__} has no places for a {kind}")

    def row(
        self,
        conversation: Conversation,
        clip: Clip,
        template: Template | None = None,
        max_length: int | None = None,
    ) -> TokenRow:
        """Ids, labels and kinds of a whole conversation about a clip (the training template)."""
        pieces = lay_out(
            conversation, template or self.template, lambda kind: self.expand(kind, clip)
        )
        return tokenise(pieces, self.tokenizer, max_length)

    def question_turn(self, question: str, first: bool = True) -> Turn:
        """The user's turn that asks a question; the first of a conversation brings the video."""
        if not first:
            return Turn("user", question)
        return Turn("user", f"{question}\n<video>" if self.video_last else f"<video>\n{question}")

    def question_row(self, question: str, clip: Clip, history: Sequence[Turn] = ()) -> TokenRow:
        """The prompt that asks a question.

        Args:
            question: plain text.
            clip: the video.
            history: earlier turns in order, the user's made by `question_turn`.
        """
        turn = self.question_turn(question, first=not history)
        return self.row(Conversation((*history, turn)), clip, self.answer_template)


def frames_tensor(pixels: Any) -> Tensor:
    """Decoded frames `[T, H, W, 3]` (NumPy or tensor) as a uint8 tensor."""
    return torch.as_tensor(pixels, dtype=torch.uint8)
