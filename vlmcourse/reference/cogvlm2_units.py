"""Checks of CogVLM2's parts: encoder and adapter, a layer with experts, frames and rotary tables,
released keys.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from vlmcourse.backbones.eva2_clip_e import Eva2ClipConfig
from vlmcourse.backbones.language_model import LlamaSizes, build_llama
from vlmcourse.checkpoints.cogvlm2 import (
    from_official,
    has_experts,
    llama_sizes,
    sizes_of,
    to_official,
)
from vlmcourse.checkpoints.files import load_strict
from vlmcourse.media.transforms import normalise_and_crop
from vlmcourse.parts.gated_adapter import convolve_grid, enclose
from vlmcourse.parts.rotary_precision import inverse_frequencies, rotary_angles
from vlmcourse.parts.shared_positions import shared_positions
from vlmcourse.parts.visual_expert import add_visual_experts, expert_mask
from vlmcourse.reference.rows import Row, Unit, compare_tensors, compare_values
from vlmcourse.systems.cogvlm2 import CogVLM2, build_paper
from vlmcourse.systems.cogvlm2_config import CogVLM2Config

VISION_ATOL = 1e-4
"""Of the encoder's layers: their norms stand behind the branches, so numbers grow to 10 or 20, and
float32 itself is 6e-5 away from float64 after three layers."""


def _model(
    device: str,
    vision: Eva2ClipConfig,
    llama: LlamaSizes,
    experts: bool = False,
    adapter_width: int | None = None,
) -> CogVLM2:
    """The whole system at the sizes of a unit; the adapter is as wide as the language model's MLP
    where nothing else is said."""
    config = CogVLM2Config(
        experts=experts,
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        adapter_width=adapter_width or llama.intermediate_size,
    )
    return build_paper(device, config, vision, llama)


# ---------------------------------------------------------------- encoder and adapter


@torch.no_grad()
def check_eyes(unit: Unit) -> Iterator[Row]:
    """Encoder, convolution, adapter and marks; weights come in through the released names."""
    vision, llama = sizes_of(unit.meta["config"])
    eyes = _model("cpu", vision, replace(llama, num_layers=0))
    weights = {f"model.vision.{key}": tensor for key, tensor in unit.weights.items()}
    language = {n: t for n, t in eyes.state_dict().items() if n.startswith("language_model.")}
    source = str(unit.path)
    load_strict(eyes, language | from_official(weights, source), source)
    pixels, encoder, adapter = unit.inputs["images"], eyes.vision_encoder, eyes.adapter
    states = encoder.hidden_states(pixels)
    merged = convolve_grid(encoder(pixels), eyes.conv)  # [N, P / 4, D]
    side = round(merged.shape[1] ** 0.5)
    tokens = adapter(merged)
    mine = {
        "patch_embedding": states[0],
        "conv": merged.transpose(1, 2).unflatten(2, (side, side)),
        "adapter_norm1": adapter.norm(adapter.project(merged)),
        "linear_proj": tokens,
        "embeddings": enclose(tokens, eyes.boi, eyes.eoi),
    }
    for index, layer in enumerate(encoder.layers):
        mine[f"layer_{index}_attention"] = layer.attention(states[index])
        mine[f"layer_{index}"] = states[index + 1]
    for name in sorted(unit.outputs.keys() & mine.keys()):
        yield compare_tensors(unit, "", name, mine[name], unit.outputs[name], VISION_ATOL)


# ---------------------------------------------------------------- a layer with experts


@torch.no_grad()
def check_expert_layer(unit: Unit) -> Iterator[Row]:
    """A decoder layer with experts inside a Llama: whole rows, a cached step, padded rows."""
    config = unit.meta["config"]
    llama = build_llama(replace(llama_sizes(config), num_layers=1)).eval()
    model = add_visual_experts(llama, copy=False)
    weights = {f"model.layers.0.{key}": tensor for key, tensor in unit.weights.items()}
    source = str(unit.path)
    ours = from_official(weights, source)
    layer = model.model.layers[0]
    prefix = "language_model.model.layers.0."
    load_strict(layer, {name.removeprefix(prefix): t for name, t in ours.items()}, source)
    cases = {name.removesuffix("attention_mask") for name in unit.inputs if "attention_m" in name}
    for case in sorted(cases):
        yield from _check_rows(unit, case, model)


def _check_rows(unit: Unit, case: str, model: nn.Module) -> Iterator[Row]:
    inputs, layer = unit.inputs, model.model.layers[0]
    types, real = inputs[f"{case}token_type_ids"], inputs[f"{case}attention_mask"]
    states = inputs[f"{case}hidden_states"]
    mask, positions = expert_mask(types), shared_positions(types, real)
    seen: dict[str, Tensor] = {}
    hooks = [
        layer.self_attn.register_forward_hook(lambda m, i, out: seen.update(self_attn=out[0])),
        layer.register_forward_hook(lambda m, i, out: seen.update(hidden_states=out)),
    ]
    read = model.model(
        inputs_embeds=states,
        attention_mask=real,
        position_ids=positions,
        expert_mask=mask,
        use_cache=True,
    )
    cached = read.past_key_values.layers[0]
    mine = {"key_rotated": cached.keys, "value": cached.values, **seen}
    mine["mlp"] = seen["hidden_states"] - states - seen["self_attn"]
    angles = model.model.rotary_emb(states, positions)
    mine["query_rotated"] = layer.self_attn.rotated(layer.input_layernorm(states), angles, mask)[0]
    exact = {"position_ids": positions, "vision_token_mask": mask.long()}
    step = f"{case}step_hidden_states"
    if step in inputs:
        following = positions[:, -1:] + 1
        more = torch.cat([real, torch.ones_like(following)], 1)
        model.model(
            inputs_embeds=inputs[step],
            attention_mask=more,
            position_ids=following,
            past_key_values=read.past_key_values,
        )
        exact["step_position_ids"] = following
        mine["step_hidden_states"] = seen["hidden_states"]
    for hook in hooks:
        hook.remove()
    for name in sorted(unit.outputs.keys() & {case + key for key in exact}):
        yield compare_tensors(unit, case, name, exact[name.removeprefix(case)], unit.outputs[name])
    for name in sorted(unit.outputs.keys() & {case + key for key in mine}):
        here, expected = mine[name.removeprefix(case)], unit.outputs[name]
        if here.shape[-2] == real.shape[1]:  # rows of padding hold nothing of meaning
            places = real.bool() if here.ndim == 3 else real.bool()[:, None].expand(here.shape[:3])
            here, expected = here[places], expected[places]
        yield compare_tensors(unit, case, name, here, expected)


# ---------------------------------------------------------------- frames and rotary tables


def check_transform(unit: Unit) -> Iterator[Row]:
    """Frames as the video model prepares them, and rotary tables in three precisions."""
    config, inputs, outputs = unit.meta["config"], unit.inputs, unit.outputs
    colours = tuple(config["mean"]), tuple(config["std"])
    for name in sorted(inputs):
        if name.startswith("video_"):
            frames = inputs[name].permute(3, 0, 1, 2)  # [3, T, H, W]
            mine = normalise_and_crop(frames, config["image_size"], *colours).transpose(0, 1)
            output = name.replace("video", "frames")
            yield compare_tensors(unit, "", output, mine, outputs[output])
    for case, dtype, built_in in (
        ("f32", torch.float32, False),
        ("bf16_cast", torch.bfloat16, False),
        ("bf16_built", torch.bfloat16, True),
    ):
        rope = config["rope"]
        frequencies = inverse_frequencies(rope["dim"], rope["base"], dtype, built_in)
        cos, sin = rotary_angles(inputs["positions"], frequencies)
        for what, mine in (("inv_freq", frequencies), ("cos", cos), ("sin", sin)):
            name = f"rope_{case}_{what}"
            yield compare_tensors(unit, case, name, mine.float(), outputs[name])


# ---------------------------------------------------------------- released keys


def _sizes_of(shapes: Mapping[str, list[int]]) -> tuple[Eva2ClipConfig, LlamaSizes]:
    """Sizes of a whole model from the shapes of its keys; the encoder's heads leave no trace."""

    def count(prefix: str) -> int:
        return 1 + max(int(k.split(".")[prefix.count(".")]) for k in shapes if k.startswith(prefix))

    width, _, patch, _ = shapes["model.vision.patch_embedding.proj.weight"]
    rows = shapes["model.vision.patch_embedding.position_embedding.weight"][0]
    vision = Eva2ClipConfig(
        image_size=patch * round((rows - 1) ** 0.5),
        patch_size=patch,
        hidden_size=width,
        intermediate_size=shapes["model.vision.transformer.layers.0.mlp.fc1.weight"][0],
        num_layers=count("model.vision.transformer.layers."),
        num_heads=1,
    )
    attention = "model.layers.0.self_attn."
    vocabulary, width = shapes["model.embed_tokens.weight"]
    head = 2 * shapes[f"{attention}rotary_emb.inv_freq"][0]
    fused = shapes[f"{attention}language_expert_query_key_value.weight"][0]
    language = LlamaSizes(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=shapes["model.layers.0.mlp.language_mlp.up_proj.weight"][0],
        num_layers=count("model.layers."),
        num_heads=width // head,
        num_key_value_heads=(fused - width) // 2 // head,
    )
    return vision, language


def check_released_keys(unit: Unit) -> Iterator[Row]:
    """Every key of the released files has its place, names and shapes go back, counts are right."""
    for names, told in unit.meta["checkpoints"].items():
        case, shapes = names.partition(",")[0].rpartition("/")[2], told["keys"]
        vision, llama = _sizes_of(shapes)
        inner = shapes["model.vision.linear_proj.gate_proj.weight"][0]
        model = _model("meta", vision, llama, has_experts(shapes), inner)
        official = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
        ours = from_official(official, case)
        wanted = {name: tuple(t.shape) for name, t in model.state_dict().items()}
        found = {name: tuple(t.shape) for name, t in ours.items()}
        yield compare_values(unit, case, "names and shapes", found, wanted)
        frequencies = official["model.layers.0.self_attn.rotary_emb.inv_freq"]
        back = {key: list(t.shape) for key, t in to_official(ours, frequencies).items()}
        yield compare_values(unit, case, "there and back", back, shapes)
        yield compare_values(unit, case, "keys", len(back), told["n_keys"])
        yield from _check_counts(unit, case, model, told)


def _check_counts(unit: Unit, case: str, model: CogVLM2, told: Mapping) -> Iterator[Row]:
    eyes = (model.vision_encoder, model.conv, model.adapter)
    marks = model.boi.numel() + model.eoi.numel()
    parts = {
        "vision": sum(map(_count, eyes)) + marks,
        "vision.transformer": _count(model.vision_encoder.layers),
        "vision.linear_proj": _count(model.adapter),
        "vision.conv": _count(model.conv),
        "one_decoder_layer": _count(model.language_model.model.layers[0]),
    }
    for name, expected in told.get("parameter_parts", {}).items():
        yield compare_values(unit, case, f"parameters of {name}", parts.get(name), expected)
    yield compare_values(unit, case, "parameters", _count(model), told["parameters"])


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


UNITS = {
    "cogvlm2_video/eva2_clip_e": check_eyes,
    "cogvlm2_video/released_keys": check_released_keys,
    "cogvlm2_video/visual_expert_layer": check_expert_layer,
    "cogvlm2_video/video_transform": check_transform,
}
