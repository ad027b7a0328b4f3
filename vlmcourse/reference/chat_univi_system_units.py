"""Checks of Chat-UniVi as a whole: embeddings, labels, masks, logits, loss, and released keys."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlmcourse.backbones.clip import ClipConfig, ClipEncoder
from vlmcourse.backbones.language_model import LlamaSizes, build_llama
from vlmcourse.checkpoints.chat_univi import (
    from_official,
    official_name,
    our_name,
    to_official,
    tower_sizes,
)
from vlmcourse.checkpoints.files import load_strict
from vlmcourse.conversation import IGNORED, PICTURE, TEXT
from vlmcourse.parts.cluster_rules import num_events, recorded_noise, token_count
from vlmcourse.parts.event_merging import MergedVideos
from vlmcourse.reference.rows import Row, Unit, compare_tensors, compare_values
from vlmcourse.systems.batch import Batch, Media
from vlmcourse.systems.chat_univi import LANGUAGE, ChatUniVi, build_paper
from vlmcourse.systems.chat_univi_config import PAPER_CONFIG, ChatUniViConfig
from vlmcourse.systems.stages import set_trainable

ATOL = 1e-4
"""Of what stands behind several layers."""
DEPTH = r"layers\.0\.\.(\d+)"
"""The last layer, as descriptions of keys tell it."""
NO_EFFECT = 1e-7
"""Gradients up to here are rounding: those of key biases, which the softmax cancels (and which the
units list or not as rounding would have it)."""


@dataclass(frozen=True)
class Run:
    """Placeholders that follow each other: a medium's frames, from `start` up to `stop`."""

    row: int
    start: int
    stop: int

    @property
    def frames(self) -> int:
        return self.stop - self.start


def find_runs(ids: Tensor, placeholder: int) -> list[Run]:
    """Runs of a placeholder in ids `[B, L]`, in reading order."""
    runs = []
    for row, line in enumerate((ids == placeholder).tolist()):
        text = "".join("x" if here else "." for here in line)
        runs += [Run(row, found.start(), found.end()) for found in re.finditer("x+", text)]
    return runs


def tiny_model(unit: Unit) -> ChatUniVi:
    """The model of a loss unit with its weights."""
    config, llama, clip = (
        unit.meta["config"],
        *(unit.meta["config"][n] for n in ("llama", "clip")),
    )
    language_model = build_llama(
        LlamaSizes(
            vocab_size=llama["vocab_size"],
            hidden_size=llama["hidden_size"],
            intermediate_size=llama["intermediate_size"],
            num_layers=llama["num_hidden_layers"],
            num_heads=llama["num_attention_heads"],
            num_key_value_heads=llama.get("num_key_value_heads"),
            rms_norm_eps=llama["rms_norm_eps"],
            rope_theta=llama["rope_theta"],
        )
    )
    encoder = ClipEncoder(
        ClipConfig(
            hidden_size=clip["hidden_size"],
            intermediate_size=clip["intermediate_size"],
            num_layers=clip["num_hidden_layers"],
            num_heads=clip["num_attention_heads"],
            image_size=clip["image_size"],
            patch_size=clip["patch_size"],
            hidden_act=clip["hidden_act"],
            layer_norm_eps=clip["layer_norm_eps"],
            layer=config["mm_vision_select_layer"],
        )
    )
    settings = ChatUniViConfig(
        image_size=clip["image_size"],
        spatial_rates=tuple(config["cluster_rates"]),
        spatial_ks=tuple(config["k"]),
        temporal_rate=config["temporal_cluster_rate"],
        temporal_k=config["temporal_k"],
        clustering="official",
    )
    model = ChatUniVi(settings, language_model, encoder, None)
    load_strict(model, from_official(unit.weights, str(unit.path)), str(unit.path))
    return model.eval()


def noise_by_medium(tensors: Sequence[Tensor], runs: Sequence[Run], settings) -> list[list[Tensor]]:
    """Recorded noise, cut to what each medium's calls take.

    Raises:
        ValueError: there is more or less of it than calls.
    """
    scales, taken, found = len(settings.spatial_rates), 0, []
    for run in runs:
        count = scales
        if run.frames > 2:
            count = 1 + scales * (1 + num_events(run.frames, settings.temporal_rate))
        found.append(list(tensors[taken : taken + count]))
        taken += count
    if taken != len(tensors):
        raise ValueError(f"{len(tensors)} tensors of noise for {taken} clusterings")
    return found


def prepared(unit: Unit, case: str, model: ChatUniVi) -> list[Run]:
    """The runs of a case, and `model.merge` with its recorded noise, new at every call."""
    ids = unit.inputs[f"{case}/input_ids"]
    runs = find_runs(ids, unit.meta["config"]["image_token_index"])
    drawn = unit.group(f"inputs/{case}/noise")
    tensors = [drawn[name] for name in sorted(drawn, key=int)]
    recorded = noise_by_medium(tensors, runs, model.config)

    def merge(features: Tensor, frame_mask: Tensor) -> MergedVideos:
        return ChatUniVi.merge(model, features, frame_mask, list(map(recorded_noise, recorded)))

    model.merge = merge
    return runs


def spliced_batch(unit: Unit, case: str, model: ChatUniVi, runs: Sequence[Run]) -> Batch:
    """A case's inputs as a batch of ours: every run of placeholders becomes its places."""
    given = unit.group(f"inputs/{case}")
    ids, pixels = given["input_ids"], given["pixel_values"]
    labels = given.get("labels", torch.full_like(ids, IGNORED))
    rows = []
    for row in range(len(ids)):
        own, at, parts = [run for run in runs if run.row == row], 0, []
        for run in own:
            count = _places(model, run)
            parts.append(_piece(ids, labels, given["attention_mask"], row, at, run.start))
            parts.append(
                _piece(*(torch.full((1, count), v) for v in (0, IGNORED, 1)), kind=PICTURE)
            )
            at = run.stop
        parts.append(_piece(ids, labels, given["attention_mask"], row, at, ids.shape[1]))
        rows.append([torch.cat(column) for column in zip(*parts)])
    columns = zip(*rows)
    padded = [
        torch.nn.utils.rnn.pad_sequence(list(column), batch_first=True, padding_value=value)
        for column, value in zip(columns, (0, IGNORED, 0, TEXT))
    ]
    return Batch(
        ids=padded[0],
        attention=padded[2].bool(),
        kinds=padded[3],
        labels=padded[1],
        pictures=_media(pixels, runs, len(ids)),
    )


def _piece(ids, labels, attention, row=0, start=0, stop=None, kind=TEXT) -> tuple[Tensor, ...]:
    found = tuple(values[row, start:stop] for values in (ids, labels, attention))
    return (*found, torch.full_like(found[0], kind))


def _places(model: ChatUniVi, run: Run) -> int:
    config, patches = model.config, model.vision_encoder.num_patches
    return token_count(run.frames, patches, config.spatial_rates, config.temporal_rate)


def _media(pixels: Tensor, runs: Sequence[Run], rows: int) -> Media | None:
    """The pictures and frames of the runs; a row without any owns one that nobody looks at."""
    if not runs:
        return None
    longest = max(run.frames for run in runs)
    mask = torch.arange(longest) < torch.tensor([run.frames for run in runs])[:, None]
    inputs = pixels.new_zeros(*mask.shape, *pixels.shape[1:])
    taken, number = 0, 0
    for row in range(rows):
        own = [run for run in runs if run.row == row]
        for run in own:
            inputs[number, : run.frames] = pixels[taken : taken + run.frames]
            taken, number = taken + run.frames, number + 1
        taken += not own
    return Media(mask, torch.zeros(mask.shape), inputs, rows=torch.tensor([r.row for r in runs]))


def check_loss(unit: Unit) -> Iterator[Row]:
    """Features, splicing, masks, labels, logits and loss of every case."""
    model = tiny_model(unit)
    for case in unit.meta["config"]["cases"]:
        given, outputs = unit.group(f"inputs/{case}"), unit.outputs
        runs = prepared(unit, case, model)
        batch = spliced_batch(unit, case, model, runs)
        with torch.no_grad():
            features = model.encode_frames(given["pixel_values"])
            embeddings = model.embed(batch)
            ours = {"vision_features": features}
            if len({run.row for run in runs}) < len(runs):
                ours |= as_original(batch, embeddings, runs, model)
            else:
                real = torch.arange(batch.ids.shape[1]) < _lengths(given, runs, model)[:, None]
                ours["inputs_embeds"] = torch.where(real[:, :, None], embeddings, 0)
                ours["attention_mask"] = batch.attention.long()
                ours["labels"] = batch.labels
                ours["loss"] = model(batch).loss[None]
                ours["logits"] = model.logits(batch)
        for name, mine in ours.items():
            expected = outputs.get(f"{case}/{name}")
            if expected is None:
                continue
            if name == "logits":
                mine, expected = mine[batch.attention], expected[batch.attention]
            atol = ATOL if name in ("logits", "loss") else 1e-5
            yield compare_tensors(unit, case, name, mine, expected, atol)
        yield from _check_sizes(unit, case, batch, ours)
    if "weights_without_effect_on_batch_loss" in unit.meta:
        yield from _check_effects(unit, model)


def _lengths(given: dict[str, Tensor], runs: Sequence[Run], model: ChatUniVi) -> Tensor:
    """Length of each row with its media spliced in, its own padding included: `[B]`."""
    lengths = torch.full((len(given["input_ids"]),), given["input_ids"].shape[1])
    for run in runs:
        lengths[run.row] += _places(model, run) - run.frames
    return lengths


def as_original(
    batch: Batch, embeddings: Tensor, runs: Sequence[Run], model: ChatUniVi
) -> dict[str, Tensor]:
    """One row with several runs, in the wrong order that the official code puts it in.

    That code repeats the text in front of the first run before every run, loses what is between
    runs, and cuts labels elsewhere; here our pieces, spliced in place, are put into that order.
    """
    if len(embeddings) != 1:
        raise ValueError("several runs of placeholders are compared in a batch of one row")
    counts = [_places(model, run) for run in runs]
    shift, places = 0, []
    for run, count in zip(runs, counts):
        places.append(slice(run.start + shift, run.start + shift + count))
        shift += count - run.frames
    head, first, last = slice(0, runs[0].start), runs[0].start, runs[-1].stop
    order = [part for place in places for part in (head, place)] + [slice(last + shift, None)]
    text = batch.labels[0][batch.kinds[0] == TEXT]
    left = torch.full((len(text) + sum(run.frames for run in runs),), IGNORED)
    left[~_inside(runs, len(left))] = text
    labels = []
    for count in counts:
        labels += [left[:first], left.new_full((count,), IGNORED)]
        left = left[last:]
    return {
        "inputs_embeds": torch.cat([embeddings[:, part] for part in order], dim=1),
        "labels": torch.cat([*labels, left])[None],
    }


def _inside(runs: Sequence[Run], length: int) -> Tensor:
    inside = torch.zeros(length, dtype=torch.bool)
    for run in runs:
        inside[run.start : run.stop] = True
    return inside


def _check_sizes(unit: Unit, case: str, batch: Batch, ours: dict[str, Tensor]) -> Iterator[Row]:
    sizes = unit.meta["config"]["cases"][case]
    for told, name in (("length_out", "inputs_embeds"), ("labels_length_out", "labels")):
        if told in sizes:
            yield compare_values(unit, case, told, ours[name].shape[1], sizes[told])


def _check_effects(unit: Unit, model: ChatUniVi) -> Iterator[Row]:
    """Which weights the loss of case "batch" does not reach: CLIP's, behind the layer in use."""
    case = "batch"
    runs = prepared(unit, case, model)
    set_trainable(model, ("*",))
    model(spliced_batch(unit, case, model, runs)).loss.backward()
    without = [
        official_name(name)
        for name, p in model.named_parameters()
        if p.grad is None or float(p.grad.abs().max()) <= NO_EFFECT
    ]
    expected = set(unit.meta["weights_without_effect_on_batch_loss"])
    wrong = {key for key in expected ^ set(without) if not key.endswith("k_proj.bias")}
    yield compare_values(unit, case, "weights without effect", wrong, set())


def check_released_keys(unit: Unit) -> Iterator[Row]:
    """Every official key has a place of its own shape in our model of that size, and back."""
    for name, told in unit.meta["checkpoints"].items():
        keys = {key: tuple(shape) for key, shape in told["non_llm_keys"].items()}
        model = _meta_model(keys, told["llm_keys"])
        own = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
        there = {key: own.get(our_name(key)) for key in keys}
        yield compare_values(unit, name, "shapes", there, keys)
        back = [official_name(our_name(key)) for key in keys]
        yield compare_values(unit, name, "names there and back", back, list(keys))
        language = {key for key in own if key.startswith("language_model.")}
        covered = {our_name(key) for key in keys} | language
        yield compare_values(
            unit, name, "ours without an official key", own.keys() - covered, set()
        )
        count, last = (
            int(re.search(pattern, told["llm_keys"]).group(1)) for pattern in (r"(\d+) keys", DEPTH)
        )
        stored = {len(language), len(language) + last + 1}  # old files store a buffer a layer
        yield compare_values(unit, name, "keys of the language model", {count} - stored, set())
        present = told["present_before_vision_tower_is_loaded"]
        projector = sorted(key for key in keys if our_name(key).startswith("projector."))
        yield compare_values(unit, name, "projector", projector, sorted(present))
        again = from_official(to_official(model.state_dict()))
        yield compare_values(unit, name, "state dict there and back", again.keys(), own.keys())


def _meta_model(keys: dict[str, tuple[int, ...]], language: str) -> ChatUniVi:
    """The model on the meta device, at the sizes that its keys and their description tell."""
    ours = {our_name(key): torch.empty(shape, device="meta") for key, shape in keys.items()}
    vision = tower_sizes(ours)
    width = ours["projector.weight"].shape[0]
    vocabulary = int(re.search(r"vocab (\d+)", language).group(1))
    layers = int(re.search(DEPTH, language).group(1)) + 1
    known = [s for s in LANGUAGE.values() if (s.hidden_size, s.num_layers) == (width, layers)]
    llama = replace(
        known[0] if known else LlamaSizes(hidden_size=width, num_layers=layers),
        vocab_size=vocabulary,
    )
    return build_paper("meta", replace(PAPER_CONFIG, image_size=vision.image_size), vision, llama)


UNITS = {
    "chat_univi/chat_univi_loss": check_loss,
    "chat_univi/released_keys": check_released_keys,
}
