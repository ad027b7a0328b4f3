"""What one side of a measurement needs: runs of a system, questions with their features, facts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmcourse.evaluation.conditions import Asked, given_streams, read_given

if TYPE_CHECKING:
    from vlmcourse.evaluation.asked import Probes
    from vlmcourse.systems.base import VideoLanguageModel
    from vlmcourse.trained import TrainedSystem
    from vlmcourse.world.dataset import WorldSplit


@dataclass(frozen=True)
class Sources:
    """Where everything comes from that is asked about or asked with.

    Attributes:
        split: folder of a split of the world.
        clips: use the first so many clips only.
        cache: folder of frozen features.
        foundations: folder of the frozen parts instead of the shipped ones.
        device: "cpu", "cuda" or "auto".
        families: ask questions of these families alone; none of them stands for all.
    """

    split: Path = Path("data/world/test")
    clips: int | None = None
    cache: Path = Path("data/cache")
    foundations: Path | None = None
    device: str = "auto"
    families: tuple[str, ...] = ()

    def load_split(self) -> "WorldSplit":
        """Read the split. Raises UserError."""
        from vlmcourse.training.sources import located
        from vlmcourse.world.dataset import load_split

        split = load_split(located(self.split))
        if not self.families:
            return split
        asked = [[q for q in some if q.family in self.families] for some in split.questions]
        return replace(split, questions=asked)


@dataclass(frozen=True)
class Loaded:
    """Runs of a system, ready to be asked.

    Attributes:
        runs: one a seed.
        probes: the questions, with the features that the first run has of the clips.
        trained: the encoders, and "language_model", that are not the frozen ones any more.
        own_encoders: every run has features of its own.
        settings: what a record tells of all this.
    """

    runs: list["TrainedSystem"]
    probes: "Probes"
    trained: frozenset[str]
    own_encoders: bool
    settings: dict

    @property
    def models(self) -> list["VideoLanguageModel"]:
        return [run.model for run in self.runs]

    @property
    def seen_by(self) -> Callable | None:
        """As `probes.ask_all` takes it."""
        from vlmcourse.evaluation.asked import seen_by

        return seen_by if self.own_encoders else None

    @property
    def asked(self) -> Asked:
        """What decides which conditions mean something."""
        from vlmcourse.evaluation.runs import LANGUAGE_MODEL

        return Asked(
            self.probes.given,
            subtitles=any(clip.cues for clip in self.probes.clips),
            film=any(clip.num_frames > 1 for clip in self.probes.clips),
            language_trained=LANGUAGE_MODEL in self.trained,
        )

    def cost(self) -> dict[str, dict]:
        """Parameters and tokens, as metrics (cost.py)."""
        from vlmcourse.evaluation.cost import cost_metrics
        from vlmcourse.evaluation.runs import trained_names

        return cost_metrics(self.runs[0].model, self.probes, trained_names(self.runs[0]))


def load(
    system: str,
    paths: Sequence[Path | None],
    split: "WorldSplit",
    sources: Sources,
    given: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Loaded:
    """Load runs and questions.

    Args:
        system: a key of `systems.CONSTRUCTORS`.
        paths: folders of its trained runs, one a seed; None stands for the shipped weights.
        split: its questions are asked.
        given: streams that the system is given (`conditions.read_given`); None means all it takes.
        options: settings of the system that differ from those of its training.

    Raises:
        UserError: runs, clips, streams or options that cannot be used.
    """
    from vlmcourse.devices import chosen_device
    from vlmcourse.evaluation.asked import load_probes
    from vlmcourse.evaluation.options import refuse_other_weights
    from vlmcourse.evaluation.runs import encoders_trained, frozen_parts, load_runs, trained_parts
    from vlmcourse.training.sources import located

    device = chosen_device(sources.device)
    if options:
        first = paths[0] and located(paths[0])
        refuse_other_weights(system, first, [options], sources.foundations)
    runs = load_runs(system, paths, device, sources.foundations, options)
    model, own = runs[0].model, any(encoders_trained(run) for run in runs)
    told = model.processor.given if given is None else read_given(given)
    probes = load_probes(
        split, model, system, located(sources.cache), sources.clips, progress, told, not own
    )
    trained = frozenset().union(*(trained_parts(run) for run in runs))
    settings = {
        "system": system,
        "options": runs[0].options,
        "runs": [str(run.folder) for run in runs],
        "weights": [run.settings_hash for run in runs],
        "frozen": frozen_parts(runs[0]),
        "given": given_streams(told),
    }
    settings |= {"trained_foundations": sorted(trained)} if trained else {}
    return Loaded(runs, probes, trained, own, settings)
