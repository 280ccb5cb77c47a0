"""Compares our attacks with AutoAttack: how far they overestimate robust accuracy.

`python -m benchmarks.attacks --workers 2` trains six models on the digits (or reuses the runs in `--output`), attacks
the test sequences at the default radii with our attacks (their worst case) and with AutoAttack as implemented by the
adversarial-robustness-toolbox, and prints a table. Its settings are the published ones: APGD with two losses, 100
steps, five starts and a first step of twice the radius; DeepFool; Square with 5,000 queries. Each result is written to
the run's folder at once, and the same command resumes after an interruption. It needs the packages of
`oracles.txt` and takes an hour on two cores.
"""

import argparse
import logging
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch

from noisyrnn.data import load_dataset
from noisyrnn.files import file_digest, read_json, write_json
from noisyrnn.pipeline import EvaluateConfig, RunContext
from noisyrnn.pipeline.compare import CompareConfig
from noisyrnn.pipeline.train import train_run
from noisyrnn.robustness import build_perturbation, evaluate, worst_cases
from noisyrnn.run_folder import RunFolder
from noisyrnn.training import load

MODELS = ("noisy", "lipschitz", "antisymmetric", "cornn", "exprnn", "lstm")
LOSSES = ("cross_entropy", "difference_logits_ratio")
RADII = (("linf", 0.02), ("linf", 0.05), ("l2", 0.2), ("l2", 0.5))


class Image(torch.nn.Module):
    """Adapter from images, which the Square attack needs, to a model of sequences."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of images `(n, 1, 8, 8)`."""
        return self.model(images.reshape(len(images), -1, 1))


def trained(model: str, seed: int, output: Path) -> RunFolder:
    """Return the run of a model with its recommended settings; train it if it does not exist."""
    torch.set_num_threads(1)
    (config,) = (
        config
        for config in CompareConfig(models=[model], seeds=seed, train={"dataset": "digits"}).run_configs()
        if config.seed == seed
    )
    return train_run(config, RunContext(output=output, resume=True))


def measured(folder: RunFolder, norm: str, radius: float, sequences: int, queries: int) -> dict[str, Any]:
    """Return the result of `measure`, from the run's folder if it was computed for the same weights."""
    file = folder.path / f"attack-{norm}-{radius:g}-{sequences}-{queries}.json"
    model = file_digest(folder.model)
    if file.is_file():
        known = read_json(file)
        if known["model"] == model:
            return known
    record = {**measure(folder, norm, radius, sequences, queries), "model": model}
    write_json(file, record)
    return record


def measure(folder: RunFolder, norm: str, radius: float, sequences: int, queries: int) -> dict[str, Any]:
    """Measure the accuracy under our attack and under AutoAttack, and the seconds of each."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    sys.modules.setdefault("multiprocess", multiprocessing)  # AutoAttack imports it, though it starts no process here
    from art.attacks.evasion import AutoAttack, AutoProjectedGradientDescent, DeepFool, SquareAttack
    from art.estimators.classification import PyTorchClassifier

    data = load_dataset("digits")
    test = data.test.subset(torch.arange(min(sequences, len(data.test))))
    model = load(folder.model)
    model.layer.noise_mode = "off"  # the toolbox puts recurrent layers in training mode to differentiate them
    start = time.monotonic()
    names = {"linf": ("fgsm", "pgd_linf"), "l2": ("pgd_l2",)}[norm]
    results = [
        evaluate(
            model,
            test,
            build_perturbation(name, radius, value_range=data.value_range),
            draws=EvaluateConfig().attack_draws,
        )
        for name in names
    ]
    (ours,) = worst_cases(results)
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
    order, count = np.inf if norm == "linf" else 2, len(test)
    shared: dict[str, Any] = {"norm": order, "eps": radius, "verbose": False}
    gradient = {**shared, "eps_step": 2 * radius, "max_iter": 100, "nb_random_init": 5, "batch_size": count}
    attacks = [
        *(AutoProjectedGradientDescent(wrapped, loss_type=loss, **gradient) for loss in LOSSES),
        DeepFool(wrapped, max_iter=100, epsilon=1e-3, nb_grads=10, batch_size=count, verbose=False),
        SquareAttack(wrapped, max_iter=queries, p_init=0.8, nb_restarts=1, batch_size=count, **shared),
    ]
    auto = AutoAttack(wrapped, norm=order, eps=radius, attacks=attacks, batch_size=count)
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
    parser.add_argument(
        "--models", type=lambda text: text.split(","), default=list(MODELS), help="Models, separated by commas."
    )
    parser.add_argument("--seed", type=int, default=1, help="Seed of the trainings (default: %(default)s).")
    parser.add_argument(
        "--sequences", type=int, default=450, help="Attack only the first N test sequences (default: 450)."
    )
    parser.add_argument("--queries", type=int, default=5000, help="Queries of the Square attack (default: 5000).")
    parser.add_argument("--workers", type=int, default=1, help="Processes at the same time (default: %(default)s).")
    parser.add_argument("--output", type=Path, default=Path("runs") / "attacks", help="Folder of the runs and results.")
    given = parser.parse_args()
    parallel = joblib.Parallel(n_jobs=given.workers, verbose=5)
    folders = parallel(joblib.delayed(trained)(model, given.seed, given.output) for model in given.models)
    work = [(folder, norm, radius) for folder in folders for norm, radius in RADII]
    found = dict(
        zip(work, parallel(joblib.delayed(measured)(*one, given.sequences, given.queries) for one in work), strict=True)
    )
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
