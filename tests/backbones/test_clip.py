import numpy as np
import torch
from PIL import Image
from torch.testing import assert_close

from vlmcourse.backbones.clip import ClipConfig, ClipEncoder

TINY = ClipConfig(16, 32, 3, 4, image_size=8, patch_size=4)


def test_equals_hidden_states_of_transformers():
    torch.manual_seed(0)
    encoder = ClipEncoder(TINY).eval()
    pixels = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        theirs = encoder.model(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        assert_close(encoder(pixels), theirs)
    assert encoder.num_patches == 4
    assert encoder.hidden_size == 16


def test_the_last_layer_has_no_say():
    encoder = ClipEncoder(TINY).eval()
    pixels = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        before = encoder(pixels)
        encoder.model.encoder.layers[-1].mlp.fc1.weight.zero_()
        encoder.model.post_layernorm.weight.zero_()
        assert torch.equal(encoder(pixels), before)
        encoder.model.encoder.layers[-2].mlp.fc1.weight.zero_()
        assert not torch.equal(encoder(pixels), before)


def test_preprocessing_is_nearest_then_the_clip_processor():
    from transformers import CLIPImageProcessor

    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 9, 13, 3), dtype=np.uint8)
    encoder = ClipEncoder(TINY)
    small = torch.nn.functional.interpolate(
        torch.from_numpy(frames).permute(0, 3, 1, 2).float(), size=(8, 8)
    ).to(torch.uint8)
    processor = CLIPImageProcessor(
        size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}, do_center_crop=True
    )
    images = [Image.fromarray(s.permute(1, 2, 0).numpy()) for s in small]
    theirs = processor(images, return_tensors="pt")["pixel_values"]
    assert_close(encoder.preprocess(frames), theirs, atol=1e-5, rtol=0)
