"""`--print-config` of every command: what would be used, in a file that gives the same when it is given back."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.commands import SMALL, noisyrnn
from tests.report.conftest import column, write_run

from noisyrnn.cli import main


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The configuration of a command."""
    with pytest.raises(SystemExit) as end:
        main([*map(str, words), "--print-config"])
    assert end.value.code == 0
    return capsys.readouterr().out


COMMANDS: list[tuple[list[str], dict[str, Any]]] = [
    (["train", "--model", "lstm", "--seeds", "2"], {"model": "lstm", "seeds": 2, "learning_rate": 0.01}),
    (["compare", "--variants", "noisy:additive=0, gru"], {"variants": "noisy:additive=0, gru", "seeds": 3}),
    (["compare", "--models", "noisy,gru", "--strengths", "{fgsm: [0.1]}"], {"strengths": {"fgsm": [0.1]}}),
    (["sweep", "--model", "noisy", "--additive", "0.1", "--trials", "3"], {"additive": 0.1, "trials": 3}),
    (["analyze", "RUN", "--diagnostics", "margins"], {"diagnostics": "margins", "probes": 30}),
    (["reproduce", "ordered-mnist", "--rows", "noisy-high"], {"rows": "noisy-high", "seeds": 3}),
    (["predict", "RUN", "--data", "new.csv"], {"data": "new.csv", "weights": "kept"}),
    (["export", "RUN", "--streaming"], {"streaming": True, "format": "onnx"}),
    (["report", "RUN", "--title", "Waves"], {"title": "Waves", "runs": ["RUN"]}),
]


@pytest.mark.parametrize(("words", "content"), COMMANDS, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_a_printed_configuration_is_read_back(
    words: list[str], content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, *words)
    found = yaml.safe_load(text)
    assert {name: found.get(name) for name in content} == content
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert printed(capsys, words[0], "--config", tmp_path / "config.yaml") == text


def test_a_flag_replaces_the_setting_of_a_file_wherever_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("epochs: 7\nseed: 5\n")
    for words in (("--epochs", 3, "--config", file), (f"--config={file}", "--epochs", 3), ("--config", file)):
        found = yaml.safe_load(printed(capsys, "train", *words))
        assert (found["epochs"], found["seed"]) == (3 if "--epochs" in words else 7, 5)


def test_the_default_strengths_are_those_of_the_runs_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = [column("clean", None, 0.9)]
    images, numbers = (
        write_run(tmp_path / f"run{k}", label="rnn", seed=k, columns=columns, dataset={"value_range": value_range})
        for k, value_range in enumerate(([0.0, 255.0], None))
    )
    assert yaml.safe_load(printed(capsys, "evaluate", images))["strengths"]["white_noise"] == [25.5, 51.0, 76.5]
    assert yaml.safe_load(printed(capsys, "evaluate", numbers))["strengths"]["pgd_l2"] == [0.02, 0.05]
    assert "strengths" not in yaml.safe_load(printed(capsys, "evaluate", images, numbers))
    given = printed(capsys, "evaluate", images, "--strengths", "{fgsm: [1]}")
    assert yaml.safe_load(given)["strengths"] == {"fgsm": [1.0]}


def test_the_printed_configuration_gives_the_same_results(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = noisyrnn("train", "--dataset", data, *SMALL, "--output", tmp_path)
    run = Path(trained.stdout.strip().removeprefix("Trained: "))
    words = ("evaluate", run, "--draws", 1, "--attack-draws", 1, "--test-limit", 4)
    text = printed(capsys, *words)
    (tmp_path / "config.yaml").write_text(text)
    assert noisyrnn(*words).returncode == 0
    before = (run / "robustness.json").stat().st_mtime_ns
    assert noisyrnn("evaluate", "--config", tmp_path / "config.yaml").returncode == 0
    assert (run / "robustness.json").stat().st_mtime_ns == before  # found again
    assert json.loads((run / "robustness.json").read_text())["settings"]["test_limit"] == 4
