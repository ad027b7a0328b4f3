"""What the image Q-Former's tokens carry, measured on scenes with held-out combinations."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from vlmcourse.backbones.world_qformer import (
    COMMA,
    CONTRAST,
    MOST_WORDS,
    TEXT_WORDS,
    ImageTextQFormer,
    text_ids,
)
from vlmcourse.foundations.image_qformer import (
    TEXT_LENGTH,
    Clause,
    Frames,
    caption_words,
    changed_clause,
    clause_words,
    draw_frames,
    encode_moments,
    frame_clauses,
)
from vlmcourse.foundations.two_optimisers import rate_factor
from vlmcourse.foundations.vision import sample_moment
from vlmcourse.world.story import COLOURS, FRAME_ACTIONS, SHAPES, SIZES, Story

Answers = dict[str, list[bool]]


def image_qformer_gates(
    model: ImageTextQFormer, encoder, frames: int = 600, seed: int = 810_000_000
) -> Answers:
    """Measure everything; `{name: [right, ...]}`.

    - `clause`, `caption`: shares of things and of frames that greedy generation tells exactly;
    - `word/SLOT`: the likeliest next word after the true words before it;
    - `tokens/SLOT`, `tokens/clause`: the same, read by a small decoder that was trained on the
      frozen tokens alone (generation itself may look into every layer);
    - `match/SLOT`: the true clause fits better than the same with one word changed;
      `match`: single pairs, half of them true, called rightly;
    - `text_to_frame`, `frame_to_text`: found among 32;
    - `changed_frame`: found among frames that differ in one word.
    """
    held_out = draw_frames(encoder, frames, seed, "require")
    model.eval()
    rng = np.random.default_rng(seed)
    return {
        **generated(model, held_out),
        **next_words(held_out, lambda rows, ids: _caption_logits(model, held_out, rows, ids)),
        **read_tokens(model, encoder, held_out, seed + frames),
        **matched(model, held_out, rng),
        **retrieved(model, held_out, rng),
        "changed_frame": changed_frames(model, encoder, frames // 4, seed + 10 * frames),
    }


def _caption_logits(model, frames: Frames, rows: slice, ids: Tensor) -> Tensor:
    return model.caption_logits(frames.features[rows].float(), ids)[0]


# ---------------------------------------------------------------- generation


def split_clauses(words: Sequence[str]) -> list[tuple[str, ...]]:
    """Cut generated words at the commas."""
    clauses: list[list[str]] = [[]]
    for word in words:
        if word == COMMA:
            clauses.append([])
        else:
            clauses[-1].append(word)
    return [tuple(clause) for clause in clauses if clause]


def generated(model: ImageTextQFormer, frames: Frames, chunk: int = 100) -> Answers:
    """Caption frames greedily: which things are told exactly, which frames wholly."""
    result = {"clause": [], "caption": []}
    for first in range(0, len(frames.clauses), chunk):
        said = model.generate(frames.features[first : first + chunk].float())
        for words, clauses in zip(said, frames.clauses[first : first + chunk], strict=True):
            true = [tuple(clause_words(clause)) for clause in clauses]
            told = split_clauses(words)
            result["clause"] += [clause in told for clause in true]
            result["caption"].append(told == true)
    return result


def next_words(frames: Frames, logits, prefix: str = "word", chunk: int = 100) -> Answers:
    """Ask for every word after the true words before it.

    Args:
        logits: `(rows slice, ids [B, L]) -> [B, L, V]`.
    """
    result = defaultdict(list)
    for first in range(0, len(frames.clauses), chunk):
        rows = slice(first, first + chunk)
        ids = text_ids([caption_words(clauses) for clauses in frames.clauses[rows]])
        with torch.no_grad():
            guesses = logits(rows, ids[:, :-1]).argmax(-1)
        right = (guesses == ids[:, 1:]).tolist()
        for row, clauses in zip(right, frames.clauses[rows], strict=True):
            at = 0
            for clause in clauses:
                length = len(clause_words(clause))
                for slot, hit in _by_slot(clause, row[at : at + length]).items():
                    result[f"{prefix}/{slot}"].append(hit)
                at += length + 1
    return dict(result)


def _by_slot(clause: Clause, right: list[bool]) -> dict[str, bool]:
    slots = ("digit",) if "digit" in clause else ("size", "colour", "shape", "state")
    words = right[-len(slots) :]
    return {"place": all(right[:2]), **dict(zip(slots, words, strict=True)), "clause": all(right)}


# ---------------------------------------------------------------- the tokens alone


class TokenReader(nn.Module):
    """A small causal decoder that captions frames from 16 frozen tokens and nothing else."""

    def __init__(self, width: int = 96, heads: int = 4, layers: int = 2):
        super().__init__()
        self.words = nn.Embedding(len(TEXT_WORDS), width)
        self.positions = nn.Embedding(MOST_WORDS, width)
        layer = nn.TransformerDecoderLayer(
            width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, layers)
        self.head = nn.Linear(width, len(TEXT_WORDS))
        for table in (self.words, self.positions):
            nn.init.normal_(table.weight, std=0.5)

    def forward(self, tokens: Tensor, ids: Tensor) -> Tensor:
        """`tokens [B, Nq, D]`, `ids [B, L]` -> logits of the next word `[B, L, V]`."""
        x = self.words(ids) + self.positions.weight[: ids.shape[1]]
        later = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        return self.head(self.decoder(x, tokens, tgt_mask=later))


def read_tokens(
    model: ImageTextQFormer,
    encoder,
    held_out: Frames,
    seed: int,
    frames: int = 4000,
    steps: int = 400,
    batch: int = 64,
) -> Answers:
    """Train a `TokenReader` on scenes like the training ones, then ask it about held-out ones."""
    store = draw_frames(encoder, frames, seed)
    known, asked = output_tokens(model, store.features), output_tokens(model, held_out.features)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reader = TokenReader(known.shape[-1])
    matrices = [p for p in reader.decoder.parameters() if p.ndim == 2]
    others = [p for p in reader.parameters() if not any(p is m for m in matrices)]
    optimisers = {torch.optim.Muon(matrices): 0.01, torch.optim.AdamW(others): 2e-3}
    for step in range(steps):
        chosen = np.random.default_rng(seed + step).integers(frames, size=batch)
        ids = text_ids([caption_words(store.clauses[i]) for i in chosen])
        logits = reader(known[torch.from_numpy(chosen)], ids[:, :-1])
        said = ids[:, 1:] != 0
        loss = nn.functional.cross_entropy(logits[said], ids[:, 1:][said])
        for optimiser, rate in optimisers.items():
            optimiser.zero_grad()
            optimiser.param_groups[0]["lr"] = rate * rate_factor(step, steps, 30, 0.5)
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
    return next_words(held_out, lambda rows, ids: reader(asked[rows], ids), "tokens")


def output_tokens(model: ImageTextQFormer, features: Tensor, chunk: int = 200) -> Tensor:
    """What the frozen Q-Former hands on: `[F, P, De]` -> `[F, Nq, D]`."""
    with torch.no_grad():
        return torch.cat([model.qformer(part.float()).tokens for part in features.split(chunk)])


# ---------------------------------------------------------------- matching


def _texts(clauses: Sequence[Clause]) -> Tensor:
    return text_ids([[CONTRAST, *clause_words(clause)] for clause in clauses], TEXT_LENGTH)


def matched(model: ImageTextQFormer, frames: Frames, rng) -> Answers:
    """Set every clause of a frame against itself with one word changed."""
    result = defaultdict(list)
    for features, clauses in zip(frames.features, frames.clauses, strict=True):
        false = [changed_clause(clause, rng) for clause in clauses]
        texts = _texts([*clauses, *(clause for clause, _ in false)])
        with torch.no_grad():
            logits = model.match(features.float().expand(len(texts), -1, -1), texts)
        belongs = logits[:, 1] - logits[:, 0]
        for score, other, (_, slot) in zip(*belongs.split(len(clauses)), false, strict=True):
            result["match/pairs"].append(bool(score > other))
            result[f"match/{slot}"].append(bool(score > other))
            result["match"] += [bool(score > 0), bool(other <= 0)]
    return dict(result)


# ---------------------------------------------------------------- retrieval


def retrieved(model: ImageTextQFormer, frames: Frames, rng, among: int = 32) -> Answers:
    """Find a clause's frame, and a frame's clause, among this many.

    A frame that shows the asked clause as well, and a clause that is true as well, are left out.
    """
    result = {"text_to_frame": [], "frame_to_text": []}
    tokens = output_tokens(model, frames.features)
    for first in range(0, len(tokens) - among + 1, among):
        shown = frames.clauses[first : first + among]
        asked = [clauses[rng.integers(len(clauses))] for clauses in shown]
        with torch.no_grad():
            scores = model.similarity(tokens[first : first + among], _texts(asked))
        too = torch.tensor([[clause in clauses for clause in asked] for clauses in shown])
        scores = scores.masked_fill(too & ~torch.eye(among, dtype=torch.bool), -2.0)
        own = torch.arange(among)
        result["frame_to_text"] += (scores.argmax(1) == own).tolist()
        result["text_to_frame"] += (scores.argmax(0) == own).tolist()
    return result


def changed_frames(model: ImageTextQFormer, encoder, count: int, seed: int) -> list[bool]:
    """Render a moment and others that differ from it in one word of one thing; which one is meant?

    The others are up to four: another colour, shape, size and (during an event) another state.
    """
    result = []
    for index in range(count):
        rng = np.random.default_rng(seed + index)
        story, time_s = sample_moment(rng, "require")
        now = story.event_at(int(time_s))
        thing = now.thing if now else int(rng.integers(len(story.things)))
        stories = [story, *changed_stories(story, time_s, thing, rng)]
        features = encode_moments(encoder, [(one, time_s) for one in stories])
        clauses = frame_clauses(story, time_s)
        others = [frame_clauses(one, time_s) for one in stories[1:]]
        asked = next(c for c in clauses if all(c not in other for other in others))
        with torch.no_grad():
            tokens = output_tokens(model, features)
            scores = model.similarity(tokens, _texts([asked]))[:, 0]
        result.append(int(scores.argmax()) == 0)
    return result


def changed_stories(story: Story, time_s: float, thing: int, rng) -> list[Story]:
    """Change one word of one thing at a time."""

    def other(words: Sequence[str], word: str) -> str:
        left = [w for w in words if w != word]
        return left[rng.integers(len(left))]

    def with_thing(**words: str) -> Story:
        things = list(story.things)
        things[thing] = replace(things[thing], **words)
        return replace(story, things=tuple(things))

    was = story.things[thing]
    changed = [
        with_thing(colour=other(COLOURS, was.colour)),
        with_thing(shape=other(SHAPES, was.shape)),
        with_thing(size=other(SIZES, was.size)),
    ]
    now = story.event_at(int(time_s))
    if now is not None and now.thing == thing and now.action in FRAME_ACTIONS:
        acted = replace(now, action=other(FRAME_ACTIONS, now.action))
        events = tuple(acted if event is now else event for event in story.events)
        changed.append(replace(story, events=events))
    return changed
