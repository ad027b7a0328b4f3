"""Pretraining of the image Q-Former: its texts, its losses, its recipe, its gates."""

import numpy as np
import pytest
import torch

from vlmcourse.backbones.world_qformer import (
    BEGIN,
    END,
    MOST_WORDS,
    TEXT_WORDS,
    ImageTextQFormer,
    text_ids,
)
from vlmcourse.foundations.image_qformer import (
    CHANGED,
    Frames,
    ImageQFormerFoundation,
    caption_words,
    changed_clause,
    clause_words,
    draw_frames,
    frame_clauses,
    make_batch,
)
from vlmcourse.foundations.image_qformer_gates import (
    TokenReader,
    changed_stories,
    generated,
    matched,
    next_words,
    retrieved,
    split_clauses,
)
from vlmcourse.parts.qformer import QFormerConfig
from vlmcourse.world.story import Event, Mark, Story, StorySettings, Thing, sample_story

SMALL = QFormerConfig(
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    intermediate_size=48,
    encoder_width=24,
    num_queries=6,
    dropout=0.0,
    vocab_size=len(TEXT_WORDS),
    max_positions=MOST_WORDS,
)
STORY = Story(
    0,
    8,
    (Thing("red", "circle", "big", 2, 0), Thing("blue", "star", "small", 0, 2)),
    (Event(1, 2, 0, "glows"), Event(5, 1, 1, "slides", "left")),
    mark=Mark(7, 1, 1),
)
SAID = "[DEC] top right small blue star still , centre middle number 7 , bottom left big red circle"


@pytest.fixture(scope="module")
def frames():
    """Real words; the features are noise that has nothing to do with them."""
    stories = [sample_story(seed) for seed in range(30)]
    torch.manual_seed(0)
    return Frames(torch.randn(30, 9, 24).half(), [frame_clauses(s, 1.5) for s in stories])


def foundation(**settings) -> ImageQFormerFoundation:
    torch.manual_seed(0)
    return ImageQFormerFoundation(SMALL, contrast_width=16, **settings)


def test_a_frame_is_said_in_reading_order_of_its_places():
    assert " ".join(caption_words(frame_clauses(STORY, 1.5))) == f"{SAID} glows {END}"
    assert " ".join(caption_words(frame_clauses(STORY, 4.5))) == f"{SAID} still {END}"


def test_the_longest_caption_has_room():
    crowded = StorySettings(things=(5, 5), mark_probability=1.0)
    for seed in range(5):
        words = caption_words(frame_clauses(sample_story(seed, crowded), 0.0))
        assert text_ids([words]).shape[1] <= MOST_WORDS


def test_a_changed_clause_differs_in_the_named_word():
    rng = np.random.default_rng(0)
    slots = set()
    for clause in frame_clauses(STORY, 1.5) * 40:
        changed, slot = changed_clause(clause, rng)
        assert [name for name in clause if clause[name] != changed[name]] == [slot]
        slots.add(slot)
    assert slots == {*CHANGED, "digit"}


def test_a_batch_is_drawn_from_its_seed_and_knows_what_is_true(frames):
    one, two = make_batch(frames, 3, size=8), make_batch(frames, 3, size=8)
    assert torch.equal(one.texts, two.texts)
    assert torch.equal(one.features, two.features)
    assert one.texts.shape == (8 * 4, 7)
    own = torch.arange(8)
    assert bool(one.holds[own, own].all())
    assert not bool(one.holds[own.repeat_interleave(3), torch.arange(8, 32)].any())
    for row, caption in zip(one.holds, one.captions, strict=True):
        said = " ".join(TEXT_WORDS[i] for i in caption)
        for true, text in zip(row, one.texts, strict=True):
            words = " ".join(TEXT_WORDS[i] for i in text[1:] if i)
            assert bool(true) == (f" {words} " in said)


def test_a_second_true_text_is_no_negative(frames):
    """Every frame twice: the double of the own text is left out, the false ones count twice."""
    module = foundation().eval()
    batch = make_batch(frames, 5, size=6, negatives=1)
    twice = make_batch(frames, 5, size=6, negatives=1)
    twice.features = batch.features.repeat(2, 1, 1)
    twice.captions = batch.captions.repeat(2, 1)
    true = batch.texts[:6]
    twice.texts = true.repeat(2, 1)
    twice.holds = torch.cat([batch.holds[:, :6]] * 2, 1).repeat(2, 1)
    batch.texts, batch.holds = true, batch.holds[:, :6]
    once_loss, twice_loss = (module.losses(b, 0)["contrast"].item() for b in (batch, twice))
    assert once_loss < twice_loss < once_loss + np.log(2)


def test_matching_pairs_are_true_hard_text_hard_frame(frames, monkeypatch):
    module = foundation(matched=10)
    batch, seen = make_batch(frames, 1, size=12), {}

    def match(self, features, texts):
        seen.update(features=features, texts=texts)
        return torch.zeros(len(texts), 2)

    monkeypatch.setattr(ImageTextQFormer, "match", match)
    module.losses(batch, seed=0)
    frame_of = (seen["features"][:, None] == batch.features).all(-1).all(-1).float().argmax(1)
    text_of = (seen["texts"][:, None] == batch.texts).all(-1).float().argmax(1)
    belongs = batch.holds[frame_of, text_of].tolist()
    assert belongs == [True] * 10 + [False] * 20


def test_learns_one_batch_by_heart(frames):
    module = foundation(initial_std=0.2)
    batch = make_batch(frames, 1, size=6, negatives=2)
    optimiser = torch.optim.AdamW(module.parameters(), lr=5e-3)
    first = None
    for step in range(70):
        losses = module.losses(batch, step)
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
        first = first or {name: loss.item() for name, loss in losses.items()}
    for name, loss in losses.items():
        assert loss.item() < 0.4 * first[name], name


def test_draws_real_frames_from_a_seed():
    from vlmcourse.backbones.foundations import load_vision_encoder

    encoder = load_vision_encoder()
    one, two = draw_frames(encoder, 4, 9), draw_frames(encoder, 4, 9)
    assert one.features.shape == (4, encoder.num_patches, encoder.hidden_size)
    assert torch.equal(one.features, two.features)
    assert one.clauses == two.clauses


def test_killed_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    from vlmcourse.foundations.training import train_foundation

    tiny = (
        "--data.init_args.frames=24",
        "--data.init_args.batch_size=4",
        "--model.init_args.matched=2",
        "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.max_steps=4",
    )

    def train(folder):
        return train_foundation("image_qformer", folder, tiny, save_every=2)

    whole, whole_losses = train(tmp_path / "whole")
    step = ImageQFormerFoundation.training_step

    def killed_in_the_fourth_step(self, batch, index):
        if self.trainer.global_step == 3:
            raise KeyError("killed")
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(ImageQFormerFoundation, "training_step", killed_in_the_fourth_step)
        with pytest.raises(KeyError):
            train(tmp_path / "killed")
    resumed, losses = train(tmp_path / "killed")
    assert losses[-2:] == whole_losses[-2:]
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


# ---------------------------------------------------------------- gates


class Oracle:
    """Knows the truth of every frame; `lie` changes the words that it says."""

    def __init__(self, frames, lie=lambda word: word):
        self.frames, self.lie = frames, lie

    def next_words(self, rows, ids):
        truth = text_ids([caption_words(c) for c in self.frames.clauses[rows]])[:, 1:]
        said = text_ids([[self.lie(TEXT_WORDS[i]) for i in row] for row in truth])
        return torch.nn.functional.one_hot(said, len(TEXT_WORDS)).float()

    def generate(self, features):
        return [
            [self.lie(word) for word in caption_words(clauses)[1:-1]]
            for clauses in self.frames.clauses
        ]


def test_gates_of_generation_blame_the_wrong_word(frames):
    right = Oracle(frames)
    assert all(all(hits) for hits in next_words(frames, right.next_words).values())
    assert all(all(hits) for hits in generated(right, frames, chunk=100).values())
    no_moon = Oracle(frames, lambda word: "star" if word == "moon" else word)
    hits = next_words(frames, no_moon.next_words, "tokens")
    moons = sum(c.get("shape") == "moon" for clauses in frames.clauses for c in clauses)
    assert moons > 0
    assert hits["tokens/shape"].count(False) == hits["tokens/clause"].count(False) == moons
    assert all(all(hits[f"tokens/{s}"]) for s in ("place", "size", "colour", "state", "digit"))
    assert generated(no_moon, frames, chunk=100)["clause"].count(False) == moons


def test_split_clauses():
    words = ["top", "left", "moon", ",", ",", "top", "right", "number", "3"]
    assert split_clauses(words) == [tuple(words[:3]), tuple(words[5:])]
    assert split_clauses([]) == []


class Judge:
    """Calls everything true that does not name a star; likes long texts and late frames."""

    class qformer:
        def __init__(self, features):
            self.tokens = features

    def match(self, features, texts):
        star = (texts == TEXT_WORDS.index("star")).any(1).float()
        return torch.stack([star, 1 - star], 1)

    def similarity(self, tokens, texts):
        return torch.arange(len(tokens)).float()[:, None].repeat(1, len(texts))


def test_gates_of_matching_and_retrieval_count_what_the_model_says(frames):
    hits = matched(Judge(), frames, np.random.default_rng(0))
    assert not any(hits["match/colour"])  # equal scores are no victory
    assert any(hits["match/shape"])
    assert len(hits["match"]) == 2 * len(hits["match/pairs"])
    found = retrieved(Judge(), frames, np.random.default_rng(0), among=10)
    assert found["text_to_frame"].count(True) == 3  # the last of each ten


def test_changed_stories_differ_in_one_word_of_one_thing():
    rng = np.random.default_rng(0)
    stories = changed_stories(STORY, 1.5, 0, rng)
    assert len(stories) == 4
    true = frame_clauses(STORY, 1.5)
    for slot, story in zip(("colour", "shape", "size", "state"), stories, strict=True):
        [(was, now)] = [
            p for p in zip(true, frame_clauses(story, 1.5), strict=True) if p[0] != p[1]
        ]
        assert [name for name in was if was[name] != now[name]] == [slot]
        assert clause_words(was)[3:5] == ["red", "circle"]
    assert len(changed_stories(STORY, 1.5, 1, rng)) == 3  # the other thing is still


def test_the_reader_sees_tokens_and_earlier_words_only():
    torch.manual_seed(0)
    reader = TokenReader(width=16, heads=2, layers=1).eval()
    ids = text_ids([[BEGIN, "top", "left", "small"]])
    tokens = torch.randn(1, 4, 16)
    other = ids.clone()
    other[:, 3] += 1
    a, b = reader(tokens, ids), reader(tokens, other)
    torch.testing.assert_close(a[:, :3], b[:, :3], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(a, reader(tokens + 1, ids), atol=1e-3)
