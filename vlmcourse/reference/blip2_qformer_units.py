"""Checks of the BLIP-2 Q-Former units: queries alone, masked, beside text; the released keys."""

from collections.abc import Iterator

import torch

from vlmcourse.checkpoints.blip2 import blip2_tensors
from vlmcourse.checkpoints.files import load_strict
from vlmcourse.checkpoints.qformer import DROPPED, from_official, to_official
from vlmcourse.parts.qformer import QFormer, QFormerConfig
from vlmcourse.reference.rows import Row, Unit, compare_tensors, compare_values

WORDS = "Qformer.bert.embeddings.word_embeddings.weight"


@torch.no_grad()
def check_qformer(unit: Unit) -> Iterator[Row]:
    """Outputs of queries from a Q-Former with a text side and from one without, then with text."""
    bare = _loaded(unit, None)
    yield compare_values(
        unit,
        "",
        "layers_with_cross_attention",
        [i for i, layer in enumerate(bare.layers) if layer.cross_attention is not None],
        unit.meta["config"]["layers_with_cross_attention"],
    )
    yield from _check_queries(unit, "without text parts", bare)
    if WORDS not in unit.weights:
        return
    whole = _loaded(unit, unit.meta["config"]["vocab_size"])
    yield from _check_queries(unit, "with text parts", whole)
    if "with_text_out" in unit.outputs:
        out = whole(
            unit.inputs["encoder_hidden_states"],
            unit.inputs["encoder_mask_full"],
            text_ids=unit.inputs["text_ids"],
            text_mask=unit.inputs["text_mask"],
        )
        both = torch.cat([out.tokens, out.text], dim=1)
        expected = unit.outputs["with_text_out"]
        yield compare_tensors(unit, "with text parts", "with_text_out", both, expected)


def _loaded(unit: Unit, vocab_size: int | None) -> QFormer:
    meta = unit.meta["config"]
    config = QFormerConfig(
        hidden_size=meta["hidden_size"],
        num_layers=meta["num_hidden_layers"],
        num_heads=meta["num_attention_heads"],
        intermediate_size=meta["intermediate_size"],
        encoder_width=meta["encoder_width"],
        cross_attention_freq=meta["cross_attention_freq"],
        num_queries=meta["query_length"],
        layer_norm_eps=meta["layer_norm_eps"],
        dropout=meta["dropout"],
        vocab_size=vocab_size,
        max_positions=meta["max_position_embeddings"],
    )
    former, source = QFormer(config).eval(), str(unit.path)
    load_strict(former, from_official(unit.weights, bool(vocab_size), source=source), source)
    return former


def _check_queries(unit: Unit, case: str, former: QFormer) -> Iterator[Row]:
    features, outputs = unit.inputs["encoder_hidden_states"], unit.outputs
    out = former(features, unit.inputs["encoder_mask_full"], output_hidden_states=True)
    mine = {"queries_out": out.tokens}
    mine |= {f"hidden_{index}": state for index, state in enumerate(out.hidden_states)}
    if "encoder_mask_partial" in unit.inputs:
        masked = former(features, unit.inputs["encoder_mask_partial"])
        mine["queries_out_masked"] = masked.tokens
    for name in sorted(outputs.keys() & mine.keys()):
        yield compare_tensors(unit, case, name, mine[name], outputs[name])


def check_released_keys(unit: Unit) -> Iterator[Row]:
    """Every key of the released file, with a text side and without, has a place and comes back."""
    groups = {"stripped": dict(unit.meta["stripped_keys"])}
    groups["with text"] = groups["stripped"] | unit.meta["text_part_keys"]
    for case, keys in groups.items():
        keys = {key: tuple(shape) for key, shape in keys.items()}
        config = _config(keys)
        with torch.device("meta"):
            former = QFormer(config)
            official = {key: torch.empty(shape) for key, shape in keys.items()}
        norm, ours = blip2_tensors(official, config, str(unit.path))
        own = former.state_dict()
        yield compare_values(unit, case, "names", ours.keys() ^ own.keys(), set())
        shapes = {name: tuple(tensor.shape) for name, tensor in ours.items()}
        expected = {name: tuple(tensor.shape) for name, tensor in own.items()}
        yield compare_values(unit, case, "shapes", shapes, expected)
        back = to_official(ours).keys() | norm.keys()
        dropped = {key for key in keys if key.removeprefix("Qformer.").startswith(DROPPED)}
        yield compare_values(unit, case, "names there and back", back | dropped, keys.keys())


def _config(keys: dict[str, tuple[int, ...]]) -> QFormerConfig:
    """Sizes as the shapes of the keys tell them (heads leave no trace in a shape)."""
    layer = "Qformer.bert.encoder.layer."
    indices = {int(k.removeprefix(layer).split(".")[0]) for k in keys if k.startswith(layer)}
    cross = sorted(i for i in indices if f"{layer}{i}.crossattention.self.key.weight" in keys)
    return QFormerConfig(
        hidden_size=keys["query_tokens"][2],
        num_layers=len(indices),
        num_heads=1,
        intermediate_size=keys[f"{layer}0.intermediate_query.dense.weight"][0],
        encoder_width=keys[f"{layer}0.crossattention.self.key.weight"][1],
        cross_attention_freq=cross[1] if len(cross) > 1 else len(indices),
        num_queries=keys["query_tokens"][1],
        vocab_size=keys[WORDS][0] if WORDS in keys else None,
        max_positions=keys["Qformer.bert.embeddings.position_ids"][1],
    )


UNITS = {
    "blip2_qformer/blip2_qformer": check_qformer,
    "blip2_qformer/released_keys": check_released_keys,
}
