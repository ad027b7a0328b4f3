"""`vlmcourse evaluate --events`: do Chat-UniVi's events follow the true scenes of a film?

Events are made of what frozen encoders see, so no weights are needed. Every frame of a film of
several scenes has a true scene and an event; how far the two agree is told by the adjusted Rand
index (1: the same partition, 0: no better than chance) and by homogeneity (1: no event spans a
cut). The official rule is asked with the noise of many seeds, which shows how much it decides.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from vlmcourse.errors import UserError
from vlmcourse.evaluation.evaluation import Evaluation
from vlmcourse.intervals import metric
from vlmcourse.parts.cluster_rules import seeded_noise
from vlmcourse.parts.events import events
from vlmcourse.records import Run, metric_text
from vlmcourse.world.scenes import scene_of

if TYPE_CHECKING:
    from vlmcourse.evaluation.asked import Probes

RULES = ("exact", "official", "contiguous")
"""Without noise and with the `k` of the settings; as released; and equal parts of time."""
SEEDS = 20
OWN, TRUE = "own", "true"
"""How many events a film has: as the system's settings say, or as many as it has scenes."""
MEASURES = ("ari", "homogeneity")


@dataclass(frozen=True)
class Film:
    """A film as events are made of it.

    Attributes:
        frames: `[T, D]`, the mean of every frame's patches.
        scenes: `[T]` int64, the true scene of every frame.
    """

    frames: Tensor
    scenes: Tensor

    @property
    def num_scenes(self) -> int:
        return int(self.scenes.max()) + 1


def films_of(probes: "Probes") -> list[Film]:
    """Every clip of a split as a film."""
    found = []
    for story, clip, streams in zip(probes.stories, probes.clips, probes.streams, strict=True):
        frames = streams["pictures"].float().mean(1)  # [T, D]
        found.append(Film(frames, torch.tensor(scene_of(story, clip.times_s.tolist()))))
    return found


def frame_events(film: Film, rule: str, rate: float, k: int, seed: int | None = None) -> Tensor:
    """The event of every frame, `[T]`, numbered by their first frames.

    Args:
        rule: of `RULES`.
        rate, k: as `parts.events.events` takes them.
        seed: of the official rule's noise; None leaves it out.
    """
    how = {"temporal": "contiguous"} if rule == "contiguous" else {"rule": rule}
    noise = None if seed is None else [seeded_noise(seed)]
    return events(film.frames[None], None, rate, k, noise=noise, **how).ids[0]


def agreement(found: Tensor, truth: Tensor) -> dict[str, float]:
    """`MEASURES` of two partitions of the same frames, `[T]` each."""
    from torchmetrics.functional.clustering import adjusted_rand_score, homogeneity_score

    with torch.sparse.check_sparse_tensor_invariants(enable=False):  # else torch warns
        return {
            "ari": float(adjusted_rand_score(found, truth)),
            "homogeneity": float(homogeneity_score(found, truth)),
        }


def film_measures(film: Film, rate: float, k: int, seeds: int = SEEDS) -> dict[str, float]:
    """Everything that is told of one film.

    Returns:
        `RULE/MEASURE` (of the official rule, the mean over all seeds; "official_silent" is the same
        without noise), `official/partitions` (different ones among all seeds), `official/stability`
        (adjusted Rand index of one seed's with the next one's) and `events`.
    """
    made = {rule: [frame_events(film, rule, rate, k)] for rule in ("exact", "contiguous")}
    made["official_silent"] = [frame_events(film, "official", rate, k)]
    drawn = [frame_events(film, "official", rate, k, seed) for seed in range(seeds)]
    made["official"] = drawn
    found = {}
    for rule, partitions in made.items():
        each = [agreement(one, film.scenes) for one in partitions]
        found |= {f"{rule}/{name}": sum(x[name] for x in each) / len(each) for name in MEASURES}
    pairs = zip(drawn, [*drawn[1:], drawn[0]])
    stable = [agreement(one, other)["ari"] for one, other in pairs]
    found["official/partitions"] = float(len(torch.stack(drawn).unique(dim=0)))
    found["official/stability"] = sum(stable) / len(stable)
    return found | {"events": float(made["exact"][0].max() + 1)}


def events_metrics(
    films: Sequence[Film], rate: float, k: int, seeds: int = SEEDS, progress: bool = False
) -> dict[str, dict]:
    """Metrics over films, by their number of scenes.

    Returns:
        `COUNT/NAME/scenes/N` with COUNT of `OWN` and `TRUE` and the names of `film_measures`. Where
        a film has one scene there is no true number of events to ask for, and its agreement with
        the scene says nothing: of such films only partitions, stability and events are told.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for film in tqdm(films, desc="events", unit="film", disable=not progress):
        several = film.num_scenes > 1
        for count, own_rate in [(OWN, rate), *([(TRUE, film.num_scenes)] if several else [])]:
            for name, value in film_measures(film, own_rate, k, seeds).items():
                if several or not name.endswith(MEASURES):
                    values[f"{count}/{name}/scenes/{film.num_scenes}"].append(value)
    shares = ("homogeneity",)
    return {
        name: metric(each, "share" if name.split("/")[-3] in shares else "")
        for name, each in sorted(values.items())
    }


def judged(metrics: Mapping[str, dict]) -> tuple[str, str]:
    """Status and note: "negative" where events follow the scenes no better than equal parts of
    time do, over all numbers of scenes."""
    better, worse = [], []
    for name in [n for n in metrics if "/exact/ari/" in n]:
        exact, even = metrics[name], metrics[name.replace("exact", "contiguous")]
        (better if exact["low"] > even["high"] else worse).append(name)
    told = {True: [], False: []}
    for name in (*better, *worse):
        count, _, _, _, scenes = name.split("/")
        told[name in better].append(f"{scenes} scenes, {count} number of events")
    note = f"Events follow scenes better than equal parts of time: {_listed(told[True])}."
    if worse:
        note += f" Not shown to: {_listed(told[False])}."
    return ("ok" if better else "negative"), note


def _listed(names: Sequence[str]) -> str:
    return "; ".join(names) or "nowhere"


def find_events(
    what: Evaluation, record: Path, command: Sequence[str], progress: bool = True
) -> dict:
    """Compare events with scenes over a split, write the record and return it.

    Raises:
        UserError: a system without events, runs (whose weights would play no part), or a split
            whose films all have one scene.
    """
    from vlmcourse import systems
    from vlmcourse.devices import chosen_device
    from vlmcourse.evaluation.asked import load_probes
    from vlmcourse.training.sources import located

    if what.runs != (None,):
        raise UserError("--events takes no --runs: events are made of what frozen encoders see")
    split, device = what.sources.load_split(), chosen_device(what.sources.device)
    if not any(story.scenes for story in split.stories):
        made = "`vlmcourse world --scenes 1,2,4` makes some"
        raise UserError(f"{split.folder}: no film of several scenes; {made}")
    model = systems.build(
        what.system, "world", device, what.sources.foundations, **dict(what.options)
    )
    config = model.config
    if not hasattr(config, "temporal_rate"):
        raise UserError(f"{what.system} makes no events; chat_univi does")
    cache, clips = located(what.sources.cache), what.sources.clips
    asked = load_probes(split, model, what.system, cache, clips, progress)
    settings = {
        "system": what.system,
        **what.told,
        "split": str(what.sources.split),
        "clips": len(asked.ids),
        "temporal_rate": config.temporal_rate,
        "temporal_k": config.temporal_k,
        "noise": f"seeds 0 to {SEEDS - 1}, official rule",
        "intervals": "95 %, clips drawn again",
    }
    with Run(record, list(command), settings, range(SEEDS), split.data_checksum) as run:
        rate, k = config.temporal_rate, config.temporal_k
        run.metrics = events_metrics(films_of(asked), rate, k, progress=progress)
        run.status, run.note = judged(run.metrics)
    return run.record()


def events_table(record: dict) -> str:
    """Rules down; agreement with the scenes by their number, and the number of events, across."""
    metrics = record["metrics"]
    columns = sorted({(n.split("/")[0], n.rpartition("/")[2]) for n in metrics if "/ari/" in n})
    head = [f"{scenes} scenes, {count} count" for count, scenes in columns]
    lines = [["adjusted Rand index", *head], ["---", *["--:"] * len(columns)]]
    for rule in ("exact", "official_silent", "official", "contiguous"):
        cells = [metric_text(metrics[f"{c}/{rule}/ari/scenes/{s}"]) for c, s in columns]
        lines.append([rule.replace("_", " "), *cells])
    for name in ("partitions", "stability"):
        cells = [metric_text(metrics[f"{c}/official/{name}/scenes/{s}"]) for c, s in columns]
        lines.append([f"official, {name}", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
