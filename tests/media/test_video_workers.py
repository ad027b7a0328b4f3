"""Reading videos in forked workers, and errors that cross the border between processes."""

import pickle
from pathlib import Path

import pytest
import torch
from numbered_clips import numbers_of, write_video

from vlmcourse.media.errors import MediaError, VideoError
from vlmcourse.media.video import probe_video, read_frames

BACKENDS = ["auto", "decord", "pyav"]


class Clips(torch.utils.data.Dataset):
    """Reads one frame of a file per item."""

    def __init__(self, paths, backend):
        self.paths, self.backend = paths, backend

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, item):
        return read_frames(self.paths[item], [item], backend=self.backend).pixels[0]


@pytest.mark.timeout(90)
@pytest.mark.parametrize("backend", BACKENDS)
def test_reading_after_a_fork(plain, backend):
    """The parent reads, forks two workers, they read, the parent reads again: nothing hangs."""
    read_frames(plain, backend=backend)
    loader = torch.utils.data.DataLoader(
        Clips([plain] * 12, backend),
        batch_size=3,
        num_workers=2,
        multiprocessing_context="fork",
        timeout=30,
    )
    for _ in range(2):
        batches = [numbers_of(batch.numpy()) for batch in loader]
        assert batches == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
        assert numbers_of(read_frames(plain, [5], backend=backend).pixels) == [5]


@pytest.mark.timeout(60)
def test_error_of_a_worker_keeps_its_kind(tmp_path):
    loader = torch.utils.data.DataLoader(
        Clips([tmp_path / "gone.mp4"] * 2, "auto"), num_workers=1, multiprocessing_context="fork"
    )
    batches = iter(loader)
    for _ in range(2):  # the worker lives on after an error
        with pytest.raises(VideoError, match=r"gone\.mp4: no such file"):
            next(batches)
    assert next(batches, None) is None


def test_error_survives_pickling():
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "is empty")))
    assert (str(error), str(error.path), error.reason) == ("a.mp4: is empty", "a.mp4", "is empty")
    alone = pickle.loads(pickle.dumps(VideoError("told by a worker")))
    assert (str(alone), alone.path) == ("told by a worker", None)
    assert isinstance(alone, MediaError)


def test_nothing_stays_open(make, tmp_path):
    """A file can be replaced at once: no reader holds it (its descriptors are closed)."""
    path = make()
    read_frames(path, [0])
    probe_video(path)
    held = [link.resolve() for link in Path("/proc/self/fd").iterdir() if link.exists()]
    assert path.resolve() not in held
    write_video(path, frames=3)
    assert probe_video(path).num_frames == 3
