from pathlib import Path

import pytest

from vlmcourse.comparison import load
from vlmcourse.records import read_records

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ROOT / "experiments"


@pytest.fixture(scope="session")
def records():
    """All committed records."""
    return read_records(EXPERIMENTS)


@pytest.fixture(scope="session")
def comparison(records):
    """The committed comparison."""
    return load(EXPERIMENTS, records)
