"""MA-LMM's processor: files to frames, questions to rows of tokens and instructions.

Paper: arXiv 2404.05726, section 4.2. Official: boheumd/MA-LMM@ffe9fa9:
lavis/processors/blip_processors.py, lavis/models/blip2_models/blip2_vicuna_instruct.py.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vlmcourse.backbones.instructions import Instructions
from vlmcourse.backbones.tokenizers import Tokenizer
from vlmcourse.conversation import (
    MARKERS,
    PICTURE,
    Conversation,
    ConversationError,
    Piece,
    Places,
    Special,
    Template,
    Text,
    TokenRow,
    Turn,
    ask,
    lay_out,
    tokenise,
)
from vlmcourse.systems.ma_lmm_config import MaLmmConfig
from vlmcourse.systems.processor import Clip, Processor, frames_tensor
from vlmcourse.systems.templates import WORLD_TEMPLATE

if TYPE_CHECKING:
    from vlmcourse.media.film import Film, Window

BEGIN, END, PLACE = "</s>", "</s>", "[PAD]"
"""The released code gives Vicuna's tokenizer `</s>` as begin token, and one token more to pad."""
MOST_WORDS = 50
AT_ONCE = 16
"""Frames that are decoded at a time: in full size they are large."""

MA_LMM_TEMPLATE = Template(
    name="ma_lmm",
    start=(),
    before_user=(Special(BEGIN),),
    after_user=(),
    before_answer=(),
    answer_lead="",
    after_answer=(Special(END, trained=True),),
    media_first=True,
    before_later_user=(),
    answer_alone=True,
)
"""Video, begin token, question, answer, end: no roles, no tags, nothing between them."""

Box = tuple[int, int, int, int]
"""Top, left, height and width of what is taken of a frame."""


def clean_question(question: str) -> str:
    """A question in lower case without . ! " ( ) * # : ; ~ and without more than 50 words.

    Official: salesforce/LAVIS@506965b:lavis/processors/blip_processors.py (BlipQuestionProcessor).
    """
    words = re.sub(r'[.!"()*#:;~]', "", question.lower()).rstrip(" ").split(" ")
    return " ".join(words[:MOST_WORDS])


class MaLmmProcessor(Processor):
    """Files to frames, questions to rows, as MA-LMM does.

    Differs: (1) frames come from the video itself; the released code first writes every video out
    as pictures, ten a second, 256 rows high, and takes its frames from those (a folder of them is
    read, too). (2) Colours are limited to 0..255 after resizing; `official_resize` lets them wrap
    around.

    Args:
        tokenizer: of the language model.
        instructions: what the Q-Former reads.
        config: settings.
    """

    layout_only = (
        *("visual_memory", "query_memory", "merging", "frame_position", "reader", "num_queries"),
        *("position_start",),
        *("max_frames", "qformer_width", "qformer_layers", "qformer_heads", "qformer_inner"),
        *("qformer_cross", "qformer_dropout", "qformer_vocabulary", "qformer_positions", "prompt"),
        *("text_length", "answer_length", "caption_prompt", "layout", "plain", "place"),
        *("stop_sequences", "stop_texts", "video_last"),
    )

    def __init__(self, tokenizer: Tokenizer, instructions: Instructions, config: MaLmmConfig):
        self.plain = config.layout == "world"
        super().__init__(tokenizer, WORLD_TEMPLATE if self.plain else MA_LMM_TEMPLATE)
        self.config, self.instructions = config, instructions
        self.place = "<pad>" if self.plain else PLACE
        tokenizer.add_tokens((self.place,))

    # Files

    def read(self, path: str | Path) -> Clip:
        """Read frames of a video, a picture, or a folder of pictures in the order of their names.

        Args:
            path: may end in a window of seconds, as `film.mp4#t=20,119`.

        Raises:
            MediaError: a bad file.
        """
        from vlmcourse.media.sampling import ma_lmm_test_indices

        return self._read(path, lambda total: ma_lmm_test_indices(total, self.config.num_frames))

    def read_for_training(self, path: str | Path, draw: int, form: str = "conversation") -> Clip:
        """The same with one random frame of each of equal parts, and one random crop for all, which
        may be mirrored. A window of LVU keeps the frames that it has for questions.

        Args:
            draw: a random number; the clip depends on nothing else.
            form: of no consequence.
        """
        from vlmcourse.media.sampling import ma_lmm_train_indices
        from vlmcourse.media.transforms import random_crop_box

        rng = random.Random(draw)
        clip = self._read(
            path,
            lambda total: ma_lmm_train_indices(total, self.config.num_frames, rng),
            lambda height, width: random_crop_box(height, width, rng),
            rng,
        )
        return replace(clip, frames=clip.frames.flip(2)) if rng.random() < 0.5 else clip

    @property
    def draws(self) -> bool:
        return not self.plain

    def _read(
        self,
        path: str | Path,
        choose: Callable[[int], Sequence[int]],
        box: Callable[[int, int], Box] = lambda height, width: (0, 0, height, width),
        rng: random.Random | None = None,
    ) -> Clip:
        """Frames by a rule, each cut and resized; the box is asked for once."""
        from vlmcourse.media.film import open_film, split_window

        file, window = split_window(path)
        film = open_film(file)
        indices = self._chosen(film, choose, window, rng)
        chosen, parts = None, []
        for start in range(0, len(indices), AT_ONCE):
            pixels = frames_tensor(film.read(indices[start : start + AT_ONCE]))
            chosen = chosen or box(*pixels.shape[1:3])
            parts.append(self.resized(pixels, chosen))
        times = torch.as_tensor(film.times_s[indices], dtype=torch.float32)
        return Clip(times, torch.cat(parts), film.duration_s)

    def resized(self, pixels: Tensor, box: Box | None = None) -> Tensor:
        """`[T, H, W, 3]` bytes to `[T, S, S, 3]`; the small world's frames are left alone.

        Args:
            box: what is taken of each frame; None takes all of it.
        """
        from vlmcourse.media.transforms import crop_and_resize, to_uint8

        if self.plain:
            return pixels
        size = self.config.image_size
        box = box or (0, 0, *pixels.shape[1:3])
        cut = crop_and_resize(pixels.permute(3, 0, 1, 2), box, size)  # [3, T, S, S]
        return to_uint8(cut, official=self.config.official_resize).permute(1, 2, 3, 0)

    def _chosen(
        self,
        film: "Film",
        choose: Callable[[int], Sequence[int]],
        window: "Window | None",
        rng: random.Random | None,
    ) -> list[int]:
        """Indices of the frames to read, ascending."""
        from vlmcourse.media.film import DUMPED_FPS
        from vlmcourse.media.sampling import (
            every_seconds,
            ma_lmm_caption_indices,
            ma_lmm_window_indices,
        )

        config, times = self.config, film.times_s
        if config.seconds_apart is not None:
            first, end = 0, len(times)
            if window is not None:
                first, end = int(film.shown_at(window[0])), int(film.shown_at(window[1])) + 1
            return [first + i for i in every_seconds(times[first:end], config.seconds_apart)]
        total = max(1, round(film.duration_s * DUMPED_FPS))
        if window is None:
            dumped = choose(total)
        elif config.window_frames == "cut":
            dumped = ma_lmm_caption_indices(window, config.num_frames, rng, DUMPED_FPS)
        else:
            dumped = ma_lmm_window_indices(window, total, config.num_frames, DUMPED_FPS)
        return film.shown_at(np.asarray(dumped) / DUMPED_FPS).tolist()

    # Rows

    def expand(self, kind: str, clip: Clip) -> Sequence[Piece]:
        frames = clip.num_frames if self.config.reader == "frames" else 1
        return (Places(PICTURE, frames * self.config.num_queries, self.place, keeps_blanks=True),)

    def row(
        self,
        conversation: Conversation,
        clip: Clip,
        template: Template | None = None,
        max_length: int | None = None,
    ) -> TokenRow:
        """As the base; at the paper's size questions are cleaned and prompted, and long ones lose
        their beginning, long answers their end."""
        if self.plain:
            return super().row(conversation, clip, template, max_length)
        turns = []
        for turn in conversation.turns:
            text = turn.text
            if turn.role == "user":
                marker = "<video>" if not turns else ""
                text = marker + self.asked(markers_out(text))
            turns.append(Turn(turn.role, text))
        return self._fitting(Conversation(tuple(turns)), clip, template, max_length)

    def _fitting(self, conversation, clip, template, max_length) -> TokenRow:
        pieces = lay_out(conversation, template or self.template, self.expander(conversation, clip))
        row = TokenRow([], [], [], [])
        for piece in pieces:
            part = tokenise([piece], self.tokenizer)
            if isinstance(piece, Text) and piece.trained:
                part = part.part(0, self.config.answer_length - 1)  # one place is the end's
            elif isinstance(piece, Text):
                first = max(0, len(part) - self.config.text_length + 1)  # and one the beginning's
                part = part.part(first, len(part))
            row = TokenRow(*(a + b for a, b in zip(_lists(row), _lists(part))))
        if max_length is not None and len(row) > max_length:
            if sum(kind == PICTURE for kind in row.kinds[max_length:]):
                raise ConversationError(f"{max_length} positions do not hold the media")
            row = row.part(0, max_length)
        return row

    def asked(self, question: str) -> str:
        """What the language model and the Q-Former are asked: the cleaned question, prompted."""
        if self.plain:
            return question.strip()
        return self.config.prompt.format(clean_question(question.strip()))

    def caption_row(
        self,
        caption: str,
        clip: Clip,
        medium: str = "video",
        prompted: bool = False,
        draw: int = 0,
        max_length: int | None = None,
    ) -> TokenRow:
        """A caption as the answer to `caption_prompt`, prompted or not."""
        if self.plain:
            conversation = ask(self.config.caption_prompt, caption)
            return super().row(conversation, clip, max_length=max_length)
        conversation = ask(self.asked(self.config.caption_prompt), caption, "<video>")
        return self._fitting(conversation, clip, None, max_length)

    # Instructions

    def instruction_of(self, turns: Sequence[tuple[str, str]], form: str) -> str:
        if form in ("caption", "prompted_caption"):
            return self.config.caption_prompt
        return markers_out(turns[0][1])

    def instruct(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Word ids `[V, text_length]` and mask of what the Q-Former reads beside the frames."""
        return self.instructions(texts, self.config.text_length)

    def answer_text(self, ids: Sequence[int]) -> str:
        """The answer in what was generated; unknown tokens and `<s>` are no part of it."""
        return super().answer_text(ids if self.plain else [i for i in ids if i >= 2])


def markers_out(text: str) -> str:
    """A text without markers of media."""
    for marker in MARKERS:
        text = text.replace(marker, "")
    return text.strip()


def _lists(row: TokenRow) -> tuple[list[int], ...]:
    return row.ids, row.labels, row.kinds, row.segments
