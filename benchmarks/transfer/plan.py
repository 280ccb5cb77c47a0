"""The plan of a transfer matrix: the ways to train, the data and the measurements, and what the search chose."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noisyrnn.data import load_dataset
from noisyrnn.data.dataset import Dataset
from noisyrnn.pipeline import EvaluateConfig
from noisyrnn.training import TrainConfig

CHOSEN = Path(__file__).with_name("chosen.toml")
"""The settings that `search` chose."""

MODELS = ("noisy", "gru")
SEARCH_SEEDS = (101, 102)
BASE, TWO = "nothing", "two-layers"
"""Rows without regularisation, of one and of two layers."""
LEARNING_RATES: tuple[dict[str, Any], ...] = tuple({"learning_rate": rate} for rate in (0.001, 0.003, 0.01, 0.02))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to train.

    Args:
        title: Its name in tables.
        settings: Settings of `TrainConfig` that differ from the base.
        candidates: Further settings, of which `search` chooses one; none if there is nothing to choose.
        base: Row without regularisation that this one is compared with; it has that row's learning rate.
    """

    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    candidates: Sequence[Mapping[str, Any]] = ()
    base: str = BASE


_INPUT = {"input_noise": (0.0, 0.3), "input_noise_kind": "white_noise"}
_ADVERSARIAL = {"adversarial": "pgd_linf", "adversarial_steps": 3}
_TWO = {"num_layers": 2}

ROWS: dict[str, Row] = {
    BASE: Row(title="nothing", candidates=LEARNING_RATES),
    "hidden-0.05": Row(title="hidden noise 0.05", settings={"additive": 0.05}),
    "hidden-0.2": Row(title="hidden noise 0.2", settings={"additive": 0.2}),
    "hidden-annealed": Row(
        title="hidden noise 0.2, annealed", settings={"additive": 0.2, "noise_schedule": "annealed"}
    ),
    "input": Row(title="input noise", settings=_INPUT),
    "input-hidden": Row(title="input noise and hidden noise 0.05", settings={**_INPUT, "additive": 0.05}),
    "adversarial": Row(
        title="adversarial, PGD ℓ∞",
        settings=_ADVERSARIAL,
        candidates=tuple({"adversarial_radius": radius} for radius in (0.02, 0.05)),
    ),
    "weight-decay": Row(
        title="weight decay",
        settings={"optimizer": "adamw"},
        candidates=tuple({"weight_decay": decay} for decay in (0.01, 0.1, 0.5)),
    ),
    "ema": Row(title="EMA of the weights", candidates=tuple({"ema": decay} for decay in (0.99, 0.998))),
    TWO: Row(
        title="two layers, nothing",
        settings=_TWO,
        candidates=tuple({"learning_rate": rate} for rate in (0.003, 0.01)),
        base=TWO,
    ),
    "dropout": Row(
        title="two layers, dropout",
        settings=_TWO,
        candidates=tuple({"dropout": share} for share in (0.1, 0.3)),
        base=TWO,
    ),
}
"""The rows by key. Dropout acts between layers, so that it has two, and a row of its own to be compared with."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Data, shared settings and measurements of a matrix.

    Args:
        shared: Settings of `TrainConfig` for every model and row.
        models: Settings of each model for every row.
        two_layers: Settings of each model for the rows with two layers, where they differ.
        search_epochs: Epochs of a training in `search`; the learning rate decays after as large a part of them.
        search_white_noise: σ of the white noise on the validation data.
        search_radius: ϵ of FGSM on the validation data.
        evaluation: Perturbations of the test data.
        dynamics_sequences: Number of test sequences, the first, for margins and dynamics.
        data_dir: Folder to search for data first.
    """

    shared: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]]
    two_layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    search_epochs: int
    search_white_noise: float = 0.3
    search_radius: float = 0.05
    evaluation: EvaluateConfig
    dynamics_sequences: int = 500
    data_dir: Path | None = None

    def config(self, model: str, row: str, seed: int, *own: Mapping[str, Any]) -> TrainConfig:
        """Return the settings of one training; those of `own` come last."""
        settings = {"model": model, "seed": seed, "label": f"{model}-{row}", **self.shared, **self.models[model]}
        depth = self.two_layers.get(model, {}) if ROWS[row].base == TWO else {}
        for part in (depth, ROWS[row].settings, *own):
            settings |= part
        return TrainConfig.from_dict(settings)

    def shortened(self) -> dict[str, Any]:
        """Return the length of a training in `search`."""
        last = max(1, round(self.search_epochs * max(self.shared["decay_epochs"]) / self.shared["epochs"]))
        return {"epochs": self.search_epochs, "decay_epochs": (last,)}

    def read_data(self) -> Dataset:
        """Return the data set; its test part is read on first use."""
        return load_dataset(
            self.shared["dataset"], values_per_step=self.shared.get("values_per_step", 1), data_dir=self.data_dir
        )


SMNIST = Plan(
    shared={
        "dataset": "smnist",
        "values_per_step": 16,
        "hidden_size": 128,
        "batch_size": 128,
        "epochs": 5,
        "decay_epochs": (4,),
        "clip_norm": 1.0,
        "select": "last",
        "precision": "bf16-mixed",
    },
    models={"noisy": {"step_size": 1.0, "additive": 0.0, "multiplicative": 0.0}, "gru": {}},
    two_layers={"noisy": {"step_size": 0.1}},  # from 0.3 and 1 two layers do not learn reliably
    search_epochs=3,
    evaluation=EvaluateConfig(
        strengths={
            "white_noise": [0.3, 0.5],
            "multiplicative_noise": [0.6],
            "salt_and_pepper": [0.05, 0.1],
            "fgsm": [0.02, 0.05],
            "pgd_linf": [0.02, 0.05],
            "pgd_l2": [0.5],
        },
        draws=5,
        attack_draws=3,
        attack_sequences=500,
    ),
)
"""MNIST in 49 steps of 16 pixels, as in `docs/results/smnist-chunk16.md`."""


def toml(chosen: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the chosen settings as the text of a TOML file."""
    lines = [
        "# Written by `python -m benchmarks.transfer search`: chosen on validation data,",
        f"# means over the seeds {' and '.join(map(str, SEARCH_SEEDS))}.",
    ]
    for model, rows in chosen.items():
        for row, values in rows.items():
            lines += ["", f"[{model}.{row}]", *(f"{name} = {value!r}" for name, value in values.items())]
    return "\n".join(lines) + "\n"


def read_chosen(file: Path = CHOSEN) -> dict[str, dict[str, Any]]:
    """Return what `search` chose.

    Raises:
        ValueError: If it has not run.
    """
    if not file.is_file():
        raise ValueError(f"{file.name} must be written before a run, got no such file. Run `search` first.")
    return tomllib.loads(file.read_text(encoding="utf-8"))
