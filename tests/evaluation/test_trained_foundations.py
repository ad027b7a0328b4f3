"""Systems that train their encoder and their language model: nothing of it counts as frozen."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vlmcourse import cli, systems
from vlmcourse.evaluation import asked as asking
from vlmcourse.evaluation import probes as probing
from vlmcourse.evaluation import scoring
from vlmcourse.evaluation.cost import clip_tokens, parameters
from vlmcourse.evaluation.runs import (
    differing_parts,
    encoders_trained,
    frozen_language_model,
    frozen_parts,
    trained_parts,
)
from vlmcourse.records import read_record
from vlmcourse.trained import load_trained_system
from vlmcourse.training.weights import StageFile, save_stage
from vlmcourse.world.dataset import load_split
from vlmcourse.world.language import Question

SYSTEM = "cogvlm2_video"
OPTIONS = {"num_frames": 4}


def write_run(folder: Path, foundations: Path, seed: int, patterns=("*",), **options) -> Path:
    """A finished stage in which every parameter of these patterns moved a little, by the seed."""
    options = {**OPTIONS, **options}
    model = systems.build(SYSTEM, foundations=foundations, **options)
    torch.manual_seed(seed)
    moved = {
        name: value.detach() + 0.05 * torch.randn_like(value)
        for name, value in model.named_parameters()
        if any(name.startswith(pattern.rstrip("*")) for pattern in patterns)
    }
    settings = {"model": {"system": SYSTEM, "seed": seed, "options": options}, "init_from": None}
    shapes = {name: list(value.shape) for name, value in moved.items()}
    about = StageFile("all", patterns, shapes, f"hash-{folder}-{seed}", "train", settings, {})
    save_stage(folder / "all", moved, about)
    return folder


@pytest.fixture(scope="module")
def whole_runs(foundations, tmp_path_factory):
    """Two runs in which everything trained, the encoder and the language model too."""
    root = tmp_path_factory.mktemp("whole")
    return [write_run(root / f"seed{seed}", foundations, seed) for seed in range(2)]


@pytest.fixture(scope="module")
def bridge_run(foundations, tmp_path_factory):
    """A run in which only the connector trained."""
    patterns = ("conv.*", "adapter.*", "boi", "eoi")
    return write_run(tmp_path_factory.mktemp("bridge") / "seed0", foundations, 0, patterns)


def load(run, foundations):
    return load_trained_system(SYSTEM, run, foundations=foundations)


def evaluated(world, foundations, runs, path, *more):
    command = [
        *("evaluate", "--system", SYSTEM, "--runs", *map(str, runs), "--data", str(world)),
        *("--foundations", str(foundations), "--cache", str(path.parent / "cache")),
        *("--device", "cpu", "--record", str(path), *more),
    ]
    assert cli.main(command) == 0
    return read_record(path)


def test_what_a_run_trained_is_told_by_its_names(whole_runs, bridge_run, foundations):
    whole, bridge = load(whole_runs[0], foundations), load(bridge_run, foundations)
    assert trained_parts(whole) == {"vision_encoder", "language_model"}
    assert trained_parts(bridge) == set()
    assert encoders_trained(whole)
    assert not encoders_trained(bridge)
    other = load(whole_runs[1], foundations)
    assert frozen_parts(whole) == frozen_parts(other), "nothing of what trained is in it"
    assert frozen_parts(whole) != frozen_parts(bridge)
    assert differing_parts(whole.model, bridge.model) == ["vision encoder", "language model"]
    assert differing_parts(whole.model, bridge.model, trained_parts(whole)) == []


def test_no_feature_of_a_trained_encoder_meets_a_cache(
    world, whole_runs, bridge_run, foundations, tmp_path
):
    """Every run looks with its own encoder: together they answer what each answers alone."""
    few = ("--clips", "6", "--controls", "blind")
    both = evaluated(world, foundations, whole_runs, tmp_path / "both.json", *few)
    alone = [
        evaluated(world, foundations, [run], tmp_path / f"{number}.json", *few)
        for number, run in enumerate(whole_runs)
    ]
    assert not (tmp_path / "cache").exists()
    for name in ("system/all", "no_video/all", "system/appearance"):
        assert both["metrics"][name]["values"] == [
            pytest.approx(record["metrics"][name]["mean"], abs=1e-5) for record in alone
        ]
    assert both["settings"]["trained_foundations"] == ["language_model", "vision_encoder"]
    frozen = evaluated(world, foundations, [bridge_run], tmp_path / "frozen.json", *few)
    assert [folder.name for folder in (tmp_path / "cache").iterdir()]
    assert "trained_foundations" not in frozen["settings"]
    assert frozen["metrics"]["blind/all"] == both["metrics"]["blind/all"], "one frozen model"


def test_features_of_another_encoder_are_others(world, whole_runs, foundations, tmp_path):
    models = [load(run, foundations).model for run in whole_runs]
    split = load_split(world / "test")
    probes = asking.load_probes(split, models[0], SYSTEM, tmp_path, 2, progress=False, cached=False)
    seen = asking.seen_by(models[1], probes)
    for clip, first, second in zip(probes.clips, probes.streams, seen):
        assert clip.frames is None
        assert first["pictures"].shape == second["pictures"].shape
        assert not torch.allclose(first["pictures"], second["pictures"], atol=1e-3)
    clip = models[1].processor.read(split.clips[0])
    assert torch.equal(seen[0]["pictures"], models[1].streams(clip)["pictures"])
    assert list(tmp_path.iterdir()) == []


def test_the_frozen_language_model_is_that_of_the_foundations(whole_runs, bridge_run, foundations):
    whole, bridge = load(whole_runs[0], foundations).model, load(bridge_run, foundations).model
    kept = bridge.language_model.state_dict()
    moved = whole.language_model.state_dict()
    frozen = frozen_language_model(whole, foundations).language_model.state_dict()
    assert frozen.keys() == kept.keys() == moved.keys()
    assert all(torch.equal(frozen[name], kept[name]) for name in kept)
    assert not any(torch.equal(frozen[name], moved[name]) for name in kept)


def test_told_the_truth_the_trained_model_and_the_frozen_one_are_asked_apart(
    world, whole_runs, bridge_run, foundations, tmp_path, monkeypatch
):
    whole, bridge = load(whole_runs[0], foundations).model, load(bridge_run, foundations).model
    frozen = frozen_language_model(whole, foundations)
    probes = asking.load_probes(
        load_split(world / "test"), bridge, SYSTEM, tmp_path, 2, progress=False
    )
    asked, ask = {}, probing.Asker.ask

    def noted(self, model, condition, streams=None):
        asked[condition] = model
        return ask(self, model, condition, streams)

    monkeypatch.setattr(probing.Asker, "ask", noted)
    told, known = ("told_events", "told_storyboard"), ("text_events", "text_storyboard", "blind")
    right = probing.ask_all([whole], probes, [*told, *known], frozen=frozen).right
    assert asked == dict.fromkeys(told, whole) | dict.fromkeys(known, frozen)
    kept = probing.ask_all([bridge], probes, [*told, *known]).right
    assert set(asked.values()) == {bridge}
    for name in known:
        assert right[name].tolist() == kept[name].tolist(), "one frozen language model"
    for name, text in zip(told, known, strict=False):
        assert kept[name].tolist() == kept[text].tolist(), "it kept its language model"


def test_retention_is_the_paired_difference():
    questions = [Question("q", "a", "colour", "appearance")] * 2
    questions += [Question("q", "a", "count", "count")] * 2
    told, text = np.array([[1, 0, 1, 1.0], [0, 0, 1, 1]]), np.array([[1, 1, 1, 0.0]])
    answers = {"told_events": told, "text_events": text}
    found = scoring.score(answers, questions, np.arange(4))
    assert found["retention/events/appearance"]["mean"] == pytest.approx(-0.75)
    assert found["retention/events/count"]["mean"] == pytest.approx(0.5)
    assert found["retention/events/all"]["mean"] == pytest.approx(-0.125)
    assert found["retention/events/all"]["low"] < -0.125 < found["retention/events/all"]["high"]
    assert not [name for name in found if "storyboard" in name]
    assert "Text retention: events -12.5 points" in scoring.retained(found)


def test_the_record_tells_retention_and_cost(world, whole_runs, bridge_run, foundations, tmp_path):
    record = evaluated(world, foundations, whole_runs, tmp_path / "whole.json", "--clips", "4")
    metrics = record["metrics"]
    for form in ("events", "storyboard"):
        told, text, kept = (
            metrics[f"{name}/all"]["mean"]
            for name in (f"told_{form}", f"text_{form}", f"retention/{form}")
        )
        assert kept == pytest.approx(told - text, abs=1e-5)
    assert "Text retention: events" in record["note"]
    model = systems.build(SYSTEM, foundations=foundations, **OPTIONS)
    total = sum(p.numel() for p in model.parameters())
    assert metrics["parameters/total"]["mean"] == total == metrics["parameters/trained"]["mean"]
    assert metrics["parameters/experts"]["mean"] == 0
    assert metrics["tokens/places"]["mean"] == 4 * 18
    assert metrics["tokens/video"]["mean"] == 4 * 19, "a counter behind every frame"
    frozen = evaluated(world, foundations, [bridge_run], tmp_path / "bridge.json", "--clips", "4")
    assert "told_events/all" not in frozen["metrics"], "its language model is the frozen one"
    assert frozen["metrics"]["parameters/trained"]["mean"] < total
    named = evaluated(
        world, foundations, [bridge_run], tmp_path / "named.json",
        *("--clips", "4", "--controls", "retention"),
    )  # fmt: skip
    assert named["metrics"]["retention/events/all"]["mean"] == 0.0


def test_experts_are_counted_by_name(foundations):
    model = systems.build(SYSTEM, foundations=foundations, experts=True)
    plain = systems.build(SYSTEM, foundations=foundations)
    counted, without = parameters(model, []), parameters(plain, ["eoi"])
    assert counted["experts"] == counted["total"] - without["total"] > 0
    assert without["experts"] == 0
    assert without["trained"] == plain.eoi.numel()


def test_variants_are_compared_with_their_own_layout(world, foundations, whole_runs, tmp_path):
    """Other options on both sides: other frames and time texts, the same questions."""
    root = tmp_path / "runs"
    others = [
        write_run(root / f"seed{seed}", foundations, seed, num_frames=8, time_text="none")
        for seed in range(2)
    ]
    path = tmp_path / "compare.json"
    command = [
        *("compare", "--a", *map(str, others), "--b", *map(str, whole_runs)),
        *("--data", str(world), "--foundations", str(foundations), "--clips", "3"),
        *("--cache", str(tmp_path / "cache"), "--device", "cpu", "--record", str(path)),
    ]
    assert cli.main(command) == 0
    record = read_record(path)
    assert record["settings"]["a"]["options"] == {"num_frames": 8, "time_text": "none"}
    assert record["metrics"]["a/tokens/video"]["mean"] == 8 * 18
    assert record["metrics"]["b/tokens/video"]["mean"] == 4 * 19
    assert "differ in what is frozen" not in record["note"]
    model = load(others[0], foundations).model
    probes = asking.load_probes(
        load_split(world / "test"), model, SYSTEM, tmp_path, 1, progress=False, cached=False
    )
    assert clip_tokens(model, probes) == [(144, 144)]
