"""Fixtures: videos whose every frame carries its own number."""

from collections.abc import Callable
from pathlib import Path

import pytest
from numbered_clips import write_video


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an ordinary mp4: 30 frames, 10 a second, B-frames, key frame every 12."""
    return write_video(tmp_path_factory.mktemp("plain") / "plain.mp4")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Return `make(name, **how)`, which writes a numbered video into the test's folder."""

    def maker(name: str = "clip.mp4", **how) -> Path:
        return write_video(tmp_path / name, **how)

    return maker
