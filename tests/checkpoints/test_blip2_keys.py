"""Official BLIP-2 checkpoints: names at the published size, and both downloads in miniature."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from blip2_twins import official_qformer, official_vision, qformer_model, vision_model
from torch.testing import assert_close

from vlmcourse.backbones.eva_clip import EvaClipConfig, EvaClipEncoder
from vlmcourse.checkpoints import blip2, eva_clip, qformer
from vlmcourse.checkpoints.files import CheckpointError
from vlmcourse.parts.qformer import QFormer, QFormerConfig

REFERENCE = Path(__file__).parents[1] / "reference"
VISION = EvaClipConfig(16, 4, 24, 2, 2, vision_norm_eps=1e-6)
QUERIES = QFormerConfig(24, 2, 3, 40, 24, 2, 5, max_positions=16)
WORDS = replace(QUERIES, vocab_size=31)


def released(folder):
    return json.loads((REFERENCE / folder / "released_keys.json").read_text())


def on_meta(keys):
    return {key: torch.empty(shape, device="meta") for key, shape in keys.items()}


def shapes(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_every_released_key_of_the_encoder_maps_both_ways_at_paper_size():
    keys = released("eva_vit")["module_keys"]
    assert len(keys) == 511
    with torch.device("meta"):
        own = shapes(EvaClipEncoder().state_dict())
    ours = shapes(blip2.vit_tensors(on_meta(keys), EvaClipConfig(), "file"))
    ln_vision = {"ln_vision.weight": (1408,), "ln_vision.bias": (1408,)}
    assert ours | ln_vision == own
    back = eva_clip.to_official(own).keys()
    assert back == {f"visual_encoder.{key}" for key in keys} | ln_vision.keys()


@pytest.mark.parametrize("text", [False, True])
def test_every_released_key_of_the_qformer_maps_both_ways_at_paper_size(text):
    meta = released("blip2_qformer")
    keys = meta["stripped_keys"] | (meta["text_part_keys"] if text else {})
    config = QFormerConfig(vocab_size=30522 if text else None)
    with torch.device("meta"):
        own = shapes(QFormer(config).state_dict())
    norm, ours = blip2.blip2_tensors(on_meta(keys), config, "file")
    assert shapes(norm) == {"ln_vision.weight": (1408,), "ln_vision.bias": (1408,)}
    assert shapes(ours) == own
    back = qformer.to_official(own).keys() | norm.keys()
    dropped = keys.keys() - back
    assert back <= keys.keys()
    assert all("position_ids" in key or key.startswith("Qformer.cls.") for key in dropped)
    assert len(dropped) == (8 if text else 1)


def test_text_parts_are_left_out_without_a_vocabulary():
    meta = released("blip2_qformer")
    whole = on_meta(meta["stripped_keys"] | meta["text_part_keys"])
    _, ours = blip2.blip2_tensors(whole, QFormerConfig(), "file")
    with torch.device("meta"):
        assert shapes(ours) == shapes(QFormer(QFormerConfig()).state_dict())


def test_another_prefix():
    tensors = official_qformer(qformer_model(QUERIES), torch.randn(1, 5, 24))
    plain = qformer.from_official(tensors, text=False)
    video = {
        key.replace("Qformer.", "video_Qformer.").replace("query_", "video_query_"): tensor
        for key, tensor in tensors.items()
    }
    names = {"prefix": "video_Qformer.", "queries": "video_query_tokens"}
    assert qformer.from_official(video | {"llama_proj.bias": 0}, False, **names) == plain
    assert qformer.from_official(tensors, False, **names) == {}
    assert qformer.to_official(plain, **names) == video


@pytest.fixture
def folder(tmp_path):
    """Both downloads in miniature, with what else they may hold."""
    vision = official_vision(vision_model(VISION))
    vit = {k.removeprefix("visual_encoder."): v for k, v in vision.items() if "ln_vision" not in k}
    vit |= {k.replace(".1.", ".2."): v for k, v in vit.items() if k.startswith("blocks.1.")}
    vit |= {"norm.weight": torch.ones(24), "head.bias": torch.ones(3)}
    torch.save(vit, tmp_path / blip2.VIT_FILE)
    model = official_qformer(qformer_model(WORDS), torch.randn(1, 5, 24))
    model |= {key: tensor for key, tensor in vision.items() if "ln_vision" in key}
    model |= {
        "Qformer.bert.embeddings.position_ids": torch.arange(16)[None],
        "Qformer.cls.predictions.bias": torch.ones(31),
        "t5_proj.weight": torch.ones(8, 24),
        "temp": torch.ones(()),
    }
    torch.save({"model": model, "epoch": 9}, tmp_path / blip2.BLIP2_FILE)
    return tmp_path


def change(path, edit):
    content = torch.load(path)
    edit(content.get("model", content))
    torch.save(content, path)


def empty(config=QUERIES, vision=VISION):
    with torch.device("meta"):
        return EvaClipEncoder(vision).eval(), QFormer(config).eval()


@pytest.mark.parametrize("config", [QUERIES, WORDS])
@torch.no_grad()
def test_two_downloads_become_eyes(folder, config):
    encoder, former = empty(config)
    blip2.load_blip2(folder, encoder, former)
    pixels = torch.randn(3, 3, 16, 16)
    mine = former(encoder(pixels)).tokens
    vision, queries = vision_model(VISION), torch.load(folder / blip2.BLIP2_FILE)["model"]
    theirs = qformer_model(WORDS)(
        None,
        query_embeds=queries["query_tokens"].expand(3, -1, -1),
        encoder_hidden_states=vision(pixels).last_hidden_state,
    ).last_hidden_state
    assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_type_and_picture_size_may_be_others(folder):
    encoder, former = empty(vision=replace(VISION, image_size=24))
    blip2.load_blip2(folder, encoder, former, dtype=torch.bfloat16)
    assert encoder.positions.shape == (1, 37, 24)
    assert {p.dtype for m in (encoder, former) for p in m.parameters()} == {torch.bfloat16}
    assert encoder(torch.randn(1, 3, 24, 24).bfloat16()).shape == (1, 37, 24)


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        (blip2.VIT_FILE, lambda t: t.pop("blocks.1.attn.v_bias"),
         r"eva_vit_g\.pth with .*missing 1: blocks\.1\.attention\.v_bias"),
        (blip2.VIT_FILE, lambda t: t.update({"blocks.3.norm1.bias": torch.ones(24)}),
         r"left over 1: blocks\.3\.norm1\.bias"),
        (blip2.VIT_FILE, lambda t: t.update(mask_token=torch.ones(1), rope=torch.ones(1)),
         r"eva_vit_g\.pth: keys of no known part, 2: visual_encoder\.mask_token, .*rope"),
        (blip2.VIT_FILE, lambda t: t.update(pos_embed=torch.ones(1, 12, 24)), "no square"),
        (blip2.VIT_FILE, lambda t: t.update(cls_token=torch.ones(1, 1, 25)),
         r"another shape 1: class_token \(1, 1, 25\)"),
        (blip2.BLIP2_FILE, lambda t: t.pop("query_tokens"), r"flant5xxl\.pth: missing 1: queries"),
        (blip2.BLIP2_FILE, lambda t: t.pop("ln_vision.bias"), r"missing 1: ln_vision\.bias"),
        (blip2.BLIP2_FILE, lambda t: t.update({"llama_proj.bias": torch.ones(1)}),
         r"flant5xxl\.pth: keys of no known part, 1: llama_proj\.bias"),
        (blip2.BLIP2_FILE, lambda t: t.update({"temporal.bias": torch.ones(1)}),
         r"1: temporal\.bias"),
        (blip2.BLIP2_FILE, lambda t: t.update({"Qformer.bert.pooler.dense.bias": torch.ones(1)}),
         r"keys of no known part, 1: Qformer\.bert\.pooler\.dense\.bias"),
        (blip2.BLIP2_FILE,
         lambda t: t.update({"Qformer.bert.encoder.layer.0.attention.self.weight": torch.ones(1)}),
         r"1: Qformer\.bert\.encoder\.layer\.0\.attention\.self\.weight"),
        (blip2.BLIP2_FILE,
         lambda t: t.update({"Qformer.bert.encoder.layer.1.crossattention.self.key.bias":
                             torch.ones(24)}),
         r"left over 1: layers\.1\.cross_attention\.key\.bias"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_listed(folder, name, edit, message):
    change(folder / name, edit)
    with pytest.raises(CheckpointError, match=message):
        blip2.load_blip2(folder, *empty())


def test_missing_files_and_parts_are_named(folder):
    torch.save({"weights": {}}, folder / blip2.BLIP2_FILE)
    with pytest.raises(CheckpointError, match=r"flant5xxl\.pth: has no part 'model'"):
        blip2.load_blip2(folder, *empty())
    (folder / blip2.VIT_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"eva_vit_g\.pth: no such file"):
        blip2.load_blip2(folder, *empty())


def test_names_of_no_known_part():
    for name in ("queries", "head.weight", "layers.0.dropout", "layers.0.self_attention.weight"):
        with pytest.raises(KeyError):
            qformer.official_name(name)
    for name in ("cls.predictions.bias", "bert.embeddings.position_ids", "bert.encoder.layer.0"):
        with pytest.raises(KeyError):
            qformer.our_name(name)
    for name in ("class_tokens", "norm.weight"):
        with pytest.raises(KeyError):
            eva_clip.official_name(name)
