"""Official checkpoints of Video-ChatGPT: names, and a miniature of the downloaded folder."""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from vlmcourse.backbones.clip import ClipConfig, ClipEncoder
from vlmcourse.backbones.language_model import LlamaSizes, build_llama
from vlmcourse.checkpoints import load_released
from vlmcourse.checkpoints import video_chatgpt as keys
from vlmcourse.checkpoints.files import CheckpointError
from vlmcourse.errors import UserError
from vlmcourse.systems.video_chatgpt import VideoChatGPT, VideoChatGPTConfig, build_paper

REFERENCE = Path(__file__).parents[1] / "reference" / "video_chatgpt"
CLIP = ClipConfig(16, 32, 3, 4, image_size=8, patch_size=4)
BASE_ROWS = 150 + 3  # the tiny tokenizer, and three image tokens


def test_every_released_key_maps_both_ways_at_paper_size():
    released = json.loads((REFERENCE / "released_keys.json").read_text())
    own = build_paper("meta").state_dict()
    official = dict(released["non_layer_keys_full_model"])
    for pattern, shape in released["llm_layer_keys_pattern"].items():
        official |= {pattern.replace("<0..31>", str(i)): shape for i in range(32)}
    official |= released["clip_vision_tower"]["keys"]
    assert len(official) == 5 + 9 * 32 + 391
    for key, shape in official.items():
        assert list(own[keys.our_name(key)].shape) == shape
        assert keys.official_name(keys.our_name(key)) == key
    assert {keys.our_name(key) for key in official} | {keys.ROWS} == own.keys()
    trained = released["released_checkpoint"]["keys"]
    assert trained.keys() <= official.keys()


def test_unknown_keys_are_not_dropped():
    with pytest.raises(KeyError, match="visual"):
        keys.from_official({"visual.proj": torch.ones(1)}, (1, 2, 3))
    with pytest.raises(KeyError):
        keys.official_name("token_rows.weight")


def test_rows_travel_inside_the_table():
    table = torch.randn(8, 4)
    ours = keys.from_official({keys.TABLE: table}, (5, 6, 7))
    assert torch.equal(ours[keys.ROWS], table[6:])
    ours[keys.ROWS] = ours[keys.ROWS] + 1
    back = keys.to_official(ours, (5, 6, 7))
    assert torch.equal(back[keys.TABLE][6:], table[6:] + 1)
    assert torch.equal(back[keys.TABLE][:6], table[:6])


def empty_model():
    config = VideoChatGPTConfig(num_frames=4, num_temporal=4, base_vocabulary=BASE_ROWS)
    with torch.device("meta"):
        llama = build_llama(LlamaSizes(BASE_ROWS + 3, 16, 24, 2, 4))
        return VideoChatGPT(config, llama, ClipEncoder(CLIP), None).eval()


@pytest.fixture
def folder(tmp_path):
    """The three downloads in miniature: sharded base, released tensors, a whole CLIP."""
    base = tmp_path / keys.BASE
    clip = tmp_path / keys.CLIP
    base.mkdir()
    clip.mkdir()
    torch.manual_seed(0)
    llama = build_llama(LlamaSizes(BASE_ROWS, 16, 24, 2, 4)).state_dict()
    llama["model.mm_projector.weight"] = torch.randn(16, 16)
    llama["model.mm_projector.bias"] = torch.randn(16)
    llama["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    names = sorted(llama)
    halves = {"1.bin": names[::2], "2.bin": names[1::2]}
    for name, half in halves.items():
        torch.save({k: llama[k] for k in half}, base / name)
    places = {key: name for name, half in halves.items() for key in half}
    (base / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    (base / "tokenizer.model").write_bytes((REFERENCE / "tiny_tokenizer.model").read_bytes())
    released = {
        keys.TABLE: torch.randn(BASE_ROWS + 3, 16),
        "model.mm_projector.weight": torch.randn(16, 16),
        "model.mm_projector.bias": torch.randn(16),
    }
    torch.save(released, tmp_path / keys.RELEASED)
    tower = {f"vision_model.{k}": v for k, v in ClipEncoder(CLIP).model.state_dict().items()}
    tower["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    tower["text_model.final_layer_norm.weight"] = torch.ones(3)
    tower["logit_scale"] = torch.ones(())
    torch.save(tower, clip / "pytorch_model.bin")
    return tmp_path


def test_a_downloaded_folder_becomes_a_model_that_answers(folder):
    model = keys.load_released(folder, dtype=torch.float32, model=empty_model())
    released = torch.load(folder / keys.RELEASED, weights_only=True)
    table = model.language_model.get_input_embeddings().weight
    assert torch.equal(table, released[keys.TABLE])
    assert torch.equal(model.token_rows.weight, released[keys.TABLE][-2:])
    assert torch.equal(model.projector.bias, released["model.mm_projector.bias"])
    head = model.language_model.lm_head.weight
    assert_close(head[-1], head[:BASE_ROWS].mean(0))
    assert model.processor.tokenizer.token_id("<vid_end>") == BASE_ROWS + 2
    from vlmcourse.systems.processor import Clip

    watched = model.remember(torch.randn(3, 4, 16), Clip(torch.arange(3.0)))
    assert isinstance(model.answer(watched, ["who is riding?"], max_new_tokens=3)[0], str)
    part = keys.released_part(model)
    assert part.keys() == released.keys()
    assert all(part[key].equal(released[key]) for key in part)


def test_missing_downloads_are_named(folder):
    (folder / keys.RELEASED).unlink()
    with pytest.raises(CheckpointError, match=r"lacks video_chatgpt-7B\.bin"):
        keys.load_released(folder, model=empty_model())


def test_another_models_file_is_refused(folder):
    torch.save({"model.visual.weight": torch.ones(1)}, folder / keys.RELEASED)
    with pytest.raises(
        CheckpointError, match=r"left over 1: language_model\.model\.visual\.weight"
    ):
        keys.load_released(folder, model=empty_model())
    torch.save({"llama_proj.weight": torch.ones(1)}, folder / keys.RELEASED)
    with pytest.raises(CheckpointError, match=r"no known part: 'llama_proj\.weight'"):
        keys.load_released(folder, model=empty_model())


def test_another_size_is_refused(folder):
    torch.save({"model.mm_projector.bias": torch.ones(5)}, folder / keys.RELEASED)
    with pytest.raises(CheckpointError, match=r"another shape 1: projector\.bias \(5,\)"):
        keys.load_released(folder, model=empty_model())


def test_the_door(tmp_path):
    with pytest.raises(UserError, match="no released weights known for 'nothing'"):
        load_released("nothing", tmp_path)
    with pytest.raises(CheckpointError, match="lacks LLaVA-Lightning"):
        load_released("video_chatgpt", tmp_path)
