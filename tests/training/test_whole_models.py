"""Stages that train encoders and language models: what moves, is kept, and survives a kill."""

import csv

import lightning.pytorch as pl
import pytest
import torch

from vlmcourse import systems
from vlmcourse.parts.lora import add_lora
from vlmcourse.trained import load_trained_system
from vlmcourse.training import clip_memory
from vlmcourse.training.clip_memory import ClipMemory, size_of
from vlmcourse.training.runner import run_stage
from vlmcourse.training.settings import StageSettings
from vlmcourse.training.weights import read_stage

QUIET = {"progress": False, "device": "cpu"}
EVERYTHING = ["vision_encoder.*", "projector.*", "language_model.*"]


class StopAfter(pl.Callback):
    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.steps:
            raise RuntimeError("pulled the plug")


@pytest.fixture
def whole(stage_file, tmp_path):
    """The file of a stage that trains all there is, on whole frames."""

    def write(name="alignment", **changes):
        settings = {
            "trains": EVERYTHING,
            "rate_factors": {"vision_encoder.*": 0.1},
            "learning_rate": 1e-3,
            "steps": 3,
            "warmup_ratio": 0.0,
            "data": {"cache": None},
        }
        return stage_file(name, **{**settings, **changes})

    return write


@pytest.fixture
def lora(monkeypatch, build_tiny):
    """The tiny system with low-rank side paths and much dropout in them, under the name "tiny"."""

    def build(preset="world", device="cpu", folder=None, **options):
        model = build_tiny(**options)
        add_lora(model.language_model, rank=4, alpha=8, dropout=0.3)
        return model

    monkeypatch.setitem(systems.CONSTRUCTORS, "tiny", build)
    return build


def logits_of(model, world):
    """What a model says of a clip."""
    from vlmcourse.conversation import ask
    from vlmcourse.systems.batch import collate

    watched = model.eval().watch(sorted((world / "clips").glob("*.mp4"))[0])
    row = model.processor.row(ask("what is shown ?", "red circle"), watched.clip)
    with torch.no_grad():
        return model.logits(collate([row], model.processor.tokenizer.pad_id, watched.pictures))


def test_everything_that_is_named_moves_and_is_kept(whole, tmp_path, world, catch):
    done = run_stage(whole(), tmp_path / "out", callbacks=[catch], **QUIET)
    moved = {k for k in catch.before if not torch.equal(catch.before[k], catch.after[k])}
    kept = set(read_stage(done.folder).tensors)
    fixed = {k for k in catch.before if "running_" in k or "num_batches" in k}
    assert len(fixed) > 10  # the encoder has norms over the batch
    assert not moved & fixed
    assert kept == set(catch.before) - fixed - {"token_rows.weight"}
    assert len(moved) > 0.9 * len(kept)
    assert {"vision_encoder.stem.0.1.weight", "vision_encoder.position"} <= moved
    loaded = load_trained_system("tiny", done.folder).model
    state = loaded.state_dict()
    assert all(torch.equal(state[name], catch.after[name]) for name in state)


def test_what_is_loaded_answers_as_what_was_trained(whole, tmp_path, world):
    """Also the parts that are no parameters: statistics of norms."""
    kept = {}

    class Look(pl.Callback):
        def on_train_end(self, trainer, module):
            kept["logits"] = logits_of(module.model, world)
            module.train()

    done = run_stage(whole(learning_rate=1e-2), tmp_path / "out", callbacks=[Look()], **QUIET)
    loaded = load_trained_system("tiny", done.folder).model
    assert torch.equal(logits_of(loaded, world), kept["logits"])


def test_norms_keep_their_statistics_and_dropout_drops(whole, lora):
    module, _ = StageSettings([f"--config={whole()}"]).model_and_data()
    for _ in range(2):
        norms = [m for m in module.modules() if hasattr(m, "running_mean")]
        assert norms
        assert not any(m.training for m in norms)
        assert module.model.vision_encoder.layer.training
        attention = module.model.language_model.model.layers[0].self_attn
        assert attention.q_proj.lora_dropout["default"].training
        module.eval()
        assert not attention.q_proj.lora_dropout["default"].training
        module.train()


@pytest.mark.parametrize("trains", [EVERYTHING, ["projector.*", "language_model.*lora_*"]])
def test_a_killed_run_of_a_whole_model_resumes_to_the_same_bits(
    whole, tmp_path, lora, trains, world
):
    config = whole(trains=trains, rate_factors={}, steps=4, data={"cache": None, "accumulate": 2})
    once = run_stage(config, tmp_path / "once", **QUIET)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        run_stage(config, tmp_path / "k", checkpoint_every=2, callbacks=[StopAfter(3)], **QUIET)
    resumed = run_stage(config, tmp_path / "k", **QUIET)
    assert resumed.weights.read_bytes() == once.weights.read_bytes()
    logits = [
        logits_of(load_trained_system("tiny", x.folder).model, world) for x in (once, resumed)
    ]
    assert torch.equal(*logits)


def test_side_paths_are_kept_by_the_names_of_peft(whole, tmp_path, lora, catch):
    config = whole(trains=["language_model.*lora_*"], rate_factors={})
    done = run_stage(config, tmp_path / "out", callbacks=[catch], **QUIET)
    names = set(read_stage(done.folder).tensors)
    prefix = "language_model.model.layers.0.self_attn.q_proj"
    assert {f"{prefix}.lora_A.default.weight", f"{prefix}.lora_B.default.weight"} <= names
    assert len(names) == 2 * 2 * 2  # layers, projections, halves
    moved = {k for k in catch.before if not torch.equal(catch.before[k], catch.after[k])}
    assert moved <= names
    assert {name for name in names if "lora_B" in name} <= moved
    loaded = load_trained_system("tiny", done.folder).model.state_dict()
    assert all(torch.equal(loaded[name], catch.after[name]) for name in names)


def test_fresh_side_paths_begin_as_nothing(whole, lora):
    module, _ = StageSettings([f"--config={whole()}", "--model.fresh=true"]).model_and_data()
    parts = dict(module.model.language_model.named_parameters())
    low, high = ([p for n, p in parts.items() if f"lora_{x}" in n] for x in "AB")
    assert all(p.any() for p in low)
    assert not any(p.any() for p in high)


def test_a_training_encoder_learns_at_its_own_rate(whole, tmp_path, catch):
    """A first step of Adam moves every value by about its rate."""
    run_stage(whole(steps=1), tmp_path / "out", callbacks=[catch], **QUIET)

    def far(name):
        return (catch.after[name] - catch.before[name]).abs().max().item()

    assert far("projector.weight") == pytest.approx(1e-3, rel=1e-2)
    assert far("vision_encoder.stem.0.0.weight") == pytest.approx(1e-4, rel=1e-2)


def test_the_record_tells_what_equal_compute_is_judged_by(whole, tmp_path, build_tiny):
    told = run_stage(whole(steps=2), tmp_path / "out", **QUIET).metrics
    with open(tmp_path / "out" / "alignment" / "metrics.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert told["gflop_per_step"]["mean"] > 0
    assert told["gflop_per_step"]["n"] == min(16, told["steps"]["mean"])
    for name in ("positions", "frames", "patches"):
        assert told[name]["mean"] == sum(int(row[name]) for row in rows)
    assert told["frames"]["mean"] == 2 * 3 * 4  # steps, videos a step, frames a video
    assert told["patches"]["mean"] == told["frames"]["mean"] * 64
    trained = sum(
        p.numel()
        for n, p in build_tiny().named_parameters()
        if n.startswith(("vision", "proj", "lang"))
    )
    assert told["parameters_trained"]["mean"] == trained
    assert told["parameters_frozen"]["mean"] == 2 * 32
    file_mib = (tmp_path / "out" / "alignment" / "weights.safetensors").stat().st_size / 2**20
    assert told["weights_mib"]["mean"] == pytest.approx(file_mib, rel=0.05)


def test_positions_are_real_ones_and_shared_ones_count_once(stage_file, tmp_path):
    module, data = StageSettings([f"--config={stage_file(steps=1)}"]).model_and_data()
    data.prepare(module.model, "tiny", 9, 0, progress=False)
    batch = data.batch(0)
    done = run_stage(stage_file(steps=1), tmp_path / "out", **QUIET)
    assert done.metrics["positions"]["mean"] == int((batch.segments >= 0).sum()) < batch.ids.numel()


# ---------------------------------------------------------------- clips in memory


@pytest.fixture
def count_reads(monkeypatch):
    from vlmcourse.systems.video_chatgpt import VideoChatGPTProcessor

    reads, read = [], VideoChatGPTProcessor.read
    monkeypatch.setattr(
        VideoChatGPTProcessor, "read", lambda self, path: reads.append(path) or read(self, path)
    )
    return reads


def test_a_clip_is_decoded_once_and_the_losses_are_those_without_memory(
    whole, tmp_path, count_reads
):
    done = run_stage(whole(steps=4), tmp_path / "out", **QUIET)
    assert len(count_reads) == len(set(count_reads)) == 6
    forgets = whole(steps=4, data={"cache": None, "memory_mib": 0})
    plain = run_stage(forgets, tmp_path / "plain", **QUIET)
    assert len(count_reads) >= 6 + 4 * 3
    assert done.weights.read_bytes() == plain.weights.read_bytes()
    assert read_stage(done.folder).settings_hash == read_stage(plain.folder).settings_hash


def test_memory_forgets_what_was_asked_longest_ago(build_tiny, world, monkeypatch):
    read = build_tiny().processor.read
    files, asked = sorted((world / "clips").glob("*.mp4"))[:3], []
    size = size_of(read(files[0]))
    assert size > 4 * 64 * 64 * 3
    monkeypatch.setattr(clip_memory, "MIB", size)

    def look(index):
        memory.get(files[index], lambda path: asked.append(index) or read(path))

    memory = ClipMemory(2)
    for index in (0, 1, 0, 2, 0, 1):
        look(index)
    assert asked == [0, 1, 2, 1]
    assert len(memory) == 2
    assert memory.taken == 2 * size
    memory = ClipMemory(0.5)  # too small for any
    look(0)
    look(0)
    assert asked[-2:] == [0, 0]
    assert (len(memory), memory.taken) == (0, 0)


def test_a_chance_in_reading_is_never_remembered(listener, world):
    from vlmcourse.training.data import VideoInstructionData
    from vlmcourse.training.sources import Source

    model = listener()
    assert model.processor.draws
    data = VideoInstructionData([Source(world / "captions.json", limit=1)], cache=None)
    data.prepare(model, "listener", 1, 0, progress=False)
    one, other = (data.media(data.parts[0].samples[0].video, draw).pictures for draw in (1, 2))
    assert not torch.equal(one.inputs, other.inputs)
    assert len(data._memory) == 0
