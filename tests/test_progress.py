"""What a long run shows of its progress where there is no terminal."""

import io
import sys
import types
from collections.abc import Callable

import pytest

from noisyrnn import progress
from noisyrnn.progress import ProgressBar, RunsBar, announce_epoch, listening


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


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def shown_by(bar_of: Callable[[], ProgressBar], stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    """What three units of a bar put on a stream."""
    monkeypatch.setattr(progress.sys, "stderr", stream)
    bar = bar_of()
    for _ in range(3):
        bar.advance()
    bar.close()
    return stream.getvalue()


@pytest.mark.parametrize(
    ("shown", "stream", "any_text"), [(None, io.StringIO, False), (None, Terminal, True), (True, io.StringIO, True)]
)
def test_none_shows_progress_where_somebody_watches(
    shown: bool | None, stream: type[io.StringIO], any_text: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = shown_by(lambda: ProgressBar("training", 3, shown=shown, every=0.0), stream(), monkeypatch)
    assert ("training" in text) == any_text
    assert shown_by(lambda: ProgressBar("training", 3, shown=False), stream(), monkeypatch) == ""


class Shell:
    """What IPython has in a notebook, and in a terminal without the kernel."""

    kernel = None


def test_a_notebook_gets_one_line_that_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    ipython = types.SimpleNamespace(get_ipython=Shell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    text = shown_by(lambda: ProgressBar("training", 3, shown=None, every=0.0), io.StringIO(), monkeypatch)
    lines = [line.rstrip() for line in text.split("\r")]
    assert lines[0] == ""
    assert lines[1].startswith("training: 1/3, ETA ")
    assert lines[-1] == "training: 3/3"
    assert text.count("\n") == 1
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert shown_by(lambda: ProgressBar("training", 3, shown=None, every=0.0), io.StringIO(), monkeypatch) == ""


def test_short_work_shows_nothing_where_a_delay_is_set(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    assert shown_by(lambda: ProgressBar("evaluate", 3, delay=1.0), stream, monkeypatch) == ""
    bar = ProgressBar("evaluate", 3, delay=1.0)
    clock[0] += 2
    bar.advance()
    bar.close()
    assert "evaluate" in stream.getvalue()


EPOCHS = {"a": 10, "b": 30}


def test_many_runs_share_a_bar_of_their_epochs(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    bar = RunsBar(EPOCHS, done={"a": 2, "elsewhere": 7})
    assert (bar.done, bar.total, bar.seconds_left) == (2, 40, None)
    clock[0] += 10
    bar.epoch("a", 4)
    assert capsys.readouterr().err == ""
    clock[0] += 10
    bar.epoch("b", 2)
    assert bar.seconds_left == pytest.approx(20 * 34 / 4)  # four epochs in 20 s here, 34 to do
    assert capsys.readouterr().err == "runs 0/2: epochs 6/40, ETA 170 s\n"
    clock[0] += 5
    assert bar.seconds_left == pytest.approx(165)
    bar.epoch("b", 1)  # a run that was begun again from a checkpoint
    bar.epoch("elsewhere", 50)
    assert bar.done == 6


def test_a_run_that_stopped_early_has_no_epochs_left(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    bar = RunsBar(EPOCHS)
    clock[0] += 30
    bar.epoch("b", 3)
    clock[0] += 30
    bar.end("b", epochs=5, result="noisy seed 1: validation 90.0 %")
    bar.end("b", epochs=5)
    assert (bar.done, bar.total) == (5, 15)
    assert capsys.readouterr().err.splitlines()[-1] == (
        "runs 1/2: epochs 5/15, ETA 120 s; last: noisy seed 1: validation 90.0 %"
    )
    bar.end("a")  # it failed
    assert (bar.done, bar.total, bar.seconds_left) == (5, 5, 0)


def test_the_last_result_stands_below_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", stream)
    bar = RunsBar(EPOCHS)
    bar.epoch("a", 10)
    bar.end("a", epochs=10, result="noisy seed 1: validation 90.0 %")
    bar.close()
    lines = stream.getvalue().splitlines()
    last = next(k for k in reversed(range(len(lines))) if "Last: noisy seed 1: validation 90.0 %" in lines[k])
    assert "runs 1/2" in lines[last - 1] and "10/40" in lines[last - 1]


def test_epochs_are_told_to_those_who_listen() -> None:
    heard: list[tuple[str, int]] = []
    announce_epoch("a", 1)
    with listening(lambda run, epoch: heard.append((run, epoch))):
        announce_epoch("a", 2)
    announce_epoch("a", 3)
    assert heard == [("a", 2)]
