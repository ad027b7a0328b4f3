"""The one abstraction: a video language model is frames, a connector and a language model.

The base owns what is the same in all of them: splicing, loss, generation. A system gives what its
paper invented: its encoder, its connector, its layout (in its processor), its surgery, its stages.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlmcourse.conversation import PICTURE, SOUND, Turn
from vlmcourse.parts.packing import additive_mask, packed_mask, packed_positions
from vlmcourse.systems.batch import Batch, Media, collate, joined_streams, one_medium, stack_media
from vlmcourse.systems.generation import (
    continue_prompts,
    fitting_prompts,
    room_for,
    shared_prefix,
)
from vlmcourse.systems.processor import Clip, Given, Processor
from vlmcourse.systems.results import Loss, Watched, loss_of
from vlmcourse.systems.splice import SpliceError, splice
from vlmcourse.systems.stages import Stage


class VideoLanguageModel(nn.Module):
    """Base of every system.

    A subclass defines `connect` and `stages`, and where its paper asks for it `encode_frames`,
    `encode_sound`, `connect_sound`, `embed_text` or `language_inputs`.

    Args:
        language_model: a transformers causal LM.
        vision_encoder: frozen; `forward(pixels [N, 3, h, w]) -> [N, P, D]`, with `preprocess`. None
            for a model that is only ever given features.
        processor: files and conversations to rows; None for a model that is only given batches.
    """

    def __init__(
        self,
        language_model: nn.Module,
        vision_encoder: nn.Module | None,
        processor: Processor | None,
    ):
        super().__init__()
        self.language_model = language_model
        self.vision_encoder = vision_encoder
        self.processor = processor
        self.answer_settings: dict[str, Any] = {}
        """Settings of `generate` that the paper's inference uses; what a caller says wins."""

    # What a system gives

    def connect(
        self, features: Tensor, frame_mask: Tensor, times_s: Tensor, **extras: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Features `[V, T, P, D]` to language-model tokens `[V, N, E]` and their mask `[V, N]`."""
        raise TypeError(f"{type(self).__name__} has no connector")

    def connect_sound(
        self, features: Tensor, frame_mask: Tensor, times_s: Tensor, **extras: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same for sound."""
        raise TypeError(f"{type(self).__name__} does not listen")

    def encode_sound(self, inputs: Tensor) -> Tensor:
        """Sound as the frozen encoder takes it, `[N, ...]`, to features `[N, P, D]`."""
        raise TypeError(f"{type(self).__name__} does not listen")

    def tell_trained(self, names: Collection[str]) -> None:
        """Called after weights were loaded, with the names of the parameters that were trained. A
        system whose parts train apart leaves unused what did not."""

    @staticmethod
    def stages(preset: str) -> Sequence[Stage]:
        """The paper's training stages in order, with the settings of a preset."""
        raise TypeError("a system has stages")

    def language_inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Attention mask and positions for the language model.

        A system with its own positions or with experts overrides this; the keys are keyword
        arguments of the language model's forward.
        """
        if batch.segments is not None:
            visible = packed_mask(batch.segments)
            if self.language_model.config._attn_implementation != "sdpa":
                visible = additive_mask(visible, self._dtype)
            return {
                "attention_mask": visible,
                "position_ids": packed_positions(batch.segments),
            }
        positions = (batch.attention.long().cumsum(1) - 1).clamp(min=0)
        return {"attention_mask": batch.attention.long(), "position_ids": positions}

    def embed_text(self, ids: Tensor) -> Tensor:
        """Embeddings `[B, L, E]` of ids `[B, L]`; those at places of media are replaced later."""
        return self.language_model.get_input_embeddings()(ids)

    video_depends_on_question = False
    """Whether the connector reads the question; then each has a row and a medium of its own."""

    def question_media(
        self, watched: Watched, questions: Sequence[str]
    ) -> tuple[Media | None, Media | None]:
        """Pictures and sounds for one prompt a question about the same video."""
        both = (watched.pictures, watched.sounds)
        return tuple(None if media is None else media.repeat(len(questions)) for media in both)

    # What all systems share

    def train(self, mode: bool = True) -> "VideoLanguageModel":
        """As `nn.Module.train`, but parts without a trainable parameter stay in eval mode."""
        super().train(mode)
        for part in self.children():
            if not any(p.requires_grad for p in part.parameters()):
                part.eval()
        return self

    @property
    def device(self) -> torch.device:
        return self.language_model.get_input_embeddings().weight.device

    def frozen_encoders(self) -> dict[str, nn.Module | None]:
        """The encoders that `streams` comes from, by name; a feature cache lives and dies with
        their weights."""
        return {"vision_encoder": self.vision_encoder}

    def encode_frames(self, pixels: Tensor, chunk: int = 32) -> Tensor:
        """Features of frames, `chunk` at a time; on the graph only if the encoder trains.

        Args:
            pixels: `[N, 3, h, w]`, preprocessed.

        Returns:
            `[N, P, D]`.
        """
        trains = any(p.requires_grad for p in self.vision_encoder.parameters())
        first = next(self.vision_encoder.parameters())
        pixels = pixels.to(first.device, first.dtype)
        with nullcontext() if trains else torch.no_grad():
            return torch.cat([self.vision_encoder(part) for part in pixels.split(chunk)])

    def embed(self, batch: Batch) -> Tensor:
        """Embeddings `[B, L, E]` with connector tokens in the places of media."""
        embeddings = self.embed_text(batch.ids)
        for kind, media, encode, connect in (
            (PICTURE, batch.pictures, self.encode_frames, self.connect),
            (SOUND, batch.sounds, self.encode_sound, self.connect_sound),
        ):
            places = batch.kinds == kind
            if media is None:
                if bool(places.any()):
                    raise SpliceError("a row has places for media, but the batch brings none")
                continue
            tokens, mask = connect(
                self._features(media, encode), media.frame_mask, media.times_s, **media.extras
            )
            embeddings = splice(embeddings, places, tokens, mask, media.rows)
        return embeddings

    def _features(self, media: Media, encode: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Features of media: cached ones, else encoded now; None where an extra serves."""
        if media.features is not None:
            return media.features.to(self._dtype)
        if media.inputs is None:
            return None
        encoded = encode(media.inputs[media.frame_mask]).to(self._dtype)  # [sum of T, P, D]
        features = encoded.new_zeros(*media.frame_mask.shape, *encoded.shape[1:])
        features[media.frame_mask] = encoded
        return features

    @property
    def _dtype(self) -> torch.dtype:
        return self.language_model.get_input_embeddings().weight.dtype

    def hidden_states(self, batch: Batch) -> Tensor:
        """Last hidden states `[B, L, E]` (after the final norm)."""
        decoder = self.language_model.get_decoder()
        inputs = self.language_inputs(batch)
        return decoder(inputs_embeds=self.embed(batch), use_cache=False, **inputs).last_hidden_state

    def logits(self, batch: Batch) -> Tensor:
        """Logits `[B, L, vocabulary]` of every position; large, so training does not use it."""
        return self.language_model.get_output_embeddings()(self.hidden_states(batch))

    def forward(self, batch: Batch) -> Loss:
        """Cross entropy of the trained tokens, a mean over all of them (not a mean of row means).

        Only positions that predict a trained token go through the output layer.

        Differs: the official codes give NaN for a batch in which nothing is trained, this one 0.
        """
        head = self.language_model.get_output_embeddings()
        return loss_of(self.hidden_states(batch), head, batch)

    # Answering

    def stream_inputs(self, clip: Clip) -> dict[str, Tensor]:
        """What the encoders take of a clip, by name of the stream.

        Returns:
            "pictures" `[T, 3, h, w]`; a system that listens adds its streams. A stream that the
            clip lacks is left out.
        """
        if clip.frames is None:
            return {}
        return {"pictures": self.vision_encoder.preprocess(clip.frames)}

    def all_inputs(self, clip: Clip) -> dict[str, Tensor]:
        """The same of a clip and of all others of its conversation, one behind another."""
        return joined_streams([self.stream_inputs(one) for one in clip.all])

    def encode_stream(self, name: str, inputs: Tensor, clip: Clip) -> Tensor:
        """Features of one stream of a clip, from what its encoder takes."""
        return self.encode_frames(inputs) if name == "pictures" else self.encode_sound(inputs)

    @torch.no_grad()
    def streams(self, clip: Clip, only: Collection[str | None] = ()) -> dict[str, Tensor]:
        """Frozen features of everything a clip holds, by name of the stream; those of `clip.others`
        follow its own.

        Args:
            only: names of the streams that are wanted; all without any.

        Returns:
            "pictures" `[T, P, D]`; a system that listens adds its streams, `[M, P, D]`.
        """
        found = [
            {
                name: self.encode_stream(name, inputs, one)
                for name, inputs in self.stream_inputs(one).items()
                if not only or name in only
            }
            for one in clip.all
        ]
        return joined_streams(found)

    def stream_times_s(self, name: str, clip: Clip) -> Tensor:
        """Seconds `[T]` of a stream's entries: the sound's for "sounds", else the frames'."""
        return clip.sound_times_s if name == "sounds" else clip.times_s

    def stream_extras(self, name: str, clip: Clip) -> dict[str, Tensor]:
        """What else `connect` needs of a stream (`Media.extras`), `[1, ...]` each."""
        return {}

    def media(
        self, streams: Mapping[str, Tensor], clip: Clip, encoded: bool = True
    ) -> tuple[Media | None, Media | None]:
        """Pictures and sounds as `clip.given` says; a stream that the clip lacks gives None.

        Args:
            streams: features by name; or what the encoders take (`stream_inputs`).
            encoded: which of the two they are.
        """
        names = (clip.given.pictures, clip.given.sounds)
        return tuple(
            self._medium(name, streams[name], clip, encoded) if name in streams else None
            for name in names
        )

    def _medium(self, name: str, values: Tensor, clip: Clip, encoded: bool) -> Media:
        times = [self.stream_times_s(name, one) for one in clip.all]
        parts = values.split([len(one) for one in times]) if clip.others else [values]
        found = [
            one_medium(part, when, encoded, self.stream_extras(name, one))
            for part, when, one in zip(parts, times, clip.all, strict=True)
        ]
        return stack_media(found, [0] * len(found)) if clip.others else found[0]

    @torch.no_grad()
    def watch(
        self,
        path: str | Path | Sequence[str | Path],
        given: Given | None = None,
        cues: Sequence[Any] | None = None,
    ) -> Watched:
        """Read a video or picture file, or several of one conversation, and compute the features
        once.

        Args:
            given: what of it the model is given; None means what its processor says.
            cues: subtitles instead of those it finds (`Processor.reads_subtitles`).

        Raises:
            MediaError: a bad file.
            UserError: several files for a system that takes one.
        """
        paths = [path] if isinstance(path, (str, Path)) else list(path)
        told = {} if cues is None else {"cues": tuple(cues)}
        clip = self.processor.read_several(paths, **told)
        if given is not None:
            clip = clip.given_as(given)
        wanted = (clip.given.pictures, clip.given.sounds)
        return self.remember(self.streams(clip, wanted), clip)

    def remember(self, features: Tensor | Mapping[str, Tensor], clip: Clip) -> Watched:
        """A watched video from features that were computed before.

        Args:
            features: streams by name; or those of the pictures alone, `[T, P, D]`.
        """
        streams = {"pictures": features} if isinstance(features, Tensor) else features
        pictures, sounds = self.media(streams, clip)
        return Watched(
            clip,
            None if pictures is None else pictures.to(self.device),
            None if sounds is None else sounds.to(self.device),
        )

    @torch.no_grad()
    def answer(
        self,
        watched: Watched,
        questions: Sequence[str],
        history: Sequence[Turn] = (),
        share_prefix: bool = True,
        **settings: Any,
    ) -> list[str]:
        """Answer questions about one video, each on its own, as one batch.

        Args:
            watched: from `watch` or `remember`; its features are used again for every call.
            questions: plain text.
            history: earlier turns of the conversation, the same for all questions.
            share_prefix: if all prompts begin with the video, let the language model read it once.
            settings: as in `generate`.

        Returns:
            One text a question, in order.
        """
        pad = self.processor.tokenizer.pad_id
        rows = [self.processor.question_row(q, watched.clip, history) for q in questions]
        same_video = share_prefix and not self.video_depends_on_question and len(rows) > 1
        room = room_for({**self.answer_settings, **settings})
        fits = room is None or max(len(row) for row in rows) <= room
        shared = shared_prefix(rows) if same_video and fits else 0
        if shared == 0:
            pictures, sounds = self.question_media(watched, questions)
            batch = collate(rows, pad, pictures, sounds, side="left")
            return self.generate(batch.to(self.device), **settings)
        prefix = collate([rows[0].part(0, shared)], pad, watched.pictures, watched.sounds)
        prefix = prefix.to(self.device)
        embeddings = self.embed(prefix)  # [1, S, E]
        read = self.language_model.get_decoder()(
            inputs_embeds=embeddings, use_cache=True, **self.language_inputs(prefix)
        )
        cache = read.past_key_values
        behind = collate([row.part(shared, len(row)) for row in rows], pad, side="left")
        behind = behind.to(self.device)
        embeddings = torch.cat(
            [embeddings.expand(len(rows), -1, -1), self.embed_text(behind.ids)], dim=1
        )
        whole = Batch(
            *(
                torch.cat([getattr(prefix, name).expand(len(rows), -1), getattr(behind, name)], 1)
                for name in ("ids", "attention", "kinds")
            ),
            pictures=watched.pictures and watched.pictures.layout.repeat(len(rows)),
        )
        return self._generate(embeddings, self.language_inputs(whole), cache, **settings)

    @torch.no_grad()
    def generate(self, batch: Batch, **settings: Any) -> list[str]:
        """Continue every row of a batch.

        Args:
            batch: padded at the left.
            settings: `max_new_tokens=64`, `temperature=0.0` (0 takes the likeliest token),
                `top_p=1.0`, `num_beams=1`, `repetition_penalty=1.0`, `length_penalty=1.0`,
                `num_return_sequences=1`; `context=None`: prompt and answer together are at most
                this long, and a longer prompt loses its beginning; and `streamer`: a function that
                gets text as it grows (one row only). Else `answer_settings` count.

        Raises:
            ValueError: rows that do not end together, packed ones, or a stream of several.
        """
        if batch.segments is not None or not bool(batch.attention[:, -1].all()):
            raise ValueError('generation needs unpacked rows, padded with side="left"')
        return self._generate(self.embed(batch), self.language_inputs(batch), **settings)

    def _generate(
        self,
        embeddings: Tensor,
        inputs: dict[str, Tensor],
        cache: Any = None,
        streamer: Callable[[str], None] | None = None,
        **settings: Any,
    ) -> list[str]:
        """Generate behind prompt embeddings `[B, L, E]`; the cache may hold their beginning."""
        settings = {**self.answer_settings, **settings}
        prompts = fitting_prompts(embeddings, inputs, room_for(settings))
        return continue_prompts(
            self.language_model, self.processor, prompts, settings, cache, streamer
        )
