"""A world of eight clips and three tiny runs that know its test clips by heart, or nearly."""

import pytest
import torch
from tiny_trained import learn_by_heart, write_foundations, write_stage

from vlmcourse.world.dataset import load_split, make_split

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A root with the splits train (10 clips) and test (8 clips)."""
    root = tmp_path_factory.mktemp("world")
    make_split(root, "train", count=10, workers=1, progress=False)
    make_split(root, "test", count=8, workers=1, progress=False)
    return root


@pytest.fixture(scope="session")
def foundations(tmp_path_factory, world):
    return write_foundations(tmp_path_factory.mktemp("foundations"))


@pytest.fixture(scope="session")
def runs(tmp_path_factory, world, foundations):
    """Folders of three runs; the first knows four of the eight clips best."""
    split = load_split(world / "test")
    model = learn_by_heart(foundations, split.clips[:4], split.questions[:4])
    root = tmp_path_factory.mktemp("runs")
    return [write_stage(root / f"seed{seed}", model, seed) for seed in range(3)]
