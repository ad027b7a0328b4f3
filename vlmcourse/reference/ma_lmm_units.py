"""Checks of the MA-LMM units: merging, Q-Former with banks, loss, gradients, beams, keys."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmcourse.backbones.eva_clip import EvaClipConfig, EvaClipEncoder
from vlmcourse.backbones.language_model import LlamaSizes, build_llama
from vlmcourse.checkpoints.files import load_strict
from vlmcourse.checkpoints.ma_lmm import (
    TRAINED_PARTS,
    from_official,
    is_dropped,
    official_name,
    our_name,
)
from vlmcourse.conversation import IGNORED, PICTURE, TEXT
from vlmcourse.parts.memory_bank import MemoryBank, append, compress, neighbour_similarity
from vlmcourse.parts.memory_qformer import MemoryState, step
from vlmcourse.reference.rows import Row, Unit, compare_tensors, compare_values
from vlmcourse.systems.batch import Batch, Media
from vlmcourse.systems.ma_lmm import VICUNA, MaLmm, MaLmmConfig, build_paper
from vlmcourse.systems.stages import set_trainable

LOSS_ATOL = 1e-4
"""Of logits, losses and gradients: long sums over three models in a row."""


# ---------------------------------------------------------------- merging


def check_compress(unit: Unit) -> Iterator[Row]:
    """One merge of given banks; and frames that arrive one by one at a bank with a capacity."""
    outputs = unit.outputs
    for case, config in unit.meta["config"]["cases"].items():
        if "memory_bank_length" in config:
            yield from _check_chain(unit, case, config["memory_bank_length"])
            continue
        bank = MemoryBank(unit.inputs[f"{case}/bank"], unit.inputs[f"{case}/size"])
        similarity, merged = neighbour_similarity(bank.entries), compress(bank)
        for name, mine in (
            ("similarity", similarity),
            ("merge_index", similarity.argmax(1)),
            ("bank", merged.entries),
            ("size", merged.sizes),
        ):
            yield compare_tensors(unit, case, name, mine, outputs[f"{case}/{name}"])


def _check_chain(unit: Unit, case: str, capacity: int) -> Iterator[Row]:
    bank = None
    for index, frame in enumerate(unit.inputs[f"{case}/frames"].unbind(1)):
        bank, name = append(bank, frame, capacity), f"step{index:02d}"
        for what, mine in (("bank", bank.entries), ("size", bank.sizes)):
            expected = unit.outputs[f"{case}/{name}/{what}"]
            yield compare_tensors(unit, case, f"{name} {what}", mine, expected)


# ---------------------------------------------------------------- models of a unit


def tiny_model(unit: Unit, capacity: int) -> MaLmm:
    """The model of a unit with its weights, which come in through the map of released keys.

    A part of which the unit holds no weight stays random; one of which it holds some must be whole.

    Args:
        capacity: entries of both banks; 0: every frame by itself.
    """
    config, former = unit.meta["config"], unit.meta["config"]["qformer"]
    width = config["vision_width"] if "vision_width" in config else config["vit"]["embed_dim"]
    settings = MaLmmConfig(
        max_frames=config["max_num_frames"],
        visual_memory=capacity,
        query_memory=capacity,
        reader="memory" if capacity else "frames",
        num_queries=config["num_query_token"],
        vision_width=width,
        qformer_width=former["hidden_size"],
        qformer_layers=former["num_hidden_layers"],
        qformer_heads=former["num_attention_heads"],
        qformer_inner=former["intermediate_size"],
        qformer_cross=former["cross_attention_freq"],
        qformer_vocabulary=former["vocab_size"],
        qformer_positions=former["max_position_embeddings"],
    )
    model = MaLmm(settings, build_llama(_llama(config)), _encoder(config), None)
    model.vision_norm.eps = config.get("ln_vision", {}).get("eps", config.get("ln_vision_eps"))
    ours = from_official(unit.weights, str(unit.path))
    for part, module in model.named_children():
        own = {n.removeprefix(f"{part}."): t for n, t in ours.items() if n.startswith(f"{part}.")}
        if own:
            load_strict(module, own, f"{unit.path} ({part})")
    return model.eval()


def _llama(config: dict) -> LlamaSizes:
    sizes = config.get("llama")
    if sizes is None:
        return LlamaSizes(8, config["llm_hidden"], config["llm_hidden"], 1, 1)
    return LlamaSizes(
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["intermediate_size"],
        num_layers=sizes["num_hidden_layers"],
        num_heads=sizes["num_attention_heads"],
        num_key_value_heads=sizes.get("num_key_value_heads"),
        rms_norm_eps=sizes["rms_norm_eps"],
        rope_theta=sizes["rope_theta"],
        tie_embeddings=sizes.get("tie_word_embeddings", False),
    )


def _encoder(config: dict) -> EvaClipEncoder | None:
    if "vit" not in config:
        return None
    sizes = config["vit"]
    return EvaClipEncoder(
        EvaClipConfig(
            image_size=sizes["img_size"],
            patch_size=sizes["patch_size"],
            hidden_size=sizes["embed_dim"],
            num_layers=sizes["depth"],
            num_heads=sizes["num_heads"],
            mlp_ratio=sizes["mlp_ratio"],
            norm_eps=sizes["layer_norm_eps"],
        ),
        normed=False,
    )


# ---------------------------------------------------------------- Q-Former with its banks


@torch.no_grad()
def check_qformer(unit: Unit) -> Iterator[Row]:
    """Every frame of every case: what is seen, what comes out, what is kept; and without banks."""
    config = unit.meta["config"]
    for case, told in config["cases"].items():
        capacity = told.get("memory_bank_length", config["memory_bank_length"])
        model = tiny_model(unit, capacity)
        inputs = {n: unit.inputs[f"{case}/{n}"] for n in ("features", "text_ids", "text_mask")}
        if capacity:
            yield from _check_steps(unit, case, model, inputs, capacity)
        yield from _check_whole(unit, case, model, inputs)


def _check_steps(
    unit: Unit, case: str, model: MaLmm, inputs: dict[str, Tensor], capacity: int
) -> Iterator[Row]:
    frames, state, merges = model.placed(inputs["features"]), None, 0
    text = {"text_ids": inputs["text_ids"], "text_mask": inputs["text_mask"].bool()}
    for index, frame in enumerate(frames.unbind(1)):
        seen = [] if state is None else [state.visual.entries.flatten(1, 2)]
        out, state = step(
            model.qformer, frame, state, **text, visual_capacity=capacity, query_capacity=capacity
        )
        found = {
            "encoder_hidden_states": torch.cat([*seen, frame], 1),
            "query_output": out.hidden_states[-1],
            **_banks(state, model.config.num_queries),
        }
        for name, mine in found.items():
            full = f"{case}/step{index:02d}/{name}"
            if full in unit.outputs:
                yield compare_tensors(unit, case, full.partition("/")[2], mine, unit.outputs[full])
        merged = f"{case}/visual_size.compress{merges:02d}"
        if index >= capacity and merged in unit.outputs:
            expected = unit.outputs[merged]
            yield compare_tensors(
                unit, case, merged.partition("/")[2], state.visual.sizes, expected
            )
            merges += 1


def _banks(state: MemoryState, num_queries: int) -> dict[str, Tensor]:
    found = {}
    for layer, bank in enumerate(state.queries):
        found[f"query_bank.layer{layer}"] = bank.entries
        found[f"query_size.layer{layer}"] = bank.sizes[:, :, :num_queries]
    return found


def _check_whole(unit: Unit, case: str, model: MaLmm, inputs: dict[str, Tensor]) -> Iterator[Row]:
    """The system's own way through all frames."""
    features, outputs = inputs["features"], unit.outputs
    there = torch.ones(features.shape[:2], dtype=torch.bool)
    text = (inputs["text_ids"], inputs["text_mask"].bool())
    tokens = model.read_frames(features, there, *text)
    for name, mine in (
        ("final_query_output", tokens),
        ("query_output", tokens.unflatten(1, (-1, model.config.num_queries)).flatten(0, 1)),
        ("inputs_llm", model.connect(features, there, torch.zeros(there.shape), *text)[0]),
    ):
        if f"{case}/{name}" in outputs:
            yield compare_tensors(unit, case, name, mine, outputs[f"{case}/{name}"])


# ---------------------------------------------------------------- the whole system


def check_loss(unit: Unit) -> Iterator[Row]:
    """Rows, labels, logits, loss, every given gradient, and what generation makes of prompts."""
    model = tiny_model(unit, unit.meta["config"]["memory_bank_length"])
    trained = {our_name(key) for key in unit.weights if our_name_trains(key)}
    count = unit.meta["trainable_parameters_in_official_setting"]["count"]
    set_trainable(model, model.stages("paper")[0].trains)
    moving = {name for name, p in model.named_parameters() if p.requires_grad}
    yield compare_values(unit, "", "trainable names", moving, trained)
    yield compare_values(unit, "", "trainable count", len(moving), count)
    batch = training_batch(unit)
    yield from _check_features(unit, model, batch)
    yield from _check_rows(unit, model, batch)
    yield from _check_gradients(unit, model, batch)
    yield from _check_generation(unit, model)


def our_name_trains(official: str) -> bool:
    """Whether an official key is one of a part that trains."""
    return not is_dropped(official) and our_name(official).startswith(TRAINED_PARTS)


def _media(unit: Unit) -> Media:
    frames, inputs = unit.inputs["frames"].transpose(1, 2), unit.inputs  # [B, T, 3, H, W]
    there = torch.ones(frames.shape[:2], dtype=torch.bool)
    mask = inputs["qformer_text_mask"].bool()
    extras = {"instruction": inputs["qformer_text_ids"], "instruction_mask": mask}
    return Media(there, torch.zeros(there.shape), inputs=frames, extras=extras)


def training_batch(unit: Unit) -> Batch:
    """Queries' places, instruction, answer and end of every sample, then all that is padding."""
    inputs, config = unit.inputs, unit.meta["config"]
    pad, places = config["tokenizer_ids"]["pad"], config["num_query_token"]
    texts, answers = inputs["llm_text_input_ids"], inputs["llm_text_output_ids"]
    length = places + texts.shape[1] + answers.shape[1] - 1
    ids = torch.full((len(texts), length), pad)
    labels, attention = torch.full_like(ids, IGNORED), torch.zeros_like(ids, dtype=torch.bool)
    for row, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        text = text[inputs["llm_text_input_mask"][row].bool()]
        answer = answer[inputs["llm_text_output_mask"][row].bool()][1:]
        first, end = places + len(text), places + len(text) + len(answer)
        ids[row, places:end] = torch.cat([text, answer])
        labels[row, first:end] = answer
        attention[row, :end] = True
    return Batch(ids, attention, _kinds(ids, places), labels, pictures=_media(unit))


def _kinds(ids: Tensor, places: int) -> Tensor:
    kinds = torch.full_like(ids, TEXT)
    kinds[:, :places] = PICTURE
    return kinds


@torch.no_grad()
def _check_features(unit: Unit, model: MaLmm, batch: Batch) -> Iterator[Row]:
    media = batch.pictures
    features = model._features(media, model.encode_frames)
    placed = model.placed(features)
    told = (media.extras["instruction"], media.extras["instruction_mask"])
    positions = model.frame_positions.weight[: features.shape[1], None]
    tokens, _ = model.connect(features, media.frame_mask, media.times_s, *told)
    for name, mine in (
        ("vision_ln", placed - positions),
        ("final_query_output", model.read_frames(features, media.frame_mask, *told)),
        ("inputs_llm", tokens),
    ):
        yield compare_tensors(unit, "", name, mine, unit.outputs[name])


@torch.no_grad()
def _check_rows(unit: Unit, model: MaLmm, batch: Batch) -> Iterator[Row]:
    places, outputs, real = unit.meta["config"]["num_query_token"], unit.outputs, batch.attention
    for name, mine in (
        ("llm_input_ids", batch.ids[:, places:]),
        ("llm_text_attention_mask", real[:, places:].long()),
        ("attention_mask", real.long()),
        ("labels", batch.labels),
        ("inputs_embeds", model.embed(batch)),
        ("loss", model(batch).loss[None]),
    ):
        yield compare_tensors(unit, "", name, mine, outputs[name], LOSS_ATOL)
    # at padding the official positions run on; nothing looks there
    logits = model.logits(batch)[real]
    yield compare_tensors(unit, "", "logits", logits, outputs["logits"][real], LOSS_ATOL)


def _check_gradients(unit: Unit, model: MaLmm, batch: Batch) -> Iterator[Row]:
    with torch.enable_grad():
        model(batch).loss.backward()
    grads = {official_name(n): p.grad for n, p in model.named_parameters() if p.requires_grad}
    given = [name for name in unit.outputs if name.startswith("grad/")]
    for name in given:
        mine = grads[name.removeprefix("grad/")]
        mine = torch.zeros_like(unit.outputs[name]) if mine is None else mine
        yield compare_tensors(unit, "", name, mine, unit.outputs[name], LOSS_ATOL)
    without = [name for name, grad in grads.items() if grad is None or not bool(grad.any())]
    expected = unit.meta["trainable_but_zero_gradient_here"]
    yield compare_values(unit, "", "without gradient", sorted(without), sorted(expected))


@torch.no_grad()
def _check_generation(unit: Unit, model: MaLmm) -> Iterator[Row]:
    places, outputs = unit.meta["config"]["num_query_token"], unit.outputs
    text, mask = unit.inputs["gen_prompt_ids"], unit.inputs["gen_prompt_mask"].bool()
    ids = F.pad(text, (places, 0), value=unit.meta["config"]["tokenizer_ids"]["pad"])
    attention = F.pad(mask, (places, 0), value=True)
    batch = Batch(ids, attention, _kinds(ids, places), pictures=_media(unit))
    inputs, embeddings = model.language_inputs(batch), model.embed(batch)
    positions = inputs["position_ids"].masked_fill(~attention, 1)  # as there, and without effect
    first = model.language_model(inputs_embeds=embeddings, **inputs).logits[:, -1]
    beams = _beams(unit.meta["config"]["generation"], model, embeddings, inputs)
    for name, mine in (
        ("inputs_embeds", embeddings),
        ("attention_mask", attention.long()),
        ("position_ids", positions),
        ("first_logits", first),
        ("beam_ids", beams),
    ):
        yield compare_tensors(unit, "gen", name, mine, outputs[f"gen/{name}"], LOSS_ATOL)


def _beams(settings: dict[str, Any], model: MaLmm, embeddings: Tensor, inputs: dict) -> Tensor:
    """Returned beams, best first. The old library begins the answer of a prompt of embeddings with
    the begin token, which counts as repeated, and as one token of `max_length`."""
    from transformers import GenerationConfig

    known = {name: value for name, value in settings.items() if name != "max_length"}
    config = GenerationConfig(**known, max_new_tokens=settings["max_length"] - 1)
    begin = torch.full((len(embeddings), 1), settings["bos_token_id"])
    return model.language_model.generate(
        begin, inputs_embeds=embeddings, generation_config=config, **inputs
    )


# ---------------------------------------------------------------- released keys


def check_released_keys(unit: Unit) -> Iterator[Row]:
    """Every key has a place of its shape; a checkpoint is exactly what trains."""
    meta = unit.meta
    width = meta["trainable_module_keys"]["llm_proj.weight"][0]
    model = build_paper("meta", llama=replace(VICUNA, hidden_size=width))
    own = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for group in ("trainable_module_keys", "frozen_visual_encoder_keys"):
        kept = {key: shape for key, shape in meta[group].items() if not is_dropped(key)}
        places = {key: own.get(our_name(key)) for key in kept}
        back = [official_name(our_name(key)) for key in kept]
        yield compare_values(unit, group, "shapes", places, kept)
        yield compare_values(unit, group, "names there and back", back, list(kept))
        mine = {our_name(key) for key in kept}
        parts = TRAINED_PARTS if group.startswith("trainable") else ("vision_encoder.",)
        whole = {name for name in own if name.startswith(parts)}
        yield compare_values(unit, group, "whole part", mine, whole)
    buffers = [f"llm_model.model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(32)]
    yield compare_values(unit, "", "buffers are dropped", all(map(is_dropped, buffers)), True)
    kept = [s for key, s in meta["trainable_module_keys"].items() if not is_dropped(key)]
    numbers = sum(int(torch.Size(shape).numel()) for shape in kept)
    for stage in model.stages("paper"):
        set_trainable(model, stage.trains)
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        yield compare_values(unit, stage.name, "trainable parameters", count, numbers)


UNITS = {
    "ma_lmm/memory_bank_compress": check_compress,
    "ma_lmm/ma_lmm_qformer": check_qformer,
    "ma_lmm/ma_lmm_loss": check_loss,
    "ma_lmm/released_keys": check_released_keys,
}
