"""The small vision encoder: its face, its labels, its loss."""

import numpy as np
import pytest
import torch

from vlmcourse.backbones.world_vision import WorldVisionConfig, WorldVisionEncoder
from vlmcourse.foundations.vision import (
    NEGATIVES,
    STILL,
    WORDS,
    VisionFoundation,
    frame_labels,
    make_clause_batch,
)
from vlmcourse.world.story import Event, Mark, Story, Thing


def test_the_face_of_every_picture_encoder():
    encoder = WorldVisionEncoder().eval()
    frames = torch.zeros(3, 64, 64, 3, dtype=torch.uint8)
    pixels = encoder.preprocess(frames)
    assert pixels.shape == (3, 3, 64, 64)
    assert pixels.min() == -1.0
    assert encoder(pixels).shape == (3, encoder.num_patches, encoder.hidden_size)


def test_other_sizes():
    encoder = WorldVisionEncoder().eval()
    assert encoder.preprocess(torch.zeros(2, 90, 160, 3, dtype=torch.uint8)).shape[-2:] == (64, 64)
    assert encoder(torch.zeros(1, 3, 32, 96)).shape[1] == 4 * 12


def test_frames_do_not_see_each_other():
    torch.manual_seed(0)
    encoder = WorldVisionEncoder().eval()
    pixels = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        together = encoder(pixels)
        alone = torch.cat([encoder(p[None]) for p in pixels])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_labels_of_a_story_written_by_hand():
    story = Story(
        0,
        8,
        (Thing("red", "circle", "big", 0, 0), Thing("blue", "star", "small", 1, 1)),
        (Event(1, 2, 0, "glows"), Event(5, 1, 1, "slides", "right")),
        mark=Mark(7, 2, 2),
    )
    glowing = frame_labels(story, 1.5)
    assert [label.words.get("state") for label in glowing] == ["glows", STILL, None]
    assert glowing[2].words["digit"] == "7"
    sliding = frame_labels(story, 5.5)[1]
    assert sliding.words["state"] == "slides"
    assert sliding.words["column"] == "middle"
    assert sliding.x == pytest.approx(2 / 3)  # half-way between the second and the third column


def test_negatives_change_exactly_one_word():
    batch = make_clause_batch(0, frames=8)
    true, false = batch.clauses[:, :1], batch.clauses[:, 1:]
    assert false.shape[1] == NEGATIVES
    assert bool(((true != false).sum(-1) == 1).all())
    changed = {WORDS[int(i)].split("=")[0] for i in false[true != false]}
    assert {"colour", "shape", "state", "digit"} <= changed


def test_a_batch_is_made_from_its_seed_alone():
    one, two = make_clause_batch(3, 4), make_clause_batch(3, 4)
    assert torch.equal(one.frames, two.frames)
    assert torch.equal(one.clauses, two.clauses)


def test_learns_one_batch_by_heart():
    torch.manual_seed(0)
    module = VisionFoundation(WorldVisionConfig(hidden_size=32))
    module.log_dict = lambda *_, **__: None
    batch = make_clause_batch(1, frames=6)
    optimiser = torch.optim.AdamW(module.parameters(), lr=5e-3)
    losses = []
    for step in range(60):
        loss = module.training_step(batch, step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.25 * losses[0]
    assert np.isfinite(losses).all()
