"""Qwen2-VL's vision tower: order of patches, segments, rotary by rows and columns, transformers."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from vlmcourse.backbones import qwen2_vit
from vlmcourse.backbones.qwen2_vit import (
    PatchMerger,
    Qwen2Vit,
    Qwen2VitConfig,
    axial_angles,
    patch_places,
    patchify,
    rotate,
    runs_of,
)
from vlmcourse.checkpoints.qwen2_vl import from_official

SMALL = Qwen2VitConfig(depth=2, width=24, heads=3, mlp_ratio=2, patch_size=4)
GRIDS = [[1, 4, 4], [3, 4, 2], [1, 2, 2], [2, 6, 4], [1, 2, 4]]
OUT = 20


def media(grids=GRIDS, config=SMALL, seed=0):
    """Patches `[N, C * 2 * p * p]` and grids `[V, 3]`."""
    grids = torch.tensor(grids)
    generator = torch.Generator().manual_seed(seed)
    count = int(grids.prod(1).sum())
    return torch.randn(count, config.patch_dim, generator=generator), grids


@pytest.fixture
def tower():
    torch.manual_seed(0)
    tower = Qwen2Vit(SMALL)
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    return tower.eval()


def masked_tower(tower: Qwen2Vit, patches, grids):
    """The same as one attention over all patches with a block mask, nothing sorted."""
    config, areas = tower.config, grids[:, 1] * grids[:, 2]
    segment = torch.repeat_interleave(areas.repeat_interleave(grids[:, 0]))
    visible = segment[:, None] == segment
    places = patch_places(grids, config.merge)
    angles = axial_angles(places, config.width // config.heads)[:, None]
    x = tower.patch_embedding(patches)
    for block in tower.blocks:
        qkv = block.attention.qkv(block.attention_norm(x)).unflatten(1, (3, config.heads, -1))
        q, k, v = qkv.unbind(1)
        q, k = (rotate(part, angles.cos(), angles.sin()) for part in (q, k))
        parts = (part.transpose(0, 1)[None] for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(*parts, attn_mask=visible)
        x = x + block.attention.dense(mixed[0].transpose(0, 1).flatten(1))
        inner = block.up(block.mlp_norm(x))
        x = x + block.down(inner * torch.sigmoid(1.702 * inner))
    return x


# ---------------------------------------------------------------- patches


def test_patches_by_hand():
    frames = torch.arange(2 * 3 * 8 * 16.0).reshape(2, 3, 8, 16)
    patches, grid = patchify(frames, patch=2, temporal=2, merge=2)
    assert grid.tolist() == [1, 4, 8]
    assert patches.shape == (32, 24)
    seen = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)]  # two blocks
    for number, (row, column) in enumerate(seen):
        cut = frames[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(patches[number], cut.transpose(0, 1).flatten())
    assert patch_places(grid[None], 2)[:8].tolist() == [list(place) for place in seen]


def test_missing_frames_are_the_last_one():
    frames = torch.randn(3, 3, 8, 8)
    patches, grid = patchify(frames, patch=4)
    assert grid.tolist() == [2, 2, 2]
    longer, _ = patchify(torch.cat([frames, frames[-1:]]), patch=4)
    assert torch.equal(patches, longer)
    picture, grid = patchify(frames[:1], patch=4)
    assert grid.tolist() == [1, 2, 2]
    assert torch.equal(picture, patchify(frames[[0, 0]], patch=4)[0])


@pytest.mark.parametrize("shape", [(1, 3, 8, 12), (1, 3, 12, 8), (0, 3, 8, 8), (2, 3, 0, 8)])
def test_sizes_that_cannot_be_cut_are_refused(shape):
    with pytest.raises(ValueError, match="wanted steps of 8"):
        patchify(torch.zeros(shape), patch=4)


def test_places_follow_merge_blocks_in_every_medium():
    places = patch_places(torch.tensor(GRIDS), 2)
    assert len(places) == sum(t * h * w for t, h, w in GRIDS)
    start = 0
    for t, h, w in GRIDS:
        own = places[start : start + t * h * w].reshape(t, h // 2, w // 2, 2, 2, 2)
        rows = torch.arange(h).reshape(h // 2, 1, 2, 1).expand(h // 2, w // 2, 2, 2)
        columns = torch.arange(w).reshape(1, w // 2, 1, 2).expand(h // 2, w // 2, 2, 2)
        for moment in own:
            assert torch.equal(moment, torch.stack([rows, columns], -1))
        start += t * h * w


# ---------------------------------------------------------------- the tower


@torch.no_grad()
def test_as_one_attention_with_a_block_mask(tower):
    patches, grids = media()
    assert_close(tower(patches, grids), masked_tower(tower, patches, grids), atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_the_block_mask(tower):
    patches, grids = media()
    weights = torch.randn(len(patches), SMALL.width)
    found = []
    for forward in (tower, lambda *inputs: masked_tower(tower, *inputs)):
        tower.zero_grad()
        (forward(patches, grids) * weights).sum().backward()
        found.append([p.grad.clone() for p in tower.parameters()])
    for ours, plain in zip(*found):
        assert_close(ours, plain, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_media_in_one_sequence_are_as_one_by_one(tower):
    patches, grids = media()
    sizes = grids.prod(1).tolist()
    alone = [tower(p, g[None]) for p, g in zip(patches.split(sizes), grids)]
    assert_close(tower(patches, grids), torch.cat(alone), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_pairs_of_frames_do_not_see_each_other(tower):
    patches, grids = media([[3, 4, 4]])
    before = tower(patches, grids).unflatten(0, (3, 16))
    patches[16:32] += 1
    after = tower(patches, grids).unflatten(0, (3, 16))
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert ((after[1] - before[1]).abs().amax(1) > 1e-3).all()


@torch.no_grad()
def test_places_are_told_by_differences_alone(tower, monkeypatch):
    patches, grids = media([[1, 4, 6]])
    before = tower(patches, grids)
    plain = patch_places
    monkeypatch.setattr(qwen2_vit, "patch_places", lambda *a: plain(*a) + torch.tensor([5, 9]))
    assert_close(tower(patches, grids), before, atol=1e-4, rtol=1e-4)
    monkeypatch.setattr(qwen2_vit, "patch_places", lambda *a: plain(*a).flip(1))
    assert (tower(patches, grids) - before).abs().max() > 1e-2


def test_patches_are_sorted_only_where_lengths_differ():
    runs = runs_of(torch.tensor(GRIDS))
    assert runs.cuts == ((1, 4), (4, 8), (1, 16), (2, 24))
    assert runs.bounds.tolist() == [0, 4, 12, 20, 28, 36, 52, 76, 100]
    assert sorted(runs.order.tolist()) == list(range(100))
    equal = runs_of(torch.tensor([[4, 2, 6], [1, 6, 2], [2, 2, 6]]))
    assert (equal.cuts, equal.order) == (((7, 12),), None)
    assert runs_of(torch.tensor([[1, 2, 2], [1, 4, 4]])).order is None  # in order already


@torch.no_grad()
def test_states_of_all_blocks_stand_in_the_order_of_the_patches(tower):
    patches, grids = media()
    states = tower.hidden_states(patches, grids)
    assert len(states) == 3
    assert_close(states[0], tower.patch_embedding(patches))
    assert torch.equal(states[-1], tower(patches, grids))


def test_grids_that_do_not_fit_are_refused(tower):
    patches, grids = media([[1, 4, 4]])
    with pytest.raises(ValueError, match="15 patches"):
        tower(patches[:15], grids)
    with pytest.raises(ValueError, match="blocks of 2 x 2"):
        tower(patches[:12], torch.tensor([[1, 4, 3]]))
    with pytest.raises(ValueError, match="pairs"):
        Qwen2VitConfig(width=24, heads=4)


def test_published_sizes():
    with torch.device("meta"):
        tower = Qwen2Vit()
        mergers = {out: PatchMerger(1280, 2, out) for out in (1536, 3584)}
    count = sum(p.numel() for p in tower.parameters())
    assert count == 631_183_360
    assert not list(tower.buffers())
    for out, wanted in ((1536, 34_087_936), (3584, 44_575_744)):
        assert sum(p.numel() for p in mergers[out].parameters()) == wanted
    assert count + 34_087_936 == 665_271_296


# ---------------------------------------------------------------- transformers


@pytest.fixture(scope="module")
def twins():
    """transformers' tower with its merger, and ours with its weights."""
    torch.manual_seed(0)
    theirs = Qwen2VisionTransformerPretrainedModel._from_config(
        Qwen2VLVisionConfig(
            depth=SMALL.depth,
            embed_dim=SMALL.width,
            num_heads=SMALL.heads,
            mlp_ratio=SMALL.mlp_ratio,
            patch_size=SMALL.patch_size,
            hidden_size=OUT,
        ),
        attn_implementation="sdpa",
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, 0, 0.2)
    ours = from_official({f"visual.{name}": t for name, t in theirs.state_dict().items()})
    both = torch.nn.ModuleDict(
        {"vision_encoder": Qwen2Vit(SMALL), "merger": PatchMerger(SMALL.width, 2, OUT)}
    )
    both.load_state_dict(ours)
    return theirs, both.eval()


@torch.no_grad()
@pytest.mark.parametrize(
    "grids", [GRIDS, [[1, 8, 6]], [[4, 4, 4], [4, 4, 4]], [[1, 2, 12], [1, 12, 2]]], ids=str
)
def test_as_transformers(twins, grids):
    theirs, ours = twins
    patches, grids = media(grids)
    wanted = theirs(patches, grids)
    features = ours["vision_encoder"](patches, grids)
    assert_close(features, wanted.last_hidden_state, atol=1e-4, rtol=0)
    tokens = ours["merger"](features.unflatten(0, (-1, 4)))
    assert_close(tokens, wanted.pooler_output, atol=1e-4, rtol=0)


@torch.no_grad()
def test_half_precision_turns_in_float32_as_transformers(twins):
    theirs, ours = (model.to(torch.bfloat16) for model in twins)
    try:
        patches, grids = media([[1, 16, 16]])
        wanted = theirs(patches.bfloat16(), grids).last_hidden_state
        found = ours["vision_encoder"](patches, grids)
        assert found.dtype == torch.bfloat16
        assert_close(found, wanted, atol=0.1, rtol=0.05)
    finally:
        theirs.float(), ours.float()


@pytest.mark.gpu
@torch.no_grad()
def test_attention_of_variable_length_is_as_batched_calls(tower):
    config = Qwen2VitConfig(depth=2, width=96, heads=3, patch_size=4)
    torch.manual_seed(0)
    tower = Qwen2Vit(config).cuda().eval()
    patches, grids = media(config=config)
    wanted = tower(patches.cuda(), grids.cuda())
    found = tower.bfloat16()(patches.cuda(), grids.cuda())
    assert_close(found.float(), wanted, atol=0.1, rtol=0.05)
