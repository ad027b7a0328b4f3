"""A tiny random checkpoint of transformers' Qwen2-VL in our system: same logits, same tokens."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from qwen2_vl_twins import IDS, PATCH, given_to_both, save_folder, tiny_theirs
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vlmcourse.checkpoints import load_released
from vlmcourse.checkpoints.qwen2_vl import to_official
from vlmcourse.parts.mrope import mrope_positions

PICTURE, PORTRAIT, WIDE = ("image", 1, 4, 4), ("image", 1, 8, 2), ("image", 1, 2, 12)
FILM, LONG = ("video", 2, 4, 6), ("video", 5, 4, 2)
ROWS = {
    "text": [["no picture at all"]],
    "picture": [["a", PICTURE, "What is it?"]],
    "film": [["a", FILM, "What happens?"]],
    "two pictures": [[PORTRAIT, WIDE, "Which is larger?"]],
    "picture and film": [["a", PICTURE, "b", FILM, "c", PORTRAIT, "d"]],
    "batch": [["a", FILM, "b", WIDE, "?"], ["text alone"], [PORTRAIT, "What is this here?"]],
}


@pytest.fixture(scope="module", params=["untied", "tied", "other sections"])
def pair(request, tmp_path_factory):
    """transformers' model, and ours from the folder that it wrote."""
    settings = {"tied": {"tied": True}, "other sections": {"section": (4, 1, 3)}}
    theirs = tiny_theirs(**settings.get(request.param, {}))
    folder = tmp_path_factory.mktemp("released")
    save_folder(theirs, folder)
    return theirs, load_released("qwen2_vl", folder, dtype=torch.float32), folder


@torch.no_grad()
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
def test_logits(pair, rows, side):
    theirs, ours, _ = pair
    batch, given = given_to_both(rows, side)
    wanted = theirs(**given).logits[batch.attention]
    assert_close(ours.logits(batch)[batch.attention], wanted, atol=1e-4, rtol=0)
    assert wanted.std() > 0.1  # there is something to tell apart


@torch.no_grad()
def test_loss(pair):
    theirs, ours, _ = pair
    batch, given = given_to_both(ROWS["batch"])
    labels = torch.where(batch.attention & (batch.kinds == 0), batch.ids, -100)
    labels[:, :6] = -100
    wanted = theirs(**given, labels=labels).loss
    found = ours(type(batch)(**vars(batch) | {"labels": labels})).loss
    assert_close(found, wanted, atol=1e-4, rtol=0)


@torch.no_grad()
def test_eager_attention(pair):
    theirs, ours, _ = pair
    batch, given = given_to_both(ROWS["batch"])
    wanted = theirs(**given).logits[batch.attention]
    ours.language_model.set_attn_implementation("eager")
    try:
        assert_close(ours.logits(batch)[batch.attention], wanted, atol=1e-4, rtol=0)
    finally:
        ours.language_model.set_attn_implementation("sdpa")


@torch.no_grad()
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
def test_generation_with_a_cache(pair, rows):
    theirs, ours, _ = pair
    batch, given = given_to_both(rows, "left")
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    wanted = theirs.generate(**given, **settings)[:, batch.ids.shape[1] :]
    inputs = ours.language_inputs(batch)
    found = ours.language_model.generate(
        inputs_embeds=ours.embed(batch), eos_token_id=None, **inputs, **settings
    )
    assert found.tolist() == wanted.tolist()
    ends = (IDS["<|im_end|>"], IDS["<|endoftext|>"])
    if not torch.isin(wanted, torch.tensor(ends)).any():
        texts = [ours.processor.answer_text(row.tolist()) for row in wanted]
        assert ours.generate(batch, max_new_tokens=8) == texts


@torch.no_grad()
def test_behind_a_long_film_the_releases_part(pair):
    theirs, ours, _ = pair
    batch, given = given_to_both([["a", LONG, "What happens?"]])
    found = ours.logits(batch)[0]
    media = 2 + LONG[1] * LONG[2] * LONG[3] // 4
    later = theirs(**given).logits[0]
    assert_close(found[:media], later[:media], atol=1e-4, rtol=0)
    assert (found[media:] - later[media:]).abs().max() > 1e-2
    grids = batch.pictures.extras["grid"]
    for rule, wanted in (("published", found), ("restart", later)):
        ids = mrope_positions(batch.kinds, grids, rule=rule)
        told = theirs(**given, position_ids=ids).logits[0]
        assert_close(told, wanted, atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("naming", ["published", "modules"])
def test_our_weights_in_their_class(pair, naming, tmp_path):
    theirs, ours, folder = pair
    tied = theirs.config.tie_word_embeddings
    vision = ours.vision_encoder.config
    back = to_official(ours.state_dict(), naming, tied, vision)
    if naming == "published":
        shards = [load_file(path) for path in folder.glob("*.safetensors")]
        files = {key: value for shard in shards for key, value in shard.items()}
        assert back.keys() == files.keys()
        assert all(torch.equal(back[key], files[key]) for key in files)
    save_file(
        {key: value.contiguous() for key, value in back.items()}, tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    again, info = Qwen2VLForConditionalGeneration.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    batch, given = given_to_both(ROWS["batch"])
    assert torch.equal(again.eval()(**given).logits, theirs(**given).logits)
    (tmp_path / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    third = load_released("qwen2_vl", tmp_path, dtype=torch.float32)
    assert torch.equal(third.logits(batch), ours.logits(batch))


def test_half_precision_is_as_theirs(pair):
    theirs, _, folder = pair
    ours = load_released("qwen2_vl", folder, dtype=torch.bfloat16)
    assert {p.dtype for p in ours.parameters()} == {torch.bfloat16}
    rotary = ours.language_model.model.rotary_emb.plain
    assert_close(rotary.inv_freq, theirs.model.language_model.rotary_emb.inv_freq)


@pytest.mark.parametrize("size", [(50, 37), (16, 120), (9, 9), (200, 64)])
def test_a_picture_file_becomes_their_patches(pair, size, tmp_path):
    _, ours, _ = pair
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    clip = ours.processor.read(tmp_path / "a.png")
    config = ours.config
    bounds = {"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels}
    made = Qwen2VLImageProcessorPil(patch_size=PATCH, size=bounds)(
        images=[Image.fromarray(pixels)], return_tensors="pt"
    )
    assert clip.grid[None].tolist() == made["image_grid_thw"].tolist()
    patches = ours.stream_inputs(clip)["pictures"].flatten(0, 1)
    assert_close(patches, made["pixel_values"], atol=1e-5, rtol=0)


def test_tied_tables_stay_one(pair):
    theirs, ours, _ = pair
    model = ours.language_model
    one = model.lm_head.weight is model.model.embed_tokens.weight
    assert one == theirs.config.tie_word_embeddings


def test_their_files_are_shards_with_the_published_names(pair):
    places = json.loads((pair[2] / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(places.values())) > 2
    assert {key.partition(".")[0] for key in places} <= {"visual", "model", "lm_head"}
