"""Chat-UniVi's processor: files to pictures and frames, conversations to rows of tokens.

    <s>... questions. USER: | picture x 112 | / What is it? ASSISTANT: A cat.</s>USER: ...

A stroke is the line break that stands behind every picture and every video. No token marks them:
the official code puts one placeholder for a picture and one for each frame, and takes a run of
three or more for a video.

Official: PKU-YuanGroup/Chat-UniVi@ec0b3db:ChatUniVi/model/dataloader.py (which frames),
ChatUniVi/train/train.py (`preprocess_multimodal`, `preprocess_v1`), ChatUniVi/conversation.py.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from vlmcourse.backbones.tokenizers import Tokenizer
from vlmcourse.conversation import (
    PICTURE,
    Conversation,
    Piece,
    Places,
    Special,
    Template,
    Text,
    TokenRow,
    Turn,
)
from vlmcourse.errors import UserError
from vlmcourse.parts.cluster_rules import scale_sizes, token_count
from vlmcourse.systems.chat_univi_config import VIDEO_FROM, ChatUniViConfig
from vlmcourse.systems.processor import Clip, Processor, frames_tensor
from vlmcourse.systems.templates import VICUNA_TEMPLATE, WORLD_TEMPLATE

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
FRAMES_AT_ONCE = 16
"""Frames that are held at the size they were recorded in."""
PLACES = {"vicuna": "<unk>", "world": "<pad>"}
"""The token that stands at places of pictures, which nobody sees; nothing is added for it."""
MARK = "(?:<image>|<video>)"
ASKED_IN_FRONT = re.compile(rf"(?P<text>(?:(?!{MARK}).)+?)\s*(?P<marks>{MARK}+)", re.DOTALL)
"""A text that ends with all of its markers."""

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the human's questions."
)
UNSURE = "  If you don't know the answer to a question, please don't share false information."
GREETING = ("Hi!", "Hi there! How can I help you today?")
EXAMPLE = (
    "Is there a snowboard in the image?",
    "Yes, there is a snowboard in the image, and the person is riding it down a snow-covered "
    "slope.",
)
STOP = "###"
STOP_IDS = ((835,), (2277, 29937))
"""The two ways in which LLaMA's vocabulary writes `###`."""


def talk_template(name: str, system: str, shown: tuple[str, str]) -> Template:
    """`SYSTEM###Human: ...###Assistant: ...###`, with a round that the model is shown in front."""
    asked, answered = shown
    start = f"{system}{STOP}Human: {asked}{STOP}Assistant: {answered}{STOP}"
    return Template(
        name=name,
        start=(Special("<s>"), Text(start)),
        before_user=(Text("Human: "),),
        after_user=(Text(STOP),),
        before_answer=(Text("Assistant:"),),
        answer_lead=" ",
        after_answer=(Text(STOP, trained=True),),
    )


PROMPTS = {
    "v1": VICUNA_TEMPLATE,
    "simple": talk_template("chat-univi_simple", SYSTEM, GREETING),
    "simpleqa": talk_template("chat-univi_simpleqa", SYSTEM + UNSURE, EXAMPLE),
}
"""How questions are written. The released models were trained with the first alone, in both stages;
their demo asks with the second, their evaluation of POPE with the third."""


class ChatUniViProcessor(Processor):
    """Files to frames and conversations to rows, as Chat-UniVi does.

    Differs: (1) every picture and every video takes its own place, wherever it stands; the official
    code repeats what is in front of the second of several and loses the text between them. (2) A
    question in front of its picture goes behind it, as there; the same question with pictures
    elsewhere too stays as it is, where the official code asks for more pictures than there are.
    (3) What is trained is found by its characters; the official code counts tokens and drops a
    conversation whose counts do not agree.

    Args:
        tokenizer: Vicuna's, or the world's; nothing is added to it.
        config: the system's.
        num_patches: of a picture.
    """

    layout_only = ("size", "spatial_rates", "spatial_ks", "temporal_rate", "temporal_k", "merging")
    layout_only += ("temporal", "clustering", "noise_seed", "prompt", "words", "plain", "place")
    layout_only += ("num_patches", "stop_sequences", "stop_texts")
    takes_several = True

    def __init__(self, tokenizer: Tokenizer, config: ChatUniViConfig, num_patches: int):
        self.plain = config.words == "world"
        template = WORLD_TEMPLATE if self.plain else VICUNA_TEMPLATE
        super().__init__(tokenizer, template, template if self.plain else PROMPTS[config.prompt])
        self.config, self.num_patches = config, num_patches
        self.place = PLACES[config.words]
        try:
            scale_sizes(num_patches, config.spatial_rates)
        except ValueError as error:
            raise UserError(f"spatial_rates {config.spatial_rates}: {error}") from error
        if not self.plain and config.prompt != "v1":
            self.stop_sequences, self.stop_texts = STOP_IDS, (STOP,)

    # Files

    def read(self, path: str | Path) -> Clip:
        """Read a picture, or one frame a second of a video.

        Raises:
            MediaError: a bad file.
        """
        from vlmcourse.media.sampling import chat_univi_indices
        from vlmcourse.media.video import probe_video

        if Path(path).suffix.lower() in PICTURE_SUFFIXES:
            return replace(self._frames(path, [0]), times_s=torch.zeros(1))
        info = probe_video(path)
        chosen = chat_univi_indices(info.num_frames, info.fps, self.config.num_frames)
        return replace(self._frames(path, chosen), duration_s=info.duration_s)

    def _frames(self, path: str | Path, chosen: Sequence[int]) -> Clip:
        """These frames, with `fit="crop"` cut to squares."""
        from vlmcourse.media.transforms import square_of_the_middle
        from vlmcourse.media.video import read_frames

        step = FRAMES_AT_ONCE if self.config.fit == "crop" else len(chosen)
        times, pixels = [], []
        for start in range(0, len(chosen), step):
            frames = read_frames(path, chosen[start : start + step])
            times.append(torch.as_tensor(frames.times_s, dtype=torch.float32))
            pixels.append(frames_tensor(frames.pixels))
            if self.config.fit == "crop":
                pixels[-1] = square_of_the_middle(pixels[-1], self.config.image_size)
        return Clip(torch.cat(times), torch.cat(pixels))

    # Conversations

    def tokens_of(self, clip: Clip) -> int:
        """Places that a picture or video needs; its length alone decides.

        Raises:
            UserError: a video, and a stage that keeps a share of its tokens: of how many, only what
                its frames show would tell.
        """
        rates, most = self.config.spatial_rates, VIDEO_FROM - 1
        try:
            return token_count(
                clip.num_frames, self.num_patches, rates, self.config.temporal_rate, most
            )
        except ValueError as error:
            raise UserError(str(error)) from error

    def expand(self, kind: str, clip: Clip) -> Sequence[Piece]:
        """Places of a picture or of all of a video. What the file is counts, not its marker."""
        if kind not in ("video", "picture"):
            return super().expand(kind, clip)
        if not clip.has_stream(clip.given.pictures):
            return ()
        return (Places(PICTURE, self.tokens_of(clip), self.place, keeps_blanks=True),)

    def row(
        self,
        conversation: Conversation,
        clip: Clip,
        template: Template | None = None,
        max_length: int | None = None,
    ) -> TokenRow:
        """The whole conversation, with a line break behind each picture and video.

        Args:
            max_length: counts a picture, and a frame of a video, as one: the official code cuts
                rows before it knows how many tokens those become.
        """
        if self.plain:
            return super().row(conversation, clip, template, max_length)
        turns = (
            replace(turn, text=laid_out_text(turn.text)) if turn.role == "user" else turn
            for turn in conversation.turns
        )
        if max_length is not None:
            max_length += sum(self.tokens_of(one) - one.num_frames for one in clip.all)
        return super().row(Conversation(tuple(turns)), clip, template, max_length)

    def caption_row(
        self,
        caption: str,
        clip: Clip,
        medium: str = "video",
        prompted: bool = False,
        draw: int = 0,
        max_length: int | None = None,
    ) -> TokenRow:
        """A caption as the answer to a picture without words; requests stand in the data, where
        there are any (`prompted` is an error)."""
        if self.plain or prompted:
            return super().caption_row(caption, clip, medium, prompted, draw, max_length)
        turns = (Turn("user", "<video>"), Turn("assistant", caption))
        return self.row(Conversation(turns), clip, max_length=max_length)

    def answer_text(self, ids: Sequence[int]) -> str:
        """The answer in what was generated, without the stop behind it."""
        text = super().answer_text(ids)
        for stop in self.stop_texts:
            text = text.split(stop)[0]
        return text.strip()


def laid_out_text(text: str) -> str:
    """A user's text as the official code rewrites it: pictures that end it come in front, a line
    break follows each picture and video, and none stands in front of a picture.

    Differs: see `ChatUniViProcessor`; and empty lines stay where no picture is, which the official
    code takes out of questions and answers alike.
    """
    if not re.search(MARK, text):
        return text
    text = re.sub(r"\n?<image>\n?", "<image>", text).strip()
    if turned := ASKED_IN_FRONT.fullmatch(text):
        text = turned["marks"] + turned["text"].strip()
    return re.sub(rf"({MARK})\n*", r"\1\n", text)
