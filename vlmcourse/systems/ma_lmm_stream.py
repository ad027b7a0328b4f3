"""MA-LMM watching a film that passes by: frames come one at a time, questions at any time.

What is kept does not grow with the film: the visual bank, the frame that came last, and for every
standing question its query banks. A standing question is in the Q-Former's mind from its first
frame on, as in training. A question that comes late cannot have been: it first reads the entries of
the visual bank in their order as if they were frames, then the last frame. Up to the capacity of
the banks that is the same as having been asked at the beginning; beyond it is our rule, for the
paper has none.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vlmcourse.errors import UserError
from vlmcourse.parts.memory_bank import MemoryBank, append
from vlmcourse.parts.memory_qformer import MemoryState, attend, read_frames
from vlmcourse.systems.batch import Media, collate
from vlmcourse.systems.processor import Clip

if TYPE_CHECKING:
    from vlmcourse.systems.ma_lmm import MaLmm


class Stream:
    """A film in passing, with a model in eval mode.

    Args:
        model: its reader is "memory".
        questions: standing ones, known from the first frame on.

    Attributes:
        frames_seen: how many frames have passed.

    Raises:
        UserError: the model reads frames in another way.
    """

    def __init__(self, model: "MaLmm", questions: Sequence[str] = ()):
        if model.config.reader != "memory":
            raise UserError(f"a stream needs the reader 'memory', not {model.config.reader!r}")
        self.model, self.questions = model, tuple(questions)
        self.frames_seen = 0
        self._bank: MemoryBank | None = None  # without the last frame
        self._last: Tensor | None = None  # [1, P, D]
        self._standing: tuple[MemoryBank | None, ...] = ()  # without the last frame
        self._tokens: Tensor | None = None  # [K, Q, D] of the standing questions, after it
        self._inputs: tuple[Tensor, ...] = ()

    @torch.no_grad()
    def see(self, frame: np.ndarray | Tensor) -> None:
        """Watch one frame, `[H, W, 3]` uint8."""
        model = self.model
        pixels = model.processor.resized(torch.as_tensor(np.ascontiguousarray(frame))[None])
        self.see_features(model.encode_frames(model.vision_encoder.preprocess(pixels)))

    @torch.no_grad()
    def see_features(self, features: Tensor) -> None:
        """The same from what the picture encoder gave, `[1, P, D]`."""
        model = self.model
        frame = model.placed(features[:, None].to(model.device), self.frames_seen)[:, 0]
        self._take_in()
        self._last = frame
        self.frames_seen += 1
        if self.questions:
            state = None
            if self.frames_seen > 1:
                state = MemoryState(self._bank, self._standing, torch.zeros(1))
            out = attend(model.qformer, frame, state, *self._instructed(self.questions))
            self._tokens, self._inputs = out.tokens, out.hidden_states[:-1]

    def _take_in(self) -> None:
        """Put the frame that was the last one into the banks."""
        config = self.model.config
        if self._last is None:
            return
        if config.visual_memory != 0:
            self._bank = append(self._bank, self._last, config.visual_memory, config.merging)
        if config.query_memory != 0 and self.questions:
            banks = self._standing or (None,) * len(self._inputs)
            self._standing = tuple(
                append(bank, given, config.query_memory, config.merging)
                for bank, given in zip(banks, self._inputs, strict=True)
            )

    def _instructed(self, questions: Sequence[str]) -> tuple[Tensor, Tensor]:
        processor = self.model.processor
        ids, mask = processor.instruct([processor.asked(question) for question in questions])
        longest = int(mask.sum(1).max())
        return ids[:, :longest].to(self.model.device), mask[:, :longest].to(self.model.device)

    @torch.no_grad()
    def read(self, question: str) -> Tensor:
        """The Q-Former's tokens `[1, Q, D]` for a question about all that has passed.

        Raises:
            UserError: nothing has passed yet.
        """
        if self._last is None:
            raise UserError("no frame has been seen yet")
        if question in self.questions:
            place = self.questions.index(question)
            return self._tokens[place : place + 1]
        config, frames = self.model.config, self._last[:, None]  # [1, 1, P, D]
        if self._bank is not None:
            frames = torch.cat([self._bank.entries, frames], dim=1)
        ids, mask = self._instructed([question])
        return read_frames(
            self.model.qformer, frames, None, text_ids=ids, text_mask=mask,
            visual_capacity=config.visual_memory, query_capacity=config.query_memory,
            rule=config.merging,
        )[0]  # fmt: skip

    @torch.no_grad()
    def ask(self, question: str, **settings: Any) -> str:
        """Answer a question about all that has passed; nothing is remembered of it.

        Args:
            question: a standing one in the same words, or any other.
            settings: of `VideoLanguageModel.generate`.
        """
        model, tokens = self.model, self.read(question)
        row = model.processor.question_row(question, Clip(torch.zeros(1), duration_s=1.0))
        one = torch.ones(1, 1, dtype=torch.bool)
        media = Media(one, one.float() * 0, extras={"tokens": tokens.cpu()})
        batch = collate([row], model.processor.tokenizer.pad_id, media, side="left")
        return model.generate(batch.to(model.device), **settings)[0]

    def memory_bytes(self) -> int:
        """All that is kept of the film, in bytes: banks, the last frame, the last states."""
        banks = [bank for bank in (self._bank, *self._standing) if bank is not None]
        tensors = [one for one in (self._last, self._tokens, *self._inputs) if one is not None]
        return sum(bank.nbytes for bank in banks) + sum(one.nbytes for one in tensors)
