"""Compares our attacks with AutoAttack: how far they overestimate robust accuracy.

`python -m benchmarks.attacks --workers 2` trains six models on the digits (or reuses the runs in `--output`), attacks
the test sequences at the default radii with our attacks (their worst case) and with AutoAttack as implemented by the
adversarial-robustness-toolbox, and prints a table. `--runs` takes trained runs instead, and `--attacks strong` our
strong attacks. The settings of AutoAttack are the published ones: APGD with two losses, 100 steps, five starts and a
first step of twice the radius; DeepFool; Square with 5,000 queries; `--parts` leaves some of them out. Each result is
written to the run's folder at once, and the same command resumes after an interruption. It needs the packages of
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

from noisyrnn.files import content_digest, file_digest, read_json, write_json
from noisyrnn.pipeline import EvaluateConfig, RunContext
from noisyrnn.pipeline.compare import CompareConfig
from noisyrnn.pipeline.dependencies import run_config
from noisyrnn.pipeline.evaluate import load_noise_free
from noisyrnn.pipeline.train import train_run
from noisyrnn.robustness import build_perturbation, evaluate, seeds_test, strong_attacks, worst_cases
from noisyrnn.run_folder import RunFolder

MODELS = ("noisy", "lipschitz", "antisymmetric", "cornn", "exprnn", "lstm")
LOSSES = ("cross_entropy", "difference_logits_ratio")
RADII = "linf:0.02,linf:0.05,l2:0.2,l2:0.5"
PARTS = "apgd,deepfool,square"


class Image(torch.nn.Module):
    """Adapter from images, which the Square attack needs, to a model of sequences `(steps, channels)`."""

    def __init__(self, model: torch.nn.Module, steps: int, channels: int) -> None:
        super().__init__()
        self.model, self.steps, self.channels = model, steps, channels

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of images `(n, 1, side, side)`."""
        return self.model(images.reshape(len(images), self.steps, self.channels))


def trained(model: str, seed: int, output: Path) -> RunFolder:
    """Return the run of a model with its recommended settings; train it if it does not exist."""
    torch.set_num_threads(1)
    (config,) = (
        config
        for config in CompareConfig(models=[model], seeds=seed, train={"dataset": "digits"}).run_configs()
        if config.seed == seed
    )
    return train_run(config, RunContext(output=output, resume=True))


def measured(folder: RunFolder, norm: str, radius: float, options: dict[str, Any]) -> dict[str, Any]:
    """Return the result of `measure`, from the run's folder if it was computed for the same weights and options."""
    key = {"norm": norm, "radius": radius, **options, "model": file_digest(folder.model)}
    file = folder.path / f"attack-{norm}-{radius:g}-{content_digest(key)[:8]}.json"
    if not file.is_file():
        write_json(file, {**measure(folder, norm, radius, **options), **key})
    return read_json(file)


def measure(
    folder: RunFolder, norm: str, radius: float, *, attacks: str, sequences: int, queries: int, parts: list[str]
) -> dict[str, Any]:
    """Return which sequences are correct under our attacks and under AutoAttack, and the seconds of each."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    sys.modules.setdefault("multiprocess", multiprocessing)  # AutoAttack imports it, though it starts no process here
    from art.attacks.evasion import AutoAttack, AutoProjectedGradientDescent, DeepFool, SquareAttack
    from art.estimators.classification import PyTorchClassifier

    data = RunContext().read_data(run_config(folder))
    test = data.test.subset(torch.arange(min(sequences, len(data.test))))
    model = load_noise_free(folder, "cpu")  # the toolbox puts recurrent layers in training mode to differentiate them
    start = time.monotonic()
    names = {"linf": ("fgsm", "pgd_linf"), "l2": ("pgd_l2",)}[norm]
    if attacks == "strong":
        names = tuple(strong_attacks({f"pgd_{norm}": [radius]}))
    perturbations = [build_perturbation(name, radius, value_range=data.value_range) for name in names]
    starts = EvaluateConfig().attack_draws
    results = [evaluate(model, test, one, draws=1 if one.gradient_free else starts) for one in perturbations]
    (ours,) = worst_cases(results)
    middle = time.monotonic()
    side = round((test.inputs.shape[1] * test.inputs.shape[2]) ** 0.5)
    wrapped = PyTorchClassifier(
        Image(model, *test.inputs.shape[1:]).eval(),
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=(1, side, side),
        nb_classes=10,
        device_type="cpu",
        clip_values=(-9.0, 10.0),  # far outside of the data: ours are not cut to [0, 1] by default either
    )
    images = test.inputs.reshape(-1, 1, side, side).numpy()
    order, count = np.inf if norm == "linf" else 2, len(test)
    shared: dict[str, Any] = {"norm": order, "eps": radius, "verbose": False}
    gradient = {**shared, "eps_step": 2 * radius, "max_iter": 100, "nb_random_init": 5, "batch_size": count}
    theirs: list[Any] = []
    if "apgd" in parts:
        theirs += [AutoProjectedGradientDescent(wrapped, loss_type=loss, **gradient) for loss in LOSSES]
    if "deepfool" in parts:
        theirs += [DeepFool(wrapped, max_iter=100, epsilon=1e-3, nb_grads=10, batch_size=count, verbose=False)]
    if "square" in parts:
        theirs += [SquareAttack(wrapped, max_iter=queries, p_init=0.8, nb_restarts=1, batch_size=count, **shared)]
    auto = AutoAttack(wrapped, norm=order, eps=radius, attacks=theirs, batch_size=count)
    np.random.seed(0)  # noqa: NPY002 - the toolbox draws from it
    found = torch.from_numpy(auto.generate(images, test.labels.numpy())).reshape(test.inputs.shape)
    offset = (found - test.inputs).flatten(1)
    size = offset.abs().amax(1) if norm == "linf" else offset.norm(dim=1)
    assert float(size.max()) <= radius * (1 + 1e-4), f"AutoAttack left the ball: {float(size.max())} > {radius}"
    with torch.no_grad():
        right = (model(found).argmax(1) == test.labels).int().tolist()
    return {
        "ours": list(ours.correct),
        "theirs": right,
        "by_attack": {result.perturbation: result.accuracy for result in results},
        "seconds": (middle - start, time.monotonic() - middle),
    }


def cell(result: dict[str, Any]) -> str:
    """Return both robust accuracies in %, and the difference in points with its interval over sequences."""
    test = seeds_test([result["ours"]], [result["theirs"]])
    ours, theirs = (100 * sum(result[name]) / len(result[name]) for name in ("ours", "theirs"))
    low, difference, high = (100 * value for value in (test.low, test.difference, test.high))
    return f"{ours:.1f} / {theirs:.1f} ({difference:+.1f} [{low:+.1f}, {high:+.1f}])"


def main() -> None:
    """Train, attack, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)

    def words(text: str) -> list[str]:
        return text.split(",")

    parser.add_argument("--models", type=words, default=list(MODELS), help="Models, separated by commas.")
    parser.add_argument("--runs", type=Path, nargs="+", help="Attack these trained runs instead of training models.")
    parser.add_argument("--seed", type=int, default=1, help="Seed of the trainings (default: %(default)s).")
    parser.add_argument("--attacks", choices=("standard", "strong"), default="standard", help="Our attacks.")
    parser.add_argument("--radii", type=words, default=words(RADII), help="Radii (default: %(default)s).")
    parser.add_argument("--parts", type=words, default=words(PARTS), help="Parts of AutoAttack (default: %(default)s).")
    parser.add_argument(
        "--sequences", type=int, default=450, help="Attack only the first N test sequences (default: 450)."
    )
    parser.add_argument("--queries", type=int, default=5000, help="Queries of AutoAttack's Square (default: 5000).")
    parser.add_argument("--workers", type=int, default=1, help="Processes at the same time (default: %(default)s).")
    parser.add_argument("--output", type=Path, default=Path("runs") / "attacks", help="Folder of the trained runs.")
    given = parser.parse_args()
    parallel = joblib.Parallel(n_jobs=given.workers, verbose=5)
    folders = [RunFolder.open(run) for run in given.runs or ()]
    folders = folders or parallel(joblib.delayed(trained)(model, given.seed, given.output) for model in given.models)
    radii = [(norm, float(radius)) for norm, radius in (entry.split(":") for entry in given.radii)]
    options = {name: getattr(given, name) for name in ("attacks", "sequences", "queries", "parts")}
    work = [(folder, norm, radius) for norm, radius in radii for folder in folders]
    found = dict(zip(work, parallel(joblib.delayed(measured)(*one, options) for one in work), strict=True))
    titles = [f"{'ℓ∞' if norm == 'linf' else 'ℓ2'} {radius:g}" for norm, radius in radii]
    print("| run | " + " | ".join(titles) + " | seconds |\n|---|" + "---:|" * (len(titles) + 1))
    for folder in folders:
        rows = [found[folder, norm, radius] for norm, radius in radii]
        config = run_config(folder)
        ours, theirs = (sum(row["seconds"][k] for row in rows) for k in (0, 1))
        cells = " | ".join(map(cell, rows))
        print(f"| {config.dataset} {config.model} | {cells} | {ours:.0f} / {theirs:.0f} |")
    print("\nOurs / AutoAttack (difference in points, with its 95 % interval over test sequences).")
    print(f"{min(options['sequences'], len(next(iter(found.values()))['ours']))} test sequences of each run.")


if __name__ == "__main__":
    main()
