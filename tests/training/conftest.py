"""A tiny system and a tiny world, so that each test takes seconds."""

import json

import lightning.pytorch as pl
import pytest
import torch
import yaml

from vlmcourse import systems
from vlmcourse.backbones.language_model import LlamaSizes, build_llama, grow_vocabulary
from vlmcourse.backbones.tokenizers import FastTokenizer
from vlmcourse.backbones.world_vision import WorldVisionConfig, WorldVisionEncoder
from vlmcourse.foundations.tokenizer import build_tokenizer
from vlmcourse.systems.templates import WORLD_TEMPLATE
from vlmcourse.systems.video_chatgpt import (
    VideoChatGPT,
    VideoChatGPTConfig,
    VideoChatGPTProcessor,
)
from vlmcourse.world.dataset import SplitSettings, make_split

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The folder of a split of six clips."""
    root = tmp_path_factory.mktemp("world")
    return make_split(root, "train", count=6, workers=1, progress=False).folder


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def build_tiny(tokenizer_folder):
    """`build_tiny(spatial_grid=2)`: Video-ChatGPT of hidden size 32 with random values."""

    def build(**changes):
        tokenizer = FastTokenizer(tokenizer_folder)
        base = len(tokenizer)
        config = VideoChatGPTConfig(
            **{
                "num_frames": 4,
                "num_temporal": 4,
                "spatial_grid": 2,
                "base_vocabulary": base,
                "template": WORLD_TEMPLATE,
                "answer_template": WORLD_TEMPLATE,
                "video_last": False,
                **changes,
            }
        )
        with torch.random.fork_rng():
            torch.manual_seed(11)  # frozen parts are the same whatever seed training has
            encoder = WorldVisionEncoder(WorldVisionConfig(hidden_size=32, num_heads=2))
            llama = build_llama(
                LlamaSizes(
                    vocab_size=base,
                    hidden_size=32,
                    intermediate_size=64,
                    num_layers=2,
                    num_heads=2,
                )
            )
            grow_vocabulary(llama, random_rows=1, mean_rows=2)
        processor = VideoChatGPTProcessor(tokenizer, config, encoder.num_patches)
        return VideoChatGPT(config, llama, encoder, processor)

    return build


@pytest.fixture
def tiny(monkeypatch, build_tiny):
    """The tiny system under the name "tiny"."""
    monkeypatch.setitem(
        systems.CONSTRUCTORS,
        "tiny",
        lambda preset, device, folder, **options: build_tiny(**options),
    )
    return build_tiny


@pytest.fixture(scope="session")
def silent(tmp_path_factory):
    """The folder of a split of two clips without sound."""
    root = tmp_path_factory.mktemp("silent")
    settings = SplitSettings(sound=False)
    return make_split(root, "val", 2, settings, workers=1, progress=False).folder


@pytest.fixture
def half_silent(tmp_path, world, silent):
    """A file of the captions of clips with sound and of two without."""
    entries = []
    for folder in (silent, world):
        for entry in json.loads((folder / "captions.json").read_text(encoding="utf-8")):
            entries.append({**entry, "video": str(folder / "clips" / entry["video"])})
    path = tmp_path / "half_silent.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


@pytest.fixture
def listener(monkeypatch, tiny_video_llama):
    """A tiny Video-LLaMA under the name "listener"."""
    monkeypatch.setitem(
        systems.CONSTRUCTORS,
        "listener",
        lambda preset, device, folder, **options: tiny_video_llama(**options),
    )
    return tiny_video_llama


@pytest.fixture
def picture_file(tmp_path):
    """A file of two conversations about pictures, in LLaVA's form."""
    from PIL import Image

    entries = []
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (30, 20), colour).save(tmp_path / f"{number}.png")
        turns = [("human", "what colour is the square ?\n<image>"), ("gpt", colour)]
        talk = [{"from": who, "value": text} for who, text in turns]
        entries.append({"id": str(number), "image": f"{number}.png", "conversations": talk})
    path = tmp_path / "pictures.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


class Catch(pl.Callback):
    """Keeps the model as it was and as it becomes."""

    def on_train_start(self, trainer, module):
        self.before = {k: v.clone() for k, v in module.model.state_dict().items()}

    def on_train_end(self, trainer, module):
        self.after = {k: v.clone() for k, v in module.model.state_dict().items()}


@pytest.fixture
def catch():
    """A callback that keeps the model as it was before a stage and as it is after it."""
    return Catch()


@pytest.fixture
def stage_file(tmp_path, world, tiny):
    """Write a stage file; keywords change the stage, `data` and `name` the rest."""

    def write(name="alignment", data=None, **stage):
        stage = {
            "name": name,
            "trains": ["projector.*"],
            "data": "test",
            "learning_rate": 1e-2,
            "warmup_ratio": 0.1,
            "batch_size": 9,
            "steps": 6,
            **stage,
        }
        settings = {
            "model": {"system": "tiny", "preset": "world", "stage": stage},
            "data": {
                "train": [
                    {"json": str(world / "captions.json"), "evidence": ["picture", "motion"]}
                ],
                "questions_per_video": 3,
                "cache": str(tmp_path / "cache"),
                **(data or {}),
            },
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return path

    return write


@pytest.fixture
def read_json():
    return lambda path: json.loads(path.read_text(encoding="utf-8"))
