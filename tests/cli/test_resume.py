"""`noisyrnn train --resume RUN`: the settings of a run, and more epochs."""

import json
from pathlib import Path

import pytest
import yaml
from tests.cli.commands import SMALL, noisyrnn

from noisyrnn.cli import main


def test_a_run_is_continued_by_its_folder(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = noisyrnn("train", "--dataset", data, *SMALL, "--additive", 0.2, "--output", tmp_path / "runs")
    run = Path(trained.stdout.strip().removeprefix("Trained: "))
    again = noisyrnn("train", "--resume", run)
    assert again.stdout == trained.stdout
    longer = noisyrnn("train", "--resume", run, "--epochs", 4)
    assert longer.returncode == 0, longer.stderr
    folder = Path(longer.stdout.strip().removeprefix("Trained: "))
    assert folder.parent == run.parent
    settings = json.loads((folder / "config.json").read_text())
    assert (settings["config"]["epochs"], settings["config"]["additive"]) == (4, 0.2)
    assert settings["continued_from"] == {"run": run.name, "epochs": 2}
    words = ("--additive", 0.2, "--epochs", 4, "--decay-epochs", "[2]", "--output", tmp_path / "all")
    whole = noisyrnn("train", "--dataset", data, *SMALL, *words)  # the decay is that of the shorter run
    assert whole.returncode == 0, whole.stderr
    same = Path(whole.stdout.strip().removeprefix("Trained: "))
    assert (same / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(run), "--epochs", "5", "--print-config"])
    printed = capsys.readouterr().out
    assert (yaml.safe_load(printed)["epochs"], yaml.safe_load(printed)["additive"]) == (5, 0.2)
    (tmp_path / "config.yaml").write_text(printed)
    with pytest.raises(SystemExit):
        main(["train", "--config", str(tmp_path / "config.yaml"), "--print-config"])
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--additive", 0.3), "additive must be 0.2, as in "),
        (("--seeds", 2), "seeds must be left out with --resume "),
        (("--epochs", 1), "epochs must be at least the 2 of "),
    ],
)
def test_other_settings_cannot_change(words: tuple[object, ...], message: str, data: Path, tmp_path: Path) -> None:
    trained = noisyrnn("train", "--dataset", data, *SMALL, "--additive", 0.2, "--output", tmp_path / "runs")
    run = Path(trained.stdout.strip().removeprefix("Trained: "))
    refused = noisyrnn("train", "--resume", run, *words)
    assert refused.returncode == 2
    assert refused.stderr.startswith(message)
