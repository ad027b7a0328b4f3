"""Checks of Chat-UniVi's parts: clustering, and the merging of pictures and videos."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from vlmcourse.checkpoints.chat_univi import our_name
from vlmcourse.checkpoints.files import load_strict
from vlmcourse.parts.cluster_rules import cluster_count, neighbours, recorded_noise
from vlmcourse.parts.clustering import cluster_shares, dpc_knn, merge_clusters
from vlmcourse.parts.density_peaks import densities, token_distances
from vlmcourse.parts.event_merging import MergedVideos, merge_videos
from vlmcourse.parts.image_merging import Scale, image_scales
from vlmcourse.reference.rows import Row, Unit, compare_tensors, compare_values


def check_clustering(unit: Unit) -> Iterator[Row]:
    """Every quantity of the clustering, the merge with and without weights, the rule of counts."""
    for case, sizes in unit.meta["config"]["cases"].items():
        given = unit.group(f"inputs/{case}")
        x, count, k = given["x"], sizes["cluster_num"], sizes["k"]
        mask = given["token_mask"] > 0 if "token_mask" in given else None
        noise, weights = given["noise"], given["token_weight"][..., 0]
        distance = token_distances(x, mask, "official")
        found = dpc_knn(x, count, k, mask=mask, noise=noise, rule="official")
        ours = {
            "distance": distance,
            "density": densities(distance, k, mask, noise, "official"),
            "score": found.scores,
            "centre_token": found.centres,
            "cluster_id": found.ids,
            "idx_token": found.ids,
            "merged_uniform": merge_clusters(x, found.ids, count),
            "merged_weighted": merge_clusters(x, found.ids, count, weights),
            "agg_weight_weighted": cluster_shares(found.ids, count, weights)[..., None],
        }
        yield from _compared(unit, case, ours)
    expected = unit.outputs.get("ctm_rule")
    if expected is not None:
        rows = expected[:, :3].tolist()  # stored in float32: a rate of 0.3 has grown a little
        rule = torch.tensor([_rule(round(rate, 6), int(k), int(n)) for rate, k, n in rows])
        yield compare_tensors(unit, "", "ctm_rule", rule, expected[:, 3:])


def _rule(rate: float, k: int, num_tokens: int) -> tuple[float, float]:
    try:
        count = cluster_count(rate, num_tokens)
    except ValueError:
        return -1.0, -1.0
    return float(count), float(neighbours(k, count, "official"))


def _compared(unit: Unit, case: str, ours: Mapping[str, Tensor], atol: float = 1e-5) -> list[Row]:
    """Rows of what the unit holds of a case."""
    names = (f"{case}/{name}" for name in ours)
    return [
        compare_tensors(unit, case, name, value, unit.outputs[full], atol)
        for full, (name, value) in zip(names, ours.items())
        if full in unit.outputs
    ]


def _noise(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Recorded noise in the order of its calls."""
    return [tensors[name] for name in sorted(tensors, key=int)]


def _projected(unit: Unit, case: str, tokens: Tensor) -> Tensor:
    """Tokens behind the case's projector, or the unit's where all cases share one."""
    weights = unit.group(f"weights/{case}") or unit.weights
    ours = {our_name(key).removeprefix("projector."): value for key, value in weights.items()}
    projector = nn.Linear(*reversed(ours["weight"].shape))
    load_strict(projector, ours, str(unit.path))
    return projector(tokens)


def check_pictures(unit: Unit) -> Iterator[Row]:
    """The three scales of pictures, and what the language model gets."""
    config = unit.meta["config"]
    for case, sizes in config["cases"].items():
        features = unit.inputs[f"{case}/features"]
        noise = _noise(unit.group(f"inputs/{case}/noise"))
        scales = image_scales(features, sizes["rates"], config["k"], rule="official", noise=noise)
        ours: dict[str, Tensor] = {}
        for stage, scale in enumerate(scales):
            ours[f"stage{stage}/cluster_id"] = scale.ids
            ours[f"stage{stage}/tokens"] = scale.tokens
            ours[f"stage{stage}/idx_token"] = scale.patches
        tokens = torch.cat([scale.tokens for scale in scales], dim=1)
        ours["visual_tokens"] = _projected(unit, case, tokens)
        yield from _compared(unit, case, ours)
        yield compare_values(unit, case, "tokens_out", tokens.shape[1], sizes["tokens_out"])
        used = [neighbours(k, n, "official") for k, n in zip(config["k"], _widths(scales))]
        yield compare_values(unit, case, "k_used", used, sizes["k_used"])


def _widths(scales: Sequence[Scale]) -> list[int]:
    return [scale.tokens.shape[1] for scale in scales]


def check_videos(unit: Unit) -> Iterator[Row]:
    """Events, the scales of frames and of events, and what the language model gets."""
    config = unit.meta["config"]
    for case, sizes in config["cases"].items():
        features = unit.inputs[f"{case}/features"]
        frames = len(features)
        rate = sizes.get("temporal_rate", config["official_temporal_rate"])
        merged = merge_videos(
            features[None],
            torch.ones(1, frames, dtype=torch.bool),
            sizes["rates"],
            config["k"],
            rate,
            config["temporal_k"],
            rule="official",
            noise=[recorded_noise(_noise(unit.group(f"inputs/{case}/noise")))],
        )
        tokens = merged.tokens[merged.mask]
        ours = _where_from(merged) | {"visual_tokens": _projected(unit, case, tokens)}
        expected = unit.outputs.get(f"{case}/visual_tokens")
        if expected is not None and expected.dim() == 3:  # pictures: one row each
            ours["visual_tokens"] = ours["visual_tokens"].reshape(expected.shape)
        yield from _compared(unit, case, ours)
        yield compare_values(unit, case, "tokens_out", len(tokens), sizes["tokens_out"])
        if sizes["branch"] == "video":
            count = int(merged.events.counts)
            yield compare_values(unit, case, "events", count, sizes["events"])
            used = neighbours(config["temporal_k"], count, "official")
            yield compare_values(unit, case, "temporal_k_used", used, sizes["temporal_k_used"])


def _where_from(merged: MergedVideos) -> dict[str, Tensor]:
    """Clusters of one video's frames and tokens under the unit's names."""
    events = merged.events
    ours = {
        "frame_event": events.clusters[0][events.ids[0]],
        "event_order": events.clusters[0],
    }
    for stage, scale in enumerate(merged.frames):
        for head in (f"frame_stage{stage}", f"stage{stage}"):
            ours[f"{head}/cluster_id"] = scale.ids
            ours[f"{head}/tokens"] = scale.tokens
            ours[f"{head}/idx_token"] = scale.patches
        for event, ids in enumerate(merged.event_ids[stage]):
            ours[f"event{event}/stage{stage}/cluster_id"] = ids[ids >= 0][None]
    return ours


UNITS = {
    "chat_univi/dpc_knn": check_clustering,
    "chat_univi/image_merge": check_pictures,
    "chat_univi/video_merge": check_videos,
}
