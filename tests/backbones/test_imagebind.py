"""ImageBind's encoders: against a second writing of the same maths, and what must hold."""

import math

import pytest
import torch
from torch.testing import assert_close

from vlmcourse.backbones.imagebind import (
    ImageBind,
    ImageBindAudio,
    ImageBindAudioConfig,
    ImageBindConfig,
    ImageBindVision,
    ImageBindVisionConfig,
    drop_path,
)
from vlmcourse.checkpoints.imagebind import to_official

AUDIO = ImageBindAudioConfig(
    num_mels=28, num_steps=52, patch_size=8, patch_stride=5, hidden_size=24, num_layers=3,
    num_heads=4, mlp_ratio=3.0, out_width=10,
)  # fmt: skip
VISION = ImageBindVisionConfig(
    image_size=24, patch_size=8, hidden_size=32, num_layers=2, num_heads=2, out_width=10
)


@pytest.fixture
def model():
    """Both encoders, with weights large enough that everything matters."""
    torch.manual_seed(0)
    model = ImageBind(ImageBindConfig(AUDIO, VISION)).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.copy_(mean + 0.3 * torch.randn_like(parameter))
    return model


def norm(x, weights, name, eps=1e-6):
    centred = x - x.mean(-1, keepdim=True)
    spread = (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def by_hand(weights, kind, patches, heads, layers):
    """One input's patches `[P, D]` to its class token behind the head `[E]`, in plain maths."""
    start, trunk = f"modality_preprocessors.{kind}", f"modality_trunks.{kind}"
    x = torch.cat([weights[f"{start}.cls_token"][0], patches])
    x = x + weights[f"{start}.pos_embedding_helper.pos_embed"][0]
    if kind == "vision":
        x = norm(x, weights, f"{trunk}.pre_transformer_layer.0")
    for layer in range(layers):
        block = f"{trunk}.blocks.{layer}"
        y = norm(x, weights, f"{block}.norm_1")
        y = y @ weights[f"{block}.attn.in_proj_weight"].T + weights[f"{block}.attn.in_proj_bias"]
        q, k, v = y.chunk(3, dim=-1)
        if kind == "audio":  # one more key and value, the same for every sound
            k = torch.cat([k, weights[f"{block}.attn.bias_k"][0]])
            v = torch.cat([v, weights[f"{block}.attn.bias_v"][0]])
        q, k, v = (t.unflatten(-1, (heads, -1)).transpose(0, 1) for t in (q, k, v))
        attention = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1)
        y = (attention @ v).transpose(0, 1).flatten(1)
        x = x + y @ weights[f"{block}.attn.out_proj.weight"].T
        x = x + weights[f"{block}.attn.out_proj.bias"]
        y = norm(x, weights, f"{block}.norm_2")
        y = y @ weights[f"{block}.mlp.fc1.weight"].T + weights[f"{block}.mlp.fc1.bias"]
        y = y * 0.5 * (1 + torch.erf(y / math.sqrt(2)))
        x = x + y @ weights[f"{block}.mlp.fc2.weight"].T + weights[f"{block}.mlp.fc2.bias"]
    feature = norm(x[0], weights, f"modality_heads.{kind}.0")
    return weights[f"modality_heads.{kind}.2.weight"] @ feature


def test_sound_by_hand(model):
    weights = to_official(model.state_dict())
    mel = torch.randn(28, 52)
    stem = weights["modality_preprocessors.audio.rgbt_stem.proj.weight"].flatten(1)
    cuts = [
        mel[row : row + 8, column : column + 8]
        for row in range(0, 28 - 7, 5)
        for column in range(0, 52 - 7, 5)
    ]
    assert len(cuts) == model.audio.num_patches == 5 * 9
    patches = torch.stack([stem @ cut.flatten() for cut in cuts])
    patches = norm(patches, weights, "modality_preprocessors.audio.rgbt_stem.norm_layer", 1e-5)
    expected = by_hand(weights, "audio", patches, heads=4, layers=3)
    assert_close(model.audio.projected(mel[None, None])[0], expected, atol=1e-4, rtol=1e-4)
    assert_close(
        model.audio(mel[None, None])[0], 20 * expected / expected.norm(), atol=1e-4, rtol=1e-4
    )


def test_picture_by_hand(model):
    weights = to_official(model.state_dict())
    picture = torch.randn(3, 24, 24)
    stem = weights["modality_preprocessors.vision.rgbt_stem.proj.1.weight"]
    still = stem.sum(2).flatten(1)  # both frames are equal, so their weights add up
    cuts = [
        picture[:, y : y + 8, x : x + 8].flatten() for y in range(0, 24, 8) for x in range(0, 24, 8)
    ]
    patches = torch.stack([still @ cut for cut in cuts])
    expected = by_hand(weights, "vision", patches, heads=2, layers=2)
    assert_close(model.vision.projected(picture[None])[0], expected, atol=1e-4, rtol=1e-4)
    assert_close(model.vision(picture[None])[0], expected / expected.norm(), atol=1e-5, rtol=1e-4)


def test_published_sizes():
    with torch.device("meta"):
        model = ImageBind()

    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert round(count(model.audio.blocks) / 1e6, 1) == 85.1
    vision_trunk = count(model.vision.blocks) + count(model.vision.pre_norm)
    assert round(vision_trunk / 1e6, 1) == 629.7
    assert model.audio.grid == (12, 19)
    assert (model.audio.num_patches, model.audio.hidden_size) == (228, 768)
    assert (model.vision.num_patches, model.vision.hidden_size) == (256, 1280)
    assert model.out_width == model.audio.out_width == model.vision.out_width == 1024


def test_sound_is_twenty_times_longer_than_pictures(model):
    sound = model.embed_sound(torch.randn(5, 1, 28, 52))
    pictures = model.embed_pictures(torch.randn(5, 3, 24, 24))
    assert_close(sound.norm(dim=-1), torch.full((5,), 20.0))
    assert_close(pictures.norm(dim=-1), torch.ones(5))
    model.audio.log_logit_scale.fill_(math.log(1000.0))
    assert_close(model.embed_sound(torch.randn(1, 1, 28, 52)).norm(), torch.tensor(100.0))


def test_a_batch_is_one_by_one(model):
    mels, pixels = torch.randn(4, 1, 28, 52), torch.randn(4, 3, 24, 24)
    singly = torch.cat([model.audio(mel[None]) for mel in mels])
    assert_close(model.audio(mels), singly, atol=1e-5, rtol=1e-5)
    singly = torch.cat([model.vision(picture[None]) for picture in pixels])
    assert_close(model.vision(pixels), singly, atol=1e-6, rtol=1e-5)


def test_clips_and_frames_keep_their_axes(model):
    mels = torch.randn(2, 3, 1, 28, 52)
    sound = model.embed_sound(mels)
    assert sound.shape == (2, 3, 10)
    assert_close(sound[1, 2], model.audio(mels[1, 2][None])[0], atol=1e-5, rtol=1e-5)
    assert model.embed_sound(mels[0, 0]).shape == (10,)
    assert model.embed_pictures(torch.randn(2, 3, 3, 24, 24)).shape == (2, 3, 10)
    assert model.embed_sound(mels[:0]).shape == (0, 3, 10)


def test_class_token_comes_first_and_patches_in_rows(model):
    audio = model.audio
    tokens = audio.tokens_in(torch.randn(2, 1, 28, 52))
    assert tokens.shape == (2, 1 + 45, 24)
    assert_close(tokens[0, 0], audio.class_token[0, 0] + audio.positions[0, 0])
    assert torch.equal(tokens[0, 0], tokens[1, 0])
    mel = torch.zeros(1, 1, 28, 52)
    touched = mel.clone()
    touched[0, 0, 5 * 1 + 2, 5 * 3 + 2] = 1  # only in windows of rows 0..1 and columns 2..3
    moved = (audio.tokens_in(touched) != audio.tokens_in(mel)).any(-1)[0, 1:].view(5, 9)
    assert {tuple(place) for place in moved.nonzero().tolist()} == {(0, 2), (0, 3), (1, 2), (1, 3)}


def test_every_level_leads_to_the_next(model):
    for encoder, inputs in (
        (model.audio, torch.randn(2, 1, 28, 52)),
        (model.vision, torch.randn(2, 3, 24, 24)),
    ):
        states = encoder.hidden_states(inputs)
        assert len(states) == 1 + len(encoder.blocks)
        assert_close(states[0], encoder.pre_norm(encoder.tokens_in(inputs)))
        assert_close(states[-1], encoder.trunk(inputs))
        assert_close(encoder.head_norm(states[-1][:, 0]), encoder.feature(inputs))
        direction = torch.nn.functional.normalize(encoder.projected(inputs), dim=-1)
        scale = encoder(inputs).norm(dim=-1, keepdim=True)
        assert_close(direction * scale, encoder(inputs), atol=1e-5, rtol=1e-5)


def test_sound_attention_reads_one_key_more(model):
    """Where all tokens say nothing, a bias key with a value still moves them."""
    block = model.audio.blocks[0]
    tokens = torch.randn(1, 4, 24)
    before = block(tokens)
    block.attention.bias_v.add_(1.0)
    assert not torch.allclose(before, block(tokens))
    assert model.vision.blocks[0].attention.bias_k is None


def test_drop_path_leaves_whole_inputs_out():
    torch.manual_seed(0)
    update = torch.ones(4000, 2, 3)
    kept = drop_path(update, 0.25, training=True)
    assert ((kept == 0).all((1, 2)) | (kept == 1 / 0.75).all((1, 2))).all()
    assert kept.mean() == pytest.approx(1, abs=0.03)
    assert drop_path(update, 0.25, training=False) is update
    assert drop_path(update, 0.0, training=True) is update


def test_only_sound_drops_blocks_and_only_in_training(model):
    rates = [block.drop for block in model.audio.blocks]
    assert rates == pytest.approx([0, 0.05, 0.1])
    assert [block.drop for block in model.vision.blocks] == [0, 0]
    mel, pixels = torch.randn(64, 1, 28, 52), torch.randn(2, 3, 24, 24)
    assert_close(model.audio(mel), model.audio(mel), atol=0, rtol=0)
    still = model.vision(pixels)
    model.train()
    assert not torch.equal(model.audio(mel), model.audio(mel))
    assert_close(model.vision(pixels), still, atol=1e-6, rtol=1e-5)


def test_frames_become_pixels():
    vision = ImageBindVision(VISION)
    frames = torch.full((2, 40, 60, 3), 255, dtype=torch.uint8)
    pixels = vision.preprocess(frames)
    assert pixels.shape == (2, 3, 24, 24)
    assert pixels.dtype == torch.float32
    white = [(1 - m) / s for m, s in ((0.48145466, 0.26862954), (0.40821073, 0.27577711))]
    assert_close(pixels[0, [0, 2], 0, 0], torch.tensor(white))
    assert vision(pixels).shape == (2, 10)


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"mel clips \[N, \(1, 28, 52\)\], got \(2, 1, 28, 50\)"):
        ImageBindAudio(AUDIO)(torch.zeros(2, 1, 28, 50))
    with pytest.raises(ValueError, match=r"pictures \[N, \(3, 24, 24\)\], got \(3, 24, 24\)"):
        ImageBindVision(VISION)(torch.zeros(3, 24, 24))
    with pytest.raises(ValueError, match="smaller than a patch"):
        ImageBindAudio(ImageBindAudioConfig(num_steps=9))
    with pytest.raises(ValueError, match="one space needs one width"):
        ImageBind(ImageBindConfig(AUDIO, ImageBindVisionConfig(out_width=11)))
