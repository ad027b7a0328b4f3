"""Checks of the Video-ChatGPT units: pooling, labels, loss, trainable rows, released keys."""

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from vlmcourse.backbones.clip import ClipConfig, ClipEncoder
from vlmcourse.backbones.language_model import LlamaSizes, build_llama, mean_row
from vlmcourse.backbones.tokenizers import SentencePieceTokenizer
from vlmcourse.checkpoints.files import load_strict
from vlmcourse.checkpoints.video_chatgpt import (
    ROWS,
    TABLE,
    from_official,
    official_name,
    our_name,
    to_official,
)
from vlmcourse.conversation import (
    IGNORED,
    PICTURE,
    Conversation,
    ConversationError,
    Piece,
    Places,
    Special,
    Turn,
    lay_out,
    prompt_text,
    read_conversation,
    tokenise,
)
from vlmcourse.parts.pooling import (
    pooled_as_inference,
    pooled_as_training_files,
    spatio_temporal_pooling,
)
from vlmcourse.reference.rows import Row, Unit, compare_tensors, compare_values
from vlmcourse.systems.batch import Batch, Media
from vlmcourse.systems.stages import set_trainable
from vlmcourse.systems.templates import vicuna_template
from vlmcourse.systems.video_chatgpt import (
    VIDEO_TOKENS,
    VideoChatGPT,
    VideoChatGPTConfig,
)
from vlmcourse.systems.video_chatgpt_labels import length_counted_labels


def check_pooling(unit: Unit) -> Iterator[Row]:
    """CLIP features and the three ways of pooling them."""
    sizes = unit.meta["config"]["clip"]
    encoder = ClipEncoder(
        ClipConfig(
            hidden_size=sizes["hidden_size"],
            intermediate_size=sizes["intermediate_size"],
            num_layers=sizes["num_hidden_layers"],
            num_heads=sizes["num_attention_heads"],
            image_size=sizes["image_size"],
            patch_size=sizes["patch_size"],
            hidden_act=sizes["hidden_act"],
            layer_norm_eps=sizes["layer_norm_eps"],
        )
    ).eval()
    ours = {our_name(k).removeprefix("vision_encoder."): v for k, v in unit.weights.items()}
    load_strict(encoder, ours, str(unit.path))
    padded = unit.meta["config"]["num_temporal_tokens"]
    outputs, features = unit.outputs, {}
    for name, value in unit.inputs.items():
        case = name.rsplit("_", 1)[-1]
        if name.startswith("frame_features_"):
            features[case] = value
            continue
        with torch.no_grad():
            states = encoder.hidden_states(value)
            features[case] = encoder(value)
            last = encoder.model(value).last_hidden_state
        for output, mine in (
            ("frame_features", features[case]),
            ("hidden_minus2_with_cls", states[-1]),
            ("hidden_0_after_pre_layernorm", states[0]),
            ("last_hidden_state", last),
        ):
            if f"{output}_{case}" in outputs:
                yield compare_tensors(unit, case, output, mine, outputs[f"{output}_{case}"])
    for case, mine in features.items():
        official = outputs.get(f"frame_features_{case}", mine)
        ways = {
            "pooled": spatio_temporal_pooling(mine[None], num_temporal=padded)[0][0],
            # pooling alone, from the official features: a half-precision step hides nothing else
            "pooled_numpy_fp16": pooled_as_training_files(official, padded).float(),
            "pooled_torch_half": pooled_as_inference(official, padded).float(),
        }
        for output, pooled in ways.items():
            expected = outputs.get(f"{output}_{case}")
            if expected is not None:
                half = output != "pooled"
                atol = 2**-10 * float(expected.abs().max()) if half else 1e-5
                yield compare_tensors(unit, case, output, pooled, expected, atol)


def check_labels(unit: Unit) -> Iterator[Row]:
    """Token ids and labels of whole conversations, and of prompts with both kinds of tokenizer."""
    config = unit.meta["config"]
    named = re.search(r"\S+\.model", config["tokenizer"])
    model = unit.path.parent / (named.group() if named else "tokenizer.model")
    slow, fast = (SentencePieceTokenizer(model, style) for style in ("slow", "fast"))
    for tokenizer in (slow, fast):
        tokenizer.add_tokens(VIDEO_TOKENS)
    template = vicuna_template(
        "reference",
        config["system_message_used_here"],
        tuple(config["roles"]),
        config["sep"],
        config["sep2"],
    )
    for case in unit.meta["cases"]:
        name, limit = case["name"], case["model_max_length"]
        conversation = read_conversation({"conversations": case["conversation"]})
        pieces = lay_out(conversation, template, lambda _, n=case["video_tokens"]: _video(n))
        prompt = prompt_text(pieces).removeprefix(slow.bos_token)
        ids = slow.encode_prompt(prompt)[:limit]
        labels = length_counted_labels(
            prompt,
            ids,
            lambda text: len(slow.encode_prompt(text)),
            slow.pad_id,
            limit,
            answer_mark=f"{config['sep']}{config['roles'][1]}: ",
            end_mark=config["sep2"],
        )
        expected_ids = unit.outputs[f"input_ids_{name}"]
        expected_labels = unit.outputs[f"labels_{name}"]
        yield compare_tensors(unit, name, "input_ids", torch.tensor(ids), expected_ids)
        yield compare_tensors(unit, name, "labels", torch.tensor(labels), expected_labels)
        try:
            row = tokenise(pieces, slow, limit)
        except ConversationError:
            continue  # the cut goes through the video, which the model itself would refuse
        yield compare_tensors(unit, name, "ids from pieces", torch.tensor(row.ids), expected_ids)
        if bool((expected_labels != IGNORED).any()):
            mine = torch.tensor(row.labels)
            yield compare_tensors(unit, name, "labels from pieces", mine, expected_labels)
    for prompt in unit.meta.get("inference", []):
        yield from _check_prompt(unit, prompt, template, slow, fast)


def _check_prompt(unit: Unit, prompt: dict, template, slow, fast) -> Iterator[Row]:
    mode, text = prompt["mode"], prompt["prompt"]
    count = int(re.search(r"<vid_patch>\*(\d+)", text).group(1))
    role = re.escape(unit.meta["config"]["roles"][0])
    question = re.search(rf"{role}: (.*?)\n<vid_start>", text, re.DOTALL).group(1)
    conversation = Conversation((Turn("user", f"{question}\n<video>"),))
    pieces = lay_out(conversation, template, lambda _: _video(count))
    for tokenizer, style in ((slow, ""), (fast, "fast_")):
        ids = torch.tensor(tokenise(pieces, tokenizer).ids)
        name = f"inference_ids_{style}{mode}"
        yield compare_tensors(unit, mode, name, ids, unit.outputs[name])


def _video(count: int) -> tuple[Piece, ...]:
    patch, start, end = VIDEO_TOKENS
    return Special(start), Places(PICTURE, count, patch), Special(end)


def _tiny_model(unit: Unit) -> tuple[VideoChatGPT, Batch]:
    """The model of a loss unit with its weights, and its inputs as a batch."""
    config, sizes = unit.meta["config"], unit.meta["config"]["llama"]
    llama = build_llama(
        LlamaSizes(
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
    )
    settings = VideoChatGPTConfig(base_vocabulary=config["special_token_ids"]["<vid_patch>"])
    ids = tuple(config["special_token_ids"][token] for token in VIDEO_TOKENS)
    if ids != settings.token_ids:
        raise ValueError(f"the video tokens have the ids {ids}, not one after the other")
    model = VideoChatGPT(settings, llama, None, None, vision_width=config["mm_hidden_size"])
    load_strict(model, from_official(unit.weights, settings.token_ids), str(unit.path))
    inputs = unit.inputs
    places = inputs["input_ids"] == ids[0]
    rows = places.any(1).nonzero()[:, 0]  # a text-only sample has features that nobody reads
    pooled = inputs["video_spatio_temporal_features"][rows]
    media = Media(
        frame_mask=torch.ones(len(rows), 1, dtype=torch.bool),
        times_s=torch.zeros(len(rows), 1),
        rows=rows,
        extras={"pooled": pooled},
    )
    batch = Batch(
        ids=inputs["input_ids"],
        attention=inputs["attention_mask"].bool(),
        kinds=places.long() * PICTURE,
        labels=inputs["labels"],
        pictures=media if len(rows) else None,
    )
    return model, batch


def check_loss(unit: Unit) -> Iterator[Row]:
    """Projection, splicing, hidden states, logits, loss and gradients of a batch."""
    model, batch = _tiny_model(unit)
    outputs, real = unit.outputs, batch.attention
    hidden: dict[str, Tensor] = {}
    layers = model.language_model.get_decoder().layers
    for number, layer in enumerate(layers, start=1):
        layer.register_forward_hook(
            lambda _, __, out, n=number: hidden.__setitem__(f"hidden_layer_{n}", out)
        )
    set_trainable(model, ("projector.*", "token_rows.weight", f"language_{'model.' + TABLE}"))
    with torch.no_grad():
        features = unit.inputs["video_spatio_temporal_features"]
        hidden["projected"] = model.projector(features)
        hidden["inputs_embeds"] = model.embed(batch)
        hidden["hidden_final"] = model.hidden_states(batch)
        hidden["logits"] = model.logits(batch)
    for name, mine in hidden.items():
        if name not in outputs:
            continue
        whole = name in ("projected", "inputs_embeds")
        pair = (mine, outputs[name]) if whole else (mine[real], outputs[name][real])
        yield compare_tensors(unit, "", name, *pair)
    result = model(batch)
    result.loss.backward()
    rows = len(batch.ids)
    sums = torch.zeros(rows).index_add(0, result.rows, result.token_loss.detach())
    counts = torch.bincount(result.rows, minlength=rows)
    yield compare_tensors(unit, "", "loss", result.loss, outputs["loss"])
    if "loss_sum_per_sample" in outputs:
        expected = outputs["loss_sum_per_sample"]
        yield compare_tensors(unit, "", "loss_sum_per_sample", sums, expected, atol=1e-4)
    if "target_count_per_sample" in outputs:
        expected = outputs["target_count_per_sample"]
        yield compare_tensors(unit, "", "target_count_per_sample", counts, expected)
    gradients = _official_gradients(model)
    for name in outputs:
        kind, _, key = name.partition("/")
        if kind == "grad":
            yield compare_tensors(unit, "", name, gradients[key], outputs[name])
        elif kind == "grad_rows01":
            yield compare_tensors(unit, "", name, gradients[key][:2], outputs[name])


def _official_gradients(model: VideoChatGPT) -> dict[str, Tensor]:
    """Gradients under official names; those of `token_rows` in their places of the table."""
    gradients = {
        official_name(name): torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in model.named_parameters()
        if name != ROWS
    }
    whole = gradients[TABLE].clone()
    if model.token_rows.weight.grad is not None:
        whole[list(model.token_rows.ids)] += model.token_rows.weight.grad
    return gradients | {TABLE: whole}


def check_trainable_rows(unit: Unit) -> Iterator[Row]:
    """First values of the new rows, and what one optimiser step moves."""
    model, batch = _tiny_model(unit)
    outputs, base = unit.outputs, unit.meta["config"]["base_vocab"]
    for key, table in ((TABLE, "base_embed_tokens"), ("lm_head.weight", "base_lm_head")):
        grown = torch.cat([unit.inputs[table], unit.weights[key][base : base + 1]])
        first = mean_row(grown).expand(2, -1)
        yield compare_tensors(unit, "", f"new rows of {key}", first, unit.weights[key][base + 1 :])
    settings = unit.meta["config"]["optimiser"]
    if settings["name"] != "AdamW":
        raise ValueError(f"the optimiser is {settings['name']}, not AdamW")
    set_trainable(model, model.stages("paper")[-1].trains)
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=settings["lr"],
        betas=tuple(settings["betas"]),
        eps=settings["eps"],
        weight_decay=settings["weight_decay"],
    )
    for step in range(settings["steps"]):
        optimiser.zero_grad()
        loss = model(batch).loss
        loss.backward()
        if step == 0:
            yield from _check_first_gradients(unit, model, loss)
        optimiser.step()
    after = to_official(model.state_dict(), model.config.token_ids)
    yield compare_tensors(
        unit, "", "embedding_after_step", after[TABLE], outputs["embedding_after_step"]
    )
    yield compare_tensors(
        unit,
        "",
        "projector_bias_after_step",
        after["model.mm_projector.bias"],
        outputs["projector_bias_after_step"],
    )


def _check_first_gradients(unit: Unit, model: VideoChatGPT, loss: Tensor) -> Iterator[Row]:
    gradients = _official_gradients(model)
    table = gradients[TABLE]
    for output, mine in (
        ("loss", loss),
        ("embedding_grad_rows", table),
        ("projector_grad_bias", gradients["model.mm_projector.bias"]),
        ("projector_grad_weight_row0", gradients["model.mm_projector.weight"][0]),
        ("rows_with_gradient", table.abs().sum(1).nonzero()[:, 0]),
    ):
        yield compare_tensors(unit, "", output, mine, unit.outputs[output])


def check_released_keys(unit: Unit) -> Iterator[Row]:
    """Every official key has a place of its own shape in our model of that size, and back."""
    meta = unit.meta
    language = dict(meta["non_layer_keys_full_model"])
    depth = 0
    for pattern, shape in meta["llm_layer_keys_pattern"].items():
        first, last = map(int, re.search(r"<(\d+)\.\.(\d+)>", pattern).groups())
        depth = last + 1
        for index in range(first, last + 1):
            language[re.sub(r"<.*?>", str(index), pattern)] = shape
    clip = meta["clip_vision_tower"]["keys"]
    model = _meta_model(language, clip, depth)
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    groups = {
        "released checkpoint": meta["released_checkpoint"]["keys"],
        "language model and projector": language,
        "clip vision tower": clip,
    }
    for name, keys in groups.items():
        there = {key: own.get(our_name(key)) for key in keys}
        back = [official_name(our_name(key)) for key in keys]
        yield compare_values(
            unit, name, "shapes", there, {key: tuple(shape) for key, shape in keys.items()}
        )
        yield compare_values(unit, name, "names there and back", back, list(keys))
    covered = {our_name(key) for keys in groups.values() for key in keys} | {ROWS}
    yield compare_values(unit, "ours", "names without an official key", own.keys() - covered, set())
    official = to_official(model.state_dict(), model.config.token_ids)
    again = from_official(official, model.config.token_ids)
    yield compare_values(unit, "ours", "state dict there and back", again.keys(), own.keys())


def _meta_model(language: dict, clip: dict, depth: int) -> VideoChatGPT:
    """The model on the meta device, with sizes read from the shapes of its keys."""
    rows, width = language[TABLE]
    inner = language["model.layers.0.mlp.gate_proj.weight"][0]
    key_value = language["model.layers.0.self_attn.k_proj.weight"][0]
    head = 128 if width % 128 == 0 else width
    patches, clip_width = clip["vision_model.embeddings.position_embedding.weight"]
    patch = clip["vision_model.embeddings.patch_embedding.weight"][-1]
    layers = 1 + max(int(m.group(1)) for k in clip if (m := re.search(r"layers\.(\d+)\.", k)))
    with torch.device("meta"):
        encoder = ClipEncoder(
            ClipConfig(
                hidden_size=clip_width,
                intermediate_size=clip["vision_model.encoder.layers.0.mlp.fc1.weight"][0],
                num_layers=layers,
                num_heads=max(clip_width // 64, 1),
                image_size=patch * round((patches - 1) ** 0.5),
                patch_size=patch,
            )
        )
        llama = build_llama(LlamaSizes(rows, width, inner, depth, width // head, key_value // head))
        config = VideoChatGPTConfig(base_vocabulary=rows - len(VIDEO_TOKENS))
        return VideoChatGPT(config, llama, encoder, None)


UNITS = {
    "video_chatgpt/spatio_temporal_pooling": check_pooling,
    "video_chatgpt/video_chatgpt_labels": check_labels,
    "video_chatgpt/video_chatgpt_loss": check_loss,
    "video_chatgpt/video_chatgpt_trainable_rows": check_trainable_rows,
    "video_chatgpt/released_keys": check_released_keys,
}
