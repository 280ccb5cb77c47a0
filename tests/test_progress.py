"""What a long run shows of its progress where there is no terminal."""

import pytest

from noisyrnn import progress
from noisyrnn.progress import ProgressBar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set by the test."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    return now


def shown_after(bar: ProgressBar, clock: list[float], seconds: float, units: int, capsys: pytest.CaptureFixture) -> str:
    """What a number of units, the last of them that many seconds later, puts on stderr."""
    for _ in range(units - 1):
        bar.advance()
    clock[0] += seconds
    bar.advance()
    return capsys.readouterr().err


def test_the_time_left_follows_from_the_rate_so_far(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    bar = ProgressBar("training", 40)
    assert shown_after(bar, clock, 20, 10, capsys) == "training: 10/40, ETA 60 s\n"
    assert shown_after(bar, clock, 60, 10, capsys) == "training: 20/40, ETA 80 s\n"


def test_what_was_done_before_took_no_time_of_this_process(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    bar = ProgressBar("compare", 100, done=90)
    assert shown_after(bar, clock, 30, 2, capsys) == "compare: 92/100, ETA 120 s\n"


def test_lines_come_now_and_then(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    bar = ProgressBar("training", 100, every=15)
    assert shown_after(bar, clock, 14.9, 5, capsys) == ""
    assert shown_after(bar, clock, 0.1, 1, capsys) == "training: 6/100, ETA 235 s\n"
    assert shown_after(bar, clock, 14.9, 1, capsys) == ""
    bar.close()
    quiet = ProgressBar("training", 100, shown=False)
    assert shown_after(quiet, clock, 60, 1, capsys) == ""
