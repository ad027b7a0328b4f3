"""CogVLM2's processor: files to frames, conversations to rows of tokens.

    begin | picture x 66 | "0" | picture x 66 | "1" | ... | "Question: Why? Answer:" | "It ..." end

The counters, the dialogue and the answer are tokenised each alone. A place of a picture holds the
token that also pads.

Official: csbhr/Vivid-VR@38c736a:VRDiT/cogvlm2-llama3-caption/modeling_cogvlm.py
(`build_conversation_input_ids`, the video model); Niky-san/cogvlm2_surce@29bac8a:modeling_cogvlm.py
(the image model); THUDM/CogVLM2@6700ae7:video_demo/inference.py (which frames).
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from vlmcourse.backbones.tokenizers import Tokenizer
from vlmcourse.conversation import (
    MARKERS,
    PICTURE,
    Conversation,
    Piece,
    Places,
    Special,
    Template,
    Text,
    TokenRow,
    Turn,
    tokenise,
)
from vlmcourse.systems.cogvlm2_config import CogVLM2Config
from vlmcourse.systems.processor import Clip, Processor, frames_tensor
from vlmcourse.systems.templates import WORLD_TEMPLATE

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
LLAMA3_PLACE, LLAMA3_TURN_END = "<|reserved_special_token_0|>", "<|eot_id|>"
"""Tokens of Llama 3: the place holder, and the end that Llama 3's own chat has."""
WORLD_PLACE = "<pad>"

ANSWER_MARKS = {"chat": "Answer:", "vqa": "Short answer:"}


def dialogue(template: str, question: str, history: Sequence[tuple[str, str]] = ()) -> str:
    """What stands between the frames and the answer.

    Args:
        template: "base" is the bare question, and drops the history.
        history: earlier rounds, question and answer each.
    """
    if template == "base":
        return question
    mark = ANSWER_MARKS[template]
    earlier = "".join(f"Question: {asked} {mark} {said}\n" for asked, said in history)
    return f"{earlier}Question: {question} {mark}"


def counter_text(number: int, second: float) -> str:
    """The number of the frame, from 0 on; one frame a second makes it the second."""
    return str(number)


def seconds_text(number: int, second: float) -> str:
    """The time itself.

    Paper: arXiv 2408.16500, section 3.2, gives the encoder time stamps; in what is released they
    are counters.
    """
    return f"at {second:.1f} s"


def world_seconds_text(number: int, second: float) -> str:
    """The same in words of the small world: `at 3`, `at 3 . 5`."""
    whole, tenth = divmod(round(second * 10), 10)
    return f"at {whole} . {tenth}" if tenth else f"at {whole}"


TIME_TEXTS = {
    ("counter", "llama3"): counter_text,
    ("counter", "world"): counter_text,
    ("seconds", "llama3"): seconds_text,
    ("seconds", "world"): world_seconds_text,
}


class CogVLM2Processor(Processor):
    """Files to frames and conversations to rows, as CogVLM2 does.

    Differs: (1) of a conversation with several rounds the last answer alone is trained, as the
    official row builder has it; with the world's words every answer is, as in the other systems.
    (2) A picture never gets a counter; the official video model knows no pictures.

    Args:
        tokenizer: Llama 3's, or the world's.
        config: the system's.
    """

    layout_only = ("experts", "adapter_width", "template", "time_text", "positions", "words")
    layout_only += ("plain", "place", "stop_sequences")

    def __init__(self, tokenizer: Tokenizer, config: CogVLM2Config):
        self.plain = config.words == "world"
        self.place = WORLD_PLACE if self.plain else LLAMA3_PLACE
        super().__init__(tokenizer, WORLD_TEMPLATE if self.plain else self._llama3(tokenizer))
        self.config = config
        if not self.plain:
            tokenizer.pad_id = tokenizer.token_id(self.place)
            self.stop_sequences = ((tokenizer.token_id(LLAMA3_TURN_END),),)

    @staticmethod
    def _llama3(tokenizer: Tokenizer) -> Template:
        """Begin and end of a row; `row` writes what is between, which no template can."""
        return Template(
            name="cogvlm2",
            start=(Special(tokenizer.bos_token),),
            before_user=(),
            after_user=(),
            before_answer=(),
            answer_lead="",
            after_answer=(Special(tokenizer.eos_token, trained=True),),
            media_first=True,
            answer_alone=True,
        )

    # Files

    def read(self, path: str | Path) -> Clip:
        """Read a video, or a picture, at the size it was recorded in: the encoder makes it smaller.

        Raises:
            MediaError: a bad file.
        """
        from vlmcourse.media.video import read_frames

        if Path(path).suffix.lower() in PICTURE_SUFFIXES:
            return Clip(torch.zeros(1), frames_tensor(read_frames(path, [0]).pixels))
        frames = read_frames(path, self._chosen(path))
        times = torch.as_tensor(frames.times_s, dtype=torch.float32)
        return Clip(times, frames_tensor(frames.pixels), frames.info.duration_s)

    def _chosen(self, path: str | Path) -> list[int]:
        from vlmcourse.media.sampling import cogvlm2_video_base_indices, cogvlm2_video_chat_indices
        from vlmcourse.media.video import frame_times_s, probe_video

        wanted = self.config.num_frames
        if self.config.sampling == "base":
            info = probe_video(path)
            return cogvlm2_video_base_indices(info.num_frames, info.fps, wanted)
        times = frame_times_s(path)
        return cogvlm2_video_chat_indices(times - times[0], wanted)

    # Conversations

    def expand(self, kind: str, clip: Clip) -> Sequence[Piece]:
        """Places of all frames; in "chat", behind each frame of a video, its time text."""
        if kind not in ("video", "picture"):
            return super().expand(kind, clip)
        if not clip.has_stream(clip.given.pictures):
            return ()
        frame = Places(PICTURE, self.config.tokens_per_frame, self.place)
        tell = TIME_TEXTS.get((self.config.time_text, self.config.words))
        if tell is None or clip.is_picture or self.config.template != "chat":
            return (frame,) * clip.num_frames
        times = clip.times_s.tolist()
        return [
            piece
            for number, second in enumerate(times)
            for piece in (frame, Text(tell(number, second)))
        ]

    def row(
        self,
        conversation: Conversation,
        clip: Clip,
        template: Template | None = None,
        max_length: int | None = None,
    ) -> TokenRow:
        """The whole conversation; the medium always stands in front of all text."""
        if self.plain:
            return super().row(conversation, clip, template, max_length)
        medium, conversation = without_medium(conversation)
        places = self.expand(medium, clip) if medium else ()
        return self._llama3_row(conversation, places, max_length)

    def text_row(
        self,
        conversation: Conversation,
        description: str = "",
        template: Template | None = None,
        max_length: int | None = None,
    ) -> TokenRow:
        """Language data; a description is tokenised on its own, as everything in front of a
        dialogue is."""
        if self.plain:
            return super().text_row(conversation, description, template, max_length)
        told = (Text(description),) if description else ()
        return self._llama3_row(without_medium(conversation)[1], told, max_length)

    def _llama3_row(
        self, conversation: Conversation, before: Sequence[Piece], max_length: int | None
    ) -> TokenRow:
        """Begin, what stands before the text, dialogue, and the answer if there is one."""
        texts = [turn.text for turn in conversation.turns]
        answer = texts.pop() if len(texts) % 2 == 0 else None
        rounds = list(zip(texts[:-1:2], texts[1::2]))
        asked = dialogue(self.config.template, texts[-1], rounds)
        pieces = [*self.template.start, *before, Text(asked, joined=False)]
        if answer is not None:
            pieces.append(Text(answer, trained=True, joined=False))
            pieces.extend(self.template.after_answer)
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
        """A caption right behind its medium; there are no requests (`prompted` is an error)."""
        if prompted:
            return super().caption_row(caption, clip, medium, prompted, draw, max_length)
        behind = (Text(caption, trained=True, joined=False), *self.template.after_answer)
        pieces = (*self.template.start, *self.expand(medium, clip), *behind)
        return tokenise(pieces, self.tokenizer, max_length)


def without_medium(conversation: Conversation) -> tuple[str | None, Conversation]:
    """What medium the first turn brings (None for none), and the conversation without its marker
    and the line break beside it."""
    first, *later = conversation.turns
    for marker, kind in MARKERS.items():
        if marker in first.text:
            before, _, behind = first.text.partition(marker)
            first = Turn("user", before.removesuffix("\n") + behind.removeprefix("\n"))
            return kind, Conversation((first, *later))
    return None, conversation
