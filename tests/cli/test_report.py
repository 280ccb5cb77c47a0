"""`noisyrnn report`: where the page goes, and what it does with runs that cannot be read."""

import json
from pathlib import Path

import pytest
from tests.report.conftest import column, write_run

from noisyrnn.cli import main


def runs_in(folder: Path, seeds: tuple[int, ...] = (1, 2)) -> list[Path]:
    columns = [column("clean", None, 0.9)]
    return [write_run(folder / f"noisy-seed{seed}", label="noisy", seed=seed, columns=columns) for seed in seeds]


def test_the_page_goes_to_the_folder_of_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    runs = runs_in(tmp_path / "elsewhere")
    assert main(["report", *map(str, runs)]) == 0
    assert capsys.readouterr().out == f"Report: {tmp_path / 'elsewhere' / 'report.html'}\n"
    assert list((tmp_path / "here").iterdir()) == []
    others = runs_in(tmp_path / "third", seeds=(3,))
    assert main(["report", *map(str, runs + others)]) == 2
    assert "output must be given for runs of several folders, got runs of " in capsys.readouterr().err
    assert main(["report", *map(str, runs + others), "--output", "out"]) == 0
    assert (tmp_path / "here" / "out" / "report.html").is_file()


def test_a_run_that_cannot_be_read_is_named_and_the_others_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = runs_in(tmp_path, seeds=(1, 2, 3))
    (runs[1] / "summary.json").write_text("")
    assert main(["report", *map(str, runs)]) == 1
    captured = capsys.readouterr()
    cause = f"{runs[1] / 'summary.json'} must be a JSON file, got one that breaks off or is damaged"
    assert captured.err.startswith(f"Failed: noisy-seed2: {cause}") and len(captured.err.splitlines()) == 1
    columns = json.loads((tmp_path / "comparison.json").read_text())["labels"]["noisy"]["columns"]
    assert columns[0]["seeds"] == {"1": 0.9, "3": 0.9}
    for name in ("report.html", "table.md"):
        assert "noisy-seed2 is left out" in (tmp_path / name).read_text().replace("\\", "")
    for run in runs:
        (run / "config.json").write_text("[]")
    assert main(["report", *map(str, runs)]) == 2
    assert "config.json must be a JSON file" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert "It holds runs; name them" in capsys.readouterr().err


def test_the_heading_says_what_the_runs_are(tmp_path: Path) -> None:
    runs = runs_in(tmp_path)
    other = write_run(tmp_path / "gru-seed1", label="gru", seed=1, columns=[column("clean", None, 0.9)])
    name = Path(json.loads((other / "config.json").read_text())["dataset"]["name"]).name
    for words, heading in (
        (runs, f"noisy on {name}"),
        ([*runs, other], f"2 models on {name}"),
        ([*runs, "--title", "Mine"], "Mine"),
    ):
        assert main(["report", *map(str, words)]) == 0
        assert f"<h1>{heading}</h1>" in (tmp_path / "report.html").read_text()
