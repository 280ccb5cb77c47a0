"""Synthetic run folders with numbers known by hand."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noisyrnn.files import FORMAT, to_json
from noisyrnn.report import figures, write_report

SEQUENCES = 20
SETTINGS = {"clean": "clean", "white_noise": "WhiteNoise(strength={})", "pgd_linf": "PGDLinf(strength={})"}
CLASSES = [str(digit) for digit in range(10)]


def column(name: str, strength: float | None, accuracy: float, *, draws: int = 5, shift: int = 0) -> dict[str, Any]:
    """A column in which the first `accuracy` of the sequences, starting at `shift`, are right in every draw."""
    right = round(accuracy * SEQUENCES)
    digits = ["0"] * SEQUENCES
    for i in range(right):
        digits[(i + shift) % SEQUENCES] = str(draws)
    return {
        "perturbation": name,
        "strength": strength,
        "settings": SETTINGS.get(name, name).format(strength),
        "accuracy": accuracy,
        "interval": [max(accuracy - 0.125, 0.0), min(accuracy + 0.0625, 1.0)],
        "draw_accuracies": [accuracy] * draws,
        "correct": "".join(digits),
        "sequences": SEQUENCES,
    }


def example(perturbation: str, strength: float | None, *, index: int, prediction: int, shade: float) -> dict[str, Any]:
    """An 8 x 8 ramp as 64 steps; `shade` is added to it."""
    inputs = [[round(step / 63 + shade, 4)] for step in range(64)]
    return {
        "perturbation": perturbation,
        "strength": strength,
        "index": index,
        "label": 3,
        "prediction": prediction,
        "confidence": 0.87,
        "inputs": inputs,
    }


def write_run(
    folder: Path,
    *,
    label: str,
    seed: int,
    columns: list[dict[str, Any]] | None = None,
    examples: list[dict[str, Any]] | None = None,
    summary: dict[str, Any] | None = None,
    epochs: int = 4,
    config: dict[str, Any] | None = None,
    dataset: dict[str, Any] | None = None,
) -> Path:
    """Write one run folder; without `columns` there is no `robustness.json`."""
    folder.mkdir(parents=True)
    settings = {"label": label, "model": "noisy", "seed": seed, "dataset": "digits", "epochs": epochs} | (config or {})
    data = {
        "name": "digits",
        "source": "A bundled set.",
        "steps": 64,
        "input_size": 1,
        "classes": 10,
        "class_names": CLASSES,
        "value_range": [0.0, 1.0],
        "image_shape": [8, 8],
        "train": 1000,
        "validation": 200,
    }
    versions = {"python": "3.11.2", "torch": "2.13", "noisyrnn": "0.1.0", "platform": "Linux", "threads": 1}
    write(folder / "config.json", {"config": settings, "dataset": data | (dataset or {}), "environment": versions})
    finished = {"status": "finished", "error": None, "parameters": 17_290, "seconds": 12.5 + seed, "epochs": epochs}
    finished |= {
        "best_epoch": epochs,
        "best_validation_accuracy": 0.95,
        "validation_sequences": 200,
        "not_fitted": None,
    }
    write(folder / "summary.json", summary or finished)
    if columns is not None:
        settings = {"evaluation_seed": 0, "draws": 5, "attack_draws": 1, "attack_sequences": 1000}
        write(
            folder / "robustness.json",
            {"settings": settings, "columns": columns, "examples": examples or []},
        )
    lines = ["epoch,train_loss,train_accuracy,validation_loss,validation_accuracy,learning_rate,seconds"]
    for epoch in range(1, epochs + 1):
        lines.append(f"{epoch},{2.0 / epoch + 0.01 * seed},0.5,1.0,{0.9 - 0.4 / epoch + 0.01 * seed},0.002,1.5")
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write(file: Path, content: dict[str, Any], *, version: int = FORMAT) -> None:
    file.write_text(to_json({"format": version} | content), encoding="utf-8")


# Accuracies of the three seeds of each label: every mean, interval and paired test below follows from these.
COLUMNS = (("clean", None), ("white_noise", 0.2), ("pgd_linf", 0.1))
ACCURACIES = {
    "noisy": ((0.9, 0.95, 1.0), (0.8, 0.85, 0.9), (0.5, 0.6, 0.7)),
    "lipschitz": ((0.9, 0.9, 1.0), (0.6, 0.65, 0.75), (0.3, 0.5, 0.4)),
    "lstm": ((0.5, 0.55, 0.5), (0.4, 0.45, 0.45), (0.6, 0.65, 0.7)),
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three models of three seeds, and a fourth of one seed that failed; only read."""
    root = tmp_path_factory.mktemp("runs")
    folders = []
    for label, accuracies in ACCURACIES.items():
        for i, seed in enumerate((1, 2, 3)):
            columns = [column(*at, values[i]) for at, values in zip(COLUMNS, accuracies, strict=True)]
            examples = [
                example(*at, index=index, prediction=3 if label == "noisy" else 8, shade=shade)
                for index in (5, 11)
                for at, shade in zip(COLUMNS, (0.0, 0.1, 0.01 * len(label)), strict=True)
            ]
            folder = root / f"{label}-{seed}"
            config = {"noise_level": 0.05 if label == "noisy" else 0.0, "model": label}
            folders.append(write_run(folder, label=label, seed=seed, columns=columns, examples=examples, config=config))
    error = "hidden state became non-finite at step 12 of 64."
    folder = root / "cornn-1"
    folders.append(write_run(folder, label="cornn", seed=1, summary={"status": "failed", "error": error}))
    return folders


@pytest.fixture(scope="session")
def written(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on `runs`, written once; only read."""
    output = tmp_path_factory.mktemp("report") / "deep" / "out"
    return write_report(runs, output, title="Four networks", command='noisyrnn compare <img src="/evil.png">')


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run folder under the test's folder."""
    number = itertools.count()

    def make(*, label: str, seed: int, **options: Any) -> Path:
        return write_run(tmp_path / "made" / f"{label}-{seed}-{next(number)}", label=label, seed=seed, **options)

    return make


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the figures out of a page whose files or texts are tested: they take most of the time."""
    for name in ("score_curves", "training_curves"):
        monkeypatch.setattr(f"noisyrnn.report.page.{name}", lambda *_, **__: None)


@pytest.fixture
def no_pdf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures without PDF and PNG, which take as long as the SVG, where only what the page shows is tested."""
    write = figures.written
    monkeypatch.setattr(figures, "written", lambda figure, ending: write(figure, ending) if ending == "svg" else b"")
