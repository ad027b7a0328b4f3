"""Checks of the Video-LLaMA units: both branches, losses, released keys."""

import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vlmcourse.backbones.eva_clip import EvaClipConfig, EvaClipEncoder
from vlmcourse.backbones.imagebind import (
    ImageBind,
    ImageBindAudioConfig,
    ImageBindConfig,
    ImageBindVisionConfig,
)
from vlmcourse.backbones.language_model import LlamaSizes, build_llama
from vlmcourse.checkpoints.files import load_strict
from vlmcourse.checkpoints.video_llama import (
    AUDIO_PARTS,
    VISION_PARTS,
    from_official,
    is_dropped,
    official_name,
    our_name,
)
from vlmcourse.conversation import IGNORED, PICTURE, SOUND, TEXT
from vlmcourse.parts.qformer import QFormer, QFormerConfig
from vlmcourse.reference.rows import Row, Unit, compare_tensors, compare_values
from vlmcourse.reference.video_llama_text_units import check_conversation, check_texts
from vlmcourse.systems.batch import Batch, Media
from vlmcourse.systems.stages import set_trainable
from vlmcourse.systems.video_llama import VideoLlama, VideoLlamaConfig, build_paper

LOSS_ATOL = 1e-4
"""Of logits and losses: long sums over two models in a row."""


# ---------------------------------------------------------------- models of a unit


def _qformer(sizes: dict) -> QFormerConfig:
    return QFormerConfig(
        hidden_size=sizes["hidden_size"],
        num_layers=sizes["num_hidden_layers"],
        num_heads=sizes["num_attention_heads"],
        intermediate_size=sizes["intermediate_size"],
        encoder_width=sizes["encoder_width"],
        cross_attention_freq=sizes["cross_attention_freq"],
        num_queries=sizes["num_query_token"],
        layer_norm_eps=sizes["layer_norm_eps"],
    )


def _encoder(sizes: dict) -> EvaClipEncoder:
    return EvaClipEncoder(
        EvaClipConfig(
            image_size=sizes["image_size"],
            patch_size=sizes["patch_size"],
            hidden_size=sizes["embed_dim"],
            num_layers=sizes["depth"],
            num_heads=sizes["num_heads"],
            mlp_ratio=sizes["mlp_ratio"],
            norm_eps=sizes["eps"],
            vision_norm_eps=sizes["ln_vision_eps"],
        )
    )


def _imagebind(sizes: dict) -> ImageBind:
    sound, vision = sizes["audio"], sizes["vision"]
    return ImageBind(
        ImageBindConfig(
            ImageBindAudioConfig(
                num_mels=sound["num_mel_bins"],
                num_steps=sound["target_length"],
                patch_size=sound["kernel"],
                patch_stride=sound["stride"],
                hidden_size=sound["embed_dim"],
                num_layers=sound["num_blocks"],
                num_heads=sound["num_heads"],
                out_width=sizes["out_embed_dim"],
            ),
            ImageBindVisionConfig(
                image_size=vision["image_size"],
                patch_size=vision["patch"],
                hidden_size=vision["embed_dim"],
                num_layers=vision["num_blocks"],
                num_heads=vision["num_heads"],
                out_width=sizes["out_embed_dim"],
            ),
        )
    )


def _llama(config: dict) -> nn.Module:
    sizes = config.get("llama")
    if sizes is None:
        width = config["llm_hidden"]
        return build_llama(LlamaSizes(8, width, width, 1, 1))
    return build_llama(
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


def tiny_model(unit: Unit) -> VideoLlama:
    """The model of a unit with its weights, which come in through the map of released keys.

    A branch of which the unit holds no weight stays random; one of which it holds some must be
    whole.
    """
    config = unit.meta["config"]
    video, audio = config["video_qformer"], config.get("audio_qformer", config["video_qformer"])
    imagebind = _imagebind(config["imagebind"]) if "imagebind" in config else None
    positions = config.get("audio_position_embedding", {"num": 8, "dim": 8})
    settings = VideoLlamaConfig(
        max_frames=config["max_frame_pos"],
        num_image_queries=config["image_qformer"]["num_query_token"],
        num_video_queries=video["num_query_token"],
        num_audio_queries=audio["num_query_token"],
        num_sound_clips=positions["num"],
        image_width=config["image_qformer"]["hidden_size"],
        sound_width=positions["dim"],
        qformer_width=video["hidden_size"],
        qformer_heads=video["num_attention_heads"],
        official_padding=True,
    )
    model = VideoLlama(
        settings,
        _llama(config),
        _encoder(config["vit"]),
        None,
        QFormer(_qformer(config["image_qformer"])),
        imagebind,
    )
    model.video_qformer, model.audio_qformer = QFormer(_qformer(video)), QFormer(_qformer(audio))
    width = config["llm_hidden"]
    model.audio_llama_proj = nn.Linear(audio["hidden_size"], width)
    ours = from_official(unit.weights, str(unit.path))
    halves = ("imagebind.audio", "imagebind.vision")
    for part in (*halves, *(name for name, _ in model.named_children() if name != "imagebind")):
        own = {n.removeprefix(f"{part}."): t for n, t in ours.items() if n.startswith(f"{part}.")}
        if own:
            load_strict(model.get_submodule(part), own, f"{unit.path} ({part})")
    return model.eval()


def _media(inputs: Tensor) -> Media:
    """Media of `[V, T, ...]`, all frames there."""
    there = torch.ones(inputs.shape[:2], dtype=torch.bool)
    return Media(there, torch.zeros(inputs.shape[:2]), inputs=inputs)


# ---------------------------------------------------------------- branches


@torch.no_grad()
def check_vision(unit: Unit) -> Iterator[Row]:
    """Frames to language-model tokens, every step of the way; and one image."""
    model, outputs = tiny_model(unit), unit.outputs
    frames = unit.inputs["frames"].transpose(1, 2)  # [B, T, 3, H, W]
    flat = frames.flatten(0, 1)
    pictures, image = _media(frames), _media(unit.inputs["image"][:, None])
    seen: dict[str, Tensor] = {}
    model.video_qformer.register_forward_pre_hook(lambda _, args: seen.update(read=args[0]))
    features = model._features(pictures, model.encode_frames)
    tokens, mask = model.connect(features, pictures.frame_mask, pictures.times_s)
    seen["video_qformer_in"] = seen["read"]
    seen["video_qformer_out"] = model.read_frames(features, pictures.frame_mask).tokens
    alone = model._features(image, model.encode_frames)
    single, _ = model.connect(alone, image.frame_mask, image.times_s)
    for name, mine in (
        ("vit_tokens", model.vision_encoder(flat, raw=True)),
        ("ln_vision_tokens", model.vision_encoder(flat)),
        ("image_qformer_out", model.encode_frames(flat)),
        ("video_qformer_in", seen["video_qformer_in"]),
        ("video_qformer_out", seen["video_qformer_out"]),
        ("llm_inputs", tokens),
        ("llm_mask", mask.long()),
        ("llm_inputs_single_image", single),
    ):
        yield compare_tensors(unit, "", name, mine, outputs[name])


@torch.no_grad()
def check_audio(unit: Unit) -> Iterator[Row]:
    """Sound, and pictures in the place of sound, to language-model tokens."""
    model, outputs = tiny_model(unit), unit.outputs
    seen: dict[str, Tensor] = {}
    model.audio_qformer.register_forward_pre_hook(lambda _, args: seen.update(read=args[0]))
    for case, given in (("audio", "audio"), ("vision", "frames")):
        sounds = _media(unit.inputs[given])
        features = model._features(sounds, model.encode_sound)  # [B, M, 1, D]
        tokens, mask = model.connect_sound(features, sounds.frame_mask, sounds.times_s)
        for name, mine in (
            ("embedding", features[:, :, 0]),
            ("qformer_in", seen["read"]),
            ("qformer_out", model.read_sound(features, sounds.frame_mask).tokens),
            ("llm_inputs", tokens),
        ):
            # ImageBind's lengths of 20 lift rounding as much
            atol = 1e-4 if case == "audio" else 1e-5
            expected = outputs[f"{case}_{name}"]
            yield compare_tensors(unit, case, name, mine, expected, atol)
        yield compare_tensors(unit, case, "llm_mask", mask.long(), outputs["llm_mask"])


# ---------------------------------------------------------------- losses


def check_loss(unit: Unit) -> Iterator[Row]:
    """Both caption forms and both kinds of conversation: sequence, mask, labels, logits, loss."""
    model, config, inputs = tiny_model(unit), unit.meta["config"], unit.inputs
    listens = config["branch"] == "audio"
    frames = _media(inputs["frames"].transpose(1, 2))  # [B, T, 3, H, W]
    images = _media(inputs["images"][:, None])
    cases = {
        "caption": (_captions(unit, "caption", listens), frames),
        "caption_prompted": (_captions(unit, "caption_prompted", listens), images),
        "instruct_video": (_conversations(unit, "instruct_video", listens), frames),
        "instruct_image": (_conversations(unit, "instruct_image", listens), images),
    }
    for case, (batch, media) in cases.items():
        batch = Batch(**{**vars(batch), "sounds" if listens else "pictures": media})
        yield from _check_case(unit, model, case, batch)
    yield from check_texts(unit)


def _captions(unit: Unit, case: str, listens: bool) -> Batch:
    """Begin, prompt, places, prompt, caption, as a batch; only captions are trained."""
    config, inputs = unit.meta["config"], unit.inputs
    text, mask = inputs[f"{case}_text_ids"], inputs[f"{case}_text_mask"].bool()
    places = [config["image_patch_token_id"]] * config["num_placeholder_tokens"]
    prompts = ("prompt_before_ids", "prompt_after_ids") if config[case]["prompt"] else ()
    before, after = (inputs[name].tolist() for name in prompts) if prompts else ([], [])
    head = torch.tensor([config["bos_id"], *before, *places, *after])
    ids = torch.cat([head.expand(len(text), -1), text], dim=1)
    attention = torch.cat([torch.ones(len(text), len(head)).bool(), mask], dim=1)
    labels = torch.where(attention & (ids != config["pad_id"]), ids, IGNORED)  # pad = unknown
    labels[:, : len(head)] = IGNORED
    return Batch(ids, attention, _kinds(unit, ids, listens), labels)


def _conversations(unit: Unit, case: str, listens: bool) -> Batch:
    inputs = unit.inputs
    ids, mask = inputs[f"{case}_ids"], inputs[f"{case}_mask"].bool()
    return Batch(ids, mask, _kinds(unit, ids, listens), inputs[f"{case}_labels"])


def _kinds(unit: Unit, ids: Tensor, listens: bool) -> Tensor:
    places = ids == unit.meta["config"]["image_patch_token_id"]
    return torch.where(places, SOUND if listens else PICTURE, TEXT)


@torch.no_grad()
def _check_case(unit: Unit, model: VideoLlama, case: str, batch: Batch) -> Iterator[Row]:
    outputs, real = unit.outputs, batch.attention
    result = model(batch)
    nll = torch.zeros(batch.ids.shape[0], batch.ids.shape[1] - 1)
    nll[batch.labels[:, 1:] != IGNORED] = result.token_loss
    found = {
        "loss": result.loss[None],
        "token_nll": nll,
        "labels": batch.labels,
        "attention_mask": real.long(),
    }
    for name, mine in found.items():
        atol = LOSS_ATOL if mine.is_floating_point() else 0.0
        yield compare_tensors(unit, case, name, mine, outputs[f"{case}/{name}"], atol)
    for name, compute in (("inputs_embeds", model.embed), ("logits", model.logits)):
        if f"{case}/{name}" in outputs:
            expected = outputs[f"{case}/{name}"][real]
            yield compare_tensors(unit, case, name, compute(batch)[real], expected, LOSS_ATOL)


# ---------------------------------------------------------------- released keys


def check_released_keys(unit: Unit) -> Iterator[Row]:
    """Every key of both branches' files and of the model around them has a place of its shape."""
    meta = unit.meta
    whole = meta["whole_model_without_llm_vit_imagebind"]
    width = whole["llama_proj.weight"][0]
    model = build_paper("meta", llama=LlamaSizes(hidden_size=width))
    own = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for group in (
        "vision_branch_keys",
        "audio_branch_keys",
        "whole_model_without_llm_vit_imagebind",
    ):
        kept = {key: shape for key, shape in meta[group].items() if not is_dropped(key)}
        places = {key: own.get(our_name(key)) for key in kept}
        back = [official_name(our_name(key)) for key in kept]
        yield compare_values(unit, group, "shapes", places, kept)
        yield compare_values(unit, group, "names there and back", back, list(kept))
    for branch, parts in (("vision", VISION_PARTS), ("audio", AUDIO_PARTS)):
        mine = {our_name(k) for k in meta[f"{branch}_branch_keys"] if not is_dropped(k)}
        trained = {name for name in own if name.startswith(parts)}
        extra = {name for name in mine if not name.startswith(parts)}
        known = {"imagebind.audio.log_logit_scale"} & extra
        yield compare_values(unit, branch, "whole branch", mine - known, trained)
    yield from _check_counts(unit, model)


def _check_counts(unit: Unit, model: VideoLlama) -> Iterator[Row]:
    """Trainable parameters of both branches, as the notes tell them for this width."""
    told = " ".join(unit.meta["notes"])
    for stage in model.stages("paper"):
        branch = stage.name.split("_")[0]
        number = re.search(rf"{branch} branch ([\d,]+)", told)
        if number is None:
            continue
        set_trainable(model, stage.trains)
        count = sum(p.numel() for p in model.parameters() if p.requires_grad)
        expected = int(number[1].strip(",").replace(",", ""))
        yield compare_values(unit, stage.name, "trainable parameters", count, expected)


UNITS = {
    "video_llama/video_llama_vision": check_vision,
    "video_llama/video_llama_audio": check_audio,
    "video_llama/video_llama_loss": check_loss,
    "video_llama/video_llama_loss_audio": check_loss,
    "video_llama/video_llama_conversation": check_conversation,
    "video_llama/released_keys": check_released_keys,
}
