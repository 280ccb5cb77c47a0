"""Flags, configuration files, help, and one sentence for bad input."""

import json
import os
import sys
import warnings
from pathlib import Path

import pytest
from tests.cli.commands import in_a_process
from tests.forked import Forked, command

from noisyrnn.cli import COMMANDS, main
from noisyrnn.cli.flags import CommandParser


def test_config_file_and_flags(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"dataset: {data}\nhidden_size: 4\nepochs: 1\nbatch_size: 16\nadditive: 0.3\noutput: {tmp_path}\n")
    assert main(["train", "--config", str(file), "--additive", "0.4", "--model", "gru"]) == 0
    run = Path(capsys.readouterr().out.strip().removeprefix("Trained: "))
    config = json.loads((run / "config.json").read_text())["config"]
    assert (config["hidden_size"], config["additive"], config["model"]) == (4, 0.4, "gru")


def test_every_command_takes_a_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text(f"data_dir: {tmp_path}\n")
    assert main(["doctor", "--config", str(tmp_path / "c.yaml")]) == 0
    assert f"Data folders: {tmp_path}" in capsys.readouterr().out
    (tmp_path / "r.yaml").write_text("title: From a file\nruns: [nowhere]\n")
    assert main(["report", "--config", str(tmp_path / "r.yaml")]) == 2
    assert "run must be a folder that holds a config.json, got nowhere." in capsys.readouterr().err


def test_flags_may_have_underscores(data: Path, tmp_path: Path) -> None:
    words = ["train", "--dataset", str(data), "--hidden_size=4", "--epochs=1", "--batch_size", "16"]
    assert main([*words, "--output", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train", "--model", "lipshitz"], "model must be one of antisymmetric, cornn, exprnn, gru, lipschitz"),
        (["train", "--model", "lipshitz"], "got 'lipshitz'. Did you mean 'lipschitz'?"),
        (["train", "--epoch", "3"], "Did you mean --epochs?"),
        (["train", "--epochs", "abc"], "--epochs must be a whole number, got abc.\n"),
        (["train", "--decay-epochs", "15"], "--decay-epochs must be a list such as [5, 8], got 15.\n"),
        (["train", "--clip-norm", "x"], "--clip-norm must be a number, got x.\n"),
        (
            ["compare", "--models", "noisy", "--strengths", "{white_noise:[0.3]}"],
            "with a space after each colon, got {w",
        ),
        (
            ["train", "--dataset", "-lead.csv"],
            "--dataset must have a value, got none. Write --dataset=VALUE for a value that begins with -.\n",
        ),
        (["train", "--epochs", "many"], "epochs"),
        (["train", "--precision", "16"], "precision must be one of 32-true, 64-true, bf16-mixed, got '16'."),
        (["train", "--penalty", "explict"], "got 'explict'. Did you mean 'explicit'?"),
        (["train", "--logger", "tensorbord"], "got 'tensorbord'. Did you mean 'tensorboard'?"),
        (["compare", "--models", "gru", "--logger", "x"], "logger must be one of csv, mlflow, tensorboard, got 'x'."),
        (["sweep", "--trials", "0"], "trials must be at least 1, got 0."),
        (["sweep", "--space", "{additiv: [0.1, 0.2]}"], "Did you mean 'additive'?"),
        (["sweep", "--model", "gru", "--stiffness", "1"], "option of model 'gru' must be one of"),
        (["train", "--seeds", "0"], "seeds must be at least 1, got 0."),
        (["train", "--additive", "-1"], "additive must be at least 0, got -1."),
        (["train", "--activation", "rellu"], "got 'rellu'. Did you mean 'relu'?"),
        (["train", "--diffusion", "[[0.1], [a]]"], "diffusion must be a matrix of numbers, got [[0.1], ['a']]"),
        (["train", "--hidden-size", "2", "--diffusion", "[[0.1]]"], "diffusion must have 2 rows, one for each unit"),
        (["train", "--scheme", "heun"], "scheme must be one of euler-maruyama, milstein, stochastic-heun, got 'heun'."),
        (["train", "--model", "rate", "--tau", "1"], "tau and step_size must be given together, got 1.0 and None."),
        (["train", "--dataset", "digitz"], "Did you mean 'digits'?"),
        (["train", "--experiment", "smnist-noisy"], "experiment must be one of"),
        (["reproduce", "ordered-mnits"], "Did you mean 'ordered-mnist'?"),
        (["reproduce", "ordered-mnist", "--rows", "noisy-high, lipshitz"], "Did you mean 'lipschitz'?"),
        (["reproduce"], "table"),
        (["analyze", "nowhere"], "run must be a folder that holds a config.json, got nowhere."),
        (["analyze", "nowhere", "--diagnostics", "curvatur"], "run must be a folder"),
        (["evaluate", "nowhere"], "run must be a folder that holds a config.json, got nowhere."),
        (["compare", "--models", "noisy", "--strengths", "{white_noise: 0.1}"], "strengths must be a list of numbers"),
        (["compare", "--models", "noisy", "--strengths", "{white_noise: [-1]}"], "must be at least 0, got -1"),
        (
            ["compare", "--models", "noisy", "--data-dir", "nowhere"],
            "data_dir must be an existing folder, got ",
        ),
        (
            ["trian"],
            "command must be one of analyze, compare, doctor, evaluate, export, list, predict, report, reproduce, "
            "sweep, train, got 'trian'. Did you mean 'train'?",
        ),
    ],
)
def test_bad_input_gets_one_sentence_and_exit_code_2(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_runs_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "waves-noisy-seed1-0").mkdir()
    (tmp_path / "waves-noisy-seed1-0" / "config.json").write_text("{}")
    assert main(["evaluate", str(tmp_path)]) == 2
    assert f"got {tmp_path}. It holds runs; name them: {tmp_path}/*-seed*" in capsys.readouterr().err


def test_a_warning_is_a_note_without_a_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warn(words: object) -> int:
        warnings.warn("it may take long", UserWarning, stacklevel=1)
        warnings.warn("soon gone", FutureWarning, stacklevel=1)
        return 0

    monkeypatch.setattr("noisyrnn.cli.info.list_command", warn)
    before = warnings.showwarning
    assert main(["list"]) == 0
    assert capsys.readouterr().err == "Note: it may take long\nNote: FutureWarning: soon gone\n"
    assert warnings.showwarning is before


def test_no_traceback_reaches_the_user(tmp_path: Path) -> None:
    process = Forked(tmp_path, command, ["train", "--damping", "-2"])
    assert process.communicate() == ("", "damping must be at least 0, got -2.\n")
    assert process.returncode == 2


@pytest.mark.slow
def test_the_package_can_be_run() -> None:
    done = in_a_process("train", "--damping", "-2")
    assert (done.returncode, done.stderr) == (2, "damping must be at least 0, got -2.\n")


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NOISYRNN_DEBUG", "1")
    assert main(["train", "--damping", "-2"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_command_and_gives_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"usage: noisyrnn {command}" in shown
    assert f"Example: noisyrnn {command}" in shown


def test_usage_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    assert main([]) == 2
    assert main(["--version"]) == 0


def encode_without_greek_letters() -> None:
    """Make the output a pipe of a Western European encoding."""
    sys.stdout = os.fdopen(1, "w", encoding="cp1252")


def test_a_pipe_without_greek_letters_is_no_error(tmp_path: Path) -> None:
    process = Forked(tmp_path, command, ["list"], encode_without_greek_letters)
    shown, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "white_noise" in shown


def test_a_flag_has_one_type_in_all_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: dict[str, set[str]] = {}

    def note(parser: CommandParser, *_: object, **__: object) -> None:
        for action in parser._actions:
            kind = str(getattr(action, "_typehint", action.type)).replace("<class '", "").replace("'>", "")
            for flag in action.option_strings:
                kinds.setdefault(flag, set()).add(kind.removesuffix(" | None"))
        raise KeyboardInterrupt  # the flags are known; nothing is to run

    monkeypatch.setattr(CommandParser, "parse_args", note)
    for name in COMMANDS:
        assert main([name]) == 130
    assert {"--attack-sequences", "--max-attack-radius", "--strengths"} <= kinds.keys()
    assert {flag: found for flag, found in kinds.items() if len(found) > 1} == {}


def test_a_percent_sign_in_help_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert '"%d/%m/%Y %H:%M:%S"' in " ".join(capsys.readouterr().out.split())


def test_the_help_of_an_option_that_models_have_for_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    own = "noisy, lipschitz: Initial step d of every unit, above 0. antisymmetric: δ, above 0. rate: Length of one step"
    assert own in text
    assert "cornn: Δt, above 0. Default of noisy, antisymmetric: 0.01; of lipschitz: 0.03; of cornn: 0.042." in text
    assert '"rate" or "current". Default of rate: rate.' in text and "Default of rate: outside." in text
    assert "of one step, at least 0. Default: 0.0; of noisy, rate: 0.05." in text
    assert "None." not in text  # a default of none is left out
