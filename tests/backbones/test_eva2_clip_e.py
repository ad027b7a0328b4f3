"""The EVA2-CLIP-E tower: where its norms stand, its sizes, its pictures."""

from dataclasses import replace

import pytest
import torch

from vlmcourse.backbones.eva2_clip_e import Eva2ClipConfig, Eva2ClipEncoder
from vlmcourse.backbones.eva_clip import resize_positions
from vlmcourse.media.transforms import CLIP_MEAN, CLIP_STD

SMALL = Eva2ClipConfig(24, 6, 16, 24, 2, 4)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    encoder = Eva2ClipEncoder(SMALL)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0, 0.3)
    return encoder.eval()


def test_published_size():
    with torch.device("meta"):
        encoder = Eva2ClipEncoder()
    count = sum(p.numel() for p in encoder.parameters())
    assert sum(p.numel() for p in encoder.layers.parameters()) == 4_279_387_392
    # vision part of FACTS less adapter, convolution, boi and eoi
    assert count == 4_477_269_248 - 183_508_992 - 12_846_848 - 2 * 4096
    assert (encoder.hidden_size, encoder.num_patches, encoder.image_size) == (1792, 256, 224)


def test_norms_act_on_what_leaves_a_branch(encoder):
    layer, x = encoder.layers[0], 100 * torch.randn(2, 5, 16)
    with torch.no_grad():
        for norm in (layer.attention_norm, layer.mlp_norm):
            norm.weight.zero_()
            norm.bias.fill_(0.25)
    assert torch.equal(layer(x), x + 0.25 + 0.25)  # whatever the branches say
    assert not [n for n, _ in encoder.named_modules() if n in ("norm", "pre_norm", "ln_vision")]


def test_the_class_token_takes_part_and_is_dropped(encoder):
    pixels = torch.randn(3, 3, 24, 24)
    features = encoder(pixels)
    assert features.shape == (3, 16, 16)
    states = encoder.hidden_states(pixels)
    assert len(states) == 3
    assert torch.equal(features, states[-1][:, 1:])
    with torch.no_grad():
        encoder.class_token += 1
    assert not torch.allclose(encoder(pixels), features, atol=1e-3)


def test_a_batch_is_as_one_by_one(encoder):
    pixels = torch.randn(3, 3, 24, 24)
    alone = torch.cat([encoder(p[None]) for p in pixels])
    torch.testing.assert_close(encoder(pixels), alone)


def test_patches_stand_row_by_row(encoder):
    pixels = torch.zeros(1, 3, 24, 24)
    pixels[..., 6:12, 12:18] = 1  # second row, third column
    moved = (encoder.embed(pixels) - encoder.embed(torch.zeros_like(pixels))).abs().amax(-1)[0]
    assert moved.nonzero().flatten().tolist() == [1 + 4 + 2]


def test_another_size_passes_with_stretched_positions(encoder):
    pixels = torch.randn(1, 3, 36, 36)
    assert encoder(pixels).shape == (1, 36, 16)
    larger = Eva2ClipEncoder(replace(SMALL, image_size=36)).eval()
    assert larger.positions.shape == (1, 37, 16)
    weights = encoder.state_dict() | {"positions": resize_positions(encoder.positions, 37)}
    larger.load_state_dict(weights)
    torch.testing.assert_close(larger(pixels), encoder(pixels))
    grown = Eva2ClipEncoder(replace(SMALL, image_size=36, position_grid=4)).eval()
    grown.load_state_dict(encoder.state_dict())  # the table of the smaller pictures
    assert (grown.num_patches, grown.image_size) == (36, 36)
    assert torch.equal(grown(pixels), encoder(pixels))


@pytest.mark.parametrize("size", [(24, 30), (25, 25)])
def test_pictures_that_do_not_fit_are_refused(encoder, size):
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]}"):
        encoder(torch.zeros(1, 3, *size))


def test_frames_are_cropped_or_squashed(encoder):
    frames = torch.zeros(2, 30, 60, 3, dtype=torch.uint8)
    frames[:, :, :15], frames[:, :, 45:] = 255, 255  # bright sides outside the middle square
    colours = torch.tensor([[(v - m) / s for m, s in zip(CLIP_MEAN, CLIP_STD)] for v in (0, 1)])
    cut = encoder.preprocess(frames)
    assert cut.shape == (2, 3, 24, 24)
    middle = cut[:, :, :, 2:-2].permute(0, 2, 3, 1)
    torch.testing.assert_close(middle, colours[0].expand_as(middle))
    whole = Eva2ClipEncoder(replace(SMALL, fit="squash")).preprocess(frames)
    assert whole.shape == (2, 3, 24, 24)
    torch.testing.assert_close(whole[0, :, 12, 2], colours[1])
    torch.testing.assert_close(whole[0, :, 12, 12], colours[0])


def test_everything_may_train(encoder):
    encoder(torch.randn(1, 3, 24, 24)).square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
