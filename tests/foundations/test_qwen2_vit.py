"""The small Qwen2 vision tower: its media, its opening, its losses, its file, its gates."""

import numpy as np
import pytest
import torch

from vlmcourse.backbones.foundations import QWEN2_VIT, load_qwen2_vit, load_vision_encoder
from vlmcourse.backbones.qwen2_vit import Qwen2VitConfig, axial_angles, patch_places, rotate
from vlmcourse.errors import UserError
from vlmcourse.foundations.qwen2_vit import (
    FRAME_GAP_S,
    HOME,
    LOOKS,
    MediaWorld,
    Qwen2VitFoundation,
    build_qwen2_vit,
    imitation_loss,
    look_at_neighbours,
    make_media_batch,
    pack_media,
    sample_medium,
    taught_features,
)
from vlmcourse.foundations.qwen2_vit_gates import merged_tokens, qwen2_vit_gates
from vlmcourse.foundations.training import export_qwen2_vit
from vlmcourse.foundations.vision import STILL, sample_moment
from vlmcourse.world.story import SLIDE

SMALL = Qwen2VitConfig(depth=2, width=32, heads=4, patch_size=8, rope_theta=100.0)


@pytest.fixture(scope="module")
def teacher():
    return load_vision_encoder()


# ---------------------------------------------------------------- media


def test_a_picture_is_one_frame_twice_and_a_film_shows_one_second():
    moved = []
    for seed in range(40):
        (still, _), (film, labels) = (
            sample_medium(np.random.default_rng(seed), (48, 32), film) for film in (False, True)
        )
        assert still.shape == film.shape == (2, 32, 48, 3)
        assert np.array_equal(still[0], still[1])
        slides = [label for label in labels if label.words.get("state") == SLIDE]
        assert slides or np.array_equal(film[0], film[1])
        moved += [not np.array_equal(film[0], film[1]) for _ in slides]
    assert len(moved) > 2
    assert np.mean(moved) > 0.9  # a slow slide can round to the same pixels


def test_labels_of_a_film_are_of_its_middle():
    for seed in range(20):
        story, time_s = sample_moment(np.random.default_rng(seed))
        _, labels = sample_medium(np.random.default_rng(seed), film=True)
        now = story.event_at(int(time_s))
        sliding = [label for label in labels if label.words.get("state") == SLIDE]
        assert bool(sliding) == (now is not None and now.action == SLIDE)
        if sliding:
            inside = time_s - int(time_s)
            middle_s = int(time_s) + inside * (1 - FRAME_GAP_S) + FRAME_GAP_S / 2
            row, column = story.place_at(now.thing, middle_s)
            assert sliding[0].x == pytest.approx((column + 0.5) / 3)
            assert sliding[0].y == pytest.approx((row + 0.5) / 3)


def test_a_batch_follows_from_seed_and_step_alone():
    one, two = (MediaWorld(media=6).batch(7) for _ in range(2))
    assert all(map(torch.equal, one.frames, two.frames))
    assert torch.equal(one.clauses, two.clauses)
    assert torch.equal(one.features, two.features)
    other = MediaWorld(media=6).batch(8)
    assert not torch.equal(one.frames[0], other.frames[0])
    assert not torch.equal(one.frames[0], MediaWorld(seed=2, media=6).batch(7).frames[0])


def test_half_of_a_batch_has_the_size_of_films_and_the_rest_has_others():
    batch = make_media_batch(5, media=16, other_sizes=4)
    sizes = [tuple(frames.shape[1:3]) for frames in batch.frames]
    assert sizes[:8] == [HOME] * 8
    assert len(set(sizes[8:])) > 1
    assert all(side % 16 == 0 for size in sizes for side in size)
    assert batch.features is None
    assert sorted(set(batch.owner.tolist())) == list(range(16))


def test_media_are_packed_as_the_system_packs_them():
    frames = [
        torch.randint(0, 256, (2, h, w, 3), dtype=torch.uint8) for h, w in ((32, 48), (16, 16))
    ]
    patches, grids = pack_media(frames, SMALL)
    assert grids.tolist() == [[1, 4, 6], [1, 2, 2]]
    assert patches.shape == (28, SMALL.patch_dim)
    first_of_second = frames[1][:, :8, :8].permute(3, 0, 1, 2).float() / 255  # [3, 2, 8, 8]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1, 1)
    torch.testing.assert_close(patches[24], ((first_of_second - mean) / std).flatten())


# ---------------------------------------------------------------- the opening


@pytest.mark.parametrize("head", range(4))
@pytest.mark.parametrize("block", range(3))
def test_heads_open_with_a_look_at_a_neighbour(block, head):
    """Without content, the patch in the middle attends most one step away, as written."""
    vit = build_qwen2_vit(QWEN2_VIT)
    grid = torch.tensor([[1, 8, 8]])
    attention, (_, heads) = vit.blocks[block].attention, (QWEN2_VIT.width, QWEN2_VIT.heads)
    head_dim = QWEN2_VIT.width // heads
    torch.nn.init.zeros_(attention.qkv.bias)
    look_at_neighbours(attention, QWEN2_VIT, LOOKS[block], strength=4.0)
    query, key, value = attention.qkv.bias.view(3, heads, head_dim)
    assert not value.any()
    places = patch_places(grid, 2)
    angles = axial_angles(places, head_dim, QWEN2_VIT.rope_theta)
    turned = [rotate(x[head].expand(64, -1), angles.cos(), angles.sin()) for x in (query, key)]
    here = places.tolist().index([4, 4])
    looks = ((turned[0][here] @ turned[1].T) / head_dim**0.5).softmax(-1)
    rows, columns = LOOKS[block][head]
    assert places[looks.argmax()].tolist() == [4 + rows, 4 + columns]
    assert looks.max() > 0.5


def test_no_strength_leaves_the_biases_alone():
    torch.manual_seed(0)
    plain = build_qwen2_vit(SMALL, strength=0.0)
    torch.manual_seed(0)
    looking = build_qwen2_vit(SMALL, strength=4.0)
    for name, value in looking.state_dict().items():
        same = torch.equal(value, plain.state_dict()[name])
        assert same != name.endswith("qkv.bias"), name


# ---------------------------------------------------------------- losses


def test_the_teachers_features_stand_in_the_towers_order(teacher):
    """Patch n of the tower and of the features shows the same pixels."""
    frames = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    features = taught_features(teacher, frames)
    with torch.no_grad():
        rows = teacher(teacher.preprocess(frames)).view(2, 8, 8, -1)
    for number, (row, column) in enumerate(patch_places(torch.tensor([[1, 8, 8]]), 2).tolist()):
        wanted = torch.nn.functional.layer_norm(rows[:, row, column], (96,))
        torch.testing.assert_close(features[:, number], wanted)


def test_only_media_in_which_nothing_moves_are_taught(teacher):
    batch = make_media_batch(3, media=32, films=1.0, home=0.75, teacher=teacher)
    still = [n for n in range(24) if torch.equal(*batch.frames[n])]
    assert batch.taught.tolist() == still
    assert 0 < len(still) < 24
    assert batch.features.shape == (len(still), 64, 96)
    untaught = make_media_batch(3, media=32, films=1.0, home=0.75)
    assert all(map(torch.equal, batch.frames, untaught.frames))
    assert make_media_batch(3, media=2, home=0.0, teacher=teacher).features is None


def test_imitation_counts_patches_that_show_something_more():
    features = torch.zeros(1, 64, 8)
    features[0, 5] = 4.0  # one patch differs from all others
    assert imitation_loss(features, features) == 0
    wrong_there, wrong_elsewhere = features.clone(), features.clone()
    wrong_there[0, 5] += 1
    wrong_elsewhere[0, 6] += 1
    assert imitation_loss(wrong_there, features) > 20 * imitation_loss(wrong_elsewhere, features)


def test_a_clause_is_scored_by_the_best_patches_of_each_medium_alone():
    torch.manual_seed(0)
    module = Qwen2VitFoundation(SMALL)
    batch = make_media_batch(1, media=4)
    clauses = batch.clauses[:, 0]
    with torch.no_grad():
        tokens, counts = module.tokens(batch.frames)
        scores = module.scores(tokens, counts, clauses)
        assert scores.shape == (4, len(clauses))
        words = torch.stack([module.words.weight[c[c >= 0]].sum(0) for c in clauses])
        for medium, frames in enumerate(batch.frames):
            alone, _ = module.tokens([frames])
            similarity = module.project(alone) @ words.T  # [patches, C]
            best = similarity.sort(0, descending=True).values[:4].mean(0)
            torch.testing.assert_close(scores[medium], best, atol=1e-4, rtol=1e-4)


def test_learns_one_batch_by_heart(teacher):
    torch.manual_seed(0)
    module = Qwen2VitFoundation(SMALL, warmup_steps=1)
    logged = []
    module.log_dict = lambda told, **_: logged.append(told)
    module.manual_backward = lambda loss: loss.backward()
    pair = module.configure_optimizers()
    assert len(pair[0].param_groups[0]["params"]) == 4 * SMALL.depth
    pair[1].optimizer = pair[1]
    module.optimizers = lambda: pair
    module._trainer = type("Trainer", (), {"global_step": 1, "max_steps": 1000})()
    batch = make_media_batch(1, media=6, other_sizes=2, teacher=teacher)
    for step in range(60):
        module.training_step(batch, step)
    first, last = logged[0], logged[-1]
    assert last["loss"] < 0.35 * first["loss"]
    assert last["imitation"] < 0.7 * first["imitation"]
    assert last["right_words"] > 0.9


def test_killed_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    from vlmcourse.foundations.training import train_foundation

    tiny = (
        "--data.init_args.media=4",
        "--model.init_args.size.depth=1",
        "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=false",
        "--trainer.max_steps=4",
    )

    def train(folder):
        return train_foundation("qwen2_vit", folder, tiny, save_every=2)

    whole, whole_losses = train(tmp_path / "whole")
    step = Qwen2VitFoundation.training_step

    def killed_in_the_fourth_step(self, batch, index):
        if self.trainer.global_step == 3:
            raise KeyError("killed")
        return step(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Qwen2VitFoundation, "training_step", killed_in_the_fourth_step)
        with pytest.raises(KeyError):
            train(tmp_path / "killed")
    resumed, losses = train(tmp_path / "killed")
    assert losses[-2:] == whole_losses[-2:]
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


# ---------------------------------------------------------------- file and gates


def test_export_and_load_round_trip(tmp_path):
    torch.manual_seed(1)
    module = Qwen2VitFoundation().eval()
    with pytest.raises(UserError, match=r"qwen2_vit\.safetensors: missing"):
        load_qwen2_vit(tmp_path)
    path = export_qwen2_vit(module, tmp_path)
    loaded = load_qwen2_vit(tmp_path)
    assert not loaded.training
    patches, grids = pack_media(make_media_batch(2, media=3).frames, QWEN2_VIT)
    with torch.no_grad():
        torch.testing.assert_close(loaded(patches, grids), module.encoder(patches, grids))
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match="not the world's Qwen2 vision tower"):
        load_qwen2_vit(tmp_path)


def test_the_shipped_tower_is_small():
    vit = load_qwen2_vit()
    assert sum(p.numel() for p in vit.parameters()) < 1_200_000
    assert vit.config == QWEN2_VIT


def test_merged_tokens_lie_where_their_pixels_do():
    """What changes in a corner of a picture changes the token of that corner most."""
    vit = load_qwen2_vit()
    dark = torch.full((2, 48, 96, 3), 20, dtype=torch.uint8)
    lit = dark.clone()
    lit[:, 34:46, 66:78] = torch.tensor([222, 42, 42], dtype=torch.uint8)  # third row, fifth column
    one, two = merged_tokens(vit, [dark, lit])
    assert one.shape == (3, 6, 4 * QWEN2_VIT.width)
    assert divmod(int((one - two).square().sum(-1).argmax()), 6) == (2, 4)


def test_the_shipped_tower_reads_sizes_it_is_asked_for():
    """A coarse look at the gates: few media, far above chance."""
    result = qwen2_vit_gates(load_qwen2_vit(), train_media=120, test_media=40)
    assert {name.split("/")[0] for name in result} == {
        *("64x64", "96x96", "48x48", "128x48", "48x128", "film_64x64")
    }
    for name, right in result.items():
        if name.endswith("/colour"):
            assert np.mean(right) > 0.6, name
    assert STILL not in result
