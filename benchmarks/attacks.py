"""Attacks as shipped next to AutoAttack: how far robust accuracy is overestimated.

`python -m benchmarks.attacks --workers 2` trains six models on the digits (or reuses the runs in `--output`), attacks
the first test sequences at the default radii with our attacks and with AutoAttack as implemented by the
adversarial-robustness-toolbox (APGD with two losses, five starts of 100 steps each; DeepFool; Square with 5,000
queries; step size twice the radius, as published), and prints a table. It needs the packages of `oracles.txt`.
"""

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch

from noisyrnn.data import load_dataset
from noisyrnn.pipeline import EvaluateConfig
from noisyrnn.pipeline.compare import CompareConfig
from noisyrnn.pipeline.train import train_run
from noisyrnn.robustness import build_perturbation, evaluate
from noisyrnn.run_folder import RunFolder
from noisyrnn.training import load

MODELS = ("noisy", "lipschitz", "antisymmetric", "cornn", "exprnn", "lstm")
RADII = (("linf", 0.02), ("linf", 0.05), ("l2", 0.2), ("l2", 0.5))


class Image(torch.nn.Module):
    """A model of sequences behind the interface of images, which the Square attack needs."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of images `(n, 1, 8, 8)`."""
        return self.model(images.reshape(len(images), -1, 1))


def trained(model: str, seed: int, output: Path) -> RunFolder:
    """The run of one model with its recommended settings, trained where it is not there yet."""
    torch.set_num_threads(1)
    (config,) = (
        config
        for config in CompareConfig(models=[model], seeds=seed, train={"dataset": "digits"}).run_configs()
        if config.seed == seed
    )
    return train_run(config, output=output, resume=True)


def measure(folder: RunFolder, norm: str, radius: float, sequences: int) -> dict[str, Any]:
    """Accuracy under our attack and under AutoAttack, with the seconds each took."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    from art.attacks.evasion import AutoAttack
    from art.estimators.classification import PyTorchClassifier

    data = load_dataset("digits")
    test = data.test.subset(torch.arange(min(sequences, len(data.test))))
    model = load(folder.model)
    model.layer.noise = "off"  # the toolbox puts recurrent layers in training mode to differentiate them
    start = time.monotonic()
    attack = build_perturbation(f"pgd_{norm}", radius, value_range=data.value_range)
    ours = evaluate(model, test, attack, draws=EvaluateConfig().attack_draws)
    middle = time.monotonic()
    wrapped = PyTorchClassifier(
        Image(model).eval(),
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=(1, 8, 8),
        nb_classes=10,
        device_type="cpu",
        clip_values=(-9.0, 10.0),  # far outside of the data: ours are not cut to [0, 1] by default either
    )
    images = test.inputs.reshape(-1, 1, 8, 8).numpy()
    auto = AutoAttack(
        wrapped, norm=np.inf if norm == "linf" else 2, eps=radius, eps_step=2 * radius, batch_size=len(test)
    )
    np.random.seed(0)  # noqa: NPY002 - the toolbox draws from it
    found = torch.from_numpy(auto.generate(images, test.labels.numpy())).reshape(test.inputs.shape)
    offset = (found - test.inputs).flatten(1)
    size = offset.abs().amax(1) if norm == "linf" else offset.norm(dim=1)
    assert float(size.max()) <= radius * (1 + 1e-4), f"AutoAttack left the ball: {float(size.max())} > {radius}"
    with torch.no_grad():
        theirs = float((model(found).argmax(1) == test.labels).double().mean())
    return {"ours": ours.accuracy, "theirs": theirs, "seconds": (middle - start, time.monotonic() - middle)}


def main() -> None:
    """Train, attack, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(MODELS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sequences", type=int, default=450, help="attack the first N test sequences (default: all)")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs") / "attacks")
    given = parser.parse_args()
    parallel = joblib.Parallel(n_jobs=given.workers, verbose=5)
    folders = parallel(joblib.delayed(trained)(model, given.seed, given.output) for model in given.models)
    work = [(folder, norm, radius) for folder in folders for norm, radius in RADII]
    found = dict(zip(work, parallel(joblib.delayed(measure)(*one, given.sequences) for one in work), strict=True))
    titles = [f"{'ℓ∞' if norm == 'linf' else 'ℓ2'} {radius:g}" for norm, radius in RADII]
    print("| model | " + " | ".join(titles) + " | seconds |\n|---|" + "---:|" * (len(titles) + 1))
    for model, folder in zip(given.models, folders, strict=True):
        rows = [found[folder, norm, radius] for norm, radius in RADII]
        cells = [
            f"{100 * row['ours']:.1f} / {100 * row['theirs']:.1f} ({100 * (row['ours'] - row['theirs']):+.1f})"
            for row in rows
        ]
        ours, theirs = (sum(row["seconds"][k] for row in rows) for k in (0, 1))
        print(f"| {model} | " + " | ".join(cells) + f" | {ours:.0f} / {theirs:.0f} |")
    print("\nOurs / AutoAttack (difference in points).")


if __name__ == "__main__":
    main()
