"""What all tests share: where the real data sets lie."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

# Set before any test runs, for the subprocesses they start too.
os.environ.setdefault("NOISYRNN_DATA", str(Path(__file__).parents[2] / "shared" / "data"))


# A shell starts a job in the background with Ctrl-C ignored, which its children inherit; some tests need it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def require_data() -> Callable[[str], Path]:
    """A function of a path inside the data folder, such as `"mnist"`: the path, or the test is skipped without it."""

    def require(relative: str) -> Path:
        path = Path(os.environ["NOISYRNN_DATA"]) / relative
        if not path.exists():
            pytest.skip(f"no {relative} in the data folder; set NOISYRNN_DATA")
        return path

    return require
