"""Devices and processes: what torchrun's environment variables must hold."""

import pytest

from noisyrnn.cli import main
from noisyrnn.pipeline.devices import make_fabric, processes

WHOLE = {
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


def set_environment(monkeypatch: pytest.MonkeyPatch, values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, dict.fromkeys(WHOLE))
    assert processes() == 1
    assert make_fabric("32-true", "cpu").world_size == 1
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert processes() == 1


def test_torchrun_gives_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, WHOLE)
    assert processes() == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be an integer of at least 1, got '0'."),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE must be an integer of at least 1, got '-2'."),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be an integer of at least 1, got 'two'."),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE must be an integer of at least 1, got ''."),
        ({"RANK": None}, "RANK must be set where WORLD_SIZE is 4, got nothing."),
        ({"MASTER_ADDR": None}, "MASTER_ADDR must be set where WORLD_SIZE is 4, got nothing."),
        ({"RANK": "4"}, "RANK must be less than WORLD_SIZE 4, got 4."),
        ({"RANK": "x"}, "RANK must be an integer of at least 0, got 'x'."),
        ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE must be an integer of at least 1, got '0'."),
        ({"LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE must divide WORLD_SIZE 4, got 3."),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK must be less than 2, got 2."),
        ({"MASTER_PORT": "http"}, "MASTER_PORT must be an integer of at least 0, got 'http'."),
    ],
)
def test_a_broken_environment_is_refused(
    changes: dict[str, str | None],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_environment(monkeypatch, WHOLE | changes)
    assert main(["train", "--dataset", "digits", "--epochs", "1"]) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert shown == [f"{message} Start the processes with torchrun, or unset WORLD_SIZE for one process."]
