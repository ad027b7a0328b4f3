"""Video-LLaMA's processor: files to frames and clips of sound, conversations to rows of tokens.

Official: DAMO-NLP-SG/Video-LLaMA@64888c0:video_llama/processors/video_processor.py,
video_llama/datasets/datasets/*.py, video_llama/conversation/conversation_video.py.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from vlmcourse.backbones.tokenizers import Tokenizer
from vlmcourse.conversation import (
    IGNORED,
    PICTURE,
    SOUND,
    Conversation,
    Piece,
    Places,
    Template,
    Text,
    TokenRow,
    Turn,
    lay_out,
    prompt_text,
    tokenise,
)
from vlmcourse.parts.packing import PADDING
from vlmcourse.systems.processor import Clip, Given, Processor, frames_tensor
from vlmcourse.systems.templates import WORLD_TEMPLATE
from vlmcourse.systems.video_llama_config import VideoLlamaConfig
from vlmcourse.systems.video_llama_labels import llama2_labels, vicuna_labels
from vlmcourse.systems.video_llama_layout import (
    LAYOUTS,
    LLAMA2,
    PLACE,
    PLAIN_CAPTION,
    SOUND_PLACE,
    VICUNA,
    frame_message,
    llama2_template,
    released_vicuna_chat,
)

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

Crop = Callable[[int, int], tuple[int, int, int, int]]
"""Rows and columns of a picture to the top, left, height and width of what is taken of it."""


class VideoLlamaProcessor(Processor):
    """Files to frames and sound, conversations to rows, as Video-LLaMA does.

    Differs: (1) prompts are those of the training; `official_prompt` writes those of the released
    chat (no line breaks, two blanks before a question, a system text about pictures). (2) An
    unknown character is a token like any other; `official_padding` takes it for padding (both have
    the id 0), so that it trains nothing and, in conversations, is not seen.

    Args:
        tokenizer: gets the two place holders.
        config: the system's.
    """

    layout_only = (
        *("num_video_queries", "num_audio_queries", "num_image_queries", "max_frames", "layout"),
        *("frame_positions", "sound_positions", "sound_scale", "frame_text", "sound_texts"),
        *("official_prompt", "official_padding", "official_crop", "plain", "stop_sequences"),
        *("stop_texts", "picture_system", "video_system", "caption_requests", "qformer_dropout"),
        *("qformer_layers", "qformer_heads", "qformer_inner", "qformer_width"),
    )

    def __init__(self, tokenizer: Tokenizer, config: VideoLlamaConfig):
        self.layout = LAYOUTS[config.layout]
        self.plain = config.layout == "world"
        template = self.layout.conversation
        answers = self._released_chat(config.video_system) if config.official_prompt else template
        super().__init__(tokenizer, template, answers)
        self.config = config
        self.given = Given("pictures", "sounds" if config.listens else None)
        self.stop_sequences, self.stop_texts = self.layout.stop_sequences, self.layout.stop_texts
        tokenizer.add_tokens((PLACE, SOUND_PLACE))

    def _released_chat(self, system: str) -> Template:
        return {
            VICUNA.name: released_vicuna_chat,
            LLAMA2.name: llama2_template,
            WORLD_TEMPLATE.name: lambda system: WORLD_TEMPLATE,
        }[self.layout.conversation.name](system)

    # Files

    def read(self, path: str | Path) -> Clip:
        """Read a video with or without sound, a picture, or sound alone.

        `given` of the result is what there is of the processor's own.

        Raises:
            MediaError: a bad file, or nothing in it to see or (with `listens`) to hear.
        """
        from vlmcourse.media.sampling import video_llama_indices

        return self._read(path, lambda total: video_llama_indices(total, self.config.num_frames))

    def read_for_training(self, path: str | Path, draw: int, form: str = "conversation") -> Clip:
        """The same with a random crop and, for captions without a request (stage 1), frames chosen
        at random from each half: what the official training sees.

        Differs: crops are limited to 0..255 after resizing; `official_crop` lets them wrap around.

        Args:
            draw: a random number; the clip depends on nothing else.
            form: "conversation", "caption" or "prompted_caption".
        """
        from vlmcourse.media.sampling import video_llama_headtail_indices, video_llama_indices
        from vlmcourse.media.transforms import crop_and_resize, random_crop_box, to_uint8

        rng, wanted, size = random.Random(draw), self.config.num_frames, self.config.image_size

        def choose(total: int) -> list[int]:
            if form == "caption" and min(total, wanted) > 1:
                return video_llama_headtail_indices(total, wanted, rng)
            return video_llama_indices(total, wanted)

        clip = self._read(path, choose, lambda height, width: random_crop_box(height, width, rng))
        if clip.frames is None or clip.is_picture:
            return clip
        box = random_crop_box(*clip.frames.shape[1:3], rng)
        cut = crop_and_resize(clip.frames.permute(3, 0, 1, 2), box, size)  # [3, T, S, S]
        whole = to_uint8(cut, official=self.config.official_crop)
        return replace(clip, frames=whole.permute(1, 2, 3, 0))  # [T, S, S, 3]

    def _read(
        self,
        path: str | Path,
        choose: Callable[[int], Sequence[int]],
        crop: Crop = lambda height, width: (0, 0, height, width),
    ) -> Clip:
        """Frames by a rule, and sound; `crop` chooses the part of a picture."""
        from vlmcourse.media.errors import VideoError
        from vlmcourse.media.opening import has_tracks
        from vlmcourse.media.video import probe_video, read_frames

        if Path(path).suffix.lower() in PICTURE_SUFFIXES:
            return self._read_picture(path, crop)
        seen, heard = has_tracks(path)
        heard = heard and self.config.listens
        if not seen and not heard:
            raise VideoError(path, "holds nothing to see" + " or to hear" * self.config.listens)
        clip = Clip(torch.zeros(0))
        if seen:
            info = probe_video(path)
            frames = read_frames(path, choose(info.num_frames))
            times = torch.as_tensor(frames.times_s, dtype=torch.float32)
            clip = Clip(times, frames_tensor(frames.pixels), info.duration_s)
        if heard:
            clip = self._with_sound(clip, path)
        given = (name if clip.has_stream(name) else None for name in vars(self.given).values())
        return replace(clip, given=Given(*given))

    def _read_picture(self, path: str | Path, crop: Crop) -> Clip:
        from vlmcourse.media.transforms import resize_frames
        from vlmcourse.media.video import read_frames

        pixels = frames_tensor(read_frames(path, [0]).pixels)
        top, left, height, width = crop(*pixels.shape[1:3])
        cut = pixels[:, top : top + height, left : left + width]
        size = self.config.image_size
        small = resize_frames(cut.contiguous(), size, size, mode="bicubic")
        return Clip(torch.zeros(1), small, given=Given(self.given.pictures))

    def _with_sound(self, clip: Clip, path: str | Path) -> Clip:
        from vlmcourse.media.imagebind_audio import read_sound_clips

        config = self.config
        sound = read_sound_clips(path, config.num_sound_clips, official=config.official_sound)
        length_s = clip.duration_s or float(sound.times_s[-1]) + 2.0
        return replace(clip, sound=sound.mels, sound_times_s=sound.times_s, duration_s=length_s)

    # Conversations

    def expand(self, kind: str, clip: Clip, keeps_blanks: bool = False) -> Sequence[Piece]:
        """Places and tags of what a clip gives (`clip.given`), sound first.

        Sound has no tags. Pictures that ImageBind's picture encoder turns into "sound" (training of
        the audio branch) are pictures, so they stand in tags.
        """
        given, config = clip.given, self.config
        pictures, sounds = (), ()
        if clip.has_stream(given.sounds):
            sounds = (Places(SOUND, config.num_audio_queries, PLACE, keeps_blanks),)
        if clip.has_stream(given.pictures):
            pictures = (Places(PICTURE, config.num_video_queries, PLACE, keeps_blanks),)
        if self.plain:
            return (*sounds, *pictures)
        if given.sounds == "sound_pictures" and not pictures:
            sounds, pictures = (), sounds
        official = config.official_prompt
        if kind == "picture" and pictures:
            return Text("<Image>"), *pictures, Text("</Image> " if official else "</Image>")
        if not sounds:
            told = frame_message(clip.times_s.tolist(), config.frame_text)
            return (Text("<Video>"), *pictures, Text(f"</Video> {told}")) if pictures else ()
        before, between, behind = config.sound_texts
        if not pictures:
            return Text(before), *sounds, Text(". ")
        return (
            *(Text(before), *sounds, Text(f"{between}<Video>")),
            *(*pictures, Text(f"</Video>{behind}" + ("" if official else " "))),
        )

    def row(
        self,
        conversation: Conversation,
        clip: Clip,
        template: Template | None = None,
        max_length: int | None = None,
    ) -> TokenRow:
        asked = template is not None and template is self.answer_template
        released = asked and self.config.official_prompt
        if released and clip.is_picture:
            template = self._released_chat(self.config.picture_system)
        turns = conversation.turns
        if not self.plain:
            turns = (self._with_marker(turns[0], clip, released), *turns[1:])
        pieces = lay_out(
            Conversation(turns),
            template or self.template,
            lambda kind: self.expand(kind, clip, keeps_blanks=released),
        )
        row = tokenise(pieces, self.tokenizer, max_length)
        counts = self.config.official_padding and not asked and not self.plain
        return self._counted(row, pieces, max_length) if counts else row

    def _with_marker(self, turn: Turn, clip: Clip, released: bool) -> Turn:
        """The first turn with its medium where the paper puts it: a video in front of everything, a
        picture where it stands."""
        text = turn.text
        if "<video>" not in text and "<image>" not in text:
            return turn
        words = text.replace("<video>", "").replace("<image>", "").strip("\n")
        marker = "<image>" if clip.is_picture else "<video>"
        if released:
            return Turn("user", f"{marker} {words.strip()}")
        if clip.is_picture:
            return Turn("user", text.replace("<video>", marker))
        return Turn("user", marker + words)

    def caption_row(
        self,
        caption: str,
        clip: Clip,
        medium: str = "video",
        prompted: bool = False,
        draw: int = 0,
        max_length: int | None = None,
    ) -> TokenRow:
        """The two caption forms; `max_length` counts the caption and what ends it, nothing else.

        Not prompted (stage 1): no words and no tags, only the places. Prompted (stage 2): one of
        `caption_requests` and the roles of a conversation; still only the caption is trained.
        """
        if self.plain:
            return super().caption_row(caption, clip, medium, prompted, draw, max_length)
        pieces = self.expand(medium, clip, keeps_blanks=True)
        marker = "<image>" if medium == "picture" else "<video>"
        template, request = PLAIN_CAPTION, marker
        if prompted:
            template, requests = self.layout.caption, self.config.caption_requests
            request = f"{marker} {requests[draw % len(requests)]}"
        else:
            pieces = [piece for piece in pieces if isinstance(piece, Places)]
        turns = (Turn("user", request), Turn("assistant", caption))
        pieces = lay_out(Conversation(turns), template, lambda kind: pieces)
        row = tokenise(pieces, self.tokenizer)
        if max_length is not None:
            row = row.part(0, len(row) - max(row.num_trained - max_length, 0))
        if self.config.official_padding:
            unknown = self.tokenizer.pad_id
            labels = [IGNORED if i == unknown else x for i, x in zip(row.ids, row.labels)]
            row = replace(row, labels=labels)
        return row

    def _counted(self, row: TokenRow, pieces: Sequence[Piece], max_length: int | None) -> TokenRow:
        """The row with labels by the official rule, its unknown tokens hidden like padding."""
        encode, pad = self.tokenizer.encode_prompt, self.tokenizer.pad_id
        prompt = prompt_text(pieces[1:])
        if self.layout.conversation is VICUNA:
            start, *turns = re.split(r"(?=###(?:Human|Assistant): )", prompt)
            turns[-1] = turns[-1].removesuffix("###")
            most = max_length or len(row)
            labels = vicuna_labels(row.ids, [start, *turns], encode, pad, most)
        else:
            labels = llama2_labels(row.ids, prompt, encode)
        hidden = [PADDING if i == pad else s for i, s in zip(row.ids, row.segments)]
        return TokenRow(row.ids, labels, row.kinds, hidden)

    def answer_text(self, ids: Sequence[int]) -> str:
        """The answer in what was generated, without what stands around it.

        Official: a leading unknown or begin token goes, the text ends at a stop, and what comes
        before a repeated role name goes too.
        """
        ids = list(ids)
        for unwanted in (self.tokenizer.pad_id, self.tokenizer.token_id(self.tokenizer.bos_token)):
            ids = ids[1:] if ids[:1] == [unwanted] else ids
        end = self.tokenizer.token_id(self.tokenizer.eos_token)
        text = self.tokenizer.decode(ids[: ids.index(end)] if end in ids else ids)
        for stop in self.stop_texts:
            text = text.split(stop)[0]
        return (text.split(self.layout.role)[-1] if self.layout.role else text).strip()
