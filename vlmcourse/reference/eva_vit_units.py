"""Checks of the EVA ViT-g units: all states of the encoder, and the released keys."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from vlmcourse.backbones.eva_clip import EvaClipConfig, EvaClipEncoder
from vlmcourse.checkpoints.blip2 import vit_tensors
from vlmcourse.checkpoints.eva_clip import PREFIX, from_official, official_name, our_name
from vlmcourse.checkpoints.files import load_strict
from vlmcourse.reference.rows import Row, Unit, compare_tensors, compare_values

UNSUPPORTED = ("rel_pos_bias", "layer_scale", "final_norm", "use_mean_pooling", "drop_path_rate")
"""Options of the official module that no released system uses."""


@torch.no_grad()
def check_eva_vit(unit: Unit) -> Iterator[Row]:
    """Embeddings, every block, the last tokens with `ln_vision` and without, resized positions."""
    meta, source = unit.meta["config"], str(unit.path)
    used = [name for name in UNSUPPORTED if meta.get(name)]
    if used:
        raise ValueError(f"the encoder here has no {', '.join(used)}")
    config = EvaClipConfig(
        image_size=meta["image_size"],
        patch_size=meta["patch_size"],
        hidden_size=meta["embed_dim"],
        num_layers=meta["depth"],
        num_heads=meta["num_heads"],
        mlp_ratio=meta["mlp_ratio"],
        norm_eps=meta["block_norm_eps"],
        vision_norm_eps=meta["ln_vision_eps"],
    )
    yield compare_values(unit, "", "mlp_hidden", config.intermediate_size, meta["mlp_hidden"])
    encoder = EvaClipEncoder(config).eval()
    load_strict(encoder, from_official(unit.weights, config, source), source)
    pixels, outputs = unit.inputs["images"], unit.outputs
    states = encoder.hidden_states(pixels)
    mine = {f"block_{index}": state for index, state in enumerate(states[1:])}
    mine |= {"embeddings": states[0], "tokens": encoder(pixels, raw=True)}
    mine |= {"tokens_ln_vision": encoder(pixels)}
    if "resized_image_size" in meta:
        larger = replace(config, image_size=meta["resized_image_size"])
        resized = from_official(unit.weights, larger, source)["positions"]
        mine["pos_embed_resized"] = resized
    for name in sorted(outputs.keys() & mine.keys()):
        yield compare_tensors(unit, "", name, mine[name], outputs[name])


def check_released_keys(unit: Unit) -> Iterator[Row]:
    """Every key of the file has a place of its own shape; only `ln_vision` comes from elsewhere."""
    keys = {key: tuple(shape) for key, shape in unit.meta["module_keys"].items()}
    encoder = _meta_encoder(keys)
    own = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    there = {key: own.get(our_name(PREFIX + key)) for key in keys}
    yield compare_values(unit, "", "shapes", there, keys)
    back = [official_name(our_name(PREFIX + key)).removeprefix(PREFIX) for key in keys]
    yield compare_values(unit, "", "names there and back", back, list(keys))
    tensors = {key: torch.empty(shape, device="meta") for key, shape in keys.items()}
    read = vit_tensors(tensors, encoder.config, str(unit.path))
    elsewhere = {"ln_vision.weight", "ln_vision.bias"}
    yield compare_values(unit, "", "not in the file", own.keys() - read.keys(), elsewhere)


def _meta_encoder(keys: dict[str, tuple[int, ...]]) -> EvaClipEncoder:
    """The encoder on the meta device, with sizes from the shapes of its keys (heads leave none)."""
    width, _, patch, _ = keys["patch_embed.proj.weight"]
    places = keys["pos_embed"][1] - 1
    config = EvaClipConfig(
        image_size=patch * round(places**0.5),
        patch_size=patch,
        hidden_size=width,
        num_layers=1 + max(int(k.split(".")[1]) for k in keys if k.startswith("blocks.")),
        num_heads=1,
        mlp_ratio=(keys["blocks.0.mlp.fc1.weight"][0] + 0.5) / width,
    )
    with torch.device("meta"):
        return EvaClipEncoder(config)


UNITS = {
    "eva_vit/eva_vit": check_eva_vit,
    "eva_vit/released_keys": check_released_keys,
}
