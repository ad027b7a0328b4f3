"""The small ImageBind's face: the paper's sound encoder, and a head on frozen patches."""

import pytest
import torch

from vlmcourse.backbones.imagebind import ImageBindAudio, ImageBindAudioConfig
from vlmcourse.backbones.world_imagebind import (
    WorldImageBindConfig,
    WorldImageBindVisionConfig,
    build_world_imagebind,
)
from vlmcourse.backbones.world_vision import WorldVisionEncoder

SMALL = WorldImageBindConfig(
    ImageBindAudioConfig(
        patch_size=32, patch_stride=32, hidden_size=32, num_layers=1, num_heads=2, out_width=16
    ),
    WorldImageBindVisionConfig(out_width=16),
)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return WorldVisionEncoder()


def test_lengths_and_one_space(encoder):
    imagebind = build_world_imagebind(encoder, SMALL).eval()
    sounds = imagebind.embed_sound(torch.randn(2, 3, 1, 128, 204))
    pictures = imagebind.embed_pictures(torch.randn(4, 3, 64, 64))
    assert sounds.shape == (2, 3, 16)
    assert pictures.shape == (4, imagebind.out_width)
    torch.testing.assert_close(sounds.norm(dim=-1), torch.full((2, 3), 20.0))
    torch.testing.assert_close(pictures.norm(dim=-1), torch.ones(4))


def test_the_head_needs_the_width_of_the_encoder(encoder):
    with pytest.raises(ValueError, match="width 32"):
        build_world_imagebind(
            encoder, WorldImageBindConfig(vision=WorldImageBindVisionConfig(hidden_size=32))
        )


def test_both_sides_need_one_width(encoder):
    with pytest.raises(ValueError, match="one space needs one width"):
        build_world_imagebind(
            encoder, WorldImageBindConfig(SMALL.audio, WorldImageBindVisionConfig(out_width=8))
        )


def test_the_sound_side_is_the_papers_class(encoder):
    audio = build_world_imagebind(encoder).audio
    assert type(audio) is ImageBindAudio
    assert audio.grid == (8, 12)


def test_the_encoder_is_frozen_and_stays_in_eval_mode(encoder):
    """Its batch norms would otherwise drift while the head trains."""
    vision = build_world_imagebind(encoder, SMALL).train().vision
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    assert vision.head_norm.training
    assert not any(module.training for module in encoder.modules())
    vision(torch.randn(4, 3, 64, 64)).sum().backward()
    assert all(p.grad is None for p in encoder.parameters())
    assert all(p.grad is not None for n, p in vision.named_parameters() if "encoder" not in n)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_pictures_do_not_see_each_other(encoder):
    vision = build_world_imagebind(encoder, SMALL).vision.eval()
    pixels = torch.randn(3, 3, 64, 64)
    alone = torch.cat([vision(p[None]) for p in pixels])
    torch.testing.assert_close(vision(pixels), alone, atol=1e-5, rtol=1e-5)
