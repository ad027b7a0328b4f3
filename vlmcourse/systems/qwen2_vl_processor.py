"""Qwen2-VL's processor: files to pictures and frames of any size, conversations to rows of tokens.

    <|im_start|>system / You are a helpful assistant.<|im_end|> /
    <|im_start|>user / <|vision_start|><|image_pad|> x 64<|vision_end|>What is it?<|im_end|> /
    <|im_start|>assistant / A cat.<|im_end|> /                       (a stroke is a line break)

Any number of pictures and videos may stand in a conversation, in any turn, in the order of their
markers.

Official: QwenLM/Qwen2-VL@35ba6e1:qwen-vl-utils/src/qwen_vl_utils/vision_process.py (which frames,
which size); the chat template of the published tokenizers, shown in its README.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlmcourse.backbones.tokenizers import Tokenizer
from vlmcourse.conversation import (
    PICTURE,
    Conversation,
    Expand,
    Piece,
    Places,
    Special,
    Template,
    Text,
    TokenRow,
    tokenise,
)
from vlmcourse.media.errors import VideoError
from vlmcourse.parts.dynamic_resolution import smart_resize, square_size, video_max_pixels
from vlmcourse.systems.processor import Clip, Processor, frames_tensor
from vlmcourse.systems.qwen2_vl_config import Qwen2VLConfig
from vlmcourse.systems.templates import WORLD_TEMPLATE

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
TURN_START, TURN_END, TEXT_END = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
PLACES = {True: "<|image_pad|>", False: "<|video_pad|>"}
"""The placeholder of a picture and of a video."""
WORLD_PLACE = "<pad>"
BESIDE = re.compile(r"\n?(<video>|<image>)\n?")
"""A marker with the line breaks beside it."""


def chat_template(system_text: str) -> Template:
    """ChatML, with the system's turn in front if there is a text for it."""
    system = (Special(TURN_START), Text(f"system\n{system_text}"), Special(TURN_END), Text("\n"))
    return Template(
        name="qwen2_vl",
        start=system if system_text else (),
        before_user=(Special(TURN_START), Text("user\n")),
        after_user=(Special(TURN_END), Text("\n")),
        before_answer=(Special(TURN_START), Text("assistant\n")),
        answer_lead="",
        after_answer=(Special(TURN_END, trained=True), Text("\n")),
        answer_alone=True,
    )


class Qwen2VLProcessor(Processor):
    """Files to frames and conversations to rows, as Qwen2-VL does.

    What training supervises was not published in code: here the assistant's turns with the token
    that ends each, as the paper's figure marks them.

    Differs: a video of fewer frames than `min_frames` gives those it has; the official code refuses
    it.

    Args:
        tokenizer: Qwen2's, or the world's.
        config: the system's.
    """

    layout_only = ("size", "positions", "time_rows", "add_vision_id", "system_text", "words")
    layout_only += ("plain", "stop_sequences")
    takes_several = True

    def __init__(self, tokenizer: Tokenizer, config: Qwen2VLConfig):
        self.plain = config.words == "world"
        template = WORLD_TEMPLATE if self.plain else chat_template(config.system_text)
        super().__init__(tokenizer, template)
        self.config = config
        if not self.plain:
            tokenizer.bos_token = TEXT_END
            tokenizer.pad_id = tokenizer.token_id(TEXT_END)
            ends = (TURN_END, TEXT_END)
            self.stop_sequences = tuple((tokenizer.token_id(token),) for token in ends)

    # Files

    def read(self, path: str | Path) -> Clip:
        """Read a picture, or the frames of a video, at the size that the model looks at.

        Raises:
            MediaError: a bad file, or one whose sides differ too much.
        """
        if Path(path).suffix.lower() in PICTURE_SUFFIXES:
            return self._picture(path)
        return self._video(path)

    def _picture(self, path: str | Path) -> Clip:
        from vlmcourse.media.video import read_frames

        pixels = read_frames(path, [0]).pixels  # [1, H, W, 3]
        bounds = self.config.min_pixels, self.config.max_pixels
        rows, columns = self._size(path, *pixels.shape[1:3], *bounds)
        return self._clip(torch.zeros(1), resized_picture(pixels[0], rows, columns)[None])

    def _video(self, path: str | Path) -> Clip:
        from vlmcourse.media.video import probe_video, read_frames

        info, config = probe_video(path), self.config
        chosen = self.chosen_frames(info.num_frames, info.fps)
        most = video_max_pixels(
            len(chosen),
            min_pixels=config.video_min_pixels,
            frame_max_pixels=config.video_max_pixels,
            total_pixels=config.video_total_pixels,
        )
        bounds = config.video_min_pixels, most
        size = self._size(path, info.height, info.width, *bounds)
        frames = read_frames(path, chosen, size=size, mode="bicubic")
        times = torch.as_tensor(frames.times_s, dtype=torch.float32)
        return self._clip(times, frames.pixels, info.duration_s)

    def chosen_frames(self, total: int, video_fps: float) -> list[int]:
        """Which frames to take of a video of `total` frames."""
        from vlmcourse.media.sampling import qwen2_vl_indices, qwen2_vl_num_frames

        config = self.config
        if total < config.temporal:
            return [0]
        count = qwen2_vl_num_frames(
            total,
            video_fps,
            fps=config.fps,
            min_frames=min(config.min_frames, total // config.temporal * config.temporal),
            frame_limit=config.max_frames,
            factor=config.temporal,
        )
        return qwen2_vl_indices(total, count)

    def _size(
        self, path: str | Path, rows: int, columns: int, least: float, most: float
    ) -> tuple[int, int]:
        """Rows and columns of pixels that a picture or frame is resized to."""
        factor = self.config.factor
        try:
            rows, columns = smart_resize(
                rows, columns, factor=factor, min_pixels=least, max_pixels=most
            )
        except ValueError as error:
            raise VideoError(path, str(error)) from error
        if self.config.resize == "square":
            return square_size(rows, columns, factor=factor, max_pixels=most)
        return rows, columns

    def _clip(self, times_s: Tensor, pixels: np.ndarray, duration_s: float = 0.0) -> Clip:
        patch = self.config.patch_size
        rows, columns = (side // patch for side in pixels.shape[1:3])
        grid = torch.tensor([-(-len(pixels) // self.config.temporal), rows, columns])
        return Clip(times_s, frames_tensor(pixels), duration_s, grid=grid)

    # Conversations

    def tokens_of(self, clip: Clip) -> int:
        """Places that a picture or video needs."""
        return int(clip.grid.prod()) // self.config.merge**2

    def row(
        self,
        conversation: Conversation,
        clip: Clip,
        template: Template | None = None,
        max_length: int | None = None,
    ) -> TokenRow:
        """The whole conversation. Line breaks that files of data put beside a marker are not said:
        the chat template has none there."""
        if not self.plain:
            told = [(turn, BESIDE.sub(r"\1", turn.text)) for turn in conversation.turns]
            turns = (replace(t, text=text) if t.role == "user" else t for t, text in told)
            conversation = Conversation(tuple(turns))
        return super().row(conversation, clip, template, max_length)

    def expander(self, conversation: Conversation, clip: Clip) -> Expand:
        """As the base; with `add_vision_id` pictures and videos are numbered, each kind from 1."""
        expand = super().expander(conversation, clip)
        if not self.config.add_vision_id:
            return expand
        waiting, numbers = iter(clip.all), Counter()

        def numbered(kind: str) -> list[Piece]:
            name = "Picture" if next(waiting, clip).is_picture else "Video"
            name = "video" if self.plain else name
            numbers[name] += 1
            return [Text(f"{name} {numbers[name]}{' :' if self.plain else ': '}"), *expand(kind)]

        return numbered

    def expand(self, kind: str, clip: Clip) -> Sequence[Piece]:
        """Places of a picture or of all of a video, between marks where the language model has
        any. What the file is counts, not what its marker says."""
        if kind not in ("video", "picture"):
            return super().expand(kind, clip)
        if not clip.has_stream(clip.given.pictures):
            return ()
        if self.plain:
            return (Places(PICTURE, self.tokens_of(clip), WORLD_PLACE),)
        places = Places(PICTURE, self.tokens_of(clip), PLACES[clip.is_picture])
        return Special(VISION_START), places, Special(VISION_END)

    def caption_row(
        self,
        caption: str,
        clip: Clip,
        medium: str = "video",
        prompted: bool = False,
        draw: int = 0,
        max_length: int | None = None,
    ) -> TokenRow:
        """A caption right behind its medium, outside any dialogue: how the first stages are written
        is not published, and a text of Qwen2's pre-training ends so. There are no requests."""
        if self.plain or prompted:
            return super().caption_row(caption, clip, medium, prompted, draw, max_length)
        behind = (Text(caption, trained=True), Special(TEXT_END, trained=True))
        return tokenise((*self.expand(medium, clip), *behind), self.tokenizer, max_length)


def resized_picture(pixels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """A picture `[H, W, 3]` uint8 in another size, as Pillow makes it (bicubic).

    The official code resizes pictures so and frames by torchvision, which rounds once less.
    """
    if pixels.shape[:2] == (rows, columns):
        return pixels
    from PIL import Image

    return np.array(Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BICUBIC))
