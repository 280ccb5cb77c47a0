"""What all tests share: where the real data sets lie."""

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

# Set before any test runs, for the subprocesses they start too.
os.environ.setdefault("NOISYRNN_DATA", str(Path(__file__).parents[2] / "shared" / "data"))


# A shell starts a job in the background with Ctrl-C ignored, which its children inherit; some tests need it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Keep thousands of tests and all libraries out of garbage collections, which take half a second each with them."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `gpu` where there is none."""
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def require_data() -> Callable[[str], Path]:
    """A function of a path inside the data folder, such as `"mnist"`: the path, or the test is skipped without it."""

    def require(relative: str) -> Path:
        path = Path(os.environ["NOISYRNN_DATA"]) / relative
        if not path.exists():
            pytest.skip(f"no {relative} in the data folder; set NOISYRNN_DATA")
        return path

    return require


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without the figures' curves, whose drawing takes longer than the small trainings that they show."""

    def write(figure: Any, ending: str) -> bytes:
        return b'<svg width="1" height="1"></svg>' if ending == "svg" else b"%PDF-1.4"

    monkeypatch.setattr("noisyrnn.report.figures.written", write)
    monkeypatch.setattr("matplotlib.figure.Figure.draw_without_rendering", lambda figure: None)
