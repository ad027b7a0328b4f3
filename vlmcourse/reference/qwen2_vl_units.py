"""Checks of Qwen2-VL: positions, patches, the whole model with its loss and cached steps, released
keys. The resize rules are among the tables (table_units.py).
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vlmcourse.backbones.language_model import LlamaSizes
from vlmcourse.backbones.qwen2_vit import Qwen2VitConfig, axial_angles, patch_places, patchify
from vlmcourse.checkpoints.files import load_strict
from vlmcourse.checkpoints.qwen2_vl import (
    from_official,
    language_sizes,
    to_official,
    vision_sizes,
)
from vlmcourse.conversation import PICTURE
from vlmcourse.media.transforms import normalise_frames, resize_frames
from vlmcourse.parts.dynamic_resolution import (
    VIDEO_MIN_PIXELS,
    VIDEO_TOTAL_PIXELS,
    smart_resize,
    video_max_pixels,
)
from vlmcourse.parts.mrope import MRope, mrope_positions, next_position
from vlmcourse.reference.rows import Row, Unit, compare_tensors, compare_values
from vlmcourse.systems.batch import Batch, Media
from vlmcourse.systems.qwen2_vl import Qwen2VL, build_paper
from vlmcourse.systems.qwen2_vl_processor import resized_picture

SECTION, HEAD_DIM = (16, 24, 24), 128
"""Of the published models."""
ATOL = 1e-4
"""Of logits and states behind several layers."""


# ---------------------------------------------------------------- media among the ids


def media_of(unit: Unit, ids: Tensor, case: str = "") -> tuple[Tensor, list[tuple[str, int, int]]]:
    """Kinds `[B, L]` of ids, and the media in reading order: its input ("image", "video"), its
    number among those, its row."""
    config, inputs = unit.meta["config"], unit.inputs
    names = {config["image_token_id"]: "image", config["video_token_id"]: "video"}
    merge = config.get("spatial_merge_size") or config["vision"]["spatial_merge_size"]
    seen, found = {"image": 0, "video": 0}, []
    for row, line in enumerate(ids.tolist()):
        place = 0
        while place < len(line):
            name = names.get(line[place])
            if name is None:
                place += 1
                continue
            grid = inputs[f"{case}{name}_grid_thw"][seen[name]]
            found.append((name, seen[name], row))
            seen[name] += 1
            place += int(grid.prod()) // merge**2
    kinds = sum((ids == token).long() for token in names)
    return kinds * PICTURE, found


def grids_of(unit: Unit, found: list[tuple[str, int, int]], case: str = "") -> Tensor:
    """Grids `[V, 3]` of media from `media_of`."""
    grids = [unit.inputs[f"{case}{name}_grid_thw"][number] for name, number, _ in found]
    return torch.stack(grids) if grids else torch.zeros(0, 3, dtype=torch.int64)


# ---------------------------------------------------------------- positions


@torch.no_grad()
def check_mrope(unit: Unit) -> Iterator[Row]:
    """Ids by both rules, and what the rotary embedding makes of them."""
    inputs, outputs = unit.inputs, unit.outputs
    differ = []
    for name in sorted(n for n in inputs if n.endswith("_input_ids")):
        case = name.removesuffix("input_ids")
        mask = inputs[f"{case}attention_mask"]
        kinds, found = media_of(unit, inputs[name], case)
        grids, real = grids_of(unit, found, case), mask.bool()
        merge = unit.meta["config"]["spatial_merge_size"]
        by_rule = {}
        for rule, ending in (("published", ""), ("restart", "_v5")):
            ids = mrope_positions(kinds, grids, mask, merge=merge, rule=rule)
            by_rule[rule] = ids
            label = f"{case}position_ids{ending}"
            yield compare_tensors(unit, case, label, ids[:, real], outputs[label][:, real])
            read = mask.sum(1, keepdim=True) if ending else mask.shape[1]
            delta = next_position(ids, mask)[:, None] - read
            label = f"{case}delta{ending}"
            yield compare_tensors(unit, case, label, delta, outputs[label])
        if not torch.equal(by_rule["published"], by_rule["restart"]):
            differ.append(case.removesuffix("_"))
    if "cases_where_versions_differ" in unit.meta["config"]:
        listed = sorted(unit.meta["config"]["cases_where_versions_differ"])
        yield compare_values(unit, "", "cases where versions differ", sorted(differ), listed)
    yield from _check_rotary(unit)


def _check_rotary(unit: Unit) -> Iterator[Row]:
    """Tables, turned queries and keys, and the tables of the published sizes."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    config, inputs, outputs = unit.meta["config"], unit.inputs, unit.outputs
    told = re.search(r"case (\w+)", unit.meta["inputs"]["query"]["meaning"])
    rotary = _rotary(config["head_dim"], config["rope_theta"], config["mrope_section"])
    query, key = inputs["query"], inputs["key"]
    cos, sin = rotary(query, outputs[f"{told[1]}_position_ids"])
    turned = apply_rotary_pos_emb(query, key, cos, sin)
    real = _rotary(HEAD_DIM, config["rope_theta"], SECTION)(query, inputs["real_positions"])
    mine = {
        "inv_freq": rotary.plain.inv_freq,
        "cos": cos,
        "sin": sin,
        "query_rotated": turned[0],
        "key_rotated": turned[1],
        "real_cos": real[0],
        "real_sin": real[1],
    }
    for name in sorted(mine.keys() & outputs.keys()):
        yield compare_tensors(unit, "rotary", name, mine[name], outputs[name])


def _rotary(head_dim: int, theta: float, section: list[int]) -> MRope:
    from transformers import Qwen2Config
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

    rope = {"rope_type": "default", "rope_theta": theta}
    sizes = {"hidden_size": head_dim, "num_attention_heads": 1}
    return MRope(Qwen2RotaryEmbedding(Qwen2Config(**sizes, rope_parameters=rope)), section)


# ---------------------------------------------------------------- patches


def check_patchify(unit: Unit) -> Iterator[Row]:
    """Pictures and fetched frames: resized, normalised, cut."""
    for name in sorted(unit.inputs):
        kind, _, number = name.partition("_")
        check = {"image": _check_picture, "video": _check_video}[kind]
        yield from check(unit, name, int(number))


def _check_picture(unit: Unit, name: str, number: int) -> Iterator[Row]:
    config, pixels = unit.meta["config"], unit.inputs[name]
    bounds = config["min_pixels"], config["max_pixels"]
    size = _size(config, pixels.shape[:2], *bounds, "transformers_4_45")
    patches, grid = _cut(config, _by_pillow(pixels.byte()[None], *size))
    for output, mine in (
        (f"pixel_values_{number}", patches),
        (f"image_grid_thw_{number}", grid[None]),
    ):
        yield compare_tensors(unit, name, output, mine, unit.outputs[output])


def _check_video(unit: Unit, name: str, number: int) -> Iterator[Row]:
    config, frames = unit.meta["config"], unit.inputs[name]
    told = re.search(r"\{.*\}", unit.meta["inputs"][name]["meaning"])
    asked = json.loads(told[0]) if told else {}
    least = asked.get("min_pixels", VIDEO_MIN_PIXELS)
    total = asked.get("total_pixels", VIDEO_TOTAL_PIXELS)
    shared = video_max_pixels(len(frames), min_pixels=least, total_pixels=total)
    most = asked.get("max_pixels", shared)
    size = _size(config, frames.shape[1:3], least, most, "qwen_vl_utils")
    fetched = resize_frames(frames.byte(), *size, mode="bicubic")
    bounds = config["min_pixels"], config["max_pixels"]
    again = _size(config, size, *bounds, "transformers_4_45")  # the processor's own bounds
    seen = fetched if again == size else _by_pillow(fetched, *again)
    patches, grid = _cut(config, seen)
    for output, mine in (
        (f"fetched_{number}", fetched.permute(0, 3, 1, 2)),
        (f"pixel_values_videos_{number}", patches),
        (f"video_grid_thw_{number}", grid[None]),
    ):
        yield compare_tensors(unit, name, output, mine, unit.outputs[output])


def _by_pillow(frames: Tensor, rows: int, columns: int) -> Tensor:
    """Frames `[T, H, W, 3]` uint8 in another size, one by one."""
    resized = [resized_picture(frame, rows, columns) for frame in frames.numpy()]
    return torch.as_tensor(np.stack(resized))


def _size(
    config: Mapping[str, Any], sides: tuple[int, int], least: int, most: float, variant: str
) -> tuple[int, int]:
    factor = config["patch_size"] * config["merge_size"]
    return smart_resize(*sides, factor=factor, min_pixels=least, max_pixels=most, variant=variant)


def _cut(config: Mapping[str, Any], frames: Tensor) -> tuple[Tensor, Tensor]:
    """Patches and grid of frames `[T, h, w, 3]` of whole numbers."""
    colours = tuple(config["mean"]), tuple(config["std"])
    values = normalise_frames(frames.permute(3, 0, 1, 2), *colours).transpose(0, 1)
    return patchify(
        values, config["patch_size"], config["temporal_patch_size"], config["merge_size"]
    )


# ---------------------------------------------------------------- the whole model


def _model(unit: Unit) -> Qwen2VL:
    """The system with the weights of a unit, which come in through the released names."""
    config = unit.meta["config"]
    rope = {"rope_theta": config["rope_theta"], "mrope_section": config["mrope_section"]}
    language, section = language_sizes({**config, "rope_parameters": rope})
    model = build_paper("cpu", None, vision_sizes(config["vision"]), language, section)
    source = str(unit.path)
    load_strict(model, from_official(unit.weights, source, language.tie_embeddings), source)
    return model


def _batch(unit: Unit, model: Qwen2VL) -> Batch:
    inputs, ids = unit.inputs, unit.inputs["input_ids"]
    kinds, found = media_of(unit, ids)
    grids, block = grids_of(unit, found), model.config.merge**2
    patches = {}
    for name, values in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        if values in inputs:
            sizes = inputs[f"{name}_grid_thw"].prod(1).tolist()
            patches[name] = inputs[values].split(sizes)
    media = [patches[name][number].unflatten(0, (-1, block)) for name, number, _ in found]
    mask = pad_sequence([torch.ones(len(m), dtype=torch.bool) for m in media], batch_first=True)
    pictures = Media(
        mask,
        torch.zeros(mask.shape),
        inputs=pad_sequence(media, batch_first=True),
        rows=torch.tensor([row for _, _, row in found]),
        extras={"grid": grids},
    )
    attention = inputs["attention_mask"].bool()
    return Batch(ids, attention, kinds, inputs.get("labels"), pictures=pictures)


@torch.no_grad()
def check_loss(unit: Unit) -> Iterator[Row]:
    """Tower and merger step by step, the language model layer by layer, loss, cached steps."""
    model = _model(unit)
    batch, outputs = _batch(unit, model), unit.outputs
    yield from _check_tower(unit, model)
    seen: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda m, i, out, n=number: seen.update({f"layer_{n}": out}))
        for number, layer in enumerate(model.language_model.model.layers)
    ]
    real, logits = batch.attention, model.logits(batch)
    for hook in hooks:
        hook.remove()
    ids = model.language_inputs(batch)["position_ids"]
    yield compare_tensors(unit, "", "position_ids", ids[:, real], outputs["position_ids"][:, real])
    mine = {"inputs_embeds": model.embed(batch), "logits": logits, **seen}
    for name in sorted(mine):
        yield compare_tensors(unit, "", name, mine[name][real], outputs[name][real], ATOL)
    yield compare_tensors(unit, "", "loss", model(batch).loss, outputs["loss"])
    yield from _check_steps(unit, model, batch, ids)


def _check_tower(unit: Unit, model: Qwen2VL) -> Iterator[Row]:
    inputs, tower = unit.inputs, model.vision_encoder
    head_dim = tower.config.width // tower.config.heads
    for name, values in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        if values not in inputs:
            continue
        grids = inputs[f"{name}_grid_thw"]
        states = tower.hidden_states(inputs[values], grids)
        places = patch_places(grids, tower.config.merge)
        angles = axial_angles(places, head_dim, tower.config.rope_theta).repeat(1, 2)
        mine = {
            "patch_embed": states[0],
            **{f"block_{number}": state for number, state in enumerate(states[1:])},
            "merged": model.merger(states[-1].unflatten(0, (-1, tower.config.merge**2))),
            "hw_ids": places,
            "cos": angles.cos(),
            "sin": angles.sin(),
        }
        for key in sorted(k for k in mine if f"{name}_{k}" in unit.outputs):
            output = f"{name}_{key}"
            yield compare_tensors(unit, name, output, mine[key], unit.outputs[output], ATOL)


def _check_steps(unit: Unit, model: Qwen2VL, batch: Batch, ids: Tensor) -> Iterator[Row]:
    """Greedy tokens behind the first row, each read through a cache."""
    outputs, real = unit.outputs, batch.attention[0]
    told = re.search(r"ids (\d+)\.\.(\d+)", unit.meta["outputs"]["generated_ids"]["meaning"])
    low, high = (int(told[1]), int(told[2]) + 1) if told else (0, None)
    decoder, head = model.language_model.get_decoder(), model.language_model.lm_head
    embeddings, positions = model.embed(batch)[:1, real], ids[:, :1, real]
    cache, tokens, places, logits = None, [], [], []
    for _ in range(outputs["generated_ids"].shape[1] + 1):
        length = embeddings.shape[1] + (0 if cache is None else cache.get_seq_length())
        read = decoder(
            inputs_embeds=embeddings,
            attention_mask=torch.ones(1, length, dtype=torch.int64),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        cache, last = read.past_key_values, head(read.last_hidden_state[:, -1])
        if tokens:
            logits.append(last)
        tokens.append(low + int(last[0, low:high].argmax()))
        positions = next_position(positions).expand(3, 1)[..., None]
        places.append(positions[:, 0, 0])
        embeddings = model.embed_text(torch.tensor([[tokens[-1]]]))
    exact = {"generated_ids": torch.tensor([tokens[:-1]]), "generated_positions": places[:-1]}
    exact["generated_positions"] = torch.stack(exact["generated_positions"])
    for name, mine in exact.items():
        yield compare_tensors(unit, "", name, mine, outputs[name])
    name = "generated_logits"
    yield compare_tensors(unit, "", name, torch.stack(logits, 1), outputs[name], ATOL)


# ---------------------------------------------------------------- released keys


def _sizes_of(told: Mapping[str, Any]) -> tuple[Qwen2VitConfig, LlamaSizes, tuple[int, ...]]:
    """Sizes of a published model from its config and the shapes of its keys; the tower's heads
    leave no trace."""
    shapes, config = told["keys"], told["config"]
    rope = {"rope_theta": config["rope_theta"], "mrope_section": config["mrope_section"]}
    tied = {"tie_word_embeddings": told["tie_word_embeddings"]}
    language, section = language_sizes({**config, **tied, "rope_parameters": rope})
    width, colours, frames, patch, _ = shapes["visual.patch_embed.proj.weight"]
    blocks = {key.split(".")[2] for key in shapes if key.startswith("visual.blocks.")}
    vision = Qwen2VitConfig(
        depth=len(blocks),
        width=width,
        mlp_ratio=shapes["visual.blocks.0.mlp.fc1.weight"][0] / width,
        patch_size=patch,
        temporal_patch=frames,
        merge=round((shapes["visual.merger.mlp.0.weight"][0] / width) ** 0.5),
        in_channels=colours,
    )
    return vision, language, section


def check_released_keys(unit: Unit) -> Iterator[Row]:
    """Every published key has its place, names and shapes go back in both namings, counts are
    right."""
    for names, told in unit.meta["checkpoints"].items():
        case, shapes = names.partition(",")[0].rpartition("/")[2], told["keys"]
        vision, language, section = _sizes_of(told)
        model, tied = build_paper("meta", None, vision, language, section), language.tie_embeddings
        official = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
        ours = from_official(official, case, tied)
        wanted = {name: tuple(t.shape) for name, t in model.state_dict().items()}
        found = {name: tuple(t.shape) for name, t in ours.items()}
        yield compare_values(unit, case, "names and shapes", found, wanted)
        back = to_official(ours, "published", tied, vision)
        back = {key: list(t.shape) for key, t in back.items()}
        yield compare_values(unit, case, "there and back", back, shapes)
        modules = to_official(ours, "modules", tied, vision)
        as_told = {_module_name(key): shape for key, shape in shapes.items()}
        found = {key: list(t.shape) for key, t in modules.items()}
        yield compare_values(unit, case, "names in modules", found, as_told)
        again = {name: tuple(t.shape) for name, t in from_official(modules, case, tied).items()}
        yield compare_values(unit, case, "modules to ours", again, wanted)
        yield compare_values(unit, case, "keys", len(back), told["n_keys"])
        yield from _check_counts(unit, case, model, told)


def _module_name(published: str) -> str:
    """The rule that the unit tells in words (`naming`)."""
    if published.startswith("visual."):
        return f"model.{published}"
    return re.sub(r"^model\.", "model.language_model.", published)


def _check_counts(unit: Unit, case: str, model: Qwen2VL, told: Mapping[str, Any]) -> Iterator[Row]:
    merger, language = _count(model.merger), model.language_model
    parts = {
        "vision_tower_with_merger": _count(model.vision_encoder) + merger,
        "merger": merger,
        "language_model_without_head": _count(language.model),
        "lm_head": _count(language.lm_head),
    }
    for name, expected in told.get("parameter_parts", {}).items():
        yield compare_values(unit, case, f"parameters of {name}", parts.get(name), expected)
    yield compare_values(unit, case, "parameters", _count(model), told["parameters"])


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


UNITS = {
    "qwen2_vl/mrope": check_mrope,
    "qwen2_vl/patchify": check_patchify,
    "qwen2_vl/qwen2_vl_loss": check_loss,
    "qwen2_vl/released_keys": check_released_keys,
}
