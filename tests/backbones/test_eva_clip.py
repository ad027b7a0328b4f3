"""EVA ViT-g against transformers' own, and its face as a picture encoder."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from blip2_twins import official_vision, scrambled, vision_model
from PIL import Image
from torch.testing import assert_close

from vlmcourse.backbones.eva_clip import EvaClipConfig, EvaClipEncoder, resize_positions
from vlmcourse.checkpoints.eva_clip import from_official
from vlmcourse.checkpoints.files import load_strict

TINY = EvaClipConfig(42, 14, 24, 3, 2, norm_eps=1e-6, vision_norm_eps=1e-6)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def close(ours, theirs):
    assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.fixture(params=[TINY, replace(TINY, image_size=16, patch_size=4, num_heads=3)])
def twins(request):
    config = request.param
    theirs = vision_model(config)
    ours = EvaClipEncoder(config).eval()
    load_strict(ours, from_official(official_vision(theirs), config), "twin")
    return ours, theirs


def pixels(config, count=2):
    shape = (count, 3, config.image_size, config.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_equals_blip2_of_transformers(twins):
    ours, theirs = twins
    x = pixels(ours.config)
    their = theirs(x, output_hidden_states=True)
    close(ours(x), their.last_hidden_state)
    close(ours(x, raw=True), their.hidden_states[-1])
    states = ours.hidden_states(x)
    assert len(states) == len(their.hidden_states) == ours.config.num_layers + 1
    for one, other in zip(states, their.hidden_states):
        close(one, other)
    close(ours.normalise(states[-1]), ours(x))


def test_a_picture_does_not_see_its_neighbours():
    encoder, x = scrambled(EvaClipEncoder(TINY)), pixels(TINY, 3)
    close(encoder(x)[1:2], encoder(x[1:2]))


def test_patches_stand_row_by_row():
    encoder, x = scrambled(EvaClipEncoder(TINY)), pixels(TINY, 1)
    changed = x.clone()
    changed[..., 14:28, 28:42] += 1  # second row, third column
    moved = (encoder.embed(changed) - encoder.embed(x)).abs().amax(-1)[0]
    assert moved.nonzero()[:, 0].tolist() == [1 + 3 + 2]


def test_the_face():
    encoder = EvaClipEncoder(TINY)
    assert (encoder.hidden_size, encoder.image_size) == (24, 42)
    assert (encoder.num_patches, encoder.num_tokens) == (9, 10)
    assert encoder(pixels(TINY)).shape == (2, 10, 24)
    with pytest.raises(ValueError, match=r"\(28, 42\) pixels for an encoder of 42 x 42"):
        encoder(torch.zeros(1, 3, 28, 42))


def test_the_norm_is_computed_in_float32():
    encoder = scrambled(EvaClipEncoder(TINY))
    x = pixels(TINY)
    half = encoder.to(torch.bfloat16)
    tokens = half(x.bfloat16(), raw=True)
    assert tokens.dtype == torch.bfloat16
    wide = half.ln_vision.float()(tokens.float()).bfloat16()
    assert torch.equal(half.normalise(tokens), wide)


@pytest.mark.parametrize("size", [(42, 42), (61, 80)])
def test_preprocessing(size):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, *size, 3), dtype=np.uint8)
    mine = EvaClipEncoder(TINY).preprocess(torch.from_numpy(frames))
    assert mine.shape == (3, 3, 42, 42)
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    for frame, own in zip(frames, mine):
        small = np.asarray(Image.fromarray(frame).resize((42, 42), Image.Resampling.BILINEAR))
        expected = (small / 255 - mean) / std
        # Pillow rounds after each of its two passes: a grey level of difference
        difference = (own.permute(1, 2, 0).double().numpy() - expected) * std * 255
        assert np.abs(difference).max() < (1.01 if size != (42, 42) else 1e-3)
        assert np.abs(difference).mean() < 0.3


def test_resized_positions():
    positions = torch.randn(1, 10, 4)
    assert resize_positions(positions, 10) is positions
    larger = resize_positions(positions, 17)
    assert larger.shape == (1, 17, 4)
    assert torch.equal(larger[:, 0], positions[:, 0])
    even = torch.cat([positions[:, :1], torch.ones(1, 9, 4) * 3], dim=1)
    close(resize_positions(even, 26)[:, 1:], torch.full((1, 25, 4), 3.0))
    columns = torch.arange(3.0).repeat(3)[None, :, None]  # rises from left to right
    grid = resize_positions(torch.cat([torch.zeros(1, 1, 1), columns], 1), 37)[0, 1:, 0]
    grid = grid.reshape(6, 6)
    close(grid, grid[:1].expand(6, -1))
    assert bool((grid[0].diff() > 0).all())
    with pytest.raises(ValueError, match="no square"):
        resize_positions(torch.zeros(1, 9, 4), 17)
    with pytest.raises(ValueError, match="no square"):
        resize_positions(positions, 12)


def test_published_size():
    with torch.device("meta"):
        encoder = EvaClipEncoder()
        out = encoder(torch.empty(2, 3, 224, 224))
    assert out.shape == (2, 257, 1408)
    count = {
        part: sum(p.numel() for n, p in encoder.named_parameters() if n.startswith(part))
        for part in ("", "ln_vision")
    }
    assert count[""] - count["ln_vision"] == 985_894_528
    assert encoder.config.intermediate_size == 6144
