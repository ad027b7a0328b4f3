"""MiniGPT4-video's processor: files to frames and subtitles, conversations to rows of tokens.

Official: Vision-CAIR/MiniGPT4-video@ecabd7a:minigpt4/datasets/datasets/*.py,
minigpt4_video_inference.py, minigpt4/models/mini_gpt4_llama_v2.py (`preparing_embedding`).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vlmcourse.backbones.tokenizers import Tokenizer
from vlmcourse.conversation import (
    IGNORED,
    MARKERS,
    Conversation,
    ConversationError,
    Piece,
    Places,
    Template,
    Text,
    TokenRow,
    Turn,
    lay_out,
    tokenise,
)
from vlmcourse.errors import UserError
from vlmcourse.media.subtitle_alignment import (
    CAPTION_MODES,
    minigpt4_video_captions,
    spoken_by_frame,
)
from vlmcourse.media.subtitles import Cue
from vlmcourse.systems.minigpt4_video_config import MiniGPT4VideoConfig
from vlmcourse.systems.minigpt4_video_layout import LAYOUTS, PROMPTS, frame_pieces, picture_pieces
from vlmcourse.systems.processor import Clip, Processor, frames_tensor

if TYPE_CHECKING:
    from vlmcourse.media.video import VideoInfo

log = logging.getLogger(__name__)

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
READING = ("num_frames", "image_size", "official_repeat", "official_prompt")
"""Settings that change what is read from a file; all others change rows of tokens alone."""


class MiniGPT4VideoProcessor(Processor):
    """Files to frames and subtitles, conversations to rows, as MiniGPT4-video does.

    Differs: (1) questions are asked as in training; `official_prompt` asks as the released scripts.
    (2) Subtitles lose nothing that is said (`official_captions`). (3) Where a context is too long,
    subtitles are left out from the end until it fits; `official_cut` cuts what comes last instead,
    which is the question. (4) Rows of a batch are padded to the longest, not always to the limits.

    Args:
        tokenizer: nothing is added to it.
        config: the system's.
        num_patches: of a frame, before they are merged.
    """

    layout_only = (
        *(field.name for field in fields(MiniGPT4VideoConfig) if field.name not in READING),
        *("tokens_per_frame", "video_last", "stop_sequences", "stop_texts"),
    )

    def __init__(self, tokenizer: Tokenizer, config: MiniGPT4VideoConfig, num_patches: int):
        for what, given, known in (
            ("layout", config.layout, LAYOUTS),
            ("official_prompt", config.official_prompt, PROMPTS),
            ("official_captions", config.official_captions, (None, *CAPTION_MODES)),
        ):
            if given not in known:
                raise UserError(f"{what} is one of {', '.join(map(str, known))}, not {given!r}")
        if num_patches % config.merge:
            raise UserError(f"merge={config.merge} does not divide {num_patches} patches")
        self.layout = LAYOUTS[config.layout]
        asked = self.layout.video if config.layout == "world" else PROMPTS[config.official_prompt]
        super().__init__(tokenizer, self.layout.video, asked)
        self.config = config
        self.tokens_per_frame = num_patches // config.merge
        self._told: set[str] = set()

    # Files

    @property
    def reads_subtitles(self) -> bool:
        """Whether cues reach the model."""
        return self.config.subtitles

    @property
    def draws(self) -> bool:
        """Nothing is left to chance, but reading for training may repeat a frame."""
        return self.config.official_repeat

    def read(self, path: str | Path, cues: Sequence[Cue] | None = None) -> Clip:
        """Read a video or a picture, frames already `image_size` wide and high.

        Args:
            cues: subtitles instead of those that are found.

        Raises:
            MediaError: a bad file.
        """
        return self._read(path, repeat=self.config.official_prompt == "benchmark", cues=cues)

    def read_for_training(self, path: str | Path, draw: int, form: str = "conversation") -> Clip:
        """The same: the official training changes no pictures either."""
        return self._read(path, repeat=True)

    def _read(self, path: str | Path, repeat: bool, cues: Sequence[Cue] | None = None) -> Clip:
        from vlmcourse.media.video import read_frames

        size = (self.config.image_size,) * 2
        if is_picture_file(path):
            pixels = read_frames(path, [0], size=size, mode="bicubic").pixels
            return Clip(torch.zeros(1), frames_tensor(pixels))
        indices, info = self._indices(path, repeat and self.config.official_repeat)
        frames = read_frames(path, indices, size=size, mode="bicubic")
        times = torch.as_tensor(frames.times_s, dtype=torch.float32)
        cues = self.read_cues(path, cues)
        return Clip(times, frames_tensor(frames.pixels), info.duration_s, cues=cues)

    def _indices(self, path: str | Path, repeat: bool = False) -> "tuple[list[int], VideoInfo]":
        from vlmcourse.media.sampling import minigpt4_video_indices, minigpt4_video_total
        from vlmcourse.media.video import probe_video

        info = probe_video(path)
        total = max(minigpt4_video_total(info.duration_s, info.fps), 1)
        mode, wanted = "train" if repeat else "infer", self.config.num_frames
        return minigpt4_video_indices(total, wanted, mode, decodable=info.readable_frames), info

    def read_cues(self, path: str | Path, cues: Sequence[Cue] | None = None) -> tuple[Cue, ...]:
        """Subtitles beside a video, or what was transcribed before; () without.

        With `official_captions` they are those texts that the official code makes of them, each at
        the time of its frame.

        Args:
            cues: these, nothing is looked for.

        Raises:
            SubtitleError: a file that cannot be read.
        """
        from vlmcourse.media.transcribe import subtitles_of

        if not self.config.subtitles or is_picture_file(path):
            return ()
        cues = subtitles_of(path) if cues is None else tuple(cues)
        if not cues or self.config.official_captions is None:
            return cues
        from vlmcourse.media.video import frame_times_s

        indices, info = self._indices(path)
        captions = minigpt4_video_captions(
            cues,
            duration_s=info.duration_s,
            fps=info.fps,
            wanted=self.config.num_frames,
            word_budget=self.config.subtitle_words,
            mode=self.config.official_captions,
            decodable=info.readable_frames,
        )
        times = frame_times_s(path)[indices].tolist()
        return tuple(Cue(t, t, text) for t, text in zip(times, captions) if text)

    # Conversations

    def expand(self, kind: str, clip: Clip, words: int | None = None) -> Sequence[Piece]:
        """A video with what is said in it, at most so many words; or pictures."""
        layout = self.layout
        if kind == "picture":
            sides = layout.before_frame, layout.after_picture
            return picture_pieces(sides[0], self.tokens_per_frame, clip.num_frames, sides[1])
        if kind != "video":
            return super().expand(kind, clip)
        spoken = spoken_by_frame(clip.cues, clip.times_s.tolist(), self._words(words))
        return frame_pieces(layout, spoken, self.tokens_per_frame)

    def _words(self, words: int | None) -> int | None:
        """The budget of words; None for none (the official rules have counted themselves)."""
        if not self.config.subtitles:
            return 0
        if words is None and self.config.official_captions is None:
            return self.config.subtitle_words
        return words

    def row(
        self,
        conversation: Conversation,
        clip: Clip,
        template: Template | None = None,
        max_length: int | None = None,
    ) -> TokenRow:
        """See the base; `max_length` counts the answer and what ends it, as the official code does,
        and `max_context` what stands in front of it."""
        pictures = clip.duration_s == 0 and not clip.times_s.any()  # one, or several
        template = template or self.template
        if pictures and template is self.template:
            template = self.layout.picture
        first, markers = self._with_markers(conversation.turns[0], pictures)
        if clip.num_frames % markers:
            raise ConversationError(f"{markers} markers for {clip.num_frames} pictures")
        shown = replace(clip, times_s=clip.times_s[: clip.num_frames // markers])
        conversation = Conversation((first, *conversation.turns[1:]))

        def laid_out(words: int | None) -> TokenRow:
            pieces = lay_out(conversation, template, lambda kind: self.expand(kind, shown, words))
            return tokenise(pieces, self.tokenizer)

        asked = conversation.turns[-1].role == "user"
        return self._with_answer(self._within_context(laid_out, asked), max_length)

    def _with_markers(self, turn: Turn, pictures: bool) -> tuple[Turn, int]:
        """The first turn with its medium in front, and how many markers there are; several pictures
        stay where they are."""
        count = sum(turn.text.count(marker) for marker in MARKERS)
        if count == 0 or (pictures and count > 1):
            return turn, max(count, 1)
        words = turn.text
        for marker in MARKERS:
            words = words.replace(marker, "")
        between = "<image> " if pictures else f"<video>{self.layout.after_video}"
        return Turn("user", between + words.strip()), 1

    def _within_context(self, laid_out: Callable[[int | None], TokenRow], asked: bool) -> TokenRow:
        """A row whose part in front of the answer fits `max_context`."""
        row, words, most = laid_out(None), None, 1 + self.config.max_context
        if self.config.official_cut:
            begin = answer_start(row)
            return row if asked or begin <= most else without(row, most, begin)
        while answer_start(row) > most:
            words = self.config.subtitle_words // 2 if words is None else words // 2
            row = laid_out(words)
            if words == 0 and answer_start(row) > most:
                raise ConversationError(
                    f"{answer_start(row) - 1} positions of pictures and words do not fit in "
                    f"max_context={self.config.max_context}"
                )
            self._tell_once(f"subtitles cut to {words} words, so that all fits in the context")
        return row

    def _with_answer(self, row: TokenRow, max_length: int | None) -> TokenRow:
        if max_length is not None:
            row = row.part(0, answer_start(row) + max_length)
        if self.config.official_padding:
            pad = self.tokenizer.pad_id
            row = replace(row, labels=[IGNORED if i == pad else i for i in row.labels])
        return row

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            log.warning("%s (told once)", text)

    def caption_row(
        self,
        caption: str,
        clip: Clip,
        medium: str = "video",
        prompted: bool = False,
        draw: int = 0,
        max_length: int | None = None,
    ) -> TokenRow:
        """Captions with one of the system's requests, or bare: only the places and the caption.

        Without `chat_template` (the first stage) a request has no marks of turns around it.
        Differs: every row draws a request of its own; the official code draws one for a batch.
        """
        config, layout = self.config, self.layout
        if not prompted:
            pieces = self.expand(medium, clip)
            if medium == "picture":
                pieces = [piece for piece in pieces if isinstance(piece, Places)]
            behind = (Text(caption, trained=True, joined=False), *self.template.after_answer)
            row = tokenise((*self.template.start, *pieces, *behind), self.tokenizer)
            return self._with_answer(row, max_length)
        requests = config.picture_requests if medium == "picture" else config.video_requests
        request, template = requests[draw % len(requests)], None
        if not config.chat_template:
            request, template = layout.caption_mark + request, layout.untemplated
        turns = (Turn("user", f"<video>{request}"), Turn("assistant", caption))
        return self.row(Conversation(turns), clip, template, max_length)

    def answer_text(self, ids: Sequence[int]) -> str:
        """The answer in what was generated: up to the end token, behind the last `[/INST]`."""
        ids, end = list(ids), self.tokenizer.token_id(self.tokenizer.eos_token)
        text = self.tokenizer.decode(ids[: ids.index(end)] if end in ids else ids)
        return text.split(self.tokenizer.eos_token)[0].split("[/INST]")[-1].strip()


def is_picture_file(path: str | Path) -> bool:
    return Path(path).suffix.lower() in PICTURE_SUFFIXES


def answer_start(row: TokenRow) -> int:
    """Positions in front of the first trained one; all of them where nothing is trained."""
    return next((i for i, label in enumerate(row.labels) if label != IGNORED), len(row))


def without(row: TokenRow, start: int, end: int) -> TokenRow:
    """A row without the positions from `start` to `end`."""
    lists = (row.ids, row.labels, row.kinds, row.segments)
    return TokenRow(*(values[:start] + values[end:] for values in lists))
