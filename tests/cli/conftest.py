"""A user's own data."""

from pathlib import Path

import pytest
from tests.waves import write_waves


@pytest.fixture(autouse=True)
def _undrawn(undrawn: None) -> None:
    """What figures show is tested where they are made."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_waves(tmp_path, [0, 1])
