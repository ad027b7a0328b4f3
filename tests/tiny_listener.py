"""A tiny system that looks and listens, and made-up features for it, for tests of what asks one."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from vlmcourse.backbones.language_model import LlamaSizes, build_llama, grow_vocabulary
from vlmcourse.backbones.tokenizers import FastTokenizer
from vlmcourse.conversation import PICTURE, SOUND, Places
from vlmcourse.evaluation.asked import OPPOSITE, Probes
from vlmcourse.evaluation.rows import video_rows
from vlmcourse.foundations.tokenizer import build_tokenizer
from vlmcourse.systems.base import VideoLanguageModel
from vlmcourse.systems.batch import collate, stack_media
from vlmcourse.systems.processor import Clip, Given, Processor
from vlmcourse.systems.templates import WORLD_TEMPLATE
from vlmcourse.world.language import balanced_questions
from vlmcourse.world.story import StorySettings, sample_story

FRAMES, STRETCHES, WIDTH = 4, 3, 8
BOTH = Given("pictures", "sounds")


class ListeningProcessor(Processor):
    """The sound first, one place a stretch; then one place a frame."""

    given = BOTH

    def __init__(self, tokenizer):
        super().__init__(tokenizer, WORLD_TEMPLATE)
        tokenizer.add_tokens(["<here>"])

    def expand(self, kind, clip):
        frames = Places(PICTURE, clip.num_frames, "<here>")
        heard = clip.num_frames if clip.given.sounds == "sound_pictures" else STRETCHES
        silent = clip.given.sounds == "sounds" and clip.sound_times_s is None
        places = [] if clip.given.sounds is None or silent else [Places(SOUND, heard, "<here>")]
        return [*places, frames] if clip.given.pictures else places


class Listener(VideoLanguageModel):
    """One linear layer a branch."""

    def __init__(self, language_model, processor):
        super().__init__(language_model, None, processor)
        width = language_model.get_input_embeddings().weight.shape[1]
        self.looks, self.listens = nn.Linear(WIDTH, width), nn.Linear(WIDTH, width)

    def connect(self, features, frame_mask, times_s):
        return self.looks(features.mean(2)), frame_mask

    def connect_sound(self, features, frame_mask, times_s):
        return self.listens(features.mean(2)), frame_mask


def build_listener() -> Listener:
    torch.manual_seed(0)
    tokenizer = FastTokenizer(build_tokenizer())
    llama = build_llama(LlamaSizes(len(tokenizer), 32, 64, 2, 2))
    grow_vocabulary(llama, random_rows=1, mean_rows=0)
    for parameter in llama.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.2)
    return Listener(llama, ListeningProcessor(tokenizer)).eval()


def made_up_probes(count: int = 6, given: Given = BOTH) -> Probes:
    """Stories with their questions and random features; the last file has no sound track."""
    stories = [sample_story(seed, StorySettings(sounds=(1, 2))) for seed in range(count)]
    random = torch.Generator().manual_seed(1)
    clips, streams = [], []
    for number in range(count):
        silent = number == count - 1
        heard = None if silent else torch.arange(STRETCHES) * 2.0
        clips.append(Clip(torch.arange(FRAMES) * 2.0, sound_times_s=heard, given=given))
        shapes = {"pictures": (FRAMES, 5), "sounds": (STRETCHES, 1), "sound_pictures": (FRAMES, 1)}
        made = {n: torch.randn(*s, WIDTH, generator=random) for n, s in shapes.items()}
        streams.append({n: one for n, one in made.items() if not (silent and n == "sounds")})
    asked = balanced_questions(stories, seed=0)
    return Probes([str(n) for n in range(count)], stories, asked, clips, streams)


def learn_falsely(model: Listener, probes: Probes, steps: int = 60) -> None:
    """Train on all questions but those of the last two clips, every second yes/no turned round."""
    turned = iter(np.arange(1000) % 2)
    asked = [
        [
            replace(q, answer=OPPOSITE[q.answer]) if q.answer in OPPOSITE and next(turned) else q
            for q in questions
        ]
        for questions in probes.asked
    ]
    lies, count = replace(probes, asked=asked), len(asked) - 2
    rows = video_rows(model, lies, lies.clips)[:count]
    pictures, sounds = zip(*(model.media(s, c) for s, c in zip(lies.streams, lies.clips)))
    pad = model.processor.tokenizer.pad_id
    batch = collate(rows, pad, stack_media(pictures[:count]), stack_media(sounds[:count]))
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        model(batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
